"""What the CUDA kernels move through memory, counted by the runner of tests/simt, and the time this takes at best.

All for BATCH images. The minimum reads every input once and writes every output once. Two counts, in 32-byte sectors:

* L2: what it delivers or takes, each sector once per block (L1 serves a block's second look). A halo that two blocks
  read counts twice, a weight as often as there are blocks.
* moved: the same, but the inputs in WEIGHTS once. All blocks read these, at most some hundred KiB, so they come from
  device memory once and stay in the 40 MB of L2. For halos and partial sums nothing of the kind is assumed.

The time is the roofline's: the longest of moved bytes by the memory's bandwidth, L2's by its own, and operations by
peak. (Pixels of a halo that inverted_bottleneck expands again are not among the operations.) Of a launch of many blocks
the runner takes a sample (``simt.runner.count``).
"""

from __future__ import annotations

import itertools
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

# The runner of CUDA kernels on the CPU is a part of the tests, not of the library.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from simt.runner import Out, Scratch, count

BATCH = 64
GOAL = 1.15  # moved / minimum
SECTOR = 32
WEIGHTS = {
    f"{part}{name}"
    for part in ("", "dw_", "pw_", "expand_")
    for name in ("weight", "scale", "shift", "mean", "var", "gamma", "beta")
}
"""Names of arguments that every block reads."""
TYPES = (torch.float32, torch.bfloat16)


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


@dataclass(frozen=True)
class Case:
    """A call of the runner on BATCH images."""

    name: str
    shape: str
    file: str
    function: str
    arguments: dict
    """In the function's order; what is no Scratch belongs to the minimum."""
    operations: float
    """Outside of tensor cores, a multiply-add being two."""
    tensor_operations: float = 0
    """On tensor cores."""
    again: int = 0
    """Bytes that the algorithm has to read a second time."""


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float32).to(dtype)


def depth_mix() -> Iterator[Case]:
    depth, c, size = 3, 96, 14
    n = BATCH * c * size * size
    shape = f"{depth} × {c}×{size}²"
    for dtype in TYPES:
        kind = str(dtype).removeprefix("torch.")
        xs = [tensor(n, dtype=dtype) for _ in range(depth)]
        common = {"xs": xs, "p": tensor(depth)}
        end = {"n": n, "depth": depth}
        arguments = {**common, "y": Out((n,), dtype), **end}
        yield Case("depth_mix", shape, "depth_mix", f"depth_mix_{kind}", arguments, 2 * depth * n)
        tiles = math.ceil(n * dtype.itemsize / (256 * 4 * 16))
        arguments = {
            "grad": tensor(n, dtype=dtype),
            **common,
            "grad_xs": [Out((n,), dtype)] * depth,
            "grad_p": Out((depth,)),
            "partial": Scratch((depth, tiles)),
            **end,
        }
        function = f"depth_mix_backward_{kind}"
        yield Case("depth_mix backward", shape, "depth_mix", function, arguments, 3 * depth * n)


def sizes(c: int, size: int, k: int, stride: int) -> dict:
    """The last arguments of the depthwise kernels."""
    out = (size - 1) // stride + 1
    names = ("batch", "channels", "height", "width", "out_height", "out_width", "kernel", "stride")
    return dict(zip(names, (BATCH, c, size, size, out, out, k, stride), strict=True))


