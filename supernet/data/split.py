"""Who is trained on and who validates: drawn once, then written down by name, so that it holds.

Files that are added later belong to neither; of files that are gone, the others keep their sides.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supernet import files
from supernet.data.images import SPLIT, generator, places, proportional, stratified
from supernet.data.words import listed
from supernet.errors import UserError
from supernet.quantities import several
from supernet.shape import COUNT, POSITIVE

VAL_FRACTION = 0.1
VAL_PER_CLASS = 50  # of a folder at most, as PAD-NAS takes from ImageNet
SIZES = {str: dict}  # of files in bytes, by class and name; of a million, each is looked at apart
SHAPE = {
    "schema": 1,
    "channels": POSITIVE,
    "files?": {"train": SIZES, "val": SIZES},
    "rows?": {"images": COUNT, "val": [COUNT]},
}


@dataclass(frozen=True)
class Draw:
    """How a split is drawn.

    Attributes:
        val_fraction: share that becomes validation, in [0, 1).
        val_per_class: images of every class instead.
        fold: validation is the first of so many parts of about the same size, numbered from 0, instead.
        few: of neither given, a share of each class, but so many images at most.
        old: as version 0.1 drew: a small class may get no validation image.
    """

    seed: int = 0
    val_fraction: float | None = None
    val_per_class: int | None = None
    fold: tuple[int, int] | None = None
    few: int | None = None
    old: bool = False

    def __post_init__(self) -> None:
        given = [f"{n} {v}" for n in ("val_fraction", "val_per_class", "fold") if (v := getattr(self, n)) is not None]
        if len(given) > 1:
            raise UserError(
                f"expected one of val_fraction, val_per_class and fold, got {' and '.join(given)}; drop one"
            )
        if self.seed < 0:
            raise UserError(f"expected a seed of at least 0, got {self.seed}")
        if self.val_fraction is not None and not 0 <= self.val_fraction < 1:
            raise UserError(f"expected val_fraction in [0, 1), got {self.val_fraction}")
        if self.val_per_class is not None and self.val_per_class < 0:
            raise UserError(f"expected val_per_class of at least 0, got {self.val_per_class}")
        if self.fold is not None and not (self.fold[1] >= 2 and 0 <= self.fold[0] < self.fold[1]):
            raise UserError(f"expected a fold such as 0/5, the first of five, got {self.fold[0]}/{self.fold[1]}")

    def __call__(self, labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        """Sorted places of the images that validate; every class that has images gets some, and keeps some.

        Args:
            labels: int64 [N]. names: of the classes.

        Raises:
            UserError: a class has too few images.
        """
        size, stream = np.bincount(labels, minlength=len(names)), generator(SPLIT, self.seed)
        if self.fold is not None:
            part, parts = self.fold
            _require(size, parts, names, f"one for each of {parts} folds")
            return np.flatnonzero(places(labels, stream) % parts == part)
        return stratified(labels, self._counts(labels, size, names), stream)

    def _counts(self, labels: np.ndarray, size: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        """Validation images of each class."""
        if self.val_per_class is not None:
            _require(size, self.val_per_class + 1, names, f"{self.val_per_class} of them to validate on")
            return np.full(len(names), self.val_per_class)
        fraction = VAL_FRACTION if self.val_fraction is None else self.val_fraction
        if self.few is None:
            count = np.zeros_like(size)
            drawn = proportional(labels, round(fraction * len(labels)))
            count[: len(drawn)] = drawn
        else:
            count = np.minimum(np.rint(fraction * size).astype(np.int64), self.few)
        if fraction == 0 or self.old:
            return count
        _require(size, 2, names, "one of them to validate on")
        return np.clip(count, np.minimum(size, 1), np.maximum(size - 1, 0))


def few_of(name: str, val_fraction: float | None) -> int | None:
    """``Draw.few`` of a data set: folders may have as many images as ImageNet."""
    return VAL_PER_CLASS if name == "folder" and val_fraction is None else None


def _require(size: np.ndarray, least: int, names: tuple[str, ...], why: str) -> None:
    """Refuse classes with fewer images; those that have none are another matter."""
    few = [f"{names[c]!r} has {size[c]}" for c in np.flatnonzero((size < least) & (size > 0))]
    if few:
        enough = several(least, "training image")
        raise UserError(
            f"expected at least {enough} in every class, {why}: class {listed(few, quote=False)}; add images, leave "
            "the class out, or validate on fewer"
        )


@dataclass(frozen=True)
class Files:
    """The files of a training part, in the order of their places.

    Attributes:
        classes: the names of their folders.
        names: relative to the part, so that they begin with the class.
        labels: places in ``classes``, int64 [N].
        sizes: bytes, int64 [N]; -1 where there was none, such as at the end of a link.
    """

    classes: tuple[str, ...]
    names: list[str]
    labels: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Split:
    """A split that was drawn.

    Attributes:
        channels: of the images.
        images: how many the training part has.
        val: places of those that validate, sorted: int64.
        files: where the images are files; else they have numbers, their places.
    """

    channels: int
    images: int
    val: np.ndarray
    files: Files | None = None

    def write(self, path: Path) -> None:
        """As JSON, in which files stand by side, class and name."""
        content: dict[str, Any] = {"schema": 1, "channels": self.channels}
        if self.files is None:
            content["rows"] = {"images": self.images, "val": self.val.tolist()}
        else:
            content["files"] = self._by_class(self.files)
        files.write_bytes(path, json.dumps(content).encode() + b"\n")

    def _by_class(self, of: Files) -> dict[str, dict[str, dict[str, int]]]:
        sides: dict[str, dict[str, dict[str, int]]] = {
            side: {name: {} for name in of.classes} for side in ("train", "val")
        }
        validates = np.isin(np.arange(self.images), self.val)
        for name, label, size, val in zip(of.names, of.labels, of.sizes, validates, strict=True):
            within = of.classes[label]
            sides["val" if val else "train"][within][name[len(within) + 1 :]] = int(size)
        return sides

    @classmethod
    def read(cls, path: Path) -> Split | None:
        """The split in a file; None where there is no file.

        Raises:
            UserError: it is damaged.
        """
        if not path.exists():
            return None
        read = files.read_json(path, "split of images", expected=SHAPE, damaged="another run")
        try:
            return cls._of_files(read) if "files" in read else cls._of_rows(read)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is not a readable split of images ({error})", "another run") from error

    @classmethod
    def _of_rows(cls, read: dict[str, Any]) -> Split:
        val, images = np.array(read["rows"]["val"], dtype=np.int64), read["rows"]["images"]
        if len(val) and not (np.diff(val, prepend=-1).min() > 0 and val[-1] < images):
            raise ValueError(f"expected ascending numbers below {images}")
        return cls(read["channels"], images, val)

    @classmethod
    def _of_files(cls, read: dict[str, Any]) -> Split:
        train, val = read["files"]["train"], read["files"]["val"]
        if train.keys() != val.keys():
            raise ValueError("training and validation have other classes")
        classes = tuple(sorted(train))
        names, labels, sizes, validates = list[str](), list[int](), list[int](), list[bool]()
        for label, of in enumerate(classes):
            if of in ("", os.curdir, os.pardir) or os.sep in of:
                raise ValueError(f"{of!r} is no class")
            if both := train[of].keys() & val[of].keys():
                raise ValueError(f"{of}/{min(both)} is on both sides")
            within = {**train[of], **val[of]}
            listed_names = sorted(within, key=os.path.split)  # as a folder is listed
            for name in listed_names:
                if name.startswith(os.sep) or (os.pardir in name and os.pardir in name.split(os.sep)):
                    raise ValueError(f"{name!r} is no file of the class {of!r}")
                if type(within[name]) is not int or within[name] < -1:
                    raise ValueError(f"{of}/{name} has {within[name]!r:.40} bytes")
            names += [f"{of}{os.sep}{name}" for name in listed_names]
            labels += [label] * len(listed_names)
            validates += [name in val[of] for name in listed_names]
            sizes += [within[name] for name in listed_names]
        of_files = Files(classes, names, np.array(labels, dtype=np.int64), np.array(sizes, dtype=np.int64))
        return cls(read["channels"], len(names), np.flatnonzero(validates), of_files)
