"""What the doctor says of the system's parts, with a PATH of our own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from supernet.cli import doctor, system
from supernet.export import tflite


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """The only folder on PATH; no CUDA anywhere else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(system, "CUDA", str(tmp_path / "no cuda"))
    monkeypatch.setattr(system.sysconfig, "get_path", lambda name: str(tmp_path / name))
    monkeypatch.setattr(tflite, "LITERT_PYTHON", tmp_path / "litert/bin/python")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    return folder


def script(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o755)
    return str(path)


def test_where_nothing_is_everything_says_how_to_get_it(programs):
    rows = list(system.parts())
    assert [row["path"] for row in rows] == [None] * len(system.PARTS)
    assert all(row["command"] for row in rows)


def test_what_is_there_says_where(programs, tmp_path):
    there = {name: script(programs / name) for name in ("g++", "adb", "trtexec")}
    there |= {"Python.h": script(tmp_path / "include/Python.h"), "litert-torch": script(tmp_path / "litert/bin/python")}
    assert {row["name"]: row["path"] for row in system.parts() if row["path"]} == there
    assert all(row["command"] is None for row in system.parts() if row["name"] in there)


def test_nvcc_is_that_of_cuda_home_or_of_a_wheel(programs, tmp_path, monkeypatch):
    wheel = script(tmp_path / "purelib/nvidia/cu13/bin/nvcc")
    assert system.of_cuda("nvcc") == wheel
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert system.of_cuda("nvcc") is None  # setup.py looks nowhere else either
    own = script(tmp_path / "home/bin/nvcc")
    assert system.of_cuda("nvcc") == own


def test_the_doctor_shows_what_is_optional(programs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    doctor.main()
    told = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "optional" in told["adb"]
    assert "apt-get install adb" in told["adb"]
    assert "optional" not in told["g++"]
    assert "make litert" in told["litert-torch"]
