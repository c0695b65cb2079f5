"""Pruning by others, to compare with: what each leaves of a trained network within a share of its multiply-adds."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from supernet.errors import UserError
from supernet.families.given import trace

FASTNAS = "modelopt is missing: pip install nvidia-modelopt==0.47.0 torchprofile==0.0.4 requests, or --no-fastnas"


def multiply_adds(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of a network in eval mode on the images."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(x)
    return trace.multiply_adds(counter)


def torch_pruning(model: nn.Module, x: Tensor, share: float, everywhere: bool) -> nn.Module:
    """By Torch-Pruning, by the L2 norm of groups: the same share of each, or the least of all."""
    try:
        import torch_pruning as tp
    except ImportError as error:
        raise UserError("Torch-Pruning is missing: pip install torch-pruning==1.6.1") from error
    most = share * multiply_adds(model, x)

    def at(ratio: float) -> nn.Module:
        pruned: Any = copy.deepcopy(model).requires_grad_(True).train()
        heads = [m for m in pruned.modules() if isinstance(m, nn.Linear)]
        options = {"pruning_ratio": ratio, "ignored_layers": heads, "global_pruning": everywhere}
        options["round_to"] = 8  # odd numbers of channels are slow in runtimes
        tp.pruner.BasePruner(pruned, x, importance=tp.importance.GroupMagnitudeImportance(p=2), **options).step()
        return pruned

    low, high = 0.0, 0.98
    for _ in range(12):
        ratio = (low + high) / 2
        low, high = (ratio, high) if multiply_adds(at(ratio), x) > most else (low, ratio)
    return at(high)


def fastnas(
    model: nn.Module, x: Tensor, share: float, images: Iterable[Tensor], score: Callable[[nn.Module], float]
) -> nn.Module:
    """By NVIDIA's FastNAS.

    Args:
        images: training images, by which it takes the statistics of BN anew.
        score: what it maximises.
    """
    try:
        import modelopt.torch.prune as mtp
    except ImportError as error:
        raise UserError(FASTNAS) from error
    config = {"data_loader": images, "collect_func": lambda x: x, "score_func": score, "checkpoint": None}
    options = {"mode": "fastnas", "constraints": {"flops": f"{100 * share:g}%"}, "config": {**config, "verbose": False}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own pieces
        pruned, _ = mtp.prune(copy.deepcopy(model).requires_grad_(True), dummy_input=x, **options)
    return pruned
