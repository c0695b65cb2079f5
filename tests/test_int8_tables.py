"""Tables of int8 layers by the commands: here, by the agent of a bundle, and what does not go together."""

from __future__ import annotations

import json

import pytest
from test_devices import SPACE, build_lut, line_of, run, torchless, unpack  # noqa: F401 - a fixture

from latency.table import LatencyTable
from supernet.files import write_json

pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
pytestmark = pytest.mark.chain


def test_by_an_agent_and_here(tmp_path, torchless):  # noqa: F811
    """A table by the agent says what it is of; one that was built here by the same files agrees with it."""
    write_json(tmp_path / "run" / "space.json", SPACE.to_json())
    flags = ("--runtime", "onnxruntime", "--precision", "int8")
    result = build_lut(tmp_path, "--emit", "bundle.tar", *flags)
    assert result.returncode == 0, result.stderr
    device = unpack(tmp_path / "bundle.tar", tmp_path / "device")
    result = run([*torchless, "agent.py", "run", "bundle", "-o", "samples.json"], device)
    assert result.returncode == 0, result.stderr
    result = build_lut(tmp_path, "--collect", device / "samples.json", "--output", "device.json")
    assert result.returncode == 0, result.stderr
    result = build_lut(tmp_path, *flags, "--output", "here.json")
    assert result.returncode == 0, result.stderr
    tables = [LatencyTable.load(tmp_path / name, SPACE) for name in ("device.json", "here.json")]
    assert [table.precision for table in tables] == ["int8", "int8"]
    assert tables[0].runtime == tables[1].runtime
    assert "int8" in tables[0].describe()["runtime"]
    assert tables[0].operations.keys() == tables[1].operations.keys()
    data = json.loads((tmp_path / "here.json").read_text())
    data["runtime"]["options"] = {}
    write_json(tmp_path / "floats.json", data)
    assert "is of float32 layers" in line_of(build_lut(tmp_path, "--check", "floats.json", "--precision", "int8"))
