"""Work in processes of its own: results, errors, and no process that outlives the one that began it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from supernet import executor
from supernet.errors import UserError
from supernet.executor import Processes, Threads
from supernet.progress import silent
from tests.conftest import refused

ROOT = Path(__file__).parents[1]
WORK = """
import os, signal, sys, time
from pathlib import Path
from supernet import executor
from supernet.progress import silent

def work(folder, name):
    Path(folder, name).write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    jobs = {name: (sys.argv[1], name) for name in "ab"}
    executor.run(executor.Processes(2), work, jobs, silent("work", 2, unit="jobs"), lambda: 0)
"""


def square(x: int) -> int:
    if x < 0:
        raise UserError(f"{x} is below 0")
    return x * x


@pytest.mark.parametrize("workers", [Processes(1), Processes(2), Threads(1), Threads(2)], ids=repr)
def test_results_by_name_and_errors_as_they_are(workers):
    finished = {}
    bar = silent("squares", 3, unit="numbers")
    jobs = {str(x): (x,) for x in range(3)}
    assert executor.run(workers, square, jobs, bar, finished=finished.__setitem__) == finished
    assert finished == {"0": 0, "1": 1, "2": 4}
    assert bar.count == 3
    with pytest.raises(UserError, match="-1 is below 0"):
        executor.run(workers, square, {"a": (1,), "b": (-1,)}, bar, lambda: 0)


@pytest.mark.parametrize(
    ("unit", "done", "told"),
    [("numbers", None, [(4, None), (5, None)]), ("epochs", lambda: 7, [(7, "1/2 networks"), (7, "2/2 networks")])],
)
def test_jobs_are_told_once(unit, done, told):
    """By the bar where its units are the jobs, after those of an earlier run; else beside it."""
    shown = []

    class Seen(silent):
        def advance(self, n=1, work=None, text=None):
            super().advance(n)
            shown.append((self.count, text))

    executor.run(Processes(), square, {"1": (1,), "2": (2,)}, Seen("squares", 5, done=3, unit=unit), done)
    assert shown == told


def hears_ctrl_c() -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_leave_ctrl_c_to_the_process_that_began_them_from_their_first_instruction_on():
    assert dict(Processes(2).map(hears_ctrl_c, {"a": (), "b": ()})) == {"a": False, "b": False}
    assert hears_ctrl_c()


@pytest.mark.parametrize("kind", [Processes, Threads])
def test_there_is_a_worker(kind):
    assert "0 workers: expected at least 1" in refused(kind, 0)


def test_a_gpu_is_left_to_one_call_at_a_time():
    assert executor.for_device(Threads(2), torch.device("cpu")) == Threads(2)
    assert executor.for_device(Threads(2), torch.device("cuda")) == Processes(1)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_the_workers_end_with_the_process(tmp_path, sent):
    script = tmp_path / "work.py"
    script.write_text(WORK)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, script, tmp_path], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int((tmp_path / name).read_text()) for name in "ab"]
    process.send_signal(sent)
    try:
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    if sent == signal.SIGTERM:
        assert process.returncode == 143
        assert told == ""  # neither a traceback nor a word on leaked semaphores
    deadline = time.monotonic() + 10
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "workers outlived the process"
        time.sleep(0.1)
