"""rank.py as people type it: fresh, continued from its cache, every BN mode; and retrain.py keeps the test set."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from search.alone import halves
from supernet.data import sets
from supernet.methods import spos
from supernet.runs import RunFolder
from supernet.training.bn import recalibrate_bn
from tests.conftest import whole
from tests.test_cli import TRAIN, ok, refused

ROOT = Path(__file__).parents[1]
BUDGET = ("--jobs", 1, "--epochs", 1, "--limit", 320, "--batch-size", 32, "--recalibration", 2, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory, space_file) -> Path:
    folder = tmp_path_factory.mktemp("rank") / "run"
    ok("train_supernet", "--run", folder, "--space", space_file, *TRAIN)
    return folder


def test_ranks_caches_and_extends(run):
    printed = ok("rank", "--run", run, "--n", 4, *BUDGET, "--bn", "recalibrated", "batch", "inherited")
    assert "Kendall" in printed
    result = json.loads((run / "rank" / "rank.json").read_text())
    assert set(result["one_shot"]) == {"recalibrated", "batch", "inherited"}
    assert len(set(map(tuple, result["archs"]))) == 4
    assert (run / "rank" / "batch.png").read_bytes().startswith(b"\x89PNG")
    log = run / "rank" / "trained.jsonl"
    before = log.read_text()
    assert len(before.splitlines()) == 4
    assert sorted(path.name for path in (run / "rank").iterdir() if path.is_dir()) == []

    ok("rank", "--run", run, "--n", 4, *BUDGET)
    assert log.read_text() == before  # nothing is trained twice
    ok("rank", "--run", run, "--n", 4, *BUDGET, "--seeds", 2)
    assert log.read_text().startswith(before)
    assert len(log.read_text().splitlines()) == 8
    again = json.loads((run / "rank" / "rank.json").read_text())
    assert [seeds[0] for seeds in again["trained_alone"]] == [seeds[0] for seeds in result["trained_alone"]]
    assert any(name.startswith("ceiling") for name in again["rankings"])


def test_both_accuracies_are_of_the_metric(run):
    ok("rank", "--run", run, "--n", 3, *BUDGET, "--metric", "top5")
    found = json.loads((run / "rank" / "rank.json").read_text())
    lines = [json.loads(line) for line in (run / "rank" / "trained.jsonl").read_text().splitlines()]
    alone = {tuple(line["arch"]): line["val_top5_accuracy"] for line in lines if "val_top5_accuracy" in line}
    assert found["metric"] == "top5"
    assert found["trained_alone"] == [[alone[tuple(arch)]] for arch in found["archs"]]
    folder = RunFolder(run)
    images, space, cpu = folder.images(), folder.space(), torch.device("cpu")
    supernet = folder.supernet(space, cpu, "eager")
    recalibration = spos.recalibration_images(images, 2, 32)
    for arch, share in zip(found["archs"], found["one_shot"]["recalibrated"], strict=True):
        recalibrate_bn(supernet.eval(), recalibration, arch)
        x, y = whole(halves(images.val)[0])
        with torch.no_grad():
            guesses = supernet(x, tuple(arch)).topk(5).indices
        assert share == pytest.approx((guesses == y[:, None]).any(1).float().mean().item(), abs=2 / len(y))


def test_files_and_refusals(run, tmp_path):
    listed = tmp_path / "archs.json"
    archs = json.loads((run / "rank" / "rank.json").read_text())["archs"] if (run / "rank").exists() else []
    archs = archs or [[0, 1, 2], [1, 1, 1], [2, 0, 3]]
    listed.write_text(json.dumps(archs[:3]))
    ok("rank", "--run", run, "--pick", listed, *BUDGET)
    listed.write_text(json.dumps([[0, 1, 2]]))
    assert "a ranking needs three or more" in refused("rank", "--run", run, "--pick", listed, *BUDGET)
    listed.write_text(json.dumps([[99, 1, 2]]))
    assert "allows" in refused("rank", "--run", run, "--pick", listed, *BUDGET)
    assert "--bn: expected one or more" in refused("rank", "--run", run, "--bn")
    listed.write_text("{}{")
    assert "not a readable" in refused("rank", "--run", run, "--pick", listed, *BUDGET)
    assert "expected uniform, front" in refused("rank", "--run", run, "--pick", "best", *BUDGET)
    assert "run python tools/evolve.py" in refused("rank", "--run", run, "--pick", "front", *BUDGET)
    assert "train_supernet.py" in refused("rank", "--run", tmp_path / "none", *BUDGET)


def test_the_halves_are_disjoint_and_cover_the_validation_split():
    val = sets.open_train("digits", Path("data")).val
    first, second = halves(val)
    assert sorted([*first.index, *second.index]) == sorted(val.index)
    assert abs(len(first) - len(second)) <= 1
    counts = [np.bincount(half.labels, minlength=10) for half in (first, second)]
    assert np.abs(counts[0] - counts[1]).max() <= 2


def test_only_trainings_to_the_end_open_the_test_set():
    """Retraining, what ends with networks to be used, int8 files that are decided; no search, ranking or pruning."""
    files = [file for package in ("supernet", "search", "latency") for file in (ROOT / package).rglob("*.py")]
    users = {file.stem for file in files if re.search(r"(?<!\")\b(open_test|test_images)[(,]", file.read_text())}
    opening = {"sets", "faces", "benchmarks", "runs"}
    opening |= {"opening", "face_nas"}  # a new run looks whether all files can be read, those of the test too; no more
    assert users - opening == {"retraining", "global_nas", "stage_wise", "face_run", "specialise", "export"}
