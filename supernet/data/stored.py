"""Images that are decoded once: their pixels in memory, or in a file that is mapped batch by batch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import zlib
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
from supernet.data.pictures import Fit
from supernet.files import write_atomically
from supernet.progress import Progress, silent

SCHEMA = 2  # of the file: another number decodes them again
PROBES = 16  # images whose pixels tell a set from another, besides what its digest tells


class StoredImages(ImageSet):
    """Plain images whose pixels are kept. They are not augmented."""

    def __init__(self, images: DecodedImages, rows: Callable[[np.ndarray], np.ndarray]):
        """rows: [B, …] as ``DecodedImages.pixels`` has them, of images by their places in ``images``."""
        super().__init__(images.labels, images.mean, images.std, images.size)
        self.index, self._rows, self._places, self._fit = images.index, rows, np.arange(len(images)), images.fit

    @property
    def fit(self) -> Fit | None:
        return self._fit

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
            rows = torch.from_numpy(self._rows(self._places[own]))
            yield normalise(rows, self.mean, self.std), torch.from_numpy(self.labels[own])


def in_memory(images: ImageSet) -> ImageSet:
    """The images decoded now, their pixels kept in memory; those that are there already stay as they are."""
    if not isinstance(images, DecodedImages):
        return images
    rows = torch.cat(list(images.rows(128))).numpy()
    return StoredImages(images, rows.__getitem__)


def in_file(images: ImageSet, folder: Path, progress: Progress = silent) -> ImageSet:
    """The images decoded into a file of ``folder``, or found there; see ``PixelFile``. Those in memory stay there.

    Raises:
        UserError: an image cannot be read, or the file not be written.
    """
    if not isinstance(images, DecodedImages) or not len(images):
        return images
    file = PixelFile(images, folder)
    file.open(progress)
    return StoredImages(images, file)


@dataclass(frozen=True)
class PixelFile:
    """``validation-IDENTITY.npy`` of NumPy: each image's pixels, as in ``DecodedImages.pixels``, and their CRC-32.

    The identity in its name tells what it was made of: the images' digest and size, the transform, and the pixels
    of a few images. A file of other images, one that was damaged, and what a killed process left are replaced.
    """

    images: DecodedImages
    folder: Path

    @functools.cached_property
    def path(self) -> Path:
        """The file of these images."""
        transform = self.images.transforms[0]
        probes = np.unique(np.linspace(0, len(self.images) - 1, PROBES).astype(int))
        pixels = self.images.decoded(Draw(self.images.index[probes]))
        made_of = [SCHEMA, self.images.digest(), [len(self.images), *pixels.shape[1:]], repr(transform)]
        digest = hashlib.sha256(json.dumps(made_of).encode() + pixels.numpy().tobytes())
        return self.folder / f"validation-{digest.hexdigest()[:16]}.npy"

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Pixels [B, …] of the images at ``places``.

        Raises:
            UserError: the file has to be made again, and an image cannot be read, or the file not be written.
        """
        # Indexing copies; what was mapped is given up with the batch, as mapped pages count as resident.
        rows = self.open()[places]
        if any(zlib.crc32(pixels) != crc for pixels, crc in zip(rows["pixels"], rows["crc"], strict=True)):
            self.path.unlink(missing_ok=True)
            rows = self.open()[places]
        return np.ascontiguousarray(rows["pixels"])

    def open(self, progress: Progress = silent) -> np.ndarray:
        """The file mapped into memory; made first where it is missing or was cut off."""
        with contextlib.suppress(OSError, ValueError):
            return self._mapped()
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".validation.lock"):  # processes that train networks of one run share it
            with contextlib.suppress(OSError, ValueError):
                return self._mapped()  # another process has made it meanwhile
            for old in (*self.folder.glob("validation-*.npy"), *self.folder.glob(".validation-*.npy.*")):
                old.unlink()
            write_atomically(self.path, functools.partial(self._write, progress))
        return self._mapped()

    def _mapped(self) -> np.ndarray:
        return np.lib.format.open_memmap(self.path, mode="r")

    def _write(self, progress: Progress, file: BinaryIO) -> None:
        with progress("decoding validation images", len(self.images), unit="images") as bar:
            for start, batch in enumerate(self.images.rows(128)):
                pixels = batch.numpy()
                rows = np.empty(len(pixels), [("pixels", pixels.dtype, pixels.shape[1:]), ("crc", "<u4")])
                rows["pixels"], rows["crc"] = pixels, [zlib.crc32(image) for image in pixels]
                if start == 0:
                    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False}
                    np.lib.format.write_array_header_1_0(file, {**header, "shape": (len(self.images),)})
                file.write(rows.view(np.uint8).data)
                bar.advance(len(rows))
