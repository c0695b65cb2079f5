"""NVIDIA's sanitizer over one call of each operator: accesses out of bounds, then races in shared memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from gpu.stage import Machine, Mistake, Results, Unavailable

TOOLS = ("memcheck", "racecheck")
TOOLKIT = Path("/usr/local/cuda/bin/compute-sanitizer")


def run(machine: Machine, results: Results) -> None:
    machine.require()
    tool = shutil.which("compute-sanitizer") or (str(TOOLKIT) if TOOLKIT.exists() else None)
    if tool is None and not machine.dry:
        raise Unavailable("compute-sanitizer is not installed")
    for name in TOOLS[:1] if machine.dry else TOOLS:
        prefix = [] if machine.dry else [tool, "--tool", name, "--error-exitcode", "9", "--kernel-name", "kns=supernet"]
        command = [*prefix, sys.executable, "-m", "gpu.operators", "--once", *(["--dry"] if machine.dry else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout, flush=True)
        results.add({"tool": name, "exit": done.returncode, "end": done.stdout[-2000:]})
        if "not supported" in done.stdout:
            raise Unavailable(f"compute-sanitizer does not run on this device: {done.stdout[-300:]}")
        if done.returncode:
            raise Mistake(f"{name} exits with {done.returncode}")
