"""TensorRT's ``trtexec``, by a stand-in on PATH that prints what the program does: no GPU with TensorRT is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latency import agent, trtexec
from latency.table import LatencyTable
from supernet.errors import UserError
from supernet.files import write_json
from tests.test_devices import KEYS, SPACE, build_lut, line_of, needs_onnx

TRTEXEC = """#!/usr/bin/env python3
import os, sys
args = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
open(os.environ["LOG"], "a").write(" ".join(sys.argv[1:]) + "\\n")
print("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec", *sys.argv[1:])
if os.environ.get("BROKEN"):
    print("[11/29/2026-10:00:00] [E] Error[4]: ModelImporter: no importer registered for op")
    print("&&&& FAILED TensorRT.trtexec [TensorRT v8601]")
    sys.exit(1)
if "onnx" in args:
    assert os.path.getsize(args["onnx"]) > 100
    open(args["saveEngine"], "wb").write(b"engine")
if "loadEngine" in args:
    assert open(args["loadEngine"], "rb").read() == b"engine"
    if not os.environ.get("SILENT"):
        print("[I] Latency: min = 0.3 ms, max = 0.4 ms, mean = 0.35 ms, median = 0.35 ms, percentile(99%) = 0.4 ms")
        print("[I] GPU Compute Time: min = 0.1 ms, max = 0.3 ms, mean = 0.125 ms, median = 0.12 ms")
print("&&&& PASSED TensorRT.trtexec [TensorRT v8601]")
"""


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """The log of its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "trtexec").write_text(TRTEXEC)
    (folder / "trtexec").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_a_visit_is_one_call(program):
    timer = agent.timer("tensorrt", b"x" * 200, 1)
    built = program.read_text().splitlines()
    assert len(built) == 1
    assert built[0].startswith("--onnx=")
    assert timer(40) == (0.125e6 * 40, None)
    (_, visit) = program.read_text().splitlines()
    assert visit.startswith("--loadEngine=")
    assert " --iterations=40 " in visit
    engine = Path(visit.split()[0].partition("=")[2])
    assert engine.exists()
    del timer
    assert not engine.exists()
    assert agent.describe("tensorrt")["version"] == "8601"


def test_refusals(program, monkeypatch):
    timer = trtexec.timer(b"x" * 200)
    monkeypatch.setenv("SILENT", "1")
    with pytest.raises(UserError, match=r"trtexec gave no time \(&&&& PASSED"):
        timer(1)
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(UserError, match=r"trtexec failed \(.*no importer registered for op\): run it by hand"):
        trtexec.timer(b"x" * 200)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="trtexec is not on PATH here: it comes with TensorRT"):
        agent.describe("tensorrt")


@needs_onnx
def test_a_table(program, tmp_path):
    write_json(tmp_path / "run" / "space.json", SPACE.to_json())
    done = build_lut(tmp_path, "--runtime", "tensorrt", "--check-archs", 2)
    assert done.returncode == 0, done.stderr
    table = LatencyTable.load(tmp_path / "run" / "lut.json", SPACE)
    assert set(table.operations) == KEYS
    assert all(one.median_ms == pytest.approx(0.125) for one in table.operations.values())
    assert table.runtime["name"] == "tensorrt"
    assert json.loads((tmp_path / "run" / "lut.json").read_text())["protocol"]["chunks"] == 1


@needs_onnx
def test_without_it_nothing_is_measured(tmp_path):
    write_json(tmp_path / "run" / "space.json", SPACE.to_json())
    assert "trtexec is not on PATH" in line_of(build_lut(tmp_path, "--runtime", "tensorrt", "--check-archs", 2))
    assert not (tmp_path / "run" / "lut.json").exists()
