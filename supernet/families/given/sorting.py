"""The first channels of a given network become its important ones; its function stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from supernet.families.base import Shared
from supernet.families.given.genes import Width
from supernet.families.given.layer import given_name
from supernet.families.given.layout import GivenLayout

Score = Callable[[Tensor], Tensor]  # of each element of a parameter


def magnitude(parameter: Tensor) -> Tensor:
    """L1 (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""
    return parameter.detach().abs()


def taylor(parameter: Tensor) -> Tensor:
    """What the loss would change by, to first order (Molchanov et al. 2019): |w · dL/dw|; gradients must be there."""
    return parameter.detach().abs() * 0 if parameter.grad is None else (parameter.detach() * parameter.grad).abs()


@torch.no_grad()
def sort(shared: Shared, layout: GivenLayout, score: Score = magnitude) -> None:
    """Sort the channels of each group, the most important first: all tensors alike, so that the function stays.

    The importance of a channel is the mean, over the kernels that make or read it, of its share of their scores.
    """
    layers = shared.all()
    network = layout.network
    importance = np.zeros(len(network.labels) and int(network.labels.max()) + 1)
    kernels = np.zeros_like(importance)
    for tensor, axes in _placed(layers, layout):
        if tensor.ndim < 2:
            continue
        scores = score(tensor).double()
        for axis, labels in axes.items():
            along = scores.sum([other for other in range(tensor.ndim) if other != axis]).cpu().numpy()
            np.add.at(importance, labels, along / max(along.sum(), 1e-30))
            np.add.at(kernels, labels, 1)
    importance /= np.maximum(kernels, 1)
    comes_from = np.arange(len(importance))
    for gene in network.genes:
        for group in gene.groups if isinstance(gene, Width) else ():
            comes_from[group.labels] = group.labels[np.argsort(-importance[group.labels], kind="stable")]
    for tensor, axes in _placed(layers, layout):
        for axis, labels in axes.items():
            tensor.copy_(tensor.index_select(axis, torch.from_numpy(_places(labels, comes_from)).to(tensor.device)))


def _placed(layers: Iterable[nn.Module], layout: GivenLayout) -> Iterator[tuple[Tensor, dict[int, np.ndarray]]]:
    """The tensors of the layers that have channels, and the labels of these along each axis."""
    network = layout.network
    for layer in layers:
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            axes = network.channels.weights.get(given_name(name), {})
            if axes:
                yield tensor, {axis: network.labels[atoms] for axis, atoms in axes.items()}


def _places(labels: np.ndarray, comes_from: np.ndarray) -> np.ndarray:
    """For each place along an axis the one whose channel comes there; of one that is there several times, in order."""
    order = np.argsort(labels, kind="stable")  # places by their label
    ordered = labels[order]
    nth = np.empty_like(order)
    nth[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order[np.searchsorted(ordered, comes_from[labels]) + nth]
