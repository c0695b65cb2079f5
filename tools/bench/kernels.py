"""How much faster the operators are than plain PyTorch: one row per claim, measured side by side.

Every case runs its forms in turn, in a shuffled order, round after round; both sides are channels_last, use one
thread and the same allocator. What is compared is the median of the thread's CPU time; on a GPU, of the time between
two CUDA events around queued calls.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch._inductor.config

from bench import kernel_cases
from bench.int8_cases import int8
from bench.kernel_cases import OURS, Case
from supernet.tables import Table


@dataclass(frozen=True)
class Goal:
    """What a row is held to: a ratio to reach, or not to exceed where it is an overhead."""

    gate: float
    stretch: float
    overhead: bool = False

    def met(self, ratio: float) -> bool:
        return ratio <= self.gate if self.overhead else ratio >= self.gate


CAPTION = (
    "of arithmetic, of copy: the share of what one core does in large products (float32, or bfloat16 for pointwise "
    "convolutions in bfloat16) and in copying memory"
)
GROUPS = {**kernel_cases.GROUPS, "int8": int8}
# By (row, form that we are compared with).
GOALS = {
    ("separable inference", "eager"): Goal(1.6, 2.0),
    ("separable inference", "eager, BN folded"): Goal(1.3, 1.6),
    ("separable inference", "frozen inductor"): Goal(1.15, 1.4),
    ("separable inference, bfloat16", "ours, float32"): Goal(1.6, 2.0),
    ("inverted bottleneck inference", "eager"): Goal(2.4, 3.0),
    ("inverted bottleneck inference", "eager, BN folded"): Goal(2.0, 2.5),
    ("inverted bottleneck inference", "frozen inductor"): Goal(1.5, 2.0),
    ("inverted bottleneck inference, bfloat16", "ours, float32"): Goal(1.6, 2.0),
    ("depthwise k3 fwd+bwd", "eager"): Goal(1.5, 2.0),
    ("depthwise k5 fwd+bwd", "eager"): Goal(3.2, 5.0),
    ("depthwise k7 fwd+bwd", "eager"): Goal(3.7, 6.0),
    ("separable training k3", "eager"): Goal(1.4, 1.8),
    ("separable training k5", "eager"): Goal(2.0, 2.5),
    ("separable training k7", "eager"): Goal(2.5, 3.2),
    ("BN + activation training", "eager"): Goal(1.5, 1.8),
    ("depth mixture fwd+bwd", "sum"): Goal(2.6, 3.5),
    ("depth mixture fwd+bwd", "stack"): Goal(4.3, 6.0),
    ("prefix convolution fwd+bwd", "native width"): Goal(1.05, 1.02, overhead=True),
    ("prefix depthwise fwd+bwd", "native width"): Goal(0.9, 0.6, overhead=True),
    ("soft mask fwd+bwd", "plain"): Goal(1.12, 1.05, overhead=True),
}


@dataclass(frozen=True)
class Limits:
    """What one core of this machine reaches: multiply-adds in large matrix products, a copy in memory."""

    flops: float  # per second, in float32
    products: float  # per second, in bfloat16: where the processor has matrix units, theirs
    bandwidth: float  # bytes per second, read and written

    @classmethod
    def measure(cls) -> Limits:
        a, b, c = (torch.randn(1024, 1024) for _ in range(3))
        narrow = [t.bfloat16() for t in (a, b, c)]
        x, y = torch.randn(1 << 26), torch.empty(1 << 26)
        full = fastest(lambda: torch.mm(a, b, out=c))
        half = fastest(lambda: torch.mm(*narrow[:2], out=narrow[2]))
        copy = fastest(lambda: y.copy_(x))
        return cls(2 * 1024**3 / full, 2 * 1024**3 / half, 8 * (1 << 26) / copy)

    def of_arithmetic(self, case: Case, seconds: float) -> float:
        """The share of the time that the case's arithmetic takes at these rates."""
        return (case.flops / self.flops + case.products / self.products) / seconds


def fastest(form: Callable[[], object], times: int = 10) -> float:
    """Seconds of CPU time, the fewest of some runs."""
    seconds = []
    for _ in range(times):
        start = time.thread_time()
        form()
        seconds.append(time.thread_time() - start)
    return min(seconds)


def cpu_seconds(form: Callable[[], object]) -> float:
    """CPU time of the thread."""
    start = time.thread_time()
    form()
    return time.thread_time() - start


