"""What a layer of a given network runs, or several in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from supernet.families.given.fusing import fused, resolved
from supernet.families.given.piece import Step, run


@dataclass(frozen=True, eq=False)
class Program:
    """Operations from the values that a layer gets to those that it hands on, a tensor or several.

    Attributes:
        reads, writes: the names of these values.
        modules: by the names that the steps have for them.
        raw: parameters and buffers that functions use: their names among the values, who has them, by which key.
    """

    reads: Sequence[str]
    writes: Sequence[str]
    steps: Sequence[Step]
    modules: Mapping[str, nn.Module]
    raw: Sequence[tuple[str, nn.Module, str]]

    @property
    def drops(self) -> bool:
        """Whether a block adds to its input here."""
        return any(step.branch for step in self.steps)

    def __call__(self, x: Any, drop_path: float = 0.0) -> Any:
        values = dict(zip(self.reads, x if isinstance(x, tuple) else (x,), strict=True))
        for name, holder, key in self.raw:
            values[name] = getattr(holder, key)
        return run(self.steps, self.modules, values, self.writes, drop_path)

    @classmethod
    def joined(cls, programs: Sequence[Program]) -> Program:
        """Programs one after the other, on as few operators as can be."""
        steps = [step for program in programs for step in resolved(program.steps, program.modules)]
        raw = [one for program in programs for one in program.raw]
        return cls(programs[0].reads, programs[-1].writes, fused(steps), {}, raw)
