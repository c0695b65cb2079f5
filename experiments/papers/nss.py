"""Network Space Search for Pareto-Efficient Spaces: its supplement, which is the text that we have."""

from __future__ import annotations

from typing import Any

from experiments.papers.item import Command, Item, Paper, between, mean

TINY = Command("experiments.nss", limits="is for residual-small: no --space")
GPU = Command(
    "experiments.nss",
    "--device cuda --seeds 5 --limit 50000 --search-epochs 50 --epochs 30 --compared 32 --run runs/papers/nss-elite "
    "--output runs/papers/nss-elite",
    "Fashion-MNIST and residual-small, all training images; otherwise as for two cores",
    "not measured yet",
)
SPACES_ONLY = "finds the elite spaces; networks are not drawn, trained and compared in them"
REGIMES = "200e6,400e6,600e6,1.6e9,3.2e9,4e9,6.4e9,8e9,12e9,16e9,24e9,32e9"
SEARCH = "--method nss --epochs 50 --batch-size 64 --run runs/papers/nss"
MEDIUM = Command(
    "tools/train_supernet.py",
    f"{SEARCH}-gpu --space residual-medium --data cifar10",
    f"{SPACES_ONLY}; a smaller space and three targets of our own",
    "not measured yet: -- --plan measures it",
)
PLAN = "the paper: half a day of four 1080 Ti for one search; -- --plan measures it"
ON_CIFAR10, ON_CIFAR100 = (
    Command(
        "tools/train_supernet.py",
        f"{SEARCH}-{data} --space residual --data {data} --targets {REGIMES} --theta-lr 3e-4",
        SPACES_ONLY,
        PLAN,
    )
    for data in ("cifar10", "cifar100")
)
SPACE = Command("pytest", "tests/test_residual.py -q")


def samples(result: dict[str, Any]) -> str:
    """Draws until ±10 % of each target, and the difference of the best of five."""
    rows = [
        f"{row['target'] / 1e6:.1f}M {mean([e for e in row['elite'] if e is not None], digits=1)} to "
        f"{row['expanded']:.1f}"
        for row in result["samples"]
    ]
    error = mean([row["elite"] - row["expanded"] for row in result["best_of_5"]], 100, "+")
    return f"samples, elite to expanded: {', '.join(rows)}; error {error} points"


def ratios(result: dict[str, Any]) -> str:
    """How many times fewer samples, from the smallest target to the largest."""
    rows = [row["expanded"] / (sum(row["elite"]) / len(row["elite"])) for row in result["samples"] if all(row["elite"])]
    return f"{', '.join(f'{ratio:.1f}' for ratio in rows)} times fewer samples, the smallest target first"


def difference(result: dict[str, Any], pair: list[str]) -> str:
    """Points between two groups of networks of equal multiply-adds."""
    found = next(d for d in result["equal_flops"]["differences"] if d["pair"] == pair)
    return f"{' − '.join(pair)}: {between(found['difference'], found['interval'], 100)} points"


PAPER = Paper(
    "nss",
    "Network Space Search (Hong et al.)",
    (
        Item(
            "table-1",
            "samples until a network meets the target, its error and deviation: elite against expanded space, 12 "
            "targets, CIFAR-10 and CIFAR-100",
            "CIFAR-10: 5 to 215.6 samples, error 4.13 to 4.76 %; CIFAR-100: 5 to 123.7, 20.66 to 23.64 % (means)",
            TINY,
            "three targets, Fashion-MNIST, residual-small; the elite space is the most probable one within 10 % of the "
            "target, not the argmax; best of five where the paper runs a search; deviations are not told",
            samples,
            "fewer samples show (the filter by cost does much of that); a lower error does not show",
            MEDIUM,
            ON_CIFAR10,
        ),
        Item(
            "figure-s1",
            "the expanded space: stem of 16, three stages of up to 16 blocks and 512 channels, pooling, linear",
            "a drawing (§A)",
            SPACE,
        ),
        Item("figure-s2", "the basic residual block", "a drawing (§A)", SPACE),
        Item(
            "figure-s3",
            "elite spaces against random networks and the Pareto front over multiply-adds, CIFAR-10",
            "elite spaces lie on the front in all 12 regimes (§D.2)",
            TINY,
            "one target, Fashion-MNIST, residual-small; no control of cost-matched random spaces",
            lambda result: difference(result, ["elite", "random"]),
            "shows: the elite space is better than chance; it has none of the failures",
            MEDIUM,
            ON_CIFAR10,
        ),
        Item(
            "figure-s4",
            "the same on CIFAR-100",
            "as figure S3",
            lacks="CIFAR-100 cannot be had here; experiments.nss --data cifar100 would take it",
            paper=ON_CIFAR100,
        ),
        Item(
            "text-strict",
            "the gain is largest under strict constraints",
            "§D.3: 661 samples to 5 at 400M, CIFAR-100",
            TINY,
            "three targets in a smaller space",
            ratios,
            "",
            gpu=GPU,
        ),
        Item(
            "text-warm-up",
            "warm-up of channels and blocks gives weights that guide the search better",
            "§C, no figure (a quarter of the epochs; §D.1: 15 of 50)",
            TINY,
            "the spaces that are found, at one target; the weights are not compared",
            lambda result: difference(result, ["elite", "elite without warm-up"]),
            "does not show: warm-up changes nothing here",
            gpu=GPU,
        ),
        Item("text-space-size", "the size of the expanded space", "§A: (16 · 512)³, about 10¹²", SPACE),
        Item(
            "text-search-cost",
            "searching the space, then in it: hours in an elite space, half a day in the expanded one",
            "§D.1: half a day for the spaces, half a day and several hours for networks",
            lacks=f"{TINY.program} draws networks of the spaces and searches in none",
        ),
    ),
)
