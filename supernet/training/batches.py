"""This process's batches: of an epoch, and of each step for what learns on images of its own."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from supernet.data.images import ImageSet
from supernet.training import distributed
from supernet.training.config import FitConfig


def of_epoch(images: ImageSet, cfg: FitConfig, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """From step ``start`` on, as ``ImageSet.batches`` gives them; all are whole."""
    return images.batches(
        distributed.share(cfg.batch_size, cfg.accumulate),
        seed=cfg.seed,
        epoch=epoch,
        start=start,
        augment=cfg.augment,
        drop_last=True,
        rank=distributed.rank(),
        world=distributed.world(),
    )


class Batches:
    """One for each step of the weights; steps come in order, from anywhere on.

    Args:
        per_epoch: steps of an epoch of these images; by default all that they have.
    """

    def __init__(self, images: ImageSet, cfg: FitConfig, per_epoch: int | None = None):
        self.images, self.cfg, self.per_epoch = images, cfg, per_epoch
        self.batches: Iterator[tuple[Tensor, Tensor]] | None = None

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``[B, C, H, W]`` and labels ``[B]``."""
        epoch, start = divmod(step, self.per_epoch or self.images.steps(self.cfg.batch_size, drop_last=True))
        if self.batches is None or start == 0:
            self.batches = of_epoch(self.images, self.cfg, epoch, start)
        return next(self.batches)
