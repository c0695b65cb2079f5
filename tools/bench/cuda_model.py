"""What the CUDA kernels move through memory, counted by the runner of tests/simt, and the time this takes at best.

The minimum reads every input once and writes every output once. Two counts, in 32-byte sectors:

* L2: what it delivers or takes, each sector once per block (L1 serves a block's second look). A halo that two blocks
  read counts twice, a weight as often as there are blocks.
* moved: the same, but the inputs in WEIGHTS once. All blocks read these, at most some hundred KiB, so they come from
  device memory once and stay in the 40 MB of L2. For halos and partial sums nothing of the kind is assumed.

The time is the roofline's: the longest of moved bytes by the memory's bandwidth, L2's by its own, and operations by
peak. (Pixels of a halo that inverted_bottleneck expands again are not among the operations.) Of a launch of many blocks
the runner takes a sample (``simt.runner.count``).

What fills an H100 is of the first launch: registers and 16-byte loads in flight of a thread from tests/data/ptxas.json
and sass.json, blocks, shared memory and what a block copies to it at once from the runner. Turns of shared memory's
banks are counted against those without conflicts, but for accesses that are not through the functions of
csrc/cuda/common.cuh, copies.cuh and mma.cuh.
"""

from __future__ import annotations

import json
import math
import operator
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from rich.table import Table
from simt.occupancy import resident, share_of_warps
from simt.runner import SETTINGS, Launch, Out, Scratch, count, kernel_name

from bench.cuda_cases import GROUPS, Case
from supernet.errors import UserError
from supernet.progress import Bar

GOAL = 1.15  # moved / minimum
SECTOR = 32
IN_FLIGHT = 17 << 10
"""Bytes per multiprocessor of an H100: its bandwidth by some 680 ns of latency under load (assumed), over 132."""
GOALS: dict[str, tuple[str, float, Callable[[float, float], bool]]] = {
    f"moved ≤ {GOAL}": ("ratio", GOAL, operator.le),
    "banks ≤ 1.2": ("shared_ratio", 1.2, operator.le),
    f"in flight ≥ {IN_FLIGHT >> 10} KiB": ("in_flight", IN_FLIGHT, operator.ge),
    "blocks ≥ 132": ("blocks", SETTINGS["multiprocessors"], operator.ge),
}
"""Each with its figure of a case: what it is compared with, and how. A block for each multiprocessor is a wave."""
WEIGHTS = {
    f"{part}{name}"
    for part in ("", "dw_", "pw_", "expand_")
    for name in ("weight", "scale", "shift", "mean", "var", "gamma", "beta")
}
"""Names of arguments that every block reads."""


@dataclass(frozen=True)
class Device:
    """Peaks of NVIDIA's data sheets (SXM, dense)."""

    bandwidth: float
    """Bytes per second of the device's memory."""
    l2: float
    """Bytes per second from L2: 5120 per clock, as NVIDIA's A100 white paper has it; assumed for the H100, too."""
    float32: float
    """Operations per second outside of tensor cores, a multiply-add being two."""
    tensor: float
    """Operations per second of tensor cores on float16 and bfloat16."""


DEVICES = {
    "A100": Device(bandwidth=2.039e12, l2=5120 * 1.41e9, float32=19.5e12, tensor=312e12),
    "H100": Device(bandwidth=3.35e12, l2=5120 * 1.83e9, float32=66.9e12, tensor=989.4e12),
}


def minimum(value) -> int:
    """Bytes of an argument that have to be moved."""
    if isinstance(value, list | tuple):
        return sum(map(minimum, value))
    if isinstance(value, Scratch):
        return 0
    if isinstance(value, Out):
        return math.prod(value.shape) * value.dtype.itemsize
    return value.nbytes if isinstance(value, torch.Tensor) else 0


@cache
def golden(name: str) -> dict:
    """What is read from the machine code for sm_90, by file and kernel: tests/data/NAME.json."""
    path = Path(__file__).resolve().parents[2] / "tests" / "data" / f"{name}.json"
    return json.loads(path.read_text())["kernels"]["sm_90"]


def residency(file: str, launch: Launch) -> dict[str, float]:
    """How an H100 is filled: its warps, and the bytes that a multiprocessor has asked for when it waits."""
    name, multiprocessors = kernel_name(launch.symbol), SETTINGS["multiprocessors"]
    sizes = golden("ptxas")[file][name]
    fitting = resident("sm_90", launch.threads, sizes["registers"], sizes["shared"] + launch.dynamic_shared)
    blocks = min(fitting, math.ceil(launch.blocks / multiprocessors))
    return {
        "occupancy": share_of_warps("sm_90", launch.threads, blocks),
        "in_flight": blocks * max(launch.copied, launch.threads * 16 * golden("sass")[file][name]["loads_most"]),
        "blocks": launch.blocks,
        "per_multiprocessor": launch.blocks / multiprocessors,
    }


