"""What a traced network keeps of the code that it is traced from: what is changed in place, sizes that are computed."""

import pytest
import torch
from conftest import refused
from timm.models import register_notrace_function
from torch import nn

from supernet import families, spaces
from supernet.families.given import family, trace, verify, weights
from supernet.families.given.layout import layout_of
from supernet.families.given.modules import ours
from supernet.model import Supernet
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


class Halves(Small):
    """Slices up to a number that is computed."""

    def between(self, x):
        c = x.shape[1] // 2
        return torch.cat([x[:, c:], x[..., :c, :, :]], 1)


class Narrowed(Small):
    def between(self, x):
        c = x.size(1) // 2
        return torch.cat([x.narrow(dim=1, start=c, length=c), torch.narrow(x, 1, -32, length=c)], 1)


class Pieces(Small):
    """As YOLO's blocks go through what a layer gives."""

    def __init__(self, classes):
        super().__init__(classes)
        self.third = nn.Conv2d(16, 16, 1)

    def between(self, x):
        pieces = list(x.chunk(2, 1))
        pieces.extend(self.third(piece) for piece in pieces[-1:])
        return torch.cat([pieces[2], pieces[0]], 1)


class Unlike(Small):
    """What becomes of the halves is not the same, though no weights tell them apart."""

    def between(self, x):
        one, other = x.chunk(2, 1)
        return torch.cat([other.relu(), one], 1)


class Keywords(Small):
    """Arguments by their names, and by numpy's."""

    def between(self, x):
        y = torch.reshape(input=x, shape=(-1, 32, 256)).view(size=x.shape)
        y = y - y.mean(axis=(2, 3), keepdim=True)
        return torch.concatenate(torch.chunk(input=y, chunks=2, dim=1), axis=1)


class CheckedChannels(Small):
    def between(self, x):
        torch._assert(x.shape[1] == 32, "channels")
        return x


class OfEachImage(Small):
    """A convolution whose weights are those of no other image: the images are its groups."""

    def between(self, x):
        b, c, h, w = x.shape
        weight = x.mean((2, 3)).reshape(b * c, 1, 1, 1)
        return nn.functional.conv2d(x.reshape(1, b * c, h, w), weight, groups=b * c).reshape(b, c, h, w)


class Zeros(Small):
    """A tensor of a size that is computed."""

    def between(self, x):
        return x + torch.zeros(x.shape)


class Padded(Small):
    def between(self, x):
        return nn.functional.pad(x, (0, 0, 0, 0, 1, 1))[:, 1:-1]


class Reflecting(Small):
    """A depthwise convolution that is padded by what it gets."""

    def __init__(self, classes):
        super().__init__(classes)
        self.depthwise = nn.Conv2d(32, 32, 5, padding=2, padding_mode="reflect", groups=32)

    def between(self, x):
        return x + self.depthwise(x)


class Shifted(Small):
    """It computes with a buffer alone, before it adds that to the images."""

    def __init__(self, classes):
        super().__init__(classes)
        self.register_buffer("shift", torch.zeros(3))

    def forward(self, x):
        return super().forward(x + self.shift[:, None, None])


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


PERMUTED = [Halves, Narrowed, Keywords]


@pytest.mark.parametrize(
    "network",
    [InPlace, ComputedShape, OneOfSome, CheckedLast, CheckedChannels, *PERMUTED],
    ids=lambda cls: cls.__name__,
)
def test_the_network_is_what_its_code_does(network):
    space = space_of(network)
    assert verify.difference(space) < 1e-12
    assert [gene.name for gene in space.genes] == ["width first", "width second"]


def test_code_may_go_through_the_pieces_of_a_chunk():
    space = space_of(Pieces)
    assert verify.difference(space) < 1e-12
    assert {gene.name for gene in space.genes} >= {"width first", "width third"}


def test_channels_of_unlike_halves_stay_in_theirs():
    space = space_of(Unlike)
    assert verify.difference(space) < 1e-12
    assert sorted(len(group.labels) for gene in layout_of(space).network.genes for group in gene.groups) == [16, 16, 32]


def loaded(network):
    """A network, its space, and the supernet with its weights."""
    torch.manual_seed(0)
    space, model = space_of(network), network(10).eval()
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    family.load(supernet.shared, model.state_dict())
    return model, space, supernet


@pytest.mark.parametrize("network", PERMUTED)
def test_a_part_is_the_network_without_the_channels_that_are_left_out(network):
    model, space, supernet = loaded(network)
    arch, x = (1, len(space.genes[1].choices) - 1), torch.randn(2, 3, 16, 16)
    assert space.genes[0].choices[1].count == 16
    with torch.no_grad():
        for parameter in model.first.parameters():
            parameter[16:] = 0
        torch.testing.assert_close(supernet(x, arch), model(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(supernet.extract(arch).plain()(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_kernel_is_padded_by_what_it_gets_as_far_as_it_reaches():
    model, space, supernet = loaded(Reflecting)
    arch = tuple(0 if gene.name == "kernel depthwise" else len(gene.choices) - 1 for gene in space.genes)
    ring, x = torch.ones(5, 5, dtype=torch.bool), torch.randn(2, 3, 16, 16)
    ring[1:-1, 1:-1] = False
    with torch.no_grad():
        model.depthwise.weight[..., ring] = 0
        torch.testing.assert_close(supernet(x, arch), model(x), rtol=1e-4, atol=1e-5)


def test_a_buffer_of_a_file_is_no_constant(tmp_path):
    model, space, supernet = loaded(Shifted)
    x, network = torch.randn(2, 3, 16, 16), layout_of(space).network
    model.shift += torch.tensor([1.0, 2.0, 3.0])
    weights.save(tmp_path / "w.safetensors", model.state_dict())
    family.load(supernet.shared, weights.read(network, str(tmp_path / "w.safetensors")).state)
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, space.whole), model(x), rtol=1e-4, atol=1e-5)
    weights.save(tmp_path / "w.safetensors", Small(10).state_dict())
    assert "has no shift" in refused(weights.read, network, str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (OfEachImage, "reshape moves them among the images"),
        (Zeros, "add combines them with what cannot be cut"),
        (Padded, "pad changes the number of channels"),
    ],
)
def test_what_keeps_channels_whole(network, reason):
    space = space_of(network)
    assert verify.difference(space) < 1e-12
    assert layout_of(space).network.whole["first"] == reason


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
