"""Spaces of stages: counts, slicing, and costs that depend on two genes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from search.costs import AdditiveCost
from supernet import families, spaces
from supernet.errors import UserError
from supernet.families import residual
from supernet.model import Network, Supernet
from supernet.space import Choice, Space
from supernet.training.bn import recalibrate_bn


def small(depth=3, width=8, step=2, **image) -> Space:
    options = {"channels": 2, "resolution": 9, "classes": 5, **image}
    return residual.residual(**options, name="tiny-residual", depth=depth, width=width, step=step)


def sample(space, n, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(n)]


def test_the_paper_s_space_has_its_size_and_reaches_its_largest_regime():
    """Supplementary A: (16 · 512)^3 networks; Table 1 goes up to 32 GF on 32² images."""
    space = spaces.get("residual", 3, 32, 10)
    assert space.size == (16 * 512) ** 3
    assert 32e9 < families.flops(space, residual.Stages(space).largest()) < 100e9


def test_counts_equal_those_of_the_network():
    space = small(resolution=11)
    for arch in sample(space, 4):
        network = Network(space, arch, kernels="eager").eval()
        assert families.params(space, arch) == sum(p.numel() for p in network.parameters())
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 2, 11, 11))
        assert 2 * families.flops(space, arch) == counter.get_total_flops()


def test_a_stage_has_the_depth_and_width_of_its_genes():
    space = spaces.get("residual-small", 1, 28, 10)
    choices = (2, 5, 0, 15, 3, 0)  # depths 3, 1, 4; widths 12, 32, 2
    convs = [m for m in Network(space, choices, kernels="eager").modules() if isinstance(m, torch.nn.Conv2d)]
    widths = [m.out_channels for m in convs if m.kernel_size == (3, 3)]
    assert widths == [16] + [12] * 6 + [32] * 2 + [2] * 8
    assert space.describe(choices) == "depth3 width12 depth1 width32 depth4 width2"


def test_costs_by_genes_equal_the_sum_over_layers_and_bounds_equal_enumeration():
    space = small()
    for pruned in (space, space.restrict([{1, 2}, {0, 3}, {0}, {1, 2}, {0, 1, 2}, {3}])):
        specs = families.layout(pruned)
        for price in (lambda spec: spec.flops, lambda spec: float(np.cos(spec.params))):  # monotone, and not
            cost = AdditiveCost(*specs.priced(price))
            archs = pruned.enumerate()
            expected = [sum(map(price, specs.pick(arch))) for arch in archs]
            np.testing.assert_allclose([cost(arch) for arch in archs], expected, rtol=1e-12)
            values = [cost(arch) for arch in archs]
            assert cost.bounds(pruned) == pytest.approx((min(values), max(values)), rel=1e-12)


def test_every_layer_of_every_architecture_is_in_the_latency_table():
    space = small().restrict([{0, 2}, {1, 3}, {1}, {0, 2}, {0, 1}, {1, 2}])
    every = {spec.key for spec in families.layout(space).every()}
    used = {spec.key for arch in space.enumerate() for spec in families.lower(space, arch)}
    assert used <= every
    assert {key for key in every if "residual_first" in key} <= used


@pytest.mark.parametrize("kernels", ["eager", "fused"])
def test_a_slice_equals_convolutions_with_the_first_channels(kernels):
    """One narrow block against its formula in plain functions, with the batch's statistics."""
    space = small()
    block = Supernet(space, affine=True, kernels=kernels).layers[1][0].train()
    for bn in (block.first.bn, block.second.bn, block.shortcut.bn):
        torch.nn.init.uniform_(bn.weight, 0.5, 2)
        torch.nn.init.uniform_(bn.bias, -1, 1)
    x, w = torch.randn(5, 4, 9, 9), 6

    def conv_bn(layer, x, stride, padding):
        y = F.conv2d(x, layer.conv.weight[:w, : x.shape[1]], stride=stride, padding=padding)
        return F.batch_norm(y, None, None, layer.bn.weight[:w], layer.bn.bias[:w], True)

    h = conv_bn(block.first, x, 2, 1).relu()
    expected = (conv_bn(block.second, h, 1, 1) + conv_bn(block.shortcut, x, 2, 0)).relu()
    torch.testing.assert_close(block.narrow(x, w), expected, rtol=1e-4, atol=1e-5)


def test_deeper_blocks_and_wider_channels_do_not_matter():
    """What is outside of the slice may be anything, NaN too."""
    space = small()
    supernet = Supernet(space, kernels="fused").eval()
    arch = (1, 1, 0, 2, 1, 0)  # depths 2, 1, 2; widths 4, 6, 2
    x = torch.randn(3, 2, 9, 9)
    with torch.no_grad():
        before = supernet(x, arch)
        for stage, depth, width, cin in zip(supernet.layers, (2, 1, 2), (4, 6, 2), (16, 4, 6), strict=True):
            for i, block in enumerate(stage):
                for name, p in block.named_parameters():
                    keep = (
                        () if i >= depth else (slice(width), slice(cin if i == 0 and "second" not in name else width))
                    )
                    kept = p[keep].clone()
                    p.fill_(torch.nan)
                    if i < depth:
                        p[keep] = kept
        assert torch.equal(supernet(x, arch), before)
        assert torch.isfinite(before).all()


def test_recalibration_fills_in_the_first_channels_only():
    space = small()
    supernet = Supernet(space)
    recalibrate_bn(supernet, [torch.randn(8, 2, 9, 9)], (0, 1, 0, 2, 0, 0))
    bn = supernet.layers[0][0].first.bn
    assert (bn.running_mean[:4] != 0).all()
    assert (bn.running_mean[4:] == 0).all()
    assert (bn.running_var[4:] == 1).all()
    assert (supernet.layers[0][1].first.bn.running_var == 1).all()


def test_a_pruned_space_builds_no_wider_than_it_may_be(tmp_path):
    space = small().restrict([{0, 1}, {0, 1}, {1}, {2}, {0}, {0, 1}])
    supernet = Supernet(space)
    assert [len(stage) for stage in supernet.layers] == [2, 2, 1]
    assert [stage[0].first.conv.out_channels for stage in supernet.layers] == [4, 6, 4]
    path = tmp_path / "space.json"
    path.write_text(json.dumps(space.to_json()))
    assert Space.load(path) == space
    assert space.fingerprint == small().fingerprint


def test_other_spaces_keep_their_fingerprints():
    """A choice without a count is written as before: older runs and tables stay valid."""
    data = spaces.get("mobile-small", 1, 28, 10).to_json()
    assert set(data["genes"][0]["choices"][0]) == {"op", "kernel", "expand"}


def test_a_block_that_is_no_depth_is_refused_with_its_gene():
    space = small()
    first, *others = space.genes
    mixed = dataclasses.replace(first, choices=(*first.choices, Choice("own", 3, 6)))
    other = dataclasses.replace(space, genes=(mixed, *others))
    with pytest.raises(UserError, match=f"gene {first.name} has the choice own 0, expected a depth of at least 1"):
        residual.FAMILY.layout(other)
