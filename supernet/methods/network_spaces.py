"""Network spaces: ranges of depths and widths of stages, drawn by Gumbel-softmax and run softly (NSS).

Weights are shared by channel masks and by the depth mixture; the most probable space is the elite one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from supernet.errors import UserError
from supernet.families import layout, residual
from supernet.model import Supernet
from supernet.quantities import digits
from supernet.space import Space
from supernet.spec import Price

MAX_SPACES = 2**24
# Per gene the choices in each range: ranges[gene][b] holds indices of choices, ascending.
Ranges = list[list[tuple[int, ...]]]


def split(space: Space, sizes: tuple[int, int]) -> Ranges:
    """The open choices of every gene in ranges of ``sizes`` depths or widths; the last one may be shorter."""
    residual.require(space)
    if min(sizes) < 1:
        raise UserError(f"ranges of {sizes[0]} depths and {sizes[1]} widths: expected at least 1 of each")
    ranges = [
        [open_[i : i + sizes[gene % 2]] for i in range(0, len(open_), sizes[gene % 2])]
        for gene, open_ in enumerate(space.allowed)
    ]
    if np.prod([float(len(r)) for r in ranges]) > MAX_SPACES:
        raise UserError(
            f"ranges of {sizes[0]} depths and {sizes[1]} widths make over {MAX_SPACES:,} network spaces of "
            f"{space.name}: make them larger"
        )
    return ranges


@dataclass(frozen=True)
class SpaceCost:
    """What the architectures of a network space cost on average: base + Σ over tables of the genes' ranges."""

    base: float
    tables: tuple[np.ndarray, ...]  # an axis over ranges for each of the genes
    genes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, space: Space, ranges: Ranges, price: Price) -> SpaceCost:
        """Average every layer's ``price`` over the choices in each range; genes are drawn independently."""
        tables, base, genes = layout(space).priced(price)
        genes = genes or [(i,) for i in range(len(tables))]
        averaged = []
        for table, own in zip(tables, genes, strict=True):
            for axis, gene in enumerate(own):
                means = [table.take(range_, axis).mean(axis) for range_ in ranges[gene]]
                table = np.stack(means, axis)
            averaged.append(table)
        return cls(base, tuple(averaged), tuple(genes))

    def violation(self, target: float, tolerance: float) -> np.ndarray:
        """By how much each network space misses the target: ½ + ½·|cost / T − 1|, at most 1; 0 within the tolerance.

        Float32, an axis per gene. Its mean over drawn spaces is what the cost term weighs by λ. The deviation of the
        mean *cost* would be none where cheap and dear spaces are drawn in turn, and leave the most probable one
        anywhere. Without the limit the dearest spaces alone would decide; without the ½ a near miss from which no
        single range leads on would be as good as a hit.
        """
        off = np.abs(self.all() / target - 1)
        return np.where(off > tolerance, np.minimum(0.5 + 0.5 * off, 1), 0).astype(np.float32)

    def all(self) -> np.ndarray:
        """The cost of every network space: an axis per gene."""
        n = 1 + max(gene for genes in self.genes for gene in genes)
        total = np.full((1,) * n, float(self.base))
        for table, genes in zip(self.tables, self.genes, strict=True):
            shape = [1] * n
            for gene, size in zip(genes, table.shape, strict=True):
                shape[gene] = size
            total = total + table.reshape(shape)
        return total


