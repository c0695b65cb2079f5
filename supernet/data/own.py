"""Data sets from outside of this library: any two map-style datasets of (image, label)."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from supernet.data import pictures, transforms
from supernet.data.decoding import DecodedImages
from supernet.data.pictures import Fit
from supernet.data.policies import Transform
from supernet.data.words import without
from supernet.errors import UserError
from supernet.plugins import Plugin, reason
from supernet.size import Size

LARGE = 96  # pixels of a square: from as many on images are cropped and mirrored as photographs in folders are
RESOLUTION = 224  # where the images do not say one
Channels = Callable[[int, Callable[[int], bool]], int]  # by the number of pictures, and whether one of them is grey
KINDS = "a PIL image, uint8 of [H, W], [H, W, C] or (a tensor) [C, H, W], or a float tensor [C, H, W]"


@dataclass(frozen=True)
class AsItIs:
    """The transform of float tensors, which are not passed through it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image


class OwnImages(DecodedImages):
    """Items of a dataset: images that are resized, cropped and normalised, or float tensors that stay as they are."""

    in_files = False  # code may do anything for an image
    upright = staticmethod(pictures.plain)  # a JPEG file that a dataset keeps must not be decoded at a part of its size

    def __init__(
        self,
        dataset: Any,
        source: str,
        file: str | None,
        labels: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: Size,
        transforms: tuple[Transform, Transform] | None,
        workers: int,
    ):
        """transforms: the plain and the augmenting one, of PIL images; None for float tensors."""
        self.dataset, self.source, self.file, self.floats = dataset, source, file, transforms is None
        self._known = labels  # of all items, also in a set of some of them
        super().__init__(labels, mean, std, size, transforms or (AsItIs(), AsItIs()), workers)

    @property
    def fit(self) -> Fit | None:
        return (found := super().fit) and replace(found, reduced=False)

    @contextlib.contextmanager
    def opened(self, index: int) -> Iterator[Image.Image | Tensor]:
        image, label = item(self.dataset, index, self.source, self.file)
        if label != self._known[index]:
            raise UserError(f"{self.source}: item {index} has the label {label}, had {self._known[index]} at first")
        if isinstance(image, Tensor) != self.floats:
            kinds = ("images", "float tensors") if self.floats else ("float tensors", "images")
            raise UserError(f"{self.source}: item {index} is one of {kinds[0]}, the first was one of {kinds[1]}")
        if isinstance(image, Tensor):
            shape = (self.channels, *self.size)
            if image.shape != shape:
                raise UserError(
                    f"{self.source}: item {index} is a float tensor of {list(image.shape)}, expected {list(shape)}"
                )
            yield image
            return
        try:
            yield image
        except Exception as error:  # a file that PIL reads only now may be damaged
            raise UserError(f"{self.source}: item {index} raised {reason(error, self.file)}", "damaged") from error


def open_own(
    plugin: Plugin, root: Path, part: str, size: Size | None, workers: int, channels: Channels
) -> tuple[OwnImages, tuple[str, ...], list[str]]:
    """The ``train`` or the test part of what ``plugin`` gives, called with ``root`` if it takes that; class names.

    Beside them there is a line where a test part that lists its labels lacks classes.

    The first training image decides on the size where ``size`` is None: its own if it is a square of less than 96
    pixels, else 224². Labels are those of ``targets`` or ``labels``, where a dataset has one, else every item is read
    once.

    Args:
        channels: decides on the channels of pictures.

    Raises:
        UserError: it gives no two datasets, an empty one, or items or labels that cannot be used.
    """
    parts = _two(plugin, root)
    sources = [f"{plugin.source}, {name} set" for name in ("training", "test")]
    file = plugin.module.__file__
    this = 0 if part == "train" else 1
    listed = [_labels(dataset, source) for dataset, source in zip(parts, sources, strict=True)]

    def labels_of(i: int) -> list[int]:
        found = listed[i]
        return [item(parts[i], j, sources[i], file)[1] for j in range(len(parts[i]))] if found is None else found

    names = _class_names(parts[0], lambda: labels_of(0), sources[0])
    labels = labels_of(this)
    # Labels that the test set lists are looked at from the start, not after days of search.
    for found, source in ((labels, sources[this]), (listed[1] or (), sources[1])):
        _require_range(found, len(names), source)
    first, _ = item(parts[0], 0, sources[0], file)

    def grey(index: int) -> bool:
        picture, _ = item(parts[0], index, sources[0], file)
        return isinstance(picture, Image.Image) and pictures.is_grey(picture)

    wanted = len(first) if isinstance(first, Tensor) else channels(len(parts[0]), grey)
    mean, std, size, both = format_of(first, parts[0], size, sources[0], wanted)
    array = np.array(labels, dtype=np.int64)
    images = OwnImages(parts[this], sources[this], file, array, mean, std, size, both, workers)
    images.pixels(0, images.transforms[0])
    return images, names, [] if listed[1] is None else without(np.array(listed[1]), names, "test")


