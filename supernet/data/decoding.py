"""Image sets whose images are decoded when they are served, by processes that outlive an epoch or by this one.

A process is told what to decode by the plan of an epoch: indices, and the seed and epoch that augmentation is a
function of. It remembers nothing, so all sets taken from the same images share the processes; two epochs that are under
way at once have processes of their own.
"""

from __future__ import annotations

import contextlib
import copy
from abc import abstractmethod
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from supernet.data import pictures, policies, seeding
from supernet.data.damaged import Damaged
from supernet.data.images import AUGMENT, ImageSet, Step, stream_key
from supernet.data.pictures import Fit
from supernet.data.policies import AutoAugment, Then, Transform
from supernet.errors import UserError
from supernet.size import Size

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 2**18  # values that are normalised at once: they stay in the cache of a core


class Draw(NamedTuple):
    """What to decode for a batch."""

    indices: np.ndarray  # within the part of the data set: int64 [B]
    stream: tuple[int, int] | None = None  # seed and epoch of the augmentation; None: the plain images
    instead_of: np.ndarray | None = None  # the images in whose places they are, whose augmentation they get

    def items(self) -> Iterator[tuple[int, int]]:
        """Each image, and the one in whose place it is."""
        places = self.indices if self.instead_of is None else self.instead_of
        return zip(self.indices.tolist(), places.tolist(), strict=True)


class Decoded(NamedTuple):
    """A batch as it was decoded: the images that could be read, and what was wrong with the others, by their places."""

    rows: Tensor  # as ``DecodedImages.pixels`` gives them
    failures: dict[int, UserError]


