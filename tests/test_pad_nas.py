"""PAD-NAS at tiny size: Algorithm 1 recomputed from its logs, weights inherited, interrupted everywhere."""

from __future__ import annotations

import dataclasses
import doctest
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latency.table import SCHEMA, LatencyTable
from search import drawing, pad_nas
from search import run as search_run
from search.ces import CESConfig
from search.costs import AdditiveCost
from search.evaluator import Evaluator
from search.run import Scoring
from supernet import families, files, spaces
from supernet.cli import pad_nas as tool
from supernet.cli import starting
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.methods import spos
from supernet.model import Supernet
from supernet.progress import silent
from supernet.space import Space
from supernet.training import checkpoint
from supernet.training.loop import FitConfig
from tests.conftest import tiny_space
from tests.test_cli import ROOT, command, kill_when, lines, ok, refused
from tests.test_train import images

CPU = torch.device("cpu")
DATA = TrainVal(images(96), images(60, seed=1), 10, 1, 14, tuple(map(str, range(10))))
CONFIG = pad_nas.Config(
    FitConfig(epochs=1, batch_size=32, augment=False),
    epochs=(2, 1, 1),
    lr=0.05,
    fine_tune_lr=0.01,
    threshold=0.1,
    rank=3,
    ces=CESConfig(6, 3),
    scoring=Scoring(recalibration=(2, 16)),
    random=3,
)


def run(folder, config=CONFIG, stop=None, progress=silent):
    """All stages, or those before ``stop``."""
    space = tiny_space()
    costs = {"flops": AdditiveCost(*families.layout(space).priced(lambda spec: spec.flops))}
    stages = []
    for stage in pad_nas.run(space, DATA, config, costs, {}, ["flops"], folder, CPU, {}, progress):
        stages.append(stage)
        if stage.number == stop:
            break
    return stages


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pad_nas")
    return folder, run(folder)


def test_algorithm_1_from_its_logs(whole):
    """Ranks, frequencies and pruning once more, from what each search logged."""
    _, stages = whole
    assert [stage.number for stage in stages] == [1, 2, 3]
    allowed = tiny_space().allowed
    for stage in stages:
        assert Space.load(stage.folder / "space.json").allowed == allowed
        log = files.JsonLines(stage.folder / "population.jsonl").read()
        points = {tuple(line["arch"]): (-line["accuracy"], line["costs"]["flops"]) for line in log}
        assert 6 <= len(points) <= 18
        left, good = dict(points), []
        for _ in range(2):  # nondomination ranks 1 and 2: below 3
            front = [
                a
                for a, f in left.items()
                if not any(g != f and all(x <= y for x, y in zip(g, f, strict=True)) for g in left.values())
            ]
            good += front
            left = {a: f for a, f in left.items() if a not in front}
        expected = []
        for j, open_ in enumerate(allowed):
            share = {i: sum(a[j] == i for a in good) / len(good) for i in open_}
            assert stage.p[j] == pytest.approx([share.get(i, 0) for i in range(len(stage.p[j]))])
            expected.append(tuple(i for i in open_ if share[i] > 0.1))
        assert all(expected)
        assert stage.pruned.allowed == tuple(expected)
        allowed = tuple(expected)
        saved = json.loads((stage.folder / "stage.json").read_text())
        assert saved["size"] == stage.space.size == np.prod([len(open_) for open_ in stage.space.allowed])
        assert saved["pruned_size"] == stage.pruned.size
        assert saved["architectures_counted"] == len(good)
        assert all(sum(layer.values()) == pytest.approx(1) for layer in saved["distribution"])
        for picture in ("distribution.png", "networks.png"):
            assert (stage.folder / picture).read_bytes().startswith(b"\x89PNG")
    assert stages[1].space.size < stages[0].space.size


