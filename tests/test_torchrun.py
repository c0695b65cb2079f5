"""The commands under torchrun: two processes share a training, and commands that cannot share say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_cli import ROOT, TRAIN, ok
from torch.distributed.run import get_args_parser

from supernet.cli.common import COMMANDS

SHARED = {"train_supernet", "retrain"}


def torchrun(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_torchrun_passes_the_name_of_the_folder_on():
    parser = get_args_parser()
    given = parser.parse_args(["tools/train_supernet.py", "--folder", "runs/a", "--seed", "1"])
    assert given.training_script_args == ["--folder", "runs/a", "--seed", "1"]


@pytest.mark.parametrize("tool", sorted(COMMANDS.keys() - SHARED))
def test_a_command_of_one_process_refuses_several(tool):
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    result = subprocess.run(
        [sys.executable, f"tools/{tool}.py"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "start it without torchrun" in result.stderr


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


def test_a_batch_that_two_processes_cannot_halve_is_one_line(tmp_path):
    options = ("--data", "digits", "--limit", 320, "--batch-size", 15)
    result = torchrun("tools/train_supernet.py", "--folder", tmp_path / "run", *options)
    assert result.returncode != 0
    assert "cannot be split evenly over 2 processes" in result.stderr
    assert not (tmp_path / "run").exists()
