"""Classify pictures by an exported file, in its own runtime."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from supernet.cli import common, starting
from supernet.errors import UserError
from supernet.metrics import TOP1, Metric
from supernet.progress import shown

if TYPE_CHECKING:
    from supernet.export.prediction import Predicted


@dataclass(frozen=True, kw_only=True)
class Args(common.Answering):
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """What export.py wrote: .onnx, .tflite, .pte, .xml; .pt2 and .py may run code: name only files that you trust."""
    images: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(required)")
    ]
    """Pictures, and folders of them; of a folder with a folder for each class the accuracy is told."""
    top: int = 1
    """Classes to name for each picture, the most probable first."""
    damaged: Literal["stop", "skip"] = "stop"
    """Stop at pictures that cannot be read, or leave them out."""
    quiet: bool = False
    """Show no progress."""


def run(args: Args) -> None:
    from supernet.data.words import listed
    from supernet.export import prediction

    if args.top < 1:
        raise UserError(f"--top {args.top}: expected at least 1")
    found = prediction.found(args.images)
    classifier = prediction.Classifier(args.file)
    names = classifier.card.classes
    with shown(not args.quiet)("classifying", len(found), unit="images") as bar:
        predicted = []
        for one in classifier.predict(found, warned if args.damaged == "skip" else None):
            predicted.append(one)
            bar.advance()
    tested = accuracy(predicted, names, classifier.card.accuracy.metric)
    strange = sorted({one.folder for one in predicted if one.folder is not None} - set(names))
    if tested is not None and strange:
        print(f"not counted, as the file knows no such classes: pictures in {listed(strange)}", file=sys.stderr)
    rows: list[dict[str, Any]] = [
        {"file": str(one.path), "classes": [[names[i], float(one.probabilities[i])] for i in one.top(args.top)]}
        for one in predicted
    ]
    for row in rows:
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in row["classes"])
        common.tell(f"{row['file']}: {told}")
    if tested is not None:
        common.tell(tested["told"])
    common.answer(args, {"images": rows, "accuracy": tested})


def warned(error: UserError) -> None:
    """A picture that is left out."""
    print(f"left out: {error}", file=sys.stderr)


def accuracy(predicted: list[Predicted], names: Any, metric: Metric = TOP1) -> dict[str, Any] | None:
    """Of the pictures whose folders are classes, also by the metric of the file; None where there are none."""
    import numpy as np

    from supernet.answers import Answers
    from supernet.export.card import Accuracy

    known = [one for one in predicted if one.folder in names]
    if not known:
        return None
    labels = np.array([names.index(one.folder) for one in known])
    found = Accuracy.of(Answers.of(np.stack([one.probabilities for one in known]), labels).result("test"), metric)
    return {**found.to_json(), "told": found.told}


main = starting.entry(run, Args)
