"""A table, a figure or a claim of a paper, and the commands that try it. No torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from supernet import files

RESULTS = Path(__file__).parents[2] / "docs" / "results"
SCALES = ("tiny", "gpu", "paper")
SAME = "it does not depend on the size: take --scale tiny"
State = Literal["wholly", "partly", "not at all", "nothing to try"]


@dataclass(frozen=True)
class Command:
    """A program and its arguments.

    Args:
        program: a module such as ``experiments.dsnas`` or ``pytest``, or a script such as ``tools/stage_wise.py``.
        lacks: what of the item is missing or other.
        cost: what is known of its cost beforehand.
    """

    program: str
    arguments: str = ""
    lacks: str = ""
    cost: str = "not known"

    @property
    def words(self) -> list[str]:
        """As Python takes them."""
        return [*([] if self.program.endswith(".py") else ["-m"]), self.program, *shlex.split(self.arguments)]

    def __str__(self) -> str:
        return shlex.join(["python", *self.words])

    @property
    def results(self) -> Path | None:
        """Where an experiment leaves its results."""
        words = self.words
        if "--output" in words:
            return RESULTS.parents[1] / words[words.index("--output") + 1]
        package, _, name = self.program.partition(".")
        return RESULTS / f"{name}.json" if package == "experiments" else None

    def result(self) -> dict[str, Any] | None:
        """The results that are there."""
        if self.results is None or not self.results.exists():
            return None
        return files.read_json(self.results, "results", f"run {self}")


@dataclass(frozen=True)
class Item:
    """One table, figure or claim.

    Args:
        name: ``table-4``, ``figure-s3``, ``text-…``.
        shows: what of it can be tried.
        theirs: the paper's own figure and, for a claim, where it stands.
        tiny: the command at the size of two cores; None: there is none.
        lacks: what of it is missing or other there, or why there is no command; empty: nothing.
        ours: reads our figure, with its interval, out of the results.
        verdict: what docs/results.md says of it.
        gpu: the command at the size of hours on one GPU, if there is one. paper: with the paper's settings.
        idea: a drawing, or a comparison of others: there is nothing to try.
    """

    name: str
    shows: str
    theirs: str
    tiny: Command | None = None
    lacks: str = ""
    ours: Callable[[dict[str, Any]], str] | None = None
    verdict: str = ""
    gpu: Command | None = None
    paper: Command | None = None
    idea: bool = False

    @property
    def state(self) -> State:
        """Whether the command at the size of two cores does all of it."""
        if self.idea:
            return "nothing to try"
        return "not at all" if self.tiny is None else "partly" if self.lacks else "wholly"

    def at(self, scale: str) -> Command | str:
        """The command at a scale, or why there is none."""
        if found := {"tiny": self.tiny, "gpu": self.gpu, "paper": self.paper}[scale]:
            return found
        return self.lacks or SAME

    def found(self) -> str:
        """Our figure; none of results that are of an older form, or of a run that has not ended, whose rows are fewer
        or uneven."""
        result = self.tiny.result() if self.tiny and self.ours else None
        try:
            return self.ours(result) if self.ours and result else ""
        except (KeyError, IndexError, ValueError):
            return ""

    @property
    def older(self) -> bool:
        """Whether there are results, but without what the command tells at its end."""
        return bool(self.ours and self.tiny and self.tiny.result()) and not self.found()

    def minutes(self) -> float | None:
        """What all of its command took, by its results."""
        result = self.tiny.result() if self.tiny else None
        return None if result is None else minutes(result)


@dataclass(frozen=True)
class Paper:
    """A paper by the name that the command line has for it."""

    name: str
    title: str
    items: tuple[Item, ...]


def minutes(result: dict[str, Any]) -> float:
    """Minutes of one core that an experiment says it took."""
    machine = result["machine"]
    return machine.get("cpu_minutes") or machine.get("minutes") or sum(result["minutes"].values())


def mean(values: Sequence[float], scale: float = 1.0, sign: str = "", digits: int = 2) -> str:
    """The mean and half the width of its 95 % interval by Student's t: ``85.43 ± 1.44``."""
    x = scale * np.asarray(values, float)
    told = f"{x.mean():{sign}.{digits}f}".replace("-", "−")
    if len(x) < 2:
        return told
    return f"{told} ± {stdtrit(len(x) - 1, 0.975) * x.std(ddof=1) / math.sqrt(len(x)):.{digits}f}"


def between(value: float, interval: Sequence[float], scale: float = 1.0, sign: str = "+") -> str:
    """A value and the ends of its 95 % interval: ``+6.16 (+0.78 to +11.54)``."""
    low, high = interval
    return f"{scale * value:{sign}.2f} ({scale * low:{sign}.2f} to {scale * high:{sign}.2f})".replace("-", "−")
