"""Network Space Search for Pareto-Efficient Spaces: its supplement, which is the text that we have."""

from __future__ import annotations

from typing import Any

from experiments.papers.item import Command, Item, Paper, between, mean

TINY = Command("experiments.nss")
REGIMES = "200e6 400e6 600e6 1.6e9 3.2e9 4e9 6.4e9 8e9 12e9 16e9 24e9 32e9"
BUDGET = "--limit 50000 --search-epochs 50 --population 50 --iterations 20"


def on(data: str, settings: str, lacks: str, cost: str) -> Command:
    """The whole experiment on one GPU, with a folder of its own."""
    folder = f"--run runs/papers/nss-{data} --output runs/papers/nss-{data}.json"
    return Command("experiments.nss", f"--device cuda --data {data} {settings} {BUDGET} {folder}", lacks, cost)


GPU = on(
    "fashion-mnist",
    "--space residual-medium --ranges 2 4 --targets 30e6 100e6 300e6 1e9 --epochs 30 --compared 32 --seeds 5",
    "Fashion-MNIST, residual-medium and four targets of our own",
    "not measured yet",
)
ON_CIFAR10, ON_CIFAR100 = (
    on(
        data,
        f"--space residual --ranges 4 32 --targets {REGIMES} --augment --epochs 100 --compared 100",
        "the sizes of ranges and how networks are trained alone are not in our text: 4 and 32, 100 epochs; a tenth of "
        "the training images judges in place of the test images",
        "the paper: half a day of four 1080 Ti for one search of spaces; ours trains some 4,000 networks besides",
    )
    for data in ("cifar10", "cifar100")
)
SMALLER = "Fashion-MNIST, residual-small and three targets, as CIFAR cannot be had here"
SPACE = Command("pytest", "tests/test_residual.py -q")


def samples(result: dict[str, Any]) -> str:
    """Draws until ±10 % of each target, errors of the best of five and of searched networks, deviations."""
    rows = [
        f"{row['target'] / 1e6:.1f}M {mean([e for e in row['elite'] if e is not None], digits=1)} to "
        f"{row['expanded']:.1f}"
        for row in result["samples"]
    ]
    best = result["best_of_5"]
    told = [
        f"samples, elite to expanded: {', '.join(rows)}",
        f"error {mean([row['elite'] - row['expanded'] for row in best], 100, '+')} points",
    ]
    for name in ("elite", "expanded"):
        own = [row for row in result["searched"] if row["space"] == name]
        error, off = (mean([row[key] for row in own], 100) for key in ("error", "deviation"))
        told.append(f"searched in the {name} space: error {error} %, {off} % off the target")
    return "; ".join(told)


def strict(result: dict[str, Any]) -> str:
    """How many times fewer samples, and how much less error, from the smallest target to the largest."""
    rows = [row["expanded"] / (sum(row["elite"]) / len(row["elite"])) for row in result["samples"] if all(row["elite"])]
    gains = []
    for row in result["samples"]:
        best = [found for found in result["best_of_5"] if found["target"] == row["target"]]
        gains.append(mean([found["elite"] - found["expanded"] for found in best], 100, "+"))
    fewer = ", ".join(f"{ratio:.1f}" for ratio in rows)
    return f"the smallest target first: {fewer} times fewer samples; error {', '.join(gains)} points"


def difference(found: dict[str, Any], pair: list[str]) -> str:
    """Points between two groups of networks of equal multiply-adds."""
    row = {tuple(d["pair"]): d for d in found["differences"]}[tuple(pair)]
    return f"{' − '.join(pair)}: {between(row['difference'], row['interval'], 100)} points"


def regimes(result: dict[str, Any]) -> str:
    """Elite networks against random ones and against those of random spaces, at each target where there are."""
    pairs = (["elite", "random"], ["elite", "random spaces"])
    return "; ".join(
        f"{row['target'] / 1e6:.4g}M {', '.join(difference(row, pair) for pair in pairs)}" for row in result["regimes"]
    )


def warm_up(result: dict[str, Any]) -> str:
    """The spaces, and the weights: accuracies of random networks, and how they are ranked."""
    told = [difference(result["equal_flops"], ["elite", "elite without warm-up"])]
    names = {"warm": "warm-up", "plain": "nothing enabled", "cold": "no warm-up"}
    for how, moments in result["weights"].items():
        last = moments["at the end"]
        accuracy, tau = mean([row["mean"] for row in last], 100), mean([row["tau"] for row in last])
        told.append(f"weights, {names[how]}: random networks {accuracy} %, τ {tau}")
    return "; ".join(told)


def spent(result: dict[str, Any]) -> str:
    """Minutes of the searches of spaces, and of those of networks in them."""
    told = [f"spaces, {len(result['samples'])} targets: {mean(result['search_minutes'], digits=1)} minutes"]
    for name in ("elite", "expanded"):
        own = [row["minutes"] for row in result["searched"] if row["space"] == name]
        told.append(f"a network in the {name} space: {mean(own, digits=1)}")
    return "; ".join(told)


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
            SMALLER,
            samples,
            "fewer samples show; a lower error does not",
            GPU,
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
            SMALLER,
            regimes,
            "better than random networks shows, most of it as any space of that cost; on the front they are not",
            GPU,
            ON_CIFAR10,
        ),
        Item(
            "figure-s4",
            "the same on CIFAR-100",
            "as figure S3",
            Command("pytest", "tests/test_experiments_nss.py -m slow -k folder -q"),
            "CIFAR-100 cannot be had here: the command is tried on drawn pictures",
            paper=ON_CIFAR100,
        ),
        Item(
            "text-strict",
            "the gain is largest under strict constraints",
            "§D.3: 661 samples to 5 and 29.86 to 22.94 % error at 400M, CIFAR-100",
            TINY,
            ours=strict,
            verdict="shows for samples; an error cannot be told",
            gpu=GPU,
            paper=ON_CIFAR100,
        ),
        Item(
            "text-warm-up",
            "warm-up of channels and blocks gives weights that guide the search better",
            "§C, no figure (a quarter of the epochs; §D.1: 15 of 50)",
            TINY,
            ours=warm_up,
            verdict="does not show: warm-up changes nothing here",
            gpu=GPU,
            paper=ON_CIFAR10,
        ),
        Item("text-space-size", "the size of the expanded space", "§A: (16 · 512)³, about 10¹²", SPACE),
        Item(
            "text-search-cost",
            "searching the space, then in it: hours in an elite space, half a day in the expanded one",
            "§D.1: half a day for the spaces, half a day and several hours for networks",
            TINY,
            ours=spent,
            verdict="shows: a search in the elite space is shorter, the spaces' own comes first",
            gpu=GPU,
            paper=ON_CIFAR10,
        ),
    ),
)