def test_progress_tells_the_stage(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    told = []

    def noted(label, *of, **how):
        told.append(label)
        return silent(label, *of, **how)

    run(tmp_path, progress=noted)
    assert told == [f"stage {number}, {what}" for number in (1, 2, 3) for what in ("supernet", "CES")]


def test_a_pruned_supernet_starts_from_the_weights_of_the_one_before(tmp_path):
    space = tiny_space()
    before = Supernet(space)
    pruned = space.restrict([(1,), (0, 2), (3,)])
    still = spos.Config(FitConfig(epochs=1, batch_size=32, lr=1e-30), probes=0)  # moves nothing
    after = spos.run(pruned, DATA, still, tmp_path, CPU, inherit=before)
    inherited = dict(before.named_parameters())
    for name, weight in after.named_parameters():
        torch.testing.assert_close(weight, inherited[name], rtol=0, atol=1e-20, msg=name)
    assert sum(p.numel() for p in after.parameters()) < sum(p.numel() for p in before.parameters())


def test_the_optimiser_is_fresh(whole):
    """Momentum of a fine-tuned supernet after its one epoch holds this stage's parameters only."""
    _, stages = whole
    for stage in stages:
        state = checkpoint.load(stage.folder / "checkpoint.pt")
        parameters = list(Supernet(stage.space).parameters())
        assert sum(len(group["params"]) for group in state["optimizer"]["param_groups"]) == len(parameters)
        assert state["step"] == (2 if stage.number == 1 else 1) * 3


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_a_stopped_run_ends_with_the_same_front(whole, tmp_path, monkeypatch, calls):
    """Interrupted in one of the searches; ``tests/test_train.py`` does so in training."""
    original, count = Evaluator.__call__, []

    def failing(self, archs, bar=None):
        count.append(1)
        if len(count) == calls:
            raise KeyboardInterrupt
        return original(self, archs, bar)

    monkeypatch.setattr(Evaluator, "__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    same(whole[1], run(tmp_path))


def test_stopped_between_stages_and_run_again_when_finished(whole, tmp_path):
    run(tmp_path, stop=1)
    same(whole[1], run(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json*")}
    same(whole[1], run(tmp_path))
    for path, content in before.items():
        assert path.read_bytes() == content


def test_networks_are_told_layer_by_layer():
    """An inverted bottleneck, one with squeeze-excite, and layers that are neither."""
    space = spaces.get("mobile-v3-small", 1, 28, 10)
    arch = (0, 1, 1, 0, 3, 2)
    assert space.describe(arch) == "k3_e1 max_pool_k3 k5_e4 identity k5_e4 k3_e1"
    specs = families.layout(space).pick(arch)[1:-1]
    assert list(map(drawing.told, specs)) == [
        *("3×3\ne1", "3×3\nmax pool", "5×5\ne4\nSE"),
        *("identity", "5×5\ne4\nSE", "3×3\ne1\nSE"),
    ]


def test_networks_along_a_front_are_its_ends_and_what_lies_evenly_between():
    assert pad_nas.along(range(9)) == [0, 2, 4, 6, 8]
    assert pad_nas.along(range(3)) == [0, 1, 2]
    assert pad_nas.along(range(100), 3) == [0, 50, 99]


def test_what_a_stage_took_survives_a_kill(whole, tmp_path, monkeypatch):
    """A clock that ticks with each look: a generation takes one tick, whichever process makes it."""
    original, ticks, calls = Evaluator.__call__, itertools.count(), []

    def failing(self, archs, bar=None):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, archs, bar)

    monkeypatch.setattr(search_run.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(Evaluator, "__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=1)
    found = run(tmp_path, stop=1)[0]
    assert found.seconds["search"] == len(found.found.search.history) == 3
    rates = [line["images_per_second"] for line in files.JsonLines(found.folder / "metrics.jsonl").read()]
    assert found.seconds["training"] == pytest.approx(96 / rates[0] + 96 / rates[1])
    assert json.loads((found.folder / "stage.json").read_text())["seconds"] == found.seconds


def test_pruning_that_is_sure_keeps_what_cannot_be_told_apart(whole):
    """Of endless images it is the paper's rule; of few, more stays, and all where nothing may be doubted."""
    search = whole[1][0].found.search
    plain = pad_nas.prune(search, CONFIG, 60)[1]
    kept = {
        (images, sure): pad_nas.prune(search, dataclasses.replace(CONFIG, sure=sure), images)[1]
        for images in (60, 10**40)
        for sure in (0.5, 1.0)
    }
    assert kept[10**40, 1.0] == plain
    for space in kept.values():
        assert all(set(a) <= set(b) for a, b in zip(plain.allowed, space.allowed, strict=True))
    assert plain.size < kept[60, 1.0].size
    assert kept[60, 0.5].size <= kept[60, 1.0].size


def same(expected, found):
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        assert a.found.search.records() == b.found.search.records()
        assert (a.random, a.p, a.pruned) == (b.random, b.p, b.pruned)
        for name in ("population.jsonl", "metrics.jsonl"):
            mine, its = (files.JsonLines(stage.folder / name).read() for stage in (a, b))
            timeless = [
                [{k: v for k, v in line.items() if k != "images_per_second"} for line in x] for x in (mine, its)
            ]
            assert timeless[0] == timeless[1]


def test_impossible_settings():
    for change, message in (
        ({"epochs": ()}, "epochs is"),
        ({"epochs": (2, 0)}, "epochs is"),
        ({"threshold": 1.0}, "threshold is 1.0; expected a probability below 1"),
        ({"rank": 1}, "rank is 1"),
        ({"sure": 95}, "sure is 95; expected a share"),
    ):
        with pytest.raises(UserError, match=message):
            pad_nas.Config(FitConfig(1), **change)


def test_the_usual_threshold():
    assert doctest.testmod(pad_nas).failed == 0


# --- the command

SMALL = ("--data", "digits", "--limit", 160, "--batch-size", 32, "--epochs", 2, 1, "--population", 4)
SMALL += ("--iterations", 3, "--random", 2, "--recalibration", 2, 32, "--workers", 1, "--threshold", 0.1)


def lut(space: Space, **change) -> dict:
    """A latency table of ``space``: every layer that runs takes longer than the one before."""
    specs = families.layout(space)
    runs = [spec.key for spec in (specs.stem, *(c for row in specs.choices for c in row), specs.head) if spec.runs]
    measured = {"n": 12, "aa": 0.01, "cpu_wall": 1.0, "source": "wall", "noisy": False}
    operations = {}
    for i, key in enumerate(dict.fromkeys(runs)):
        ms = 0.1 + 0.01 * i
        operations[key] = {"median_ms": ms, "p10": ms, "p90": ms, "min": ms, **measured}
    return {
        "schema": SCHEMA,
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        "device": {"cpu": "abacus", "cores": 1, "core": None},
        "runtime": {"name": "torch", "options": {}},
        "batch": 1,
        "threads": 1,
        "input": [1, 28, 28],
        "protocol": {"rounds": 12},
        "operations": operations,
        "calibration": None,
        **change,
    }


@pytest.fixture(scope="module")
def table(space_file) -> Path:
    path = space_file.parent / "lut.json"
    path.write_text(json.dumps(lut(Space.load(space_file))))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, space_file, table) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("tool") / "run"
    printed = ok("pad_nas", "--run", folder, "--space", space_file, *SMALL, "--lut", table, "--lat-max", 0.64)
    return folder, printed


def test_one_command_makes_the_whole_run(finished, table):
    folder, printed = finished
    assert f"next: python tools/retrain.py --pick best --run {folder / 'supernet-2'}" in printed
    assert "MiB per worker" in " ".join(printed.split())
    front = json.loads((folder / "supernet-2" / "front.json").read_text())
    space = Space.load(folder / "supernet-2" / "space.json")
    latency = LatencyTable.load(table)
    for entry in front["front"]:
        expected = latency.predict(spec.key for spec in families.lower(space, space.check(entry["arch"])))
        assert entry["latency_ms"] == pytest.approx(expected)
        assert expected <= 0.64
    assert space.size <= Space.load(folder / "supernet-1" / "space.json").size
    assert (folder / "supernet-1" / "distribution.png").exists()


@pytest.mark.chain
def test_measures_a_table_where_none_is_given(tmp_path, space_file):
    ok("pad_nas", "--run", tmp_path / "run", "--space", space_file, *SMALL)
    table = LatencyTable.load(tmp_path / "run" / "lut.json", Space.load(space_file))
    assert table.calibration is not None
    assert (tmp_path / "run" / "supernet-2" / "lut.json").exists()


def test_killed_and_continued(finished, tmp_path, space_file, table):
    whole, _ = finished
    folder = tmp_path / "killed"
    arguments = ("--run", folder, "--space", space_file, *SMALL, "--lut", table, "--lat-max", 0.64, "--quiet")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        command("pad_nas", *arguments), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet
    )
    kill_when(process, lambda: lines(folder / "supernet-1" / "population.jsonl") >= 4)
    assert not (folder / "supernet-2" / "front.json").exists()
    ok("pad_nas", *arguments)
    for name in ("supernet-1/front.json", "supernet-2/front.json", "supernet-2/population.jsonl"):
        assert (folder / name).read_text() == (whole / name).read_text(), name


def test_the_same_command_goes_on_to_retrain(finished, space_file, table):
    folder, _ = finished
    before = (folder / "supernet-2" / "front.json").read_text()
    finish = ("--run", folder, "--space", space_file, *SMALL, "--lut", table, "--lat-max", 0.64, "--retrain", 1)
    ok("pad_nas", *finish)
    result = json.loads((folder / "supernet-2" / "best" / "result.json").read_text())
    front = json.loads(before)
    assert result["arch"] == front["front"][front["best"]]["arch"]
    assert 0 <= result["test_accuracy"] <= 1
    assert (folder / "supernet-2" / "front.json").read_text() == before


def test_another_table_does_not_continue_a_run(finished, tmp_path, space_file):
    other = lut(Space.load(space_file))
    for samples in other["operations"].values():
        samples["median_ms"] *= 0.9
    (tmp_path / "other.json").write_text(json.dumps(other))
    again = ("--run", finished[0], "--space", space_file, *SMALL, "--lat-max", 0.64)
    assert "lut: [" in refused("pad_nas", *again, "--lut", tmp_path / "other.json")
    message = refused("pad_nas", *again, "--lut", tmp_path / "none.json")
    assert "no latency table at" in message


def test_refusals_before_any_training(finished, tmp_path, space_file):
    fresh = ("--run", tmp_path / "run", "--space", space_file, *SMALL)
    assert "no latency table at" in refused("pad_nas", *fresh, "--lut", ROOT / "tests" / "nowhere.json")
    message = refused("pad_nas", *fresh, "--objectives", "flops", "--flops-max", 10)
    assert "cannot be met" in message
    assert not (tmp_path / "run").exists()  # nothing half-written
    assert "large, v3" in refused("pad_nas", "--run", tmp_path / "other", *SMALL, "--space", "tiny")
    assert "lower the batch size" in refused("pad_nas", *fresh, "--batch-size", 10**4)  # before a table is measured
    message = refused("pad_nas", "--run", finished[0], "--space", space_file, *SMALL, "--objectives", "params")
    assert "objectives" in message


def test_tables_and_windows_that_are_refused_before_any_training(tmp_path, space_file, monkeypatch, capsys):
    """By the command's own entry, in this process: starting it takes longer than all that it does."""
    space = Space.load(space_file)
    whole = lut(space)
    missing = next(key for key in whole["operations"] if key.startswith("ib_"))
    fastest, *_, slowest = sorted(
        sum(whole["operations"][spec.key]["median_ms"] for spec in families.lower(space, arch) if spec.runs)
        for arch in space.enumerate()
    )
    for change, window, message in (
        ({"operations": {k: v for k, v in whole["operations"].items() if k != missing}}, (), missing),
        ({"space": {"name": "other", "fingerprint": "0123456789abcdef"}}, (), "0123456789abcdef"),
        ({}, ("--lat-max", fastest - 0.01), "is below the fastest architecture"),
        ({}, ("--lat-min", slowest + 0.01, "--lat-max", slowest + 1), "no latency lies between"),
        ({}, ("--lat-min", fastest + 0.001, "--lat-max", fastest + 0.002), f"the nearest has latency {fastest:.9g}"),
    ):
        (tmp_path / "lut.json").write_text(json.dumps({**whole, **change}))
        arguments = ("--run", tmp_path / "run", "--space", space_file, *SMALL, "--lut", tmp_path / "lut.json", *window)
        monkeypatch.setattr(sys, "argv", ["pad_nas.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            starting.main(tool.run, tool.Args)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert not (tmp_path / "run").exists()
