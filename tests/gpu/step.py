"""A training step of the supernet: fused, eager in channels_last, eager in NCHW. It decides about `--kernels auto`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from bench import step

from gpu.stage import TYPES, Machine, Results

SHAPE = ("mobile", 224, 64, 1)
DRY = ("mobile-small", 14, 2, 1)
ROUNDS = 12


def run(machine: Machine, results: Results) -> None:
    machine.require()
    shape, rounds = (DRY, 1) if machine.dry else (SHAPE, ROUNDS)
    with torch.device(machine.device):
        forms = step.steppers(shape, step.FORMS)
    for kind in TYPES[:1] if machine.dry else TYPES:
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        rng = np.random.default_rng(0)
        for path in range(-1, rounds):  # the first warms up
            for name in rng.permutation(list(forms)):
                took = timed(machine, forms[name], max(path, 0), kind)
                if path >= 0:
                    seconds[name].append(took)
        best = np.minimum(seconds["eager channels_last"], seconds["eager NCHW"])
        ratio = float(np.median(best / np.array(seconds["ours"])))
        results.add({"space": shape[0], "batch": shape[2], "type": kind, "ratio": ratio, "seconds": seconds})


def timed(machine: Machine, one: Callable[[int], None], path: int, kind: str) -> float:
    """Seconds until the device is done with a step: launches count, as they do in a training."""
    narrow = torch.autocast(machine.device, torch.bfloat16) if kind == "bfloat16" else contextlib.nullcontext()
    machine.synchronize()
    began = time.perf_counter()
    with narrow:
        one(path)
    machine.synchronize()
    return time.perf_counter() - began
