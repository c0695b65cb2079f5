"""Stage-Wise Neural Architecture Search."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.papers.item import Command, Item, Paper, mean

TINY = Command(
    "experiments.stage_wise",
    "--train 5000 --random 1",
    limits="counts CPU seconds, of plain stages: no --device, --module",
)
CRITERIA = {"pls": "PLS-VIP", "inf-fs": "inf-FS", "il-fs": "il-FS"}


def whole(
    name: str, arguments: str, lacks: str, cost: str = "the paper: 17 hours of a 1080 Ti an iteration"
) -> Command:
    """The search with the paper's settings."""
    words = f"--preset paper --run runs/papers/stage-wise-{name} {arguments}"
    return Command("tools/stage_wise.py", words, lacks, cost)


RESIDUAL = whole(
    "residual", "--data cifar10 --carbon", "the ResNets beside it, memory and inference time; needs the extra carbon"
)
CRITERION = whole("inf-fs", "--data cifar10 --criterion inf-fs", "one criterion: pls and il-fs are runs of their own")
CELLS = whole(
    "cells", "--data cifar10 --module nasnet", "uniform NASNets beside it and memory are not told", "not known"
)
SHALLOW = whole("initial", "--data cifar10 --initial 2 --iterations 1", "one depth: 4 to 10 are runs of their own")
IMAGENET = whole(
    "imagenet",
    "--data folder --data-root data/imagenet --module bottleneck --donor runs/papers/resnet",
    "the donor first, a trained deeper network of the same modules; top-5 is not told",
    "not known",
)


def by_criterion(result: dict[str, Any]) -> str:
    """Accuracy alone of the found networks, in per cent."""
    rows = result["against_uniform"]
    return "; ".join(
        f"{name} {mean([row['accuracies'][0] for row in rows[key]['rows']], 100)}" for key, name in CRITERIA.items()
    )


def against_even(result: dict[str, Any]) -> str:
    """Found minus as even as can be, in points."""
    rows = result["against_uniform"]
    return "; ".join(
        f"{name} − even {mean(rows[key]['difference'], 100, '+')} points (p {rows[key]['p']:.2f})"
        for key, name in CRITERIA.items()
    )


def depths(result: dict[str, Any]) -> str:
    """Mean number of modules by stage."""
    rows = {name: np.mean(result["importance"][key]["found"], axis=0) for key, name in CRITERIA.items()}
    return "; ".join(f"{name} {'-'.join(f'{depth:.1f}' for depth in row)}" for name, row in rows.items())


def transferred(result: dict[str, Any]) -> str:
    """From a donor against from scratch: seconds of a network, points of the found one."""
    rows = result["weight_transfer"]
    times = [row["scratch"]["cpu_seconds"] / row["donor"]["cpu_seconds"] for row in rows]
    points = [row["donor"]["accuracy"] - row["scratch"]["accuracy"] for row in rows]
    return f"{mean(times, digits=1)} times faster, {mean(points, 100, '+')} points"


def together(result: dict[str, Any]) -> str:
    """The ensemble of all candidates minus the last one, from scratch."""
    rows = [row["scratch"] for row in result["weight_transfer"]]
    gain = mean([row["ensemble"] - row["accuracy"] for row in rows], 100, "+")
    return f"{mean([row['ensemble'] for row in rows], 100)} %, {gain} points above the last candidate"


def trained(result: dict[str, Any]) -> str:
    """Networks of a search."""
    counts = [row["scratch"]["networks"] for row in result["weight_transfer"]]
    early = f", {min(counts)} where no stage grew any more" if min(counts) < max(counts) else ""
    return f"{max(counts)} networks in {result['settings']['iterations']} iterations{early}"


