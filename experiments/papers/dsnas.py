"""DSNAS: Direct Neural Architecture Search without Parameter Retraining."""

from __future__ import annotations

import math
from statistics import stdev
from typing import Any

import numpy as np
from scipy.special import chdtri

from experiments.papers.item import Command, Item, Paper, between, mean

TINY = Command("experiments.dsnas")
FOLDERS = "--run runs/papers/dsnas-{0} --output runs/papers/dsnas-{0}"
GPU = Command(
    "experiments.dsnas",
    "--device cuda --data cifar10 --space shufflenet-small --limit 0 --select 2500 --seeds 3 --epochs 60 "
    "--search-epochs 20 --spos-epochs 30 --batch-size 128 --augment --arch-lr 0.003 --flops-max 4.3e6 --population 32 "
    f"--generations 10 {FOLDERS.format('gpu')}",
    "CIFAR-10 in place of ImageNet, a quarter of the epochs",
    "not measured yet",
)
ON_IMAGENET = Command(
    "experiments.dsnas",
    "--device cuda --data folder --data-root data/imagenet --pixels 224 --space shufflenet --limit 0 "
    "--select 25000 --seeds 3 --epochs 240 --search-epochs 80 --spos-epochs 120 --batch-size 1024 --lr 0.5 --augment "
    f"--arch-lr 0.001 --flops-max 330e6 --population 50 --generations 20 {FOLDERS.format('paper')}",
    "on a part of the training images that SPOS and the judge have, as the test set stays closed",
    "the paper: 420 GPU-hours of TITAN X for each DSNAS, 634 for each SPOS; ten arms of about 300 for each seed",
)
STEPS = Command("experiments.dsnas_steps")
STEPS_GPU = Command(
    "experiments.dsnas_steps",
    "--device cuda --rounds 200 --cells cells --mobile mobile --mobile-batch-size 128 --run runs/papers/dsnas-steps "
    "--output runs/papers/dsnas-steps/dsnas_steps.json",
    "a batch of Table 5 that one card holds",
    "minutes, not measured yet",
)
STEPS_PAPER = Command(
    "experiments.dsnas_steps",
    "--device cuda --rounds 200 --cells cells --mobile mobile --mobile-batch-size 512 "
    "--run runs/papers/dsnas-steps-512 --output runs/papers/dsnas-steps-512/dsnas_steps.json",
    "all 512 images of Table 5 on one card, where the paper has 4 and 8; mobile is PAD-NAS's, of ProxylessNAS's blocks",
    "minutes, not measured yet",
)
TAU = Command(
    "experiments.dsnas_correlation", cost="about 20 minutes of one core: 2 million images at the .5 ms of table-3"
)
TAU_GPU = Command(
    "experiments.dsnas_correlation",
    "--device cuda --data cifar10 --space shufflenet-small --limit 0 --select 2500 --seeds 6 --top 10 --epochs 60 "
    "--spos-epochs 30 --search-epochs 60 --weight-epochs 10 --batch-size 128 --augment --arch-lr 0.003 "
    "--flops-max 4.3e6 --population 32 --generations 10 --run runs/papers/dsnas-tau "
    "--output runs/papers/dsnas-tau/dsnas_correlation.json",
    "CIFAR-10 in place of ImageNet",
    "not measured yet",
)
TAU_PAPER = Command(
    "experiments.dsnas_correlation",
    "--device cuda --data folder --data-root data/imagenet --pixels 224 --space shufflenet --limit 0 "
    "--select 25000 --seeds 6 --top 10 --epochs 240 --spos-epochs 120 --search-epochs 120 --weight-epochs 20 "
    "--batch-size 1024 --lr 0.5 --augment --arch-lr 0.001 --flops-max 330e6 --population 50 --generations 20 "
    "--run runs/papers/dsnas-tau-paper "
    "--output runs/papers/dsnas-tau-paper/dsnas_correlation.json",
    "ProxylessNAS in SPOS's space; the paper does not say how many networks and searches",
    "not measured: 66 trainings of 240 epochs",
)
SHUFFLENET = "tests/test_spaces.py -k shufflenet"


def steps(result: dict[str, Any]) -> str:
    """Milliseconds of a step by the number of candidates."""
    rows = [
        f"{name} " + ", ".join(f"{n['ms']:.1f} ± {n['ms_interval']:.1f}" for n in by_n.values())
        for name, by_n in result["step"]["forms"].items()
    ]
    return f"ms of a step, n = 2, 4, 8: {'; '.join(rows)}"


