"""DSNAS: Direct Neural Architecture Search without Parameter Retraining."""

from __future__ import annotations

from statistics import stdev
from typing import Any

from experiments.papers.item import Command, Item, Paper, mean

TINY = Command("experiments.dsnas", limits="is for mobile-small, and times steps on the CPU: no --space")
GPU = Command(
    "experiments.dsnas",
    "--device cuda --seeds 5 --limit 50000 --epochs 60 --batch-size 128 --run runs/papers/dsnas-arms "
    "--output runs/papers/dsnas-arms",
    "Fashion-MNIST and mobile-small, all training images; otherwise as for two cores",
    "not measured yet",
)
SHUFFLENET = "tests/test_spaces.py -k shufflenet"
RUN = "--method dsnas --epochs 240 --retrain --run runs/papers/dsnas"
OWN_ROW = "DSNAS's own row with one seed, SPOS's and random search's are commands of their own (README)"
ON_CIFAR = Command(
    "tools/train_supernet.py",
    f"{RUN}-gpu --space shufflenet-small --data cifar10",
    f"{OWN_ROW}; CIFAR-10 in place of ImageNet, without a bound",
    "not measured yet: -- --plan measures it",
)
ON_IMAGENET = Command(
    "tools/train_supernet.py",
    f"{RUN} --space shufflenet --data folder --data-root data/imagenet --batch-size 1024 --lr 0.5 --flops-max 330e6",
    OWN_ROW,
    "the paper: 420 GPU-hours of TITAN X, without the retraining; -- --plan measures it",
)
NO_CELLS = "cells and their graphs (eq. 1) are not built"


def steps(result: dict[str, Any]) -> str:
    """Milliseconds of a step by the number of candidates."""
    rows = [
        f"{name} " + ", ".join(f"{n['ms']:.1f} ± {n['ms_interval']:.1f}" for n in by_n.values())
        for name, by_n in result["step"]["forms"].items()
    ]
    return f"ms of a step, n = 2, 4, 8: {'; '.join(rows)}"


def against_full(result: dict[str, Any]) -> str:
    """Full instantiation over DSNAS, time and memory, for the most candidates."""
    forms = result["step"]["forms"]
    full, own = forms["full"]["8"], forms["DSNAS"]["8"]
    return f"{full['ms'] / own['ms']:.1f} times the time, {full['mb'] / own['mb']:.1f} times the memory at n = 8"


def accuracies(result: dict[str, Any], arm: str) -> list[float]:
    """Of one arm, by seed."""
    return [seed[arm]["accuracy"] for seed in result["seeds"]]


def minus_direct(result: dict[str, Any], arm: str) -> str:
    """Paired difference of an arm from DSNAS's child as the search leaves it, in points."""
    pairs = zip(accuracies(result, arm), accuracies(result, "direct"), strict=True)
    return f"{mean([a - b for a, b in pairs], 100, '+')} points"


def child(result: dict[str, Any]) -> str:
    """The child as it is, and what retraining adds."""
    direct = mean(accuracies(result, "direct"), 100)
    return f"{direct} % as the search leaves it; retrained {minus_direct(result, 'retrained')}"


def spos_too(result: dict[str, Any]) -> str:
    """SPOS with fine-tuning against DSNAS at equal epochs."""
    matched, bound = (minus_direct(result, f"SPOS {arm}") for arm in ("matched", "bound"))
    return f"SPOS − DSNAS: {matched} at equal multiply-adds, {bound} within the same bound"


def spreads(result: dict[str, Any]) -> str:
    """Standard deviations of accuracies between seeds, in points."""
    arms = {"DSNAS": "direct", "SPOS, fine-tuned": "SPOS matched"}
    return "; ".join(f"{name} {100 * stdev(accuracies(result, arm)):.2f}" for name, arm in arms.items())


