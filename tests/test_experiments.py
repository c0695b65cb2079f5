"""The experiments at tiny size: each runs, keeps its cells, and gives the same results when it is run again."""

from __future__ import annotations

import dataclasses
import doctest
import functools
import importlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments import (
    _ahead,
    _common,
    _pad_nas,
    _report,
    catalogue,
    evolution,
    own_network,
    pad_nas,
    pad_nas_stages,
    scaling,
    stage_wise,
    truth_table,
)
from search.ask_tell import Record
from supernet import families, machine, spaces
from supernet.data import sources
from supernet.errors import UserError
from supernet.training import defaults
from tests import test_pad_nas
from tests.conftest import tiny_space

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
    [
        ("pad_nas", "--jobs"),
        ("pad_nas_stages", "--jobs"),
        ("pad_nas_search", "--workers"),
        ("evolution", "--workers"),
        ("stage_wise", "--jobs"),
        ("recipes", "--jobs"),
        ("global_nas_ranking", "--jobs"),
        ("global_nas_ablation", "--jobs"),
        ("nss", "--seeds"),
    ],
)
def test_runs_and_is_repeatable(tmp_path, name, flag):
    output = tmp_path / f"{name}.json"
    arguments = ("--run", tmp_path / "run", "--output", output, flag, 1)
    experiment(name, *arguments)
    first = timeless(output)
    experiment(name, *arguments)
    assert timeless(output) == first
    redrawn(output, name)
    read(output, name)


def read(output: Path, name: str) -> None:
    """Each figure that the catalogue takes from the results of an experiment is in them."""
    items = [item for _, item in catalogue.select(catalogue.ALL) if item.tiny]
    for item in items:
        if item.tiny.program == f"experiments.{name}" and item.ours:
            assert re.search(r"\d|undefined", item.ours(json.loads(output.read_text()))), item.name


@pytest.mark.slow
def test_segmentation_runs_and_is_repeatable(tmp_path):
    space = spaces.get("mobile-small", 1, 28, 10)
    front = [{"arch": [1, 3, 1, 3, 2, 1], "cost": 1.0}]
    found = tmp_path / "found.json"
    seed = {"fronts": {"PAD": front, "I": front}, "by_hand": {"k3_e1": {"cost": 1.0}}}
    found.write_text(json.dumps({"space": space.to_json(), "seeds": [seed]}))
    output = tmp_path / "segmentation.json"
    given = ("--run", tmp_path / "run", "--output", output, "--found", found, "--by-hand", "k3_e1", "--jobs", 1)
    experiment("segmentation", *given)
    first = timeless(output)
    experiment("segmentation", *given)
    assert timeless(output) == first
    rows = first["networks"]
    assert rows["PAD"] == rows["I"]  # the same network, trained the same way
    assert all(0 <= row["miou"] <= 1 for seeds in rows.values() for row in seeds)
    redrawn(output, "segmentation")
    read(output, "segmentation")


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
def test_global_nas_trains_nothing_twice(tmp_path):
    run, output = tmp_path / "run", tmp_path / "global_nas.json"
    arguments = ("--run", run, "--output", output, "--jobs", 2)
    experiment("global_nas", *arguments)
    first, logs = timeless(output), {p: p.stat().st_mtime_ns for p in run.rglob("metrics.jsonl")}
    assert len(first["searches"]) == len(first["comparison"]["found"]) == len(first["comparison"]["ri"]) == 2
    assert first["search"] == first["searches"][0]
    beside = tmp_path / "others.json"
    beside.write_text(output.read_text())
    experiment("global_nas", *arguments, "--searches", 2, "--beside", beside)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("metrics.jsonl")} == logs
    assert timeless(output) == {**first, "command": timeless(output)["command"]}
    redrawn(output, "global_nas")
    read(output, "global_nas")


@pytest.mark.slow
def test_faces_are_drawn_and_recognised(tmp_path):
    output = tmp_path / "faces.json"
    command = [sys.executable, "-m", "experiments.global_nas_faces", "--quick", "--jobs", "1", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("run", "nothing"):  # the second one has the results alone
        more = ["--redraw"] if name == "nothing" else []
        subprocess.run([*command, "--run", str(tmp_path / name), *more], cwd=ROOT, env=environment, check=True)
    result = json.loads(output.read_text())
    for row in (*result["found"], *result["reference"]):
        assert row["benchmarks"].keys() == {"pairs", "templates", "gallery"}
    assert result["images"] == "drawn people"
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "nothing").exists()
    read(output, "global_nas_faces")


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
    for nested in (_pad_nas.at_random(stages, 0), _pad_nas.keep_largest(stages)):
        assert [list(map(len, s.allowed)) for s in nested] == [list(map(len, s.allowed)) for s in stages]
        for outer, inner in itertools.pairwise(nested):
            assert all(set(b) <= set(a) for a, b in zip(outer.allowed, inner.allowed, strict=True))
    flops = families.layout(space).priced(lambda spec: spec.flops).table
    for row, open_, kept in zip(flops, space.allowed, nested[-1].allowed, strict=True):
        assert min(row[i] for i in kept) >= max([row[i] for i in open_ if i not in kept], default=0)


