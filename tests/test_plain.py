"""The plain space: published parameter counts, the layers in words, fused against eager."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from supernet import families
from supernet.families import sep_conv
from supernet.model import Network, Supernet
from supernet.modules import PoolHead
from supernet.space import Space
from supernet.spec import LayerSpec
from supernet.training.bn import recalibrate_bn

TINY = {0: 1, 2: 1}, {13: 5, 17: 5}  # CIFAR-10, tiny: Conv at 0 and 2, kernel 5 at 13 and 17


@pytest.mark.parametrize(
    ("width", "depth", "ops", "kernels", "published"),
    [(64, 10, {}, {}, 309_450), (46, 26, {}, {}, 413_826), (46, 26, *TINY, 466_312), (43, 26, *TINY, 409_714)],
)
def test_published_parameter_counts(width, depth, ops, kernels, published):
    space = sep_conv.space(depth, width, 3, 32, 10)
    arch = sep_conv.arch([ops.get(i, 0) for i in range(depth)], [kernels.get(i, 3) for i in range(depth)])
    assert families.params(space, arch) == published
    network = Network(space, arch, kernels="eager")
    assert sum(p.numel() for p in network.parameters()) == published


SPECS = [
    LayerSpec(sep_conv.PlainStem, 3, 8, 15),
    LayerSpec(sep_conv.Sep, 8, 8, 9, 1, 3),
    LayerSpec(sep_conv.Sep, 8, 16, 9, 2, 5),
    LayerSpec(sep_conv.PlainConv, 8, 16, 9, 2, 3),
    LayerSpec(sep_conv.PlainConv, 8, 8, 9, 1, 5),
    LayerSpec(PoolHead, 16, 16, 7, classes=10, bias=True),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
def test_counts_equal_those_of_the_module(spec):
    module = spec.build(kernels="eager").eval()
    assert spec.params == sum(p.numel() for p in module.parameters())
    x = torch.randn(1, *spec.input_shape)
    with FlopCounterMode(display=False) as counter:
        y = module(x)
    assert 2 * spec.flops == counter.get_total_flops()
    if not spec.classes:
        assert y.shape == (1, spec.out_channels, *spec.out_size)


def test_latency_keys_tell_the_layers_apart():
    specs = [spec for choices in families.layout(sep_conv.space(6, 4, 1, 8, 10)).choices for spec in choices]
    described = {dataclasses.replace(spec) for spec in specs}
    assert len({spec.key for spec in specs}) == len(described)


def random_network(kernels: str, seed: int = 0) -> Network:
    space = sep_conv.space(7, 4, 1, 13, 10)
    arch = space.sample(np.random.default_rng(seed))
    torch.manual_seed(seed)
    network = Network(space, arch, kernels=kernels)
    recalibrate_bn(network, [torch.randn(16, 1, 13, 13)])
    return network


def in_words(network: Network, x: torch.Tensor) -> torch.Tensor:
    """The paper's network written out: stem, BN; ReLU, convolutions, BN for each layer; pool; linear."""

    def bn(y, m):
        return F.batch_norm(y, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps)

    stem, *layers, head = network.path()
    x = bn(F.conv2d(x, stem.conv.weight, padding=1), stem.bn)
    for i, (layer, choice) in enumerate(zip(layers, network.space.decode(network.arch), strict=True)):
        stride = 2 if i in (2, 4) else 1  # 7 // 3 and 14 // 3
        x = x.clamp(min=0)
        if choice.op == "sep":
            weight = layer.depthwise.weight
            x = F.conv2d(x, weight, stride=stride, padding=choice.kernel // 2, groups=len(weight))
            x = F.conv2d(x, layer.pointwise.weight)
        else:
            x = F.conv2d(x, layer.conv.weight, stride=stride, padding=choice.kernel // 2)
        x = bn(x, layer.bn)
    return x.mean((2, 3)) @ head.classifier.weight.T + head.classifier.bias


@pytest.mark.parametrize("kernels", ["eager", "fused"])
@pytest.mark.parametrize("seed", range(3))
def test_the_network_is_the_papers(kernels, seed):
    network = random_network(kernels, seed).eval()
    x = torch.randn(5, 1, 13, 13)
    with torch.no_grad():
        torch.testing.assert_close(network(x), in_words(network, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_fused_training_equals_eager(seed):
    fused, eager = random_network("fused", seed), random_network("eager", seed)
    eager.load_state_dict(fused.state_dict())
    x, y = torch.randn(8, 1, 13, 13), torch.arange(8)
    for network in (fused, eager):
        nn.functional.cross_entropy(network.train()(x), y).backward()
    for (name, a), b in zip(fused.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)
    for (name, a), b in zip(fused.named_buffers(), eager.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_it_is_a_space_like_the_others():
    """JSON, a supernet, its extraction."""
    space = sep_conv.space(5, 2, 3, 8, 4)
    assert Space.from_json(space.to_json()) == space
    arch = sep_conv.arch([0, 1, 0, 1, 0], [3, 3, 5, 5, 3])
    assert [c.name for c in space.decode(arch)] == ["sep_k3", "conv_k3", "sep_k5", "conv_k5", "sep_k3"]
    supernet = Supernet(space, affine=True).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, arch), supernet.extract(arch)(x), rtol=1e-4, atol=1e-5)
