"""Efficient Global Neural Architecture Search."""

from __future__ import annotations

from experiments.papers.global_nas_figures import (
    compared,
    counted,
    described,
    dynamic,
    operations,
    recognised,
    retrieved,
    rho,
    spread,
    starts,
    static,
    trained,
)
from experiments.papers.item import Command, Item, Paper, mean

RUNS = "runs/papers/global-nas"


def scaled(program: str, words: str, name: str, lacks: str = "", cost: str = "not known") -> Command:
    """An experiment on a GPU whose results do not take the place of those for two cores."""
    where = f"{RUNS}-{name}"
    words = f"--device cuda {words} --run {where} --output {where}/results.json"
    return Command(f"experiments.{program}", words, lacks, cost)


def searches(data: str, cost: str, least: bool = False, others: str = "") -> Command:
    """Searches, final trainings and random networks with the paper's tiny settings.

    Args:
        least: hours of one GPU. others: images that are runs of their own.
    """
    words = (
        f"--data {data} --limit 0 --validation 0 --depth 10 100 --width 16 64 --epochs 10 --macro-width --train-all "
    )
    if least:
        words += "--augment --final-epochs 100 --searches 1 --random 3"
        lacks = f"one search, 100 epochs at last, three random networks{others}"
        return scaled("global_nas", words, f"{data}-100", lacks, cost)
    words += "--augment --final-epochs 600"
    return scaled("global_nas", words, data, f"mobile networks are another run: --width 16 128{others}", cost)


TINY = Command("experiments.global_nas")
RANKING = Command("experiments.global_nas_ranking")
ABLATION = Command("experiments.global_nas_ablation")
FACES = Command("experiments.global_nas_faces")
REPLAY = Command("pytest", "tests/test_efficient_global.py -k recorded -q")

CIFAR10_GPU = searches("cifar10", "the paper: .24 days of an RTX 8000 for the search", least=True)
CIFAR10 = searches("cifar10", "the paper: .24 days of an RTX 8000 for each of five searches")
CIFAR100_GPU = searches("cifar100", "the paper: .17 days of an RTX 8000 for the search", least=True)
CIFAR100 = searches("cifar100", "the paper: .17 days of an RTX 8000 for each of five searches")
OTHERS = "; EMNIST and KMNIST are others: --data emnist, --data kmnist, each with a --run and an --output of its own"
FASHION_GPU = searches("fashion-mnist", "the paper: .11 days of an RTX 8000 for the search", True, OTHERS)
FASHION = searches("fashion-mnist", "the paper: .11 days of an RTX 8000 for each of five searches", others=OTHERS)
RANKING_GPU = scaled(
    "global_nas_ranking",
    "--data cifar10 --limit 0 --validation 0 --depth 5 40 --width 16 64 --networks 60 --epochs 20 --augment",
    "ranking-60",
    "bounds and epochs below the paper's, 60 networks",
    "60 networks twice for 20 epochs",
)
RANKING_PAPER = scaled(
    "global_nas_ranking",
    "--data cifar10 --limit 0 --validation 0 --depth 5 100 --width 16 128 --networks 240 --epochs 50 --augment",
    "ranking",
    cost="240 networks twice for 50 epochs",
)
ABLATION_GPU = scaled(
    "global_nas_ablation",
    "--data cifar10 --limit 0 --validation 0 --pair-limit 0 --depth 10 40 --width 16 32 --epochs 5 --final-epochs 20 "
    "--augment",
    "ablation-3",
    "bounds below the paper's, four pairs of classes, three seeds",
)
ABLATION_PAPER = scaled(
    "global_nas_ablation",
    "--data cifar10 --limit 0 --validation 0 --pairs 10 --pair-limit 0 --depth 10 100 --width 16 64 --epochs 10 "
    "--final-epochs 20 --seeds 10 --augment --train-all",
    "ablation",
    "600 epochs at last are another run: --final-epochs 600",
)
IMAGES = "data/faces/casia --benchmarks " + " ".join(
    f"data/faces/{name}" for name in ("lfw.bin", "cfp_fp.bin", "cplfw.bin", "agedb_30.bin", "calfw.bin", "IJBB", "IJBC")
)
OF_FACES = (
    f"--faces {IMAGES} data/faces/TinyFace --resolution 112 --depth 12 100 --epochs 10 --batch-size 64 "
    "--reference-width 64 --final-batch-size 512 --final-lr .1 --seeds 1"
)
SMALL = scaled(
    "global_nas_faces",
    f"{OF_FACES} --width 16 32 --reference r-18",
    "faces-small",
    "12 layers at least instead of 10, as each of four stages has a block; medium networks are at scale paper",
    "the paper: about 4 GPU-days for the search",
)
MEDIUM = scaled(
    "global_nas_faces",
    f"{OF_FACES} --width 16 64 --reference r-50",
    "faces-medium",
    "12 layers at least instead of 10, as each of four stages has a block; small networks are at scale gpu",
    "the paper: about 6 GPU-days for the search",
)
UNDECIDED = "cannot be told at this size: the intervals hold 0"
DRAWN = "faces cannot be had here: people are drawn, which shows that it runs"


