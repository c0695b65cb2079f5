"""What a traced network keeps of the code that it is traced from: what is changed in place, sizes that are computed."""

import pytest
import torch
from conftest import refused
from timm.models import register_notrace_function
from torch import nn

from supernet import families, spaces
from supernet.families.given import trace, verify
from supernet.families.given.layout import layout_of
from supernet.families.given.modules import ours
from supernet.size import Size

IMAGES = (3, Size.of(16), 10)


class Small(nn.Module):
    """Two convolutions, with something between them, and a head."""

    def __init__(self, classes, width=32):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 32, 1)
        self.scale, self.head = nn.Parameter(torch.rand(4)), nn.Linear(32, classes)

    def between(self, x):
        return x

    def forward(self, x):
        return self.head(self.second(self.between(self.first(x))).relu().mean((2, 3)))


class InPlace(Small):
    """The results of what works in place are not used."""

    def between(self, x):
        x.mul_(2.0)
        torch.relu_(x)
        nn.functional.hardswish(x, inplace=True)
        return x + x.add_(1.0)


class ComputedShape(Small):
    def between(self, x):
        return x.flatten(2).reshape(x.shape)


class AmongImages(Small):
    """Heads of attention that count as images."""

    def between(self, x):
        heads = x.reshape(x.shape[0] * 4, 8, 16, 16)
        return heads.softmax(1).reshape(-1, 32, 16, 16)


class OneOfSome(Small):
    """A number from a vector of parameters."""

    def between(self, x):
        return x * self.scale.softmax(0)[1]


class CheckedLast(Small):
    """A layer that ends with a check of a size, as timm has them."""

    def between(self, x):
        torch._assert(x.shape[2] == 16, "size")
        return x


@register_notrace_function
def fitted(x, size):
    """Asks for the size of its images, which nothing is known of while they are traced."""
    return x if x.shape[2] == size else nn.functional.interpolate(x, size)


class Untraced(Small):
    """A function that timm is told not to trace is found where the network is."""

    def between(self, x):
        return x + 0 * fitted(x, 16).mean()


class Functional(Small):
    """Weights that functions multiply with."""

    def __init__(self, classes):
        super().__init__(classes)
        self.filters, self.weight = nn.Parameter(torch.rand(32, 32, 3, 1)), nn.Parameter(torch.rand(16, 16))

    def between(self, x):
        return nn.functional.linear(nn.functional.conv2d(x, self.filters, padding=(1, 0)), self.weight)


def space_of(network):
    return spaces.get(f"{__file__}:{network.__name__}", *IMAGES)


@pytest.mark.parametrize("network", [InPlace, ComputedShape, OneOfSome, CheckedLast])
def test_the_network_is_what_its_code_does(network):
    space = space_of(network)
    assert verify.difference(space) < 1e-12
    assert [gene.name for gene in space.genes] == ["width first", "width second"]


def test_channels_among_the_images_stay_whole():
    space = space_of(AmongImages)
    assert verify.difference(space) < 1e-12
    assert "among the images" in layout_of(space).network.whole["first"]


def test_functions_that_are_not_traced():
    space = space_of(Untraced)
    assert verify.difference(space) < 1e-12
    assert "fitted has no rule" in layout_of(space).network.whole["first"]


def test_multiply_adds_of_functions():
    """By hand: 16×16 pixels."""
    space = space_of(Functional)
    modules = 256 * (3 * 9 * 32 + 32 * 32) + 32 * 10
    assert families.flops(space, layout_of(space).whole) == modules + 256 * 32 * (32 * 3 + 16)
    assert verify.difference(space) < 1e-12


def test_what_is_traced_names_its_line_where_it_does_not_run():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return self.conv(x).view(-1, 7)

    message = refused(trace.trace, Wide(), 3, Size.of(8), "mine")
    assert "mine does not run on 3×8² images: test_given_trace.py, line" in message
    assert "(return self.conv(x).view(-1, 7)): " in message


class Activated(Small):
    """An activation between the convolutions, by a name of its own."""

    def __init__(self, act, name="act", factor=1.0, **more):
        super().__init__(10)
        self.add_module(name, act)
        self.name, self.factor = name, factor
        for key, value in more.items():
            setattr(self.second, key, value)

    def between(self, x):
        return self.get_submodule(self.name)(x) * self.factor


def digest(network):
    return trace.digest(trace.trace(network, *IMAGES[:2], "mine"))


def test_the_digest_is_of_what_is_computed():
    """Neither of weights, nor of names that no weights go by, nor of whose class does it."""
    found = digest(Activated(nn.SiLU()))
    assert found == digest(Activated(nn.SiLU(), "other")) == digest(ours(Activated(nn.SiLU())))
    others = [
        Activated(nn.ReLU()),
        Activated(nn.SiLU(), factor=0.5),
        Activated(nn.SiLU(), padding=(1, 1)),
        Activated(nn.BatchNorm2d(32)),
        Activated(nn.BatchNorm2d(32, eps=1e-3)),
        Activated(nn.BatchNorm2d(32), "other"),
        Activated(nn.Sequential(nn.SiLU(), nn.SiLU())),
    ]
    assert len({found, *map(digest, others)}) == 1 + len(others)
