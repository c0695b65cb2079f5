"""The run that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latency.table import LatencyTable
from supernet import spaces
from supernet.cli import example
from supernet.report import load
from supernet.runs import RunFolder
from supernet.training.folder import TrainingFolder


def test_it_is_small_and_belongs_together():
    run = RunFolder(example.HERE)
    space = run.space()
    assert space.fingerprint == spaces.get("mobile-small", 1, 28, 10).fingerprint
    assert LatencyTable.load(run.lut_path, space).calibration.held_out_spearman > 0.9
    assert run.config()["data_root"] == "data"
    assert sum(file.stat().st_size for file in example.HERE.iterdir()) < 2**21
    assert run.identity
    assert load.Run.load(run).lut is not None
    assert len(TrainingFolder(run.path).metrics.read()) == run.config()["epochs"]


def test_it_is_unpacked_once_and_only_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not example.unpack(Path("runs/default"))
    assert example.unpack(Path("example"))
    (tmp_path / "example" / "mine").write_text("")
    assert not example.unpack(Path("example"))
    assert (tmp_path / "example" / "mine").exists()
    assert {file.name for file in example.HERE.iterdir()} < {file.name for file in (tmp_path / "example").iterdir()}


def test_a_half_copied_one_is_copied_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def killed(source: Path, target: Path) -> None:
        target.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(example.shutil, "copytree", killed)
        with pytest.raises(KeyboardInterrupt):
            example.unpack(Path("example"))
    assert not Path("example").exists()
    assert example.unpack(Path("example"))
    assert json.loads(Path("example/lut.json").read_text())["schema"]
