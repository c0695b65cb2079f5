"""Progressive Automatic Design of Search Space for One-Shot Neural Architecture Search."""

from __future__ import annotations

from experiments.papers import pad_nas_figures as figures
from experiments.papers.item import Command, Item, Paper

TINY = Command(
    "experiments.pad_nas",
    "--train 3000 --random 8 --n 24 --probes 2 --threshold 0.07",
    cost="about an hour of one core",
)
STAGES = Command("experiments.pad_nas_stages", cost="about 30 minutes of one core")
EVOLUTION = Command("experiments.evolution", "--train 4000")
CHOICES = Command("experiments.pad_nas_search", "--train 4000", cost="about 9 minutes of one core, 6 after figure-7")
SEGMENTATION = Command("experiments.segmentation", cost="about 6 minutes of one core, after table-6")
V3_TINY = Command(
    "experiments.pad_nas",
    "--space mobile-v3-small --small '' --train 3000 --random 3 --n 6 --front 5 --truth-seeds 1 --threshold 0.07 "
    "--output docs/results/pad_nas_v3.json",
    cost="about 20 minutes of one core",
)
SMALL = "Fashion-MNIST and small spaces, all training images; otherwise as for two cores"
UNMEASURED = "not measured yet"
LONG = "--device cuda --seeds 5 --train 40000"
LONGER = f"{LONG} --epochs 60 40 20 --alone 30 --population 64 --iterations 20"
GPU = Command(
    "experiments.pad_nas",
    f"{LONGER} --run runs/papers/pad-nas-arms --output runs/papers/pad-nas-arms.json",
    SMALL,
    UNMEASURED,
)
V3_GPU = Command(
    "experiments.pad_nas",
    f"{LONGER} --space mobile-v3-small --small '' --random 5 --n 8 --truth-seeds 1 "
    "--run runs/papers/pad-nas-v3-arms --output runs/papers/pad-nas-v3-arms.json",
    SMALL,
    UNMEASURED,
)
STAGES_GPU = Command(
    "experiments.pad_nas_stages",
    f"{LONGER} --most 6 "
    "--thresholds 0.0 0.01 0.02 0.05 0.1 --run runs/papers/pad-nas-stages --output runs/papers/pad-nas-stages.json",
    SMALL,
    UNMEASURED,
)
EVOLUTION_GPU = Command(
    "experiments.evolution",
    "--device cuda --runs 10 --train 40000 --epochs 60 --population 64 --iterations 20 "
    "--run runs/papers/evolution --output runs/papers/evolution.json",
    SMALL,
    UNMEASURED,
)
CHOICES_GPU = Command(
    "experiments.pad_nas_search",
    "--device cuda --runs 10 --train 40000 --epochs 60 --population 64 --iterations 20 "
    "--run runs/papers/evolution --output runs/papers/pad-nas-search.json",
    SMALL,
    UNMEASURED,
)
SEGMENTATION_GPU = Command(
    "experiments.segmentation",
    f"{LONG} --alone 30 --train-scenes 20000 --val-scenes 2000 --scene-epochs 30 --found runs/papers/pad-nas-arms.json "
    "--run runs/papers/segmentation --output runs/papers/segmentation.json",
    "drawn scenes; otherwise as for two cores",
    UNMEASURED,
)
SPACES = Command("pytest", "tests/test_spaces.py -k mobile -q")
SEARCH = "--epochs 120 80 40 --population 64 --iterations 40 --retrain 240 --run runs/papers/pad-nas-large"
IMAGENET = "--data folder --data-root data/imagenet --batch-size 1024 --lr 0.5"
BEST_ONLY = "trains the best network of the front alone, and four random ones; the others by tools/retrain.py"
LARGE_TABLE, BASIC_TABLE = "runs/papers/pixel3-large.json", "runs/papers/pixel3.json"
TABLE = "the table of the phone first, by tools/build_lut.py --device adb"
# What the experiments take to be the paper's: 50,000 images for one-shot accuracies, as many for the truth.
AT_224 = (
    f"--device cuda {IMAGENET} --augment --train 1200000 --held 0.08 --search-images 50000 --truth-images 50000 "
    "--alone 240 --population 64 --iterations 40"
)
WINDOWS = f"--lut {LARGE_TABLE} {BASIC_TABLE} --lat-min 50 60 --lat-max 100 70"
ONE_GPU = "on one device; judged on training images that are held out, as the test set is opened by retrain.py alone"
WHOLE = Command(
    "experiments.pad_nas",
    f"{AT_224} {WINDOWS} --space mobile-large --small mobile --epochs 120 80 40 --seeds 5 --random 5 "
    "--at 69 --run runs/papers/pad-nas-paper --output runs/papers/pad-nas-paper.json",
    f"{TABLE}, of both spaces; {ONE_GPU}",
    "the paper: 24 hours of 8 V100 for each network alone, of which there are some 300 for each seed",
)
V3 = Command(
    "experiments.pad_nas",
    f"{AT_224} --space mobile-v3 --small '' --lut runs/papers/pixel3-v3.json --lat-min 40 --lat-max 56 "
    "--epochs 120 80 40 --random 5 --n 8 --truth-seeds 1 "
    "--run runs/papers/pad-nas-v3-paper --output runs/papers/pad-nas-v3-paper.json",
    f"{TABLE}; {ONE_GPU}; the paper names no window for this space, so that of its networks, and no channels: they are "
    "Table 1's",
    "the paper: 24 hours of 8 V100 for each network alone, of which there are some 150 for each seed",
)
STAGES_WHOLE = Command(
    "experiments.pad_nas_stages",
    f"{AT_224} --space mobile-large --lut {LARGE_TABLE} --lat-min 50 --lat-max 100 "
    "--epochs 120 80 40 --most 6 --thresholds 0.0 0.01 0.05 0.1 "
    "--run runs/papers/pad-nas-stages-paper --output runs/papers/pad-nas-stages-paper.json",
    f"{TABLE}; {ONE_GPU}",
    "the paper: 24 hours of 8 V100 for each network alone, of which there are some 50 for each seed",
)
SEARCHES_WHOLE = (
    f"--device cuda {IMAGENET} --augment --space mobile --train 1200000 --held 0.08 --search-images 50000 --epochs 240 "
    f"--population 64 --iterations 40 --lut {BASIC_TABLE} --lat-min 60 --lat-max 70 --run runs/papers/evolution-paper"
)
EVOLUTION_WHOLE, CHOICES_WHOLE = (
    Command(
        f"experiments.{name}",
        f"{SEARCHES_WHOLE} --output runs/papers/{output}-paper.json",
        f"{TABLE}; on one device",
        "the paper: 32 hours of 8 V100 for the supernet, 3.5 for each search",
    )
    for name, output in (("evolution", "evolution"), ("pad_nas_search", "pad-nas-search"))
)
SEGMENTATION_WHOLE = Command(
    "experiments.segmentation",
    f"--device cuda {IMAGENET} --augment --train 1200000 --held 0.08 --alone 240 --by-hand k3_e6 --scenes cityscapes "
    "--size 512x1024 --scene-epochs 200 --found runs/papers/pad-nas-paper.json "
    "--run runs/papers/segmentation-paper --output runs/papers/segmentation-paper.json",
    "the paper does not say how it trains; images are mirrored only; latency",
    "24 hours of 8 V100 for each classifier (Table 9), besides",
)