PAPER = Paper(
    "stage-wise",
    "Stage-Wise NAS (Jordao et al.)",
    (
        Item(
            "table-1",
            "the first candidate from 2 to 10 modules in each stage",
            "91.23 % and 45M at 2; 92.03 % and 92M at 6; 92.12 % and 149M at 10",
            lacks="experiments.stage_wise has --initial; several were never compared",
            gpu=SHALLOW,
            paper=SHALLOW,
        ),
        Item(
            "table-2",
            "accuracy of the candidates by inf-FS, il-FS and PLS, five iterations",
            "at the fifth 92.45, 92.52, 92.58 %",
            TINY,
            "what three iterations find, not the candidate of each; Fashion-MNIST, networks of 8 channels",
            by_criterion,
            "cannot be told apart at this size",
            CRITERION,
            CRITERION,
        ),
        Item(
            "table-3",
            "candidates against ResNets: parameters, multiply-adds, memory, time, carbon, accuracy; weight transfer",
            "94.27 % at 149M against ResNet-110's 93.57 % at 253M; by transfer 93.51 % at 139M",
            TINY,
            "as even as can be at equal cost stands for the ResNets; memory, inference time and carbon",
            against_even,
            "does not show at this size: where to put depth matters less than the seed",
            RESIDUAL,
            RESIDUAL,
        ),
        Item(
            "table-4",
            "the same with NASNet cells",
            "94.74 % with 2.3M parameters against NASNet-241's 94.51 with 3.3M",
            lacks="experiments.stage_wise has residual modules only",
            gpu=CELLS,
            paper=CELLS,
        ),
        Item(
            "table-5",
            "networks evaluated, GPUs, parameters and accuracy beside other searches; the ensemble",
            "11 networks on one GPU; ensemble 95.68 % with 7.27M parameters",
            TINY,
            "the others are of their papers; the ensemble is of residual candidates of one search, not of cells too",
            together,
            "",
            RESIDUAL,
            RESIDUAL,
        ),
        Item(
            "table-6",
            "networks found on CIFAR-10, trained on Tiny ImageNet and ImageNet 32×32",
            "top-5 72.34 and 70.09 % against ResNet-110's 69.94 and 68.89",
            lacks="no command trains a found network on other images",
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
            TINY,
            "three iterations; means of eight seeds, of which the picture has the first",
            depths,
            "cannot be told: every seed finds another allocation by PLS-VIP",
            CRITERION,
            CRITERION,
        ),
        Item(
            "text-hypothesis",
            "depth by importance gives shallower networks as good as or better than uniform ones",
            "§IV, table III",
            TINY,
            "at equal cost; deeper uniform networks are not trained",
            against_even,
            "not supported: found and even cannot be told apart",
        ),
        Item(
            "text-transfer",
            "weights of a donor make an iteration cheaper",
            "§IV: from 17 to 3 hours; .2 points above to .8 below (table III)",
            TINY,
            "a quarter of the epochs, four in all, where the paper has 50 of 200",
            transferred,
            "cheaper shows; it costs accuracy here",
            paper=whole(
                "transfer", "--data cifar10 --donor runs/papers/resnet110", "the donor first: a trained ResNet-110"
            ),
        ),
        Item(
            "text-networks",
            "a search trains 2n + 1 networks in n iterations",
            "§III; 11 for n = 5 (table V)",
            TINY,
            "",
            trained,
            "",
            RESIDUAL,
            RESIDUAL,
        ),
        Item(
            "text-search",
            "the published search: modules, parameters and multiply-adds of every candidate",
            "table III and figure 4, by the authors' code",
            Command("pytest", "tests/test_stage_wise.py tests/test_stacks.py -k published -q"),
        ),
        Item(
            "text-imagenet",
            "a search on ImageNet itself, bottlenecks and weight transfer",
            "§IV: top-5 90.23 %",
            lacks="ImageNet cannot be had here",
            paper=IMAGENET,
        ),
        Item(
            "text-iterations",
            "more than five iterations add little",
            "§IV, no figure",
            lacks="experiments.stage_wise has --iterations; several were never compared",
        ),
        Item(
            "text-carbon",
            "the last candidate's training emits less than ResNet-110's",
            "§IV: 41 % less CO₂ (1.32 to 2.26 kg)",
            lacks="tools/stage_wise.py --carbon measures the search, no ResNet beside it",
            gpu=RESIDUAL,
            paper=RESIDUAL,
        ),
    ),
)
