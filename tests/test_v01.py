"""Runs that version 0.1 made go on with the present code, and end where that version would have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from latency.table import LatencyTable
from supernet.model import load_network
from supernet.runs import RunFolder
from supernet.space import Space
from supernet.training import checkpoint
from tests.test_cli import ok

OLD = Path(__file__).parent / "data" / "v0.1"
IMAGES = ("--data", "digits", "--limit", 320, "--batch-size", 32, "--quiet")


def copied(name: str, folder: Path) -> RunFolder:
    shutil.copytree(OLD / name, folder / name)
    return RunFolder(folder / name)


def test_a_training_stopped_half_way_ends_with_the_same_weights(tmp_path):
    run = copied("half", tmp_path)
    ok("train_supernet", "--run", run.path, "--space", run.space_path, *IMAGES, "--epochs", 2)
    whole, continued = (checkpoint.load(folder / "checkpoint.pt") for folder in (OLD / "spos", run.path))
    assert continued["finished"]
    assert continued["step"] == whole["step"]
    for name, value in whole["model"].items():
        if "running" not in name:  # version 0.1 left in BN what its validation had recalibrated
            # Another processor rounds differently.
            torch.testing.assert_close(continued["model"][name], value, rtol=1e-3, atol=1e-4)


def test_a_finished_search_of_network_spaces_stays(tmp_path):
    run = copied("nss", tmp_path)
    arguments = ("--method", "nss", "--run", run.path, "--space", run.space_path, *IMAGES, "--epochs", 3)
    ok("train_supernet", *arguments)
    for name in ("checkpoint.pt", "elite-340000/checkpoint.pt"):
        before, after = (checkpoint.load(folder / name) for folder in (OLD / "nss", run.path))
        assert all(torch.equal(after["model"][key], value) for key, value in before["model"].items())
    assert run.elite(340000).space().allowed == RunFolder(OLD / "nss/elite-340000").space().allowed


def test_a_finished_global_search_trains_nothing_again(tmp_path):
    run = copied("global", tmp_path)
    bounds = ("--depth", 3, 4, "--width", 4, 8, "--epochs", 1, "--final-epochs", 1)
    told = ok("global_nas", "--run", run.path, "--data", "digits", "--limit", 320, "--quiet", *bounds)
    assert "test accuracy" in told
    for name in ("search.json", "arch.json", "space.json", "final-1/result.json", "final-1/metrics.jsonl"):
        assert (run.path / name).read_bytes() == (OLD / "global" / name).read_bytes(), name
    assert not run.candidate(0).checkpoint.exists()


def test_a_stage_wise_search_goes_on_from_its_trained_network(tmp_path):
    run = copied("stage", tmp_path)
    options = (
        "--data",
        "digits",
        "--limit",
        320,
        "--width",
        4,
        "--iterations",
        1,
        "--epochs",
        1,
        "--quiet",
        "--jobs",
        1,
    )
    ok("stage_wise", "--run", run.path, *options)
    (first,) = (OLD / "stage/networks").iterdir()
    for name in ("result.json", "metrics.jsonl", "checkpoint.pt"):
        assert (run.stage_network(first.name).path / name).read_bytes() == (first / name).read_bytes(), name
    assert run.found()["name"] in run.tested_path.read_text()


@pytest.mark.parametrize("name", ["spos/best", "spos/random-0", "dsnas/child", "global/final-1", "stage/networks/*"])
def test_networks_open(name):
    (folder,) = OLD.glob(name)
    network = load_network(folder)
    x = torch.zeros(2, network.space.channels, network.space.resolution, network.space.resolution)
    assert network(x).shape == (2, network.space.classes)


def test_spaces_and_tables_open():
    for path in OLD.rglob("space.json"):
        assert Space.load(path).fingerprint in path.read_text()
    table = LatencyTable.load(OLD / "spos/lut.json", Space.load(OLD / "spos/space.json"))
    assert table.operations
    assert table.calibration is not None


@pytest.mark.parametrize("name", ["spos", "dsnas", "nss", "global", "stage", "half"])
def test_every_run_has_a_page(name, tmp_path):
    run = copied(name, tmp_path)
    page = ok("report", "--run", run.path)
    assert "report →" in page
    assert f"<title>{run.space().name}" in run.report_path.read_text()
