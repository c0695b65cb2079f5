"""Opens a data set: train and validation for the search, test for the one evaluation at the end.

Validation is carved from the training part, stratified; which images, is a function of the data set, the
seed and the size alone. Only ``open_test`` reads the test part.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet import plugins
from supernet.data import HUB, NAMES, READERS, hub, own, sources
from supernet.data.decoding import FolderImages
from supernet.data.images import SPLIT, ImageSet, MemoryImages, generator, proportional, stratified
from supernet.data.transforms import IMAGENET, photograph
from supernet.errors import UserError
from supernet.size import Size

VAL_FRACTION = 0.1
VAL_PER_CLASS = 50  # of a folder, as PAD-NAS takes from ImageNet
RESOLUTION = 224  # of a folder


@dataclass(frozen=True)
class TrainVal:
    """What a search may see. Images are [channels, height, width]: their ``resolution`` and ``width``, which is 0 where
    they are square; ``size`` has both.

    ``identity`` tells the data from others, as plain JSON for files of a run: name, classes, number of images before a
    ``limit``, and a digest of the whole training part's labels (of a folder, of its files' names and sizes too). Where
    the data lie has no part in it. ``require_same`` compares two.
    """

    train: ImageSet
    val: ImageSet
    classes: int
    channels: int
    resolution: int
    class_names: tuple[str, ...]
    identity: dict[str, Any] = field(default_factory=dict)
    width: int = 0

    @property
    def size(self) -> Size:
        return Size(self.resolution, self.width or self.resolution)


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
    resolution: int | str | Size | None = None,
    workers: int = 0,
    limit: int | None = None,
) -> TrainVal:
    """Train and validation of a data set, fetched where it is missing.

    Args:
        name: one of NAMES; ``hf:`` and what ``hub.open_hub`` takes; an entry point of the group ``supernet.data``; or
            code, ``FILE.py:function`` or ``package.module:function``, that gives two datasets as ``own.open_own`` takes
            them. "folder" is ``root/train/CLASS/*`` and, its test part, ``root/val/CLASS/*``.
        root: where data sets are kept; for "folder" the folder itself.
        seed: of the split.
        val_fraction: share of the training part that becomes validation, in [0, 1); default 0.1.
        val_per_class: images of every class instead; default 50 for "folder".
        resolution: pixels, of a square or as ``Size.of`` takes both, of "folder" (default 224) and of data of your own
            only.
        workers: processes that decode the images of a folder or of your own data; 0 decodes in this one.
        limit: keep a stratified draw of at most so many training images, for quick runs. Validation stays.

    Raises:
        UserError: an unknown name or an impossible value; data that are missing, damaged or too few.
    """
    whole, class_names = _open(name, Path(root), "train", resolution, workers)
    if val_fraction is not None and val_per_class is not None:
        raise UserError("expected val_fraction or val_per_class, got both; drop one")
    if seed < 0:
        raise UserError(f"expected a seed of at least 0, got {seed}")
    if val_fraction is None and val_per_class is None and name == "folder":
        val_per_class = VAL_PER_CLASS
    if val_per_class is None:
        fraction = VAL_FRACTION if val_fraction is None else val_fraction
        if not 0 <= fraction < 1:
            raise UserError(f"expected val_fraction in [0, 1), got {fraction}")
        count = proportional(whole.labels, round(fraction * len(whole)))
    else:
        size = np.bincount(whole.labels, minlength=len(class_names))
        if val_per_class < 0:
            raise UserError(f"expected val_per_class of at least 0, got {val_per_class}")
        if val_per_class >= size.min():
            raise UserError(
                f"class {class_names[size.argmin()]!r} has {size.min()} training images, of which {val_per_class} are "
                f"the validation: expected more than {val_per_class} in every class; add images or leave the class out"
            )
        count = np.full(len(class_names), val_per_class)
    val = stratified(whole.labels, count, generator(SPLIT, seed))
    train = whole.take(np.setdiff1d(np.arange(len(whole)), val))
    return TrainVal(
        train=train if limit is None else train.subset(limit, seed),
        val=whole.take(val),
        classes=len(class_names),
        channels=whole.channels,
        resolution=whole.size.height,
        width=0 if whole.size.height == whole.size.width else whole.size.width,
        class_names=class_names,
        identity={
            "name": Path(name).name,  # of a file of one's own without its folder
            "classes": list(class_names),
            "images": {"train": len(train), "val": len(val)},
            "digest": whole.digest(),
        },
    )


def require_same(recorded: dict[str, Any], found: dict[str, Any], source: str) -> None:
    """Refuse other data than a file was made with.

    Args:
        recorded: the ``TrainVal.identity`` that the file ``source`` holds. found: that of the data at hand.

    Raises:
        UserError: says what differs.
    """
    if recorded == found:
        return
    if recorded.get("name") != found["name"]:
        different = f"the data set {recorded.get('name')}, not {found['name']}"
    elif recorded.get("classes") != found["classes"]:
        different = f"other classes: {_changed_classes(recorded.get('classes', []), found['classes'])}"
    elif recorded.get("images") != found["images"]:
        before = recorded.get("images", {})
        counts = [f"{part} {before.get(part)} -> {n}" for part, n in found["images"].items() if before.get(part) != n]
        different = f"other numbers of images: {', '.join(counts)}"
    else:
        different = "other images of the same number (labels, names or sizes of files differ)"
    raise UserError(f"{source} was made with {different}; restore the data, or start over with these")


def _changed_classes(before: list[str], after: list[str]) -> str:
    missing = [name for name in before if name not in after]
    added = [name for name in after if name not in before]
    if len(missing) == len(added) == 1:
        return f"{missing[0]!r} is called {added[0]!r} now"
    changes = [
        f"{', '.join(map(repr, names))} {what}" for names, what in ((missing, "missing"), (added, "added")) if names
    ]
    return "; ".join(changes) or "their order"


def open_test(name: str, root: Path, *, resolution: int | str | Size | None = None, workers: int = 0) -> ImageSet:
    """The test part, for the one evaluation at the end. Arguments and errors as in ``open_train``."""
    return _open(name, Path(root), "val", resolution, workers)[0]


def _open(
    name: str, root: Path, part: str, resolution: int | str | Size | None, workers: int
) -> tuple[ImageSet, tuple[str, ...]]:
    size = None if resolution is None else Size.of(resolution)
    if workers < 0 or (size and min(size) < 1):
        raise UserError(f"expected resolution >= 1 and workers >= 0, got {resolution} and {workers}")
    if name == "folder":
        return _folder(root, part, size or Size.of(RESOLUTION), workers)
    if name in READERS:
        return _memory(name, root, part, size)
    if name.startswith(HUB):
        return hub.open_hub(name, root, part, size, workers)
    plugin = plugins.find(name, plugins.DATA)
    if plugin is None:
        known = ", ".join((*NAMES, *plugins.names(plugins.DATA)))
        raise UserError(
            f"expected a data set among {known}, hf:NAME, or FILE.py:function, got {name!r}; choose one of these"
        )
    return own.open_own(plugin, root, part, size, workers)


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


def _folder(root: Path, part: str, size: Size, workers: int) -> tuple[FolderImages, tuple[str, ...]]:
    """Scans ``root/part`` once; at a million files that takes seconds, and nothing looks at them again."""
    for folder in (root / "train", root / "val"):  # both now, not after days of search
        if not folder.is_dir():
            raise UserError(f"expected a folder {folder} with one folder of images per class; create it")
    from torchvision.datasets import ImageFolder  # takes two seconds, so only folders wait for it

    try:
        classes = {p: sorted(e.name for e in os.scandir(root / p) if e.is_dir()) for p in ("train", part)}
        different = sorted(set(classes["train"]) ^ set(classes[part]))
        if different:
            raise UserError(f"{root / 'train'} and {root / part} must have the same classes, got {different[0]} in one")
        scanned = ImageFolder(root / part, allow_empty=True)
    except OSError as error:  # no class folders at all is a FileNotFoundError
        raise UserError(f"cannot read {root / part}: {error}; check the folder") from error
    labels = np.array(scanned.targets, dtype=np.int64)
    counts = np.bincount(labels, minlength=len(scanned.classes))
    if counts.min() == 0:
        empty = root / part / scanned.classes[counts.argmin()]
        raise UserError(f"expected images (.jpg, .png, …) in {empty}, found none; add some or delete the folder")
    prefix = len(os.path.join(root / part, ""))
    names = np.array([os.fsencode(path[prefix:]) for path, _ in scanned.samples])
    images = FolderImages(root / part, names, labels, *IMAGENET, size, photograph(size), workers)
    return images, tuple(scanned.classes)
