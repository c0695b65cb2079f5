"""Options of the recipe that networks are trained alone by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from supernet.cli.common import UNSET
from supernet.data.policies import AutoAugment
from supernet.training.config import Optimizer, Schedule
from supernet.training.recipes import Name


@dataclass(frozen=True)
class Recipe:
    """A recipe, and what is to be otherwise."""

    topic: ClassVar[str] = "recipe"
    recipe: Name = "paper"
    """paper: SGD, linear, as SPOS and PAD-NAS; modern: AdamW, cosine, warm-up and a moving average, from 100 epochs on
    mixup, CutMix, RandAugment and drop path, too. The options below take the place of what it has."""
    optimizer: Annotated[Optimizer | None, UNSET] = None
    """Optimiser, with a learning rate and weight decay to match."""
    schedule: Annotated[Schedule | None, UNSET] = None
    """Learning rate from its peak to 0: linear, cosine, or a tenth at a half and at three quarters."""
    warmup_epochs: Annotated[float | None, UNSET] = None
    """Epochs of linear warm-up."""
    weight_decay: Annotated[float | None, UNSET] = None
    """Weight decay, of kernels and matrices."""
    layer_decay: Annotated[float | None, UNSET] = None
    """Learning rate of each layer as a share of the next one's, such as 0.8 for weights that have learnt."""
    label_smoothing: Annotated[float | None, UNSET] = None
    """Share of the label that goes to all classes evenly."""
    ema: Annotated[float | None, UNSET] = None
    """Decay of a moving average of the weights, which is what is tested and kept; 0 is off."""
    mixup: Annotated[float | None, UNSET] = None
    """α of mixup; with --cutmix each takes half of the steps; 0 is off."""
    cutmix: Annotated[float | None, UNSET] = None
    """α of CutMix; 0 is off."""
    auto_augment: Annotated[AutoAugment | None, UNSET] = None
    """Random operations on each image: RandAugment or TrivialAugment, after crops and flips, which they switch on."""
    drop_path: Annotated[float | None, UNSET] = None
    """Probability that the last block adds nothing to its input; it grows from the first one on."""
    train_resolution: Annotated[int | None, UNSET] = None
    """Height of the images before the fine-tuning, which is at the run's resolution; 0 trains at that throughout."""
    finetune_epochs: Annotated[int | None, UNSET] = None
    """Last epochs, at the run's resolution, with --train-resolution; defaults to a third."""
