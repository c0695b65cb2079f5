"""Images that are decoded once: their pixels in memory, or in a file that is mapped batch by batch."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from supernet.data.decoding import DecodedImages, Draw, normalise
from supernet.data.images import ImageSet, Step
from supernet.files import write_atomically

SCHEMA = 1  # of the file's pixels: another number decodes them again
PROBES = 16  # images whose pixels tell a set from another, besides what its digest tells


class StoredImages(ImageSet):
    """Plain images whose pixels are kept. They are not augmented."""

    def __init__(self, images: DecodedImages, rows: Callable[[], np.ndarray]):
        """rows: gives [N, …] as ``DecodedImages.pixels`` has them, in the images' order; called for each batch."""
        super().__init__(images.labels, images.mean, images.std, images.resolution)
        self.index, self._rows, self._places = images.index, rows, np.arange(len(images))

    def take(self, positions: np.ndarray) -> StoredImages:
        """The set of these of this set's images; the pixels are shared, not copied."""
        taken: Any = super().take(positions)
        taken._places = self._places[positions]
        return taken

    def _serve(
        self, plan: Iterable[Step], mine: slice, seed: int, epoch: int, augment: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if augment:
            raise ValueError("stored images are plain ones: expected augment=False")
        for _, positions in plan:
            own = positions[mine]
            # Indexing copies; what was mapped is given up with the batch, as mapped pages count as resident.
            rows = torch.from_numpy(np.asarray(self._rows()[self._places[own]]))
            yield normalise(rows, self.mean, self.std), torch.from_numpy(self.labels[own])


def in_memory(images: ImageSet) -> ImageSet:
    """The images decoded now, their pixels kept in memory; those that are there already stay as they are."""
    if not isinstance(images, DecodedImages):
        return images
    rows = torch.cat(list(images.rows(128))).numpy()
    return StoredImages(images, lambda: rows)


def in_file(images: ImageSet, folder: Path) -> ImageSet:
    """The images decoded into a file of ``folder`` when they are first served, or found there; see ``PixelFile``.

    Those that are in memory stay there.
    """
    if not isinstance(images, DecodedImages) or not len(images):
        return images
    return StoredImages(images, PixelFile(images, folder))


@dataclass(frozen=True)
class PixelFile:
    """``validation-IDENTITY.npy``: pixels [N, …] as ``DecodedImages.pixels`` has them, in NumPy's format.

    The identity in its name tells what it was made of: the images' digest and resolution, the transform, and the pixels
    of a few images. A file of other images, one that was cut off, and what a killed process left are replaced.
    """

    images: DecodedImages
    folder: Path

    @functools.cached_property
    def path(self) -> Path:
        """The file of these images."""
        transform = self.images.transforms[0]
        probes = np.unique(np.linspace(0, len(self.images) - 1, PROBES).astype(int))
        pixels = self.images.decode(Draw(self.images.index[probes]))
        made_of = [SCHEMA, self.images.digest(), self.shape, repr(transform)]
        digest = hashlib.sha256(json.dumps(made_of).encode() + pixels.numpy().tobytes())
        return self.folder / f"validation-{digest.hexdigest()[:16]}.npy"

    @functools.cached_property
    def shape(self) -> list[int]:
        return [len(self.images), self.images.resolution, self.images.resolution, self.images.channels]

    def __call__(self) -> np.ndarray:
        """The file mapped into memory; made first where it is missing.

        Raises:
            UserError: an image cannot be read, or the file not be written.
        """
        try:
            return np.lib.format.open_memmap(self.path, mode="r")
        except (OSError, ValueError):  # missing, or cut off
            self._make()
            return np.lib.format.open_memmap(self.path, mode="r")

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".validation.lock"):  # processes that train networks of one run share it
            try:
                np.lib.format.open_memmap(self.path, mode="r")
                return  # another process has made it meanwhile
            except (OSError, ValueError):
                for old in (*self.folder.glob("validation-*.npy"), *self.folder.glob(".validation-*.npy.*")):
                    old.unlink()
            write_atomically(self.path, self._write)

    def _write(self, file: BinaryIO) -> None:
        for start, rows in enumerate(self.images.rows(128)):
            if start == 0:
                header = {"descr": rows.numpy().dtype.str, "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (len(self.images), *rows.shape[1:])})
            file.write(rows.numpy().data)
