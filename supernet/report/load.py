"""What a run folder holds, as a page about it needs it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latency.table import LatencyTable
from supernet import answers, mistakes
from supernet.errors import UserError
from supernet.runs import RunFolder
from supernet.space import Space

LATENCY = "latency"


@dataclass(frozen=True)
class Run:
    """A run; None or empty where a step has not been done.

    Args:
        tables: latency tables by the name of the cost that they tell: ``latency``, ``latency-2`` …
    """

    folder: RunFolder
    config: dict[str, Any]
    space: Space
    metrics: list[dict[str, Any]]
    tables: dict[str, LatencyTable]
    front: dict[str, Any] | None
    scored: list[dict[str, Any]]
    results: dict[str, dict[str, Any]]  # of networks trained alone, by folder: the picked ones first
    earlier: list[str] = field(default_factory=list)  # networks that were trained for an earlier search
    classes: tuple[list[dict[str, Any]], np.ndarray] | None = None  # of the first network's test, and their confusion
    mistakes: dict[str, Any] | None = None  # of the same network

    @classmethod
    def load(cls, folder: RunFolder) -> Run:
        """Read a run; a UserError where there is none or a file is damaged."""
        config, space = folder.config(), folder.space()
        front = folder.front(space) if folder.front_path.exists() else None
        results = folder.results()
        if folder.arch_path.exists():  # a search that ends with one network names it once
            results = {name: {"arch": folder.found()["arch"], **row} for name, row in results.items()}
        results = {name: row for name, row in results.items() if "arch" in row}
        earlier = [name for name, row in results.items() if folder.stale(name, tuple(row["arch"]), front)]
        first = next((folder.network(name) for name in results if name not in earlier), None)
        return cls(
            folder,
            config,
            space,
            folder.metrics.read(),
            tables_of(folder, space, front),
            front,
            folder.population.read(),
            {name: row for name, row in results.items() if name not in earlier},
            earlier,
            answers.read(first.classes_path) if first and first.classes_path.exists() else None,
            mistakes.read(first.mistakes_path) if first and first.mistakes_path.exists() else None,
        )

    @property
    def name(self) -> str:
        """Its folder, as it was named."""
        return str(self.folder.path)

    @property
    def images(self) -> str:
        """What it is trained on."""
        return self.config.get("data", "faces")

    @property
    def lut(self) -> LatencyTable | None:
        """The first table."""
        return next(iter(self.tables.values()), None)

    @property
    def picked(self) -> dict[str, dict[str, Any]]:
        """The trained networks that are no controls."""
        return {name: row for name, row in self.results.items() if not name.startswith("random-")}

    @property
    def winner(self) -> tuple[str, dict[str, Any]] | None:
        """The network that the page is about: the first one trained, else the best of the front."""
        if self.picked:
            return next(iter(self.picked.items()))
        return ("best", self.front["front"][self.front["best"]]) if self.front else None


def tables_of(folder: RunFolder, space: Space, front: dict[str, Any] | None) -> dict[str, LatencyTable]:
    """The tables in the folder that the search used; of a run without a search its own one."""
    if front is None or not front.get("devices"):
        own = LatencyTable.find(folder.lut_path, space)
        return {LATENCY: own} if own else {}
    there: list[LatencyTable] = []
    for path in sorted(folder.path.glob("lut*.json")):
        with contextlib.suppress(UserError):  # measured for another space since
            there.append(LatencyTable.load(path, space))
    found = {}
    for used in front["devices"]:
        for table in there:
            known = table.identity == used["table"] if "table" in used else table.device == used["device"]  # 0.1
            if known:
                found[used["cost"]] = table
    return found
