"""What follows from the figures of `make gpu`: the page, and the file that the commands read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from gpu import page

from supernet.training import measured

ROOT = Path(__file__).parents[1]
CASE = {"operator": "a", "shape": "b", "batch": 1, "type": "float32"}
MADE_WITH = {"device": "Some GPU", "torch": "2.14.1", "mode": "gpu", "sources": "abc"}


def stages(**changed):
    """Of a GPU on which everything went well."""
    machine = {"device": "Some GPU", "torch": "2.14.1", "torch_cuda": "13.0"}
    steps = [{"type": kind, "ratio": 1.5, "seconds": {"ours": [0.1]}} for kind in ("float32", "bfloat16")]
    found = {name: {"state": "done", "results": []} for name in ("build", "tests", "layers", "operators")}
    found |= {
        "versions": {"state": "done", "results": [machine]},
        "sanitizer": {"state": "unavailable", "results": []},
        "step": {"state": "done", "results": steps},
    }
    return {name: of | {"made_with": MADE_WITH} for name, of in {**found, **changed}.items()}


def test_the_default_is_the_faster_in_every_type():
    assert page.obstacles(stages()) == []
    assert page.decision(stages())["kernels"] == "fused"
    slower = [{"type": "float32", "ratio": 1.5}, {"type": "bfloat16", "ratio": 0.9}]
    assert page.decision(stages(step={"state": "done", "results": slower}))["kernels"] == "eager"


@pytest.mark.parametrize("state", ["failed", "stopped", "unavailable"])
@pytest.mark.parametrize("stage", ["versions", "build", "tests", "sanitizer", "step", "layers", "operators"])
def test_nothing_is_decided_where_a_stage_is_not_done(stage, state):
    found = stages()
    found[stage]["state"] = state
    assert page.obstacles(found) == ([] if (stage, state) == ("sanitizer", "unavailable") else [f"{stage} {state}"])
    del found[stage]
    assert f"{stage} has not run" in page.obstacles(found)


@pytest.mark.parametrize("kinds", [(), ("float32",), ("bfloat16",)])
def test_nothing_is_decided_without_a_step_of_every_type(kinds):
    steps = [{"type": kind, "ratio": 1.5, "seconds": {}} for kind in kinds]
    [why] = page.obstacles(stages(step={"state": "done", "results": steps}))
    assert why.startswith("no step was timed in")
    assert not any(kind in why for kind in kinds)


def written(folder, found) -> str:
    for name, of in found.items():
        (folder / f"{name}.json").write_text(json.dumps(of))
    page.write(folder)
    return (folder / "page.md").read_text()


def test_the_commands_read_what_was_decided_last(tmp_path):
    where = tmp_path / page.HERE.name
    assert "should be **fused** here" in written(tmp_path, stages())
    assert measured.kernels("Some GPU", (where,)) == "fused"
    written(tmp_path, stages(tests={"state": "failed", "results": [], "reason": "wrong"}))
    assert not where.exists()
    assert ROOT / "runs" / "gpu" / where.name == measured.HERE


def test_what_failed_comes_first(tmp_path):
    case = CASE | {"ms": {}, "failed": {"eager": "too\nlarge"}}
    failed = {"state": "failed", "reason": "ours failed\nin 1", "results": [case]}
    text = written(tmp_path, stages(layers=failed))
    assert text.index("- layers: ours failed in 1\n") < text.index("not decided: layers failed") < text.index("| state")
    assert "| a b 1 float32 | eager | too large |" in text


def test_int8_is_compared_with_pytorch_in_bfloat16():
    times = {"bfloat16": {"ours": 1.0, "eager": 2.0}, "int8": {"ours": 0.5}}
    *_, int8 = page.merged([CASE | {"type": kind, "ms": ms} for kind, ms in times.items()])
    assert int8["ms"] == {"ours": 0.5, "eager in bfloat16": 2.0}


def test_an_operator_is_compared_with_the_fastest_other_form():
    times = [{"ours": 1.0, "eager": 4.0, "inductor": 2.0}, {"ours": 1.0, "eager": 0.5}]
    rows = list(page.compared("", "", [(("op", "float32"), {"ms": ms}) for ms in times]))
    [row] = [line.split(" | ") for line in rows if line.startswith("| op |")]
    eager, fastest = math.sqrt(4 * 0.5), math.sqrt(2 * 0.5)
    assert row[3:] == [f"eager {eager:.2f}, inductor 2.00", f"{fastest:.2f}", "0.50", "eager |"]


def test_passes_over_the_same_layer_are_one_result():
    results = [CASE | {"ms": {"ours": 1.0}}, CASE | {"batch": 64, "ms": {}}, CASE | {"ms": {"inductor": 2.0}}]
    assert [result["ms"] for result in page.merged(results)] == [{"ours": 1.0, "inductor": 2.0}, {}]