def depthwise() -> Iterator[Case]:
    for dtype, (c, size, k, stride) in itertools.product(TYPES, ((96, 28, 3, 1), (96, 28, 5, 2), (144, 14, 7, 1))):
        common = sizes(c, size, k, stride)
        out = common["out_height"]
        shape = f"{c}×{size}², k {k}, stride {stride}"
        operations = 2 * BATCH * c * out * out * k * k
        partial = Scratch((BATCH * 16, 3 * c * k * k))  # more than these plans need
        x, grad = tensor(BATCH, size, size, c, dtype=dtype), tensor(BATCH, out, out, c, dtype=dtype)
        like_x = Out(tuple(x.shape), dtype)
        norm = {"mean": tensor(c), "var": tensor(c), "gamma": tensor(c), "beta": tensor(c), "eps": 1e-5, "act": 2}
        weight = {"weight": tensor(c, k, k, dtype=dtype)}
        output = {"y": Out(tuple(grad.shape), dtype)}
        moments = {"partial": partial, "out_mean": Out((c,)), "out_var": Out((c,))}
        back = {"grad": grad, "partial": partial, "grad_weight": Out((c, k, k), dtype)}
        # With the gradient on through the norm: grad_z is written and read, x is read again.
        through = {"grad_z": like_x, "partial": partial, "sums": Scratch((2, c)), "grad_x": like_x}
        through |= {"grad_gamma": Out((c,)), "grad_beta": Out((c,))}
        calls = {
            "forward": {"x": x, **weight, **output},
            "forward_moments": {"x": x, **weight, **output, **moments},
            "norm_forward": {"x": x, **norm, **weight, **output, **moments},
            "input_gradient": {"grad": grad, **weight, "grad_x": like_x},
            "norm_input_gradient": {"grad": grad, **weight, "x": x, **norm, **through},
            "weight_gradient": {"x": x, **back},
            "norm_weight_gradient": {"x": x, **norm, **back},
        }
        for name, arguments in calls.items():
            function = f"{name}_{str(dtype).removeprefix('torch.')}"
            title = f"depthwise {name.replace('_', ' ')}"
            again = 2 * x.nbytes if name == "norm_input_gradient" else 0
            yield Case(title, shape, "depthwise", function, {**arguments, **common}, operations, again=again)