PAPER = Paper(
    "dsnas",
    "DSNAS (Hu et al.)",
    (
        Item(
            "table-1",
            "cost of a step for n candidates: DSNAS as the sub-network, SNAS n times, ProxylessNAS twice",
            "O(P), O(nP), O(2P) in time; O(M), O(nM), O(2M) in memory",
            TINY,
            "ProxylessNAS's two paths; forward and backward apart",
            steps,
            "shows: nearly the sub-network's, flat in n",
        ),
        Item(
            "table-2",
            "τ between searched and retrained accuracies, within a search and between searches",
            "SPOS .33 and −.07, ProxylessNAS −.33 between searches",
            lacks="ProxylessNAS's search is missing; experiments.pad_nas takes τ of SPOS, but of PAD-NAS's spaces",
        ),
        Item(
            "table-3",
            "accuracy of the child as the search leaves it and retrained, against two-stage methods",
            "74.4 ± .22 % as it is, 74.3 ± .27 % retrained, 324M multiply-adds, 420 GPU-hours",
            TINY,
            "Fashion-MNIST and mobile-small, half of 12 epochs for the child where the paper gives two thirds of 240; "
            "random search; device-hours",
            child,
            "does not show at this size: the retrained child is better",
            ON_CIFAR,
            ON_IMAGENET,
        ),
        Item(
            "table-4",
            "time and memory of a step of SNAS and DSNAS",
            "SNAS almost 5 times slower (forward .26 s to .05, backward .46 to .07, optimiser .14 to .13), n times the "
            "memory",
            TINY,
            "a soft mixture stands for SNAS's concrete relaxation; forward, backward, optimiser and test apart",
            against_full,
            "shows",
        ),
        Item(
            "table-5",
            "time of a step of ProxylessNAS and DSNAS",
            "ProxylessNAS twice as slow (forward 3.3 s to 1.9, backward 2.3 to 1.3, optimiser 3.6 to 2.6)",
            lacks="ProxylessNAS's two paths are not built",
        ),
        Item("figure-1", "two-stage search as a projection", "a drawing", lacks="a drawing of the idea", idea=True),
        Item(
            "figure-2",
            "forward and backward of SNAS, ProxylessNAS and DSNAS in a graph of operations",
            "a drawing",
            lacks=f"a drawing of the idea; {NO_CELLS}",
            idea=True,
        ),
        Item(
            "figure-3",
            "accuracy over epochs and hours: DSNAS, SPOS retrained, SPOS fine-tuned, SPOS in one stage",
            "SPOS fine-tuned about 1.4 points below DSNAS at epoch 240 (§4.2)",
            TINY,
            "SPOS selects among 32 random networks, not by its evolution; curves over time; SPOS retrained",
            spos_too,
            "cannot be told at this size",
            gpu=GPU,
        ),
        Item(
            "text-progressive-stop",
            "settling layers early against sampling to the end",
            "§3.5: sampling on may hinder learning; §4.2: one stage with SPOS's evolution instead loses 1.3 points",
            TINY,
            "the arm with SPOS's evolution at half of the epochs",
            lambda result: f"never settling − DSNAS: {minus_direct(result, 'no stop')}",
            "cannot be told at this size",
            gpu=GPU,
        ),
        Item(
            "text-entropy",
            "the entropy of the distribution over architectures does not go to zero",
            "§3.5, no figure",
            TINY,
            "",
            lambda result: f"{mean([s['no stop']['entropy'] for s in result['seeds']])} of the largest, without stop",
            "",
            gpu=GPU,
        ),
        Item(
            "text-spread",
            "accuracies of DSNAS vary less between seeds than SPOS's",
            "§4.2: standard deviation .22 against .38 and .36 points",
            TINY,
            "three seeds tell no deviation; SPOS retrained",
            spreads,
            "",
            gpu=GPU,
        ),
        Item(
            "text-hours",
            "all that it takes to a network that is ready",
            "§4.2: 34 % less than SPOS searched and retrained (420 GPU-hours to 634)",
            lacks="device-hours are not kept over resumes",
        ),
        Item(
            "text-space",
            "the space: 20 layers of four ShuffleNet blocks, 4^20 networks of about 330M multiply-adds",
            "§4.2",
            Command("pytest", f"{SHUFFLENET} -q"),
        ),
    ),
)
