"""What the CUDA kernels do with memory and the device, counted by the runner, against tests/data/cuda_model.json.

After a change that is meant, write the file anew and look at the difference::

    PYTHONPATH=.:tests:tools python tests/test_cuda_model.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.cuda_cases import GROUPS, Case
from bench.cuda_model import goals, measure
from cubins import compact

GOLDEN = Path(__file__).parent / "data" / "cuda_model.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
FIGURES = ("ratio", "l2_ratio", "shared_ratio", "blocks", "idle", "occupancy", "in_flight")
IMAGES = (1, 64)
QUICK = ("depth_mix", "batch_norm_act", "masked_conv")
HELD = json.loads(GOLDEN.read_text())
CASES = {images: {group: list(make(images)) for group, make in GROUPS.items()} for images in IMAGES}


def title(case: Case) -> str:
    return f"{case.name} {case.function.rsplit('_', 1)[1]} {case.shape}"


def figures(case: Case, images: int) -> dict[str, float]:
    found = measure(case, images)
    return {name: round(found[name], 3) for name in FIGURES}


def cases():
    """Those that take longer than some seconds are slow; one fused case is not."""
    for images, groups in CASES.items():
        for group, of_group in groups.items():
            for i, case in enumerate(of_group):
                quick = images == 1 and (group in QUICK or (i == 4 and group == "dw_separable"))
                marks = [] if quick else pytest.mark.slow
                yield pytest.param(case, images, id=f"{title(case)}, images {images}", marks=marks)


@pytest.mark.parametrize(("case", "images"), list(cases()))
def test_the_model_is_as_it_was(case, images):
    """To a hundredth: a compiler may write a loop twice, where a warp then asks for memory in other groups."""
    assert figures(case, images) == pytest.approx(HELD[str(images)][title(case)], rel=0.01)


@pytest.mark.parametrize("images", IMAGES)
def test_all_cases_are_held(images):
    assert HELD[str(images)].keys() == {title(case) for of_group in CASES[images].values() for case in of_group}


@pytest.mark.parametrize("images", IMAGES)
def test_no_block_is_idle(images):
    assert not {name for name, held in HELD[str(images)].items() if held["idle"]}


@pytest.mark.parametrize("images", IMAGES)
def test_banks_are_used_well(images):
    """Of what takes more, up to 1.8 times the least, docs/performance.md tells why."""
    known = ("weight gradient", "k 5, stride 2")
    held = {name: case["shared_ratio"] for name, case in HELD[str(images)].items() if not any(k in name for k in known)}
    assert not {name for name, ratio in held.items() if ratio > 1.28}


def test_goals_are_counted():
    """By hand."""
    cases = [(1.15, 1.3, 17 << 10, 132), (1.16, 1.0, 16384, 200), (2.5, 1.2, 40000, 12)]
    keys = ("ratio", "shared_ratio", "in_flight", "blocks")
    results = [
        {"name": f"depthwise {i}", "function": f"{i}_float32", **dict(zip(keys, case, strict=True))}
        for i, case in enumerate(cases)
    ]
    other = {**results[2], "function": "forward_bfloat16"}
    assert goals([*results, other]) == [
        ["depthwise", "float32", "3", "1, 2.50", "2, 1.30", "2, 16 KiB", "2, 12"],
        ["depthwise", "bfloat16", "1", "0, 2.50", "1, 1.20", "1, 39 KiB", "0, 12"],
    ]


@pytest.mark.parametrize("images", IMAGES)
def test_the_page_tells_which_goals_are_reached(images):
    """Its rows are those of ``bench.py cuda-model`` for the figures held here."""
    results = [
        {"name": case.name, "function": case.function, **HELD[str(images)][title(case)]}
        for of_group in CASES[images].values()
        for case in of_group
    ]
    page = DOCS.read_text()
    assert not [row for row in goals(results) if f"| {images} | {' | '.join(row)} |" not in page]


def main() -> None:
    held = {
        images: {title(case): figures(case, images) for of_group in groups.values() for case in of_group}
        for images, groups in CASES.items()
    }
    GOLDEN.write_text(compact(json.dumps(held, ensure_ascii=False, indent=1)) + "\n")


if __name__ == "__main__":
    main()
