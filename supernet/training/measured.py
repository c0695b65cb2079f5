"""Which kernels were the faster in a training step, by the name of the GPU. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from supernet import files

Kernels = Literal["fused", "eager"]
Wish = Literal["auto", "fused", "eager"]
SHIPPED = Path(__file__).with_name("measured_kernels.json")
HERE = Path(__file__).parents[2] / "runs" / "gpu" / SHIPPED.name  # where this checkout writes what it measures
GPUS = {str: {"kernels": ("fused", "eager")}}


def kernels(gpu: str, places: Sequence[Path] = (SHIPPED, HERE)) -> Kernels:
    """What was the faster on GPUs of this name: by the last of the files that knows, ``eager`` where none does.

    Raises:
        UserError: a file is damaged, or names other kernels.
    """
    found: Kernels = "eager"
    for path in places:
        if path.exists():
            entries = files.read_json(path, "table of GPUs and kernels", "measure again", expected=GPUS)
            found = entries.get(gpu, {}).get("kernels", found)
    return found
