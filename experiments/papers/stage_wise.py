"""Stage-Wise Neural Architecture Search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.papers.item import Command, Item, Paper, mean

TINY = Command("experiments.stage_wise", "--train 5000 --random 1")
CRITERIA = {"pls": "PLS-VIP", "inf-fs": "inf-FS", "il-fs": "il-FS"}
KINDS = {"residual": "residual", "transfer": "by transfer", "cells": "cells", "bottleneck": "bottlenecks"}
CIFAR = "--preset paper --data cifar10 --train 0 --test --device cuda"
HOURS = "the paper: 17 hours of a 1080 Ti an iteration, 3 with weight transfer"
SHORTER = "a tenth of the epochs"


def scales(
    name: str, paper: str, shorter: str, cost: str, longer: str = "", lacks: str = ""
) -> tuple[Command, Command, Command]:
    """An experiment at the size of two cores, of one GPU and of the paper.

    Args:
        paper: the paper's settings. shorter: what one GPU has besides. longer: what the paper has besides.
        lacks: what neither of these has.
    """
    program, output = f"experiments.stage_wise_{name}", f"--output runs/papers/stage-wise-{name}"
    return (
        Command(program, cost=cost),
        Command(
            program,
            f"{paper} {shorter} {output}-gpu.json",
            f"{SHORTER}; {lacks}" if lacks else SHORTER,
            "hours of one GPU, not measured",
        ),
        Command(program, f"{paper} {longer} --seeds 5 {output}.json", lacks, HOURS),
    )


SEARCHES = scales(
    "searches",
    f"{CIFAR} --further-epochs 0 --initials 2 4 6 8 10 --more-iterations 8",
    "--epochs 20",
    "about 25 minutes of one core",
)
UNIFORM = scales(
    "uniform",
    f"{CIFAR} --even --iterations 5 --chosen 1 3 5 --uniform 7 9 18 --uniform-cells 4 5 6",
    "--epochs 20 --further-epochs 10",
    "about 25 minutes of one core",
)
TRANSFER = scales(
    "transfer",
    "--preset paper --sets folder --data-root data/tiny-imagenet --resolution 64 --test --device cuda",
    "--epochs 20 --further-epochs 10 --found runs/papers/stage-wise-uniform-gpu.json",
    "about 10 minutes of one core",
    "--epochs 200 --found runs/papers/stage-wise-uniform.json",
    "Tiny ImageNet in folders; ImageNet 32×32 is another run: its --data-root, --resolution 32, an --output of its own",
)
LARGE = "docs/results/stage_wise_imagenet.json"
BOTTLENECK = Command(
    "experiments.stage_wise_uniform",
    "--kinds bottleneck --data experiments/_drawn.py:large --initial 1 --uniform 2 3 "
    f"--donor 3 4 6 3 --width 4 --train 900 --epochs 6 --batch-size 32 --seeds 5 --output {LARGE}",
    cost="about 10 minutes of one core",
)
IMAGENET = Command(
    "experiments.stage_wise_uniform",
    "--preset paper --kinds bottleneck --iterations 5 --chosen 1 3 5 --donor 3 8 36 3 --uniform 3 6 "
    "--seeds 1 --data folder --data-root data/imagenet --train 0 --test --device cuda "
    "--output runs/papers/stage-wise-imagenet.json",
    "ImageNet in folders",
    "not measured: some 6,000 passes over ImageNet, 900 of them the donor's",
)
PUBLISHED = Command("pytest", "tests/test_stage_wise.py tests/test_stacks.py -k published -q")


def against_even(result: dict[str, Any]) -> str:
    """Found minus as even as can be, in points."""
    rows = result["against_uniform"]
    return "; ".join(
        f"{name} − even {mean(rows[key]['difference'], 100, '+')} points (p {rows[key]['p']:.2f})"
        for key, name in CRITERIA.items()
    )


def transferred(result: dict[str, Any]) -> str:
    """From a donor against from scratch: seconds of a network, points of the found one."""
    rows = result["weight_transfer"]
    times = [row["scratch"]["cpu_seconds"] / row["donor"]["cpu_seconds"] for row in rows]
    points = [row["donor"]["accuracy"] - row["scratch"]["accuracy"] for row in rows]
    return f"{mean(times, digits=1)} times faster, {mean(points, 100, '+')} points"


def trained(result: dict[str, Any]) -> str:
    """Networks of a search."""
    counts = [row["scratch"]["networks"] for row in result["weight_transfer"]]
    early = f", {min(counts)} where no stage grew any more" if min(counts) < max(counts) else ""
    return f"{max(counts)} networks in {result['settings']['iterations']} iterations{early}"


def after(row: dict[str, Any], iterations: int) -> dict[str, Any]:
    """The candidate that a search has after so many iterations."""
    return [candidate for candidate in row["candidates"] if candidate["iteration"] <= iterations][-1]


def by_initial(result: dict[str, Any]) -> str:
    """Accuracy and multiply-adds of the first candidate, by the initial depth."""
    rows = {name: r for name, r in result["searches"].items() if name.startswith("m0 = ")}
    return "; ".join(
        f"{mean([row['candidates'][-1]['accuracy'] for row in r], 100)} % and "
        f"{mean([row['candidates'][-1]['flops'] for row in r], 1e-6, digits=1)}M at {name.split()[-1]}"
        for name, r in rows.items()
    )


def by_criterion(result: dict[str, Any]) -> str:
    """Accuracy of the last candidates, in per cent."""
    n = result["settings"]["iterations"]
    return "; ".join(
        f"{name} {mean([after(row, n)['accuracy'] for row in result['searches'][key]], 100)}"
        for key, name in CRITERIA.items()
    )


def depths(result: dict[str, Any]) -> str:
    """Mean number of modules by stage."""
    n = result["settings"]["iterations"]
    rows = {
        name: np.mean([after(row, n)["modules"] for row in result["searches"][key]], axis=0)
        for key, name in CRITERIA.items()
    }
    return "; ".join(f"{name} {'-'.join(f'{depth:.1f}' for depth in row)}" for name, row in rows.items())


def further(result: dict[str, Any]) -> str:
    """Accuracy of the last of all iterations minus that of the n-th, in points."""
    n, rows = result["settings"]["iterations"], result["searches"]["pls"]
    gains = [row["candidates"][-1]["accuracy"] - after(row, n)["accuracy"] for row in rows]
    return f"iteration {result['settings']['more_iterations']} − iteration {n}: {mean(gains, 100, '+')} points"


def noise(result: dict[str, Any]) -> str:
    """Growth by pairs of seeds against the paper's rule: accuracy, depth and trainings."""
    n, told = result["settings"]["iterations"], []
    for key, name in (("pls", "one pair"), ("known noise", f"up to {result['settings']['pairs']} pairs")):
        rows = result["searches"][key]
        accuracy, modules = ([after(row, n)[what] for row in rows] for what in ("accuracy", "modules"))
        networks = mean([row["networks"] for row in rows], digits=0)
        told.append(
            f"{name} {mean(accuracy, 100)} %, {mean(list(map(sum, modules)), digits=1)} modules, {networks} networks"
        )
    return "; ".join(told)


