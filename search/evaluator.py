"""Scores architectures with a supernet's weights (SPOS §3.4), a whole generation at once.

A layer's output and its BN statistics depend only on the layers before it. So the architectures of a call form
a prefix tree, and every batch passes each node of the tree once, depth first. Memory holds the activations of the
current path only, ``depth × batch``; ``images_at_once`` chooses the batch by that.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from search.costs import AdditiveCost, MaxCost
from supernet.errors import UserError
from supernet.families import layout
from supernet.families.base import peak
from supernet.model import Supernet, batch_norms
from supernet.norm import BatchNorm, PooledStatistics
from supernet.progress import Track
from supernet.space import Arch, Space
from supernet.spec import LayerSpec

Mode = Literal["recalibrated", "batch", "inherited"]
LARGEST_BATCH = 512  # more are not faster; also the batch whose statistics the mode ``batch`` normalises by
Batch = TypeVar("Batch", covariant=True)


class Stream(Protocol[Batch]):
    """Batches that are the same each time they are iterated over: a list of tensors, or ``supernet.data.Batches``."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def images_at_once(space: Space, memory: int, workers: int = 1) -> int:
    """Images per batch that scoring has memory for: a power of two, at most ``LARGEST_BATCH``.

    Args:
        memory: bytes for images and activations of all ``workers`` together; their copies of the weights come on top.
    """
    specs = layout(space)
    outputs = AdditiveCost(*specs.priced(lambda spec: spec.out_channels * spec.out_size**2 if spec.runs else 0))
    layer = MaxCost(*specs.priced(lambda spec: spec.activations if spec.runs else 0, peak))
    # As bytes and as float32: the image, the outputs of all layers on a path, what the largest layer needs meanwhile.
    image = 5 * space.channels * space.resolution**2
    most = memory / (workers * (image + 4 * (outputs.bounds(space)[1] + layer.bounds(space)[1])))
    return 2 ** math.floor(math.log2(min(max(most, 1), LARGEST_BATCH)))


