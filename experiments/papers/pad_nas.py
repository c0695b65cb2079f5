"""Progressive Automatic Design of Search Space for One-Shot Neural Architecture Search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.papers.item import Command, Item, Paper, mean

TINY = Command(
    "experiments.pad_nas",
    "--train 3000 --front 6 --random 8",
    limits="bounds multiply-adds and not latency, at its own rates: no --lut, --batch-size, --lr",
)
EVOLUTION = Command(
    "experiments.evolution",
    "--train 4000",
    limits="bounds multiply-adds and not latency: no --lut",
)
SMALL = "Fashion-MNIST and a small space, all training images; otherwise as for two cores"
GPU = Command(
    "experiments.pad_nas",
    "--device cuda --seeds 5 --train 40000 --epochs 60 40 20 --alone 30 --population 64 --iterations 20 --front 30 "
    "--run runs/papers/pad-nas-arms --output runs/papers/pad-nas-arms.json",
    SMALL,
    "not measured yet",
)
EVOLUTION_GPU = Command(
    "experiments.evolution",
    "--device cuda --runs 10 --train 40000 --epochs 60 --population 64 --iterations 20 "
    "--run runs/papers/evolution --output runs/papers/evolution.json",
    SMALL,
    "not measured yet",
)
SPACES = Command("pytest", "tests/test_spaces.py -k mobile -q")
SEARCH = "--epochs 120 80 40 --population 64 --iterations 40 --retrain 240 --run runs/papers/pad-nas"
IMAGENET = "--data folder --data-root data/imagenet --batch-size 1024 --lr 0.5 --threshold 0.01"
PIXEL = "--lut runs/papers/pixel3.json"
BEST_ONLY = "trains the best network of the front alone, and four random ones; the others by tools/retrain.py"
TABLE = "the table of the phone first, by tools/build_lut.py --device adb"


def searched(space: str, window: str, lacks: str) -> tuple[Command, Command]:
    """The whole method, on CIFAR-10 for one GPU and on ImageNet for the paper's eight."""
    small = Command(
        "tools/pad_nas.py",
        f"{SEARCH}-{space}-gpu --space {space} --data cifar10",
        f"{BEST_ONLY}; CIFAR-10, the small form of the space, latency on this machine",
        "not measured yet: -- --plan measures it",
    )
    whole = Command(
        "tools/pad_nas.py",
        f"{SEARCH}-{space} --space {space} {IMAGENET} {PIXEL} {window}".strip(),
        f"{BEST_ONLY}; {TABLE}; {lacks}",
        "the paper: 66.5 hours of 8 V100; -- --plan measures it",
    )
    return small, whole


LARGE_GPU, LARGE = searched(
    "large", "--lat-min 50 --lat-max 100", "the basic space is a run of its own: --space basic, 60 to 70 ms"
)
V3_GPU, V3 = searched("v3", "", "the paper names no window for this space")


def of_seeds(result: dict[str, Any], value: Callable[[dict[str, Any]], float | None], scale: float = 1.0) -> str:
    """The mean over the supernet seeds that have it."""
    found = [value(seed) for seed in result["seeds"]]
    return mean([x for x in found if x is not None], scale)


def gap(result: dict[str, Any]) -> str:
    """Accuracy alone minus one-shot, of the networks that all supernets hold; the best of each front."""
    return "; ".join(
        f"{name} {of_seeds(result, lambda s, n=name: s['best_of_front_alone'][n], 100)} %, gap "
        f"{of_seeds(result, lambda s, n=name: s['common_set'][n]['gap'], 100)}"
        for name in ("I", "PAD")
    )


def random_networks(result: dict[str, Any]) -> str:
    """Means of random networks alone; the full space's are the same networks in every seed."""
    full = np.mean(result["seeds"][0]["random_networks_alone"]["I"])
    others = ("PAD", "random pruning", "keep the largest")
    means = [f"{n} {of_seeds(result, lambda s, n=n: np.mean(s['random_networks_alone'][n]), 100)}" for n in others]
    return f"full space {100 * full:.2f} % (one draw); {', '.join(means)}"


