"""What a stage is given, and where it leaves its figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supernet.files import read_json, write_json
from supernet.shape import Number

OURS = "ours"  # of the forms that are compared
TYPES = ("float32", "bfloat16")  # in which a step is timed
STATES = ("started", "done", "failed", "stopped", "unavailable")
SHAPE = {"state": STATES, "results": [dict], "reason?": str, "seconds?": Number(0), "made_with?": dict}


class Unavailable(Exception):
    """Why a stage cannot run on this machine."""


class Mistake(Exception):
    """What a stage found wrong."""


def read(path: Path) -> dict[str, Any]:
    """What a stage has left; nothing where it has not begun.

    Raises:
        UserError: the file is damaged.
    """
    return read_json(path, "result of a stage", "measure again", expected=SHAPE) if path.exists() else {}


@dataclass
class Results:
    """The figures of a stage, written each time that there is one more."""

    path: Path
    data: dict[str, Any] = field(default_factory=lambda: {"state": "started", "results": []})

    def known(self, case: Mapping[str, Any]) -> bool:
        """Whether there is a result with these values."""
        return any(case.items() <= of.items() for of in self.data["results"])

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

    def synchronize(self) -> None:
        """Wait for the device; a RuntimeError where a kernel has failed."""
        import torch

        if not self.dry:
            torch.cuda.synchronize()

    def require_device(self) -> None:
        """A GPU, unless dry."""
        import torch

        if not self.dry and not torch.cuda.is_available():
            raise Unavailable("PyTorch sees no CUDA device; DRY=1 tries the stages on the CPU")

    def require(self) -> None:
        """A GPU for which the operators were built, unless dry."""
        from supernet import ops

        self.require_device()
        if not self.dry and ops.build_info()["cuda"] is None:
            raise Unavailable("the operators were built without CUDA")


def title(result: Mapping[str, Any]) -> str:
    """A case in words."""
    return " ".join(str(result[name]) for name in ("operator", "row", "shape", "batch", "type") if name in result)


def failures(results: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Case, form and reason of all that could not be timed."""
    for result in results:
        for form, reason in result.get("failed", {}).items():
            yield title(result), form, reason


def require_ours(results: Results) -> None:
    """Fail where our operators did; that PyTorch cannot do a case is its own matter."""
    wrong = [f"{case}: {reason}" for case, form, reason in failures(results.data["results"]) if form == OURS]
    if wrong:
        raise Mistake(f"ours failed in {len(wrong)} of {len(results.data['results'])} cases, first in {wrong[0]}")


def require_alive(machine: Machine, result: Mapping[str, Any]) -> None:
    """Fail where a case has left a device on which nothing runs any more: what follows would be blamed for it."""
    try:
        machine.synchronize()
    except RuntimeError as error:
        case, form, reason = next(failures([result]), (title(result), "", str(error)))
        raise Mistake(f"the device is lost after {case}, {form}: {reason}") from error
