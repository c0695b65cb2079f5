"""Scores architectures with a supernet's weights (SPOS §3.4), a whole generation at once.

A layer's output and its BN statistics depend only on the layers before it. So the architectures of a call form
a prefix tree, and every batch passes each node of the tree once, depth first. Memory holds the activations of the
current path only, ``depth × batch``; ``images_at_once`` chooses the batch by that.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn

from search.costs import AdditiveCost, MaxCost
from supernet import metrics
from supernet.errors import UserError
from supernet.executor import Executor, Threads, for_device, nothing
from supernet.families import layout
from supernet.families.base import peak
from supernet.metrics import TOP1, Metric
from supernet.model import Supernet, batch_norms, joined
from supernet.norm import BatchNorm, PooledStatistics
from supernet.progress import Track
from supernet.quantities import several
from supernet.space import Arch, Space
from supernet.spec import LayerSpec
from supernet.training import evaluation, faults
from supernet.training.fake_int8 import faking

Mode = Literal["recalibrated", "batch", "inherited"]
LARGEST_BATCH = 512  # more are not faster; also the batch whose statistics the mode ``batch`` normalises by
GROUPS = 2  # for each worker, where there are several: see docs/scaling.md
LOWER = "lower the memory for its batches, the number of workers, or the images per batch of recalibration"
Batch = TypeVar("Batch", covariant=True)
Layers = tuple[LayerSpec, ...]  # that one module runs


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
    outputs = AdditiveCost(*specs.priced(lambda spec: spec.out_channels * spec.out_size.pixels if spec.runs else 0))
    layer = MaxCost(*specs.priced(lambda spec: spec.activations if spec.runs else 0, peak))
    # As bytes and as float32: the image, the outputs of all layers on a path, what the largest layer needs meanwhile.
    image = 5 * space.channels * space.input_size.pixels
    most = memory / (workers * (image + 4 * (outputs.bounds(space)[1] + layer.bounds(space)[1])))
    return 2 ** math.floor(math.log2(min(max(most, 1), LARGEST_BATCH)))


@dataclass(eq=False)
class Node:
    """One layer after one prefix, or several that one operator runs."""

    module: nn.Module
    norms: list[BatchNorm]
    pools: list[PooledStatistics]  # of this prefix, one per BN
    children: dict[tuple[Layers, int], Node] = field(default_factory=dict)  # by the layers and their weights
    archs: list[Arch] = field(default_factory=list)  # of a head: those that end here; genes of what does not run differ
    hits: int | Tensor = 0  # of a head, for each class: int64 [classes]

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
    """The images as root, below it a node for each distinct prefix of the layers of ``archs``; the leaves are heads."""
    root, specs = Node.of(nn.Identity()), layout(supernet.space)
    for arch in archs:
        node, picked = root, iter(specs.pick(arch))
        for module, layers in joined(supernet.path(arch)):
            # two stages can have layers that are alike
            key = tuple(itertools.islice(picked, layers)), id(getattr(module, "shared", module))
            if key not in node.children:
                node.children[key] = Node.of(module)
            node = node.children[key]
        node.archs.append(arch)
    return root


def groups(archs: Sequence[Arch], n: int) -> list[list[Arch]]:
    """At most ``n`` groups of neighbours in the prefix tree, of about the same size.

    A cut moves by up to a quarter of a group to where the neighbours have the shortest prefix in common.
    """
    archs, cuts = sorted(archs), [0]
    n = min(n, len(archs))
    reach = len(archs) // (4 * n) if n else 0
    for i in range(1, n):
        fair = round(i * len(archs) / n)
        near = range(max(fair - reach, cuts[-1] + 1), min(fair + reach, len(archs) - 1) + 1)
        cuts.append(min(near, key=lambda at: (_common(archs[at - 1], archs[at]), abs(at - fair))))
    return [archs[i:j] for i, j in itertools.pairwise([*cuts, len(archs)]) if i < j]


def work(space: Space, archs: Sequence[Arch]) -> int:
    """Multiply-adds of a group on one image: every distinct prefix of layers runs once."""
    specs = layout(space)
    paths = (tuple(specs.pick(arch)) for arch in archs)
    return sum(node[-1].flops for node in {path[: i + 1] for path in paths for i in range(len(path))})


def _common(a: Arch, b: Arch) -> int:
    """The length of the prefix that two architectures share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


