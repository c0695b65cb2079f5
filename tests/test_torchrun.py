"""The commands under torchrun: two processes share a training, and commands that cannot share say so."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_cli import ROOT, TRAIN, ok
from torch.distributed.run import get_args_parser

from supernet.cli.common import COMMANDS

SHARED = {"train_supernet", "retrain"}


COMMAND = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*words: object) -> subprocess.CompletedProcess:
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)


def ranks(torchrun: int) -> dict[str, int]:
    """The processes that torchrun has started, by their rank."""
    found = {}
    for pid in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            found |= {text.removeprefix("RANK="): int(pid) for text in variables if text.startswith("RANK=")}
    return found


def test_torchrun_passes_the_name_of_the_folder_on():
    parser = get_args_parser()
    given = parser.parse_args(["tools/train_supernet.py", "--folder", "runs/a", "--seed", "1"])
    assert given.training_script_args == ["--folder", "runs/a", "--seed", "1"]


@pytest.mark.parametrize("tool", sorted(COMMANDS.keys() - SHARED))
def test_a_command_of_one_process_refuses_several(tool):
    env = environment() | {"WORLD_SIZE": "2", "RANK": "0"}
    result = subprocess.run(
        [sys.executable, f"tools/{tool}.py"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "start it without torchrun" in result.stderr


@pytest.mark.chain
def test_two_processes_train_one_run_which_one_process_finds_finished(tmp_path):
    run = tmp_path / "run"
    words = TRAIN[:-2]
    result = torchrun("tools/train_supernet.py", "--folder", run, *words, "--epochs", 2)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("next:") == 1
    two = (run / "checkpoint.pt").read_bytes()
    steps = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    ok("train_supernet", "--run", run, *words, "--epochs", 2)
    assert (run / "checkpoint.pt").read_bytes() == two
    alone = tmp_path / "alone"
    ok("train_supernet", "--run", alone, *words, "--epochs", 2)
    assert torch.load(alone / "checkpoint.pt", weights_only=True)["step"] == steps
    assert json.loads((Path(run) / "config.json").read_text()).keys() >= {"batch_size", "precision", "accumulate"}
    again = torchrun("tools/train_supernet.py", "--folder", run, *words, "--epochs", 2, "--restart")
    assert again.returncode == 0, again.stderr
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == steps
    refused = torchrun("tools/train_supernet.py", "--folder", run, *words, "--epochs", 2, "--lr", 0.01)
    assert "other settings (lr:" in refused.stderr
    assert "RuntimeError" not in refused.stderr  # of the process that waited for the first one


@pytest.mark.chain
def test_a_batch_that_two_processes_cannot_halve_is_one_line(tmp_path):
    options = ("--data", "digits", "--limit", 320, "--batch-size", 15)
    result = torchrun("tools/train_supernet.py", "--folder", tmp_path / "run", *options)
    assert result.returncode != 0
    assert "cannot be split evenly over 2 processes" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # two trainings by two processes, one of which starts twice: half a minute
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_is_started_again_and_nothing_is_lost(tmp_path, rank):
    words = ("tools/train_supernet.py", *TRAIN, "--probes", 1, "--device", "cpu", "--folder")
    assert torchrun(*words, tmp_path / "whole").returncode == 0
    run, log = tmp_path / "run", tmp_path / "log"
    command = [*COMMAND, "--max-restarts", "5", *map(str, words), str(run)]
    with log.open("w") as file, subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=file) as process:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(ranks(process.pid)[rank], signal.SIGKILL)
        assert process.wait(timeout=200) == 0, log.read_text()
    assert "exitcode: -9" in log.read_text()
    assert "connectFullMesh failed" not in log.read_text()  # none looks for the process that is dead
    assert (run / "checkpoint.pt").read_bytes() == (tmp_path / "whole" / "checkpoint.pt").read_bytes()
