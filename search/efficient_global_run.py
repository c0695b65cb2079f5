"""What the two greedy searches share: train what the controller asks for, keep it on disk, say how it went."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search.efficient_global import Candidate, EfficientGlobal
from supernet import files
from supernet.cli import common
from supernet.errors import UserError

Train = Callable[[Candidate, Path, str], tuple[float, float]]  # folder, label -> accuracies of the best epoch, %


def prepare(run: Path, settings: dict[str, Any], restart: bool) -> None:
    """The run folder: new, the one to continue, or a UserError if it holds another run."""
    if restart and run.exists():
        common.require_run_folder(run)
        shutil.rmtree(run)
    config = run / "config.json"
    if not files.same_config(config, settings, "use --restart to replace it, or another --run folder"):
        files.write_json(config, settings)


def search(controller: EfficientGlobal, run: Path, train: Train) -> Candidate:
    """Run to the end, or continue. ``RUN/search.json`` has every finished candidate: none is trained again.

    A candidate that was stopped goes on from its last epoch; its weights go once its accuracy is known.
    """
    state = run / "search.json"
    if state.exists():
        controller.load_state_dict(files.read_json(state, "search state", "run the same command again"))
    while (candidate := controller.ask()) is not None:
        number = len(controller.records)
        folder = run / "candidates" / f"{number:03d}"
        _require_same(folder, candidate)
        label = f"{number} {candidate.phase} {candidate.describe()}"
        train_accuracy, val_accuracy = train(candidate, folder, label)
        controller.tell(candidate, train_accuracy, val_accuracy)
        files.write_json(state, controller.state_dict())
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        common.console.print(
            f"{label}, {candidate.epochs} epochs: {val_accuracy:.2f} % validation, {train_accuracy:.2f} % training",
            highlight=False,
        )
    if controller.skipped:
        common.console.print(f"{len(controller.skipped)} candidates lay beyond the bounds and were not trained")
    return controller.found


def _require_same(folder: Path, candidate: Candidate) -> None:
    """Refuse to continue the weights of another candidate."""
    advice = "delete this folder and run the same command again"
    try:
        known = files.same_config(folder / "candidate.json", asdict(candidate), advice)
    except UserError as error:
        raise UserError(f"{folder} holds another candidate than the search asks for: {advice}") from error
    if not known:
        files.write_json(folder / "candidate.json", asdict(candidate))
