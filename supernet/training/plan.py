"""What a job will take, by what a few of its steps took: hours, memory, disk, energy. No torch."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from supernet.quantities import digits, duration, size
from supernet.tables import Table


@dataclass(frozen=True)
class Part:
    """What a job does many times.

    Args:
        name: such as ``training``.
        count: how often it is still to be done. unit: of the count.
        each: seconds, measured.
    """

    name: str
    count: int
    unit: str
    each: float

    @property
    def seconds(self) -> float:
        """Of all of them."""
        return self.count * self.each


@dataclass(frozen=True)
class Work:
    """Parts that one process does, one after the other.

    Args:
        resident: bytes of memory at the peak. device: bytes on a GPU at the peak.
    """

    parts: tuple[Part, ...]
    resident: int = 0
    device: int = 0

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(part.seconds for part in self.parts)


@dataclass(frozen=True)
class Stage:
    """Works that several workers share: a worker that has done one takes the next.

    Args:
        beside: bytes of memory of the process that shares them out, where the workers are others.
    """

    works: tuple[Work, ...]
    at_once: int = 1
    beside: int = 0

    @property
    def seconds(self) -> float:
        """Until the last one is done."""
        busy = [0.0] * self.at_once
        for work in self.works:
            heapq.heapreplace(busy, busy[0] + work.seconds)
        return max(busy)

    def peak(self, kind: str) -> int:
        """Bytes of all workers together, ``resident`` or ``device``."""
        return sum(sorted(getattr(work, kind) for work in self.works)[-self.at_once :])


@dataclass(frozen=True)
class Plan:
    """A job in stages, one after the other.

    Args:
        disk: bytes still needed, at the peak.
        watts: the machine's power, None if it was not measured.
        processes: among which torchrun shares the work; seconds and memory are of the first.
    """

    stages: tuple[Stage, ...]
    disk: int
    watts: float | None = None
    processes: int = 1

    @property
    def seconds(self) -> float:
        """By the clock."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def resident(self) -> int:
        """Bytes of memory at the peak."""
        return max(stage.peak("resident") + stage.beside for stage in self.stages)

    @property
    def device(self) -> int:
        """Bytes on a GPU at the peak."""
        return max(stage.peak("device") for stage in self.stages)

    @property
    def kwh(self) -> float | None:
        """Energy."""
        return None if self.watts is None else self.watts * self.seconds / 3.6e6

    def to_json(self) -> dict[str, float | None]:
        """Seconds, bytes and kWh, as JSON."""
        told = {"seconds": self.seconds, "memory_bytes": self.resident, "gpu_memory_bytes": self.device}
        return {**told, "disk_bytes": self.disk, "kwh": self.kwh}

    def table(self, title: str) -> Table:
        """A row for each kind of part, then the whole."""
        parts = [part for stage in self.stages for work in stage.works for part in work.parts if part.count]
        rows = [_row([part for part in parts if part.name == name]) for name in dict.fromkeys(p.name for p in parts)]
        at_once = max(stage.at_once for stage in self.stages)
        shared = f", up to {at_once} parts at once" if at_once > 1 else ""
        each = f", each of {self.processes} processes" if self.processes > 1 else ""
        rows.append([f"whole job{shared}", "", "", duration(self.seconds)])
        rows.append([f"memory at the peak{each}", "", "", size(self.resident)])
        if self.device:
            rows.append([f"memory of the GPU at the peak{each}", "", "", size(self.device)])
        rows.append(["disk, still needed at the peak", "", "", size(self.disk)])
        if self.kwh is not None:
            rows.append(["energy", "", "", f"{digits(self.kwh)} kWh"])
        return Table(["", "still to do", "each", "total"], rows, title)


def _row(parts: Sequence[Part]) -> list[str]:
    """The row of all parts of one name."""
    count, seconds = sum(part.count for part in parts), sum(part.seconds for part in parts)
    each = seconds / count
    told = f"{digits(1e3 * each)} ms" if each < 1 else f"{digits(each)} s"
    return [parts[0].name, f"{count:,} {parts[0].unit}", told, duration(seconds)]
