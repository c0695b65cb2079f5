"""A forward pass in which something else runs where a gene decides: its operation credited, or several mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supernet.families.cells_blocks import Part
from supernet.model import Supernet

At = Callable[[int, int, nn.Module, Tensor], Tensor]  # place in the path, gene, operation, input -> output


def deciding(model: Supernet) -> list[int | None]:
    """The gene that decides about each module of a path; None: it always runs.

    The space has a gene for each layer or for each edge of its cells (``families.require_layers``).
    """
    layout: Any = model.layout
    return layout.decides


def along(path: Sequence[nn.Module], decides: Sequence[int | None], x: Tensor, at: At) -> Tensor:
    """Logits ``[B, classes]`` along a path.

    Args:
        decides: the gene of each module, or None, as ``deciding`` gives them.
        x: ``[B, C, H, W]``.
        at: what runs where there is a gene; in a cell, in the place of the operation of an edge.
    """
    y: Any = x.contiguous(memory_format=torch.channels_last)
    for place, (module, gene) in enumerate(zip(path, decides, strict=True)):
        if gene is None:
            y = module(y)
        elif isinstance(module, Part):
            y = module.write(y, at(place, gene, module.op, module.read(y)))
        else:
            y = at(place, gene, module, y)
    return y


def operations(model: Supernet) -> list[list[nn.Module]]:
    """The open choices at each place of a path, in order; a single one where no gene decides."""
    allowed, decides = model.space.allowed, deciding(model)
    archs = (tuple(open_[min(k, len(open_) - 1)] for open_ in allowed) for k in range(max(map(len, allowed))))
    paths = [model.path(arch) for arch in archs]
    counts = [1 if gene is None else len(allowed[gene]) for gene in decides]
    return [[_operation(path[place]) for path in paths[:count]] for place, count in enumerate(counts)]


def _operation(module: nn.Module) -> nn.Module:
    return module.op if isinstance(module, Part) else module