def expected(table: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The mean of a table over network spaces, gene i taking range b with probability ``weights[i][b]``: a scalar."""
    table = table.to(weights[0].dtype)
    for weight in reversed(weights):
        table = table @ weight
    return table


def require_attainable(cost: SpaceCost, targets: Sequence[float], tolerance: float, space: Space) -> None:
    """Refuse targets that no network space meets, naming what there is."""
    if not targets or min(targets) <= 0:
        raise UserError(f"targets {list(targets)}: expected one or more costs above 0")
    costs = cost.all()
    for target in targets:
        nearest = float(costs.flat[np.abs(costs - target).argmin()])
        if abs(nearest / target - 1) > tolerance:
            raise UserError(
                f"no network space of {space.name} costs {digits(target, 4)} ± {tolerance:.0%} on average: they cost "
                f"{digits(costs.min(), 4)} to {digits(costs.max(), 4)}, the nearest "
                f"{digits(nearest, 4)}; set another target"
            )


@dataclass(frozen=True)
class Sample:
    """A soft network space, and one architecture in each of its ranges.

    ``weights[gene]`` ``[ranges]`` are Gumbel-softmax weights g_b, ``sizes[gene][b]`` the depth or width d_b, w_b.
    """

    weights: tuple[Tensor, ...]
    sizes: tuple[tuple[int, ...], ...]


def draw(space: Space, ranges: Ranges, theta: Sequence[Tensor], temperature: float, key: Sequence[int]) -> Sample:
    """A ~ P_Θ by Gumbel-softmax, α ~ U(A); a function of ``key``."""
    rng = np.random.default_rng(key)
    weights, sizes = [], []
    for gene, options, logits in zip(space.genes, ranges, theta, strict=True):
        gumbel = torch.from_numpy(rng.gumbel(size=len(options))).to(logits)
        weights.append(F.softmax((logits + gumbel) / temperature, 0))
        sizes.append(tuple(gene.choices[int(rng.choice(range_))].count for range_ in options))
    return Sample(tuple(weights), tuple(sizes))


def enable(sample: Sample, space: Space, probability: float, key: Sequence[int]) -> Sample:
    """Filter and block warm-up (supplementary C): with ``probability`` all channels, or all blocks, of a stage."""
    full = np.random.default_rng(key).random(len(sample.sizes)) < probability
    weights, sizes = list(sample.weights), list(sample.sizes)
    for gene in np.flatnonzero(full):
        largest = space.genes[gene].choices[space.allowed[gene][-1]].count
        weights[gene], sizes[gene] = torch.ones_like(weights[gene][:1]), (largest,)
    return Sample(tuple(weights), tuple(sizes))


def forward(model: Supernet, x: Tensor, sample: Sample) -> Tensor:
    """Logits of the soft network: channel masks Σ_b g_b·m_{w_b} after BN and ReLU, stage outputs Σ_b g_b·out_{d_b}.

    What has weight 0 does not run: near the temperature's end that is all but one architecture.

    The masks reach the identity paths, too: a channel that is in the widths by weight m leaves a stage's d-th block
    with m^d of what the first shortcut gave it, as each block's output is multiplied. While the temperature is high,
    the upper half of 16 ranges (m ≤ ½) has lost its identity path after a few blocks (½^16 is 1.5e-5); a deep stage
    learns there through its convolutions alone, each with a BN of its own. A channel of the lowest range keeps it
    (m = 1), and so do all while the warm-up enables them.

    Args:
        x: ``[B, C, H, W]``.
    """
    from supernet import ops  # of the methods only this one needs the extension

    x = model.stem(x.contiguous(memory_format=torch.channels_last))
    for stage, blocks in enumerate(model.layers):
        p, g = sample.weights[2 * stage : 2 * stage + 2]
        depths, widths = sample.sizes[2 * stage : 2 * stage + 2]
        depth, width = _largest(depths, p), _largest(widths, g)
        channel = torch.arange(width, device=x.device)
        mask = g @ (channel < torch.tensor(widths, device=x.device)[:, None]).to(g)
        outputs = []
        deepest = [block for block in blocks.children() if isinstance(block, residual.Residual)][:depth]
        for d, block in enumerate(deepest, 1):
            x = block.narrow(x, width, mask)
            if d in depths:
                outputs.append(x)
        x = ops.depth_mix(outputs, p[: len(outputs)])
    return residual.logits(model.head, x)


def _largest(sizes: tuple[int, ...], weights: Tensor) -> int:
    return max(size for size, weight in zip(sizes, weights.tolist(), strict=True) if weight > 0)


def elite(ranges: Ranges, theta: Sequence[Tensor], cost: SpaceCost, target: float, tolerance: float) -> list[int]:
    """The range of each gene in the elite space: the argmax of each stage and variable.

    Where λ did not bring that one within ``tolerance`` of the target: the most probable space that is, which is what a
    λ raised without end would leave.
    """
    log_p = np.zeros(())
    for logits in theta:
        log_p = np.add.outer(log_p, F.log_softmax(logits.detach(), 0).double().cpu().numpy())
    meets = np.abs(cost.all() / target - 1) <= tolerance
    return [int(i) for i in np.unravel_index(np.where(meets, log_p, -np.inf).argmax(), log_p.shape)]


def probabilities(theta: Sequence[Tensor]) -> list[list[float]]:
    """P_Θ of each gene's ranges."""
    return [F.softmax(logits.detach(), 0).tolist() for logits in theta]


def plot(path: Path, tables: Sequence[dict], title: str) -> None:
    """A heat map of the probabilities: a row per stage and variable, a column per range."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(table["ranges"]) for table in tables)
    figure = Figure(figsize=(2 + 0.9 * columns, 1.2 + 0.45 * len(tables)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = np.full((len(tables), columns), np.nan)
    for row, table in enumerate(tables):
        image[row, : len(table["ranges"])] = table["probabilities"]
        for column, (range_, p) in enumerate(zip(table["ranges"], table["probabilities"], strict=True)):
            text = f"{range_[0]}–{range_[-1]}\n{p:.2f}"
            weight, color = "bold" if column == table["elite"] else "normal", "w" if p > 0.5 else "k"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, weight=weight, color=color)
    axes.imshow(image, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set(yticks=range(len(tables)), yticklabels=[table["gene"] for table in tables], xticks=[], title=title)
    axes.title.set_fontsize(8)
    figure.savefig(path)
