"""The greedy search of Efficient Global NAS with its files: how candidates are trained, none of them twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from search.efficient_global import Candidate, EfficientGlobal
from supernet import files, metrics
from supernet.errors import UserError
from supernet.files import JsonLines
from supernet.metrics import TOP1, Metric
from supernet.quantities import several
from supernet.runs import RunFolder
from supernet.training import checkpoint, defaults
from supernet.training.config import Decays
from supernet.training.loop import FitConfig


@dataclass(frozen=True)
class Training:
    """SGD, momentum .9, a cosine to 0 (§4.1); the authors' code clips gradients at 5 and decays all weights."""

    batch_size: int = 64
    lr: float = 0.025
    augment: bool | None = True  # None: from 30 epochs on
    seed: int = 0
    weight_decay: float = 3e-4
    decays: Decays = "all"

    def fit(self, epochs: int) -> FitConfig:
        """A training of so many epochs."""
        return FitConfig(
            epochs,
            self.batch_size,
            self.lr,
            schedule="cosine",
            weight_decay=self.weight_decay,
            label_smoothing=0.0,
            clip=5.0,
            augment=defaults.augments(self.augment, epochs),
            seed=self.seed,
            decays=self.decays,
        )

    def of_search(self, epochs: int) -> Training:
        """The same for all candidates of a search whose first one is trained for ``epochs``, augmented or none."""
        return replace(self, augment=defaults.augments(self.augment, epochs))


OLDER_DECAY: Decays = "weights"  # of runs that do not say what they decay


def usual_decay(begun: Mapping[str, Any]) -> Decays:
    """What weight decay is of where nothing is said: all, but a run that has begun stays as it is.

    Args:
        begun: the settings that it has; none where it is new.
    """
    return begun.get("decay", OLDER_DECAY) if begun else "all"


Train = Callable[[Candidate, Path, str], None]  # candidate, folder, label: trains it, or goes on


def search(
    controller: EfficientGlobal,
    run: RunFolder,
    train: Train,
    told: Callable[[str], None] = lambda line: None,
    metric: Metric = TOP1,
) -> Candidate:
    """Run to the end, or continue: ``search.json`` has every finished candidate.

    A candidate that was stopped goes on from its last epoch; its weights go once its accuracy, that of its best epoch,
    is known.

    Args:
        told: called with a line on each candidate.
        metric: of the validation accuracy that candidates are compared by.
    """
    if run.search_path.exists():
        controller.load_state_dict(files.read_json(run.search_path, "search state"))
        for number in range(len(controller.records)):  # a kill may have left the last one's
            checkpoint.delete(run.candidate(number).checkpoint)
    while (candidate := controller.ask()) is not None:
        number = len(controller.records)
        folder = run.candidate(number)
        _require_same(folder, candidate)
        label = f"{number} {candidate.phase} {candidate.describe()}"
        train(candidate, folder.path, label)
        train_accuracy, val_accuracy = best_epoch(folder.metrics, metric)
        controller.tell(candidate, train_accuracy, val_accuracy)
        files.write_json(run.search_path, controller.state_dict())
        checkpoint.delete(folder.checkpoint)
        epochs = several(candidate.epochs, "epoch")
        validated = f"{val_accuracy:.2f} % {metrics.HEADINGS[metric]}validation"
        told(f"{label}, {epochs}: {validated}, {train_accuracy:.2f} % training")
    if controller.skipped:
        beyond = "lay beyond the bounds and"
        told(f"{several(len(controller.skipped), f'candidate {beyond} was', f'candidates {beyond} were')} not trained")
    assert controller.found is not None  # the search has ended
    return controller.found


def best_epoch(log: JsonLines, metric: Metric = TOP1) -> tuple[float, float]:
    """Training accuracy, which is top-1, and validation accuracy by the metric, of the best epoch of each, %."""
    lines = log.read()
    train, val = (100 * max(line[key] for line in lines) for key in ("accuracy", metrics.key("val", metric)))
    return train, val


def _require_same(folder: RunFolder, candidate: Candidate) -> None:
    """Refuse to continue the weights of another candidate."""
    path, wanted = folder.candidate_path, files.plain(asdict(candidate))
    if not path.exists():
        files.write_json(path, wanted)
    elif files.read_json(path, "candidate") != wanted:
        raise UserError(f"{folder.path} holds another candidate than the search asks for: delete this folder")
