"""Optimisers: SGD of the parts that learn, and those of timm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.sgd import sgd as update

from supernet import active
from supernet.training.config import FitConfig, learning_rate

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


def make(model: nn.Module, cfg: FitConfig) -> torch.optim.Optimizer:
    """The optimiser ``cfg`` names. It decays matrices and kernels, not biases and BN, unless ``cfg.decays`` says so.

    Parameters without a gradient are left alone; where parts of a parameter learn, only SGD leaves the others alone.
    """
    if cfg.optimizer == "sgd":
        return SGD(groups(model, cfg), lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.nesterov)
    from timm.optim import create_optimizer_v2  # seconds to import

    return create_optimizer_v2(groups(model, cfg), cfg.optimizer, cfg.lr, weight_decay=cfg.weight_decay)


def groups(model: nn.Module, cfg: FitConfig) -> list[dict[str, Any]]:
    """The parameters in groups of one decay and, by ``cfg.layer_decay``, of one ``lr_scale``."""
    if cfg.layer_decay < 1:
        from timm.optim import param_groups_layer_decay

        return param_groups_layer_decay(model, cfg.weight_decay, layer_decay=cfg.layer_decay)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if cfg.decays == "all":
        return [{"params": parameters, "weight_decay": cfg.weight_decay}]
    norms = {id(p) for module in model.modules() if isinstance(module, _BatchNorm) for p in module.parameters()}

    def decays(p: nn.Parameter) -> bool:
        return id(p) not in norms if cfg.decays == "all but BN" else p.dim() > 1

    return [
        {"params": [p for p in parameters if decays(p)], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]


def set_rate(optimizer: torch.optim.Optimizer, cfg: FitConfig, step: int, steps_per_epoch: int) -> None:
    """Give every group its rate of ``step``."""
    rate = learning_rate(cfg, step, steps_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
