"""Elastic spaces: the authors' counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from search.costs import AdditiveCost, MaxCost
from supernet import configurations, families, spaces
from supernet.families import elastic_presets
from supernet.families.base import peak
from supernet.model import Network
from supernet.space import Choice, Space

GOLDEN = json.loads((Path(__file__).parent / "data" / "elastic.json").read_text())
ROWS = {f"attentive-nas {tag}": row for tag, row in GOLDEN["attentive_nas"].items()}
for key, name in (
    ("ofa_mobilenetv3_w1.0", "ofa-mobilenetv3"),
    ("ofa_proxyless_w1.3", "ofa-proxyless"),
    ("ofa_resnet50", "ofa-resnet50"),
):
    ROWS |= {f"{name} {row['tag']}": row for row in GOLDEN[key]}


@pytest.mark.parametrize("row", ROWS)
def test_counts_are_those_of_the_authors_models(row):
    space = spaces.get(row.split()[0], 3, 224, 1000)
    arch = configurations.arch(space, ROWS[row])
    specs = families.lower(space, arch)
    assert sum(spec.flops for spec in specs) == ROWS[row]["macs"]
    assert sum(spec.params + configurations.unused(spec) for spec in specs) == ROWS[row]["params"]
    again = configurations.configuration(space, arch)
    assert configurations.arch(space, again) == arch


def tiny(kind: str, widths=(8, 16), unit="expand", expansions=(1, 3), kernels=(3, 5, 7), each=True) -> Space:
    """A space of a kind of stage, with a residual in its stem, odd sizes and widths that meet across stages."""
    options = {"each": each, "unit": unit}
    stages = [
        elastic_presets.stage("stem", "image_stem", (8, 16), 2, (1, 2)),
        elastic_presets.stage("stage1", kind, widths, 1, (1, 2), kernels, expansions, **options),
        elastic_presets.stage("stage2", kind, (16, 24), 2, (1, 2), kernels, expansions, **options),
    ]
    images = 2, 26, 5
    heads = {
        "attentive_se": [Choice("mix_head", expand=6, count=c) for c in (16, 24)],
        "resnet_d": [Choice("pool_head")],
    }
    head = heads.get(kind, [Choice("head", count=16)])
    return elastic_presets.space(f"tiny-{kind}", images, (9 * 224 / 26, 224), stages, head, "swish")


TINY = {
    "mobile_se": lambda: tiny("mobile_se"),
    "attentive_se": lambda: tiny("attentive_se", each=False),
    "resnet_d": lambda: tiny("resnet_d", unit="expand_percent", expansions=(25, 50), kernels=()),
}


@pytest.fixture(params=TINY)
def space(request) -> Space:
    return TINY[request.param]()


def sample(space, n, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(n)]


def ends(space):
    return [tuple(open_[end] for open_ in space.allowed) for end in (0, -1)]


def test_counts_equal_those_of_the_network(space):
    for arch in [*sample(space, 4), *ends(space)]:
        network = Network(space, arch, kernels="eager").eval()
        size = families.lower(space, arch)[0].size
        assert families.params(space, arch) == sum(p.numel() for p in network.parameters())
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 2, size, size))
        assert 2 * families.flops(space, arch) == counter.get_total_flops()


def test_costs_by_genes_equal_the_sum_over_layers_and_bounds_equal_enumeration():
    space = tiny("attentive_se", kernels=(3, 5), each=False)
    pruned = space.restrict([{1}, *[{0, 1}] * 8, {0}, {0, 1}, {1}])
    archs, specs = pruned.enumerate()[::3], families.layout(pruned)
    for price in (lambda spec: spec.flops, lambda spec: float(np.cos(spec.params))):  # monotone, and not
        cost = AdditiveCost(*specs.priced(price))
        expected = [sum(map(price, specs.pick(arch))) for arch in archs]
        np.testing.assert_allclose([cost(arch) for arch in archs], expected, rtol=1e-12, atol=1e-12)
        values = [cost(arch) for arch in pruned.enumerate()]
        assert cost.bounds(pruned) == pytest.approx((min(values), max(values)), rel=1e-12)
    memory = MaxCost(*specs.priced(lambda spec: spec.activations, peak))
    assert [memory(arch) for arch in archs] == [families.activations(space, arch) for arch in archs]


def test_every_layer_of_every_architecture_is_listed(space):
    every = {spec.key for spec in families.layout(space).every()}
    assert {spec.key for arch in sample(space, 1500) for spec in families.lower(space, arch)} == every


def test_keys_tell_apart_what_differs(space):
    specs = set(families.layout(space).every())
    assert len({spec.key for spec in specs}) == len(specs)
