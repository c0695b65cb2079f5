"""The experiments at tiny size: each runs, keeps its cells, and gives the same results when it is run again."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import _common, pad_nas, scaling, stage_wise, truth_table
from supernet import families, spaces
from supernet.data import sources
from supernet.errors import UserError

ROOT = Path(__file__).parents[1]
EXPERIMENTS = [p.stem for p in sorted((ROOT / "experiments").glob("[a-z]*.py")) if "class Args" in p.read_text()]


def experiment(name: str, *args: object) -> str:
    command = [sys.executable, "-m", f"experiments.{name}", "--quick", "--data", "digits", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_truth_table(tmp_path):
    output = tmp_path / "truth_table.json"
    experiment("truth_table", "--run", tmp_path / "run", "--output", output, "--jobs", 1)
    first = json.loads(output.read_text())
    assert len(first["archs"]) == 8
    assert all(len(row) == 2 and all(0 <= value <= 1 for value in row) for row in first["accuracies"])
    log = (tmp_path / "run" / "truth.jsonl").read_text()
    kept = log.splitlines()[:10]
    (tmp_path / "run" / "truth.jsonl").write_text("\n".join(kept) + "\n" + log.splitlines()[10][:20])  # a kill
    experiment("truth_table", "--run", tmp_path / "run", "--output", output, "--jobs", 1)
    assert json.loads(output.read_text())["accuracies"] == first["accuracies"]
    redrawn(output, "truth_table")


def test_the_truth_table_holds_a_good_and_a_bad_operation_of_every_layer():
    space = truth_table.truth_space()
    assert space.size == 64 == len(space.enumerate())
    assert all(len(open_) == 2 for open_ in space.allowed)


def whole_table(path: Path) -> Path:
    """A table of all 64 networks with made-up accuracies."""
    space = truth_table.truth_space()
    archs = space.enumerate()
    accuracies = [[sum(arch) / 20 + seed / 1000 for seed in range(4)] for arch in archs]
    path.write_text(json.dumps({"space": space.to_json(), "archs": archs, "accuracies": accuracies}))
    return path


@pytest.mark.slow
def test_regret_on_a_truth_table(tmp_path):
    """Where the table's seeds agree on the order, all of it has no regret, and no search is below that."""
    output = tmp_path / "evolution.json"
    table = whole_table(tmp_path / "table.json")
    experiment("evolution", "--run", tmp_path / "run", "--output", output, "--workers", 1, "--table", table)
    regret = {name: row["regret"] for name, row in json.loads(output.read_text())["regret"].items()}
    assert regret["table, all 64"] == [0, 0]
    assert len(regret["table, ces"]) == 2 * 2
    assert all(value >= 0 for values in regret.values() for value in values)
    assert sum(regret["table, ces"]) / 4 < sum(regret["a random network"]) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flag"),
    [("pad_nas", "--jobs"), ("evolution", "--workers"), ("stage_wise", "--jobs"), ("recipes", "--jobs")],
)
def test_runs_and_is_repeatable(tmp_path, name, flag):
    output = tmp_path / f"{name}.json"
    arguments = ("--run", tmp_path / "run", "--output", output, flag, 1)
    experiment(name, *arguments)
    first = timeless(output)
    experiment(name, *arguments)
    assert timeless(output) == first
    redrawn(output, name)


def timeless(path: Path) -> dict:
    """The results without the minutes that they took."""
    result = json.loads(path.read_text())
    del result["machine"]
    return result


def redrawn(output: Path, name: str) -> None:
    """The tables and the picture come from the results alone, and come again the same."""
    tables, picture = output.with_suffix(".md"), output.with_suffix(".png")
    before = tables.read_text()
    assert "|---|" in before
    assert picture.read_bytes().startswith(b"\x89PNG")
    for path in (tables, picture):
        path.unlink()
    experiment(name, "--output", output, "--run", output.parent / "nothing", "--redraw")
    assert tables.read_text() == before
    assert picture.exists()
    assert not (output.parent / "nothing").exists()


