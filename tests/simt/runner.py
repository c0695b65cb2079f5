"""Runs CUDA kernels on the CPU from a test (simt.h says how they run, ptx.h what inline PTX does).

To test another kernel:

1. Keep the rules at the top of ``csrc/cuda/common.cuh``, with a host function in the ``*_kernels.cuh`` that plans and
   launches, e.g. ``template <typename T> void scale(const T* x, T* y, int64_t n, float factor, Stream stream)``.
2. Name what the tests call in ``tests/simt/NAME.cpp``::

       #include "cuda/scale_kernels.cuh"
       #include "export.h"
       SIMT_EXPORT(scale_float32, supernet::cuda::scale<float>)

3. Call it with the arguments in its order, the stream left out::

       y = run("NAME", "scale_float32", x=x, y=Out(x.shape, x.dtype), n=x.numel(), factor=2.0)["y"]

   A tensor is an input; ``Out`` an output, which must be written whole; ``Scratch`` a workspace; a list of these a
   struct of pointers; None a null pointer; bool, int, float and enumerators (as int) themselves.

``run`` takes every order of threads and blocks, with results equal to the bit, or raises Failure, which names thread,
block and buffer. tests/test_ptxas.py compiles the same files with nvcc. A call may wait 5 million times in all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from simt import ptx
from simt.execute import execute

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
BUILD = HERE.parents[1] / "build" / "simt"
TORCH_INCLUDE = Path(torch.__file__).parent / "include"
FLAGS = "-std=c++20 -shared -fPIC -Wall -Wextra -Werror -Wno-unknown-pragmas -fvisibility=hidden -fno-gnu-unique"
# An H100 has 132 multiprocessors, and shared memory for two blocks of 113 KiB on each.
DEVICE = {"multiprocessors": 132, "block_shared": 113 << 10}
SETTINGS = {"order": "forward", "seed": 0, "offset": 0, "counting": False, "limit": 60, **DEVICE}
ORDERS = (("forward", 0), ("reverse", 0), ("random", 1), ("random", 2))


class Failure(AssertionError):
    """A kernel did what it must not."""


@dataclass(frozen=True)
class Out:
    """An output of this shape; every element has to be written."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    kind = "out"


@dataclass(frozen=True)
class Scratch(Out):
    """A workspace: starts as NaN, and may stay so."""

    kind = "scratch"


@dataclass(frozen=True)
class Traffic:
    """What the warps' requests to global memory move, in one direction."""

    requests: int
    """One instruction of one warp is a request."""
    sectors: int
    """32-byte sectors of all requests."""
    asked: int
    """Bytes that the lanes asked for."""
    block_sectors: int
    """Sectors with each counted once per block: what L2 delivers when L1 holds a block's working set."""


@dataclass(frozen=True)
class Shared:
    """What the warps' requests to shared memory cost, but for those of tensor cores."""

    requests: int
    wavefronts: int
    """Turns of the 32 banks."""
    least: int
    """Turns without bank conflicts."""


def sources(path: Path) -> dict[Path, bytes]:
    """The file and what it includes of ours."""
    found: dict[Path, bytes] = {}
    todo = [path]
    while todo:
        path = todo.pop()
        if path not in found:
            found[path] = path.read_bytes()
            names = re.findall(rb'^#include "(.+)"', found[path], re.MULTILINE)
            todo += [folder / n.decode() for n in names for folder in (HERE, CSRC) if (folder / n.decode()).exists()]
    return found


@cache
def build(name: str, flags: str = "-O1", plant: tuple[str, str] | None = None) -> str:
    """Compile ``name``.cpp into a shared library, once for each content of its sources. Gives its path.

    The device code's inline PTX is read as calls of ``ptx.h``. ``plant``: what stands once in it, and what is there
    instead, to see that a fault is found.
    """
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, *FLAGS.split(), *flags.split(), "-isystem", str(TORCH_INCLUDE)]
    texts = {path: text.decode() for path, text in sources(HERE / f"{name}.cpp").items()}
    device = {path: text for path, text in texts.items() if path.is_relative_to(CSRC)}
    if plant:
        (path,) = (path for path, text in device.items() if plant[0] in text)
        device[path] = device[path].replace(*plant)
    device = {path: ptx.translated(text) for path, text in device.items()}
    digest = hashlib.sha256(" ".join([*command, torch.__version__]).encode())
    for path, text in sorted((texts | device).items()):
        digest.update((str(path) + text).encode())
    library = BUILD / f"{name}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            for path, text in device.items():
                copy = Path(folder) / path.relative_to(CSRC)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(f'#line 1 "{path}"\n{text}')
            part = f"{folder}/part.so"
            command += [f"-I{folder}", f"-I{HERE}", str(HERE / f"{name}.cpp"), "-o", part]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name}.cpp does not compile for the runner:\n{done.stderr}")
            Path(part).replace(library)
    return str(library)


@cache
def symbols(library: str) -> dict[int, str]:
    """Of the functions in a library by their places."""
    lines = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout.splitlines()
    return {int(place, 16): name for place, _, name in (line.split() for line in lines if line[0] != " ")}


def kernel_name(symbol: str) -> str:
    """The symbol of void supernet::cuda::f<A, (supernet::cuda::B)1>(const A*) → f<A, (B)1>"""
    signature = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    depth = 0
    for i, char in enumerate(signature):
        depth += (char == "<") - (char == ">")
        if char == "(" and depth == 0:
            signature = signature[:i]
            break
    return re.sub(r"^void |(\w+|\(anonymous namespace\))::", "", signature)