def cuda_seconds(form: Callable[[], object], calls: int = 50) -> float:
    """Time on the device of one call; enough are queued that the device does not wait for the host's start."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        form()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


CLOCKS = {"cpu": cpu_seconds, "cuda": cuda_seconds}


def measure(case: Case, rounds: int, clock: Callable[[Callable[[], object]], float]) -> dict[str, float]:
    """Median seconds of each form."""
    rng, times = random.Random(0), {name: [] for name in case.forms}
    for form in case.forms.values():
        form()
        form()
    for _ in range(rounds):
        for name in rng.sample(list(case.forms), len(case.forms)):
            times[name].append(clock(case.forms[name]))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def made_on(device: str, cases: Iterator[Case]) -> Iterator[Case]:
    """The cases with their tensors on the device; what they do later is not slowed by it."""
    while True:
        with torch.device(device):
            case = next(cases, None)
        if case is None:
            return
        yield case


def run(
    rounds: int = 11,
    groups: Sequence[str] = tuple(GROUPS),
    advance: Callable[[str], None] = lambda case: None,
    device: str = "cpu",
) -> list[dict]:
    """Measures all cases of the groups; sets PyTorch to one thread.

    Args:
        rounds: how often every form runs.
        groups: names out of ``GROUPS``.
        advance: called with the name of each case when it is done.
        device: ``cpu`` or ``cuda``.

    Returns:
        A dict for each case and each form that we are compared with: ``row``, ``shape``, ``against``, ``ratio``
        (theirs / ours; ours / theirs where the goal is a small overhead), ``ours_ms``, ``theirs_ms``, and the shares
        of the machine's `Limits` that ours reaches, ``of_flops`` and ``of_bandwidth`` (0: not counted).
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._inductor.config.freezing = True  # as an option of torch.compile it has no effect on the graph's weights
    limits, results = Limits.measure(), []  # of this machine's CPU
    for group in groups:
        for case in made_on(device, GROUPS[group]()):
            with torch.inference_mode(group in ("inference", "int8")):
                seconds = measure(case, rounds, CLOCKS[device])
            ours = seconds.pop(OURS)
            for against, theirs in seconds.items():
                goal = GOALS.get((case.row, against))
                results.append(
                    {
                        "row": case.row,
                        "shape": case.shape,
                        "against": against,
                        "ratio": ours / theirs if goal and goal.overhead else theirs / ours,
                        "ours_ms": 1e3 * ours,
                        "theirs_ms": 1e3 * theirs,
                        "of_flops": limits.of_arithmetic(case, ours) if device == "cpu" else 0.0,
                        "of_bandwidth": case.bytes / ours / limits.bandwidth if device == "cpu" else 0.0,
                    }
                )
            advance(f"{case.row} {case.shape}")
    return results


def summary(results: Sequence[dict], device: str = "cpu") -> list[dict]:
    """One dict per row and comparison: geometric means over the shapes, the worst shape, the goal on the CPU."""
    rows: dict[tuple[str, str], list[dict]] = {}
    for result in results:
        rows.setdefault((result["row"], result["against"]), []).append(result)
    out = []
    for (row, against), cases in rows.items():
        known, ratios = GOALS.get((row, against)), [case["ratio"] for case in cases]
        goal = known if device == "cpu" else None
        mean = geometric_mean(ratios)
        out.append(
            {
                "row": row,
                "against": against,
                "shapes": len(ratios),
                "geomean": mean,
                "worst": max(ratios) if known and known.overhead else min(ratios),
                "gate": goal.gate if goal else None,
                "stretch": goal.stretch if goal else None,
                "met": goal.met(mean) if goal else None,
                **{key: geometric_mean([case[key] for case in cases]) for key in ("of_flops", "of_bandwidth")},
            }
        )
    return out


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values))) if all(values) else 0.0


def table(results: Sequence[dict], device: str = "cpu") -> Table:
    """The summary as a table to print."""
    clock = "1 thread, CPU time" if device == "cpu" else "CUDA events"
    title = f"Kernels against plain PyTorch: {clock}, geometric means over the shapes"
    rows = []
    for s in summary(results, device):
        goal = [f"{s[key]:g}" if s[key] else "" for key in ("gate", "stretch")]
        verdict = {True: "met", False: "missed", None: ""}[s["met"]]
        ratios = f"{s['geomean']:.2f}", f"{s['worst']:.2f}"
        shares = [f"{s[key]:.0%}" if s[key] else "" for key in ("of_flops", "of_bandwidth")]
        rows.append((s["row"], s["against"], str(s["shapes"]), *ratios, *goal, verdict, *shares))
    headings = ("", "against", "shapes", "ratio", "worst", "gate", "stretch", "", "of arithmetic", "of copy")
    return Table(headings, rows, title, text=2)