def last(result: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The last chosen candidates, by seed."""
    final = str(result["settings"]["chosen"][-1])
    return [row["candidates"][final] for row in result["searches"][kind]]


def beside_uniform(result: dict[str, Any], kinds: tuple[str, ...], what: str = "accuracy") -> str:
    """The last candidates beside the deepest uniform networks, each with its cost."""
    told = []
    for module, of in (("residual", ("residual", "transfer")), ("nasnet", ("cells",)), ("bottleneck", ("bottleneck",))):
        mine = [kind for kind in of if kind in kinds and kind in result["searches"]]
        if mine:
            name = max((n for n in result["uniform"] if n.startswith(f"{module} ")), key=lambda n: int(n.split()[1]))
            rows = {kind: last(result, kind) for kind in mine} | {f"uniform {name.split()[1]}": result["uniform"][name]}
            told += [
                f"{KINDS.get(key, key)} {mean([row[what] for row in r], 100)} % at "
                f"{mean([row['flops'] for row in r], 1e-6, digits=1)}M"
                for key, r in rows.items()
            ]
    return "; ".join(told)


def residual(result: dict[str, Any]) -> str:
    """Table III."""
    return beside_uniform(result, ("residual", "transfer"))


def cells(result: dict[str, Any]) -> str:
    """Table IV."""
    return beside_uniform(result, ("cells",))


def bottlenecks(result: dict[str, Any]) -> str:
    """Top-5 of §IV."""
    return f"top-5: {beside_uniform(result, ('bottleneck',), 'top5_accuracy')}"


def together(result: dict[str, Any]) -> str:
    """The ensemble beside the last candidates, and how many networks the searches trained."""
    networks = max(row["networks"] for rows in result["searches"].values() for row in rows)
    alone = "; ".join(
        f"{KINDS[kind]} {mean([row['accuracy'] for row in last(result, kind)], 100)} %"
        for kind in ("residual", "cells")
    )
    voted = mean([row["accuracy"] for row in result["ensemble"]["all"]], 100)
    return f"{networks} networks; {alone}; ensemble {voted} %"


def carbon(result: dict[str, Any]) -> str:
    """Carbon of the last candidate's training, as a share of the deepest uniform network's, in per cent less."""
    name = max((n for n in result["uniform"] if n.startswith("residual ")), key=lambda n: int(n.split()[1]))
    pairs = zip(last(result, "residual"), result["uniform"][name], strict=True)
    saved = [1 - found["kg"] / even["kg"] for found, even in pairs if "kg" in found and "kg" in even]
    return f"{mean(saved, 100)} % less CO₂" if saved else ""


def elsewhere(result: dict[str, Any]) -> str:
    """Found minus uniform in top-5 on images that they were not found on, in points."""
    told = []
    for name, found in result["networks"].items():
        if name.endswith(", found"):
            even = result["networks"][name.removesuffix("found") + "uniform"]
            gains = [a["top5_accuracy"] - b["top5_accuracy"] for a, b in zip(found, even, strict=True)]
            told.append(f"{name.removesuffix(', found')} {mean(gains, 100, '+')} points")
    return "found − uniform, top-5: " + "; ".join(told)


PAPER = Paper(
    "stage-wise",
    "Stage-Wise NAS (Jordao et al.)",
    (
        Item(
            "table-1",
            "the first candidate from 2 to 10 modules in each stage",
            "91.23 % and 45M at 2; 92.03 % and 92M at 6; 92.12 % and 149M at 10",
            SEARCHES[0],
            "",
            by_initial,
            "cannot be told at this size: one module is behind two in all seeds, more give no more",
            *SEARCHES[1:],
        ),
        Item(
            "table-2",
            "accuracy of the candidates by inf-FS, il-FS and PLS, five iterations",
            "at the fifth 92.45, 92.52, 92.58 %",
            SEARCHES[0],
            "",
            by_criterion,
            "cannot be told at this size: the intervals are tens of times the paper's differences",
            *SEARCHES[1:],
        ),
        Item(
            "table-3",
            "candidates against ResNets: parameters, multiply-adds, memory, time, carbon, accuracy; weight transfer",
            "94.27 % at 149M against ResNet-110's 93.57 % at 253M; by transfer 93.51 % at 139M",
            UNIFORM[0],
            "",
            residual,
            "as accurate at half the multiply-adds, but no more so than a uniform network of that size",
            *UNIFORM[1:],
        ),
        Item(
            "table-4",
            "the same with NASNet cells",
            "94.74 % with 2.3M parameters against NASNet-241's 94.51 with 3.3M",
            UNIFORM[0],
            "",
            cells,
            "cannot be told at this size: within the interval, at the same size",
            *UNIFORM[1:],
        ),
        Item(
            "table-5",
            "networks evaluated, GPUs, parameters and accuracy beside other searches; the ensemble",
            "11 networks on one GPU; ensemble 95.68 % with 7.27M parameters",
            UNIFORM[0],
            "",
            together,
            "the cheapness shows; that the ensemble is better cannot be told from three seeds",
            *UNIFORM[1:],
        ),
        Item(
            "table-6",
            "networks found on CIFAR-10, trained on Tiny ImageNet and ImageNet 32×32",
            "top-5 72.34 and 70.09 % against ResNet-110's 69.94 and 68.89",
            TRANSFER[0],
            "digits and drawn gratings stand for Tiny ImageNet and ImageNet 32×32, which cannot be had here",
            elsewhere,
            "cannot be told at this size: top-5 of ten and twenty classes is full",
            *TRANSFER[1:],
        ),
        Item(
            "figure-1",
            "networks evaluated and accuracy beside other searches",
            "as table 5",
            lacks="the others are of their papers",
            idea=True,
        ),
        Item("figure-2", "stages of equal and of own depth", "a drawing", lacks="a drawing of the idea", idea=True),
        Item(
            "figure-3",
            "the residual module and the cell",
            "a drawing",
            Command("pytest", "tests/test_stacks.py -q"),
        ),
        Item(
            "figure-4",
            "modules of each stage after five iterations, by criterion",
            "PLS and il-FS put most into the middle stage",
            SEARCHES[0],
            "",
            depths,
            "does not show at this size: all stages alike; by PLS-VIP one seed of three never grows",
            *SEARCHES[1:],
        ),
        Item(
            "text-hypothesis",
            "depth by importance gives better networks than uniform depth at equal cost (deeper ones: table 3)",
            "§IV, table III",
            TINY,
            "",
            against_even,
            "not supported: found and even cannot be told apart",
            *UNIFORM[1:],
        ),
        Item(
            "text-transfer",
            "weights of a donor make an iteration cheaper, with a quarter of the epochs",
            "§IV: from 17 to 3 hours; .2 points above to .8 below (table III)",
            TINY,
            "",
            transferred,
            "cheaper shows; what it costs in accuracy cannot be told from three seeds",
            *UNIFORM[1:],
        ),
        Item(
            "text-networks",
            "a search trains 2n + 1 networks in n iterations",
            "§III; 11 for n = 5 (table V)",
            TINY,
            "",
            trained,
            "shows",
            *UNIFORM[1:],
        ),
        Item(
            "text-search",
            "the published search: modules, parameters and multiply-adds of every candidate",
            "table III and figure 4, by the authors' code",
            PUBLISHED,
        ),
        Item(
            "text-imagenet",
            "a search on ImageNet itself, bottlenecks and weight transfer",
            "§IV: top-5 90.23 %",
            BOTTLENECK,
            "drawn gratings of 96 pixels stand for ImageNet, which cannot be had here",
            bottlenecks,
            "cannot be told at this size",
            paper=IMAGENET,
        ),
        Item(
            "text-iterations",
            "more than five iterations add little",
            "§IV, no figure",
            SEARCHES[0],
            "",
            further,
            "cannot be told at this size: the interval holds 0",
            *SEARCHES[1:],
        ),
        Item(
            "text-carbon",
            "the last candidate's training emits less than ResNet-110's",
            "§IV: 41 % less CO₂ (1.32 to 2.26 kg)",
            UNIFORM[0],
            "",
            carbon,
            "cannot be told at this size: the interval holds 0",
            *UNIFORM[1:],
        ),
        Item(
            "text-noise",
            "ours: growth by pairs of seeds and a sequential test, against the paper's one pair",
            "not in the paper",
            SEARCHES[0],
            "",
            noise,
            "as accurate with half the modules: no growth of one pair is surer than the seed's noise",
            *SEARCHES[1:],
        ),
    ),
)