PAPER = Paper(
    "global-nas",
    "Efficient Global NAS",
    (
        Item(
            "table-1",
            "what global spaces vary, beside those of others",
            "depth, width, operation, kernel",
            lacks="a comparison of other papers' spaces",
            idea=True,
        ),
        Item(
            "table-2",
            "start of separable or plain convolutions, k 3 or 7; ten binary subsets of CIFAR-10",
            "separable 3×3 97.96 % with .23M, the fewest parameters and the most accurate of four",
            ABLATION,
            ours=starts,
            verdict="separable 3×3 has the fewest parameters; if it is the most accurate cannot be told at this size",
            gpu=ABLATION_GPU,
            paper=ABLATION_PAPER,
        ),
        Item(
            "table-3",
            "CIFAR-10: error, parameters and cost of the found networks, and random ones",
            "tiny 4.09 % with .46M in .24 GPU-days; mobile 3.17 % with 2.49M; random 6.95 ± 2.18 %",
            TINY,
            "CIFAR-10 cannot be had here: Fashion-MNIST",
            compared,
            "cannot be told at this size: 600 epochs were not tried",
            CIFAR10_GPU,
            CIFAR10,
        ),
        Item(
            "table-4",
            "the same on CIFAR-100",
            "tiny 23.64 % error with .49M in .17 GPU-days, mobile 22.04 % with 2.49M",
            TINY,
            "CIFAR-100 cannot be had here: Fashion-MNIST, whose figures are at table 3",
            gpu=CIFAR100_GPU,
            paper=CIFAR100,
        ),
        Item(
            "table-5",
            "EMNIST, KMNIST and Fashion-MNIST",
            "tiny 91.20, 99.35 and 95.90 %; mobile 91.48, 99.29 and 96.22 %",
            TINY,
            "EMNIST and KMNIST cannot be had here: --data emnist, --data kmnist take them",
            lambda result: f"Fashion-MNIST {mean(result['comparison']['found'])} %",
            "cannot be told at this size: 600 epochs of all images were not tried",
            FASHION_GPU,
            FASHION,
        ),
        Item(
            "table-6",
            "faces: 1:1 accuracy on LFW, CFP-FP, CPLFW, AgeDB, CALFW against AdaFace's ResNets",
            "small 93.62 % with 14.6M to R-18's 92.72 with 29.4M; medium 94.45 to R-50's 94.13 (means)",
            FACES,
            DRAWN,
            recognised,
            UNDECIDED,
            gpu=SMALL,
            paper=MEDIUM,
        ),
        Item(
            "table-7",
            "faces: IJB-B, IJB-C, TinyFace",
            "small 92.06, 92.60 %, rank-1 57.78 % to R-18's 93.11, 94.03, 54.85; medium 93.22, 93.65, 58.66 to R-50's "
            "94.52, 95.34, 57.32",
            FACES,
            DRAWN,
            retrieved,
            UNDECIDED,
            gpu=SMALL,
            paper=MEDIUM,
        ),
        Item(
            "figure-1",
            "the tiny networks of four data sets, after macro and micro search",
            "CIFAR-10: 26 layers, 46 channels; Fashion-MNIST: 18 layers, 54 channels",
            TINY,
            "the other three cannot be had here: --beside draws the results of their own runs in the same picture",
            described,
            "",
            FASHION_GPU,
            FASHION,
        ),
        Item(
            "figure-2",
            "R-18-512 beside the found R-58-256",
            "a drawing",
            FACES,
            DRAWN,
            lambda result: f"{result['reference'][0]['name']} beside {result['found'][0]['name']}",
            gpu=SMALL,
            paper=MEDIUM,
        ),
        Item(
            "text-algorithm",
            "algorithm 1: fed the authors' accuracies, it trains the networks of their logs",
            "three recorded searches: CIFAR-10 tiny and mobile, KMNIST tiny",
            REPLAY,
        ),
        Item(
            "text-space-size",
            "networks of the space (eq. 1)",
            "§3.1: (2 · 2)²⁵ · 96 · 57, about 6.16 · 10¹⁸",
            TINY,
            ours=counted,
        ),
        Item(
            "text-spread",
            "accuracies of random networks differ widely",
            "§3.1: 76.11 to 94.65 % of 240 networks after 50 epochs of CIFAR-10",
            RANKING,
            ours=spread,
            verdict="shows",
            gpu=RANKING_GPU,
            paper=RANKING_PAPER,
        ),
        Item(
            "text-static",
            "ranking after one epoch agrees with the final one badly",
            "§3.2: ρ .65, 240 networks",
            RANKING,
            ours=static,
            verdict="shows",
            gpu=RANKING_GPU,
            paper=RANKING_PAPER,
        ),
        Item(
            "text-parameters",
            "the number of parameters ranks badly",
            "§3.2: ρ .49",
            RANKING,
            ours=rho("parameters"),
            verdict="does not show at this size: it ranks as well as dynamic training",
            gpu=RANKING_GPU,
            paper=RANKING_PAPER,
        ),
        Item(
            "text-dynamic",
            "training larger networks longer ranks like full training",
            "§3.2: ρ .85 with the final accuracy, 20 points above static",
            RANKING,
            ours=dynamic,
            verdict="shows; if static training of as many epochs is worse cannot be told, and parameters rank as well",
            gpu=RANKING_GPU,
            paper=RANKING_PAPER,
        ),
        Item(
            "text-dynamic-parameters",
            "parameters agree with accuracies of dynamic training",
            "§3.2: ρ .91",
            RANKING,
            ours=rho("dynamic with parameters"),
            verdict="shows",
            gpu=RANKING_GPU,
            paper=RANKING_PAPER,
        ),
        Item(
            "text-relative-improvement",
            "RI over ten random networks",
            "§4.1: above 2 in five searches; 2.86 points less error with 31 % fewer parameters",
            TINY,
            "",
            lambda result: f"{mean(result['comparison']['ri'], sign='+')} %",
            "shows against these ten, with half of their parameters; of another draw it cannot be told",
            CIFAR10_GPU,
            CIFAR10,
        ),
        Item(
            "text-operations",
            "searching operations against leaving them out, ten seeds each",
            "§4.1: 89.92 to 89.13 % after 20 epochs, 96 to 95.82 % after 600",
            ABLATION,
            ours=operations,
            verdict="cannot be told at this size: the interval holds 0",
            gpu=ABLATION_GPU,
            paper=ABLATION_PAPER,
        ),
        Item(
            "text-cost",
            "few networks are trained: 2 · depth and those of the macro search",
            "§3.3; .24 GPU-days, 2 to 4 times faster than the fastest global search (§1)",
            TINY,
            "the faster searches of others are of their papers",
            trained,
            "",
            CIFAR10_GPU,
            CIFAR10,
        ),
    ),
)
