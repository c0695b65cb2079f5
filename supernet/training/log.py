"""The log of a training, kept in the checkpoint too: whichever a kill leaves behind, the two agree after a resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supernet.errors import CheckpointError
from supernet.files import JsonLines
from supernet.training.folder import TrainingFolder

Line = dict[str, Any]


class Log:
    """A line for each epoch. The checkpoint is saved before the epoch is validated, so its last line is ``pending``.

    What the clock says is in the file only: the bits of a checkpoint follow from the settings.

    Args:
        writes: whether this process writes the file; all know the lines.
    """

    def __init__(self, folder: TrainingFolder, writes: bool):
        self.checkpoint, self.writes = folder.checkpoint, writes
        self.file: JsonLines = folder.metrics
        self.lines: list[Line] = []
        self.pending: Line | None = None
        self.clocked: Line = {}

    def resume(self, state: Mapping, epochs: float, finished: bool) -> None:
        """Go back to the log of a checkpoint: lines that the file lost come from there, later ones are dropped.

        Args:
            state: of the checkpoint; one of version 0.1 has no log. epochs: that it has seen.

        Raises:
            CheckpointError: nothing tells how a finished training of version 0.1 went.
        """
        known: dict[int, Line] = {line["epoch"]: line for line in state.get("log", ())}
        known |= {line["epoch"]: line for line in self.file.read() if line["epoch"] <= epochs}
        self.lines = [known[epoch] for epoch in sorted(known)]
        pending = state.get("pending")
        self.pending = None if pending is None or pending["epoch"] in known else pending
        if finished and "log" not in state and max(known, default=0) < epochs:
            raise CheckpointError(
                f"{self.checkpoint} is trained to epoch {epochs:g}, of which {self.file.path} lacks the line",
                "another run",
            )
        if self.writes:
            self.file.write(self.lines)

    def trained(self, line: Line, clocked: Line) -> None:
        """An epoch is over, but for its validation."""
        self.pending, self.clocked = line, clocked

    def validated(self, found: Line) -> None:
        """The last epoch is validated."""
        assert self.pending is not None
        line, self.pending = {**self.pending, **self.clocked, **found}, None
        self.lines.append(line)
        if self.writes:
            self.file.append(line)

    def state_dict(self) -> dict[str, Any]:
        """What ``resume`` takes, in plain values."""
        lines = [{name: line[name] for name in line if name not in CLOCKED} for line in self.lines]
        return {"log": lines, "pending": self.pending}


CLOCKED = ("images_per_second",)
