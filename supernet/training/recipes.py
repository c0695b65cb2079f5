"""Recipes by which networks are trained alone, and what may be otherwise in them. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from supernet.data.policies import AutoAugment
from supernet.errors import UserError
from supernet.training.config import Optimizer, Schedule

Name = Literal["paper", "modern"]
LONG = 100  # epochs of Wightman et al.'s shortest training; in one of 30 what is strong costs two points
STRONG: dict[str, Any] = {"mixup": 0.1, "cutmix": 1.0, "auto_augment": "rand", "drop_path": 0.05}  # from then on


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """A recipe, and what is to be otherwise: None is as the recipe has it."""

    recipe: Name = "paper"
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None
    warmup_epochs: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    label_smoothing: float | None = None
    ema: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    auto_augment: AutoAugment | None = None
    drop_path: float | None = None
    train_resolution: int | None = None
    finetune_epochs: int | None = None

    def settled(self, epochs: int) -> dict[str, Any]:
        """What the recipe and the wishes come to in a training of so many epochs, by the names of the settings."""
        names = [field.name for field in fields(Wishes) if field.name != "recipe"]
        wished = {name: value for name in names if (value := getattr(self, name)) is not None}
        found = {**OFF, **of(self.recipe, wished.get("optimizer"), epochs), **wished}
        if found["train_resolution"] and self.finetune_epochs is None:
            found["finetune_epochs"] = max(1, epochs // 3)
        return found


# What both recipes leave off.
OFF: dict[str, Any] = {"layer_decay": 1.0, "train_resolution": 0, "finetune_epochs": 0, "warmup_epochs": 0.0}
OFF |= {"label_smoothing": 0.1, "ema": 0.0, "mixup": 0.0, "cutmix": 0.0, "auto_augment": "none", "drop_path": 0.0}
# Of weights: that of SPOS, of DeiT, and of Wightman et al. 2021.
DECAY = {"sgd": 4e-5, "adamw": 0.05, "lamb": 0.02}


def of(name: Name, optimizer: str | None, epochs: int) -> dict[str, Any]:
    """A recipe for so many epochs, where it differs from ``OFF``.

    ``paper`` is that of SPOS and PAD-NAS: SGD and a linear schedule. ``modern`` has what short trainings gain by, too;
    what regularises comes in once they are long (Wightman et al. 2021, table 2: A2, and A3, the shortest).

    Args:
        optimizer: where another one is wished, whose weight decay it then has.
    """
    if name not in get_args(Name):
        raise UserError(f"unknown recipe {name!r}: expected {', '.join(get_args(Name))}")
    if optimizer and optimizer not in DECAY:
        raise UserError(f"unknown optimizer {optimizer!r}: expected {', '.join(DECAY)}")
    if name == "paper":
        optimizer = optimizer or "sgd"
        return {"optimizer": optimizer, "schedule": "linear", "weight_decay": DECAY[optimizer]}
    optimizer = optimizer or "adamw"
    found = {"optimizer": optimizer, "schedule": "cosine", "weight_decay": DECAY[optimizer], "ema": 0.999}
    found["warmup_epochs"] = min(5.0, epochs / 10)
    if epochs >= LONG:
        found |= STRONG
    return found
