"""The names of the files in a run folder. No torch."""

from __future__ import annotations

from pathlib import Path

from supernet import files
from supernet.training.folder import TrainingFolder


class RunFiles(TrainingFolder):
    """Where everything lies in the folder of a run, whether it is there or not."""

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def space_path(self) -> Path:
        return self.path / "space.json"

    @property
    def lut_path(self) -> Path:
        return self.path / "lut.json"

    @property
    def front_path(self) -> Path:
        return self.path / "front.json"

    @property
    def front_picture(self) -> Path:
        return self.path / "front.png"

    @property
    def search_path(self) -> Path:
        return self.path / "search.json"

    @property
    def population(self) -> files.JsonLines:
        """All that a search was told, in order."""
        return files.JsonLines(self.path / "population.jsonl")

    @property
    def scores(self) -> files.JsonLines:
        """One-shot accuracies, which outlive a search; the first line says what they depend on."""
        return files.JsonLines(self.path / "scores.jsonl")

    @property
    def arch_path(self) -> Path:
        return self.path / "arch.json"

    @property
    def network_picture(self) -> Path:
        return self.path / "network.png"

    @property
    def candidate_path(self) -> Path:
        """What a candidate of a search that trains each one is."""
        return self.path / "candidate.json"

    @property
    def tested_path(self) -> Path:
        """Test accuracies of Stage-Wise NAS's candidates."""
        return self.path / "candidates.json"

    @property
    def depths_picture(self) -> Path:
        """How the stages grew."""
        return self.path / "depths.png"

    @property
    def rank_path(self) -> Path:
        """Folder of a study of how well the supernet ranks."""
        return self.path / "rank"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"
