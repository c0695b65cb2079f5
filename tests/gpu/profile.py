"""What Nsight Compute says of six kernels: shares of the device's arithmetic, memory and occupancy."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator

from gpu.stage import Machine, Results, Unavailable

KERNELS = (
    "depthwise_kernel",
    "depthwise_weight_kernel",
    "dw_separable_kernel",
    "inverted_bottleneck_kernel",
    "norm_act_kernel",
    "depth_mix_kernel",
)
METRICS = {
    "gpu__time_duration.sum": "ns",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "arithmetic_percent",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory_percent",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
}


def run(machine: Machine, results: Results) -> None:
    if machine.dry:
        raise Unavailable("there is no GPU to be profiled")
    machine.require()
    if not shutil.which("ncu"):
        raise Unavailable("Nsight Compute (ncu) is not installed")
    names = "|".join(KERNELS)
    options = [
        "--csv",
        "--page",
        "raw",
        "--print-units",
        "base",
        "--clock-control",
        "none",
        "--metrics",
        ",".join(METRICS),
    ]
    command = ["ncu", *options, "--kernel-name", f"regex:{names}", sys.executable, "-m", "gpu.operators", "--once"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    found = list(first_of_each(done.stdout))
    if not found:
        raise Unavailable(f"ncu gave no figures: {(done.stdout + done.stderr)[-300:]}")
    for figures in found:
        results.add(figures)


def first_of_each(text: str) -> Iterator[dict[str, str | float]]:
    """The first launch of each kernel in ncu's CSV, which follows what the program itself prints; a row of units."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    seen = set()
    for row in csv.DictReader(lines[start:]):
        name = (row.get("Kernel Name") or "").split("(")[0].split("<")[0].split("::")[-1].split()[-1:]
        if not name or name[0] in seen or not row["ID"].isdecimal():
            continue
        seen.add(name[0])
        figures = {ours: float(row[metric].replace(",", "")) for metric, ours in METRICS.items() if row.get(metric)}
        yield {"kernel": name[0], "full_name": row["Kernel Name"], **figures}
