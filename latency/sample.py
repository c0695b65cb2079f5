"""Which layers of a space are measured where they are too many: every operation, its extremes, and what lies between.

The sample depends on the space alone, so a device, a killed build and the table's reader choose alike.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from supernet.spec import LayerSpec

FEW = 12  # layers of one operation, at least, to learn from; where there are no more, all are measured
HELD_OUT = 10  # one in so many measured layers is not learnt from, but states the error
BYTES = 4  # of a float32
VECTOR = 16  # float32 in the widest vectors, and channels in the blocks that convolutions work on
APART = 100.0  # distance between operations, above any distance within one


def features(specs: Sequence[LayerSpec]) -> np.ndarray:
    """What the latency of layers depends on, ``[layers, features]``: sizes as logarithms, kinds as 0 and 1.

    Channels in, in the middle and out, and how many more fill whole vectors; size before and after (the side of a
    square of as many pixels), kernel, stride, multiply-adds, weights, bytes read and written, then squeeze-excite, a
    shortcut's convolution, and each activation.
    """
    acts = sorted({spec.act for spec in specs})
    rows = []
    for spec in specs:
        convs = spec.convs.values()
        read = sum(c.in_channels * c.stride**2 * c.size.pixels for c in convs)
        written = sum(c.out_channels * c.size.pixels for c in convs)
        channels = (spec.in_channels, spec.middle or spec.in_channels * max(spec.expand, 1), spec.out_channels)
        sizes = [
            *channels,
            *(math.ceil(c / VECTOR) * VECTOR / c for c in channels),
            math.sqrt(spec.size.pixels),
            math.sqrt(spec.out_size.pixels),
            max(spec.kernel, 1),
            spec.stride,
            spec.flops + 1,
            BYTES * spec.params + 1,
            BYTES * (spec.in_channels * spec.size.pixels + read),
            BYTES * (spec.out_channels * spec.out_size.pixels + written),
            spec.before + 1,
        ]
        kinds = [spec.squeeze_excite, "shortcut" in spec.convs, *(spec.act == act for act in acts)]
        rows.append([*map(math.log, sizes), *map(float, kinds)])
    return np.array(rows)


def required(specs: Sequence[LayerSpec]) -> frozenset[str]:
    """Keys of the layers without which nothing is predicted: the extremes of each kind, ``FEW`` of each operation."""
    return _required(tuple(specs))


@functools.lru_cache(maxsize=2)  # a space's, asked for at every step of a build
def _required(specs: tuple[LayerSpec, ...]) -> frozenset[str]:
    kinds, operations = defaultdict(list), defaultdict(list)
    for spec in specs:
        kinds[spec.op, spec.kernel, spec.stride, spec.act, spec.squeeze_excite, tuple(spec.convs)].append(spec)
        operations[spec.op].append(spec)
    keys = {
        extreme(alike, key=lambda s: (s.flops, s.params, s.key)).key
        for alike in kinds.values()
        for extreme in (min, max)
    }
    for alike in operations.values():
        known = {spec.key for spec in alike} & keys
        keys |= {spec.key for spec in further(alike, known, FEW - len(known))}
    return frozenset(keys)


def least(specs: Sequence[LayerSpec]) -> int:
    """The smallest sample of a space: what is ``required``, and the layers held out."""
    return min(len(specs), math.ceil(len(required(specs)) * HELD_OUT / (HELD_OUT - 1)))


def held_out(specs: Sequence[LayerSpec], n: int) -> set[str]:
    """Keys of the layers that state the error of a sample of ``n``: drawn at random, by a digest of their key."""
    needed = required(specs)
    others = (spec.key for spec in specs if spec.key not in needed)
    return set(sorted(others, key=lambda key: hashlib.sha256(key.encode()).digest())[: n // HELD_OUT])


def covered(specs: Sequence[LayerSpec]) -> Callable[[Collection[str]], bool]:
    """Tells whether layers, by their keys, are a sample that ``first`` draws."""
    return lambda keys: len(keys) >= least(specs) and {spec.key for spec in first(specs, len(keys))} == set(keys)


def first(specs: Sequence[LayerSpec], n: int) -> list[LayerSpec]:
    """A sample of ``n`` layers: those required, those held out, and others as far from these as they can be.

    Args:
        n: at least ``least(specs)``.
    """
    keys = required(specs) | held_out(specs, n)
    return [spec for spec in specs if spec.key in keys] + further(specs, keys, n - len(keys))


def further(
    specs: Sequence[LayerSpec], known: Collection[str], n: int, doubt: Mapping[str, float] | None = None
) -> list[LayerSpec]:
    """Up to ``n`` layers besides those ``known``: one after the other, the farthest from all that are chosen.

    Args:
        doubt: of each layer, how unsure its prediction is; distances are multiplied by it.
    """
    x = features(specs)
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    operations = np.array([spec.op for spec in specs])
    weight = np.array([doubt.get(spec.key, 0.0) for spec in specs]) if doubt else np.ones(len(specs))
    distance = np.full(len(specs), APART)

    def choose(i: int) -> None:
        own = operations == operations[i]
        distance[own] = np.minimum(distance[own], np.linalg.norm(x[own] - x[i], axis=1))

    for i, spec in enumerate(specs):
        if spec.key in known:
            choose(i)
    found = []
    for _ in range(min(n, len(specs) - len(known))):
        i = int(np.argmax(np.where(distance > 0, distance * weight + 1e-12 * distance, -1)))
        found.append(specs[i])
        choose(i)
    return found
