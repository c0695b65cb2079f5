"""Plans: figures add up, a rehearsal measures what it is said to, and the commands tell one and write nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_cli import ROOT, command, ok, refused
from test_train import images
from torch import nn

from supernet.data.excerpt import Excerpt
from supernet.data.sets import TrainVal
from supernet.quantities import size
from supernet.training import checkpoint, loop
from supernet.training.plan import Part, Plan, Stage, Work
from supernet.training.rehearsal import Rehearsal

CPU = torch.device("cpu")
TRAIN = ("--data", "digits", "--batch-size", 32, "--limit", 320, "--epochs", 2)
PAD = (*TRAIN[:-1], 1, 2, "--objectives", "flops", "--population", 4, "--iterations", 3, "--random", 2)


class Clock:
    """Time that passes only when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def total(printed: str, row: str) -> list[str]:
    """The cells of a row of the table."""
    return next(re.split(r" {2,}", line.strip()) for line in printed.splitlines() if line.startswith(row))


def test_figures_add_up():
    network = Work((Part("training", 100, "steps", 0.5), Part("validation", 3, "times", 2.0)), 7, 1)
    short = Work((Part("training", 10, "steps", 1.0),), 5, 0)
    stages = (Stage((network,)), Stage((short, network, short), at_once=2, beside=3))
    plan = Plan(stages, disk=1234, watts=100.0)
    assert plan.seconds == pytest.approx(56 + 56)  # the two short ones beside the long one
    assert plan.kwh == pytest.approx(100 * 112 / 3600 / 1000)
    assert (plan.resident, plan.device) == (7 + 5 + 3, 1)
    rows = {row[0]: row[1:] for row in plan.table("a plan").rows}
    assert rows["training"][0] == "220 steps"  # of all four works
    assert rows["training"][2] == "2.0 min"  # 50 + 10 + 50 + 10 s
    assert rows["disk, still needed at the peak"][2] == "1.23 kB"
    assert "energy" not in {row[0] for row in dataclasses.replace(plan, watts=None).table("").rows}
    assert [size(n) for n in (0, 999, 1500, 2 * 10**9)] == ["0 B", "999 B", "1.5 kB", "2 GB"]


@pytest.mark.parametrize("done", [0, 1])
def test_a_rehearsal_counts_what_is_left_and_times_it(tmp_path, done):
    """Warm-up steps take ten times as long and are left out; the rest take 0.25 s, a validation 3 s."""
    clock, calls, train = Clock(), [], images(320)
    model = nn.Sequential(nn.Flatten(), nn.Linear(14 * 14, 10))
    cfg = loop.FitConfig(epochs=4, batch_size=10, augment=False)
    data = TrainVal(train, images(50), 10, 1, 14, ())

    def forward(step, x, y):
        calls.append(step)
        clock.tick(2.5 if len(calls) <= 5 else 0.25)
        return model(x)

    def validate():
        clock.tick(3.0)
        return {"val_accuracy": 0.5}

    options = {"meta": {}, "forward": forward, "validate": validate}
    if done:
        loop.fit(model, train, lambda step: None, cfg, tmp_path, **options, epochs=(0, done))
        calls.clear()
    rehearsal = Rehearsal(data, CPU, clock)
    drive = rehearsal.training()
    log = loop.fit(model, train, lambda step: None, cfg, tmp_path, **options, drive=drive)
    assert log[-1]["val_accuracy"] == 0.5
    assert calls == list(range(32 * done, 32 * done + 25))
    training, saving, validation = rehearsal.work().parts
    assert (training.count, training.each) == (32 * (4 - done), 0.25)
    assert (saving.name, saving.count, saving.each) == ("saving", 4 - done, 0.0)
    assert (validation.count, validation.each) == (4 - done, 3.0)
    assert rehearsal.work().seconds == (4 - done) * (32 * 0.25 + 3)
    assert rehearsal.work().resident > 2**20
    assert checkpoint.load(tmp_path / "checkpoint.pt")["finished"]  # what comes next finds it trained
    assert checkpoint.previous(tmp_path / "checkpoint.pt").exists()
    assert loop.fit(model, train, lambda step: None, cfg, tmp_path, **options, drive=Rehearsal(data, CPU).training())
    assert len(calls) == 25


