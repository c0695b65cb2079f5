"""Images of a step mixed with others, and their labels: mixup and CutMix, by timm.

Image i is mixed with image i + B/2 of the batch of all processes and parts, all by the same share or the same box, so
that the images of a step depend neither on the number of processes nor on that of parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from supernet.data import seeding
from supernet.data.images import MIXING, ImageSet, stream_key
from supernet.errors import UserError
from supernet.training.config import FitConfig


class Mixing:
    """What is done to the images and labels of a step; without a ``mixup`` they stay as they are.

    Args:
        mixup: timm's, which draws from NumPy's global generator. seed: of the training.
    """

    def __init__(self, mixup: Any = None, seed: int = 0):
        self.mixup, self.seed = mixup, seed

    @classmethod
    def of(cls, cfg: FitConfig, model: nn.Module) -> Mixing:
        """Half of the steps by mixup and half by CutMix, where both are on (Wightman et al. 2021, §2)."""
        if not (cfg.mixup or cfg.cutmix):
            return cls()
        from timm.data import Mixup  # seconds to import

        classes: Any = model.space.classes  # type: ignore[union-attr]
        # The loss smooths labels, mixed or not.
        return cls(Mixup(cfg.mixup, cfg.cutmix, label_smoothing=0.0, num_classes=classes), cfg.seed)

    def __call__(self, step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[B, C, H, W]`` and the shares of their labels, float32 ``[B, classes]``.

        Args:
            y: int64 [B].
        """
        if self.mixup is None:
            return x, y
        # timm mixes the first with the last: the second half is turned, so that i meets i + B/2.
        order = torch.cat([torch.arange(len(x) // 2), torch.arange(len(x) // 2, len(x)).flip(0)]).to(x.device)
        with seeding.kept():
            seeding.seed(stream_key(MIXING, self.seed, step))
            return self.mixup(x[order], y[order])


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """How many images are taken for what they are, of mixed ones for what is most of them.

    Of labels that are maps ``[B, H, W]``: images of which more than half the pixels are.
    """
    right = logits.argmax(1) == (y.argmax(1) if y.is_floating_point() else y)
    return right.sum() if right.dim() == 1 else (right.flatten(1).float().mean(1) > 0.5).sum()


def require(train: ImageSet, cfg: FitConfig, share: int) -> None:
    """A UserError where images cannot be mixed.

    Args:
        share: images of a step of this process.
    """
    if not (cfg.mixup or cfg.cutmix):
        return
    if share // cfg.accumulate % 2:
        each = f"{share // cfg.accumulate} images at once"
        raise UserError(f"mixup and cutmix mix the halves of a batch, {each} have none: expected an even number")
    if train.balance == "loss":
        raise UserError(
            "mixup and cutmix mix labels, by which the loss of this run is weighted (--balance loss): expected both 0, "
            "or a run that balances by sampling"
        )
