"""Count the multiply-adds and parameters of a network of a space; show what of a given network can be chosen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from supernet import quantities
from supernet.cli import common, numbers, starting
from supernet.errors import UserError

if TYPE_CHECKING:
    from supernet.space import Space


@dataclass(frozen=True, kw_only=True)
class Args(common.Answering):
    space: Annotated[str, tyro.conf.arg(aliases=["--model"])]
    """Space: a name such as ofa-mobilenetv3 or attentive-nas, a network of a registry such as
    timm:mobilenetv3_large_100 or torchvision:resnet18, a .json, or FILE.py:function."""
    config: Annotated[Path | None, common.UNSET] = None
    """JSON of one network: {"resolution", "width", "depth", "kernel", "expand"}, {"ks", "e", "d", "r"} or {"arch"};
    or the name of a published one, such as proxylessnas-mobile; of a network of a registry defaults to all of it."""
    resolution: Annotated[numbers.Pixels | None, common.UNSET] = None
    """Pixels of the images, of a square or HEIGHTxWIDTH; defaults to what a registry says of its network, 28 for a
    name that ends in -small, else 224."""
    channels: Annotated[int | None, common.UNSET] = None
    """Channels of the images; defaults to what a registry says, 1 for a name that ends in -small, else 3."""
    classes: Annotated[int | None, common.UNSET] = None
    """Classes of the images; defaults to what a registry says, 10 for a name that ends in -small, else 1000."""
    layers: bool = False
    """Tell multiply-adds and parameters of each layer, too."""


def run(args: Args) -> None:
    from supernet import configurations, spaces
    from supernet.size import Size
    from supernet.tables import Table

    space = spaces.usual(args.space, args.resolution, args.channels, args.classes)
    if not space.model and args.config is None:
        raise UserError(f"space {space.name} has many networks: expected one of them as --config FILE or NAME")
    arch = space.whole
    if args.config is not None:
        arch = configurations.read(space, args.config)
    counts = configurations.counts(space, arch)
    layers = counts.pop("layers")
    if space.model:
        counts |= given(space)
    common.answer(args, {**counts, "layers": layers} if args.layers else counts)
    if space.model:
        show(space, counts)
    if args.layers:
        rows = [(layer["key"], f"{layer['macs']:,}", f"{layer['params']:,}") for layer in layers]
        common.show(Table(("layer", "multiply-adds", "parameters"), rows))
    common.tell(
        f"{space.name} at {Size.of(counts['resolution'])}: "
        f"{quantities.several(counts['macs'], 'multiply-add')}, {quantities.several(counts['params'], 'parameter')}"
    )
    for precision, flash in counts["flash"].items():
        ram = counts["ram"][precision]
        common.tell(
            f"in {precision}: {flash / 1024:,.0f} KiB of flash, {ram / 1024:,.0f} KiB of working memory at the peak"
        )
    if counts["unused_params"]:
        common.tell(
            f"{counts['unused_params']:,} of these parameters the authors' network has without using them; "
            "a network that is trained here does not have them"
        )
    if space.model:
        common.next_command("train_supernet", None, *common.words(args, "space", "resolution"))


def given(space: Space) -> dict[str, Any]:
    """What of a given network can be chosen, what stays whole and why, and how the whole differs from the network."""
    from supernet.families.given import layout, verify

    chosen = [{"gene": gene.name, "counts": [choice.count for choice in gene.choices]} for gene in space.genes]
    return {"genes": chosen, "whole": layout.of_network(space).network.whole, "difference": verify.require(space)}


def show(space: Space, counts: Mapping[str, Any]) -> None:
    """Tables of the genes and of what stays whole, and the check."""
    from supernet.tables import Table

    rows = [(gene["gene"], _numbers(gene["counts"])) for gene in counts["genes"]]
    common.show(Table(("what can be chosen", "from"), rows, text=2))
    if counts["whole"]:
        common.show(Table(("layer of which all channels stay", "as"), list(counts["whole"].items()), text=2))
    common.tell(
        f"{quantities.several(space.size, 'network', form=quantities.count)}; the largest is {space.name} itself: "
        f"their logits differ by {counts['difference']:.1e} of their range"
    )


def _numbers(counts: Sequence[int]) -> str:
    """A list of numbers, or the ends and the step of a long one."""
    step = counts[1] - counts[0] if len(counts) > 1 else 0
    even = all(b - a == step for a, b in itertools.pairwise(counts))
    return f"{counts[0]} to {counts[-1]} by {step}" if even and len(counts) > 4 else " ".join(map(str, counts))


main = starting.entry(run, Args)
