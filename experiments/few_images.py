"""Few images: a network that is found and trained from scratch, against one with weights that is fine-tuned.

Half of the classes stand for what a network with published weights has seen; the other half are yours, so many images
of each. mobilenetv2_050 is trained on the former and fine-tuned on yours. The other way has yours alone: a supernet, a
search, and the network that is found, trained. All train for as many steps.
Each finished network is kept in the results, so the command can be stopped and continued, on another machine too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments import _common, _plain, _report
from search.ces import CES, CESConfig
from search.priced import additive
from search.run import Scoring
from supernet import families, spaces
from supernet.data import sets
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.executor import Threads
from supernet.methods import spos
from supernet.model import Network
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.config import FitConfig
from supernet.training.evaluation import evaluate

MOST_EPOCHS = 150  # of few images, whose epochs have few steps


@dataclass(frozen=True)
class Args(_common.OnImages):
    run: Path = Path("runs/experiment-few-images")
    """Folder of what is under way."""
    output: Path = Path("docs/results/few_images.json")
    """The results."""
    counts: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """Your images of each class."""
    seeds: int = 3
    """Draws of them, and trainings: seeds 0, 1, …"""
    steps: int = 600
    """Of each training on yours, with batches of at most 64; of few images as many as 150 epochs have."""
    before_epochs: int = 6
    """Of the network on the other classes."""
    space: str = "mobile-large-small"
    """What is searched."""


@dataclass(frozen=True)
class Study:
    """One seed: the images of both halves, and the network that knows the other one."""

    args: Args
    seed: int

    @functools.cached_property
    def halves(self) -> tuple[TrainVal, TrainVal]:
        """The other classes, and yours before they become few."""
        opened = sets.open_train(self.args.data, self.args.data_root, seed=0, val_fraction=0.3)
        middle = opened.classes // 2
        return of_classes(opened, middle, opened.classes), of_classes(opened, 0, middle)

    def yours(self, count: int) -> ImageSet:
        """So many images of each class."""
        images = self.halves[1]
        return images.train.subset(count * images.classes, seed=self.seed)

    def cfg(self, images: ImageSet, learnt: bool = False) -> FitConfig:
        batch = min(64, len(images) // 2)
        epochs = min(MOST_EPOCHS, math.ceil(self.args.steps / (len(images) // batch)))
        rate = defaults.learning_rate(batch, None, learnt)
        return FitConfig(epochs, batch, rate, schedule="cosine", augment=True, seed=self.seed)

    @functools.cached_property
    def known(self) -> Network:
        """The network, trained on the other classes."""
        images = self.halves[0]
        cfg = FitConfig(self.args.before_epochs, 64, 0.1, schedule="cosine", augment=False, seed=self.seed)
        return self.alone(given_space(images), None, images, images.train, cfg, f"known-{self.seed}")

    def alone(
        self,
        space: Space,
        arch: Arch | None,
        images: TrainVal,
        train: ImageSet,
        cfg: FitConfig,
        name: str,
        start: Callable[[Network], None] | None = None,
    ) -> Network:
        """A network trained on ``train``; the largest where none is named."""
        few = dataclasses.replace(images, train=train)
        arch = families.layout(space).whole if arch is None else arch
        where = self.args.run / name, _common.CPU
        told = {"label": name, "progress": shown(not self.args.quiet)}
        return _common.trained(space, arch, few, cfg, *where, start=start, **told)

    def tuned(self, count: int, learnt: bool) -> dict[str, float]:
        """The network of known size on your images, with what it knows or without."""
        images, train = self.halves[1], self.yours(count)
        begun = self.known if learnt else None
        start = time.process_time()
        space, name = given_space(images), f"{'tuned' if learnt else 'scratch'}-{count}-{self.seed}"
        load = functools.partial(inherit, begun) if begun else None
        network = self.alone(space, None, images, train, self.cfg(train, learnt), name, load)
        return self.result(network, start)

    def found(self, count: int) -> dict[str, float]:
        """What a search on your images finds, trained on them."""
        images, train = self.halves[1], self.yours(count)
        start = time.process_time()
        space = spaces.get(self.args.space, images.channels, images.size, images.classes)
        held = train.subset(max(images.classes, round(0.3 * len(train))), seed=self.seed)
        rest = train.without(held)
        own = dataclasses.replace(images, train=rest, val=held)
        cfg = spos.Config(self.cfg(rest), kernels="fused", probes=0)
        supernet = spos.run(space, own, cfg, self.args.run / f"supernet-{count}-{self.seed}", _common.CPU)
        evaluator = Scoring(recalibration=(4, 128), executor=Threads(1)).evaluator(supernet, own)
        flops = additive(space, lambda spec: spec.flops)  # without a bound: nothing is as large as mobilenetv2_050
        search = CES(space, {"flops": flops}, {}, ["flops"], CESConfig(16, 4, seed=self.seed))
        best = _common.most_accurate(search, evaluator)
        network = self.alone(space, best, images, train, self.cfg(train), f"found-{count}-{self.seed}")
        return self.result(network, start)

    def result(self, network: Network, start: float) -> dict[str, float]:
        """Accuracy on images that nothing has seen, multiply-adds in millions, CPU minutes."""
        accuracy = evaluate(network.eval(), self.halves[1].val.plain_batches(512))
        millions = families.flops(network.space, network.arch) / 1e6
        return {"accuracy": accuracy, "mflops": millions, "minutes": (time.process_time() - start) / 60}


def of_classes(opened: TrainVal, low: int, high: int) -> TrainVal:
    """The images of classes ``low`` to below ``high``, which count from 0."""
    train, val = (_plain.of_classes(part, tuple(range(low, high))) for part in (opened.train, opened.val))
    return TrainVal(train, val, high - low, opened.channels, opened.resolution, opened.class_names[low:high])


def given_space(images: TrainVal) -> Space:
    """mobilenetv2_050 as a space, for the classes of the images."""
    reference = f"{Path(__file__).with_name('own_network.py').relative_to(Path.cwd())}:mobilenetv2_050"
    return spaces.get(reference, images.channels, images.size, images.classes)


def inherit(known: Network, network: Network) -> None:
    """Give ``network`` the weights of ``known``, but for its only linear layer, which gives the logits."""
    own = network.state_dict()
    (weight,) = (name for name, value in own.items() if value.ndim == 2)
    head = (weight, weight.removesuffix("weight") + "bias")
    network.load_state_dict({k: own[k] if k in head else v for k, v in known.state_dict().items()})


def run(args: Args) -> None:
    defaults.keep_memory()
    torch.set_num_threads(1)
    if args.quick:
        args = dataclasses.replace(args, counts=args.counts[:1], seeds=1, steps=4, before_epochs=1)
    clock = _common.Clock(args.run, "few_images")
    kept = _common.Kept(args.output, _common.results("few_images", args, clock), clock, ("seeds", "counts"))
    for seed in range(args.seeds):
        study = Study(args, seed)
        for count in args.counts:
            for arm, make in ARMS.items():
                kept.add(str(count), arm, seed, functools.partial(make, study, count))
    finish(args, kept.found)


ARMS: dict[str, Callable[[Study, int], dict[str, float]]] = {
    "fine-tuned": lambda study, count: study.tuned(count, learnt=True),
    "the same, from scratch": lambda study, count: study.tuned(count, learnt=False),
    "found, from scratch": lambda study, count: study.found(count),
}


def finish(args: Args, result: dict) -> None:
    rows, minutes = {}, {}
    for count in map(str, result["settings"]["counts"]):
        made = result.get(count, {})
        rows[count] = {arm: _report.mean_sd([one["accuracy"] for one in made[arm]], 100) for arm in made}
        if len(made) == len(ARMS):
            tuned, *_, found = ([one["accuracy"] for one in made[arm]] for arm in ARMS)
            rows[count]["fine-tuned − found"] = _report.paired(np.multiply(100, tuned), np.multiply(100, found))
        minutes[count] = {arm: _report.mean_sd([one["minutes"] for one in made[arm]]) for arm in made}
    tables = {"accuracy in %, by images of each class": rows, "CPU minutes, by images of each class": minutes}
    _report.report(args.output, result, tables, draw, (7.0, 4.0))


def draw(figure: Figure, result: dict) -> None:
    """Accuracy over images of each class, a line for each way."""
    axes = figure.add_subplot()
    counts = [count for count in result["settings"]["counts"] if str(count) in result]
    for arm in ARMS:
        made = [100 * np.array([one["accuracy"] for one in result[str(count)][arm]]) for count in counts]
        spread = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in made]
        means = [values.mean() for values in made]
        axes.errorbar(counts, means, spread, marker="o", markersize=4, linewidth=1, capsize=2, label=arm)
    axes.set(xscale="log", xlabel="images of each class", ylabel="accuracy, %")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.grid(alpha=0.2)
    axes.legend()


if __name__ == "__main__":
    _common.main(run, Args, finish)
