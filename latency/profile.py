"""Where the time of a converted network goes: its operators, by the profiler of the runtime that executes it.

Profiling takes time itself, and both profilers count whole microseconds. So the times compare operators with one
another; ``latency.measure`` tells how long a network takes.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from scipy.stats import trim_mean

from latency import agent, measure
from supernet.errors import UserError
from supernet.export.base import require
from supernet.tables import Table

WARM_UP, RUNS = 10, 50

Times = list[tuple[str, list[float]]]  # operators in execution order, each with the ms of every run


class Operator(NamedTuple):
    """One operator of a network: the runtime's name for it, and its mean ms per run."""

    name: str
    ms: float


def profile(runtime: str, model: bytes, threads: int = 1) -> list[Operator]:
    """The operators of the converted ``model`` in execution order; one thread stays on one core.

    Raises:
        UserError: the runtime has no profile, or is not installed.
    """
    with measure.pin_core() if threads == 1 else nullcontext():
        return [Operator(name, mean(times)) for name, times in profiler(runtime)(model, threads)]


def profiler(runtime: str) -> Callable[[bytes, int], Times]:
    """The function that profiles files of ``runtime``: it takes the file and the number of threads.

    Raises:
        UserError: the runtime has no profile.
    """
    if runtime not in PROFILERS:
        raise UserError(f"{runtime} has no profile of its operators: expected a file of {' or '.join(PROFILERS)}")
    return PROFILERS[runtime]


def mean(times: list[float]) -> float:
    """Mean after the warm-up, without a tenth at either end; a median would be a whole number of µs."""
    return float(trim_mean(times[WARM_UP:], 0.1))


def onnxruntime(model: bytes, threads: int) -> Times:
    """Times from the session's profile, JSON that onnxruntime writes with an event for each node and run."""
    times: dict[tuple[int, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        options = {"enable_profiling": True, "profile_file_prefix": str(Path(folder, "profile"))}
        session, call = agent.open_onnxruntime(model, threads, **options)
        for _ in range(WARM_UP + RUNS):
            call()
        events = json.loads(Path(session.end_profiling()).read_text())
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            args = event["args"]
            sizes = ["×".join(map(str, size)) for tensor in args["input_type_shape"] for size in tensor.values()]
            name = f"{args['op_name']} {', '.join(size or 'scalar' for size in sizes)}"
            times[int(args["node_index"]), name].append(event["dur"] / 1e3)
    return [(name, durations) for (_, name), durations in times.items()]


def executorch(model: bytes, threads: int) -> Times:
    """Times from an ETDump: events inside the delegate, named by XNNPACK, and operators outside of it."""
    devtools = require("executorch.devtools", "executorch")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "etdump"))
        program, call = agent.open_executorch(model, threads, enable_etdump=True)
        for _ in range(WARM_UP + RUNS):
            call()
        try:
            program.write_etdump_result_to_file(path, "")
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "Output Buffer not found"
                )  # intermediate values, which we do not need
                blocks = devtools.Inspector(etdump_path=path).event_blocks
        except (RuntimeError, OSError) as error:
            raise UserError(f"executorch gave no trace of its events ({error}): upgrade it") from error
    events = [event for block in blocks if block.name == "Execute" for event in block.events]
    outside = "native_call_"
    times = [
        (event.name.removeprefix(outside), event.perf_data.raw)
        for event in events
        if event.is_delegated_op or event.name.startswith(outside)
    ]
    if not times:
        raise UserError("this executorch was built without its event tracer: install the package from PyPI")
    return times


PROFILERS = {"onnxruntime": onnxruntime, "executorch": executorch}


def table(operators: list[Operator], runtime: str, most: int = 10) -> Table:
    """The operators that take longest, each with its place in the order in which they run."""
    total = math.fsum(operator.ms for operator in operators)
    slowest = sorted(enumerate(operators, 1), key=lambda pair: -pair[1].ms)[:most]
    rows = [[str(i), op.name, f"{op.ms:.3f}", f"{100 * op.ms / (total or 1):.1f} %"] for i, op in slowest]
    title = f"{len(slowest)} slowest of {len(operators)} operators, {total:.3f} ms by the profiler of {runtime}"
    return Table(["place", "operator", "ms", "share"], rows, title, text=2)
