"""Norms of vectors and of mean squares: parts against the same network written narrower by hand."""

import pytest
import torch
from test_given_heads import made
from timm.layers import RmsNorm
from timm.models.levit import Levit
from torch import nn

from supernet.families.given import family, verify
from supernet.families.given.layout import layout_of
from supernet.model import Supernet, batch_norms
from supernet.norm import BatchNorm1d
from supernet.training.bn import recalibrate_bn

PARTS = (32, 64)  # widths of a part and of the whole


class Vectors(nn.Module):
    """Layers of vectors behind a convolution, as in heads of some networks."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.before = nn.Conv2d(3, 16, 3, 2), nn.BatchNorm1d(16)
        self.one, self.norm, self.head = nn.Linear(16, width, bias=False), nn.BatchNorm1d(width), nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.norm(self.one(self.before(self.stem(x).mean((2, 3))))).relu())


class Rows(Vectors):
    """Rows of vectors, and the rows among the images as LeViT has them."""

    def forward(self, x):
        x = self.before(self.stem(x).flatten(2)).transpose(1, 2)
        x = self.one(x)
        return self.head(self.norm(x.flatten(0, 1)).reshape_as(x).relu().mean(1))


class Stream(nn.Module):
    """A stream of vectors to which a block adds."""

    def __init__(self, width, norm):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 8, 8), norm(width)
        self.mlp, self.last, self.head = nn.Sequential(nn.Linear(width, 48), nn.Linear(48, width)), norm(width), None
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.mlp(self.norm(x))
        return self.head(self.last(x).mean(1))


def vectors(width=PARTS[1]):
    return Vectors(width)


def rows(width=PARTS[1]):
    return Rows(width)


def torchs(width=PARTS[1]):
    return Stream(width, nn.RMSNorm)


def timms(width=PARTS[1]):
    return Stream(width, RmsNorm)


def layer_norms(width=PARTS[1]):
    return Stream(width, nn.LayerNorm)


class Images(nn.Module):
    """A norm of images: of all their channels together, or of each one's plane or rows."""

    def __init__(self, width, norm):
        super().__init__()
        self.stem, self.norm, self.second = nn.Conv2d(3, width, 4, 4), norm, nn.Conv2d(width, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.second(self.norm(self.stem(x))).relu().mean((2, 3)))


def whole_images(width=PARTS[1]):
    return Images(width, nn.LayerNorm([width, 8, 8]))


def planes(width=PARTS[1]):
    return Images(width, nn.LayerNorm([8, 8]))


def rows_of_planes(width=PARTS[1]):
    return Images(width, nn.RMSNorm(8, elementwise_affine=False))


def as_many_columns(width=32):
    """As many as channels."""
    network = Images(width, nn.LayerNorm(32))
    network.stem = nn.Conv2d(3, width, 1)
    return network


def without_weights(width=PARTS[1]):
    return Stream(width, lambda n: nn.RMSNorm(n, elementwise_affine=False))


CUT = {vectors: "width one", rows: "width one", torchs: "width stem", timms: "width stem", layer_norms: "width stem"}
CUT |= dict.fromkeys((whole_images, planes, rows_of_planes), "width stem")


def enlivened(make):
    """A space, its supernet in eval mode and the network, both of the same weights."""
    space = made(make)
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    network = layout_of(space).network.new()
    verify.enliven(network, torch.randn(8, 3, 32, 32))
    family.load(supernet.shared, network.state_dict())
    return space, supernet, network


@pytest.mark.parametrize("make", CUT, ids=lambda make: make.__name__)
def test_the_largest_is_the_network_and_a_part_one_of_that_width(make):
    """Mean squares, means and variances of a part are those of the channels that it has."""
    space, supernet, network = enlivened(make)
    assert verify.difference(space) < 1e-12
    small, x = make(PARTS[0]).eval(), torch.randn(4, 3, 32, 32)
    whole = network.state_dict()
    small.load_state_dict(
        {n: whole[n][tuple(slice(0, size) for size in value.shape)] for n, value in small.state_dict().items()}
    )
    names = [gene.name for gene in space.genes]
    arch = list(space.whole)
    place = names.index(CUT[make])
    arch[place] = [choice.count for choice in space.genes[place].choices].index(PARTS[0])
    part = supernet.extract(tuple(arch))
    with torch.no_grad():
        torch.testing.assert_close(part(x), small(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part.plain()(x), small(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(supernet(x, tuple(arch)), small(x), rtol=1e-4, atol=1e-5)


def test_a_norm_without_weights_leaves_the_rest_to_choose():
    space = made(without_weights)
    assert [gene.name for gene in space.genes] == ["width mlp.0"]
    assert "norm is a RMSNorm, which has no rule" in layout_of(space).network.whole["stem"]
    assert verify.difference(space) < 1e-12


def test_columns_are_no_channels():
    space = made(as_many_columns)
    assert [gene.name for gene in space.genes] == ["width stem", "width second"]
    assert verify.difference(space) < 1e-12


@pytest.mark.parametrize("make", [vectors, rows])
def test_statistics_of_vectors_are_taken_anew(make):
    """Of a part: mean and variance of all that its norms got, computed at once."""
    space, supernet, _ = enlivened(make)
    arch = tuple(open_[0] for open_ in space.allowed)
    got = []
    norms = [norm for norm in batch_norms(supernet.path(arch)) if isinstance(norm, BatchNorm1d)]
    assert len(norms) == 2
    alone = supernet.extract(arch)
    for module in alone.modules():
        if isinstance(module, BatchNorm1d):
            module.register_forward_hook(lambda module, args, out: got.append((module, args[0])))
    images = [torch.randn(6, 3, 32, 32) for _ in range(3)]
    recalibrate_bn(alone, images)
    for module in {module for module, _ in got}:
        values = torch.cat([x.transpose(0, 1).flatten(1) for of, x in got if of is module], 1)
        torch.testing.assert_close(module.running_mean, values.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module.running_var, values.var(1), rtol=1e-4, atol=1e-5)
    recalibrate_bn(supernet, images, arch)
    with torch.no_grad():
        torch.testing.assert_close(supernet(images[0], arch), alone(images[0]), rtol=1e-4, atol=1e-5)


def levit():
    options = {"img_size": 32, "num_classes": 10, "embed_dim": (64, 96), "key_dim": 16, "depth": (1, 1)}
    return Levit(**options, num_heads=(2, 3))


def test_the_streams_of_levit_have_genes():
    space = made(levit)
    names = [gene.name for gene in space.genes]
    assert {"width stem.conv4.linear", "width stages.1.downsample.attn_downsample.proj.ln.linear"} <= {*names}
    assert verify.difference(space) < 1e-12
