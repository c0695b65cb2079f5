"""Torch-Pruning's dependency graph and the channels of given networks: is the same cut together, is the same left?

Wants torch_pruning.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments import given_models
from experiments._common import alone, main
from supernet import families, spaces
from supernet.errors import UserError
from supernet.families.given import family, trace, verify
from supernet.families.given.genes import Group, Width
from supernet.families.given.layout import GivenLayout, layout_of
from supernet.families.given.piece import tensors
from supernet.model import Supernet
from supernet.norm import BatchNorm
from supernet.space import Arch, Space

Cut = dict[str, dict[int, frozenset[int]]]  # what goes: the places along each axis of a parameter or buffer
IMAGES = 2
SIDE = 64  # of the images, where a network takes them
CLOSE = 1e-9  # logits, of the largest one, in double precision
ALIKE = """# Torch-Pruning {version} as an oracle

`python -m experiments.pruning_oracle`: {rows} networks of `experiments.given_models`, with random weights.
Widths alone are cut, to the smallest and to random ones. Torch-Pruning says what goes with each group of channels
that we cut, and then cuts the network.

For {alike} networks all groups are the same, and what is left is the same: parameters, multiply-adds, and logits
in double precision, to {close:g} of the largest.
"""
DIFFERENT = """
## Where they differ

