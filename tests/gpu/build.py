"""Builds the operators for this machine's architecture alone. Dry: tells what is built."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.cpp_extension import is_ninja_available

from gpu.stage import Machine, Results, Unavailable

ROOT = Path(__file__).resolve().parents[2]


def run(machine: Machine, results: Results) -> None:
    if not machine.dry:
        machine.require_device()
        if not is_ninja_available():
            raise Unavailable("ninja is not installed, without which files are compiled one after the other")
        arch = ".".join(map(str, torch.cuda.get_device_capability()))
        environment = {**os.environ, "SUPERNET_CUDA": "1", "TORCH_CUDA_ARCH_LIST": arch}
        began = time.monotonic()
        subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, env=environment, check=True)
        results.add({"arch": arch, "seconds": time.monotonic() - began})
    from supernet import ops  # what was built, and that it loads

    results.add(ops.build_info())
