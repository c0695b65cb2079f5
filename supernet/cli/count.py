"""Count the multiply-adds and parameters of a network of a space, as its authors write it down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from supernet.cli import common, numbers


@dataclass(frozen=True)
class Args:
    space: str
    """Space: a name such as ofa-mobilenetv3 or attentive-nas, a .json, or FILE.py:function."""
    config: Path
    """JSON of one network: {"resolution", "width", "depth", "kernel", "expand"}, {"ks", "e", "d", "r"} or {"arch"}."""
    resolution: Annotated[numbers.Pixels | None, common.UNSET] = None
    """Pixels of the images, of a square or HEIGHTxWIDTH; defaults to 28 for a name that ends in -small, else 224."""
    json: bool = False
    """Print JSON."""
    layers: bool = False
    """By layer."""


def run(args: Args) -> None:
    from supernet import configurations, spaces
    from supernet.size import Size
    from supernet.tables import Table

    space = spaces.usual(args.space, args.resolution)
    counts = configurations.counts(space, configurations.read(space, args.config))
    layers = counts.pop("layers")
    if args.json:
        print(json.dumps({**counts, "layers": layers} if args.layers else counts))
        return
    if args.layers:
        rows = [(layer["key"], f"{layer['macs']:,}", f"{layer['params']:,}") for layer in layers]
        common.show(Table(("layer", "multiply-adds", "parameters"), rows))
    common.tell(
        f"{space.name} at {Size.of(counts['resolution'])}: {counts['macs']:,} multiply-adds, "
        f"{counts['params']:,} parameters"
    )
    if counts["unused_params"]:
        common.tell(
            f"{counts['unused_params']:,} of these parameters the authors' network has without using them; "
            "a network that is trained here does not have them"
        )


main = common.entry(run, Args)