def taus(result: dict[str, Any], part: str) -> str:
    """Kendall's τ of each supernet; a front of fewer than three networks has none."""
    rows = {n: of_seeds(result, lambda s, n=n: (s[part][n] or {}).get("tau")) for n in ("I", "P", "PAD")}
    return "; ".join(f"{name} {tau}" for name, tau in rows.items())


def ranking(result: dict[str, Any]) -> str:
    """τ on own fronts and on the common set."""
    pairs = of_seeds(result, lambda s: s["paired_difference_of_tau"]["PAD − I"][0])
    return f"own fronts: {taus(result, 'own_front')}; one common set: {taus(result, 'common_set')}, PAD − I {pairs}"


def operations(result: dict[str, Any]) -> str:
    """Variance between searches and sparsity of the operation distribution."""
    rows = result["one_shot"]
    return "; ".join(
        f"{name} variance {rows[key]['variance_of_distribution']:.4f}, sparsity {mean(rows[key]['sparsity'])}"
        for key, name in (("ces", "CES"), ("spos", "SPOS"))
    )


def against_random(result: dict[str, Any]) -> str:
    """Best one-shot accuracy of evolution minus that of random search, by search."""
    rows = {name: np.array(row["best_accuracy"]) for name, row in result["one_shot"].items()}
    return "; ".join(
        f"{name} − random {mean(rows[key] - rows['random'], 100, '+')} points"
        for key, name in (("ces", "CES"), ("spos", "SPOS"))
    )


def sizes(result: dict[str, Any]) -> str:
    """Networks left by each pruning, by seed."""
    return "; ".join(" → ".join(f"{size:,}" for size in seed["pruning"]["PAD"]) for seed in result["seeds"])


