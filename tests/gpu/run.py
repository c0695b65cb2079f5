"""Runs the stages and writes the page: ``python -m gpu.run``, with tests, tools and the root on PYTHONPATH."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu import page
from gpu.stage import Results, read
from supernet.errors import UserError
from supernet.training.measured import HERE

ROOT = Path(__file__).resolve().parents[2]
# Seconds that each may take at most, in MINUTES for all: together they are more, as few stages need theirs; what no
# time is left for is done by the next call. What finds mistakes goes first, then what decides.
STAGES = {
    "versions": 30,
    "build": 150,
    "tests": 100,
    "sanitizer": 100,
    "ceilings": 30,
    "step": 80,
    "layers": 150,
    "operators": 80,
    "table": 60,
    "profile": 60,
}
MINUTES = 9.0
CONTINUED = ("layers", "operators")  # which go on with what they have when they were cut off; others begin again
SOURCES = ("setup.py", "csrc", "supernet", "tests/gpu", "tools/bench")
SUFFIXES = {".py", ".cpp", ".cu", ".cuh", ".h"}
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DETAILS = f"""
Figures, logs and page.md lie in {HERE.parent.relative_to(ROOT)}, those of a dry run in another folder. The same
command goes on with what is not done; what other sources, another device or another PyTorch gave is measured again.
To begin anew, delete the folder. Exit code 0: every stage is done, or cannot run here; 1: one failed or was stopped;
2: nothing can be measured.
"""


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__, epilog=DETAILS)
    parser.add_argument("--output", type=Path, help=f"folder of the results, by default {HERE.parent} or …-dry")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at tiny sizes")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"for all stages; over {MINUTES:g}, each has more, too"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(STAGES), default=tuple(STAGES), metavar="STAGE")
    given = parser.parse_args(arguments)
    try:
        if not find_spec("torch"):
            raise UserError(f"{sys.executable} has no PyTorch: install it there, or take the Python that has it")
        from supernet import lock

        folder = given.output or (HERE.parent.with_name("gpu-dry") if given.dry else HERE.parent)
        with lock.held(folder), received() as signals:
            return measure(folder, given.only, given.dry, given.minutes, signals)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def measure(folder: Path, only: Sequence[str], dry: bool, minutes: float, signals: list[int]) -> int:
    """Run what is not done, one stage after the other, and write the page, however it ends."""
    end, longer = time.monotonic() + 60 * minutes, max(1.0, minutes / MINUTES)
    known = {name: read(folder / f"{name}.json") for name in STAGES}  # damage is told before anything runs
    states = set()

    def go_on(name: str, made_with: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What a stage has, once it has run as far as it can; what was made with something else is forgotten."""
        data = known[name] if made_with and known[name].get("made_with") == made_with else {}
        if data.get("state") != "done":
            limit = min(longer * STAGES[name], end - time.monotonic())
            if signals or limit <= 1:
                data = {"state": "stopped", "reason": "no time was left", "results": []}  # its file stays as it is
            else:
                cut_off = name in CONTINUED and data.get("state") in ("started", "stopped")
                kept = data["results"] if cut_off else []
                begun = {"state": "started", "results": kept, "made_with": made_with or {}}
                data = run(name, Results(folder / f"{name}.json", begun), dry, limit, signals)
        states.add(data["state"])
        told = f"{data.get('seconds', 0):6.1f} s  {' '.join(data.get('reason', '').split())[:160]}"
        print(f"{name:10} {data['state']:11} {told}", flush=True)
        return data

    try:
        machine = go_on("versions")  # what may be kept of the others depends on it
        if machine["state"] == "unavailable":
            raise UserError(f"nothing can be measured: {machine['reason']}")
        if machine["results"]:
            made_with = {name: machine["results"][0][name] for name in ("device", "torch")}
            made_with |= {"mode": "dry" if dry else "gpu", "sources": sources()}
            Results(folder / "versions.json", machine | {"made_with": made_with}).write()
            for name in STAGES:
                if name in only and name != "versions" and not signals:
                    go_on(name, made_with)
    finally:
        page.write(folder)
    print(f"→ {folder / 'page.md'}")
    return 128 + signals[0] if signals else int(not states.isdisjoint(("failed", "stopped")))


def run(name: str, results: Results, dry: bool, limit: float, signals: list[int]) -> dict[str, Any]:
    """One stage in a process group of its own, ended with all that it started when its time is over, or by a signal.

    Returns:
        What its file then has.
    """
    results.write()
    folders = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "gpu.one", name, str(results.path.resolve()), "--parent", str(os.getpid())]
    command += ["--dry"] if dry else []
    began, state, reason = time.monotonic(), "stopped", f"took over {limit:.0f} s"
    with results.path.with_suffix(".log").open("w") as log:
        environment = {**os.environ, "PYTHONPATH": folders.rstrip(os.pathsep)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        while not signals and time.monotonic() - began < limit:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(0.1)
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
                state, reason = "failed", f"{how}, see {log.name}"
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if signals:
        reason = f"ended by {signal.Signals(signals[0]).name}"
    data = read(results.path)
    if data["state"] == "started":  # it could not write its end
        data |= {"state": state, "reason": reason, "seconds": time.monotonic() - began}
        Results(results.path, data).write()
    return data


@contextlib.contextmanager
def received() -> Iterator[list[int]]:
    """The signals that ask for an end, as they come; no child outlives this process by one, and there is a page."""
    signals: list[int] = []
    asking = [number for number in ASKING if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has it
    before = {number: signal.signal(number, lambda number, _: signals.append(number)) for number in asking}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sources() -> str:
    """A digest of all that a figure depends on."""
    digest = hashlib.sha256()
    for name in SOURCES:
        for path in sorted([ROOT / name, *(ROOT / name).rglob("*")]):
            if path.suffix in SUFFIXES:
                digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