def test_a_random_space_can_be_asked_to_fit():
    """One that keeps the cheapest operation of the first layer, of four that are as likely."""
    space = spaces.get("mobile-small", 1, 28, 10)
    stages = [space, space.restrict([{1}, *(set(open_) for open_ in space.allowed[1:])])]
    for seed in range(8):
        assert _pad_nas.at_random(stages, seed, lambda last: last.allowed[0] == (0,))[-1].allowed[0] == (0,)


def test_three_disjoint_sets_of_a_folder_of_images(tmp_path):
    """As ImageNet would be given: the share that is held out gives the images of the scores and of the truth."""
    rng = np.random.default_rng(0)
    for part, name, i in itertools.product(("train", "val"), ("cat", "dog"), range(20)):
        (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8))
        picture.save(tmp_path / part / name / f"{i}.png")
    args = pad_nas.Args(
        data="folder", data_root=tmp_path, train=1000, held=0.4, search_images=6, truth_images=8, augment=True
    )
    opened, truth = _common.open_images(args.images, workers=2)
    assert (opened.train.workers, opened.val.workers, truth.workers) == (2, 2, 2)
    parts = [set(of.index.tolist()) for of in (opened.train, opened.val, truth)]
    assert list(map(len, parts)) == [24, 6, 8]
    assert len(set.union(*parts)) == 38
    assert args.budget.fit(3).schedule == "linear"


def test_a_gpu_trains_one_network_at_a_time_while_the_cores_decode(tmp_path):
    space, budget = tiny_space(), pad_nas.Args().budget
    trainers = [_common.Truth(tmp_path, space, budget, 3, True, device).executor for device in ("cpu", "cuda")]
    assert [of.at_once for of in trainers] == [3, 1]
    assert [pad_nas.Args(device=device).decoders for device in ("cpu", "cuda")] == [0, machine.cores()]


def test_kernels_are_those_of_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "kernels", lambda device: "eager")
    args = pad_nas.Args(data="digits", run=tmp_path).settled()
    study = _pad_nas.Study(args, tiny_space(), test_pad_nas.DATA)
    assert study.config((1,), 0).kernels == "eager"


def test_the_threshold_of_pruning_is_the_command_s():
    """The paper's 1 % for as many architectures as it scores; what is given stays."""
    found = [
        pad_nas.Args(population=population, iterations=iterations).settled(train=1)
        for population, iterations in ((64, 40), (64, 20), (24, 8))
    ]
    assert [args.threshold for args in found] == pytest.approx([0.01, 0.02, 0.1])
    assert [args.train for args in found] == [1, 1, 1]
    assert pad_nas.Args(threshold=0.07).settled().threshold == 0.07
    assert pad_nas.Args().settled(threshold=0.2).threshold == 0.2


def test_accuracies_of_before_are_known_again_and_those_of_other_settings_are_not():
    images = _common.Images("fashion-mnist", "anywhere", 3_000, 2_000, 6_000)
    known = {"name": "fashion-mnist", "train": 3_000, "search": 2_000, "truth": 6_000}
    before = {"images": known, "epochs": 3, "batch_size": 64, "lr": 0.08}  # as truth.jsonl has it
    assert _common.Budget(images, 3).identity() == before
    other = _common.Budget(dataclasses.replace(images, held=0.1), 3, augment=True, schedule="linear")
    assert other.identity() == {**before, "images": {**known, "held": 0.1}, "augment": True, "schedule": "linear"}