def test_images_that_are_left_out_count():
    clock, whole = Clock(), images(60)
    excerpt = Excerpt(whole.subset(20, seed=0), len(whole), clock)
    rehearsal = Rehearsal(TrainVal(whole, excerpt, 10, 1, 14, ()), CPU, clock)

    def look() -> None:
        clock.tick(1.0)  # what does not depend on the number of images
        for x, _ in excerpt.plain_batches(5):
            clock.tick(0.1 * len(x))

    assert rehearsal.seconds(look) == pytest.approx(1 + 0.1 * 60)
    first, again = (next(iter(images.in_order(20)))[0] for images in (excerpt, whole.subset(20, seed=0)))
    assert torch.equal(first, again)
    few = excerpt.standing_for(30)
    assert (len(few), few.whole, excerpt.whole) == (20, 30, 60)
    assert (len(excerpt.standing_for(10)), excerpt.standing_for(10).whole) == (10, 10)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, space_file) -> Path:
    """A run with a front."""
    run = tmp_path_factory.mktemp("trained") / "run"
    ok("train_supernet", "--run", run, "--space", space_file, *TRAIN)
    ok("evolve", "--run", run, "--objectives", "flops", "--population", 4, "--iterations", 2, "--random", 2)
    return run


def require_plan(printed: str) -> None:
    assert re.fullmatch(r"[\d.]+ (s|min|h)", total(printed, "whole job")[-1])
    assert re.fullmatch(r"[\d.]+ [MG]B", total(printed, "memory at the peak")[-1])
    assert re.fullmatch(r"[\d.]+ [kM]?B", total(printed, "disk, still needed at the peak")[-1])
    assert "next:" not in printed


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        (("--method", "spos"), 20),
        (("--method", "dsnas", "--flops-max", "1e9", "--retrain"), 20),
        (("--method", "nss", "--space", "residual-small"), 3 * 10),  # half of the images, three targets, no warm-up
    ],
)
def test_each_method_is_planned_and_nothing_is_written(tmp_path, space_file, method, steps):
    if "--space" not in method:
        method = (*method, "--space", space_file)
    if "nss" in method:
        method = (*method, "--warmup", "0")
    printed = ok("train_supernet", "--run", tmp_path / "run", *TRAIN, *method, "--plan")
    require_plan(printed)
    assert total(printed, "training")[1] == f"{steps} steps"
    if "dsnas" in method:
        assert total(printed, "retraining")[1] == "20 steps"
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_a_half_done_run_tells_the_rest_and_leaves_it(trained, space_file, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = contents(trained)
    printed = ok("train_supernet", "--run", trained, "--space", space_file, *TRAIN[:-1], 5, "--plan")
    assert total(printed, "training")[1] == "30 steps"
    assert total(printed, "validation")[1] == "3 times"
    again = ok("train_supernet", "--run", trained, "--space", space_file, *TRAIN, "--plan", "--restart")
    assert total(again, "training")[1] == "20 steps"
    line = refused("train_supernet", "--run", trained, "--space", space_file, *TRAIN, "--plan", "--seed", 1)
    assert f"{trained} holds a run with other settings (seed: 0 → 1)" in line
    assert contents(trained) == before
    assert list(tmp_path.iterdir()) == []
    assert "plan" not in json.loads((trained / "config.json").read_text())


def test_retraining_is_planned(trained, tmp_path):
    before = contents(trained)
    words = ("--epochs", 3, "--batch-size", 32, "--limit", 320, "--controls", 1)
    printed = ok("retrain", "--run", trained, *words, "--jobs", 1, "--plan")
    require_plan(printed)
    assert total(printed, "retraining")[1] == "60 steps"  # of two networks
    assert total(printed, "testing")[1] == "2 times"
    assert contents(trained) == before
    assert "no space of a run" in refused("retrain", "--run", tmp_path / "none", "--plan")
    assert "leave --workers-on ray out" in refused("retrain", "--run", trained, "--plan", "--workers-on", "ray")


@pytest.mark.chain
def test_pad_nas_is_planned(tmp_path, space_file):
    printed = ok("pad_nas", "--run", tmp_path / "run", "--space", space_file, *PAD, "--retrain", 1, "--plan")
    require_plan(printed)
    assert total(printed, "training")[1] == "30 steps"
    assert total(printed, "scoring")[1] == f"{2 * (4 * 3 + 2)} architectures"
    assert total(printed, "retraining")[1] == "50 steps"  # of five networks
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(tmp_path, space_file, sent, code):
    words = ("train_supernet", "--run", tmp_path / "run", "--space", space_file, *TRAIN, "--plan", "--probes", 10**6)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # A shell may have left SIGINT ignored, which a child would inherit.
    process = subprocess.Popen(
        command(*words), cwd=ROOT, env=env, **quiet, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    while not list(tmp_path.glob("supernet-plan-*/run/config.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(sent)
    assert process.wait(timeout=60) == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.chain
def test_two_processes_plan_one_job_and_one_tells_it(tmp_path, space_file):
    words = ("--folder", tmp_path / "run", "--space", space_file, *TRAIN, "--plan")
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    result = subprocess.run(
        [*start, "tools/train_supernet.py", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("whole job") == 1
    assert "each of 2 processes" in result.stdout
    assert total(result.stdout, "training")[1] == "20 steps"
    assert list(tmp_path.iterdir()) == []
