"""Pictures of found networks: as Figure 1 of Efficient Global NAS, and as Figure 4 of PAD-NAS. No torch.

In the first (``draw``) height is that of the image, width the number of channels, colour the operation with its kernel;
where the size changes, a label gives channels and size. In the second (``draw_layers``) every layer is a box of the
same size with its operation, in which long networks of many operations stay legible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from supernet.size import Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from supernet.spec import LayerSpec


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
                axes.text(x, largest * 1.06, f"{block.channels} @ {block.size}", fontsize=7, va="bottom", rotation=60)
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


def draw_layers(file: Path | BinaryIO, networks: Mapping[str, Sequence[LayerSpec]]) -> None:
    """Write a picture with a row of boxes for each network: kernel and expansion; layers that run nothing are dashed.

    Colour is the kernel, darker where the expansion is larger. Where channels or size change, they stand above.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    longest, most = max(map(len, networks.values())), max(spec.expand for row in networks.values() for spec in row)
    figure = Figure(figsize=(1.5 + 0.5 * longest, 0.3 + 0.85 * len(networks)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
    shades = {0: "Greys", 3: "Blues", 5: "Oranges", 7: "Greens"}
    for axes, (name, specs) in zip(rows, networks.items(), strict=True):
        before = None
        for x, spec in enumerate(specs):
            shade = colormaps[shades.get(spec.kernel, "Purples")](0.2 + 0.5 * spec.expand / max(most, 1))
            look = {"facecolor": shade} if spec.runs else {"fill": False, "linestyle": "--"}
            axes.add_patch(Rectangle((x + 0.06, 0), 0.88, 1, edgecolor="0.3", linewidth=0.6, **look))
            axes.text(x + 0.5, 0.5, told(spec), fontsize=6, ha="center", va="center")
            place = f"{spec.out_channels}\n{spec.out_size}"
            if place != before:
                axes.text(x + 0.06, 1.08, place, fontsize=6, va="bottom")
            before = place
        axes.set(xlim=(-0.1, longest + 0.1), ylim=(-0.05, 1.9), xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.spines[:].set_visible(False)
    figure.savefig(file)


def told(spec: LayerSpec) -> str:
    """A layer in a box of ``draw_layers``: ``3×3``, below it ``e6``; its name where it is of another kind."""
    kernel = f"{spec.kernel}×{spec.kernel}" if spec.kernel else ""
    kind = f"e{spec.expand}" if spec.expand else spec.op.replace("_", " ")
    return "\n".join(part for part in (kernel, kind, "SE" if spec.squeeze_excite else "") if part)
