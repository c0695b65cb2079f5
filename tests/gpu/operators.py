"""Every operator, forward and backward, on the shapes of `bench.py kernels`: against PyTorch's own in channels_last.

``python -m gpu.operators --once`` calls each once, for tools that look on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from bench.kernel_cases import OURS, Case
from bench.kernels import GROUPS, made_on

from gpu.stage import Machine
from gpu.timing import side_by_side

TRAINING = ("depthwise", "training", "norm", "mixture", "masked")  # ``layers`` has inference
INT8 = "int8"  # the group of quantised operators, where there are any; it has types of its own
TYPES = (torch.float32, torch.bfloat16)
# What such a group compares with is not installed, or cannot take tensors of a GPU.
CANNOT_BE_MADE = (ImportError, TypeError)


def run(machine: Machine, add: Callable[[dict], None]) -> None:
    machine.require()
    for dtype in TYPES[:1] if machine.dry else TYPES:
        for case in cases(machine, TRAINING[3:4] if machine.dry else TRAINING, dtype):
            add(measured(machine, case, str(dtype)[6:]))
            if machine.dry:
                break
    if INT8 in GROUPS and not machine.dry:
        try:
            for case in cases(machine, [INT8]):
                add(measured(machine, case, INT8))
        except CANNOT_BE_MADE as error:
            add({"row": INT8, "shape": "", "type": INT8, "ms": {}, "failed": {OURS: str(error)}})


def measured(machine: Machine, case: Case, kind: str) -> dict[str, Any]:
    found, failed = side_by_side(machine, {name: [form] for name, form in case.forms.items()})
    return {"row": case.row, "shape": case.shape, "type": kind, "ms": found, "failed": failed}


def cases(machine: Machine, groups: Sequence[str], dtype: torch.dtype = torch.float32) -> Iterator[Case]:
    """The cases with their tensors on the device, in this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for group in groups:
            yield from made_on(machine.device, GROUPS[group]())
    finally:
        torch.set_default_dtype(before)


def once(machine: Machine) -> None:
    """Our form of the first shape of each row; kernels of 3, 5 and 7 are rows of their own."""
    done: set[str] = set()
    for group in ("mixture",) if machine.dry else GROUPS:
        try:
            call(machine, group, done)
        except CANNOT_BE_MADE as error:
            if group != INT8:
                raise
            print(f"{group} not called: {error}")
    print(f"called {', '.join(sorted(done))}")


def call(machine: Machine, group: str, done: set[str]) -> None:
    for case in cases(machine, [group]):
        if case.row not in done:
            with torch.inference_mode(group == "inference"):
                case.forms[OURS]()
            if not machine.dry:
                torch.cuda.synchronize()
            done.add(case.row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", required=True)
    parser.add_argument("--dry", action="store_true")
    once(Machine(parser.parse_args().dry))
