"""Found networks as Figure 1 of Efficient Global NAS: a block per layer. No torch.

Height is that of the image, width the number of channels, colour the operation with its kernel; where the size
changes, a label gives channels and size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from supernet.size import Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Block:
    """One layer: size and channels of its output, and the name of its operation."""

    size: Size
    channels: int
    op: str


def draw(file: Path | BinaryIO, networks: Mapping[str, Sequence[Block]]) -> None:
    """Write a picture with a row for each network; the suffix of a path gives its format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.6 * len(networks) + 0.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    draw_on(figure, networks)
    figure.savefig(file)


def draw_on(figure: Figure, networks: Mapping[str, Sequence[Block]]) -> None:
    """The same on a figure."""
    from matplotlib.patches import Patch, Rectangle

    rows = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
    ops = sorted({block.op for blocks in networks.values() for block in blocks})
    colours = {op: f"C{i}" for i, op in enumerate(ops)}
    widest = max(sum(block.channels for block in blocks) for blocks in networks.values())
    for axes, (name, blocks) in zip(rows, networks.items(), strict=True):
        largest, gap = max(block.size.height for block in blocks), 0.004 * widest
        x = 0.0
        for before, block in zip((None, *blocks), blocks, strict=False):
            if before is None or before.size != block.size:
                axes.text(x, largest * 1.06, f"{block.channels} @ {block.size}", fontsize=7, va="bottom", rotation=20)
            corner = (x, (largest - block.size.height) / 2)
            colour = colours[block.op]
            axes.add_patch(
                Rectangle(corner, block.channels, block.size.height, facecolor=colour, edgecolor="0.2", linewidth=0.4)
            )
            x += block.channels + gap
        axes.set(xlim=(-gap, widest + gap * max(map(len, networks.values()))), ylim=(-0.02 * largest, largest * 1.5))
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.legend(
        handles=[Patch(facecolor=colours[op], label=op) for op in ops], loc="outside lower center", ncols=4, fontsize=8
    )
