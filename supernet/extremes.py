"""The cheapest and the most expensive architecture of a space, exactly. No torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from supernet.errors import UserError
from supernet.space import Arch, Space


def extreme(
    space: Space,
    tables: Sequence[Any],
    genes: Sequence[tuple[int, ...]],
    combine: np.ufunc,
    pick: Callable[..., np.ndarray],
) -> Arch:
    """The cheapest (argmin) or most expensive (argmax) open architecture, where one entry of each table combines.

    Genes are eliminated one after the other: each one's best choice is found for all choices of the genes that
    share a table with it. The next one is that whose table is smallest: one that all layers depend on comes last.
    Going back, the choice of each gene fixes that of those eliminated before it.

    Args:
        tables: with an axis for each of the table's ``genes``, over all of their choices.
        combine: ``np.add`` or ``np.maximum``.

    Raises:
        UserError: an entry of an open choice is not finite.
    """
    factors = []
    for table, own in zip(tables, genes, strict=True):
        factors.append((np.asarray(table, float)[np.ix_(*(space.allowed[g] for g in own))], own))
        if not np.isfinite(factors[-1][0]).all():
            names = ", ".join(space.genes[g].name for g in own)
            raise UserError(f"the cost table of gene {names} is not finite: {factors[-1][0].tolist()}")

    def neighbours(gene: int) -> set[int]:
        return {g for _, own in factors if gene in own for g in own} - {gene}

    best: list[tuple[int, np.ndarray, tuple[int, ...]]] = []
    left = set(range(len(space.genes)))
    while left:
        gene = min(left, key=lambda g: (math.prod(len(space.allowed[n]) for n in neighbours(g)), g))
        left.remove(gene)
        others = tuple(sorted(neighbours(gene)))
        mine = [factor for factor in factors if gene in factor[1]]
        factors = [factor for factor in factors if gene not in factor[1]]
        whole = functools.reduce(combine, (_aligned(t, own, (gene, *others)) for t, own in mine))
        best.append((gene, pick(whole, axis=0), others))
        factors.append((np.take_along_axis(whole, best[-1][1][None], 0)[0], others))
    place = [0] * len(best)
    for gene, choice, others in reversed(best):
        place[gene] = int(choice[tuple(place[g] for g in others)])
    return tuple(open_[i] for open_, i in zip(space.allowed, place, strict=True))


def _aligned(table: np.ndarray, genes: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """``table`` with an axis for each of ``axes``, of length 1 where it has none."""
    order = [genes.index(g) for g in axes if g in genes]
    return table.transpose(order).reshape([table.shape[genes.index(g)] if g in genes else 1 for g in axes])


def smallest(space: Space) -> Arch:
    """The open architecture with the fewest multiply-adds, one of them if several have as few."""
    tables, _, genes = _multiply_adds(space)
    return extreme(space, tables, genes, np.add, np.argmin)


def largest(space: Space) -> Arch:
    """The open architecture with the most multiply-adds; in an elastic space the one that all others are parts of.

    Raises:
        UserError: another one has as many.
    """
    from supernet.families import elastic, layout

    if isinstance(specs := layout(space), elastic.ElasticLayout):
        return specs.largest
    tables, base, genes = _multiply_adds(space)

    def cost(arch: Sequence[int]) -> float:
        return math.fsum(
            [base, *(table[tuple(arch[g] for g in own)] for table, own in zip(tables, genes, strict=True))]
        )

    found = extreme(space, tables, genes, np.add, np.argmax)
    for place, (gene, open_) in enumerate(zip(space.genes, space.allowed, strict=True)):
        for other in set(open_) - {found[place]}:
            if cost([*found[:place], other, *found[place + 1 :]]) == cost(found):
                names = f"{gene.choices[found[place]].name} and {gene.choices[other].name}"
                raise UserError(
                    f"space {space.name} has no largest network: {names} of gene {gene.name} have as many "
                    "multiply-adds; train it uniformly, or close one of them"
                )
    return found


@functools.lru_cache(maxsize=4)  # for the largest and the smallest one
def _multiply_adds(space: Space) -> tuple[list[np.ndarray], float, list[tuple[int, ...]]]:
    from supernet.families import layout  # the families know of torch, costs do not

    tables, base, genes = layout(space).priced(lambda spec: spec.flops)
    return [np.asarray(table) for table in tables], base, list(genes or [(i,) for i in range(len(tables))])
