"""The command: found, drawn and tested once; killed and continued; bounds kept; bad input refused."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tyro

from latency import on_demand
from latency.measure import host, pin_core
from search import greedy_run, plain_run
from search.drawing import Block, draw
from supernet import families, metrics
from supernet.cli import common, global_nas
from supernet.cli.global_nas import Args
from supernet.data import sets
from supernet.errors import UserError
from supernet.families import sep_conv
from supernet.model import load_network
from supernet.size import Size
from supernet.training import standalone
from supernet.training.evaluation import evaluate

ROOT = Path(__file__).parents[1]
TINY = {
    "data": "digits",
    "depth": (3, 4),
    "width": (2, 4),
    "epochs": 1,
    "micro_epochs": 1,
    "limit": 192,
    "final_epochs": 1,
    "quiet": True,
}


def arguments(run: Path, **options) -> Args:
    return Args(run=run, **{**TINY, **options})


def records(run: Path) -> list[dict]:
    return json.loads((run / "search.json").read_text())["records"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    global_nas.run(arguments(run))
    return run


def test_what_a_run_leaves(finished):
    found = json.loads((finished / "arch.json").read_text())
    assert found["trained"] == len(records(finished)) == len(list((finished / "candidates").iterdir()))
    assert not list(finished.glob("candidates/*/checkpoint.pt"))
    assert (finished / "network.png").read_bytes()[:4] == b"\x89PNG"
    result = json.loads((finished / "final-1" / "result.json").read_text())
    network = load_network(finished / "final-1")
    assert sum(p.numel() for p in network.parameters()) == result["params"] == found["params"]
    test = sets.open_test("digits", Path("data"))
    again = evaluate(network, test.batches(64, seed=0, epoch=0, augment=False, drop_last=False))
    assert again == pytest.approx(result["test_accuracy"], abs=2 / len(test))


def test_candidates_are_compared_by_the_metric(tmp_path, finished, capsys):
    run = tmp_path / "run"
    global_nas.run(arguments(run, depth=(3, 3), metric="top5"))
    for folder, record in zip(sorted((run / "candidates").iterdir()), records(run), strict=True):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert record["val_accuracy"] == 100 * max(line["val_top5_accuracy"] for line in lines)
        assert record["train_accuracy"] == 100 * max(line["accuracy"] for line in lines)
    result = json.loads((run / "final-1" / "result.json").read_text())
    told = metrics.percent(result, "test", "top5")
    assert result["metric"] == "top5"
    assert result["test_top5_accuracy"] > result["test_accuracy"]
    assert f"test top-5 accuracy: {told}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="metric: top5 → top1"):
        global_nas.run(arguments(run, depth=(3, 3)))
    old = shutil.copytree(finished, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    del config["metric"]  # as before there were several
    (old / "config.json").write_text(json.dumps(config))
    global_nas.run(arguments(old))
    with pytest.raises(UserError, match="metric: top1 → balanced"):
        global_nas.run(arguments(old, metric="balanced"))


def test_selection_never_opens_the_test_part(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("opened")

    monkeypatch.setattr(sets, "open_test", refuse)
    global_nas.run(arguments(tmp_path / "run", depth=(3, 3), final_epochs=0))
    assert records(tmp_path / "run")


def test_a_finished_run_trains_and_tests_nothing_again(finished, monkeypatch, capsys):
    monkeypatch.setattr(standalone, "train", None)
    monkeypatch.setattr(sets, "open_test", None)
    global_nas.run(arguments(finished))
    assert "test accuracy" in capsys.readouterr().out


def test_a_killed_search_continues_without_training_a_candidate_twice(finished, tmp_path, monkeypatch):
    run = tmp_path / "run"
    flags = "--data digits --depth 3 4 --width 2 4 --epochs 1 --micro-epochs 1 --limit 192 --final-epochs 1 --quiet"
    command = [sys.executable, "tools/global_nas.py", "--run", str(run), *flags.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and (not (run / "search.json").exists() or len(records(run)) < 3):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = len(records(run))
    assert not (run / "final-1" / "result.json").exists()

    trained, train = [], standalone.train

    def counting(space, arch, images, cfg, folder, *args, **options):
        trained.append(folder.name)
        return train(space, arch, images, cfg, folder, *args, **options)

    monkeypatch.setattr(standalone, "train", counting)
    global_nas.run(arguments(run))
    whole = records(finished)
    assert records(run) == whole  # the same accuracies, bit for bit
    assert trained == [*(f"{i:03d}" for i in range(done, len(whole))), "final-1"]


def test_candidates_beyond_a_bound_are_not_trained(finished, tmp_path):
    def flops(record: dict) -> int:
        c = record["candidate"]
        return families.flops(sep_conv.space(c["depth"], c["width"], 1, 28, 10), sep_conv.arch(c["ops"], c["kernels"]))

    bound = sorted(map(flops, records(finished)))[len(records(finished)) // 2]
    run = tmp_path / "run"
    global_nas.run(arguments(run, flops_max=bound, final_epochs=0))
    assert max(map(flops, records(run))) <= bound < max(map(flops, records(finished)))


@pytest.mark.chain
def test_latencies_are_measured_as_layers_come_up(tmp_path, monkeypatch):
    quick = dataclasses.replace(on_demand.Protocol(), rounds=10)
    monkeypatch.setattr(on_demand, "Protocol", lambda: quick)
    run, options = tmp_path / "run", {"depth": (3, 3), "width": (2, 2), "final_epochs": 0}
    with pytest.raises(UserError, match=r"exclude every candidate.*latency in ms ≤ 0.000001"):
        global_nas.run(arguments(run, **options, latency_max=1e-6))
    assert not (run / "candidates").exists()
    table = json.loads((run / "lut.json").read_text())
    global_nas.run(arguments(run, **options, latency_max=1e3, restart=True))
    assert len(records(run)) > 1
    grown = json.loads((run / "lut.json").read_text())
    with pin_core() as core:
        assert table["device"] == grown["device"] == {**host(), "core": core}
    keys = {spec.key for spec in families.lower(sep_conv.space(3, 2, 1, 28, 10), (0, 0, 0))}
    assert keys <= set(table["operations"])
    assert any("conv_k3" in key for key in grown["operations"])
    assert not any("conv_k3" in key for key in table["operations"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params_max": 10}, "exclude every candidate: the smallest, L 3 C 2, breaks parameters ≤ 10"),
        ({"depth": (2, 4)}, "depth from 2 to 4"),
        ({"epochs": 0}, "epochs 0: expected at least 1"),
        ({"limit": 30}, "lower the batch size"),
        ({"data": "cats"}, "expected a data set among"),
        ({"final_epochs": -1}, "final-epochs -1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        global_nas.run(arguments(tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_the_validation_images_are_trained_on_at_the_end(finished, monkeypatch):
    """Every image of the training part; what the search left is not touched, and nothing is validated."""
    whole = sets.open_train("digits", Path("data"), val_fraction=0).train
    seen, train = [], standalone.train

    def noting(space, arch, images, *args, **options):
        seen.append(images)
        return train(space, arch, images, *args, **options)

    monkeypatch.setattr(standalone, "train", noting)
    global_nas.run(arguments(finished, train_all=True))
    images = sets.open_train("digits", Path("data"), limit=192)
    assert len(seen) == 1
    assert len(seen[0].train) == len(images.train) + len(images.val)
    assert set(seen[0].train.index) == set(images.train.index) | set(images.val.index) < set(whole.index)
    result = json.loads((finished / "final-1-all" / "result.json").read_text())
    assert "val_accuracy" not in result
    assert 0 < result["test_accuracy"] <= 1
    assert not any("val_accuracy" in line for line in (finished / "final-1-all" / "metrics.jsonl").read_text().split())


def test_candidates_are_augmented_alike_however_long_they_train(tmp_path, monkeypatch):
    """A search that begins below 30 epochs does not come to augment its later candidates."""
    fits = []

    def recorded(self, epochs):
        fits.append((epochs, self.augment))
        raise KeyboardInterrupt

    monkeypatch.setattr(greedy_run.Training, "fit", recorded)
    for epochs, augmented in ((29, False), (30, True)):
        with pytest.raises(KeyboardInterrupt):
            global_nas.run(arguments(tmp_path / str(epochs), epochs=epochs))
        assert fits.pop() == (epochs, augmented)


@pytest.mark.parametrize("options", [{"start_op": "conv"}, {"start_kernel": 7}, {"operations": False}])
def test_a_search_may_start_otherwise(options, tmp_path):
    run = tmp_path / "run"
    global_nas.run(arguments(run, **options, depth=(3, 3), width=(2, 2)))
    asked = [record["candidate"] for record in records(run)]
    assert set(asked[0]["ops"]) == {int(options.get("start_op") == "conv")}
    assert set(asked[0]["kernels"]) == {options.get("start_kernel", 3)}
    assert len(asked) == 1 + 1 + 3 * (1 + options.get("operations", True))
    network = load_network(run / "final-1")
    assert sum(p.numel() for p in network.parameters()) == json.loads((run / "arch.json").read_text())["params"]


def test_what_decays_is_recorded_and_runs_that_do_not_say_keep_what_they_have(finished, tmp_path):
    config = json.loads((finished / "config.json").read_text())
    assert config["decay"] == "all"
    run = shutil.copytree(finished, tmp_path / "old")
    del config["decay"]
    (run / "config.json").write_text(json.dumps(config))
    global_nas.run(arguments(run))
    with pytest.raises(UserError, match="decay: weights → all"):
        global_nas.run(arguments(run, decay="all"))


def test_another_search_does_not_continue_here(finished):
    with pytest.raises(UserError, match="seed: 0 → 1"):
        global_nas.run(arguments(finished, seed=1))


def test_exit_code_2_and_one_line():
    command = [sys.executable, "tools/global_nas.py", "--data", "digits", "--flops-max", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "exclude every candidate" in result.stderr


def test_drawing_of_several_networks(tmp_path):
    size, half = Size(28, 40), Size(14, 20)
    rows = {"a": [Block(size, 4, "Sep 3×3"), Block(half, 8, "Conv 5×5")], "b": [Block(size, 6, "Sep 3×3")]}
    draw(tmp_path / "networks.svg", rows)
    text = (tmp_path / "networks.svg").read_text()
    assert text.lstrip().startswith("<?xml")
    assert text.count("clip-path") >= 3  # one block each


def test_the_next_command_is_this_one_with_more_epochs(tmp_path):
    args = arguments(tmp_path, augment=False, flops_max=2e6, restart=True)
    again = tyro.cli(Args, args=common.words(dataclasses.replace(args, final_epochs=600)))
    assert again == dataclasses.replace(args, final_epochs=600, restart=False)


def test_short_trainings_of_the_small_preset_are_not_augmented(tmp_path):
    """The papers' presets are; what the command line says counts in both."""
    for preset, augment, short in (
        ("small", None, False),
        ("tiny", None, True),
        ("small", True, True),
        ("tiny", False, False),
    ):
        training = plain_run.training(preset, 64, 0.025, augment, 0)
        assert training.fit(5).augment is short
        assert training.fit(30).augment is (augment is not False)
