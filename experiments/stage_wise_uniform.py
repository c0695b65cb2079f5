"""What Stage-Wise NAS finds beside networks of uniform depth: sizes, memory, time, carbon, accuracy; and an ensemble.

Tables III to V, the carbon of §IV, and the search on large images. The candidates of some iterations, further trained
as the paper's, beside uniform networks that are trained as long and alike:

- *residual* modules from scratch, and by *transfer* from a donor of uniform depth with a quarter of the epochs
  (Table III: ResNet-44, 56 and 110; the donor is ResNet-110);
- *cells* of NASNet-A (Table IV: NASNet-169, 205 and 241);
- *bottlenecks* from a donor (§IV: ImageNet), four stages on images of 96 pixels or more.

The ensemble is the paper's: the candidates of these iterations of the searches with residual modules and with cells,
all from scratch (7.27 million parameters of Tables III and IV); with bottlenecks alone, theirs.

With --even, the hypothesis: the depths that the searches from scratch found against the most even ones of as many
multiply-adds (within 3 %), both trained alone with the same seed.

Memory is that of the weights and of what every layer puts out for an image, in MiB of float32: by that the paper's
ResNets have what its Table III says. Carbon is reckoned as the paper does (Lacoste et al. 2019), hours × power ×
kg per kWh: it compares trainings, it measures none. Seconds are those of the process on the CPU, else of the clock.

Every finished training is kept in RUN, every network in OUTPUT: the same command continues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments import _common, _report, _stages
from experiments._stage_costs import milliseconds
from experiments._stages import Arm, at_iteration, evenly
from experiments.papers.item import mean
from experiments.papers.stage_wise import last
from supernet.errors import UserError

ARMS = {
    "residual": Arm(),
    "transfer": Arm(donor=True),
    "cells": Arm("nasnet"),
    "bottleneck": Arm("bottleneck", donor=True),
}
TITLES = {
    "residual": "Residual modules (Table III)",
    "cells": "Cells of NASNet-A (Table IV)",
    "bottleneck": "Bottlenecks, four stages",
}
VOTE = ("residual", "cells")  # whose candidates are the paper's ensemble
SIZE = (13.0, 4.0)
# Table V: evaluated models, GPUs, million parameters, accuracy on CIFAR-10.
OTHERS = {
    "Zoph et al.": ("20,000", "800", "2.5", "94.51"),
    "Baker et al.": ("1,500", "10", "11.1", "93.08"),
    "Real et al.": ("1,000", "250", "5.4", "94.60"),
    "Brock et al.": ("300", "1", "4.6", "94.47"),
    "Dong et al.": ("240", "1", "2.5", "96.25"),
    "Jin et al.": ("60", "1", "", "88.56"),
    "Elsken et al.": ("40", "5", "19.7", "94.80"),
    "Kandasamy et al.": ("10", "4", "", "91.31"),
    "the paper, residual": ("11", "1", "1.7", "94.27"),
    "the paper, cells": ("11", "1", "2.3", "94.74"),
    "the paper, ensemble": ("", "", "7.27", "95.68"),
}


@dataclass(frozen=True)
class Args(_stages.OnStages):
    output: Path = Path("docs/results/stage_wise_uniform.json")
    """The results; tables (.md) and a picture (.png) beside them."""
    kinds: tuple[str, ...] = ("residual", "transfer", "cells")
    """Searches: residual, transfer, cells, bottleneck."""
    chosen: tuple[int, ...] = (1, 2, 3)
    """Iterations whose candidates are shown, and vote (the paper: 1 3 5)."""
    iterations: int | None = 3
    """Iterations of Algorithm 1 (the paper: 5)."""
    uniform: tuple[int, ...] = (3, 5, 6)
    """Modules in each stage of uniform networks of residual modules or bottlenecks (the paper's ResNets: 7 9 18)."""
    uniform_cells: tuple[int, ...] = (3, 4)
    """The same of cells (the paper's NASNets: 4 5 6)."""
    even: bool = False
    """Compare the found depths with the most even ones of as many multiply-adds, too."""
    donor: tuple[int, ...] = ()
    """Modules in each stage of the donor; defaults to three times the initial ones, of four stages to ResNet-152's."""
    watts: float = 250.0
    """Power that carbon is reckoned with, as the calculator of Lacoste et al. (2019) does: that of a GTX 1080 Ti."""
    intensity: float = 0.432
    """kg of CO₂-equivalents of a kWh: the calculator's, of the OECD in 2014."""

    def kilograms(self, seconds: float) -> float:
        """CO₂-equivalents of a training."""
        return seconds / 3600 * self.watts / 1000 * self.intensity


def run(args: Args) -> None:
    if unknown := set(args.kinds) - ARMS.keys():
        raise UserError(f"kind {unknown.pop()}: expected {', '.join(ARMS)}")
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first one imports torch._dynamo: seconds that no network should be charged
    clock = _common.Clock(args.run, args.output.stem)
    if args.quick:
        tiny = {"seeds": 1, "chosen": (1, 2), "iterations": 2, "uniform": (2,), "uniform_cells": (3,), "initial": 1}
        args = dataclasses.replace(args, **tiny, width=4, epochs=1, train=200, batch_size=32, donor=())
    study = _stages.Stages(args, args.data, args.donor)
    for kind in args.kinds:  # what cannot be is refused before anything is trained
        n = study.plan(ARMS[kind])[0].iterations
        if not set(args.chosen) <= set(range(1, n + 1)) or not args.chosen:
            raise UserError(f"--chosen {' '.join(map(str, args.chosen))}: expected iterations from 1 to {n}")
    kept = _common.Kept(args.output, _common.results("stage_wise_uniform", args, clock), clock)
    for seed in range(args.seeds):
        for module, count in uniform(args):
            modules = evenly(count, study.stages)
            kept.add("uniform", f"{module} {count}", seed, lambda m=module, n=modules, s=seed: alone(study, m, n, s))
        for kind in args.kinds:
            kept.add("searches", kind, seed, lambda k=kind, s=seed: searched(study, args, k, s))
        kept.add("ensemble", "all", seed, lambda s=seed: ensemble(study, args, s))
        for kind in [kind for kind in args.kinds if args.even and not ARMS[kind].donor]:
            kept.add("even", kind, seed, lambda k=kind, s=seed: against_even(study, args, k, s))
    finish(args, kept.found)


def uniform(args: Args) -> list[tuple[str, int]]:
    """Modules and their number of every uniform network."""
    found: list[tuple[str, int]] = []
    for kind, module, counts in (
        ("residual", "residual", args.uniform),
        ("cells", "nasnet", args.uniform_cells),
        ("bottleneck", "bottleneck", args.uniform),
    ):
        found += [(module, count) for count in counts if kind in args.kinds]
    return found


def alone(study: _stages.Stages, module: str, modules: Sequence[int], seed: int) -> dict[str, Any]:
    """A uniform network."""
    return priced(study.alone(module, modules, seed), study.args)


def searched(study: _stages.Stages, args: Args, kind: str, seed: int) -> dict[str, Any]:
    """A search: its chosen candidates by iteration, with the number of networks and the seconds of all of it."""
    search = study.search(ARMS[kind], seed)
    rows = {str(k): priced(at_iteration(search, k), args) for k in args.chosen}
    return {"networks": search["networks"], "seconds": search["seconds"], "candidates": rows}


def priced(row: Mapping[str, Any], args: Args) -> dict[str, Any]:
    """A network with the time of an image and the carbon of its training."""
    seconds = {"seconds": row["seconds"], "kg": args.kilograms(row["seconds"])} if "seconds" in row else {}
    return {**{k: v for k, v in row.items() if k != "path"}, **seconds, "ms": milliseconds(Path(row["path"]))}


def ensemble(study: _stages.Stages, args: Args, seed: int) -> dict[str, Any]:
    """The vote of the chosen candidates, over all searches that vote."""
    voting = [kind for kind in args.kinds if kind in VOTE] or list(args.kinds)
    searches = [study.search(ARMS[kind], seed) for kind in voting]
    paths = dict.fromkeys(Path(at_iteration(search, k)["path"]) for search in searches for k in args.chosen)
    return study.together(list(paths))


def against_even(study: _stages.Stages, args: Args, kind: str, seed: int) -> dict[str, Any]:
    """The last chosen depths and the most even ones of the same cost, both trained alone."""
    arm = ARMS[kind]
    found = tuple(at_iteration(study.search(arm, seed), args.chosen[-1])["modules"])
    depths = {"found": found, "even": study.evened(arm.module, found)}
    return {name: priced(study.alone(arm.module, modules, seed), args) for name, modules in depths.items()}


def deepest(result: Mapping[str, Any], module: str) -> list[dict[str, Any]]:
    """The deepest uniform networks of a module, by seed."""
    names = [name for name in result["uniform"] if name.startswith(f"{module} ")]
    return result["uniform"][max(names, key=lambda name: int(name.split()[1]))]


def gain(result: Mapping[str, Any], kind: str, what: str = "accuracy") -> list[float]:
    """Accuracy, or carbon, of the last candidates minus that of the deepest uniform networks, by seed."""
    pairs = zip(last(result, kind), deepest(result, ARMS[kind].module), strict=True)
    return [found[what] - even[what] for found, even in pairs]


def ratio(result: Mapping[str, Any], kind: str, what: str) -> list[float]:
    """A cost of the last candidates as a share of that of the deepest uniform networks, by seed."""
    pairs = zip(last(result, kind), deepest(result, ARMS[kind].module), strict=True)
    return [found[what] / even[what] for found, even in pairs if what in found and what in even]


def finish(args: Args, result: dict) -> None:
    _report.report(args.output, result, tables(result), draw, SIZE)


def tables(result: Mapping[str, Any]) -> _report.Tables:
    """± is half of the 95 % interval over the seeds, by Student's t."""
    searches, found = result["searches"], {}
    for kind, title in TITLES.items():
        if kind not in searches:
            continue
        module = ARMS[kind].module
        rows = {f"uniform, {n.split()[1]}": r for n, r in result["uniform"].items() if n.startswith(f"{module} ")}
        table = {name: columns(of) for name, of in rows.items()}
        for each in (kind, *(["transfer"] if kind == "residual" and "transfer" in searches else [])):
            for k in result["settings"]["chosen"]:
                label = f"found, iteration {k}" + (", transfer" if ARMS[each].donor else "")
                table[label] = columns([row["candidates"][str(k)] for row in searches[each]])
        found[title] = table
    compared = {
        kind: {
            "accuracy, points": mean(gain(result, kind), 100, "+"),
            **{f"{what}, share": mean(ratio(result, kind, what)) for what in ("params", "flops", "memory", "ms")},
            "carbon, share": mean(ratio(result, kind, "kg")) if ratio(result, kind, "kg") else "",
        }
        for kind in searches
    }
    found["The last candidate against the deepest uniform network"] = compared
    if "even" in result:
        found["Depth by importance against even depth, each trained alone"] = {
            kind: evened(rows) for kind, rows in result["even"].items()
        }
    gpus = {
        name: dict(zip(("evaluated", "GPUs", "M parameters", "%"), row, strict=True)) for name, row in OTHERS.items()
    }
    ours = {f"ours here, {kind}": evaluated(rows, last(result, kind)) for kind, rows in searches.items()}
    ours["ours here, ensemble"] = evaluated(None, result["ensemble"]["all"])
    found["Networks evaluated (Table V; the others' on CIFAR-10, as the paper has them)"] = gpus | ours
    return found


def evened(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Accuracies, the difference of the pairs, and how often both are the same network."""
    found, even = ([row[name]["accuracy"] for row in rows] for name in ("found", "even"))
    return {
        "found, %": mean(found, 100),
        "even, %": mean(even, 100),
        "found − even, points": mean([a - b for a, b in zip(found, even, strict=True)], 100, "+"),
        "found is even": f"{sum(r['found']['modules'] == r['even']['modules'] for r in rows)} of {len(rows)}",
    }


def evaluated(rows: Sequence[Mapping[str, Any]] | None, networks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A row of Table V."""
    return {
        "evaluated": "" if rows is None else f"{max(row['networks'] for row in rows)}",
        "GPUs": "",
        "M parameters": mean([row["params"] for row in networks], 1e-6, digits=3),
        "%": mean([row["accuracy"] for row in networks], 100),
    }


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns of Table III; top-5 where there are over ten classes' worth of it."""
    known = [row for row in rows if "kg" in row]  # a training that was stopped does not know what it took
    told = {
        "depth": mean([row["depth"] for row in rows], digits=0),
        "k parameters": mean([row["params"] for row in rows], 1e-3, digits=1),
        "M multiply-adds": mean([row["flops"] for row in rows], 1e-6),
        "memory, MiB": mean([row["memory"] for row in rows]),
        "ms": mean([row["ms"] for row in rows], digits=1),
        "s": mean([row["seconds"] for row in known], digits=1) if known else "",
        "g CO₂eq": mean([row["kg"] for row in known], 1e3) if known else "",
        "accuracy, %": mean([row["accuracy"] for row in rows], 100),
    }
    return (
        told | {"top-5, %": mean([row["top5_accuracy"] for row in rows], 100)} if "top5_accuracy" in rows[0] else told
    )


def draw(figure: Figure, result: Mapping[str, Any]) -> None:
    """Accuracy over multiply-adds, over the memory of an image, and over the carbon of the training."""
    panels = (("flops", 1e-6, "M multiply-adds"), ("memory", 1, "memory (MiB)"), ("kg", 1e3, "training (g CO₂eq)"))
    series = {f"uniform {module}": rows for module, rows in by_module(result).items()}
    for kind, rows in result["searches"].items():
        series[f"found, {kind}"] = [c for row in rows for c in row["candidates"].values()]
    for axes, (what, scale, label) in zip(figure.subplots(1, 3), panels, strict=True):
        for i, (name, rows) in enumerate(series.items()):
            shown = [row for row in rows if what in row]
            x, y = [scale * row[what] for row in shown], [100 * row["accuracy"] for row in shown]
            axes.scatter(x, y, s=16, color=f"C{i}", marker="s" if name.startswith("uniform") else "o", label=name)
        axes.set(xlabel=label, ylabel="accuracy (%)")
        axes.grid(alpha=0.2)
    axes.legend(fontsize=7)


def by_module(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The uniform networks of each module."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, rows in result["uniform"].items():
        found.setdefault(name.split()[0], []).extend(rows)
    return found


if __name__ == "__main__":
    _common.main(run, Args, finish)
