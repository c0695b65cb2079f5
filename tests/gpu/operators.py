"""Every operator, forward and backward, on the shapes of `bench.py kernels`: against PyTorch's own in channels_last.

``python -m gpu.operators --once`` calls each once, for tools that look on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch
from bench.kernel_cases import OURS, Case
from bench.kernels import GROUPS, made_on

from gpu.stage import Machine, Results, require_alive, require_ours
from gpu.timing import side_by_side

TRAINING = ("depthwise", "training", "norm", "mixture", "masked")  # ``layers`` has inference
TYPES = (torch.float32, torch.bfloat16)


def run(machine: Machine, results: Results) -> None:
    machine.require()
    for dtype in TYPES[:1] if machine.dry else TYPES:
        for case in cases(machine, TRAINING[3:4] if machine.dry else TRAINING, dtype):
            told = {"row": case.row, "shape": case.shape, "type": str(dtype)[6:]}
            if not results.known(told):
                found, failed = side_by_side(machine, {name: [form] for name, form in case.forms.items()})
                results.add(told | {"ms": found, "failed": failed})
                require_alive(machine, results.data["results"][-1])
            if machine.dry:
                break
    require_ours(results)


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
        for case in cases(machine, [group]):
            if case.row not in done:
                with torch.inference_mode(group in ("inference", "int8")):
                    case.forms[OURS]()
                machine.synchronize()
                done.add(case.row)
    print(f"called {', '.join(sorted(done))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", required=True)
    parser.add_argument("--dry", action="store_true")
    once(Machine(parser.parse_args().dry))