PAPER = Paper(
    "pad-nas",
    "PAD-NAS (Xia et al.)",
    (
        Item("table-1", "the supernet: 22 searched layers, their channels and strides", "a definition", SPACES),
        Item(
            "table-2",
            "operations: 6 and identity, or 18 and identity",
            "6.64 · 10¹⁷ and 1.55 · 10²⁷ networks (§4.1)",
            SPACES,
        ),
        Item(
            "table-3",
            "ImageNet: accuracy and Pixel 3 latency of the found networks against others",
            "PAD-NAS-S-B 74.9 % at 64.7 ms, L-B 75.2 at 67.2, L-E 76.1 at 101.5",
            lacks="ImageNet and a Pixel 3 cannot be had here; tools/pad_nas.py is the whole method",
            gpu=LARGE_GPU,
            paper=LARGE,
        ),
        Item(
            "table-4",
            "the same in a space like MobileNetV3, with squeeze-excite and swish",
            "V3-C 76.5 % at 55.1 ms against MobileNetV3's 75.2 at 52.6",
            lacks="as table 3; the space has squeeze-excite and swish everywhere, MobileNetV3 in some layers",
            gpu=V3_GPU,
            paper=V3,
        ),
        Item(
            "table-5",
            "the found network as the backbone of segmentation on Cityscapes",
            "L-A 73.3 % mIoU at 680 ms against MobileNetV2's 72.7 at 773",
            lacks="there is no segmentation head and no training of one",
        ),
        Item(
            "table-6",
            "best network alone and the gap to its one-shot accuracy, small and large space, I and PAD",
            "the gap shrinks from 21.99 to 2.94 points; PAD-L is 1.02 above I-L, S .42 (§4.3)",
            TINY,
            "one space, so small against large is left out; the bound is on multiply-adds; gaps are those of random "
            "networks that all supernets hold",
            gap,
            "does not show at this size: the gap grows",
            gpu=GPU,
        ),
        Item(
            "table-7",
            "random networks of the designed space against random ones of the full space",
            "large: 74.91 ± .11 to 72.71 ± .46 %; small: 74.72 ± .10 to 73.88 ± .19",
            TINY,
            "its random networks keep to no bound, those of the paper to the latency window; one space",
            random_networks,
            "does not show at this size: random pruning and keeping the largest are as good or better",
            gpu=GPU,
        ),
        Item(
            "table-8",
            "Kendall's τ of 30 networks along the front, and sizes of the spaces",
            "I-S .615, I-L .498, P-L .745, PAD-L .888; 10²⁷ → 10¹⁵ → 10⁹ networks",
            TINY,
            "at most 6 networks of each front; one space, so I-S is left out",
            ranking,
            "does not show at this size: on its own front the unpruned supernet ranks best",
            gpu=GPU,
        ),
        Item(
            "table-9",
            "hours of supernet, search and retraining: SPOS against PAD-NAS",
            "59.5 to 66.5 hours of 8 V100",
            lacks="the hours of each part are not kept over resumes",
        ),
        Item(
            "figure-1",
            "accuracy over Pixel 3 latency",
            "as table 3",
            lacks="as table 3; evolve.py and report.py draw such a front",
            gpu=LARGE_GPU,
            paper=LARGE,
        ),
        Item("figure-2", "the stages of the method", "a drawing", lacks="a drawing of the idea", idea=True),
        Item(
            "figure-3",
            "operations of each layer in the found networks: most never occur",
            "layer 1 has one operation only (§3.1)",
            lacks="no experiment draws it; each stage of tools/pad_nas.py leaves such a picture",
            gpu=LARGE_GPU,
            paper=LARGE,
        ),
        Item(
            "figure-4",
            "the five networks of the large space, drawn",
            "a drawing of PAD-NAS-L-A to E",
            lacks="no command draws networks of layers with operations",
        ),
        Item(
            "figure-5",
            "accuracy of the supernets over epochs, small and large space",
            "PAD-L passes PAD-S after two prunings, I-L stays below I-S; 5 seeds",
            lacks="curves of all stages are in the runs and in no plot; small against large is left out",
        ),
        Item(
            "figure-6",
            "one-shot against alone for 30 networks of each front",
            "the cloud of table 8",
            TINY,
            "at most 6 networks of each front; the picture has τ, not the networks",
            lambda result: f"own fronts: {taus(result, 'own_front')}",
            "does not show at this size",
            gpu=GPU,
        ),
        Item(
            "figure-7",
            "operations of the last layer by CES and by SPOS's evolution, 5 searches: variance and sparsity",
            "CES varies less and is sparser (§4.4)",
            EVOLUTION,
            "all layers, not the last one; SPOS's networks are counted by CES's ranks, not as its final population",
            operations,
            "does not show beyond the noise here",
            gpu=EVOLUTION_GPU,
        ),
        Item(
            "text-evolution",
            "evolution finds better networks than random search",
            "§3.2, by earlier works",
            EVOLUTION,
            "",
            against_random,
            "CES finds no more than random search; SPOS's evolution finds the highest, within the interval",
            gpu=EVOLUTION_GPU,
        ),
        Item(
            "text-sizes",
            "pruning shrinks the space by orders of magnitude and keeps networks to choose from",
            "§4.3: 10²⁷ → 10¹⁵ → 10⁹",
            TINY,
            "a space of 147,456 networks; a threshold of 7 %",
            sizes,
            "",
            gpu=GPU,
        ),
        Item(
            "text-threshold",
            "a threshold of 1 % balances quality and diversity",
            "§4.1, no figure",
            lacks="experiments.pad_nas has --threshold; several were never compared",
        ),
        Item(
            "text-stages",
            "more than four stages add nothing",
            "§4.1, no figure",
            lacks="experiments.pad_nas has three trainings at most",
        ),
    ),
)
