"""How important a stage of a network is: the mean importance of its output features, by one of ``criteria``.

Jordao et al., "Stage-Wise Neural Architecture Search", §III.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search import streamed
from search.criteria import CRITERIA, Features
from search.streamed import Streamed
from supernet import donors
from supernet.data.images import ImageSet
from supernet.errors import UserError
from supernet.model import Network

POOL = 8  # feature maps are averaged to maps that are this many times smaller
MEMORY = 2**28  # bytes of pooled features to keep, for all stages together; of more, sums


def importance(network: Network, images: ImageSet, criterion: str, limit: int | None = None) -> list[float]:
    """The importance score α of each stage: the mean of its features' scores.

    Where ``MEMORY`` has no room for the features of all images, PLS–VIP and il-FS take them batch by batch, three times
    (``streamed``); inf-FS, which compares the ranks of all images, takes a stratified sample.

    Args:
        images: used without augmentation.
        criterion: a name in ``CRITERIA``.
        limit: the most images to use, a stratified sample.

    Raises:
        UserError: an unknown criterion, or features that are not finite.
    """
    if criterion not in CRITERIA:
        raise UserError(f"expected an importance criterion among {', '.join(CRITERIA)}, got {criterion!r}")
    images = images if limit is None else images.subset(min(limit, len(images)), seed=0)
    with Reading(network, images) as reading:
        if criterion in streamed.CRITERIA and len(images) > reading.room:
            return _streamed_importance(reading, streamed.CRITERIA[criterion])
        features, labels = reading.all()
    return [float(CRITERIA[criterion](_finite(x, stage), labels).mean()) for stage, x in enumerate(features, start=1)]


def _streamed_importance(reading: Reading, criterion: Callable[[int, int], Streamed]) -> list[float]:
    """The same by sums over batches, whatever the number of images."""
    stages = [criterion(width, reading.network.space.classes) for width in reading.widths]
    for _ in range(max(stage.passes for stage in stages)):
        for features, labels in reading.batches(reading.images):
            for number, (stage, x) in enumerate(zip(stages, features, strict=True), start=1):
                if stage.unfinished:
                    stage.add(_finite(x, number), labels)
        for stage in stages:
            if stage.unfinished:
                stage.end()
    return [float(stage.scores().mean()) for stage in stages]


def _finite(x: Features, stage: int) -> Features:
    if not np.isfinite(x).all():
        raise UserError(f"stage {stage} gives features that are not finite: train with a lower learning rate")
    return x


class Reading:
    """The outputs of the last addition of each stage, averaged to 8 times smaller maps and flattened, while it is open.

    Attributes:
        widths: of each stage, its features.
        room: the images whose features fit into ``MEMORY``.
    """

    def __init__(self, network: Network, images: ImageSet):
        self.network, self.images = network, images
        self.pooled: list[Tensor] = []

    def __enter__(self) -> Reading:
        self.training, self.device = self.network.training, next(self.network.parameters()).device
        additions = [stage[-1].get_submodule("addition") for stage in donors.stages(self.network)]
        self.handles = [addition.register_forward_hook(self._pool) for addition in additions]
        self.network.eval()
        try:
            shape = (1, self.images.channels, *self.images.size)
            self._run(torch.zeros(shape))
        except BaseException:
            self.__exit__()
            raise
        self.widths = [x.shape[1] for x in self.pooled]
        self.room = max(1, MEMORY // sum(x.nbytes for x in self.pooled))
        return self

    def __exit__(self, *_: object) -> None:
        self.network.train(self.training)
        for handle in self.handles:
            handle.remove()

    def _pool(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        height, width = (-(-n // POOL) for n in output.shape[-2:])
        self.pooled.append(F.adaptive_avg_pool2d(output, (height, width)).flatten(1).float().cpu())

    @torch.inference_mode()
    def _run(self, x: Tensor) -> None:
        self.pooled.clear()
        self.network(x.to(self.device))

    def batches(self, images: ImageSet) -> Iterator[tuple[list[NDArray[np.float32]], NDArray[np.int64]]]:
        """Features of each stage and labels, batch by batch, without augmentation."""
        for x, y in images.plain_batches(128):
            self._run(x)
            yield [pooled.numpy() for pooled in self.pooled], y.numpy()

    def all(self) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
        """Of all images, or of a stratified sample for which there is room.

        Returns:
            For each stage float32 [images, features], and the labels [images].
        """
        images = self.images.subset(min(self.room, len(self.images)), seed=0)
        features: list[NDArray[np.float32]] = [np.empty((len(images), width), np.float32) for width in self.widths]
        labels: NDArray[np.int64] = np.empty(len(images), np.int64)
        start = 0
        for new, y in self.batches(images):
            for kept, x in zip(features, new, strict=True):
                kept[start : start + len(y)] = x
            labels[start : start + len(y)] = y
            start += len(y)
        return features, labels
