"""What is told of long work: on terminals of several widths, into a pipe, and when it is stopped."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from supernet import progress
from supernet.progress import Bar


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def drawn(bar: Bar, width: int) -> str:
    """The one line that a terminal shows."""
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None).print(bar)
    (line,) = file.getvalue().splitlines()
    return line


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_of_any_width_tells_steps_rate_and_time_left(clock, width):
    bar = Bar("phase 3 of 8", 12345, unit="images")
    clock[0] += 120
    bar.advance(2345, work=2345 * 64, text="epoch 3/12 loss 2.301, of which the distilled part is 1.1")
    line = drawn(bar, width)
    assert cell_len(line) <= width
    for wanted in ("2345/12345", "1,251 images/s", "8.5 min left"):
        assert wanted in line
    assert ("loss 2.301" in line) == (width >= 80)


def test_a_short_line_has_a_bar_that_grows(clock):
    bar = Bar("retrain", 8, unit="epochs")
    lengths = []
    for _ in range(4):
        clock[0] += 1
        bar.advance(2)
        lengths.append(drawn(bar, 80).count("━"))
    assert lengths == sorted(set(lengths))
    assert "─" not in drawn(bar, 80)


@pytest.mark.parametrize(
    ("units", "seconds", "unit", "told"),
    [
        (1, 301, "epochs", "5.0 min per epoch"),
        (4, 5, "epochs", "1.2 s per epoch"),
        (9, 5, "epochs", "1.8 epochs/s"),
        (9, 0.75, "epochs", "12 epochs/s"),
        (1, 24, "searches", "24.0 s per search"),
    ],
)
def test_a_slow_rate_is_the_time_of_one(clock, units, seconds, unit, told):
    bar = Bar("retrain", 10, unit=unit)
    clock[0] += seconds
    bar.advance(units)
    assert told in bar.facts()


def test_what_is_not_known_yet_is_not_told(clock):
    bar = Bar("retrain", 20, done=5, unit="epochs")
    clock[0] += 301
    assert bar.facts() == "5/20"
    bar.advance(0)
    assert bar.facts() == "5/20"


def test_no_time_left_is_nothing(clock):
    """A unit that takes longer than expected puts the end off; what is too short to be told is left out."""
    bar = Bar("retrain", 4, unit="epochs")
    clock[0] += 4
    bar.advance(2)
    left = []
    for _ in range(5):
        left.append(bar.facts().rpartition(", ")[2])
        clock[0] += 2
    assert left == ["4.0 s left", "2.0 s left", "8.0 s left", "10.0 s left", "12.0 s left"]
    bar = Bar("loading", 1000, unit="layers")
    clock[0] += 1
    bar.advance(999)
    assert bar.facts() == "999/1000, 999 layers/s"


def test_what_an_earlier_run_has_done_took_no_time(clock):
    assert Bar("supernet", 9, done=9, unit="images").facts() == "9/9, done before"


def test_into_a_pipe_goes_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    with Bar("evolution", 3, unit="evaluations") as bar:
        for seconds in (9, 9, 12):
            clock[0] += seconds
            bar.advance(text="front 5")
    assert capsys.readouterr().err.splitlines() == [
        "evolution: 2/3, 9.0 s per evaluation, 9.0 s left  front 5",
        "evolution: 3/3, 10.0 s per evaluation, in 30.0 s  front 5",
    ]


STOPPED = """
import sys, time
from dataclasses import dataclass
from supernet.cli import starting
from supernet.progress import Bar, counted

@dataclass(frozen=True)
class Args:
    run: str = "run"

def slow(label, total, *, done=0, unit):
    bar = Bar(label, total, done=done, unit=unit, every=0.0)
    bar.started -= 60  # long enough for a line at its end
    return bar

def run(args):
    for i in counted(slow, "measuring", range(1000), "layers"):
        time.sleep(0.05)

sys.argv = ["stopped.py"]
starting.main(run, Args)
"""


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("number", "last"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "stopped")])
def test_what_is_stopped_has_its_last_word(number, last, live):
    ours, theirs = pty.openpty() if live else os.pipe()
    child = subprocess.Popen([sys.executable, "-c", STOPPED], stderr=theirs, stdout=theirs)
    os.close(theirs)
    told = b""
    with open(ours, "rb", buffering=0) as stream:
        while b"/1000, " not in told:
            told += stream.read(100)
        child.send_signal(number)
        try:
            while more := stream.read(10_000):
                told += more
        except OSError:  # how a terminal ends
            pass
    assert child.wait() == 128 + number
    *_, line = told.decode().replace("\r", "\n").rstrip().splitlines()
    assert line.endswith(f"{last}; the same command continues")
