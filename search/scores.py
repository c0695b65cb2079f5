"""Scores that outlive a search: what the same weights, images and BN statistics gave is read, not computed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.evaluator import Evaluator
from supernet import files
from supernet.errors import UserError
from supernet.metrics import TOP1
from supernet.progress import Track
from supernet.space import Arch, Space


class Scores:
    """The evaluator with the log of all that it ever scored.

    Args:
        log: a first line that says what scores depend on, then ``{"arch", "accuracy"}``; begun again where it was
            made with something else.
        scored_with: plain values that a score depends on: the weights, the images, the BN mode.

    Raises:
        UserError: the scores in the log are of the same but by another metric.
    """

    def __init__(self, evaluator: Evaluator, log: files.JsonLines, scored_with: dict[str, Any], space: Space):
        self.evaluator, self.log, self.scored_with = evaluator, log, scored_with
        first, *scored = log.read() or [{}]
        if first and self.alike(first):
            archs = ((tuple(line["arch"]), line["accuracy"]) for line in scored if "arch" in line)
            self.known.update({arch: accuracy for arch, accuracy in archs if arch in space})
        elif first and self.alike({**first, "metric": self.metric}):
            before = first.get("metric", TOP1)
            raise UserError(f"{log.path} has scores by the metric {before}, not {self.metric}", "another run")
        else:
            log.write([scored_with])

    @property
    def metric(self) -> str:
        """By which scores are made."""
        return self.scored_with.get("metric", TOP1)

    @property
    def known(self) -> dict[Arch, float]:
        """Every accuracy that there is."""
        return self.evaluator.scores

    def alike(self, scored_with: object) -> bool:
        """Whether scores were made as ours are. Version 0.1 recorded neither the images nor the metric."""
        if not isinstance(scored_with, dict):
            return False
        theirs, ours = ({"metric": TOP1, **how} for how in (scored_with, self.scored_with))
        return theirs == {name: value for name, value in ours.items() if name in theirs}

    def __call__(self, archs: Sequence[Arch], bar: Track) -> list[float]:
        """Accuracies in [0, 1], in the order of ``archs``; ``bar`` counts architectures."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self.known]
        bar.advance(len(archs) - len(new), work=0)
        accuracies = self.evaluator(archs, bar)
        self.log.append(*({"arch": list(arch), "accuracy": self.known[arch]} for arch in new))
        return accuracies
