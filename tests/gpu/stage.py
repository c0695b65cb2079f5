"""What a stage is given, and where it leaves its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supernet.files import write_json


class Unavailable(Exception):
    """Why a stage cannot run on this machine."""


class Mistake(Exception):
    """What a stage found wrong."""


@dataclass
class Results:
    """The figures of a stage, written each time that there is one more."""

    path: Path
    data: dict[str, Any] = field(default_factory=lambda: {"state": "started", "results": []})

    def add(self, result: dict[str, Any]) -> None:
        self.data["results"].append(result)
        self.write()

    def write(self) -> None:
        write_json(self.path, self.data)


@dataclass(frozen=True)
class Machine:
    """Where a stage runs: a GPU, or in its place a CPU with work for seconds."""

    dry: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def name(self) -> str:
        import torch

        return "CPU, dry" if self.dry else torch.cuda.get_device_name()

    def require(self) -> None:
        """A GPU for which the operators were built, unless dry."""
        import torch

        from supernet import ops

        if not self.dry and not torch.cuda.is_available():
            raise Unavailable("PyTorch sees no CUDA device")
        if not self.dry and ops.build_info()["cuda"] is None:
            raise Unavailable("the operators were built without CUDA")