def batch_norm_act() -> Iterator[Case]:
    c, size = 96, 28
    pixels = BATCH * size * size
    for dtype in TYPES:
        x = tensor(pixels, c, dtype=dtype)
        moments = {"mean": tensor(c), "var": tensor(c)}
        norm = {**moments, "gamma": tensor(c), "beta": tensor(c), "eps": 1e-5, "act": 2}
        end = {"pixels": pixels, "channels": c}
        out = Out((pixels, c), dtype)
        calls = {
            "statistics": {"x": x, "moments": Scratch((pixels // 8, 3, c)), "mean": Out((c,)), "var": Out((c,))},
            "forward": {"x": x, **norm, "y": out},
            # It reads x and grad twice, for the sums and then for the gradient, so twice belongs to the minimum.
            "backward": {
                "grad": tensor(pixels, c, dtype=dtype),
                "x": x,
                **norm,
                "partial": Scratch((pixels // 8, 2, c)),
                "sums": Scratch((2, c)),
                "grad_x": out,
                "grad_gamma": Out((c,)),
                "grad_beta": Out((c,)),
            },
        }
        for name, arguments in calls.items():
            function = f"{name}_{str(dtype).removeprefix('torch.')}"
            again = 2 * x.nbytes if name == "backward" else 0
            arguments.update(end)
            operations = 8 * pixels * c
            yield Case(
                f"batch_norm_act {name}",
                f"{c}×{size}²",
                "batch_norm_act",
                function,
                arguments,
                operations,
                again=again,
            )


def masked_conv() -> Iterator[Case]:
    """The convolution is cuDNN's; ours is the scaled weight, the same for any number of images."""
    outputs, inputs, k = 96, 96, 3
    for dtype in TYPES:
        weight, scaled = tensor(outputs, inputs, k, k, dtype=dtype), Out((outputs, k, k, inputs), dtype)
        end = dict(zip(("o", "i", "k", "active_o", "active_i"), (outputs, inputs, k, outputs, inputs), strict=True))
        calls = {
            "scale": {"weight": weight, "coefficients": tensor(outputs), "scaled": scaled},
            "gradient": {
                "scaled_grad": tensor(outputs, k, k, inputs, dtype=dtype),
                "weight": weight,
                "coefficients": tensor(outputs),
                "grad_weight": Out(tuple(weight.shape), dtype),
                "grad_coefficients": Out((outputs,)),
            },
        }
        for name, arguments in calls.items():
            function = f"{name}_{str(dtype).removeprefix('torch.')}"
            shape = f"{outputs}×{inputs}×{k}×{k} weight"
            arguments.update(end)
            yield Case(f"masked_conv {name}", shape, "masked_conv", function, arguments, 2 * weight.numel())


def dw_separable() -> Iterator[Case]:
    for dtype, (c, o, size, k, stride) in itertools.product(
        TYPES, ((96, 24, 28, 3, 1), (144, 32, 28, 5, 2), (192, 64, 14, 3, 1), (576, 160, 14, 3, 2))
    ):
        end = sizes(c, size, k, stride)
        out = end["out_height"]
        pixels, cores = BATCH * out * out, dtype != torch.float32
        arguments = {
            "x": tensor(BATCH, size, size, c, dtype=dtype),
            "dw_weight": tensor(c, k, k, dtype=dtype),
            "dw_scale": tensor(c),
            "dw_shift": tensor(c),
            "pw_weight": tensor(o, c, dtype=dtype),
            "pw_scale": tensor(o),
            "pw_shift": tensor(o),
            "y": Out((BATCH, out, out, o), dtype),
            "mid_act": 2,
            "out_act": 0,
            "outputs": o,
            **end,
        }
        yield Case(
            "dw_separable",
            f"{c}→{o}×{size}², k {k}, stride {stride}",
            "dw_separable",
            f"fused_{str(dtype).removeprefix('torch.')}",
            arguments,
            2 * pixels * c * (k * k if cores else k * k + o),
            tensor_operations=2 * pixels * c * o if cores else 0,
        )


def inverted_bottleneck() -> Iterator[Case]:
    for dtype, (i, c, o, size, k, stride) in itertools.product(
        TYPES, ((24, 144, 24, 28, 3, 1), (32, 192, 64, 28, 5, 2), (64, 384, 64, 14, 5, 1), (160, 960, 160, 7, 3, 1))
    ):
        end = sizes(c, size, k, stride)
        out = end["out_height"]
        pixels, cores = BATCH * out * out, dtype != torch.float32
        products = 2 * BATCH * c * (size * size * i + out * out * o)
        arguments = {
            "x": tensor(BATCH, size, size, i, dtype=dtype),
            "expand_weight": tensor(c, i, dtype=dtype),
            "expand_scale": tensor(c),
            "expand_shift": tensor(c),
            "dw_weight": tensor(c, k, k, dtype=dtype),
            "dw_scale": tensor(c),
            "dw_shift": tensor(c),
            "pw_weight": tensor(o, c, dtype=dtype),
            "pw_scale": tensor(o),
            "pw_shift": tensor(o),
            "y": Out((BATCH, out, out, o), dtype),
            "act": 2,
            "residual": i == o and stride == 1,
            "inputs": i,
            "outputs": o,
            **end,
        }
        yield Case(
            "inverted_bottleneck",
            f"{i}→{c}→{o}×{size}², k {k}, stride {stride}",
            "inverted_bottleneck",
            f"fused_{str(dtype).removeprefix('torch.')}",
            arguments,
            2 * pixels * c * k * k + (0 if cores else products),
            tensor_operations=products if cores else 0,
        )


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "depth_mix": depth_mix,
    "depthwise": depthwise,
    "batch_norm_act": batch_norm_act,
    "masked_conv": masked_conv,
    "dw_separable": dw_separable,
    "inverted_bottleneck": inverted_bottleneck,
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


def measure(case: Case) -> dict:
    loads, stores, sectors = count(case.file, case.function, **case.arguments)
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
        "images": BATCH,
        "minimum": least,
        "moved": moved,
        "ratio": moved / least,
        "l2_ratio": l2 / least,
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
    columns = ("kernel", "type", "image", "moved/least", "L2/least", "sectors per load", "per store", *DEVICES)
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
            f"{r['sectors_per_load']:.1f}",
            f"{r['sectors_per_store']:.1f}",
            *(f"{t['us']:.1f} µs ({t['bound']})" for t in r["times"].values()),
        )
    out.caption = f"goal: moved/least ≤ {GOAL}; ! missed"
    return out
