"""How weights are trained: the settings, and the learning rate of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from supernet.data.policies import AutoAugment
from supernet.errors import UserError

Schedule = Literal["linear", "cosine", "step"]
Optimizer = Literal["sgd", "adamw", "lamb"]
Decays = Literal["weights", "all but BN", "all"]  # weights: those with more than one dimension
CHOICES = {
    "schedule": get_args(Schedule),
    "optimizer": get_args(Optimizer),
    "decays": get_args(Decays),
    "auto_augment": get_args(AutoAugment),
}


@dataclass(frozen=True)
class FitConfig:
    """How weights are trained: by default SGD with momentum, one schedule from ``lr`` over all steps.

    ``linear`` and ``cosine`` go to 0; ``step`` divides by 10 at each of its ``milestones``. A
    training that is continued with more epochs goes on at the rate that the longer schedule has at its step.
    """

    epochs: int
    batch_size: int = 64  # images of a step, over all processes and parts
    lr: float = 0.1
    schedule: Schedule = "linear"
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 4e-5  # of what ``decays``
    label_smoothing: float = 0.1
    clip: float = 0.0  # gradient norm; 0 is off
    clip_value: float = 0.0  # each component of the gradient; 0 is off
    augment: bool = True
    seed: int = 0
    checkpoint_minutes: float = 10.0  # besides the one after every epoch
    lr_min: float = 0.0  # what the schedule ends at instead of 0
    accumulate: int = 1  # parts that a process computes its share of a batch in, one after another
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of forward and backward; weights and statistics stay fp32
    qat: bool = False  # by fake quantisation, of plain PyTorch
    sync_bn: bool = False  # under torchrun, batch statistics over the batches of all processes
    optimizer: Optimizer = "sgd"  # sgd has ``momentum``
    layer_decay: float = 1.0  # the rate of each layer is that of the next one times this
    mixup: float = 0.0  # α of the images' mixture; 0 is off
    cutmix: float = 0.0  # α of the part that another image takes; 0 is off
    auto_augment: AutoAugment = "none"  # random operations on each image, with ``augment``
    decays: Decays = "weights"  # what ``weight_decay`` is of
    milestones: tuple[float, ...] = (0.5, 0.75)  # shares of all steps after which ``step`` divides the rate by 10
    schedule_epochs: int = 0  # epochs that the schedule spans; after them the rate of its last step holds; 0: all

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("epochs", self.epochs >= 0, "at least 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr <= 1e30, "a number above 0, at most 1e30"),
            ("warmup_epochs", 0 <= self.warmup_epochs < math.inf, "at least 0"),
            ("schedule_epochs", self.schedule_epochs >= 0, "at least 0"),
            ("clip", 0 <= self.clip < math.inf, "at least 0"),
            ("clip_value", 0 <= self.clip_value < math.inf, "at least 0"),
            ("seed", 0 <= self.seed < 2**63, "a number from 0 to 2**63 - 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0, below 1"),
            ("layer_decay", 0 < self.layer_decay <= 1, "above 0, at most 1"),
            ("mixup", 0 <= self.mixup < math.inf, "at least 0"),
            ("cutmix", 0 <= self.cutmix < math.inf, "at least 0"),
            ("milestones", all(0 < share < 1 for share in self.milestones), "shares of the training, in (0, 1)"),
            *((name, getattr(self, name) in known, ", ".join(known)) for name, known in CHOICES.items()),
        ):
            if not fine:
                raise UserError(f"{name.replace('_', ' ')} {getattr(self, name)}: expected {expected}")
        if self.warmup_epochs > self.epochs > 0:
            raise UserError(f"{self.warmup_epochs:g} epochs of warm-up in {self.epochs}: expected at most as many")
        if self.auto_augment != "none" and not self.augment:
            raise UserError(f"auto augment {self.auto_augment} without augmentation: expected both or neither")

    @property
    def validation_batch(self) -> int:
        """The most images at once in validation, which keeps nothing for backward: 8 times those of a part."""
        return 8 * self.batch_size // self.accumulate


def learning_rate(cfg: FitConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of ``step`` (from 0): linear warm-up, then the schedule; its end would be one step after the last."""
    scale = 1 - cfg.lr_min / cfg.lr if cfg.lr_min else 1.0
    return cfg.lr_min + scale * _to_zero(cfg, step, steps_per_epoch)


def _to_zero(cfg: FitConfig, step: int, steps_per_epoch: int) -> float:
    warmup, total = cfg.warmup_epochs * steps_per_epoch, (cfg.schedule_epochs or cfg.epochs) * steps_per_epoch
    step = min(step, total - 1) if cfg.schedule_epochs else step
    if step < warmup:
        return cfg.lr * (step + 1) / warmup
    t = (step - warmup) / max(total - warmup, 1)
    if cfg.schedule == "step":
        return cfg.lr / 10 ** sum(t >= share for share in cfg.milestones)
    return cfg.lr * (1 - t if cfg.schedule == "linear" else (1 + math.cos(math.pi * t)) / 2)