Zeros tell who is right: with zeros in place of the weights that read what is cut, the network itself gives the
logits of what is left (unless a norm is over the channels: —).
"""


@dataclass(frozen=True)
class Args(given_models.Args):
    output: Path = Path("docs/results/pruning_oracle.json")
    """File of the rows; those that are there are kept. The table is written beside it, as .md."""
    seconds: int = 120
    """For one network; some take Torch-Pruning for ever."""


class Oracle:
    """A network that Torch-Pruning cuts, and ours of the same weights.

    Attributes:
        model: the given network, with zeros in all that reads what ``arch`` leaves out; ``prune`` cuts it.
        ours, zeros: logits of our sub-network, and of ``model`` before it is cut.
    """

    def __init__(self, space: Space, arch: Arch):
        self.space, self.arch, self.network = space, arch, layout_of(space).network
        self.groups = list(cuts(layout_of(space), arch))
        self.model, self.x = self.network.new(), torch.randn(IMAGES, space.channels, *space.input_size)
        self.zero()  # before BN's statistics are taken, which are then those of what is left
        verify.enliven(self.model, self.x)
        self.model, self.x = self.model.double(), self.x.double()
        self.zero()
        supernet = Supernet(space, affine=True, kernels="eager").eval().double()
        family.load(supernet.shared, self.model.state_dict())
        with torch.no_grad():
            self.ours, self.zeros = supernet(self.x, arch), self.model(self.x)

    @cached_property
    def graph(self) -> Any:
        """Torch-Pruning's, before anything is cut."""
        import torch_pruning

        return torch_pruning.DependencyGraph().build_dependency(self.model, self.x[:1], verbose=False)

    @torch.no_grad()
    def zero(self) -> None:
        """What reads a channel that is cut is 0, so that its value does not matter."""
        cut = self.cut([label for group, left in self.groups for label in gone(group, left)])
        for name, module in self.model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight[:, sorted(cut.get(f"{name}.weight", {}).get(1, ()))] = 0

    def cut(self, labels: Sequence[int]) -> Cut:
        """What goes with these channels by our graph."""
        found = {
            name: {axis: np.flatnonzero(np.isin(self.network.labels[atoms], labels)) for axis, atoms in axes.items()}
            for name, axes in self.network.channels.weights.items()
        }
        return tidy(found)

    def root(self, group: Group, left: int, before: Sequence[int] = ()) -> tuple[nn.Module, Callable, list[int]]:
        """The layer that makes the channels, how Torch-Pruning cuts it, and where, without those cut ``before``."""
        import torch_pruning

        module = self.model.get_submodule(group.name)
        labels = self.network.labels[self.network.channels.made[group.name]]
        places = np.flatnonzero(np.isin(labels[~np.isin(labels, before)], gone(group, left)))
        linear = isinstance(module, nn.Linear)
        prune = torch_pruning.prune_linear_out_channels if linear else torch_pruning.prune_conv_out_channels
        return module, prune, [*map(int, places)]

    def same(self, group: Group, left: int) -> bool:
        """Whether the channels of a group take the same with them."""
        names, found = {module: name for name, module in self.model.named_modules()}, {}
        parameters = {id(value): name for name, value in self.model.named_parameters()}

        def add(name: str, axis: int, places: Iterable[int]) -> None:
            found.setdefault(name, {}).setdefault(axis, set()).update(places)

        for dependency, places in self.graph.get_pruning_group(*self.root(group, left)):
            module, out = dependency.target.module, dependency.handler.__name__ == "prune_out_channels"
            if isinstance(module, nn.Parameter):
                add(parameters[id(module)], dependency.target.pruning_dim, places)
            for key in [name for name, value in tensors(module) if value.ndim] if module in names else ():
                dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and not depthwise(module))
                if not dense or out or key == "weight":
                    add(f"{names[module]}.{key}", int(dense and not out), places)
        return tidy(found) == self.cut(gone(group, left))

    def prune(self) -> None:
        """Cut ``model`` by Torch-Pruning."""
        before: list[int] = []
        for group, left in self.groups:
            self.graph.get_pruning_group(*self.root(group, left, before)).prune()
            before += gone(group, left)

    def left(self) -> dict[str, Any]:
        """Of the network that Torch-Pruning leaves: parameters and multiply-adds beside ours, and its logits."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            logits = self.model(self.x)
        macs = trace.multiply_adds(counter) // IMAGES
        return {
            "params": [families.params(self.space, self.arch), sum(p.numel() for p in self.model.parameters())],
            "macs": [families.flops(self.space, self.arch), macs],
            "logits": apart(logits, self.ours),
            "theirs_zeros": apart(logits, self.zeros),
        }


def cuts(layout: GivenLayout, arch: Arch) -> Iterator[tuple[Group, int]]:
    """The groups of channels, and how many of the layer that makes them are left, where some go."""
    for gene, choice in zip(layout.network.genes, arch, strict=True):
        if isinstance(gene, Width):
            pairs = zip(gene.groups, gene.choices[choice], strict=True)
            yield from ((group, left) for group, left in pairs if left < group.total)


def gone(group: Group, left: int) -> list[int]:
    """The labels of the channels that go."""
    return [*map(int, group.labels[left // group.each :])]


def tidy(found: dict[str, dict[int, Iterable[int]]]) -> Cut:
    """Without what stays whole."""
    cut = {name: {axis: frozenset(map(int, places)) for axis, places in axes.items()} for name, axes in found.items()}
    cut = {name: {axis: places for axis, places in axes.items() if places} for name, axes in cut.items()}
    return {name: axes for name, axes in cut.items() if axes}


def depthwise(module: nn.Conv2d) -> bool:
    return module.groups == module.out_channels > 1


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def widths(space: Space, rng: np.random.Generator | None = None) -> Arch:
    """The smallest widths, or random ones, of all blocks and kernels."""
    drawn = space.sample(rng) if rng else tuple(open_[0] for open_ in space.allowed)
    return tuple(
        i if g.choices[0].op == "width" else len(g.choices) - 1 for i, g in zip(drawn, space.genes, strict=True)
    )


def compared(reference: str) -> dict[str, Any]:
    """A row: what of the smallest widths and of random ones is the same."""
    torch.manual_seed(0)
    try:
        space = spaces.get(reference, 3, SIDE, 10)
    except UserError:  # it is for images of one size
        space = spaces.usual(reference)
    archs = {"smallest": widths(space), "random": widths(space, np.random.default_rng(0))}
    return {"model": reference, **{name: cut(space, arch) for name, arch in archs.items()}}


def cut(space: Space, arch: Arch) -> dict[str, Any]:
    oracle = Oracle(space, arch)
    norms = {type(module) for module in oracle.model.modules() if "Norm" in type(module).__name__}
    told: dict[str, Any] = {"groups": len(oracle.groups), "same": 0}
    if all(issubclass(norm, BatchNorm) for norm in norms):  # others are of all channels, zeros too
        told["ours_zeros"] = apart(oracle.ours, oracle.zeros)
    try:
        told["same"] = sum(oracle.same(group, left) for group, left in oracle.groups)
        oracle.prune()
        told |= oracle.left()
    except Exception as error:  # whatever Torch-Pruning or the network that it leaves raises
        told["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    return told


def agrees(told: dict[str, Any]) -> bool:
    """Whether Torch-Pruning leaves the same network."""
    return (
        "error" not in told
        and told["same"] == told["groups"]
        and told["logits"] < CLOSE
        and all(ours == theirs for ours, theirs in (told["params"], told["macs"]))
    )


def row_of(reference: str, seconds: int) -> dict[str, Any] | None:
    """The row of a network; None if it is no space."""
    try:
        return alone(compared, reference, seconds=seconds)
    except UserError:
        return None
    except multiprocessing.TimeoutError:
        return {"model": reference, "error": f"not done after {seconds} s"}


def page(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The tables, in Markdown."""
    version = importlib.metadata.version("torch-pruning")
    kinds = ("smallest", "random")
    alike = [row for row in rows if "error" not in row and all(agrees(row[kind]) for kind in kinds)]
    yield ALIKE.format(version=version, rows=len(rows), alike=len(alike), close=CLOSE)
    yield "| network | groups | logits differ, smallest | random |\n|---|---|---|---|"
    for row in alike:
        logits = " | ".join(f"{row[kind]['logits']:.0e}" for kind in kinds)
        yield f"| `{row['model']}` | {row['smallest']['groups']} | {logits} |"
    yield DIFFERENT
    yield "| network | groups | the same | ours from zeros | Torch-Pruning |\n|---|---|---|---|---|"
    for row in rows:
        if row not in alike:
            told = row.get("smallest", row)
            zeros = f"{told['ours_zeros']:.0e}" if "ours_zeros" in told else "—"
            groups = f"{told['groups']} | {told['same']}" if "groups" in told else "— | —"
            yield f"| `{row['model']}` | {groups} | {zeros} | {verdict(row)} |"


def verdict(row: dict[str, Any]) -> str:
    """What is different in the network that Torch-Pruning leaves."""
    told = next((t for t in (row, row.get("smallest"), row.get("random")) if t and "error" in t), None)
    if told is not None:
        return told["error"].replace("|", "\\|")
    told = next(row[kind] for kind in ("smallest", "random") if not agrees(row[kind]))
    found = [f"{name} {b:,} instead of {a:,}" for name in ("params", "macs") for a, b in [told[name]] if a != b]
    return "; ".join([*found, f"logits differ by {told['logits']:.0e}, from zeros by {told['theirs_zeros']:.0e}"])


def run(args: Args) -> None:
    importlib.metadata.version("torch-pruning")  # told at once where it is missing
    given_models.collect(args, lambda reference: row_of(reference, args.seconds), page)


if __name__ == "__main__":
    main(run, Args)
