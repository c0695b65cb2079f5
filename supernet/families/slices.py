"""A part of a shared layer that some architectures run, with views of the shared tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from supernet.active import Box, active, part
from supernet.norm import BatchNorm, PooledStatistics

Runs = Sequence[Sequence[tuple[int, int]]]  # along each axis of a tensor from where to where, once or several times


class Sliced(NamedTuple):
    """A tensor of a layer that is part of a shared one.

    Args:
        name: of the submodule that has it.
        mine, theirs: that submodule of the own and of the shared layer.
        key: name of the tensor in them.
        boxes: the part; several where the channels of several layers are concatenated.
        counts: how many of them there are along each axis.
        folded: whether matrices make its kernel smaller.
    """

    name: str
    mine: nn.Module
    theirs: nn.Module
    key: str
    boxes: tuple[Box, ...]
    counts: tuple[int, ...]
    folded: bool = False

    @classmethod
    def of(cls, name: str, mine: nn.Module, theirs: nn.Module, key: str, runs: Runs) -> Sliced:
        """What ``runs`` have of a tensor."""
        return cls(name, mine, theirs, key, tuple(itertools.product(*runs)), tuple(map(len, runs)))

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The boxes as one tensor."""
        for axis in reversed(range(len(self.counts))):
            if (n := self.counts[axis]) > 1:
                parts = [torch.cat(list(parts[i : i + n]), axis) for i in range(0, len(parts), n)]
        return parts[0]


class Slice(nn.Module):
    """It holds no weights: its submodules are those of the shared layer that run, its parameters theirs.

    What is outside of it has no gradient and, with our optimiser, does not move.

    Args:
        run: the own layer's forward pass.
        pairs: the submodules of the own layer with those of the shared one.
        weights, statistics: the parameters and the buffers.
    """

    def __init__(
        self,
        run: Callable[[Any], Any],
        pairs: Sequence[tuple[nn.Module, nn.Module]],
        weights: Sequence[Sliced],
        statistics: Sequence[Sliced],
    ):
        super().__init__()
        self.run, self.pairs, self.weights, self.statistics = run, list(pairs), list(weights), list(statistics)
        self.scattered = [t for t in statistics if len(t.boxes) > 1]
        self.norms = [
            (mine, theirs) for mine, theirs in pairs if isinstance(mine, BatchNorm) and isinstance(theirs, BatchNorm)
        ]
        self.parts = nn.ModuleList(dict.fromkeys(t.theirs for t in (*weights, *statistics)))

    def tensors(self) -> Iterator[tuple[Sliced, Tensor]]:
        """Every tensor of the own layer, and what stands for it."""
        shared = [getattr(t.theirs, t.key) for t in self.weights for _ in t.boxes]
        views = iter(active(shared, [box for t in self.weights for box in t.boxes]))
        for t in self.weights:
            yield t, t.joined([next(views) for _ in t.boxes])
        for t in self.statistics:
            yield t, t.joined([part(getattr(t.theirs, t.key), box) for box in t.boxes])

    def forward(self, x: Any, *how: Any) -> Any:
        for t, value in self.tensors():
            vars(t.mine)[t.key] = value
        for mine, theirs in self.pairs:
            mine.training = theirs.training
        for mine, theirs in self.norms:
            mine.pool, mine.sync, mine.ran = theirs.pool, theirs.sync, theirs.ran
        for t in self.scattered:
            if isinstance(t.theirs, BatchNorm) and t.theirs.pool is not None and t.key == "running_mean":
                t.mine.pool = Scattered(t.theirs, t.boxes)  # type: ignore[assignment]
        y = self.run(x, *how)
        for mine, theirs in self.norms:
            theirs.ran = mine.ran
        for t in self.scattered:
            self.keep(t)
        for t in (*self.weights, *self.statistics):
            del vars(t.mine)[t.key]
        return y

    @staticmethod
    @torch.no_grad()
    def keep(t: Sliced) -> None:
        """Statistics that were put together from several parts go back to where they came from."""
        values = vars(t.mine)[t.key].split([end - start for ((start, end),) in t.boxes])
        for box, value in zip(t.boxes, values, strict=True):
            part(getattr(t.theirs, t.key), box).copy_(value)

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]  # never asked for as part of a module
        """The weights of the stand-alone layer by the names used there."""
        return {f"{t.name}.{t.key}".lstrip("."): value for t, value in self.tensors()}


class Scattered:
    """Collects the statistics of some parts of a BN's channels; the others keep theirs."""

    def __init__(self, norm: BatchNorm, boxes: Sequence[Box]):
        assert isinstance(norm.pool, PooledStatistics)
        self.pool, self.norm, self.boxes = norm.pool, norm, boxes

    def add(self, n: int, mean: Tensor, var: Tensor) -> None:
        """As ``PooledStatistics.add``."""
        means, vars_ = self.norm.running_mean.clone(), self.norm.running_var.clone()
        start = 0
        for ((first, last),) in self.boxes:
            means[first:last], vars_[first:last] = (v[start : start + last - first] for v in (mean, var))
            start += last - first
        self.pool.add(n, means, vars_)