def described(value):
    """An argument as execute() takes it."""
    if isinstance(value, torch.Tensor):
        data = bytes(value.detach().contiguous().flatten().view(torch.uint8).numpy())
        return {"kind": "in", "bytes": base64.b64encode(data).decode(), "itemsize": value.itemsize}
    if isinstance(value, Out):
        return {
            "kind": value.kind,
            "bytes": math.prod(value.shape) * value.dtype.itemsize,
            "itemsize": value.dtype.itemsize,
        }
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    return value


def run(
    file: str,
    function: str,
    *,
    offset: int = 0,
    limit: float = 60,
    flags: str = "-O1",
    plant: tuple[str, str] | None = None,
    block_shared: int = DEVICE["block_shared"],
    **arguments,
) -> dict:
    """Call ``function`` of ``file``.cpp in every order. Gives the outputs by name (in a list: as a list).

    Args:
        offset: elements by which every buffer lies behind a multiple of 16 bytes.
        limit: seconds after which a launch that has not ended counts as one that never will.
        plant: as for ``build``.
        block_shared: bytes of shared memory that plans may give to a block.
    """
    library = build(file, flags, plant)
    data = {name: described(value) for name, value in arguments.items()}
    settings = {**SETTINGS, "offset": offset, "limit": limit, "block_shared": block_shared}
    results = []
    for order, seed in ORDERS:
        result = execute(library, function, data, {**settings, "order": order, "seed": seed})
        if result["failure"]:
            raise Failure(f"{function}: {result['failure']} (threads in {order} order)")
        results.append(outputs(function, arguments, result["outputs"]))
    for (order, _), other in zip(ORDERS[1:], results[1:], strict=True):
        for name, raw in flat(results[0]).items():
            if not torch.equal(bits(raw), bits(flat(other)[name])):
                raise Failure(f"{function}: '{name}' depends on the order of threads: {order} differs from forward")
    return results[0]


def run_asan(file: str, function: str, *, offset: int = 0, **arguments) -> None:
    """The same with AddressSanitizer, in a process of its own, in one order."""
    library = build(file, "-O1 -fsanitize=address")
    call = {
        "library": library,
        "function": function,
        "arguments": {name: described(value) for name, value in arguments.items()},
        "settings": {**SETTINGS, "offset": offset},
    }
    asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": asan.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    done = subprocess.run(
        [sys.executable, "-S", str(HERE / "execute.py")],
        input=json.dumps(call),
        env=environment,
        capture_output=True,
        text=True,
    )
    report = re.search("AddressSanitizer: .*", done.stderr)
    if done.returncode or report:
        raise Failure(f"{function}: {report.group() if report else done.stderr}")
    result = json.loads(done.stdout)
    if result["failure"]:
        raise Failure(f"{function}: {result['failure']}")


@dataclass(frozen=True)
class Launch:
    symbol: str
    """Of the kernel."""
    blocks: int
    threads: int
    """Of a block."""
    dynamic_shared: int
    """Bytes."""
    idle: int
    """Blocks that store nothing."""
    copied: int
    """Bytes that a block had asked ``cp.async`` for when it waited, in the mean."""


@dataclass(frozen=True)
class Counts:
    """What one call does."""

    loads: Traffic
    stores: Traffic
    buffers: dict[str, int]
    """Of each buffer the ``block_sectors`` loaded and stored."""
    shared: Shared
    launches: list[Launch]


def count(file: str, function: str, *, multiprocessors: int = DEVICE["multiprocessors"], **arguments) -> Counts:
    """What one call does with memory, in how many blocks, planned for a device of so many multiprocessors.

    Of a launch of many blocks 61 are run, spread evenly, and stand for all.
    """
    data = {name: described(value) for name, value in arguments.items()}
    library = build(file)
    result = execute(
        library, function, data, {**SETTINGS, "counting": True, "limit": 600, "multiprocessors": multiprocessors}
    )
    if result["failure"]:
        raise Failure(f"{function}: {result['failure']}")
    by_buffer = {name: sum(sectors) for name, sectors in result["sectors"].items()}
    counts = result["counts"]
    launches = [Launch(symbols(library)[place], *launch) for place, *launch in result["launches"]]
    return Counts(Traffic(*counts[:4]), Traffic(*counts[4:8]), by_buffer, Shared(*counts[8:]), launches)


def outputs(function: str, arguments: dict, raw: dict[str, str]) -> dict:
    """The outputs as tensors. Raises Failure if an element of more than a byte holds what was there before."""

    def tensor(name: str, out: Out) -> torch.Tensor:
        data = torch.frombuffer(bytearray(base64.b64decode(raw[name])), dtype=torch.uint8)
        untouched = (data.view(-1, out.dtype.itemsize) == 0xFF).all(1)
        if out.dtype.itemsize > 1 and untouched.any():  # a byte may well be 255
            raise Failure(
                f"{function}: {int(untouched.sum())} elements of '{name}' were not written, or from memory that was "
                f"not; the first is {int(untouched.nonzero()[0])}"
            )
        return data.view(out.dtype).view(out.shape)

    result = {}
    for name, value in arguments.items():
        if isinstance(value, Out) and value.kind == "out":
            result[name] = tensor(name, value)
        elif isinstance(value, list | tuple) and any(isinstance(v, Out) and v.kind == "out" for v in value):
            result[name] = [tensor(f"{name}[{i}]", each) for i, each in enumerate(value)]
    return result


def flat(results: dict) -> dict[str, torch.Tensor]:
    """Lists taken apart."""
    out = {}
    for name, value in results.items():
        each = {f"{name}[{i}]": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
        out.update(each)
    return out


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().view(torch.uint8)
