"""Times a call on the device alone: a CUDA graph of it, replayed. In its place on the CPU: the thread's clock."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gpu.stage import Machine

COPIES = 8192  # of the inputs at most: a graph has so many calls
WARM_UPS = 3


def copies(machine: Machine, bytes: float) -> int:
    """How many inputs of so many bytes take twice the room of L2, so that none is there when its turn comes."""
    if machine.dry:
        return 2
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return min(COPIES, math.ceil(2 * l2 / bytes))


def milliseconds(machine: Machine, calls: Sequence[Callable[[], Any]], rounds: int = 7, least: float = 3.0) -> float:
    """Milliseconds of one of the calls, each on inputs of its own: the median of ``rounds`` replays of all in turn.

    Args:
        least: milliseconds that a replay, or several in a row, take at least.
    """
    from bench.kernels import cpu_seconds

    if machine.dry:
        calls[0]()
        return 1e3 * cpu_seconds(calls[0])
    replay = captured(calls)
    once = elapsed(replay, 1)
    again = max(1, math.ceil(least / max(once, 1e-3)))
    return statistics.median(elapsed(replay, again) for _ in range(rounds)) / len(calls)


def captured(calls: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    """All calls as one graph, warmed up on a side stream as PyTorch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return graph.replay


def elapsed(replay: Callable[[], None], times: int) -> float:
    """Milliseconds of one replay, between two events around ``times``."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / times


def side_by_side(
    machine: Machine, forms: Mapping[str, Sequence[Callable[[], Any]]]
) -> tuple[dict[str, float], dict[str, str]]:
    """Milliseconds of each form, and why the others have none."""
    found, failed = {}, {}
    for name, calls in forms.items():
        try:
            found[name] = milliseconds(machine, calls)
        except Exception as error:  # of one form: the others are still worth knowing
            failed[name] = f"{type(error).__name__}: {error}"[:300]
    return found, failed
