"""Some images that stand for all: what is to be measured need not see every one."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from supernet.data import stored
from supernet.data.decoding import DecodedImages
from supernet.data.images import ImageSet, Step

IMAGES = 2048  # of an excerpt


class Excerpt(ImageSet):
    """Plain images out of ``whole``. A pass over them notes the seconds that the images left out would have taken.

    Attributes:
        left_out: these seconds, a number for each pass.
        decoding: seconds that decoding takes, of each image; None where that is done already, or not needed.
        file_bytes: of the file of all decoded images, if it is still to be made.
    """

    def __init__(self, images: ImageSet, whole: int, clock: Callable[[], float] = time.perf_counter):
        super().__init__(images.labels, images.mean, images.std, images.size)
        self.images, self.index, self.whole, self.clock = images, images.index, whole, clock
        self.left_out: list[float] = []
        self.decoding: float | None = None
        self.file_bytes = 0

    def take(self, positions: np.ndarray) -> Excerpt:
        """The set of these of this set's images."""
        taken: Any = super().take(positions)
        taken.images = self.images.take(positions)
        return taken

    def standing_for(self, whole: int) -> Excerpt:
        """Out of at most so many images."""
        taken: Any = copy.copy(self.subset(whole, seed=0))
        taken.whole = min(whole, self.whole)
        return taken

    def _serve(
        self, plan: Iterable[Step], mine: slice, seed: int, epoch: int, augment: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        began = self.clock()
        yield from self.images._serve(plan, mine, seed, epoch, augment)
        self.left_out.append((self.clock() - began) * (self.whole / len(self) - 1))


def of(images: ImageSet, folder: Path, aside: Path, clock: Callable[[], float] = time.perf_counter) -> Excerpt:
    """An excerpt of images that a run keeps decoded in ``folder``.

    Args:
        aside: a folder for the decoded images of the excerpt, if the run has none yet.

    Raises:
        UserError: an image cannot be read, or the file not be written.
    """
    if not isinstance(images, DecodedImages) or stored.PixelFile(images, folder).path.exists():
        return Excerpt(stored.in_file(images, folder).subset(IMAGES, seed=0), len(images), clock)
    some: Any = images.subset(IMAGES, seed=0)
    file, began = stored.PixelFile(some, aside).path, clock()
    new = not file.exists()
    found = Excerpt(stored.in_file(some, aside), len(images), clock)
    if new:  # else it is counted where it was made
        found.decoding = (clock() - began) / len(some)
        found.file_bytes = file.stat().st_size * len(images) // len(some)
    return found
