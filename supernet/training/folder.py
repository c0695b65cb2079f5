"""The files of one training."""

from __future__ import annotations

from pathlib import Path

from supernet import files, shape

METRICS = {"epoch": shape.POSITIVE, "loss?": float, "val_accuracy?": shape.SHARE, "val_probes?": [shape.SHARE]}
METRICS |= {"images_per_second?": shape.Number(0)}


class TrainingFolder:
    """Where a training, of a supernet or of a network alone, keeps its weights and its log."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        """Weights, optimiser, step, and ``meta``: what a reader needs to rebuild the model."""
        return self.path / "checkpoint.pt"

    @property
    def metrics(self) -> files.JsonLines:
        """A line for each epoch."""
        return files.JsonLines(self.path / "metrics.jsonl", METRICS)

    def seconds(self, images: int) -> float:
        """What the training took by the clock, validation left out; stopping and resuming does not change it.

        Args:
            images: of each epoch.
        """
        return sum(images / line["images_per_second"] for line in self.metrics.read() if line.get("images_per_second"))

    @property
    def failure(self) -> Path:
        """Step and path of a loss that was not finite."""
        return self.path / "failure.json"