def test_windows_are_latencies_where_there_is_a_table(tmp_path):
    """Of a table whose layers take known times, added up here; a space that is all dearer gives no random networks."""
    space, path = tiny_space(), tmp_path / "lut.json"
    path.write_text(json.dumps(test_pad_nas.lut(space)))
    known = {key: row["median_ms"] for key, row in json.loads(path.read_text())["operations"].items()}

    def latency(arch):
        return sum(known[spec.key] for spec in families.lower(space, arch))

    low, high = np.quantile([latency(arch) for arch in space.enumerate()], [0.3, 0.6])
    study = _pad_nas.Study(pad_nas.Args(data="digits", run=tmp_path), space, test_pad_nas.DATA, path, (low, high))
    inside = {arch for arch in space.enumerate() if low <= latency(arch) <= high}
    assert study.unit == "latency"
    assert set(study.draw(space, 1000, [0])) == inside
    dearest = max(space.enumerate(), key=latency)
    beyond = space.restrict([{choice} for choice in dearest])
    assert not study.reaches(beyond)
    assert study.draw(beyond, 5, [0]) == []
    middle = float(np.quantile([latency(arch) for arch in inside], 0.5))
    lower = _pad_nas.Study(
        pad_nas.Args(data="digits", run=tmp_path), space, test_pad_nas.DATA, path, (low, high), middle
    )
    assert set(lower.draw(space, 1000, [0])) == {arch for arch in inside if latency(arch) <= middle}
    front = [Record(arch, 0.0, {"latency": latency(arch)}, 0, 1) for arch in sorted(inside, key=latency)]
    assert latency(lower.best(front).arch) == max(latency(arch) for arch in inside if latency(arch) <= middle)
    assert lower.best(front[-2:]) == front[-2]
    assert study.best(front) == front[-1]
    unit, cost, window = evolution.problem(evolution.Args(lut=path, lat_min=low, lat_max=high), space)
    assert (unit, window) == ("latency", (low, high))
    assert cost(dearest) == pytest.approx(latency(dearest))
    with pytest.raises(UserError, match="expected --lat-min below --lat-max"):
        evolution.problem(evolution.Args(lut=path), space)
    with pytest.raises(UserError, match=f"--at 0: {space.name} has networks from {low:g} on"):
        _pad_nas.Study(pad_nas.Args(data="digits"), space, test_pad_nas.DATA, path, (low, high), 0)
    one = pad_nas.Args(data="digits", lut=(path,), lat_min=(low,), lat_max=(high,))
    with pytest.raises(UserError, match="mobile-small has no table or no window"):
        pad_nas.study(one, "mobile-small", 1)


def test_the_tiny_spaces_are_compared_at_one_cost():
    """Without --at: their windows end at the same multiply-adds."""
    args = pad_nas.Args(data="digits", train=100).settled()
    assert pad_nas.study(args, args.space, 0).compared == pad_nas.study(args, args.small, 1).compared


def test_stages_have_as_many_epochs_in_all():
    assert doctest.testmod(pad_nas_stages).failed == 0
    for stages in range(2, 9):
        epochs = pad_nas_stages.epochs_of((12, 8, 4), stages)
        assert (len(epochs), sum(epochs)) == (stages - 1, 24)
        assert stages == 2 or epochs[0] == 12


def test_each_search_is_counted_in_its_own_way():
    """By the generations and ranks of the records: a front of two, behind it one, then what the last batch has."""
    found = [(0, 1), (0, 10), (1, 1), (2, 3), (2, 12)]
    records = [SimpleNamespace(arch=(i,), generation=g, rank=r) for i, (g, r) in enumerate(found)]
    search = SimpleNamespace(records=lambda: records)
    assert evolution.counted("ces", search) == [(0,), (2,), (3,)]
    assert evolution.counted("spos", search) == [(3,), (4,)]
    assert evolution.counted("random", search) == [(0,), (1,), (2,), (3,), (4,)]


def test_hand_made_networks_have_one_operation_everywhere():
    space = spaces.get("mobile-large", 3, 224, 1000)
    made = _pad_nas.uniform(space)
    assert len(made) == 18
    names = space.describe(made["k5_e4"]).split()
    assert names[0] == "k5_e1"  # the first layer has no other expansion
    assert set(names[1:]) == {"k5_e4"}


def told(capsys, monkeypatch, name: str, *args: object) -> str:
    """The line with which an experiment ends that cannot be."""
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
    finish = getattr(module, "finish", None) or getattr(module, "write", None)
    with pytest.raises(SystemExit) as ended:
        _common.main(module.run, module.Args, finish)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+\n", err)
    return err


