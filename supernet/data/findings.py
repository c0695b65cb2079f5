"""What a data set is like, by reading all of it once: classes, sizes, kinds, damage, near-duplicates."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supernet.data import HUB, duplicates, folder, own
from supernet.data.decoding import DecodedImages
from supernet.data.inspection import Inspected, inspect, refusal
from supernet.data.sets import Source, require_readable
from supernet.data.split import Draw
from supernet.errors import UserError
from supernet.progress import Progress, silent
from supernet.size import Size

PARTS = {"train": "training", "val": "test"}  # of a data set; validation is carved from training


@dataclass(frozen=True)
class Part:
    """All images of a part, and the names of its classes."""

    images: DecodedImages
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Opened:
    """A data set before it is read.

    Attributes:
        draw: how training images are split.
        notes: what is passed over, and the like. problems: why a training would not begin.
    """

    train: Part
    test: Part
    draw: Draw
    notes: list[str]
    problems: list[str]


def open_all(source: Source, draw: Draw) -> Opened:
    """Both parts of a data set. Of a folder all that is wrong is a problem; of others the first is an error.

    Raises:
        UserError: there is nothing to read.
    """
    problems = list[str]()

    def told(check: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except UserError as error:
            problems.append(str(error))
            return None

    if source.name == "folder":
        listings = folder.scan_both(source.root)
        told(folder.require_same_classes, *listings)
        told(folder.require_names, listings[0])
        for listing in listings:
            told(folder.require_images, listing)
        size = Size.of(source.resolution or own.RESOLUTION)
        both = [
            Part(folder.listing_images(listing, size, source.workers, source.channels or 3), listing.classes)
            for listing in listings
        ]
        notes = [note for listing in listings for note in listing.notes]
    else:
        both, notes = [], []
        for part in PARTS:
            images, classes, lines = source.open(part)
            if not isinstance(images, DecodedImages):
                raise UserError(f"{source.name} is a published set: there are no files to check")
            both.append(Part(images, classes))
            notes = list(dict.fromkeys([*notes, *lines]))
    train, test = both
    train.images.part, test.images.part = PARTS
    return Opened(train, test, draw, notes, problems)


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        found: by part, in the order of its images.
        val: places of the training images that would validate; none where no split can be drawn.
        twins: near-duplicates of training images: name of the other, name of the training image, bits that differ.
        again: training images that look exactly as another one before them; of another class: ``contradictions``.
    """

    opened: Opened
    found: dict[str, Inspected]
    val: np.ndarray
    twins: dict[str, list[tuple[str, str, int]]]
    again: int
    contradictions: list[tuple[str, str]]
    skip: bool = False

    @property
    def errors(self) -> dict[str, str]:
        """Why images cannot be read, by name."""
        return {name: why for found in self.found.values() for name, why in found.errors.items()}

    @property
    def noted(self) -> np.ndarray:
        """Of all images that can be read, as ``inspection.NOTED``."""
        noted = np.concatenate([found.noted for found in self.found.values()])
        return noted[noted["read"]]

    @property
    def problems(self) -> list[str]:
        """Why a training would stop."""
        damaged = [str(refusal(self.errors))] if self.errors and not self.skip else []
        return [*self.opened.problems, *damaged]

    def counts(self) -> dict[str, dict[str, int]]:
        """Images of each class to train, validate and test on, those that cannot be read left out."""
        counts: dict[str, dict[str, int]] = {}
        for name, side, places in self._sides():
            part, read = self._part(name), self.found[name].noted["read"]
            kept = part.images.labels[places[read[places]]]
            for label, of in enumerate(part.classes):
                row = counts.setdefault(of, {"training": 0, "validation": 0, "test": 0})
                row[side] += int((kept == label).sum())
        return counts

    def kinds(self) -> dict[str, int]:
        """How many images are of each kind, by Pillow's names of modes."""
        return {kind.decode(): n for kind, n in collections.Counter(self.noted["kind"].tolist()).most_common()}

    def names(self, field: str) -> list[str]:
        """Of the images for which a field of ``NOTED`` is true."""
        return [name for found in self.found.values() for name in found.names(field)]

    def sides(self, field: str) -> list[int]:
        """Least, most and median of widths or heights; nothing where no image can be read."""
        values = self.noted[field]
        return [int(np.quantile(values, q, method="nearest")) for q in (0, 1, 0.5)] if len(values) else []

    def smaller(self) -> int:
        """Images with fewer pixels than training wants, in a direction, so that they are enlarged."""
        size = self.opened.train.images.size
        return int(((self.noted["width"] < size.width) | (self.noted["height"] < size.height)).sum())

    def _part(self, name: str) -> Part:
        return self.opened.train if name == "train" else self.opened.test

    def _sides(self) -> list[tuple[str, str, np.ndarray]]:
        """Part, side and places in the part."""
        train, test = (np.arange(len(part.images)) for part in (self.opened.train, self.opened.test))
        sides = ("train", "training", np.setdiff1d(train, self.val)), ("train", "validation", self.val)
        return [*sides, ("val", "test", test)]

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "schema": 1,
            "classes": self.counts(),
            "width": self.sides("width"),
            "height": self.sides("height"),
            "resolution": self.opened.train.images.size.plain,
            "smaller": self.smaller(),
            "kinds": self.kinds(),
            **{field: len(self.names(field)) for field in ("turned", "transparent", "grey_kind", "grey")},
            "animated": self.names("animated"),
            "damaged": self.errors,
            "near_duplicates": {side: [list(twin) for twin in twins] for side, twins in self.twins.items()},
            "again": self.again,
            "contradictions": [list(pair) for pair in self.contradictions],
            "notes": self.opened.notes,
            "problems": self.problems,
        }


