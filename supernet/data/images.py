"""Sets of labelled images served in batches whose randomness is stateless.

The order of an epoch is a function of (seed, epoch), the augmentation of its batch ``t`` of (seed, epoch, t),
or in a folder set of (seed, epoch, image). Nothing is remembered between calls: a run killed at any step
continues bit for bit with ``start=t``, without saved generators, without replay, with any number of workers.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from supernet.errors import UserError

SPLIT, SUBSET, ORDER, AUGMENT, CUTOUT = range(5)  # what a random stream is for: the first part of its key
WHOLE_BYTES = 2**30  # tensors() keeps a set of at most this size
Transform = Callable[[Any], Tensor]
Step = tuple[int, np.ndarray]  # the number of a global batch and the positions of its images


def _key(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def generator(*key: int) -> torch.Generator:
    """The random stream of a key: integers >= 0, the first one of SPLIT, SUBSET, ORDER, AUGMENT, CUTOUT."""
    return torch.Generator().manual_seed(_key(*key))


def proportional(labels: np.ndarray, total: int) -> np.ndarray:
    """Images of each class in a stratified draw of ``total``, by largest remainder: int64 [classes]."""
    size = np.bincount(labels)
    count, remainder = np.divmod(size * total, len(labels))
    count[np.argsort(-remainder, kind="stable")[: total - count.sum()]] += 1
    return count


def stratified(labels: np.ndarray, count: np.ndarray, stream: torch.Generator) -> np.ndarray:
    """A random draw of ``count[c]`` images of every class ``c``.

    Args:
        labels: int64 [N].
        count: int64 [classes], none above the size of its class.

    Returns:
        Sorted positions, int64 [count.sum()].
    """
    size = np.bincount(labels, minlength=len(count))
    order = torch.randperm(len(labels), generator=stream).numpy()
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within each
    place = np.arange(len(labels)) - np.repeat(np.cumsum(size) - size, size)  # within its class
    return np.sort(order[place < np.repeat(count, size)])


class ImageSet(ABC):
    """N labelled images [channels, resolution, resolution], in memory or in a folder.

    Attributes:
        labels: int64 [N].
        index: int64 [N], each image's position in the part of the data set (train or test) it was taken from.
        mean, std: what normalises each channel, for pixels in [0, 1].
    """

    def __init__(self, labels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...], resolution: int):
        self.labels, self.mean, self.std, self.resolution = labels, mean, std, resolution
        self.index, self.channels, self.cutout = np.arange(len(labels)), len(mean), 0
        self._whole: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray) -> ImageSet:
        """The set of these of this set's images; the image data are shared, not copied."""
        taken = copy.copy(self)
        taken.labels, taken.index, taken._whole = self.labels[positions], self.index[positions], None
        return taken

    def digest(self) -> str:
        """16 hex digits that name the images by what is quick to read: here their labels, in order."""
        return hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()[:16]

    @abstractmethod
    def _serve(
        self, plan: Iterable[Step], mine: slice, seed: int, epoch: int, augment: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each global batch of the plan the images and labels of its slice ``mine``."""

    def subset(self, n: int, seed: int) -> ImageSet:
        """A stratified draw of at most ``n`` images; all of them where there are no more.

        Raises:
            UserError: n is below 1.
        """
        if n < 1:
            raise UserError(f"expected a subset of at least 1 image, got {n}; ask for more")
        if n >= len(self):
            return self
        return self.take(stratified(self.labels, proportional(self.labels, n), generator(SUBSET, seed)))

    def with_cutout(self, side: int) -> ImageSet:
        """The same set whose augmentation also blanks a square of ``side`` pixels around a random pixel (Cutout).

        Blank is the mean colour. Near the border a part of the square lies outside of the image.
        """
        other = copy.copy(self)
        other.cutout = side
        return other

    def steps(self, batch_size: int, drop_last: bool, world: int = 1) -> int:
        """Batches in an epoch, for each of ``world`` processes with ``batch_size`` images each.

        Raises:
            UserError: the batch size is below 1; or, with drop_last, above the number of images.
        """
        if batch_size < 1:
            raise UserError(f"expected a batch size of at least 1, got {batch_size}")
        full, rest = divmod(len(self), batch_size * world)
        if drop_last and full == 0 and rest:
            raise UserError(
                f"a batch of {batch_size} images for each of {world} processes needs {batch_size * world}, "
                f"but the set has {rest}; lower the batch size"
            )
        return full if drop_last or not rest else full + 1

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        start: int = 0,
        augment: bool,
        drop_last: bool,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The shuffled batches of an epoch from step ``start`` on.

        A global batch holds ``batch_size * world`` images and is the same for every ``world`` that gives that
        product; rank r gets its images r, r + world, … Of a short last one some ranks may get fewer, or none.

        Args:
            batch_size: images for this process.
            augment: random crops and the like, else the plain image.
            drop_last: leave out the short last batch.

        Yields:
            x: float32 [B, channels, resolution, resolution], normalised, channels_last. y: int64 [B].

        Raises:
            UserError: a batch size as in ``steps``, or an image that cannot be read.
            ValueError: start or rank out of range.
        """
        steps = self.steps(batch_size, drop_last, world)
        if not (0 <= start <= steps and 0 <= rank < world):
            raise ValueError(f"expected start in [0, {steps}] and rank in [0, {world}), got {start} and {rank}")
        order = torch.randperm(len(self), generator=generator(ORDER, seed, epoch)).numpy()
        size = batch_size * world
        plan = ((t, order[t * size : (t + 1) * size]) for t in range(start, steps))
        mine = slice(rank, None, world)
        served = self._serve(plan, mine, seed, epoch, augment)
        if not (augment and self.cutout):
            return served

        def stream(t: int) -> torch.Generator:
            return generator(CUTOUT, seed, epoch, t)

        return (
            (_cut_out(x, self.cutout, torch.randint(self.resolution, (2, size), generator=stream(t))[:, mine]), y)
            for t, (x, y) in enumerate(served, start)
        )

    def plain_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, not augmented, in batches that are always the same: to evaluate on."""
        return self.batches(batch_size, seed=0, epoch=0, augment=False, drop_last=False)

    def tensors(self) -> tuple[Tensor, Tensor] | None:
        """All images without augmentation, in the order of ``labels``: x and y as in ``batches``, kept.

        None where x would take more than 1 GiB: serve such a set with ``batches``.
        """
        if 4 * len(self) * self.channels * self.resolution**2 > WHOLE_BYTES:
            return None
        if self._whole is None:
            chunks = np.array_split(np.arange(len(self)), max(1, len(self) // 256))
            xs, ys = zip(*self._serve(enumerate(chunks), slice(None), 0, 0, False), strict=True)
            self._whole = torch.cat(xs).contiguous(memory_format=torch.channels_last), torch.cat(ys)
        return self._whole


def _cut_out(x: Tensor, side: int, centre: Tensor) -> Tensor:
    """Blank a square in each image, in place. centre: int64 [2, B or more], down and right."""
    pixel = torch.arange(x.shape[-1])
    down, right = ((pixel >= c) & (pixel < c + side) for c in centre[:, : len(x), None] - side // 2)
    return x.masked_fill_((down[:, :, None] & right[:, None, :])[:, None], 0.0)


class MemoryImages(ImageSet):
    """Images kept as bytes, with a black margin so that a random crop is one indexing operation.

    Augmentation: a crop at a random offset of up to ``margin`` pixels and, with ``mirror``, a horizontal flip
    of half the images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        margin: int,
        mirror: bool,
    ):
        """images: uint8 [N, side, side, channels]."""
        side = images.shape[1]
        super().__init__(labels, mean, std, side)
        self.margin, self.mirror = margin, mirror
        padded = torch.nn.functional.pad(images, (0, 0, margin, margin, margin, margin))
        # A view [N, offsets down, offsets right, side, side, channels] of every crop of every image.
        self._crops = padded.unfold(1, side, 1).unfold(2, side, 1).permute(0, 1, 2, 4, 5, 3)
        # Repeated for a whole image: broadcasting over three channels alone is five times slower.
        self._mean = torch.tensor(mean).mul(255).repeat(side * side)
        self._std = torch.tensor(std).mul(255).repeat(side * side)

    def _serve(
        self, plan: Iterable[Step], mine: slice, seed: int, epoch: int, augment: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for t, positions in plan:
            down = right = torch.full((len(positions),), self.margin)
            mirrored = torch.zeros(len(positions), dtype=torch.bool)
            if augment:  # drawn for the global batch, so that it does not depend on the number of processes
                stream = generator(AUGMENT, seed, epoch, t)
                down, right = torch.randint(2 * self.margin + 1, (2, len(positions)), generator=stream)
                if self.mirror:
                    mirrored = torch.rand(len(positions), generator=stream) < 0.5
            positions, down, right, mirrored = positions[mine], down[mine], right[mine], mirrored[mine]

            # uint8 [B, side, side, channels]
            images = self._crops[torch.from_numpy(self.index[positions]), down, right]
            if mirrored.any():
                # Choosing among both versions copies whole images: four times faster than torch.where.
                choice = torch.arange(len(images)) + len(images) * mirrored
                images = torch.cat([images, images.flip(2)]).index_select(0, choice)
            x = images.float()
            x.view(-1, len(self._mean)).sub_(self._mean).div_(self._std)
            yield x.permute(0, 3, 1, 2), torch.from_numpy(self.labels[positions])


class DecodedImages(ImageSet):
    """Images decoded one by one when they are served, by ``workers`` processes or in this one."""

    def __init__(
        self,
        labels: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        resolution: int,
        transforms: tuple[Transform, Transform],
        workers: int,
    ):
        """transforms: the plain and the augmenting one, from what ``decode`` gives to [channels, side, side]."""
        super().__init__(labels, mean, std, resolution)
        self.transforms, self.workers = transforms, workers

    @abstractmethod
    def decode(self, position: int) -> Any:
        """What the transforms take; a UserError where the image cannot be had."""

    def _serve(
        self, plan: Iterable[Step], mine: slice, seed: int, epoch: int, augment: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # A loader of its own for every call: workers that outlive an epoch would be shared by an epoch under
        # way and, say, a recalibration on the same images in between.
        loader = DataLoader(
            _Decoded(self, seed, epoch, augment),
            batch_sampler=(positions[mine].tolist() for _, positions in plan),
            num_workers=self.workers,
            collate_fn=functools.partial(_collate, (self.channels, self.resolution, self.resolution)),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it draws from the global one
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


class FolderImages(DecodedImages):
    """Image files.

    The names are one array of bytes: a list of a million strings would be copied into every worker, page by
    page, as their reference counts change.
    """

    def __init__(
        self,
        folder: Path,
        names: np.ndarray,
        labels: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        resolution: int,
        transforms: tuple[Transform, Transform],
        workers: int,
    ):
        """names: bytes [N], relative to the folder."""
        super().__init__(labels, mean, std, resolution, transforms, workers)
        self.folder, self._names = folder, names

    @property
    def names(self) -> np.ndarray:
        """Of the files: bytes [N], relative to the folder."""
        return self._names[self.index]

    def digest(self) -> str:
        """By the names and sizes of the files, and by the labels."""
        folder, names = os.fsencode(self.folder), self.names.tolist()
        sizes = np.fromiter((os.stat(os.path.join(folder, name)).st_size for name in names), "<i8", len(self))
        content = (super().digest().encode(), sizes.tobytes(), *names)
        return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]

    def decode(self, position: int) -> Image.Image:
        path = self.folder / os.fsdecode(self._names[self.index[position]])
        try:
            with Image.open(path) as file:
                return file.convert("RGB")
        except Exception as error:  # the decoders raise whatever damaged bytes lead to, and every one has its own ways
            raise UserError(
                f"expected an image in {path}, but it cannot be read ({error}); replace or delete it"
            ) from error


class _Decoded(Dataset):
    """What a worker gets of the images: position -> (x, label), or the UserError that came instead."""

    def __init__(self, images: DecodedImages, seed: int, epoch: int, augment: bool):
        self.images = copy.copy(images)
        self.images._whole = None  # not for other processes
        self.transform = images.transforms[augment]
        self.key = (AUGMENT, seed, epoch) if augment else None

    def __getitem__(self, position: int) -> tuple[Tensor, int] | UserError:
        try:
            image = self.images.decode(position)
        except UserError as error:  # returned: a worker's exception would reach the user as a page of two tracebacks
            return error
        index, label = int(self.images.index[position]), int(self.images.labels[position])
        with _seeded(_key(*self.key, index)) if self.key else contextlib.nullcontext():
            return self.transform(image), label


def _collate(
    shape: tuple[int, int, int], samples: list[tuple[Tensor, int] | UserError]
) -> tuple[Tensor, Tensor] | UserError:
    pairs = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        pairs.append(sample)
    x = torch.stack([x for x, _ in pairs]) if pairs else torch.empty(0, *shape)
    y = torch.tensor([y for _, y in pairs], dtype=torch.int64)
    return x.contiguous(memory_format=torch.channels_last), y


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators, from which timm's transforms draw, and puts them back afterwards."""
    saved = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        torch.default_generator.set_state(saved[2])
