"""Runs the stages and writes the page: ``python -m gpu.run``, with tests, tools and the root on PYTHONPATH."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu import page
from gpu.stage import Results

ROOT = Path(__file__).resolve().parents[2]
# Seconds that each may take at most; in all they have MINUTES. What finds mistakes goes first, then what decides.
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


def main(arguments: list[str] | None = None) -> int:
    """0: every stage is done, or cannot run here. 1: one failed or was stopped."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu", help="folder of the figures and the page")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at tiny sizes")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all stages")
    parser.add_argument("--only", nargs="+", choices=tuple(STAGES), default=tuple(STAGES), metavar="STAGE")
    given = parser.parse_args(arguments)
    end = time.monotonic() + 60 * given.minutes
    given.output.mkdir(parents=True, exist_ok=True)
    states = {}
    for name in given.only:
        path = given.output / f"{name}.json"
        if read(path).get("state") != "done":
            limit = min(STAGES[name], end - time.monotonic())
            stage(name, path, given.dry, limit)
        data = read(path)
        states[name] = data["state"]
        print(
            f"{name:10} {data['state']:11} {data.get('seconds', 0):6.1f} s  {data.get('reason', '')[:160]}", flush=True
        )
    page.write(given.output)
    print(f"→ {given.output / 'page.md'}")
    return int(any(state in ("failed", "stopped") for state in states.values()))


def stage(name: str, path: Path, dry: bool, limit: float) -> None:
    """One stage in a process group of its own, ended with all that it started when its time is over."""
    if limit <= 1:
        Results(path, {"state": "stopped", "reason": "no time was left", "results": []}).write()
        return
    path.unlink(missing_ok=True)
    folders = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "gpu.one", name, str(path.resolve()), *(["--dry"] if dry else [])]
    began = time.monotonic()
    with path.with_suffix(".log").open("w") as log:
        environment = {**os.environ, "PYTHONPATH": folders.rstrip(os.pathsep)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit)
            state = f"exited with {process.returncode}, see {log.name}"
        except subprocess.TimeoutExpired:
            state = f"took over {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    data = read(path) or {"results": []}
    if data.get("state") in (None, "started"):  # it could not write its end
        Results(path, data | {"state": "stopped", "reason": state, "seconds": time.monotonic() - began}).write()


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
