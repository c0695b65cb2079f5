"""What the device reaches at best: a copy in its memory, large matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpu.stage import Machine, Results
from gpu.timing import milliseconds, side_by_side


def run(machine: Machine, results: Results) -> None:
    if not machine.dry:
        machine.require()
    size, count = (256, 1 << 20) if machine.dry else (8192, 1 << 28)
    device = machine.device
    x, y = (torch.zeros(count, device=device) for _ in range(2))
    ms = milliseconds(machine, [lambda: y.copy_(x)])
    results.add({"name": "copy", "ms": ms, "gb_per_s": 8 * count / ms / 1e6})
    for name, product in products(size, device).items():
        with torch.inference_mode():
            found, failed = side_by_side(machine, {name: [product]})
        for ms in found.values():
            results.add({"name": name, "ms": ms, "tera_operations_per_s": 2 * size**3 / ms / 1e9})
        for reason in failed.values():
            results.add({"name": name, "reason": reason})


def products(size: int, device: str) -> dict[str, Callable[[], object]]:
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    low, whole = (a.bfloat16(), b.bfloat16()), [torch.randint(-9, 9, (size, size), device=device).char() for _ in "ab"]

    def float32(tf32: bool) -> torch.Tensor:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        return a @ b

    return {
        "float32": lambda: float32(False),
        "tf32": lambda: float32(True),
        "bfloat16": lambda: low[0] @ low[1],
        "int8": lambda: torch._int_mm(whole[0], whole[1].t()),
    }