def measure(case: Case, images: int) -> dict:
    counts = count(case.file, case.function, **case.arguments)
    sectors = counts.buffers
    least = sum(map(minimum, case.arguments.values())) + case.again
    l2 = SECTOR * sum(sectors.values())
    moved = l2 - sum(max(0, SECTOR * sectors[n] - minimum(case.arguments[n])) for n in WEIGHTS & case.arguments.keys())
    times = {}
    for name, device in DEVICES.items():
        seconds = {
            "memory": moved / device.bandwidth,
            "L2": l2 / device.l2,
            "compute": case.operations / device.float32 + case.tensor_operations / device.tensor,
        }
        bound = max(seconds, key=seconds.get)
        times[name] = {"us": 1e6 * seconds[bound], "bound": bound}
    return {
        "name": case.name,
        "function": case.function,
        "shape": case.shape,
        "images": images,
        "minimum": least,
        "moved": moved,
        "ratio": moved / least,
        "l2_ratio": l2 / least,
        "sectors_per_load": counts.loads.sectors / counts.loads.requests,
        "sectors_per_store": counts.stores.sectors / counts.stores.requests,
        "shared_ratio": counts.shared.wavefronts / max(1, counts.shared.least),
        "idle": sum(launch.idle for launch in counts.launches),
        **residency(case.file, counts.launches[0]),
        "operations": case.operations,
        "times": times,
    }


def run(groups: Sequence[str], images: int) -> list[dict]:
    if not shutil.which("g++"):
        raise UserError("cuda-model compiles the kernels for the CPU and found no g++: install one")
    cases = [case for group in groups for case in GROUPS[group](images)]
    results = []
    with Bar("cuda-model", len(cases), unit="kernels") as bar:
        for case in cases:
            results.append(measure(case, images))
            bar.advance()
    return results


def goals(results: Sequence[dict]) -> list[list[str]]:
    """Of each operator and type: cases, and for each of GOALS how many reach it, and the worst figure."""
    rows = {}
    for r in results:
        rows.setdefault((r["name"].split()[0], r["function"].rsplit("_", 1)[1]), []).append(r)
    table = []
    for (name, kind), cases in rows.items():
        row = [name, kind, str(len(cases))]
        for key, goal, reaches in GOALS.values():
            found = [case[key] for case in cases]
            worst = max(found) if reaches is operator.le else min(found)
            shown = f"{worst >> 10} KiB" if key == "in_flight" else f"{worst:.2f}" if key != "blocks" else f"{worst}"
            row.append(f"{sum(reaches(figure, goal) for figure in found)}, {shown}")
        table.append(row)
    return table


def goals_table(results: Sequence[dict]) -> Table:
    out = Table(title="Cases that reach a goal, and the worst figure")
    for column in ("operator", "type", "cases", *GOALS):
        out.add_column(column)
    for row in goals(results):
        out.add_row(*row)
    return out


def table(results: Sequence[dict]) -> Table:
    out = Table(title=f"CUDA kernels, roofline times for {results[0]['images']} images")
    columns = (
        "kernel",
        "type",
        "image",
        "moved/least",
        "L2/least",
        "banks/least",
        "blocks",
        "idle",
        "in flight",
        *DEVICES,
    )
    for i, column in enumerate(columns):
        out.add_column(column, justify="right" if i > 2 else "left")
    for r in results:
        missed = " !" if r["ratio"] > GOAL else ""
        out.add_row(
            r["name"],
            r["function"].rsplit("_", 1)[1],
            r["shape"],
            f"{r['ratio']:.2f}{missed}",
            f"{r['l2_ratio']:.2f}",
            f"{r['shared_ratio']:.2f}",
            f"{r['blocks']}",
            f"{r['idle']}",
            f"{r['in_flight'] / 1024:.0f} KiB",
            *(f"{t['us']:.1f} µs ({t['bound']})" for t in r["times"].values()),
        )
    out.caption = (
        f"goal: moved/least ≤ {GOAL}; ! missed. banks: turns of shared memory; blocks: of the first launch; in flight: "
        f"bytes that a multiprocessor of an H100 waits for, {IN_FLIGHT // 1024} KiB fill its way to memory"
    )
    return out
