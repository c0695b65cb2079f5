"""What can be chosen in a given network: widths of channels that belong together, heads of attention, depths of runs of
blocks, kernels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import fx, nn

from supernet.families.given.channels import FIXED, Along, Channels
from supernet.families.given.modules import SameConv2d
from supernet.families.given.trace import MEMBERS
from supernet.quantities import several

STEP, QUARTER, CHOICES = 8, 0.25, 8  # widths are multiples of the first, from this share of all on, so many at most
FEW = 2  # groups whose widths can differ where they are concatenated


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that play the same part everywhere, so that any of them can be left out, in any order.

    Attributes:
        name: the layer that makes them.
        labels: of their classes in ``Channels.labels``, in the order in which the layer makes them.
        each: channels of that layer in a class, more than one where groups of channels are cut together.
        attention: the module of which the classes are the heads, if they are; "" if that is the network.
    """

    name: str
    labels: np.ndarray
    each: int
    attention: str | None

    @property
    def total(self) -> int:
        """How many channels of the layer they are."""
        return len(self.labels) * self.each

    def counts(self, n: int) -> list[int]:
        """At most ``n`` numbers of channels to choose from, ascending, evenly spread; the last one is all."""
        unit = math.lcm(self.each, STEP) if self.attention is None else self.each
        fit = [count for count in range(unit, self.total, unit) if count >= QUARTER * self.total] + [self.total]
        places = np.linspace(0, len(fit) - 1, min(n, len(fit))).round().astype(int)
        return [fit[place] for place in places]


@dataclass(frozen=True, eq=False)
class Width:
    """How many channels there are, of one group, or of several that are concatenated.

    Attributes:
        groups: each has its own numbers of channels to choose from.
        choices: for each choice the number of channels of each group, ascending; the last one is all.
    """

    groups: tuple[Group, ...]
    choices: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        return self.groups[0].name

    @property
    def counts(self) -> tuple[int, ...]:
        """Those of the first group."""
        return tuple(counts[0] for counts in self.choices)