@dataclass(frozen=True)
class Scored:
    """What some architectures have right, and what that took."""

    hits: dict[Arch, list[int]]  # by class
    images: list[int]  # of each class
    runs: int  # of a layer on all images
    separate_runs: int  # how many there would be without sharing
    peak_bytes: int  # of the activations on the path


class Evaluator:
    """One-shot accuracy on a fixed validation split, each architecture once.

    BN normalises a score by ``mode``:

        recalibrated  the pooled mean and variance of the path on the recalibration images (``recalibrate_bn``)
        batch         mean and variance of each validation batch
        inherited     the running averages that training left in the supernet

    The architectures of a call are divided among the workers of ``executor``, on the CPU threads of one core each,
    which at the sizes of a search is faster than one network on all cores; neighbours in the tree stay together. Every
    worker has a copy of the supernet. Scores depend neither on the workers nor on the other architectures of a call.

    Args:
        recalibration: batches of training images, not augmented; the same for every architecture.
        validation: batches of images and labels. Both are iterated over once per call and worker.
        metric: what an accuracy is.
        int8: validate by fake quantisation, with ranges of each batch, BN as it is for floats.

    Raises:
        UserError: an unknown mode, a metric that tells nothing about so many classes, or no batches; fake quantisation
            by other modules than plain PyTorch's.
    """

    def __init__(
        self,
        supernet: Supernet,
        recalibration: Stream[Tensor],
        validation: Stream[tuple[Tensor, Tensor]],
        executor: Executor = Threads(),
        mode: Mode = "recalibrated",
        metric: Metric = TOP1,
        int8: bool = False,
    ):
        metrics.require(metric, supernet.space.classes)
        if int8 and supernet.options["kernels"] != "eager":
            raise UserError("fake quantisation is of plain PyTorch: expected eager kernels")
        if mode not in get_args(Mode):
            raise UserError(f"unknown BN mode {mode!r}: expected one of {', '.join(get_args(Mode))}")
        if not len(validation) or (mode == "recalibrated" and not len(recalibration)):
            raise UserError("nothing to score with: expected validation batches, and images to recalibrate BN with")
        self.scorer = Scorer(supernet, recalibration, validation, mode, metric, int8)
        self.executor, self.mode, self.metric = for_device(executor, self.scorer.device), mode, metric
        self.scores: dict[Arch, float] = {}
        self.runs = self.separate_runs = self.peak_bytes = 0  # as ``Scored`` has them; the peak of one worker

    def __call__(self, archs: Sequence[Arch], bar: Track | None = None) -> list[float]:
        """Accuracies in [0, 1], in the order of ``archs``."""
        if new := {arch for arch in archs if arch not in self.scores}:
            parts = {f"group {i}": (group,) for i, group in enumerate(self.tasks(list(new)))}
            with contextlib.closing(self.executor.map(self.scorer, parts, nothing)) as ready:
                for _, scored in ready:
                    self._keep(scored)
                    if bar is not None:
                        bar.advance(len(scored.hits))
        return [self.scores[arch] for arch in archs]

    def tasks(self, archs: Sequence[Arch]) -> list[list[Arch]]:
        """What the workers do: several groups for each, the longest first, so that none waits long for the last one."""
        workers, space = self.executor.at_once, self.scorer.supernet.space
        parts = groups(archs, workers * GROUPS if workers > 1 else 1)
        return sorted(parts, key=lambda part: work(space, part), reverse=True)

    def _keep(self, scored: Scored) -> None:
        self.scores |= {arch: metrics.share(h, scored.images, self.metric) for arch, h in scored.hits.items()}
        self.runs += scored.runs
        self.separate_runs += scored.separate_runs
        self.peak_bytes = max(self.peak_bytes, scored.peak_bytes)

    def doubt(self, arch: Arch) -> dict[str, Any]:
        """The interval of an architecture's accuracy, and how many images it rests on, as results have them."""
        scored = self.scorer([arch])
        ends = metrics.interval(scored.hits[arch], scored.images, self.metric)
        return {"one_shot_accuracy_interval": list(ends), "one_shot_images": sum(scored.images)}

    @property
    def summary(self) -> str:
        """One line: what sharing saved and how much memory it took."""
        known = f"{several(len(self.scores), 'architecture')}, BN {self.mode}"
        if not self.runs:
            return f"{known}; all of them were known"
        ratio = f"{self.separate_runs / self.runs:.2f}"
        shared = "" if ratio == "1.00" else f"{ratio} times fewer layer runs by shared first layers; "
        return f"{known}; {shared}activations take at most {self.peak_bytes / 2**20:.1f} MiB per worker"