def item(dataset: Any, index: int, source: str, file: str | None) -> tuple[Image.Image | Tensor, int]:
    """An image, as PIL's unless it is a float tensor, and its label; a UserError names the item that is neither."""
    try:
        pair = dataset[index]
    except Exception as error:
        raise UserError(f"{source}: item {index} raised {reason(error, file)}", "damaged") from error
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise UserError(f"{source}: item {index} is {_short(pair)}, expected a pair (image, label)")
    return _image(pair[0], f"{source}: item {index}"), _label(pair[1], f"{source}: item {index}")


def _two(plugin: Plugin, root: Path) -> tuple[Any, Any]:
    parts = plugin.offer(root=root)
    if not isinstance(parts, (tuple, list)) or len(parts) != 2:
        raise UserError(f"{plugin.source} returned {_short(parts)}, expected (training set, test set)")
    for name, part in zip(("training", "test"), parts, strict=True):
        if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
            raise UserError(
                f"{plugin.source} returned {_short(part)} as the {name} set, expected a dataset with __len__ and "
                "__getitem__"
            )
        if not len(part):
            raise UserError(f"{plugin.source} returned an empty {name} set, expected at least one image")
    return parts[0], parts[1]


def _labels(dataset: Any, source: str) -> list[int] | None:
    """The labels that a dataset lists; None if it does not, or of another number of images."""
    for name in ("targets", "labels"):
        listed = getattr(dataset, name, None)
        listed = listed.tolist() if isinstance(listed, (np.ndarray, Tensor)) else listed
        if isinstance(listed, Sequence) and len(listed) == len(dataset):
            return [_label(label, f"{source}: item {i}") for i, label in enumerate(listed)]
    return None


def _label(label: Any, where: str) -> int:
    try:
        if isinstance(label, (bool, str)):
            raise TypeError
        value: Any = label.item() if isinstance(label, (np.ndarray, Tensor)) else label
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError) as error:  # items of arrays and tensors of more than one element
        raise UserError(f"{where} has the label {_short(label)}, expected an integer") from error


def _class_names(train: Any, labels_of: Callable[[], list[int]], source: str) -> tuple[str, ...]:
    """The names that the training set lists as ``classes``, else the numbers up to the largest label."""
    listed = getattr(train, "classes", None)
    if listed is None:
        labels = labels_of()
        _require_range(labels, max(0, *labels) + 1, source)
        found = sorted(set(labels))
        missing = next((i for i, label in enumerate(found) if label != i), None)
        if missing is not None:
            raise UserError(
                f"{source}: no image has the label {missing}, the largest is {found[-1]}; count the labels from 0, or "
                "name all classes in an attribute 'classes'"
            )
        return tuple(map(str, found))
    if isinstance(listed, str) or not isinstance(listed, Sequence) or not listed:
        raise UserError(f"{source}: its classes are {_short(listed)}, expected a list of names")
    return tuple(map(str, listed))


def _require_range(labels: Sequence[int], classes: int, source: str) -> None:
    for i, label in enumerate(labels):
        if not 0 <= label < classes:
            raise UserError(f"{source}: item {i} has the label {label}, expected 0 to {classes - 1}")


def _image(image: Any, where: str) -> Image.Image | Tensor:
    """As PIL's, or a float tensor [C, H, W] as it is."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor) and image.is_floating_point() and image.dim() == 3:
        return image.float()
    array: Any = image
    if isinstance(image, Tensor):
        channels_first = image.dim() == 3 and image.shape[0] in (1, 3, 4)
        array = (image.permute(1, 2, 0) if channels_first else image).numpy(force=True)
    if isinstance(array, np.ndarray) and array.dtype == np.uint8:
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)):
            return Image.fromarray(np.ascontiguousarray(array))
    raise UserError(f"{where} is {_short(image)}, expected {KINDS}")


def format_of(
    first: Image.Image | Tensor, train: Any, size: Size | None, source: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...], Size, tuple[Transform, Transform] | None]:
    """Mean, deviation, size, and plain and augmenting transform, for images like the first one.

    Args:
        channels: of pictures; float tensors have their own.
    """
    if isinstance(first, Tensor):
        own = Size(*first.shape[1:])
        if size not in (None, own):
            raise UserError(
                f"{source}: item 0 is a float tensor of {list(first.shape)}, taken as it is; expected {size} pixels"
            )
        return (0.0,) * channels, (1.0,) * channels, own, None
    mean, std = transforms.GREY if channels == 1 else transforms.IMAGENET
    across, down = pictures.size(first)
    size = size or Size.of(across if across == down < LARGE else RESOLUTION)
    large = size.pixels >= LARGE**2
    mirror = bool(getattr(train, "mirror", large))
    make = transforms.photograph if large else transforms.picture
    return mean, std, size, make(size, "L" if channels == 1 else "RGB", mirror)


def _short(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return f"{value!r:.60}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Image.Image):
        return f"a PIL image of mode {value.mode}"
    return f"a {type(value).__name__}"