@dataclass(eq=False)
class Node:
    """One layer after one prefix."""

    module: nn.Module
    norms: list[BatchNorm]
    pools: list[PooledStatistics]  # of this prefix, one per BN
    children: dict[LayerSpec, Node] = field(default_factory=dict)
    arch: Arch | None = None  # of a head: the architecture that ends here
    hits: int | Tensor = 0  # of a head

    @classmethod
    def of(cls, module: nn.Module) -> Node:
        """A node of ``module``, without children."""
        norms = list(batch_norms([module]))
        return cls(module, norms, [PooledStatistics(bn.num_features, bn.running_mean.device) for bn in norms])

    def __iter__(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children.values():
            yield from child


def prefix_tree(supernet: Supernet, archs: Sequence[Arch]) -> Node:
    """The stem as root, below it a node for every distinct prefix of the layers of ``archs``; heads are the leaves."""
    root, specs = Node.of(supernet.stem), layout(supernet.space)
    for arch in archs:
        node = root
        for spec, module in list(zip(specs.pick(arch), supernet.path(arch), strict=True))[1:]:
            if spec not in node.children:
                node.children[spec] = Node.of(module)
            node = node.children[spec]
        node.arch = arch
    return root


class Evaluator:
    """One-shot accuracy on a fixed validation split, each architecture once.

    BN normalises a score by ``mode``:

        recalibrated  the pooled mean and variance of the path on the recalibration images (``recalibrate_bn``)
        batch         mean and variance of each validation batch
        inherited     the running averages that training left in the supernet

    On the CPU the architectures of a call are divided among ``workers`` threads of one core each, which at the sizes
    of a search is faster than one network on all cores; neighbours in the tree stay together. Every worker has a
    copy of the supernet. Scores depend neither on the number of workers nor on the other architectures of a call.

    Args:
        recalibration: batches of training images, not augmented; the same for every architecture.
        validation: batches of images and labels. Both are iterated over once per call and worker.

    Raises:
        UserError: an unknown mode, or no batches.
    """

    def __init__(
        self,
        supernet: Supernet,
        recalibration: Stream[Tensor],
        validation: Stream[tuple[Tensor, Tensor]],
        workers: int = 1,
        mode: Mode = "recalibrated",
    ):
        if mode not in get_args(Mode):
            raise UserError(f"unknown BN mode {mode!r}: expected one of {', '.join(get_args(Mode))}")
        if workers < 1:
            raise UserError(f"{workers} workers: expected at least 1")
        if not len(validation) or (mode == "recalibrated" and not len(recalibration)):
            raise UserError("nothing to score with: expected validation batches, and images to recalibrate BN with")
        self.device = next(supernet.parameters()).device
        if self.device.type != "cpu":
            workers = 1
        self.models = [copy.deepcopy(supernet).eval() for _ in range(workers)]
        self.recalibration, self.validation, self.mode = recalibration, validation, mode
        self.scores: dict[Arch, float] = {}
        self.runs = self.separate_runs = 0  # of a layer on all images; how many there would be without sharing
        self.peak_bytes = 0  # of the activations on one worker's path

    def __call__(self, archs: Sequence[Arch], bar: Track | None = None) -> list[float]:
        """Accuracies in [0, 1], in the order of ``archs``."""
        new = sorted({arch for arch in archs if arch not in self.scores})
        parts = [new[i[0] : i[-1] + 1] for i in np.array_split(np.arange(len(new)), len(self.models)) if len(i)]
        threads = torch.get_num_threads()
        start = (lambda: torch.set_num_threads(1)) if len(self.models) > 1 else None
        with ThreadPoolExecutor(len(self.models), initializer=start) as pool:
            jobs = [pool.submit(self._score, model, part) for model, part in zip(self.models, parts, strict=False)]
            for job in as_completed(jobs):
                scores = job.result()
                self.scores |= scores
                if bar is not None:
                    bar.advance(len(scores))
        torch.set_num_threads(threads)
        return [self.scores[arch] for arch in archs]

    @property
    def summary(self) -> str:
        """One line: what sharing saved and how much memory it took."""
        known = f"{len(self.scores)} architectures, BN {self.mode}"
        if not self.runs:
            return f"{known}; all of them were known"
        return (
            f"{known}; {self.separate_runs / self.runs:.2f} times fewer layer runs by shared prefixes; "
            f"activations take at most {self.peak_bytes / 2**20:.1f} MiB per worker (depth × batch)"
        )

    @torch.inference_mode()
    def _score(self, model: Supernet, archs: Sequence[Arch]) -> dict[Arch, float]:
        """The accuracies of distinct architectures."""
        tree = prefix_tree(model, archs)
        norms = list(batch_norms([model]))
        if self.mode == "recalibrated":
            for bn in norms:
                bn.train()
            for x in self.recalibration:
                self._walk(tree, _channels_last(x, self.device), _pool)
        for bn in norms:
            bn.train(self.mode == "batch")
        layer = _recalibrated if self.mode == "recalibrated" else _as_it_is
        images = 0
        for x, y in self.validation:
            self._walk(tree, _channels_last(x, self.device), layer, y.to(self.device))
            images += len(y)
        nodes = list(tree)
        self.runs += len(nodes)
        self.separate_runs += sum(len(model.path(arch)) for arch in archs)
        return {node.arch: int(node.hits) / images for node in nodes if node.arch is not None}

    def _walk(
        self,
        node: Node,
        x: Tensor,
        layer: Callable[[Node, Tensor], Tensor],
        labels: Tensor | None = None,
        live: int = 0,
    ) -> None:
        """Pass a batch through ``node`` and all nodes below, depth first; with labels, count the hits of the heads.

        Args:
            live: bytes of the activations that the nodes above hold.
        """
        y = layer(node, x)
        if y is not x:
            live += y.nbytes
            self.peak_bytes = max(self.peak_bytes, live)
        if labels is not None and node.arch is not None:
            node.hits += (y.argmax(1) == labels).sum()
        for child in node.children.values():
            self._walk(child, y, layer, labels, live)


def _pool(node: Node, x: Tensor) -> Tensor:
    """The layer in training mode, its statistics added to those of its prefix, as ``recalibrate_bn`` does."""
    for bn, pool in zip(node.norms, node.pools, strict=True):
        bn.pool = pool
    y = node.module(x)
    for bn in node.norms:
        bn.pool = None
    return y


def _recalibrated(node: Node, x: Tensor) -> Tensor:
    """The layer in eval mode with the statistics of its prefix."""
    for bn, pool in zip(node.norms, node.pools, strict=True):
        bn.running_mean[: len(pool.mean)].copy_(pool.mean)  # a layer at part of its width has its first channels only
        bn.running_var[: len(pool.mean)].copy_(pool.var)
    return node.module(x)


def _as_it_is(node: Node, x: Tensor) -> Tensor:
    return node.module(x)


def _channels_last(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device).contiguous(memory_format=torch.channels_last)