class DecodedImages(ImageSet):
    """Images decoded one by one when they are served.

    Processes hand over bytes, a quarter of what float32 takes; this process normalises them.

    Attributes:
        part: of the data set, for names: ``train`` or ``val``.
        in_files: whether reading each once, to see whether that works, is cheap and without effects.
        damaged: what is done about images that cannot be read.
        bad: those known, by their indices in the part. Sets taken from the same images share both.
    """

    part, in_files = "train", True
    upright = staticmethod(pictures.lazily)  # what a picture passes before a transform

    def __init__(
        self,
        labels: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: Size,
        transforms: tuple[Transform, Transform],
        workers: int,
    ):
        """transforms: the plain and the augmenting one. workers: processes that decode; 0 decodes in this one."""
        super().__init__(labels, mean, std, size)
        if workers < 0:
            raise UserError(f"expected a number of processes that decode images, or 0, got {workers}")
        self.transforms, self.damaged, self.bad = transforms, Damaged(), set[int]()
        self.workers = workers
        self._loaders = Loaders(self, workers) if workers else None

    @property
    def fit(self) -> Fit | None:
        plain = self.transforms[0]
        return plain if isinstance(plain, Fit) else None

    @abstractmethod
    def opened(self, index: int) -> contextlib.AbstractContextManager[Image.Image | Tensor]:
        """An image by its index in the part, as it comes and perhaps not decoded yet; or a float tensor [C, H, W].

        What goes wrong inside of the context becomes a UserError that names the image.
        """

    def pixels(self, index: int, transform: Transform) -> Tensor:
        """An image by its index in the part of the data set, after the transform.

        Returns:
            uint8 [height, width, channels]; or float32 [channels, height, width], which is served as it is.

        Raises:
            UserError: the image cannot be had.
        """
        with self.opened(index) as image:
            return image if isinstance(image, Tensor) else tensor(transform(self.upright(image)))

    def with_auto_augment(self, policy: AutoAugment) -> ImageSet:
        """The same set; processes of its own decode it. Float images are served as they are."""
        other = super().with_auto_augment(policy)
        if other is not self and isinstance(other, DecodedImages):
            return other.augmented_by(Then(self.transforms[1], policies.transform(policy, self.channels)))
        return other

    def augmented_by(self, augmenting: Transform) -> Self:
        """The same set with another augmentation; processes of its own decode it."""
        other = copy.copy(self)
        other.transforms = self.transforms[0], augmenting
        other._loaders = Loaders(other, self.workers) if self.workers else None
        return other

    def name(self, index: int) -> str:
        """Of an image, by its index in the part, within the data set."""
        return f"{self.part}/{index}"

    def leave_out(self, names: Container[str]) -> None:
        """Serve other images in the places of these."""
        self.bad |= {index for index in range(len(self.index)) if self.name(index) in names}

    def readable(self) -> np.ndarray:
        """Places in ``labels`` of the images that are not known to be bad: int64."""
        return np.flatnonzero(~np.isin(self.index, list(self.bad)))

    def decode(self, draw: Draw) -> Decoded:
        """A batch in this process."""
        rows, failures = [], {}
        with seeding.kept() if draw.stream else contextlib.nullcontext():
            for place, (index, instead_of) in enumerate(draw.items()):
                if draw.stream:
                    seeding.seed(stream_key(AUGMENT, *draw.stream, instead_of))
                try:
                    rows.append(self.pixels(index, self.transforms[draw.stream is not None]))
                except UserError as error:
                    failures[place] = error
        # In a process that decodes, ``default_collate`` writes to shared memory at once.
        empty = torch.empty(0, *self.size, self.channels, dtype=torch.uint8)
        return Decoded(default_collate(rows) if rows else empty, failures)

    def decoded(self, draw: Draw) -> Tensor:
        """A batch in this process, as ``pixels`` gives it: [B, …]; with others for images that cannot be read."""
        draw = self._readable(draw)
        return self._whole(draw, self.decode(draw))

    def rows(self, batch_size: int) -> Iterator[Tensor]:
        """Every plain image in the order of ``labels``, as ``pixels`` gives it: [B, …]."""
        return self._decode([Draw(self.index[i : i + batch_size]) for i in range(0, len(self), batch_size)])

    def _serve(
        self, plan: Iterable[Step], mine: slice, seed: int, epoch: int, augment: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        batches = [positions[mine] for _, positions in plan]
        decoded = self._decode([Draw(self.index[own], (seed, epoch) if augment else None) for own in batches])
        for own, rows in zip(batches, decoded, strict=True):
            yield normalise(rows, self.mean, self.std), torch.from_numpy(self.labels[own])

    def _decode(self, draws: Sequence[Draw]) -> Iterator[Tensor]:
        draws = [self._readable(draw) for draw in draws]
        decoded = map(self.decode, draws) if self._loaders is None else self._loaders.decode(draws)
        return map(self._whole, draws, decoded)

    def _readable(self, draw: Draw) -> Draw:
        """The same with others in the places of images that are known to be bad."""
        if not self.bad or not np.isin(draw.indices, list(self.bad)).any():
            return draw
        indices = [self._next(index) if index in self.bad else index for index in draw.indices.tolist()]
        return Draw(np.array(indices), draw.stream, draw.indices)

    def _whole(self, draw: Draw, decoded: Decoded) -> Tensor:
        """The rows of a batch, with others in the places of those that could not be read."""
        if not decoded.failures:
            return decoded.rows
        rows, whole = iter(decoded.rows), []
        for place, (index, instead_of) in enumerate(draw.items()):
            failure = decoded.failures.get(place)
            whole.append(next(rows) if failure is None else self._other(index, instead_of, draw.stream, failure))
        return torch.stack(whole)

    def _other(self, index: int, instead_of: int, stream: tuple[int, int] | None, failure: UserError) -> Tensor:
        """The next image of the class that can be read; a UserError where none is to be taken."""
        while True:
            self.damaged.found(self.name(index), failure)
            self.bad.add(index)
            index = self._next(index)
            found = self.decode(Draw(np.array([index]), stream, np.array([instead_of])))
            if not found.failures:
                return found.rows[0]
            failure = found.failures[0]

    def _next(self, index: int) -> int:
        """The next image of the same class in this set that is not known to be bad."""
        label = self.labels[np.flatnonzero(self.index == index)[0]]
        members = self.index[self.labels == label]
        members = np.concatenate([members[members > index], members[members < index]])
        found = members[~np.isin(members, list(self.bad))]
        if not len(found):
            raise UserError(f"no image of the class of {self.name(index)} can be read: add images, or leave it out")
        return int(found[0])


class Loaders:
    """Processes that decode images, kept from one epoch to the next."""

    def __init__(self, images: DecodedImages, workers: int):
        own = copy.copy(images)
        own._loaders = None  # not for other processes
        self.images, self.workers = _Decoding(own), workers
        self.idle: list[tuple[_Plan, DataLoader]] = []

    def __getstate__(self) -> dict:
        """Who gets a copy starts processes of its own."""
        return {**vars(self), "idle": []}

    def decode(self, draws: Sequence[Draw]) -> Iterator[Decoded]:
        """The batches of the draws, in order; ended early, the processes take what is next all the same."""
        kept = plan, loader = self.idle.pop() if self.idle else self._start()
        plan.draws = draws
        try:
            yield from loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            failure = str(error).splitlines()[0]
        except GeneratorExit:
            self.idle.append(kept)
            raise
        else:
            self.idle.append(kept)
            return
        # Raised out here, where nothing refers to the loader: as long as it lives, PyTorch tells of its dead process
        # again whenever another one ends.
        del loader, kept
        raise UserError(
            f"a process that decodes images has ended ({failure}): free some memory, or use fewer than {self.workers}"
        )

    def _start(self) -> tuple[_Plan, DataLoader]:
        plan = _Plan()
        loader: DataLoader = DataLoader(
            self.images,
            batch_sampler=cast(Any, plan),  # what it gives goes to ``__getitems__`` as it is
            num_workers=self.workers,
            persistent_workers=True,
            collate_fn=as_it_is,
            generator=torch.Generator(),  # else it draws from the global one
        )
        return plan, loader


class _Plan:
    """The batches of an epoch, told to the processes one by one."""

    draws: Sequence[Draw] = ()

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.draws)