def against_full(result: dict[str, Any]) -> str:
    """SNAS over DSNAS, time and memory, in the cells."""
    return f"SNAS: {over_dsnas(result['step']['cells'], 'SNAS')}"


def against_proxyless(result: dict[str, Any]) -> str:
    """ProxylessNAS over DSNAS in the mobile space, as Table 1 counts it and as its code runs it."""
    group = result["step"]["mobile"]
    return "; ".join(f"{name}: {over_dsnas(group, name)}" for name in group if name.startswith("Proxyless"))


def over_dsnas(group: dict[str, Any], name: str) -> str:
    """Time with its interval, memory, and the parts of both in ms."""
    (row,), (own,) = group[name].values(), group["DSNAS"].values()
    ratio, half = row["over_dsnas"]
    parts = ", ".join(f"{part} {row['parts'][part][0]:.0f} ms to {own['parts'][part][0]:.0f}" for part in row["parts"])
    return f"{ratio:.2f} ± {half:.2f} times the time ({parts}), {row['mb'] / own['mb']:.1f} times the memory"


def taus(result: dict[str, Any]) -> str:
    """τ within SPOS's searches, and between the searches of both."""
    inter = [tau for tau in result["tau_inter"]["SPOS"] if tau is not None]
    intra = (f"{name} {between(row['tau'], row['interval'])}" for name, row in result["tau_intra"].items())
    return f"within SPOS's searches {mean(inter, sign='+')}; between searches {', '.join(intra)}"


def accuracies(result: dict[str, Any], arm: str) -> list[float]:
    """Of one arm, by seed."""
    return [seed[arm]["accuracy"] for seed in result["seeds"]]


def minus_direct(result: dict[str, Any], arm: str) -> str:
    """Paired difference of an arm from DSNAS's child as the search leaves it, in points."""
    pairs = zip(accuracies(result, arm), accuracies(result, "direct"), strict=True)
    return f"{mean([a - b for a, b in pairs], 100, '+')} points"


def child(result: dict[str, Any]) -> str:
    """The child as it is, what retraining adds, and random search."""
    direct = mean(accuracies(result, "direct"), 100)
    retrained, random = (minus_direct(result, arm) for arm in ("retrained", "random search"))
    return f"{direct} % as the search leaves it; retrained {retrained}; random search, retrained {random}"


def spos_too(result: dict[str, Any]) -> str:
    """SPOS against DSNAS in every way."""
    ways = {
        "SPOS matched": "fine-tuned at equal multiply-adds",
        "SPOS bound": "fine-tuned within the same bound",
        "SPOS retrained": "retrained",
        "SPOS one stage": "in one stage",
        "SPOS whole": "searched for all epochs and retrained",
    }
    rows = [f"{minus_direct(result, arm)} {told}" for arm, told in ways.items()]
    searched = [seed["SPOS whole"]["search_accuracy"] for seed in result["seeds"]]
    of_search = np.subtract(searched, accuracies(result, "direct"))
    rows.append(f"{mean(of_search, 100, '+')} points before that, with the weights of the search")
    return f"SPOS − DSNAS: {', '.join(rows)}"


def stops(result: dict[str, Any]) -> str:
    """What never settling and SPOS's evolution instead cost."""
    never, evolved = (minus_direct(result, arm) for arm in ("no stop", "DSNAS evolution"))
    return f"never settling − DSNAS: {never}; evolution at half of the epochs − DSNAS: {evolved}"


def deviation(values: list[float]) -> str:
    """Standard deviation in points, with its 95 % interval by χ²."""
    found, free = 100 * stdev(values), len(values) - 1
    low, high = (found * math.sqrt(free / chdtri(free, p)) for p in (0.025, 0.975))
    return f"{found:.2f} ({low:.2f} to {high:.2f})"


def spreads(result: dict[str, Any]) -> str:
    """Standard deviations of accuracies between seeds: DSNAS's child, SPOS's search and what becomes of it."""
    seeds = result["seeds"]
    rows = {"DSNAS": accuracies(result, "direct"), "SPOS, fine-tuned": accuracies(result, "SPOS matched")}
    rows["SPOS, in the search"] = [seed["SPOS retrained"]["search_accuracy"] for seed in seeds]
    rows["SPOS, retrained"] = accuracies(result, "SPOS retrained")
    return "; ".join(f"{name} {deviation(values)}" for name, values in rows.items())


def hours(result: dict[str, Any]) -> str:
    """DSNAS over SPOS searched and retrained, in seconds of the device."""
    seeds = result["seeds"]
    own, other = ([seed[arm]["seconds"] for seed in seeds] for arm in ("direct", "SPOS retrained"))
    less = mean([1 - a / b for a, b in zip(own, other, strict=True)], 100, digits=0)
    return f"{less} % less ({mean(own, digits=0)} s to {mean(other, digits=0)})"


