"""What the CUDA kernels move through memory, counted by the runner of tests/simt, and the time this takes at best.

The minimum reads every input once and writes every output once. Moved is what L2 delivers or takes: 32-byte sectors,
each counted once per block (L1 serves a block's second look), so a halo that two blocks read counts twice. The time is
the roofline's: the longer of moved bytes by bandwidth and operations by peak, for BATCH images.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from supernet.errors import UserError
from supernet.progress import Bar

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from simt.runner import Out, Scratch, count

BATCH = 64
GOAL = 1.15  # moved / minimum
SECTOR = 32


@dataclass(frozen=True)
class Device:
    """Peaks of NVIDIA's data sheets (SXM, dense)."""

    bandwidth: float
    """Bytes per second."""
    float32: float
    """Operations per second outside of tensor cores, a multiply-add being two."""
    tensor: float
    """Operations per second of tensor cores on float16 and bfloat16."""


DEVICES = {
    "A100": Device(bandwidth=2.039e12, float32=19.5e12, tensor=312e12),
    "H100": Device(bandwidth=3.35e12, float32=66.9e12, tensor=989.4e12),
}


@dataclass(frozen=True)
class Case:
    """A call of the runner on some images."""

    name: str
    shape: str
    images: int
    file: str
    function: str
    arguments: dict
    """In the function's order; what is no Scratch belongs to the minimum."""
    operations: float
    tensor_cores: bool = False


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float32).to(dtype)


def depth_mix() -> Iterator[Case]:
    images, depth, c, size = 2, 3, 96, 14
    n = images * c * size * size
    shape = f"{depth} × {c}×{size}²"
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        xs = [tensor(n, dtype=dtype) for _ in range(depth)]
        common = {"xs": xs, "p": tensor(depth)}
        sizes = {"n": n, "depth": depth}
        arguments = {**common, "y": Out((n,), dtype), **sizes}
        yield Case("depth_mix", shape, images, "depth_mix", f"depth_mix_{kind}", arguments, 2 * depth * n)
        tiles = math.ceil(n * dtype.itemsize / (256 * 4 * 16))
        arguments = {
            "grad": tensor(n, dtype=dtype),
            **common,
            "grad_xs": [Out((n,), dtype)] * depth,
            "grad_p": Out((depth,)),
            "partial": Scratch((depth, tiles)),
            **sizes,
        }
        function = f"depth_mix_backward_{kind}"
        yield Case("depth_mix backward", shape, images, "depth_mix", function, arguments, 3 * depth * n)


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {"depth_mix": depth_mix}


def minimum(value) -> int:
    """Bytes of an argument that have to be moved."""
    if isinstance(value, list | tuple):
        return sum(map(minimum, value))
    if isinstance(value, Scratch):
        return 0
    if isinstance(value, Out):
        return math.prod(value.shape) * value.dtype.itemsize
    return value.nbytes if isinstance(value, torch.Tensor) else 0


def measure(case: Case) -> dict:
    loads, stores = count(case.file, case.function, **case.arguments)
    least = sum(map(minimum, case.arguments.values()))
    moved = SECTOR * (loads.block_sectors + stores.block_sectors)
    scale = BATCH / case.images
    times = {}
    for name, device in DEVICES.items():
        memory = moved * scale / device.bandwidth
        compute = case.operations * scale / (device.tensor if case.tensor_cores else device.float32)
        times[name] = {"us": 1e6 * max(memory, compute), "bound": "memory" if memory >= compute else "compute"}
    return {
        "name": case.name,
        "function": case.function,
        "shape": case.shape,
        "images": case.images,
        "minimum": least,
        "moved": moved,
        "ratio": moved / least,
        "sectors_per_load": loads.sectors / loads.requests,
        "sectors_per_store": stores.sectors / stores.requests,
        "operations": case.operations,
        "times": times,
    }


def run(groups: Sequence[str]) -> list[dict]:
    if not shutil.which("g++"):
        raise UserError("cuda-model compiles the kernels for the CPU and found no g++: install one")
    cases = [case for group in groups for case in GROUPS[group]()]
    results = []
    with Bar("cuda-model", len(cases), unit="kernels") as bar:
        for case in cases:
            results.append(measure(case))
            bar.advance()
    return results


def table(results: Sequence[dict]) -> Table:
    out = Table(title=f"CUDA kernels, roofline times for {BATCH} images")
    columns = ("kernel", "type", "image", "moved/least", "sectors per load", "per store", *DEVICES)
    for i, column in enumerate(columns):
        out.add_column(column, justify="right" if i > 2 else "left")
    for r in results:
        missed = " !" if r["ratio"] > GOAL else ""
        out.add_row(
            r["name"],
            r["function"].rsplit("_", 1)[1],
            r["shape"],
            f"{r['ratio']:.2f}{missed}",
            f"{r['sectors_per_load']:.1f}",
            f"{r['sectors_per_store']:.1f}",
            *(f"{t['us']:.1f} µs ({t['bound']})" for t in r["times"].values()),
        )
    out.caption = f"goal: moved/least ≤ {GOAL}; ! missed"
    return out