class _Decoding(Dataset):
    """What a process has of the images: a draw -> its batch."""

    def __init__(self, images: DecodedImages):
        self.images = images

    def __getitems__(self, draw: Draw) -> Decoded:
        return self.images.decode(draw)


def as_it_is(batch: Any) -> Any:
    return batch


def tensor(image: Image.Image) -> Tensor:
    """The pixels of an image: uint8 [height, width, channels]."""
    pixels = torch.from_numpy(np.array(image))
    return pixels if pixels.dim() == 3 else pixels.unsqueeze(2)


def normalise(rows: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels as networks take them: float32 [B, channels, side, side], channels_last.

    Args:
        rows: uint8 [B, side, side, channels]; or float32 [B, channels, side, side], which keeps its values.
        mean, std: of each channel, for pixels in [0, 1].
    """
    if rows.is_floating_point():
        return rows.contiguous(memory_format=torch.channels_last)
    # Pinned, so that a GPU fetches it while it works on the batch before.
    x = torch.empty(rows.shape, dtype=torch.float32, pin_memory=torch.cuda.is_available())
    area = rows.shape[1] * rows.shape[2]
    # Repeated for a whole image: broadcasting over three channels alone is five times slower.
    means, stds = (torch.tensor(values, dtype=torch.float32).repeat(area) for values in (mean, std))
    images = max(1, CHUNK // max(1, len(means)))
    for to, part in zip(x.flatten(1).split(images), rows.flatten(1).split(images), strict=True):
        to.copy_(part).div_(255).sub_(means).div_(stds)  # the same operations as torchvision's, hence the same bits
    return x.permute(0, 3, 1, 2)