class Heads(Width):
    """How many heads an attention has; their size stays."""

    @property
    def name(self) -> str:
        return self.groups[0].attention or self.groups[0].name

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(count // self.groups[0].each for count in super().counts)


@dataclass(frozen=True, eq=False)
class Block:
    """A part of the graph that gives what it gets changed, so that it can be left out."""

    nodes: tuple[fx.Node, ...]
    source: fx.Node
    result: fx.Node

    @cached_property
    def added(self) -> dict[fx.Node, fx.Node]:
        """What it adds to what it gets, and then to the sum, for each node that does so."""
        found: dict[fx.Node, fx.Node] = {}
        same = {self.source}
        for node in self.nodes:
            inputs = node.all_input_nodes
            others = [one for one in inputs if one not in same]
            if _sums(node) and len(inputs) == 2 and len(others) == 1:
                (found[node],), same = others, {node}
            elif not others and _does_nothing(node):
                same.add(node)
        return found


@dataclass(frozen=True, eq=False)
class Depth:
    """Blocks in a row of which the last ones can be left out.

    Attributes:
        name: the module that they are in, or the first of them.
        blocks: in their order.
        fixed: how many blocks are counted that always run before them.
    """

    name: str
    blocks: tuple[Block, ...]
    fixed: int

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of blocks of the module to choose from, ascending."""
        return tuple(range(max(1, self.fixed), self.fixed + len(self.blocks) + 1))


@dataclass(frozen=True, eq=False)
class Kernel:
    """A depthwise convolution whose kernel can be cut to its centre."""

    name: str
    counts: tuple[int, ...]


def widths(channels: Channels, labels: np.ndarray) -> Iterator[Width]:
    """Groups of channels; those that are concatenated, more than ``FEW`` at a time, have one gene, so that few genes
    decide what a layer is.
    """
    groups = [group for group in _groups(channels, labels) if len(group.counts(CHOICES)) > 1]
    of_label = {int(label): i for i, group in enumerate(groups) for label in group.labels}
    together = {i: {i} for i in range(len(groups))}
    for of in channels.of.values():
        for along in of if isinstance(of, list) else [of]:
            found = (
                {of_label[label] for label in map(int, labels[along.atoms]) if label in of_label} if along else set()
            )
            if len(found) > FEW:
                joined = set().union(*(together[i] for i in found))
                together |= dict.fromkeys(joined, joined)
    for members in {min(same): sorted(same) for same in together.values()}.values():
        own = [groups[i] for i in members]
        n = max(len(group.counts(CHOICES)) for group in own)
        spread = [
            [counts[round(i * (len(counts) - 1) / (n - 1))] for i in range(n)]
            for counts in (group.counts(CHOICES) for group in own)
        ]
        told = {choice[0]: choice for choice in zip(*spread, strict=True)}  # by the count of the first group
        kind = Width if own[0].attention is None or len(own) > 1 else Heads
        yield kind(tuple(own), tuple(told.values()))


def _groups(channels: Channels, labels: np.ndarray) -> Iterator[Group]:
    """Channels with the same part: each axis of each weight, and what each node changes, has the same number of
    elements of every one of them.
    """
    rng, parts = np.random.default_rng(0), np.zeros(labels.max() + 1, np.uint64)
    for atoms in [*(own for axes in channels.weights.values() for own in axes.values()), *channels.changed]:
        found, counts = np.unique(labels[atoms], return_counts=True)
        parts[found] += counts.astype(np.uint64) * rng.integers(2**64, dtype=np.uint64)  # a sum tells them apart
    parts[labels[FIXED]] = 0
    attention = {int(label): name for name, atoms in channels.heads for label in labels[atoms].ravel()}
    seen: set[int] = set()
    for name, atoms in channels.made.items():
        by_part: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for label in labels[atoms]:
            by_part[int(parts[label])][int(label)] += 1
        for part, classes in by_part.items():
            if part and part not in seen:
                seen.add(part)
                label, each = next(iter(classes.items()))
                yield Group(name, np.array(list(classes)), each, attention.get(label) if each > 1 else None)


def whole(channels: Channels, labels: np.ndarray, chosen: Collection[Width]) -> dict[str, str]:
    """Why the channels of a layer all stay, for each layer of which no gene leaves out some."""
    cut = {int(label) for width in chosen for group in width.groups for label in group.labels}
    free = channels.labels(fixed=False)
    reasons = [(reason, {*map(int, free[atoms])}) for reason, atoms in channels.whole]
    found = {}
    for name, atoms in channels.made.items():
        if not cut.isdisjoint(map(int, labels[atoms])):
            continue
        own = {*map(int, free[atoms])}
        fixed = (reason for reason, classes in reasons if not own.isdisjoint(classes))
        small = len(atoms) == len(own) <= STEP
        few = (
            several(len(own), "channel is too few", "channels are too few")
            if small
            else "its channels cannot be told apart"
        )
        found[name] = next(fixed, few)
    return found


def depths(graph: fx.GraphModule, channels: Channels, labels: np.ndarray) -> Iterator[Depth]:
    """Runs of blocks that follow each other in a module, the outermost ones that are no runs of blocks themselves.

    Those at the end of a module are its depth; others, as in one long sequence, are named by their first block, and
    all of them add to what they get, which tells them from parts of a block.
    """
    members = graph.meta[MEMBERS]
    inside: list[str] = []
    for name, paths in members.items():
        if any(f"{name}.".startswith(f"{outer}.") for outer in inside):
            continue
        blocks = [_block(graph, path, channels, labels) for path in paths]
        for start, end in _runs(blocks):
            run = [block for block in blocks[start:end] if block is not None]
            follows = start > 0 and _within(run[0].source, paths[start - 1])
            last = end == len(blocks)
            if (start and not follows) or (not start and end < 2) or not (last or all(block.added for block in run)):
                continue
            if any(
                _is_run(graph, path, block, channels, labels) for path, block in zip(paths[start:], run, strict=False)
            ):
                continue
            inside += [name] if last else paths[start:end]
            yield Depth(name, tuple(run), start) if last else Depth(paths[start], tuple(run), int(follows))


def _runs(blocks: Sequence[Block | None]) -> Iterator[tuple[int, int]]:
    """From where to where blocks follow each other, of which each gets what the one before gives."""
    start = 0
    for place, block in enumerate([*blocks, None]):
        before = blocks[place - 1] if place > start else None
        if block is None or (before is not None and before.result is not block.source):
            if place > start:
                yield start, place
            start = place if block is not None else place + 1


def _is_run(graph: fx.GraphModule, path: str, whole: Block, channels: Channels, labels: np.ndarray) -> bool:
    """Whether a module is blocks that follow each other and nothing else."""
    running = [part for part in graph.meta[MEMBERS][path] if any(_within(node, part) for node in whole.nodes)]
    blocks = [_block(graph, part, channels, labels) for part in running]
    if [*_runs(blocks)] != [(0, len(blocks))]:
        return False
    first, last = blocks[0], blocks[-1]
    return first is not None and last is not None and (first.source, last.result) == (whole.source, whole.result)


def _block(graph: fx.GraphModule, path: str, channels: Channels, labels: np.ndarray) -> Block | None:
    """The nodes of a module, if it gives what it gets in the same channels, and nothing else reads what it gets.

    It makes channels within and adds them to others, since else it would be a part of a block.
    """
    nodes = [node for node in graph.graph.nodes if node.op != "get_attr" and _within(node, path)]
    if not nodes:
        return None
    own = set(nodes)
    sources = {s for node in nodes for s in node.all_input_nodes if s not in own and s.op != "get_attr"}
    results = [node for node in nodes if any(user not in own for user in node.users)]
    if len(sources) != 1 or results != nodes[-1:] or not any(str(node.target) in channels.made for node in nodes):
        return None
    if not any(map(_sums, nodes)):
        return None
    (source,), (result,) = sources, results
    before, after = channels.of.get(source), channels.of.get(result)
    if not isinstance(before, Along) or not isinstance(after, Along) or any(user not in own for user in source.users):
        return None
    same = before.axis == after.axis and np.array_equal(labels[before.atoms], labels[after.atoms])
    if not same or source.meta["value"].shape != result.meta["value"].shape:
        return None
    return Block(tuple(nodes), source, result)


def _sums(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name.strip("_") in ("add", "iadd", "sum") and not node.kwargs


def _does_nothing(node: fx.Node) -> bool:
    whole = node.graph.owning_module
    return node.op == "call_module" and whole is not None and type(whole.get_submodule(str(node.target))) is nn.Identity


def _within(node: fx.Node, path: str) -> bool:
    stack = node.meta.get("nn_module_stack") or {}
    return any(name == path or name.startswith(f"{path}.") for name, _ in stack.values())


def kernels(graph: fx.GraphModule) -> Iterator[Kernel]:
    """Depthwise convolutions of 5×5 pixels and more."""
    for name in dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "call_module"):
        conv = graph.get_submodule(name)
        if not isinstance(conv, nn.Conv2d) or not conv.groups == conv.in_channels == conv.out_channels > 1:
            continue
        size, other = conv.kernel_size
        centred = conv.padding in ((size // 2,) * 2, "same") or isinstance(conv, SameConv2d)
        if size == other >= 5 and size % 2 and conv.dilation == (1, 1) and centred:
            yield Kernel(name, tuple(range(3, size + 1, 2)))