@pytest.mark.slow
def test_global_nas_writes_its_tables_from_finished_trainings_alone(tmp_path):
    run, output = tmp_path / "run", tmp_path / "results"
    arguments = ("--run", run, "--output", output, "--jobs", 2)
    experiment("global_nas", *arguments)
    first, logs = timeless(output / "global_nas.json"), {p: p.stat().st_mtime_ns for p in run.rglob("metrics.jsonl")}
    assert (output / "global_nas.png").read_bytes().startswith(b"\x89PNG")
    text = (output / "global_nas.md").read_text()
    assert "python -m experiments.global_nas" in text
    assert text.count("|---|---|---|") == 2
    experiment("global_nas", *arguments)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("metrics.jsonl")} == logs
    assert timeless(output / "global_nas.json") == first


def test_stage_wise_s_test_of_signs():
    """Against all choices of signs, in words; with five positive differences p is 2 of 32."""
    assert stage_wise.sign_flip([1, 2, 3, 4, 5]) == 2 / 32
    assert stage_wise.sign_flip([0, 0, 0]) == 1
    assert stage_wise.sign_flip([1, -1]) == 1


def test_controls_keep_as_many_operations_as_pad_nas():
    """Sizes layer by layer, nesting, and that the largest are the largest."""
    space = spaces.get("mobile-small", 1, 28, 10)
    stages = [space, space.restrict([{0}, {0, 2}, {1}, {1, 2, 3}, {3}, {0, 1}])]
    stages.append(stages[1].restrict([{0}, {0}, {1}, {1, 3}, {3}, {1}]))
    for nested in (pad_nas.at_random(stages, 0), pad_nas.keep_largest(stages)):
        assert [list(map(len, s.allowed)) for s in nested] == [list(map(len, s.allowed)) for s in stages]
        for outer, inner in itertools.pairwise(nested):
            assert all(set(b) <= set(a) for a, b in zip(outer.allowed, inner.allowed, strict=True))
    flops = families.layout(space).priced(lambda spec: spec.flops).table
    for row, open_, kept in zip(flops, space.allowed, nested[-1].allowed, strict=True):
        assert min(row[i] for i in kept) >= max([row[i] for i in open_ if i not in kept], default=0)


def told(capsys, monkeypatch, name: str, *args: object) -> str:
    """The line with which an experiment ends that cannot be."""
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        _common.main(module.run, module.Args)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+\n", err)
    return err


ON_DEVICES = ["dsnas", "dsnas_correlation", "nss", "pad_nas", "global_nas", "evolution"]


@pytest.mark.parametrize("name", [*ON_DEVICES, "stage_wise"])
def test_what_cannot_be_is_told_in_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, name):
    """Fashion-MNIST that is not there least of all: other images would be taken for it in docs/results."""

    def missing(root, network=True):
        raise UserError(f"fashion-mnist is not in {root}")

    places = ("--run", tmp_path / "run", "--output", tmp_path / "results")
    monkeypatch.setattr(sources, "fetch_fashion_mnist", missing)
    assert "fashion-mnist is not in nowhere" in told(capsys, monkeypatch, name, *places, "--data-root", "nowhere")
    assert "expected a data set among" in told(capsys, monkeypatch, name, *places, "--data", "cats")
    if name in ON_DEVICES:
        nothing = ("--data", "digits", "--device", "cuda:99")
        assert "cannot use the device cuda:99" in told(capsys, monkeypatch, name, *places, *nothing)
    assert not list(tmp_path.iterdir())


class Fate:
    """Draws that are known: no task is slow, and the first one's worker is lost after a second."""

    def __init__(self):
        self.losses = iter([1.0])

    def lognormal(self, mean, sigma):
        return 1.0

    def random(self):
        return 1.0

    def exponential(self, scale):
        return next(self.losses, math.inf)


@pytest.mark.parametrize(
    ("tasks", "workers", "send", "losses", "seconds"),
    [
        ([3.0, 2.0, 2.0, 1.0], 2, 0.0, 0.0, 4.0),  # 3 + 1 beside 2 + 2
        ([1.0] * 4, 1, 0.5, 0.0, 5.0),  # sent, four in a row, told
        ([2.0], 1, 0.0, 1.0, 1.0 + scaling.RESTART + 2.0),  # lost, replaced, done
        ([2.0], 2, 0.0, 1.0, 1.0 + 2.0),  # lost, done by the other
    ],
)
def test_simulated_workers_take_as_long_as_by_hand(tasks, workers, send, losses, seconds):
    assert scaling.makespan(tasks, workers, send, losses, Fate()) == pytest.approx(seconds)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_what_it_asks(name):
    module = importlib.import_module(f"experiments.{name}")
    assert "quick" in module.Args.__dataclass_fields__
    assert module.__doc__