LARGE_GPU = Command(
    "tools/pad_nas.py",
    f"{SEARCH}-gpu --space large --data cifar10",
    f"{BEST_ONLY}; CIFAR-10, the small form of the space, latency on this machine",
    "not measured yet: -- --plan measures it",
)
LARGE = Command(
    "tools/pad_nas.py",
    f"{SEARCH} --space large {IMAGENET} --lut {LARGE_TABLE} --lat-min 50 --lat-max 100",
    f"{BEST_ONLY}; {TABLE}; the basic space is a run of its own: --space basic, its table, 60 to 70 ms",
    "the paper: 66.5 hours of 8 V100; -- --plan measures it",
)
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
            TINY,
            "ImageNet and a Pixel 3 cannot be had here: Fashion-MNIST and multiply-adds stand for them, and networks "
            "with one operation in every layer for those of others",
            figures.found_against_hand,
            "cannot be told at this size: as accurate as the best by hand, at under half of its multiply-adds",
            gpu=LARGE_GPU,
            paper=LARGE,
        ),
        Item(
            "table-4",
            "the same in a space like MobileNetV3, with squeeze-excite and swish where that has them",
            "V3-C 76.5 % at 55.1 ms against MobileNetV3's 75.2 at 52.6",
            V3_TINY,
            "as table 3",
            figures.found_against_hand,
            "cannot be told at this size: as accurate as the best by hand, at under half of its multiply-adds",
            gpu=V3_GPU,
            paper=V3,
        ),
        Item(
            "table-5",
            "the found network as the backbone of segmentation on Cityscapes",
            "L-A 73.3 % mIoU at 680 ms against MobileNetV2's 72.7 at 773",
            SEGMENTATION,
            "Cityscapes cannot be had here: scenes are drawn of Fashion-MNIST's images; multiply-adds, not latency",
            figures.segmented,
            "cannot be told at this size: ahead in the mean at half of the cost, within the interval",
            gpu=SEGMENTATION_GPU,
            paper=SEGMENTATION_WHOLE,
        ),
        Item(
            "table-6",
            "best network alone and the gap to its one-shot accuracy, small and large space, I and PAD",
            "the gap shrinks from 21.99 to 2.94 points; PAD-L is 1.02 above I-L, S .42 (§4.3)",
            TINY,
            "",
            figures.gap,
            "does not show at this size: the gap does not shrink, and PAD is no more accurate",
            gpu=GPU,
            paper=WHOLE,
        ),
        Item(
            "table-7",
            "random networks of the designed space against random ones of the full space, in the same window",
            "large: 74.91 ± .11 to 72.71 ± .46 %; small: 74.72 ± .10 to 73.88 ± .19",
            TINY,
            "",
            figures.random_networks,
            "does not show in the large space: pruning at random is as good or better; shows in the small one",
            gpu=GPU,
            paper=WHOLE,
        ),
        Item(
            "table-8",
            "Kendall's τ of up to 30 networks along the front, and sizes of the spaces",
            "I-S .615, I-L .498, P-L .745, PAD-L .888; 10²⁷ → 10¹⁵ → 10⁹ networks",
            TINY,
            "",
            figures.ranking,
            "does not show in the large space; in the small one τ is higher in all seeds, within the interval",
            gpu=GPU,
            paper=WHOLE,
        ),
        Item(
            "table-9",
            "time of supernet, search and retraining: one search of an unpruned supernet against PAD-NAS",
            "59.5 to 66.5 hours of 8 V100",
            TINY,
            "",
            figures.costs,
            "shows: three searches make it dearer, by .4 of so short a training (the paper: by .12)",
            gpu=GPU,
            paper=WHOLE,
        ),
        Item(
            "figure-1",
            "accuracy over Pixel 3 latency",
            "as table 3",
            TINY,
            "as table 3; the picture is pad_nas_fronts.png",
            figures.found_against_hand,
            "cannot be told at this size",
            gpu=LARGE_GPU,
            paper=LARGE,
        ),
        Item("figure-2", "the stages of the method", "a drawing", lacks="a drawing of the idea", idea=True),
        Item(
            "figure-3",
            "operations of each layer in the found networks: most never occur",
            "layer 1 has one operation only (§3.1)",
            TINY,
            "",
            figures.absent,
            "does not show at this size: nearly all occur",
            gpu=GPU,
            paper=WHOLE,
        ),
        Item(
            "figure-4",
            "the five networks of the large space, drawn",
            "a drawing of PAD-NAS-L-A to E",
            TINY,
            "",
            figures.drawn,
            gpu=LARGE_GPU,
            paper=LARGE,
        ),
        Item(
            "figure-5",
            "accuracy of the supernets over epochs, small and large space",
            "PAD-L passes PAD-S after two prunings, I-L stays below I-S; 5 seeds",
            TINY,
            "",
            figures.curves,
            "that I-L stays below I-S shows; that PAD-L passes PAD-S does not",
            gpu=GPU,
            paper=WHOLE,
        ),
        Item(
            "figure-6",
            "one-shot against alone for up to 30 networks of each front",
            "the cloud of table 8",
            TINY,
            "",
            lambda result: f"own fronts: {figures.taus(result, 'own_front')}",
            "does not show at this size",
            gpu=GPU,
            paper=WHOLE,
        ),
        Item(
            "figure-7",
            "operations of the last layer by CES and by SPOS's evolution, 5 searches: variance and sparsity",
            "CES varies less and is sparser (§4.4)",
            EVOLUTION,
            "",
            figures.operations,
            "does not show: they vary alike, and the evolution is the sparser one, within the intervals",
            gpu=EVOLUTION_GPU,
            paper=EVOLUTION_WHOLE,
        ),
        Item(
            "text-evolution",
            "evolution finds better networks than random search",
            "§3.2, by earlier works",
            EVOLUTION,
            "",
            figures.against_random,
            "shows: CES finds .6 points more than random search, SPOS's evolution 1.9",
            gpu=EVOLUTION_GPU,
            paper=EVOLUTION_WHOLE,
        ),
        Item(
            "text-violators",
            "discarding violators in crossover and mutation gives a better result",
            "§3.2, no figure",
            CHOICES,
            "",
            figures.violators,
            "does not show at this size: no better within the intervals",
            gpu=CHOICES_GPU,
            paper=CHOICES_WHOLE,
        ),
        Item(
            "text-ranks",
            "counting ranks below 10 makes up for noisy accuracies",
            "§3.2, no figure",
            CHOICES,
            "",
            figures.ranks,
            "shows, by what accuracies drawn again would keep; other searches agree no better",
            gpu=CHOICES_GPU,
            paper=CHOICES_WHOLE,
        ),
        Item(
            "text-fine-tuning",
            "fine-tuning the pruned supernet costs less than training it anew, and no accuracy",
            "§3.2, no figure",
            STAGES,
            "",
            figures.fine_tuned,
            "shows for the network found; in the supernet random networks lose 10 points",
            gpu=STAGES_GPU,
            paper=STAGES_WHOLE,
        ),
        Item(
            "text-sizes",
            "pruning shrinks the space by orders of magnitude and keeps networks to choose from",
            "§4.3: 10²⁷ → 10¹⁵ → 10⁹",
            TINY,
            "",
            figures.sizes,
            "shows",
            gpu=GPU,
            paper=WHOLE,
        ),
        Item(
            "text-threshold",
            "a threshold of 1 % balances quality and diversity",
            "§4.1, no figure",
            STAGES,
            "",
            lambda result: figures.compared(result, "threshold"),
            "shows: random networks are better at 1 than at 10 %",
            gpu=STAGES_GPU,
            paper=STAGES_WHOLE,
        ),
        Item(
            "text-stages",
            "more than four stages add nothing",
            "§4.1, no figure",
            STAGES,
            "",
            lambda result: figures.compared(result, "stages"),
            "shows: the fifth removes no operation",
            gpu=STAGES_GPU,
            paper=STAGES_WHOLE,
        ),
    ),
)
