"""Opens a data set: train and validation for the search, test for the one evaluation at the end.

Validation is carved from the training part, stratified, as a function of the data set and the seed; a run writes down
which images these are, and opens them by that. Only ``open_test`` reads the test part.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet import plugins
from supernet.data import HUB, NAMES, READERS, hub, own, sources
from supernet.data.damaged import Damaged
from supernet.data.decoding import DecodedImages
from supernet.data.folder import FolderImages, open_folder, reopen_folder
from supernet.data.images import ImageSet, MemoryImages
from supernet.data.split import VAL_PER_CLASS, Draw, Files, Split, few_of
from supernet.data.words import changed, listed, without
from supernet.errors import UserError
from supernet.progress import Progress, silent
from supernet.quantities import several
from supernet.size import Size

LEFT_OUT = "left_out"  # of an identity: names of images that are gone or damaged
SIDES = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class TrainVal:
    """What a search may see. Images are [channels, height, width]: their ``resolution`` and ``width``, which is 0 where
    they are square; ``size`` has both.

    ``identity`` tells the data from others, as plain JSON for files of a run: name, classes, number of images before a
    ``limit``, a digest of the whole training part's labels (of a folder, of its files' names and sizes too), and the
    names of those images that are left out. Where the data lie has no part in it. ``require_same`` compares two,
    whatever they leave out. ``notes`` are lines on what is remarkable.
    """

    train: ImageSet
    val: ImageSet
    classes: int
    channels: int
    resolution: int
    class_names: tuple[str, ...]
    identity: dict[str, Any] = field(default_factory=dict)
    width: int = 0
    split: Split | None = None
    notes: tuple[str, ...] = ()

    def require_same(self, recorded: dict[str, Any], source: str) -> None:
        """As the function does; but files that a split names may have changed."""
        by_name = self.split is not None and self.split.files is not None
        require_same(recorded, self.identity, source, classes_alone=by_name)

    @property
    def damaged(self) -> dict[str, str]:
        """Images that are left out, as they cannot be read: why, by name."""
        return self.train.damaged.known if isinstance(self.train, DecodedImages) else {}

    @property
    def record(self) -> dict[str, Any]:
        """What a run notes of them, in plain JSON: which they are, and how they are prepared."""
        return {"data": self.identity, "preparation": self.train.preparation.to_json()}

    @property
    def size(self) -> Size:
        return Size(self.resolution, self.width or self.resolution)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> TrainVal:
        """The same images, normalised by these values; a UserError as of ``ImageSet.normalised``."""
        train, val = (images.normalised(mean, std) for images in (self.train, self.val))
        return replace(self, train=train, val=val)


def default_name(root: Path) -> tuple[str, str]:
    """The data set to use where none is named, and why.

    fashion-mnist if it is in ``root`` or Debian's package can be had (31 MB, fetched now, without root),
    else digits.
    """
    try:
        sources.fetch_fashion_mnist(root, network=False)
    except UserError as error:
        return "digits", str(error)
    return "fashion-mnist", f"found in {root}"


def open_train(
    name: str,
    root: Path,
    *,
    seed: int = 0,
    val_fraction: float | None = None,
    val_per_class: int | None = None,
    fold: tuple[int, int] | None = None,
    channels: int | None = None,
    resolution: int | str | Size | None = None,
    workers: int = 0,
    limit: int | None = None,
    split: Split | None = None,
    damaged: Damaged | None = None,
    old: bool = False,
    progress: Progress = silent,
) -> TrainVal:
    """Train and validation of a data set, fetched where it is missing.

    Args:
        name: one of NAMES; ``hf:`` and what ``hub.open_hub`` takes; an entry point of the group ``supernet.data``; or
            code, ``FILE.py:function`` or ``package.module:function``, that gives two datasets as ``own.open_own`` takes
            them. "folder" is ``root/train/CLASS/*`` and, its test part, ``root/val/CLASS/*``.
        root: where data sets are kept; for "folder" the folder itself.
        seed: of the split.
        val_fraction: share of the training part that becomes validation, in [0, 1); default 0.1, of "folder" 0.1 of
            each class but at most 50. Each class keeps an image on either side.
        val_per_class: images of every class instead.
        fold: the first of so many parts instead, numbered from 0, which are together all of the training part.
        channels: 1 or 3; default 1 where all training images are grey by their kind, else 3.
        resolution: pixels, of a square or as ``Size.of`` takes both, of "folder" (default 224) and of data of your own
            only.
        workers: processes that decode the images of a folder or of your own data; 0 decodes in this one.
        limit: keep a stratified draw of at most so many training images, for quick runs. Validation stays.
        split: one that was drawn, with its channels, in place of those that the arguments would give.
        damaged: what is done about images that cannot be read; by default they are refused when they are served.
        old: split and channels as version 0.1 had them.

    Raises:
        UserError: an unknown name or an impossible value; data that are missing, damaged or too few.
    """
    if old and name == "folder" and val_fraction is None and val_per_class is None:
        val_per_class = VAL_PER_CLASS
    draw = Draw(seed, val_fraction, val_per_class, fold, few_of(name, val_fraction), old)
    source = Source(name, Path(root), resolution, workers, channels, split, old, progress)
    whole, class_names, notes = source.open("train")
    if isinstance(whole, DecodedImages):
        whole.damaged = damaged or Damaged()
        if whole.damaged.known:
            whole.leave_out(whole.damaged.known)
    if split is None:
        split = split_of(whole, class_names, draw)
    elif split.images != len(whole):
        raise UserError(
            f"{name} has {several(len(whole), 'training image')}, the run began with {split.images:,}; restore the data"
        )
    identity: dict[str, Any] = {
        "name": Path(name).name,  # of a file of one's own without its folder
        "classes": list(class_names),
        "images": {"train": len(whole) - len(split.val), "val": len(split.val)},
        "digest": whole.digest(),
    }
    sides = {"train": np.setdiff1d(np.arange(len(whole)), split.val), "val": split.val}
    if isinstance(whole, DecodedImages):
        readable = whole.readable()
        require_readable(whole.labels, sides, readable, class_names)
        sides["val"] = np.intersect1d(sides["val"], readable)  # training keeps its length, and so its steps
        if whole.bad:
            identity[LEFT_OUT] = [whole.name(index) for index in sorted(whole.bad)]
    train, val = whole.take(sides["train"]), whole.take(sides["val"])
    return TrainVal(
        train=train if limit is None else train.subset(limit, seed),
        val=val,
        classes=len(class_names),
        channels=whole.channels,
        resolution=whole.size.height,
        width=0 if whole.size.height == whole.size.width else whole.size.width,
        class_names=class_names,
        identity=identity,
        split=None if old else split,
        notes=(*notes, *without(whole.labels, class_names, "training")),
    )


def split_of(whole: ImageSet, class_names: tuple[str, ...], draw: Draw) -> Split:
    """A split drawn now. What is known to be damaged does not validate: it might be all that a class has there."""
    drawn = whole.readable() if isinstance(whole, DecodedImages) and not draw.old else np.arange(len(whole))
    val = drawn[draw(whole.labels[drawn], class_names)]
    if not isinstance(whole, FolderImages):
        return Split(whole.channels, len(whole), val)
    names = [os.fsdecode(name) for name in whole.names.tolist()]
    return Split(whole.channels, len(whole), val, Files(class_names, names, whole.labels, whole.sizes))


def require_readable(
    labels: np.ndarray, sides: Mapping[str, np.ndarray], readable: np.ndarray, names: tuple[str, ...]
) -> None:
    """Refuse a class that has lost all of its images on one side."""
    for side, places in sides.items():
        left = np.bincount(labels[np.intersect1d(places, readable)], minlength=len(names))
        lost = np.flatnonzero((left == 0) & (np.bincount(labels[places], minlength=len(names)) > 0))
        if len(lost):
            told = f"class {listed([names[c] for c in lost])} has no {SIDES[side]} image left that can be read"
            raise UserError(f"{told}: restore some, or start over")


def require_same(recorded: dict[str, Any], found: dict[str, Any], source: str, classes_alone: bool = False) -> None:
    """Refuse other data than a file was made with.

    Args:
        recorded: the ``TrainVal.identity`` that the file ``source`` holds. found: that of the data at hand.
        classes_alone: look at the name and the classes, not at the images.

    Raises:
        UserError: says what differs.
    """
    recorded, found = ({name: of[name] for name in of if name != LEFT_OUT} for of in (recorded, found))
    if recorded == found:
        return
    if recorded.get("name") != found["name"]:
        different = f"the data set {recorded.get('name')}, not {found['name']}"
    elif recorded.get("classes") != found["classes"]:
        different = f"other classes: {changed(recorded.get('classes', []), found['classes'])}"
    elif classes_alone:
        return
    elif recorded.get("images") != found["images"]:
        before = recorded.get("images", {})
        counts = [f"{part} {before.get(part)} -> {n}" for part, n in found["images"].items() if before.get(part) != n]
        different = f"other numbers of images: {', '.join(counts)}"
    else:
        different = "other images of the same number (labels, names or sizes of files differ)"
    raise UserError(f"{source} was made with {different}; restore the data, or start over with these")


def open_test(
    name: str,
    root: Path,
    *,
    channels: int | None = None,
    resolution: int | str | Size | None = None,
    workers: int = 0,
    split: Split | None = None,
    damaged: Damaged | None = None,
    old: bool = False,
) -> ImageSet:
    """The test part, for the one evaluation at the end. Arguments and errors as in ``open_train``."""
    images, *_ = Source(name, Path(root), resolution, workers, channels, split, old).open("val")
    if isinstance(images, DecodedImages) and damaged is not None:
        images.damaged = damaged
        images.leave_out(damaged.known)
        return images.take(images.readable())
    return images


@dataclass(frozen=True)
class Source:
    """Where images come from. Arguments as in ``open_train``."""

    name: str
    root: Path
    resolution: int | str | Size | None = None
    workers: int = 0
    channels: int | None = None
    split: Split | None = None
    old: bool = False
    progress: Progress = silent

    def open(self, part: str) -> tuple[ImageSet, tuple[str, ...], list[str]]:
        """All images of a part, ``train`` or ``val``; class names; lines on what is remarkable."""
        size = None if self.resolution is None else Size.of(self.resolution)
        if self.workers < 0 or (size and min(size) < 1):
            raise UserError(f"expected resolution >= 1 and workers >= 0, got {self.resolution} and {self.workers}")
        if self.channels not in (None, 1, 3):
            raise UserError(f"expected 1 or 3 channels, got {self.channels}")
        images, names, notes = self._open(part, size)
        if isinstance(images, DecodedImages):
            images.part = part
        if self.channels not in (None, images.channels):
            raise UserError(
                f"{self.name} has images of {several(images.channels, 'channel')}, got {self.channels}; leave it out"
            )
        return images, names, notes

    def _open(self, part: str, size: Size | None) -> tuple[ImageSet, tuple[str, ...], list[str]]:
        name, root = self.name, self.root
        if name == "folder":
            where = root, part, size or Size.of(own.RESOLUTION), self.workers
            if self.split is None:
                return open_folder(*where, self._channels, self.old)
            if (files := self.split.files) is None:
                raise UserError("the split of the run is not one of files: start over")
            images, notes = reopen_folder(*where, self.split.channels, files)
            return images, files.classes, notes
        if name in READERS:
            return (*_memory(name, root, part, size), [])
        if name.startswith(HUB):
            return hub.open_hub(name, root, part, size, self.workers, self._channels)
        plugin = plugins.find(name, plugins.DATA)
        if plugin is None:
            known = ", ".join((*NAMES, *plugins.names(plugins.DATA)))
            what = "choose one of these"
            if Path(name).is_dir():
                what = f"for the images in that folder it is --data folder --data-root {shlex.quote(name)}"
            raise UserError(
                f"expected a data set among {known}, hf:NAME, hf:FOLDER, or FILE.py:function, got {name!r}; {what}"
            )
        return own.open_own(plugin, root, part, size, self.workers, self._channels)

    def _channels(self, count: int, grey: Callable[[int], bool]) -> int:
        """Of so many pictures, by whether one of them is grey."""
        if self.split is not None:
            return self.split.channels
        if self.channels is not None or (self.old and self.name == "folder"):
            return self.channels or 3
        return _channels(min(count, 1) if self.old else count, grey, self.progress)


def _channels(count: int, grey: Callable[[int], bool], progress: Progress) -> int:
    """1 where all of ``count`` pictures are grey, else 3; the first one in colour ends the search.

    Args:
        grey: ``pictures.is_grey`` of a picture by its number. Those of which it cannot tell do not count.
    """
    found = 0
    order = np.random.default_rng(0).permutation(count).tolist()  # as those of a class lie together
    with progress("looking for colours", count, unit="images") as bar:
        for index in order:
            with contextlib.suppress(Exception):
                if not grey(index):
                    return 3
                found += 1
            bar.advance()
    return 1 if found else 3


def _read(name: str, root: Path, train: bool) -> sources.Raw:
    """One part of a named set."""
    module, _, function = READERS[name].partition(":")
    return getattr(importlib.import_module(module), function)(root, train)


def _memory(name: str, root: Path, part: str, size: Size | None) -> tuple[MemoryImages, tuple[str, ...]]:
    train = _read(name, root, True)
    height, width = train.images.shape[1:3]
    if size not in (None, (height, width)):
        raise UserError(f"{name} has {height}x{width} images, got resolution {size.plain}; leave it out")
    # Of the whole training part: train, validation and test share them, whatever the seed and the limit.
    mean, std = _statistics(train.images)
    raw = train if part == "train" else _read(name, root, False)
    margin = 4 if min(height, width) >= 32 else 2
    return MemoryImages(raw.images, raw.labels, mean, std, margin, raw.mirror), raw.class_names


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [N, H, W, C], as ``ImageSet`` has them.

    Summed over a histogram: exact, whatever the number of threads.
    """
    value = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(-1):
        weight = torch.bincount(channel.reshape(-1), minlength=256).double() / channel.numel()
        mean = float((weight * value).sum())
        means.append(mean)
        stds.append(float((weight * (value - mean) ** 2).sum()) ** 0.5)
    return tuple(means), tuple(stds)
