"""Every operator, forward and backward, on the shapes of `bench.py kernels`: against PyTorch's own in channels_last.

``python -m gpu.operators --once`` calls each once, for tools that look on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import torch
from bench.kernel_cases import GROUPS, OURS, Case
from bench.kernels import made_on

from gpu.stage import Machine
from gpu.timing import side_by_side

# ``layers`` has inference. Quantised operators are a group where there are any.
TRAINING = ("depthwise", "training", "norm", "mixture", "masked", *({"int8"} & GROUPS.keys()))
TYPES = (torch.float32, torch.bfloat16)


def run(machine: Machine, add: Callable[[dict], None]) -> None:
    machine.require()
    for dtype in TYPES[:1] if machine.dry else TYPES:
        for case in cases(machine, TRAINING[3:4] if machine.dry else TRAINING, dtype):
            found, failed = side_by_side(machine, {name: [form] for name, form in case.forms.items()})
            add({"row": case.row, "shape": case.shape, "type": str(dtype)[6:], "ms": found, "failed": failed})
            if machine.dry:
                break


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
    done = set()
    for group in ("mixture",) if machine.dry else GROUPS:
        for case in cases(machine, [group]):
            if case.row not in done:
                done.add(case.row)
                with torch.inference_mode(group == "inference"):
                    case.forms[OURS]()
                if not machine.dry:
                    torch.cuda.synchronize()
    print(f"called {', '.join(sorted(done))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", required=True)
    parser.add_argument("--dry", action="store_true")
    once(Machine(parser.parse_args().dry))
