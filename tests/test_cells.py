"""Spaces of cells, against a graph written out by hand and against a published network."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from supernet import families, spaces
from supernet.errors import UserError
from supernet.families import cells
from supernet.model import Network, Supernet
from supernet.space import Choice, Space

SPACE = spaces.get("cells-small", 1, 28, 10)


def number(op: str, kernel: int = 0) -> int:
    return cells.CHOICES.index(Choice(op, kernel))


# DARTS (second order) as its authors print it: two edges into each node, of sources 0 and 1 and the nodes so far.
NORMAL = "sep2 3 0|sep2 3 1|sep2 3 0|sep2 3 1|sep2 3 1|skip 0 0|skip 0 0|dil 3 2"
REDUCTION = "pool_max 3 0|pool_max 3 1|skip 0 2|pool_max 3 1|pool_max 3 0|skip 0 2|skip 0 2|pool_max 3 1"


def darts_v2() -> tuple[Space, tuple[int, ...]]:
    row = "".join("r" if i in (20 // 3, 2 * 20 // 3) else "n" for i in range(20))
    arch = [number("none")] * 28
    for half, genotype in enumerate((NORMAL, REDUCTION)):
        for place, edge in enumerate(genotype.split("|")):
            op, kernel, source = edge.split()
            gene = half * 14 + cells.edges_of(4).index((int(source), 2 + place // 2))
            arch[gene] = number(op, int(kernel))
    return cells.space("darts", row, 4, 36, 3, 32, 10), tuple(arch)


def test_darts_network_has_the_parameters_that_its_authors_print():
    """``param size = 3.349342MB``, by the log of their evaluation."""
    space, arch = darts_v2()
    assert families.params(space, arch) == 3_349_342
    assert sum(p.numel() for p in Network(space, arch).parameters()) == 3_349_342


def test_spaces_have_the_sizes_of_the_papers():
    """8 operations on 14 edges of two kinds of cells."""
    assert spaces.usual("cells") == spaces.get("cells", 3, 32, 10)
    assert spaces.usual("cells").size == 8**28
    assert cells.edges_of(4) == [(i, j) for j in (2, 3, 4, 5) for i in range(j)]


def test_a_node_is_the_sum_over_its_edges():
    """eq. 1, written out for a row of a normal cell and a reduction."""
    space = cells.space("two", "nr", 2, 4, 1, 14, 10)
    arch = tuple(np.random.default_rng(3).integers(0, 8, len(space.genes)).tolist())
    model = Supernet(space, affine=True, kernels="eager").eval()
    path = iter(model.path(arch))
    x = torch.randn(2, 1, 14, 14)
    before = last = next(path)(x)
    for _ in space.cells:
        nodes = [next(path).op(before), next(path).op(last), 0.0, 0.0]
        for source, target in [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]:
            nodes[target] = nodes[target] + next(path).op(nodes[source])
        next(path)
        before, last = last, torch.cat(nodes[2:], 1)
    expected = next(path).classifier(F.adaptive_avg_pool2d(last, 1).flatten(1))
    torch.testing.assert_close(model(x, arch), expected)
    assert next(path, None) is None


def test_operations_are_those_of_torch():
    x = torch.randn(2, 8, 9, 9)
    for stride, choice in itertools.product((1, 2), cells.CHOICES):
        block = cells.OPS[choice.op][stride - 1]
        spec = cells.PartSpec(block, 8, 8, 9, stride, choice.kernel)
        module = spec.measured("eager").eval()
        y = module(x)
        assert y.shape == (2, 8, -(-9 // stride), -(-9 // stride))
        scale = (1 + 1e-5) ** -0.5  # BN before it has seen anything
        if choice.op == "pool_max":
            torch.testing.assert_close(y, scale * F.max_pool2d(x, 3, stride, 1))
        elif choice.op == "pool_avg":
            ones = F.avg_pool2d(torch.ones_like(x), 3, stride, 1)  # the share of the pixels that there are
            torch.testing.assert_close(y, scale * F.avg_pool2d(x, 3, stride, 1) / ones)
        elif choice.op == "none":
            assert not y.any()
        elif choice.op == "skip" and stride == 1:
            assert y is x
        elif choice.op == "dil":
            depthwise, pointwise = module.depthwise.weight, module.pointwise.conv.weight
            wide = torch.zeros(8, 1, 2 * choice.kernel - 1, 2 * choice.kernel - 1)  # with the gaps as zeros
            wide[:, :, ::2, ::2] = depthwise.detach()
            filtered = F.conv2d(F.relu(x), wide, stride=stride, padding=choice.kernel - 1, groups=8)
            torch.testing.assert_close(y, scale * F.conv2d(filtered, pointwise), rtol=1e-4, atol=1e-5)


def test_a_table_adds_up_to_the_network():
    rng = np.random.default_rng(0)
    table, base, genes = families.layout(SPACE).priced(lambda spec: spec.flops)
    assert genes is None
    for _ in range(5):
        arch = SPACE.sample(rng)
        assert base + sum(row[i] for row, i in zip(table, arch, strict=True)) == families.flops(SPACE, arch)


def test_what_is_alike_is_one_row_of_a_latency_table():
    """An operation has the key of its shape, wherever it stands."""
    keys = [spec.key for spec in families.layout(SPACE).every() if spec.runs]
    assert len(set(keys)) < len(keys) / 2
    for spec in families.layout(SPACE).every():
        with torch.no_grad():
            assert spec.measured("eager").eval()(torch.zeros(1, *spec.input_shape)).shape[1] in (spec.out_channels, 10)


def test_a_gene_decides_in_every_cell_of_its_kind():
    decides = families.layout(SPACE).decides
    assert len(decides) == len(Supernet(SPACE).path((0,) * 10))
    assert [decides.count(gene) for gene in range(10)] == [3] * 5 + [2] * 5  # of nrnrn
    for gene in range(10):
        one, other = [0] * 10, [0] * 10
        other[gene] = number("dil", 5)
        specs = zip(*(families.layout(SPACE).pick(tuple(arch)) for arch in (one, other)), strict=True)
        assert [place for place, (a, b) in enumerate(specs) if a != b] == [
            i for i, g in enumerate(decides) if g == gene
        ]


def test_a_pruned_space_keeps_names_and_a_file_tells_the_cells(tmp_path):
    pruned = SPACE.restrict([{1, 4, 6}] * 10)
    full, small = Supernet(SPACE), Supernet(pruned)
    assert small.state_dict().keys() < full.state_dict().keys()
    path = tmp_path / "space.json"
    path.write_text(json.dumps(SPACE.to_json()))
    assert spaces.get(str(path), 1, 28, 10) == SPACE
    assert "cells" not in spaces.get("mobile-small", 1, 28, 10).to_json()  # fingerprints stay


def test_its_network_is_plain_torch():
    arch = SPACE.sample(np.random.default_rng(1))
    network = Network(SPACE, arch, kernels="eager").eval()
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(network.plain()(x), network(x))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cells": ""}, "has the cells '': expected a row of n and r"),
        ({"cells": "nxr"}, "has the cells 'nxr'"),
        ({"cells": "nnn"}, "10 genes for 1 kind of cells"),
        ({"genes": (dataclasses.replace(SPACE.genes[0], stride=2), *SPACE.genes[1:])}, "normal_0_2.*expected 1"),
        (
            {
                "genes": (
                    dataclasses.replace(SPACE.genes[0], choices=(Choice("skip"), Choice("dil", 4))),
                    *SPACE.genes[1:],
                )
            },
            "normal_0_2 cannot be dil_k4: kernel 4",
        ),
        (
            {
                "genes": (
                    dataclasses.replace(SPACE.genes[0], choices=(Choice("skip"), Choice("conv", 3))),
                    *SPACE.genes[1:],
                )
            },
            "normal_0_2 has the operation 'conv', expected skip",
        ),
    ],
    ids=["none", "unknown", "too many genes", "stride", "kernel", "operation"],
)
def test_what_cannot_be_built_is_refused(changes, expected):
    changes = {"allowed": SPACE.allowed, **changes}
    if "genes" in changes:
        changes["allowed"] = tuple(tuple(range(len(gene.choices))) for gene in changes["genes"])
    with pytest.raises(UserError, match=expected):
        families.layout(dataclasses.replace(SPACE, **changes))