class Scorer:
    """Scores groups of architectures, each on a copy of the supernet: what a worker holds."""

    def __init__(
        self,
        supernet: Supernet,
        recalibration: Stream[Tensor],
        validation: Stream[tuple[Tensor, Tensor]],
        mode: Mode,
        metric: Metric = TOP1,
        int8: bool = False,
    ):
        self.int8 = int8
        self.supernet = copy.deepcopy(supernet).eval()
        self.recalibration, self.validation, self.mode, self.metric = recalibration, validation, mode, metric
        self.device = next(supernet.parameters()).device
        self.idle: list[Supernet] = []  # copies that no thread is at

    @torch.inference_mode()
    def __call__(self, archs: Sequence[Arch]) -> Scored:
        """The accuracies of distinct architectures; several threads may ask at once."""
        model = self.idle.pop() if self.idle else copy.deepcopy(self.supernet)
        tree, walk = prefix_tree(model, archs), Walk(self.metric)
        norms = list(batch_norms([model]))
        if self.mode == "recalibrated":
            for bn in norms:
                bn.train()
            for x in self.recalibration:
                with faults.memory(walk.doing, x, LOWER):
                    walk(tree, _channels_last(x, self.device), _pool)
        for bn in norms:
            bn.train(self.mode == "batch")
        layer = _recalibrated if self.mode == "recalibrated" else _as_it_is
        images = torch.zeros(model.space.classes, dtype=torch.long)
        for x, y in self.validation:
            with faults.memory(walk.doing, x, LOWER), faking(self.int8):
                walk(tree, _channels_last(x, self.device), layer, y.to(self.device))
            images += torch.bincount(y, minlength=len(images))
        nodes = list(tree)
        hits = {arch: torch.as_tensor(node.hits).tolist() for node in nodes for arch in node.archs}
        separate = sum(len(list(joined(model.path(arch)))) for arch in archs)
        self.idle.append(model)
        return Scored(hits, images.tolist(), len(nodes) - 1, separate, walk.peak_bytes)  # the root runs nothing


@dataclass
class Walk:
    """Passes batches through a tree, depth first."""

    metric: Metric = TOP1  # that hits are counted for
    peak_bytes: int = 0  # of the activations on a path
    node: Node | None = None  # that a batch passes

    def doing(self) -> str:
        """What is under way: the first architecture below the node is named for all."""
        archs = [arch for node in self.node or () for arch in node.archs]
        return f"scoring{faults.on(archs[0] if archs else None)}"

    def __call__(
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
        self.node = node
        y = layer(node, x)
        live += _new_bytes(x, y)
        self.peak_bytes = max(self.peak_bytes, live)
        if labels is not None and node.archs:
            node.hits = node.hits + evaluation.hits(y, labels, self.metric)
        for child in node.children.values():
            self(child, y, layer, labels, live)


def _new_bytes(x: Any, y: Any) -> int:
    """Bytes of what a layer made: it may hand on a tensor, or several of which it got some."""
    before = {id(tensor) for tensor in (x if isinstance(x, tuple) else (x,))}
    return sum(tensor.nbytes for tensor in (y if isinstance(y, tuple) else (y,)) if id(tensor) not in before)


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
