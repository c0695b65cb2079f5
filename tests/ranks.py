"""Runs a function of a test module in two processes that torchrun's environment joins."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def two(function: str, folder: Path, world: int = 2) -> list[dict]:
    """``function`` ("module:name" in tests, called with ``folder``) on every rank: what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    shared = {
        **os.environ,
        "PYTHONPATH": paths,
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, function, str(folder)]
    workers = [subprocess.Popen(command, cwd=ROOT, env={**shared, "RANK": str(rank)}) for rank in range(world)]
    assert [worker.wait(timeout=300) for worker in workers] == [0] * world
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


if __name__ == "__main__":
    from supernet.training import distributed

    distributed.start(torch.device("cpu"))
    torch.set_num_threads(1)
    module, name = sys.argv[1].split(":")
    found = getattr(importlib.import_module(module), name)(Path(sys.argv[2]))
    torch.save(found, Path(sys.argv[2]) / f"rank{distributed.rank()}.pt")
    distributed.stop()
