"""The stages of `make gpu`: dry on the CPU, stopped, gone on with; what follows from their figures."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import pytest
from gpu import operators, page, profile, run


@pytest.mark.slow  # a dozen processes that import PyTorch
def test_dry(tmp_path, capsys):
    """Every stage runs or says why it cannot; a second call does what is not done, and nothing else."""
    assert run.main(["--dry", "--output", str(tmp_path)]) == 0
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in run.STAGES}
    states = {name: of["state"] for name, of in found.items()}
    assert states == dict.fromkeys(run.STAGES, "done") | {"profile": "unavailable"}, found
    assert all(of["results"] for name, of in found.items() if name != "profile")
    assert all(result["ms"].keys() >= {"ours", "eager"} for result in found["layers"]["results"])
    assert "should be **" in (tmp_path / "page.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.log")}
    (tmp_path / "build.json").unlink()
    assert run.main(["--dry", "--output", str(tmp_path), "--only", "versions", "build"]) == 0
    again = {path.stem for path in before if path.stat().st_mtime_ns != before[path]}
    assert again == {"build"}


@pytest.mark.parametrize(("script", "reason"), [("sleep 60", "took over 2 s"), ("exit 3", "exited with 3")])
def test_a_stage_that_does_not_end_is_stopped(monkeypatch, tmp_path, script, reason):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(tmp_path / "python"))
    began = time.monotonic()
    run.stage("step", tmp_path / "step.json", False, 2)
    data = json.loads((tmp_path / "step.json").read_text())
    assert data["state"] == "stopped"
    assert reason in data["reason"]
    assert time.monotonic() - began < 30


def test_without_time_left_nothing_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(run.sys, "executable", "/nowhere")
    assert run.main(["--output", str(tmp_path), "--minutes", "0", "--only", "step"]) == 1
    assert "no time" in json.loads((tmp_path / "step.json").read_text())["reason"]


def test_a_group_that_cannot_be_made_stops_no_other(monkeypatch, capsys):
    """Of quantised operators; that another cannot be made is a mistake."""

    def missing():
        raise ImportError("no onnxruntime")
        yield

    monkeypatch.setattr(operators, "TRAINING", ())
    monkeypatch.setattr(operators, "GROUPS", {operators.INT8: missing})
    gpu, found = SimpleNamespace(dry=False, device="cpu", require=lambda: None), []
    operators.run(gpu, found.append)
    assert [(of["row"], of["ms"], of["failed"]) for of in found] == [("int8", {}, {"ours": "no onnxruntime"})]
    operators.once(gpu)
    assert "int8 not called: no onnxruntime" in capsys.readouterr().out
    monkeypatch.setattr(operators, "GROUPS", {"norm": missing})
    with pytest.raises(ImportError):
        operators.once(gpu)


def stages(**changed):
    """Of a GPU on which everything went well."""
    machine = {"device": "Some GPU", "torch": "2.14.1", "torch_cuda": "13.0"}
    steps = [{"type": kind, "ratio": 1.5, "seconds": {"ours": [0.1]}} for kind in ("float32", "bfloat16")]
    found = {
        "versions": {"state": "done", "results": [machine]},
        "tests": {"state": "done", "results": []},
        "sanitizer": {"state": "unavailable", "results": []},
        "step": {"state": "done", "results": steps},
    }
    return found | changed


def test_the_default_is_the_faster_in_every_type():
    assert page.decision(stages())["kernels"] == "fused"
    slower = [{"type": "float32", "ratio": 1.5}, {"type": "bfloat16", "ratio": 0.9}]
    assert page.decision(stages(step={"state": "done", "results": slower}))["kernels"] == "eager"


@pytest.mark.parametrize("stage", ["tests", "sanitizer", "step"])
def test_nothing_is_decided_on_operators_that_fail(stage):
    assert page.decision(stages(**{stage: {"state": "failed", "results": []}})) is None


def test_the_entry_joins_those_of_other_gpus(monkeypatch, tmp_path):
    shipped = tmp_path / "shipped" / "measured_kernels.json"
    shipped.parent.mkdir()
    shipped.write_text('{"Another GPU": {"kernels": "eager"}}')
    monkeypatch.setattr(page, "MEASURED", shipped)
    for name, of in stages().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(of))
    page.write(tmp_path)
    kernels = {gpu: of["kernels"] for gpu, of in json.loads((tmp_path / shipped.name).read_text()).items()}
    assert kernels == {"Another GPU": "eager", "Some GPU": "fused"}


def test_an_operator_is_compared_with_the_fastest_other_form():
    times = [{"ours": 1.0, "eager": 4.0, "inductor": 2.0}, {"ours": 1.0, "eager": 0.5}]
    rows = list(page.compared("", [(("op", "float32"), {"ms": ms}) for ms in times]))
    [row] = [line.split(" | ") for line in rows if line.startswith("| op |")]
    eager, fastest = math.sqrt(4 * 0.5), math.sqrt(2 * 0.5)
    assert row[3:] == [f"eager {eager:.2f}, inductor 2.00", f"{fastest:.2f}", "0.50", "eager |"]


def test_passes_over_the_same_layer_are_one_result():
    case = {"operator": "a", "shape": "b", "batch": 1, "type": "float32"}
    results = [case | {"ms": {"ours": 1.0}}, case | {"batch": 64, "ms": {}}, case | {"ms": {"inductor": 2.0}}]
    assert [result["ms"] for result in page.merged(results)] == [{"ours": 1.0, "inductor": 2.0}, {}]


def test_figures_of_the_profiler():
    """Names as ncu prints them: with types, namespaces and enumerators; the program's own lines come before."""
    kernel = "void supernet::cuda::depthwise_kernel<float, supernet::cuda::ForwardWindow<3, 1>, (Form)0>(const T1 *)"
    columns = ["ID", "Kernel Name", *profile.METRICS]
    rows = [columns, ["", "", "ns", "%", "%", "%", "%"], ["0", kernel, "1,234", "1", "2", "3", "4.5"]]
    rows += [["1", kernel, *"99999"], ["2", "supernet::cuda::depth_mix_kernel(int)", *"56789"]]
    text = "==PROF== Connected\ncalled depthwise\n" + "\n".join('"' + '","'.join(row) + '"' for row in rows)
    first, second = profile.first_of_each(text)
    assert (first["kernel"], first["ns"], first["occupancy_percent"]) == ("depthwise_kernel", 1234.0, 4.5)
    assert (second["kernel"], second["ns"]) == ("depth_mix_kernel", 5.0)
