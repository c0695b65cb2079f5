"""What the machine has: without it no figure means anything."""

from __future__ import annotations

import platform
import shutil
import subprocess

import torch

import setup
from gpu.stage import Machine, Results
from latency.measure import host

TOOLS = ("nvidia-smi", "nvcc", "compute-sanitizer", "ncu", "nvdisasm", "g++")
PROPERTIES = ("total_memory", "multi_processor_count", "L2_cache_size", "major", "minor")


def run(machine: Machine, results: Results) -> None:
    machine.require_device()
    home = setup.find_cuda_home()
    results.add(
        {
            **host(),
            "device": machine.name,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch_cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "toolkit": setup.nvcc_version(home) if home else None,
            "tools": {name: shutil.which(name) for name in TOOLS},
        }
    )
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        results.add({name: getattr(properties, name) for name in PROPERTIES})
    if shutil.which("nvidia-smi") and not machine.dry:
        query = "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu,utilization.gpu"
        text = subprocess.run(["nvidia-smi", query, "--format=csv"], capture_output=True, text=True).stdout
        results.add(dict(zip(*(line.split(", ") for line in text.splitlines()[:2]), strict=True)))
