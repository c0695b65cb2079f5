"""A latency table of a space by CUDA graphs, and how well its sums predict whole networks."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gpu.stage import Machine, Results
from latency.build import FIT_ARCHS, Build
from latency.measure import Protocol
from latency.runtimes import TorchRuntime
from search import spread
from supernet import spaces

CHECKED = 8
QUICK = Protocol(rounds=2, visit_ms=0.01, chunks=1, warmup_runs=1, warmup_ms=0, attempts=0)


def run(machine: Machine, results: Results) -> None:
    machine.require()
    space = spaces.get("mobile-small", 3, 14, 10) if machine.dry else spaces.get("mobile", 3, 224, 1000)
    protocol = QUICK if machine.dry else Protocol(rounds=10, attempts=1)
    archs = spread.calibration_archs(space, FIT_ARCHS, 2 if machine.dry else CHECKED, 0)
    for kernels in ("eager",) if machine.dry else ("fused", "eager"):
        runtime = TorchRuntime(kernels, "cpu" if machine.dry else "cuda-graph")
        with tempfile.TemporaryDirectory() as folder:
            table = Build(space, runtime, protocol, archs).here(Path(folder, "table.json"))
        results.add({"space": space.name, "kernels": kernels, "layers": len(table.operations), **table.describe()})