ON_DEVICES = ["dsnas", "nss", "pad_nas", "pad_nas_stages", "global_nas", "global_nas_ranking", "global_nas_ablation"]
ON_DEVICES += ["evolution", "pad_nas_search", "stage_wise_searches", "stage_wise_uniform", "dsnas_correlation"]


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
    assert "unrecognized options: --nosuch" in told(capsys, monkeypatch, name, "--nosuch", "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("dsnas", "--seeds 0", "--seeds 0: expected at least 1"),
        ("dsnas", "--space residual-small", "genes for its stages"),
        ("dsnas", "--flops-max 1", "flops <= 1 cannot be met"),
        ("dsnas", "--arch-lr -1", "expected both at least 0"),
        ("dsnas_correlation", "--cost-weight -1", "expected both at least 0"),
        ("evolution", "--runs 1", "expected two or more"),
        ("evolution", "--share -1", "expected one from 0 to 1"),
        ("evolution", "--table missing.json", "no truth table at missing.json"),
        ("pad_nas", "--share 2", "expected one from 0 to 1"),
        ("pad_nas", "--small residual-small", "genes for its stages"),
        ("pad_nas_stages", "--thresholds 0.1 2", "threshold is 2.0; expected a probability"),
        ("stage_wise_searches", "--initials 1 0", "initial is 0; expected at least 1"),
        ("stage_wise_uniform", "--chosen 1 9", "--chosen 1 9: expected iterations from 1 to 3"),
        ("stage_wise_uniform", "--donor 1 1", "bounds on depth 1-1, but there are 3 stages"),
        ("dsnas_steps", "--rounds 1", "--rounds 1: expected two or more"),
        ("global_nas", "--random 0", "--random 0: expected one network or more"),
        ("global_nas", "--depth 10 5", "depth from 10 to 5"),
        ("global_nas_ablation", "--pairs 46", "--pairs 46: digits has 45 pairs of classes"),
        ("global_nas_ablation", "--width 10 6", "width from 10 to 6"),
        ("global_nas_ranking", "--draws 0", "--draws 0: expected at least 1"),
        ("global_nas", "--searches 0", "--searches 0: expected at least 1"),
    ],
)
def test_settings_that_cannot_be_are_told_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, name, words, expected
):
    places = ("--run", tmp_path / "run", "--output", tmp_path / "results")
    data = () if name == "dsnas_steps" else ("--data", "digits")
    assert expected in told(capsys, monkeypatch, name, *places, *data, *words.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
@pytest.mark.parametrize(
    ("name", "option"),
    [("global_nas", "--beside"), ("stage_wise_transfer", "--found"), ("segmentation", "--found"), ("nss", "--output")],
)
def test_other_files_are_no_results(tmp_path, monkeypatch, capsys, name, option, text):
    (tmp_path / "other.json").write_text(text)
    words = {"--run": tmp_path / "run", "--output": tmp_path / "results", option: tmp_path / "other.json"}
    more = ["--redraw"] if option == "--output" else []
    more += [] if name == "stage_wise_transfer" else ["--data", "digits"]
    assert "other.json" in told(capsys, monkeypatch, name, *itertools.chain(*words.items()), *more)
    assert (tmp_path / "other.json").read_text() == text


@pytest.mark.parametrize("text", ["{}", "[]", '{"settings": {}}', '{"settings": {}, "machine": {"cpu_minutes": "1"}}'])
def test_results_do_not_go_on_in_another_file(tmp_path, text):
    path, clock = tmp_path / "other.json", _common.Clock(tmp_path, "clock")
    path.write_text(text)
    with pytest.raises(UserError, match="is not a readable results"):
        _common.Kept(path, {"settings": {}, "machine": {"cpu_minutes": 0.0}}, clock)
    assert path.read_text() == text


def test_tables_have_each_column_that_a_row_has():
    shown = _report.table("of two", {"a": {"x": "1"}, "b": {"x": "2", "y": "3"}})
    assert (shown.headings, shown.rows) == (["", "x", "y"], [["a", "1", ""], ["b", "2", "3"]])


def test_ctrl_c_ends_in_one_line(monkeypatch, capsys):
    """It was a traceback."""
    module = importlib.import_module("experiments.truth_table")
    monkeypatch.setattr(sys, "argv", ["truth_table.py"])

    @functools.wraps(module.run)
    def stopped(args):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        _common.main(stopped, module.Args)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command continues\n"


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


def test_ways_are_compared_at_equal_latency_on_the_lines_between_ours():
    """By hand: ours at 20, 40 and 60 % of the latency, the given network at 100 %."""
    points = {"ours, 0.5": (0.4, 0.90), "ours, by latency, 0.5": (0.2, 0.80), "ours, by latency, 0.75": (0.6, 0.91)}
    made = {key: [{"latency": x, "accuracy": y}] for key, (x, y) in points.items()}
    made |= {"given": [{"accuracy": 0.95}], "FastNAS, 0.5": [{"latency": 0.3, "accuracy": 0.86}]}
    assert _ahead.at_latency(made, 0, 0.3) == pytest.approx(0.85)
    assert _ahead.at_latency(made, 0, 0.8) == pytest.approx(0.93)
    assert _ahead.at_latency(made, 0, 1.3) == 0.95
    columns = {"at equal multiply-adds, points": "+4.00", "at equal latency, points": "-1.00"}
    assert _ahead.table(made) == {"FastNAS, 0.5": columns}


def test_given_networks_latencies_are_measured_again_where_their_files_lie(monkeypatch, tmp_path):
    made = {"share": 0.5, "before": 0.1, "accuracy": 0.9, "ms": 1.0, "latency": 1.0, "minutes": 2.0}
    rows = {"given": [{"accuracy": 0.9}] * 2, "ours, by latency, 0.5": [made, made]}
    known = {"settings": {"networks": ["resnet18"]}, "machine": {"cpu": "x", "cpu_minutes": 1, "torch": "2"}}
    (tmp_path / "known.json").write_text(json.dumps({"command": "here", **known, "resnet18": rows}))
    args = own_network.Args(run=tmp_path, output=tmp_path / "known.json", measure=True)
    path = tmp_path / f"own-resnet18-{args.train}x{args.epochs}-1" / "ours, by latency-0.5" / "network.onnx"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(own_network, "measured", lambda found: {"ms": 3.0, "latency": 0.7} if found == path else {})
    own_network.run(args)
    found = json.loads((tmp_path / "known.json").read_text())["resnet18"]
    assert found == rows | {"ours, by latency, 0.5": [made, made | {"ms": 3.0, "latency": 0.7}]}


def test_quickstart_is_measured_by_its_own_commands(monkeypatch, tmp_path):
    from experiments import quickstart

    make = ["make", "-n", "quickstart", "RUN=here"]
    recipe = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ran = []
    monkeypatch.setattr(quickstart.subprocess, "run", lambda words, **_: ran.append(words[1:]))
    expected = [line.split("python ")[1] for line in recipe.splitlines() if "python tools/" in line]
    for seed in (0, 1):
        quickstart.one(tmp_path, seed, Path("data"))
    told = [" ".join(words).replace(str(tmp_path), "here") for words in ran]
    plain = [line.replace(" --seed 0", "").replace(" --seed 1", "").replace(" --data-root data", "") for line in told]
    assert plain == expected * 2
    assert ["--seed 1" in line for line in told[len(expected) :]] == [
        any(tool in line for tool in quickstart.SEEDED) for line in expected
    ]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_quick_run_leaves_the_results_alone(name):
    args = importlib.import_module(f"experiments.{name}").Args
    assert _common.aside(args(quick=True)).output != args().output
    assert _common.aside(args()).output == args().output
    assert _common.aside(args(quick=True, output=Path("mine.json"))).output == Path("mine.json")
    other = _common.aside(args(quick=True, output=Path("docs/results/other.json")))  # as the catalogue names some
    assert other.output.name == "quick-other.json"
    assert other.output.parent != Path("docs/results")


@pytest.mark.parametrize("name", sorted({*EXPERIMENTS} - {"given_models", "pruning_oracle"}))  # these train nothing
def test_a_quick_run_leaves_the_trainings_alone(name):
    """Else the true run would be refused in its folder, where it is not given another."""
    args = importlib.import_module(f"experiments.{name}").Args
    assert _common.aside(args(quick=True)).run == args().run / "quick"
    assert _common.aside(args()).run == args().run
    assert _common.aside(args(quick=True, run=Path("mine"))).run == Path("mine")


def test_results_do_not_tell_the_folders_of_a_machine(monkeypatch):
    options = (["--run", "here", "--quiet", "--data-root", "there"], ["--run=here", "--quiet", "--data-root=there"])
    for places in options:
        monkeypatch.setattr(sys, "argv", ["experiments/nss.py", "--seeds", "2", *places])
        assert _common.command() == "python -m experiments.nss --seeds 2 --quiet"
    monkeypatch.setattr(sys, "argv", ["experiments/pad_nas.py", "--small", ""])
    assert _common.command() == "python -m experiments.pad_nas --small ''"
    monkeypatch.setattr(sys, "argv", ["experiments/nss.py"])
    assert _common.command() == "python -m experiments.nss"