def read_all(opened: Opened, skip: bool = False, progress: Progress = silent) -> Findings:
    """Read every image of both parts once.

    Args:
        skip: images that cannot be read would be left out, and are no problem.
    """
    found = {
        name: inspect(part.images, progress, f"reading {PARTS[name]} images")
        for name, part in (("train", opened.train), ("val", opened.test))
    }
    train = found["train"]
    prints = {name: of.noted["print"] for name, of in found.items()}
    everything, twins = np.arange(len(prints["train"])), {}
    val, problems = _validating(opened, np.flatnonzero(train.noted["read"]))
    opened = dataclasses.replace(opened, problems=[*opened.problems, *problems])
    sides = {
        "validation": ("train", val, np.setdiff1d(everything, val)),
        "test": ("val", np.arange(len(prints["val"])), everything),  # what validates has its part in a result, too
    }
    for side, (part, ours, others) in sides.items():
        of = prints[part][ours], prints["train"][others]
        place, bits = duplicates.nearest(*of, progress, f"comparing {side} images")
        twins[side] = [
            (found[part].name(int(ours[i])), train.name(int(others[place[i]])), int(bits[i]))
            for i in np.flatnonzero(bits <= duplicates.DISTANCE)
        ]
    again, contradictions = _again(train, opened.train.images.labels)
    return Findings(opened, found, val, twins, again, contradictions, skip)


def _validating(opened: Opened, readable: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Places of the training images that would validate, and why there are none, as ``sets.open_train`` has both."""
    labels, classes = opened.train.images.labels, opened.train.classes
    try:
        val = readable[opened.draw(labels[readable], classes)]
        require_readable(labels, {"train": np.arange(len(labels))}, readable, classes)
    except UserError as error:
        return readable[:0], [str(error)]
    return val, []


def _again(found: Inspected, labels: np.ndarray) -> tuple[int, list[tuple[str, str]]]:
    """How many images have the print of one before them; pairs of the same print and of two classes."""
    seen = np.flatnonzero(found.noted["print"].any(1))
    _, first, group = np.unique(found.noted["print"][seen], axis=0, return_index=True, return_inverse=True)
    before = seen[first][group.reshape(-1)]
    other = np.flatnonzero(labels[seen] != labels[before])
    pairs: Sequence[tuple[str, str]] = [(found.name(int(before[i])), found.name(int(seen[i]))) for i in other]
    return int((seen != before).sum()), list(pairs)


def default_sheet(name: str, root: Path) -> Path:
    """Where the contact sheet of a set lies unless it is told."""
    if name == "folder":
        name = root.resolve().name
    elif name.startswith(HUB):
        name = Path(name.removeprefix(HUB)).name
    else:
        name = Path(name.rpartition(":")[0] or name).stem
    return Path("runs") / "data" / f"{name or 'images'}.png"