PAPER = Paper(
    "dsnas",
    "DSNAS (Hu et al.)",
    (
        Item(
            "table-1",
            "cost of a step for n candidates: DSNAS as the sub-network, SNAS n times, ProxylessNAS twice",
            "O(P), O(nP), O(2P) in time; O(M), O(nM), O(2M) in memory",
            STEPS,
            "",
            steps,
            "shows: nearly the sub-network's, flat in n",
            STEPS_GPU,
            STEPS_PAPER,
        ),
        Item(
            "table-2",
            "τ between searched and retrained accuracies, within a search and between searches",
            "SPOS .33 and −.07, ProxylessNAS −.33 between searches",
            TAU,
            "",
            taus,
            "shows within a search; cannot be told between searches",
            gpu=TAU_GPU,
            paper=TAU_PAPER,
        ),
        Item(
            "table-3",
            "accuracy of the child as the search leaves it and retrained, against two-stage methods",
            "74.4 ± .22 % as it is, 74.3 ± .27 % retrained, 324M multiply-adds, 420 GPU-hours",
            TINY,
            "",
            child,
            "does not show at this size: the retrained child is better",
            GPU,
            ON_IMAGENET,
        ),
        Item(
            "table-4",
            "time and memory of a step of SNAS and DSNAS",
            "SNAS almost 5 times slower (forward .26 s to .05, backward .46 to .07, optimiser .14 to .13), n times the "
            "memory",
            STEPS,
            "",
            against_full,
            "shows",
            STEPS_GPU,
            STEPS_PAPER,
        ),
        Item(
            "table-5",
            "time of a step of ProxylessNAS and DSNAS",
            "ProxylessNAS twice as slow (forward 3.3 s to 1.9, backward 2.3 to 1.3, optimiser 3.6 to 2.6)",
            STEPS,
            "",
            against_proxyless,
            "shows for two paths; as its code runs it, it is 1.35 times as slow",
            STEPS_GPU,
            STEPS_PAPER,
        ),
        Item("figure-1", "two-stage search as a projection", "a drawing", lacks="a drawing of the idea", idea=True),
        Item(
            "figure-2",
            "forward and backward of SNAS, ProxylessNAS and DSNAS in a graph of operations (eq. 1)",
            "a drawing; a step in such a graph is Table 4's",
            STEPS,
            gpu=STEPS_GPU,
            paper=STEPS_PAPER,
        ),
        Item(
            "figure-3",
            "accuracy over epochs and hours: DSNAS, SPOS retrained, SPOS fine-tuned, SPOS in one stage",
            "at epoch 240 SPOS fine-tuned is about 1.4 points below DSNAS, SPOS still in its search 4 (§4.2)",
            TINY,
            "",
            spos_too,
            "that SPOS in its search is behind shows; fine-tuned it is not",
            GPU,
            ON_IMAGENET,
        ),
        Item(
            "text-progressive-stop",
            "settling layers early against sampling to the end",
            "§3.5: sampling on may hinder learning; §4.2: one stage with SPOS's evolution instead loses 1.3 points",
            TINY,
            "",
            stops,
            "cannot be told at this size",
            GPU,
            ON_IMAGENET,
        ),
        Item(
            "text-entropy",
            "the entropy of the distribution over architectures does not go to zero",
            "§3.5, no figure",
            TINY,
            "",
            lambda result: f"{mean([s['no stop']['entropy'] for s in result['seeds']])} of the largest, without stop",
            "shows",
            GPU,
            ON_IMAGENET,
        ),
        Item(
            "text-spread",
            "accuracies of DSNAS vary less between seeds than SPOS's",
            "§4.2: standard deviation .22 against .38 and .36 points",
            TINY,
            "",
            spreads,
            "does not show at this size: they vary alike",
            GPU,
            ON_IMAGENET,
        ),
        Item(
            "text-hours",
            "all that it takes to a network that is ready",
            "§4.2: 34 % less than SPOS searched and retrained (420 GPU-hours to 634)",
            TINY,
            "",
            hours,
            "shows, but the child is 1.5 points less accurate",
            GPU,
            ON_IMAGENET,
        ),
        Item(
            "text-space",
            "the space: 20 layers of four ShuffleNet blocks, 4^20 networks of about 330M multiply-adds",
            "§4.2",
            Command("pytest", f"{SHUFFLENET} -q"),
        ),
    ),
)
