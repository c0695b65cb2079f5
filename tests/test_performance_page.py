"""The tables of the page on performance are what its files hold."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tests.test_readme import rows

BENCH = Path(__file__).parents[1] / "docs" / "bench"
STEP = {"ours": "ours", "plain PyTorch, channels_last": "eager channels_last", "plain PyTorch, NCHW": "eager NCHW"}
TREE = {
    "one by one, our operators": "one by one, fused",
    "shared prefixes once, eager": "prefix tree, eager",
    "shared prefixes once, our operators": "prefix tree, fused",
}


def held(name: str) -> dict:
    """The figures of a file."""
    return json.loads((BENCH / f"{name}.json").read_text())


@pytest.mark.parametrize(("machine", "first"), [("zen5", 1), ("zen4", 4), ("xeon", 7)])
def test_a_step(machine, first):
    step, told = held(f"step-{machine}")["step"], {row[0]: row[first:] for row in rows("performance.md")}
    for name, form in STEP.items():
        ms, ratio, memory = told[name][:3]
        assert ms == f"{1e3 * statistics.median(step['seconds'][form]):.1f}"
        assert ratio == ("" if form == "ours" else f"{step['ratios'][form]:.2f}×")
        assert memory == f"{step['peak_memory_mib'][form]:.0f}"


@pytest.mark.parametrize("space", ["elastic-small", "attentive-nas", "timm:mobilenetv2_050", "timm:mobilenetv1_100"])
def test_a_step_of_slices(space):
    step = held(f"step-{space.removeprefix('timm:')}-zen5")["step"]
    (told,) = (row[1:] for row in rows("performance.md") if row[0].startswith(f"`--space {space}"))
    ours, plain = (1e3 * statistics.median(step["seconds"][form]) for form in ("ours", "eager channels_last"))
    assert [float(ms) for ms in told[:2]] == [pytest.approx(ours, rel=5e-3), pytest.approx(plain, rel=5e-3)]
    memory = step["peak_memory_mib"]
    assert told[2:] == [
        f"{step['ratios']['eager channels_last']:.2f}×",
        f"{memory['ours']:.0f}",
        f"{memory['ours'] / memory['eager channels_last']:.2f}".removeprefix("0"),
        f"{step['full_width_ratio']:.3f}",
    ]


def test_a_path_within_a_bin():
    made = held("paths-zen5")["paths"]["ms"]
    told = [
        row[1:] for row in rows("performance.md") if row[0].startswith(("by counting", "drawing", "uniform, no bin"))
    ]
    forms = ("by counting", "by rejection", "uniform, no bin")
    assert told == [[f"{made[form]['median']:.3f}", f"{made[form]['mean']:.3f}"] for form in forms]


@pytest.mark.parametrize(("machine", "first"), [("zen4", 3), ("xeon", 6)])
def test_operators(machine, first):
    told = [row for row in rows("performance.md") if len(row) == 9 and row[0] not in ("operator", "---")]
    made = held(f"kernels-{machine}")["kernels"]
    assert [row[first : first + 2] for row in told] == [
        [f"{one['geomean']:.2f}", f"{one['worst']:.2f}"] for one in made
    ]
    assert [row[2] for row in told] == ["–" if one["gate"] is None else str(one["gate"]) for one in made]


def test_operators_on_8_bit_values():
    made = held("int8-xeon")["kernels"]
    told = [row for row in rows("performance.md") if len(row) == 4 and row[1] in {one["against"] for one in made}]
    assert [row[1:] for row in told] == [[m["against"], f"{m['geomean']:.2f}", f"{m['worst']:.2f}"] for m in made]


@pytest.mark.parametrize(("machine", "column"), [("zen4", 1), ("xeon", 2)])
def test_a_population(machine, column):
    ratios = held(f"population-{machine}")["population"]["ratios"]
    told = {row[0]: row[column] for row in rows("performance.md") if row[0] in TREE}
    assert told == {name: f"{ratios[form]['wall']:.2f}×" for name, form in TREE.items()}
