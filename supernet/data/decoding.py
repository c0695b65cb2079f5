"""Image sets whose images are decoded when they are served, by processes that outlive an epoch or by this one.

A process is told what to decode by the plan of an epoch: indices, and the seed and epoch that augmentation is a
function of. It remembers nothing, so all sets taken from the same images share the processes; two epochs that are under
way at once have processes of their own.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import random
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from supernet.data.images import AUGMENT, ImageSet, Step, Transform, stream_key
from supernet.errors import UserError
from supernet.size import Size

CHUNK = 2**18  # values that are normalised at once: they stay in the cache of a core


class Draw(NamedTuple):
    """What to decode for a batch."""

    indices: np.ndarray  # within the part of the data set: int64 [B]
    stream: tuple[int, int] | None = None  # seed and epoch of the augmentation; None: the plain images


class DecodedImages(ImageSet):
    """Images decoded one by one when they are served.

    Processes hand over bytes, a quarter of what float32 takes; this process normalises them.
    """

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
        self.transforms = transforms
        self._loaders = Loaders(self, workers) if workers else None

    @abstractmethod
    def pixels(self, index: int, transform: Transform) -> Tensor:
        """An image by its index in the part of the data set, after the transform.

        Returns:
            uint8 [height, width, channels]; or float32 [channels, height, width], which is served as it is.

        Raises:
            UserError: the image cannot be had.
        """

    def decode(self, draw: Draw) -> Tensor:
        """A batch in this process, as ``pixels`` gives it: [B, …]."""
        rows = []
        with _kept_generators() if draw.stream else contextlib.nullcontext():
            for index in draw.indices.tolist():
                if draw.stream:
                    _seed(stream_key(AUGMENT, *draw.stream, index))
                rows.append(self.pixels(index, self.transforms[draw.stream is not None]))
        # In a process that decodes, ``default_collate`` writes to shared memory at once.
        return default_collate(rows) if rows else torch.empty(0, *self.size, self.channels, dtype=torch.uint8)

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
        return map(self.decode, draws) if self._loaders is None else self._loaders.decode(draws)


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
        size: Size,
        transforms: tuple[Transform, Transform],
        workers: int,
    ):
        """names: bytes [N], relative to the folder."""
        self.folder, self._names = folder, names
        super().__init__(labels, mean, std, size, transforms, workers)

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

    def pixels(self, index: int, transform: Transform) -> Tensor:
        path = self.folder / os.fsdecode(self._names[index])
        try:
            with Image.open(path) as file:
                return tensor(transform(file))
        except Exception as error:  # the decoders raise whatever damaged bytes lead to, and every one has its own ways
            raise UserError(
                f"expected an image in {path}, but it cannot be read ({error}); replace or delete it"
            ) from error


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

    def decode(self, draws: Sequence[Draw]) -> Iterator[Tensor]:
        """The batches of the draws, in order; ended early, the processes take what is next all the same."""
        kept = plan, loader = self.idle.pop() if self.idle else self._start()
        plan.draws = draws
        try:
            for batch in loader:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            failure = str(error).splitlines()[0]
        except (UserError, GeneratorExit):
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
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else it draws from the global one
        )
        return plan, loader


class _Plan:
    """The batches of an epoch, told to the processes one by one."""

    draws: Sequence[Draw] = ()

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.draws)


class _Decoding(Dataset):
    """What a process has of the images: a draw -> its batch, or the UserError that came instead."""

    def __init__(self, images: DecodedImages):
        self.images = images

    def __getitems__(self, draw: Draw) -> Tensor | UserError:
        try:
            return self.images.decode(draw)
        except UserError as error:  # returned: an exception would reach the user as a page of two tracebacks
            return error


def _as_it_is(batch: Any) -> Any:
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


def _seed(seed: int) -> None:
    """Seed the global generators, from which transforms draw."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too


@contextlib.contextmanager
def _kept_generators() -> Iterator[None]:
    """Put the global generators back afterwards."""
    saved = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        torch.default_generator.set_state(saved[2])
