"""What the CUDA kernels do with memory and the device, counted by the runner, against tests/data/cuda_model.json.

After a change that is meant, write the file anew and look at the difference::

    PYTHONPATH=.:tests:tools python tests/test_cuda_model.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.cuda_cases import GROUPS, Case
from bench.cuda_model import measure

GOLDEN = Path(__file__).parent / "data" / "cuda_model.json"
FIGURES = ("ratio", "l2_ratio", "shared_ratio", "blocks", "idle", "occupancy", "in_flight")
QUICK = ("depth_mix", "batch_norm_act", "masked_conv")
HELD = json.loads(GOLDEN.read_text())
CASES = {group: list(make(1)) for group, make in GROUPS.items()}


def title(case: Case) -> str:
    return f"{case.name} {case.function.rsplit('_', 1)[1]} {case.shape}"


def figures(case: Case) -> dict[str, float]:
    found = measure(case, 1)
    return {name: round(found[name], 3) for name in FIGURES}


def cases():
    """At one image. Those that take longer than some seconds are slow; one fused case is not."""
    for group, of_group in CASES.items():
        for i, case in enumerate(of_group):
            quick = group in QUICK or (i == 4 and group == "dw_separable")
            yield pytest.param(case, id=title(case), marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize("case", list(cases()))
def test_the_model_is_as_it_was(case):
    """To a hundredth: a compiler may write a loop twice, where a warp then asks for memory in other groups."""
    assert figures(case) == pytest.approx(HELD[title(case)], rel=0.01)


def test_all_cases_are_held():
    assert HELD.keys() == {title(case) for of_group in CASES.values() for case in of_group}


@pytest.mark.parametrize("name", HELD)
def test_no_block_is_idle(name):
    assert HELD[name]["idle"] == 0


@pytest.mark.parametrize(
    "name", [name for name in HELD if "weight gradient" not in name and "k 5, stride 2" not in name]
)
def test_banks_are_used_well(name):
    """Of what takes more, up to 1.8 times the least, docs/performance.md tells why."""
    assert HELD[name]["shared_ratio"] <= 1.28


def main() -> None:
    held = {title(case): figures(case) for of_group in CASES.values() for case in of_group}
    lines = [f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(found)}" for name, found in held.items()]
    GOLDEN.write_text("{\n " + ",\n ".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
