"""How weights are trained: the settings, the learning rate of a step, the optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.sgd import sgd as update

from supernet import active
from supernet.errors import UserError


@dataclass(frozen=True)
class FitConfig:
    """How weights are trained: SGD with momentum, one schedule from ``lr`` over all steps.

    ``linear`` and ``cosine`` go to 0; ``step`` divides by 10 at a half and again at three quarters of the steps. A
    training that is continued with more epochs goes on at the rate that the longer schedule has at its step.
    """

    epochs: int
    batch_size: int = 64  # images of a step, over all processes and parts
    lr: float = 0.1
    schedule: Literal["linear", "cosine", "step"] = "linear"
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 4e-5  # on weights with more than one dimension only
    label_smoothing: float = 0.1
    clip: float = 0.0  # gradient norm; 0 is off
    clip_value: float = 0.0  # each component of the gradient; 0 is off
    augment: bool = True
    seed: int = 0
    checkpoint_minutes: float = 10.0  # besides the one after every epoch
    lr_min: float = 0.0  # what the schedule ends at instead of 0
    accumulate: int = 1  # parts that a process computes its share of a batch in, one after another
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of forward and backward; weights and statistics stay fp32
    sync_bn: bool = False  # under torchrun, batch statistics over the batches of all processes

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("epochs", self.epochs >= 0, "at least 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr <= 1e30, "a number above 0, at most 1e30"),
            ("warmup_epochs", 0 <= self.warmup_epochs < math.inf, "at least 0"),
            ("clip", 0 <= self.clip < math.inf, "at least 0"),
            ("clip_value", 0 <= self.clip_value < math.inf, "at least 0"),
            ("seed", 0 <= self.seed < 2**63, "a number from 0 to 2**63 - 1"),
        ):
            if not fine:
                raise UserError(f"{name.replace('_', ' ')} {getattr(self, name)}: expected {expected}")

    @property
    def validation_batch(self) -> int:
        """The most images at once in validation, which keeps nothing for backward: 8 times those of a part."""
        return 8 * self.batch_size // self.accumulate


OPTIONS = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize", "foreach", "fused")


class SGD(torch.optim.SGD):
    """PyTorch's, for parameters of which parts learn: what is outside keeps its value and its momentum, 0 at first.

    Gradients are to be dropped by its ``zero_grad``, which starts the parts anew.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update, after ``closure`` where that is given, whose loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if group["momentum"]:
                for p in moving:
                    if self.state[p].get("momentum_buffer") is None:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            pieces = [(p, box) for p in moving for box in active.moved(p)]
            buffers = [(self.state[p]["momentum_buffer"], box) for p, box in pieces if group["momentum"]]
            update(
                [active.part(p, box) for p, box in pieces],
                [active.part(p.grad, box) for p, box in pieces],
                [active.part(buffer, box) for buffer, box in buffers],
                **{name: group[name] for name in OPTIONS},
            )
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and what is known of their parts."""
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            active.forget(group["params"])


def sgd(model: nn.Module, cfg: FitConfig) -> SGD:
    """SGD that decays matrices and kernels, not biases and BN. Parameters without a gradient are left alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return SGD(groups, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.nesterov)


def learning_rate(cfg: FitConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of ``step`` (from 0): linear warm-up, then the schedule; its end would be one step after the last."""
    scale = 1 - cfg.lr_min / cfg.lr if cfg.lr_min else 1.0
    return cfg.lr_min + scale * _to_zero(cfg, step, steps_per_epoch)


def _to_zero(cfg: FitConfig, step: int, steps_per_epoch: int) -> float:
    warmup, total = cfg.warmup_epochs * steps_per_epoch, cfg.epochs * steps_per_epoch
    if step < warmup:
        return cfg.lr * (step + 1) / warmup
    t = (step - warmup) / max(total - warmup, 1)
    if cfg.schedule == "step":
        return cfg.lr / 10 ** ((t >= 0.5) + (t >= 0.75))
    return cfg.lr * (1 - t if cfg.schedule == "linear" else (1 + math.cos(math.pi * t)) / 2)
