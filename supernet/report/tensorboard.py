"""The logs of a run as events for TensorBoard: of the supernet, and of each network that was trained alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supernet.errors import UserError
from supernet.runs import RunFolder
from supernet.training.folder import TrainingFolder

WITHIN = ("*/metrics.jsonl", "networks/*/metrics.jsonl", "candidates/*/metrics.jsonl", "supernet-*/*/metrics.jsonl")


class Events:
    """Writes what is new in the logs of a run each time that it is told to.

    Args:
        folder: for the events; a folder in it for each log.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, run: RunFolder, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("TensorBoard is not installed: pip install 'supernet[tensorboard]'") from error
        self.run, self.folder, self._writer = run, folder, SummaryWriter
        self._open: dict[str, Any] = {}
        self._written: dict[str, int] = {}

    def update(self) -> None:
        """Every number of every new line, by its name, at its epoch."""
        for path in sorted({self.run.metrics.path, *(p for one in WITHIN for p in self.run.path.glob(one))}):
            name = str(path.parent.relative_to(self.run.path))
            lines = TrainingFolder(path.parent).metrics.read()
            new = lines[self._written.get(name, 0) :]
            if not new:
                continue
            if name not in self._open:
                for old in (self.folder / name).glob("events.out.tfevents.*"):
                    old.unlink()
                self._open[name] = self._writer(self.folder / name)
            for line in new:
                for key, value in line.items():
                    if isinstance(value, int | float) and key != "epoch":
                        self._open[name].add_scalar(key, value, line["epoch"])
            self._open[name].flush()
            self._written[name] = len(lines)

    def close(self) -> None:
        """Close the files."""
        for writer in self._open.values():
            writer.close()
