"""What one process of a machine does at a time, against a process that does it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from latency import runtimes
from latency.measure import Protocol
from supernet import lock

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from supernet import lock
with lock.awaited("measures"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """A process that measures until its input ends; this machine's other users are left out of it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_measurement_waits_for_the_first(holder, caplog):
    def let_go():
        order.append("first")
        holder.communicate("\n")

    order: list[str] = []
    timer = threading.Timer(0.5, let_go)
    timer.start()
    found = runtimes.time_modules(runtimes.get("torch", kernels="eager"), [], Protocol(rounds=10), what="nothing")
    order.append("second")
    timer.join()
    assert found == {}
    assert order == ["first", "second"]
    (told,) = caplog.messages
    assert told == f"another process (pid {holder.pid}) measures on this machine: waiting until it is done"


def test_a_killed_process_holds_nothing(holder, caplog):
    holder.kill()
    holder.wait()
    with lock.awaited("measures"):
        pass
    assert not caplog.messages


def test_a_file_of_another_user_is_no_reason_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "supernet-measures.lock").mkdir()  # cannot be opened for writing, by root either
    with lock.awaited("measures"):
        pass
