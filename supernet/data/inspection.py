"""Reads every image of a set once, in parallel, and notes what it is: before days of training, not in the middle."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from supernet.data import pictures
from supernet.data.decoding import DecodedImages, as_it_is, tensor
from supernet.data.duplicates import BYTES, SIDE, fingerprint
from supernet.data.images import ImageSet
from supernet.data.words import listed
from supernet.errors import UserError, dead_loader
from supernet.progress import Progress, silent

CHUNK = 32  # images that a process reads before it tells what it found
SMALL = pictures.Fit((SIDE, SIDE), interpolation="bilinear")  # what prints are taken from
# What is noted of an image. Of float tensors the size alone is known.
NOTED = np.dtype(
    [
        ("width", "<i4"),
        ("height", "<i4"),
        ("kind", "S8"),  # Pillow's mode, or "floats"
        ("turned", "?"),  # by EXIF
        ("transparent", "?"),
        ("animated", "?"),
        ("grey_kind", "?"),  # by its kind or palette
        ("grey", "?"),  # all of its pixels
        ("read", "?"),
        ("print", "u1", BYTES),  # as ``duplicates`` compares them; zeros: none
    ]
)


@dataclass(frozen=True)
class Inspected:
    """What was found of the images of a set.

    Attributes:
        noted: of ``NOTED`` [N], in the order of the set.
        errors: why images cannot be read, by their names.
    """

    images: DecodedImages
    noted: np.ndarray
    errors: dict[str, str]

    def name(self, place: int) -> str:
        """Of an image by its place in the set."""
        return self.images.name(int(self.images.index[place]))

    def names(self, field: str) -> list[str]:
        """Of the images for which a field is true."""
        return [self.name(place) for place in np.flatnonzero(self.noted[field])]


def inspect(images: DecodedImages, progress: Progress = silent, label: str = "reading images") -> Inspected:
    """Read every image of a set, each once, by as many processes as decode them.

    Raises:
        UserError: a process has died; something else than one image is wrong.
    """
    noted, errors = [], {}
    with progress(label, len(images), unit="images") as bar:
        for rows, failures in _read(images):
            noted.append(rows)
            for index, error in failures.items():
                if error.missing != "damaged":
                    raise error
                errors[images.name(index)] = str(error)
            bar.advance(len(rows), text=f"{len(errors)} damaged" if errors else "")
    return Inspected(images, np.concatenate(noted) if noted else np.empty(0, NOTED), errors)


def faults(sets: Iterable[ImageSet], progress: Progress = silent) -> tuple[dict[str, str], list[str]]:
    """Names of files that cannot be read, with the reasons, and of those with several frames."""
    errors, animated = dict[str, str](), list[str]()
    for images in sets:
        if isinstance(images, DecodedImages) and images.in_files:
            found = inspect(images, progress, f"reading {images.part} files")
            errors |= found.errors
            animated += found.names("animated")
    return errors, animated


def refusal(errors: Mapping[str, str]) -> UserError:
    """Images that cannot be read, in a line."""
    told = f"{len(errors):,} images cannot be read: {listed(list(errors))}; replace or delete them"
    return UserError(next(iter(errors.values())) if len(errors) == 1 else told, "damaged")


Found = tuple[np.ndarray, dict[int, UserError]]  # of NOTED, and what was wrong by index


def _read(images: DecodedImages) -> Iterator[Found]:
    reader = _Reading(images)
    chunks = [images.index[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
    if not images.workers:
        yield from map(reader.__getitems__, chunks)
        return
    loader: Iterable[Found] = DataLoader(
        reader,
        batch_sampler=cast(Any, chunks),
        num_workers=images.workers,
        collate_fn=as_it_is,
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except RuntimeError as error:
        if (told := dead_loader(error)) is None:
            raise
        raise told from error


class _Reading(Dataset):
    """What a process has of the images: indices -> what it found."""

    def __init__(self, images: DecodedImages):
        self.images = copy.copy(images)
        self.images._loaders = None

    def __getitems__(self, indices: np.ndarray) -> Found:
        rows, failures = np.zeros(len(indices), NOTED), {}
        for place, index in enumerate(indices.tolist()):
            try:
                with self.images.opened(index) as image:
                    rows[place] = _noted(image, self.images)
            except UserError as error:
                failures[index] = error
        return rows, failures


def _noted(image: Image.Image | Tensor, images: DecodedImages) -> np.ndarray:
    row = np.zeros((), NOTED)
    row["read"] = True
    if isinstance(image, Tensor):
        row["height"], row["width"] = image.shape[1:]
        row["kind"] = b"floats"
        return row
    row["kind"], row["animated"] = image.mode.encode(), pictures.is_animated(image)
    row["turned"] = pictures.orientation(image) in pictures.TURN
    row["transparent"], row["grey_kind"] = image.has_transparency_data, pictures.is_grey(image)
    upright = images.upright(image)
    row["width"], row["height"] = pictures.size(upright)
    pixels = tensor(SMALL(upright)).numpy()  # decodes all of it, a JPEG file at an eighth of its size
    row["grey"], row["print"] = (pixels == pixels[:, :, :1]).all(), fingerprint(pixels)
    return row
