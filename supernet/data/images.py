"""Sets of labelled images served in batches whose randomness is stateless.

The order of an epoch is a function of (seed, epoch), the augmentation of its batch ``t`` of (seed, epoch, t),
or in a folder set of (seed, epoch, image). Nothing is remembered between calls: a run killed at any step
continues bit for bit with ``start=t``, without saved generators, without replay, with any number of workers.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from supernet.data import policies, seeding
from supernet.data.pictures import Fit
from supernet.data.policies import AutoAugment
from supernet.data.preparation import Preparation
from supernet.errors import UserError
from supernet.quantities import several
from supernet.size import Size

# What a random stream is for: the first part of its key.
SPLIT, SUBSET, ORDER, AUGMENT, CUTOUT, MIXING, OPERATIONS = range(7)
Balance = Literal["none", "loss", "sampling"]
Step = tuple[int, np.ndarray]  # the number of a global batch and the positions of its images


def stream_key(*key: int) -> int:
    """64 bits of a key, as ``generator`` takes one: what its random stream is seeded with."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def generator(*key: int) -> torch.Generator:
    """The random stream of a key: integers >= 0, the first one of those above."""
    return torch.Generator().manual_seed(stream_key(*key))


def proportional(labels: np.ndarray, total: int) -> np.ndarray:
    """Images of each class in a stratified draw of ``total``, by largest remainder: int64 [classes]."""
    size = np.bincount(labels)
    count, remainder = np.divmod(size * total, len(labels))
    count[np.argsort(-remainder, kind="stable")[: total - count.sum()]] += 1
    return count


def places(labels: np.ndarray, stream: torch.Generator) -> np.ndarray:
    """The place of each image in a random order of its class: int64 [N], from 0 in every class."""
    size = np.bincount(labels)
    order = torch.randperm(len(labels), generator=stream).numpy()
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within each
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(np.cumsum(size) - size, size)
    return place


def stratified(labels: np.ndarray, count: np.ndarray, stream: torch.Generator) -> np.ndarray:
    """A random draw of ``count[c]`` images of every class ``c``.

    Args:
        labels: int64 [N].
        count: int64 [classes], none above the size of its class.

    Returns:
        Sorted positions, int64 [count.sum()].
    """
    return np.flatnonzero(places(labels, stream) < count[labels])


def evenly(labels: np.ndarray, stream: torch.Generator) -> np.ndarray:
    """A random order of N positions in which classes are as frequent as each other, to one.

    Of a class with fewer images than its share each comes equally often, to one; of the others some are left out.
    """
    size = np.bincount(labels)
    classes = np.flatnonzero(size)
    share, extra = divmod(len(labels), len(classes))
    shares = share + (torch.randperm(len(classes), generator=stream).numpy() < extra)
    drawn = []
    for label, wanted in zip(classes, shares, strict=True):
        members = np.flatnonzero(labels == label)
        times, rest = divmod(int(wanted), len(members))
        some = torch.randperm(len(members), generator=stream).numpy()[:rest]
        drawn += [np.tile(members, times), members[some]]
    return np.concatenate(drawn)[torch.randperm(len(labels), generator=stream).numpy()]


