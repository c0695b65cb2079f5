import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from supernet import families, spaces
from supernet.families import layerwise
from supernet.families.base import peak
from supernet.model import Network
from supernet.modules import Head, InvertedBottleneck, MaxPool, Shuffle, Stem, Xception
from supernet.norm import PooledStatistics
from supernet.spec import LayerSpec

CHOICES = [
    LayerSpec(InvertedBottleneck, 8, 12, 9, 2, 5, 3, "relu6"),
    LayerSpec(InvertedBottleneck, 12, 12, 9, 1, 3, 1, "relu6"),
    LayerSpec(InvertedBottleneck, 12, 12, 9, 1, 7, 6, "hard_swish", squeeze_excite=True),
    LayerSpec(Shuffle, 12, 12, 8, 1, 7),
    LayerSpec(Shuffle, 12, 20, 8, 2, 5),
    LayerSpec(Xception, 12, 20, 8, 2, 3),
    LayerSpec(Xception, 20, 20, 8, 1, 3),
    LayerSpec(Head, 20, 32, 7, act="relu", classes=10, bias=True),
    LayerSpec(Stem, 3, 8, 15, 2),
]


@pytest.mark.parametrize("spec", CHOICES, ids=lambda spec: spec.key)
def test_counts_equal_those_of_the_module(spec):
    module = spec.build(kernels="eager").eval()
    assert spec.params == sum(p.numel() for p in module.parameters())
    x = torch.randn(1, *spec.input_shape)
    with FlopCounterMode(display=False) as counter:
        y = module(x)
    assert spec.flops * 2 == counter.get_total_flops()  # PyTorch counts a multiply-add as two
    assert y.shape[1] == (spec.classes or spec.out_channels)
    if not spec.classes:
        assert y.shape[2:] == spec.out_size


@pytest.mark.parametrize("name", ["shufflenet", "mobile", "mobile-large", "mobile-v3"])
def test_network_parameters_equal_lower(name):
    space = spaces.get(name, 3, 224, 1000)
    arch = space.sample(np.random.default_rng(1))
    network = Network(space, arch, kernels="eager")
    assert sum(p.numel() for p in network.parameters()) == families.params(space, arch)


def test_mobilenet_v2_has_its_published_counts():
    """torchvision's MobileNetV2 is all k3_e6 on other channels; build it from our layers."""
    torchvision = pytest.importorskip("torchvision")
    plan = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    specs = [LayerSpec(Stem, 3, 32, 224, 2, act="relu6")]
    for expand, out, repeats, stride in plan:
        for r in range(repeats):
            last = specs[-1]
            specs.append(
                LayerSpec(
                    InvertedBottleneck,
                    last.out_channels,
                    out,
                    last.out_size,
                    stride if r == 0 else 1,
                    3,
                    expand,
                    "relu6",
                )
            )
    specs.append(LayerSpec(Head, 320, 1280, specs[-1].out_size, act="relu6", classes=1000, bias=True))
    reference = torchvision.models.mobilenet_v2()
    assert sum(s.params for s in specs) == sum(p.numel() for p in reference.parameters())
    with FlopCounterMode(display=False) as counter:
        reference.eval()(torch.zeros(1, 3, 224, 224))
    assert 2 * sum(s.flops for s in specs) == counter.get_total_flops()


def test_identity_runs_nothing_and_is_not_lowered():
    space = spaces.get("mobile-small", 1, 28, 10)
    arch = tuple(0 for _ in space.genes)
    names = [choice.name for choice in space.decode(arch)]
    assert len(families.lower(space, arch)) == 2 + sum(name != "identity" for name in names)
    assert "identity" in names


def test_keys_name_layers_uniquely():
    layers = families.layout(layerwise.mobile("v3"))
    specs = {spec for choices in layers.choices for spec in choices if spec.runs}
    assert len({spec.key for spec in specs}) == len(specs)


def test_shuffle_splits_even_and_odd_channels():
    block = LayerSpec(Shuffle, 8, 8, 5, 1, 3).build(kernels="eager").eval()
    x = torch.randn(2, 8, 5, 5)
    y = block(x)
    assert torch.equal(y[:, :4], x[:, 0::2])
    changed = x.clone()
    changed[:, 0::2] = 7.0  # the main branch does not see the even channels
    assert torch.equal(block(changed)[:, 4:], y[:, 4:])


def test_skip_iff_the_shape_is_kept():
    for spec, skip in (
        (CHOICES[0], False),
        (CHOICES[1], True),
        (LayerSpec(InvertedBottleneck, 8, 12, 9, 1, 3, 3), False),
    ):
        block = spec.build(kernels="eager").eval()
        nn.init.zeros_(block.separable.pointwise.conv.weight)
        x = torch.randn(1, spec.in_channels, 9, 9)
        assert torch.equal(block(x), x) is skip


def test_pooled_statistics_equal_two_passes():
    torch.manual_seed(0)
    chunks = [torch.randn(n, 3, dtype=torch.double) * 2 + 100 * i for i, n in enumerate((5, 1, 40, 7))]
    pool = PooledStatistics(3, torch.device("cpu"))
    for chunk in chunks:
        pool.add(len(chunk), chunk.mean(0), chunk.var(0, unbiased=False))
    together = torch.cat(chunks)
    torch.testing.assert_close(pool.mean, together.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(pool.var, together.var(0), rtol=1e-12, atol=0)


def test_peak_activations():
    """By hand: MobileNetV2's peak is the depthwise of its second block, 96 channels from 112² to 56²."""
    space = spaces.get("mobile", 3, 224, 1000)
    arch = tuple(
        next(i for i, c in enumerate(g.choices) if (c.kernel, c.expand) == ((3, 1) if n == 0 else (3, 6)))
        for n, g in enumerate(space.genes)
    )
    most = max(spec.activations for spec in families.lower(space, arch))
    assert most == 96 * (112**2 + 56**2)
    table, base, _ = families.layout(space).priced(lambda spec: spec.activations if spec.runs else 0, peak)
    assert max(base, *(row[i] for row, i in zip(table, arch, strict=True))) == most
    # A skip keeps the input beside a depthwise convolution on 6 times as many channels.
    assert LayerSpec(InvertedBottleneck, 8, 8, 10, kernel=3, expand=6).activations == (48 + 48 + 8) * 100
    assert LayerSpec(InvertedBottleneck, 8, 12, 10, 2, kernel=3, expand=6).activations == 48 * 100 + 48 * 25
    assert LayerSpec(MaxPool, 8, 8, 10, kernel=3).activations == 2 * 8 * 100
    # Shuffle at stride 1: half of 16 channels passes; 8 → 8 channels in each convolution.
    assert LayerSpec(Shuffle, 16, 16, 10, kernel=3).activations == (8 + 8 + 8) * 100
