"""The logs of a run as events, read back by TensorBoard itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from supernet.cli import report

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

OLD = Path(__file__).parent / "data" / "v0.1" / "spos"


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_every_number_of_every_log_is_an_event(tmp_path):
    args = report.Args(run=Path(shutil.copytree(OLD, tmp_path / "run")), tensorboard=tmp_path / "events")
    report.run(args)
    report.run(args)  # in place of those that are there, not beside them
    lines = args.folder.metrics.read()
    found = read(tmp_path / "events")
    assert found["loss"] == [(line["epoch"], pytest.approx(line["loss"])) for line in lines]
    assert "epoch" not in found
    alone = args.folder.network("best").metrics.read()
    assert [step for step, _ in read(tmp_path / "events" / "best")["loss"]] == [line["epoch"] for line in alone]