class ImageSet(ABC):
    """N labelled images [channels, height, width], in memory or in a folder.

    Attributes:
        labels: int64 [N].
        index: int64 [N], each image's position in the part of the data set (train or test) it was taken from.
        mean, std: what normalises each channel, for pixels in [0, 1].
        balance: how training makes up for classes of few images: by weights in its loss, by drawing them more often in
            an epoch, or not.
        auto_augment: random operations that end the augmentation.
    """

    balance: Balance = "none"
    auto_augment: AutoAugment = "none"

    def __init__(self, labels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...], size: Size):
        self.labels, self.mean, self.std, self.size = labels, mean, std, size
        self.index, self.channels, self.cutout = np.arange(len(labels)), len(mean), 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fit(self) -> Fit | None:
        """How the plain images come from pictures; None where they do not."""
        return Fit(self.size, self.size, "L" if self.channels == 1 else "RGB")

    @property
    def preparation(self) -> Preparation:
        """From pictures to the values that are served."""
        return Preparation(self.fit, self.mean, self.std)

    def take(self, positions: np.ndarray) -> ImageSet:
        """The set of these of this set's images; the image data are shared, not copied."""
        taken = copy.copy(self)
        taken.labels, taken.index = self.labels[positions], self.index[positions]
        return taken

    def without(self, other: ImageSet) -> ImageSet:
        """Those of this set's images that are not in another one taken from the same."""
        return self.take(np.flatnonzero(~np.isin(self.index, other.index)))

    def together(self, other: ImageSet) -> ImageSet:
        """This set and another one of the same images, in the order of these."""
        both = copy.copy(self)
        index, labels = (np.concatenate([getattr(s, name) for s in (self, other)]) for name in ("index", "labels"))
        order = np.argsort(index, kind="stable")
        both.index, both.labels = index[order], labels[order]
        return both

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

    def balanced(self, balance: Balance) -> ImageSet:
        """The same set, balanced otherwise in training."""
        other = copy.copy(self)
        other.balance = balance
        return other

    def class_weights(self) -> Tensor | None:
        """Of each class in the loss, inversely proportional to its images and 1 on average over these: float32
        [classes]; None where the loss is not to be weighted.
        """
        if self.balance != "loss":
            return None
        size = np.bincount(self.labels)
        weights = len(self.labels) / (np.count_nonzero(size) * np.maximum(size, 1))
        return torch.from_numpy(weights.astype(np.float32))

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> ImageSet:
        """The same images, normalised by these values of each channel; itself where it is by them.

        Raises:
            UserError: of another number of channels.
        """
        values = tuple(mean), tuple(std)
        if values == (self.mean, self.std):
            return self
        if {len(of) for of in values} != {self.channels}:
            channels = several(self.channels, "channel")
            raise UserError(f"images of {channels} are normalised by {len(mean)} means and {len(std)} deviations")
        other = copy.copy(self)
        other.mean, other.std = values
        return other

    def with_cutout(self, side: int) -> ImageSet:
        """The same set whose augmentation also blanks a square of ``side`` pixels around a random pixel (Cutout).

        Blank is the mean colour. Near the border a part of the square lies outside of the image.
        """
        other = copy.copy(self)
        other.cutout = side
        return other

    def with_auto_augment(self, policy: AutoAugment) -> ImageSet:
        """The same set whose augmentation ends with the random operations of a policy; itself where it has that."""
        if policy == self.auto_augment:
            return self
        other = copy.copy(self)
        other.auto_augment = policy
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
                f"a batch of {batch_size * world} images needs a set of at least as many, this one has {rest}: "
                "lower the batch size"
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
        """The shuffled batches of an epoch from step ``start`` on; every image once, unless ``balance`` is by sampling.

        A global batch holds ``batch_size * world`` images and is the same for every ``world`` that gives that
        product; rank r gets its images r, r + world, … Of a short last one some ranks may get fewer, or none.

        Args:
            batch_size: images for this process.
            augment: random crops and the like, else the plain image.
            drop_last: leave out the short last batch.

        Yields:
            x: float32 [B, channels, height, width], normalised, channels_last. y: int64 [B].

        Raises:
            UserError: a batch size as in ``steps``, or an image that cannot be read.
            ValueError: start or rank out of range.
        """
        steps = self.steps(batch_size, drop_last, world)
        if not (0 <= start <= steps and 0 <= rank < world):
            raise ValueError(f"expected start in [0, {steps}] and rank in [0, {world}), got {start} and {rank}")
        drawn = generator(ORDER, seed, epoch)
        if self.balance == "sampling":
            order = evenly(self.labels, drawn)
        else:
            order = torch.randperm(len(self), generator=drawn).numpy()
        size = batch_size * world
        plan = ((t, order[t * size : (t + 1) * size]) for t in range(start, steps))
        mine = slice(rank, None, world)
        served = self._serve(plan, mine, seed, epoch, augment)
        if not (augment and self.cutout):
            return served

        def stream(t: int) -> torch.Generator:
            return generator(CUTOUT, seed, epoch, t)

        def centre(t: int) -> Tensor:
            drawn = stream(t)
            return torch.stack([torch.randint(side, (size,), generator=drawn) for side in self.size])[:, mine]

        return ((_cut_out(x, self.cutout, centre(t)), y) for t, (x, y) in enumerate(served, start))

    def plain_batches(self, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, not augmented, in batches that are always the same: to evaluate on; a rank's share."""
        once = self.balanced("none")
        return once.batches(batch_size, seed=0, epoch=0, augment=False, drop_last=False, rank=rank, world=world)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, not augmented, in the order of ``labels``: x and y as in ``batches``."""
        positions = np.arange(len(self))
        plan = ((t, positions[t * batch_size : (t + 1) * batch_size]) for t in range(self.steps(batch_size, False)))
        return self._serve(plan, slice(None), 0, 0, False)


@dataclass(frozen=True)
class Batches:
    """``plain_batches`` as often as it is iterated over: images and labels."""

    images: ImageSet
    size: int

    def __len__(self) -> int:
        return self.images.steps(self.size, drop_last=False)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.images.plain_batches(self.size)


@dataclass(frozen=True)
class Inputs:
    """The images alone of ``plain_batches``, as often as it is iterated over."""

    batches: Batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return (x for x, _ in self.batches)


def _cut_out(x: Tensor, side: int, centre: Tensor) -> Tensor:
    """Blank a square in each image, in place. centre: int64 [2, B or more], down and right."""
    begins = centre[:, : len(x), None] - side // 2
    pixels = map(torch.arange, x.shape[2:])
    down, right = ((pixel >= c) & (pixel < c + side) for pixel, c in zip(pixels, begins, strict=True))
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
        """images: uint8 [N, height, width, channels]."""
        size = Size(*images.shape[1:3])
        super().__init__(labels, mean, std, size)
        self.margin, self.mirror = margin, mirror
        padded = torch.nn.functional.pad(images, (0, 0, margin, margin, margin, margin))
        # A view [N, offsets down, offsets right, height, width, channels] of every crop of every image.
        self._crops = padded.unfold(1, size.height, 1).unfold(2, size.width, 1).permute(0, 1, 2, 4, 5, 3)

    def _serve(
        self, plan: Iterable[Step], mine: slice, seed: int, epoch: int, augment: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # Repeated for a whole image: broadcasting over three channels alone is five times slower.
        means, stds = (torch.tensor(values).mul(255).repeat(self.size.pixels) for values in (self.mean, self.std))
        for t, positions in plan:
            down = right = torch.full((len(positions),), self.margin)
            mirrored = torch.zeros(len(positions), dtype=torch.bool)
            if augment:  # drawn for the global batch, so that it does not depend on the number of processes
                stream = generator(AUGMENT, seed, epoch, t)
                down, right = torch.randint(2 * self.margin + 1, (2, len(positions)), generator=stream)
                if self.mirror:
                    mirrored = torch.rand(len(positions), generator=stream) < 0.5
            positions, down, right, mirrored = positions[mine], down[mine], right[mine], mirrored[mine]

            # uint8 [B, height, width, channels]
            images = self._crops[torch.from_numpy(self.index[positions]), down, right]
            if mirrored.any():
                # Choosing among both versions copies whole images: four times faster than torch.where.
                choice = torch.arange(len(images)) + len(images) * mirrored
                images = torch.cat([images, images.flip(2)]).index_select(0, choice)
            if augment and self.auto_augment != "none":
                images = self._operated_on(images, [(seed, epoch, int(place)) for place in positions])
            x = images.float()
            x.view(-1, len(means)).sub_(means).div_(stds)
            yield x.permute(0, 3, 1, 2), torch.from_numpy(self.labels[positions])

    def _operated_on(self, images: Tensor, keys: list[tuple[int, int, int]]) -> Tensor:
        """The images after the random operations of their policy, each by its own key: uint8 [B, H, W, channels]."""
        operate, done = policies.transform(self.auto_augment, self.channels), []
        with seeding.kept():
            for image, key in zip(images.numpy(), keys, strict=True):
                seeding.seed(stream_key(OPERATIONS, *key))
                done.append(np.asarray(operate(Image.fromarray(image.squeeze(2) if self.channels == 1 else image))))
        return torch.from_numpy(np.stack(done)).reshape(images.shape)
