"""Parts of a trained network against pruning, at equal multiply-adds and equal fine-tuning.

mobilenetv2_050 and resnet18, made for 28² images, are trained once for each seed. At shares of their multiply-adds
stand: what a search finds among their parts, after a short training of these or without; a random part; what
Torch-Pruning (by magnitude, uniform and global) and NVIDIA's FastNAS leave; and the part that was found, from scratch.
All but the last begin with the trained weights, and all are then trained as long, with the trained network as teacher.
Each finished network is kept in the results, so the command can be stopped and continued, on another machine too.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import _ahead, _common, _report
from experiments import _pruners as pruners
from latency import agent, build, measure, runtimes
from latency.measure import Protocol
from latency.table import LatencyTable
from search import priced, spread
from search.costs import Window
from search.guided import GuidedConfig, GuidedSearch
from search.run import Scoring
from supernet import families, files, progress, spaces
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.executor import Threads
from supernet.families.given import weights
from supernet.families.given.layer import SLASH
from supernet.methods import spos
from supernet.model import Network, Supernet
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.bn import recalibrate_bn
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig, fit
from supernet.training.rules import Rule, Taught

SIZE = 28


def mobilenetv2_050(channels: int = 1, classes: int = 10) -> nn.Module:
    """torchvision's at half the width, with a first convolution of stride 1."""
    model: Any = torchvision.models.mobilenet_v2(width_mult=0.5, num_classes=classes)
    model.features[0][0] = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
    return model


def resnet18(channels: int = 1, classes: int = 10) -> nn.Module:
    """torchvision's, with a first convolution of 3×3."""
    model: Any = torchvision.models.resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, 2, 1, bias=False)
    return model


NETWORKS = {"mobilenetv2_050": mobilenetv2_050, "resnet18": resnet18}
DECAY = {"resnet18": 5e-4}  # of its weights while it is trained; others have FitConfig's
SHARE = {"resnet18": 0.5}  # of the training images, as a step of it takes three times as long


@dataclass(frozen=True)
class Args(_common.OnImages):
    run: Path = Path("runs/experiments")
    """Folder of what is under way."""
    output: Path = Path("docs/results/own_network.json")
    """The results."""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """The given networks."""
    shares: tuple[float, ...] = (0.75, 0.5, 0.3)
    """Of their multiply-adds."""
    seeds: int = 3
    """Trainings of each given network, and of all that follows: seeds 0, 1, …"""
    epochs: int = 12
    """Of the given network."""
    supernet_epochs: int = 2
    """Of its parts together: four in each step."""
    tuning_epochs: int = 1
    """Of each network at last."""
    evaluations: int = 120
    """Parts that a search scores."""
    train: int = 40_000
    """Training images, stratified; of resnet18 the parts learn from half of them."""
    fastnas: bool = True
    """NVIDIA's FastNAS, too."""
    latency: bool = True
    """Also search by latency, in tables that are built in --run; wants a quiet machine."""
    measure: bool = False
    """Only the latencies again, of the networks that lie in --run; wants a quiet machine, too."""


class Alone(nn.Module):
    """Any network as training and evaluation call it."""

    def __init__(self, network: nn.Module, space: Space):
        super().__init__()
        self.network, self.space = network, space

    def forward(self, x: Tensor, arch: Arch | None = None) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))


Made = tuple[nn.Module, int]  # a network, its multiply-adds


@dataclass(frozen=True)
class Study:
    """One given network, trained with one seed."""

    name: str
    seed: int
    whole_set: TrainVal  # what the given network is trained on
    images: TrainVal  # what its parts and the pruned ones are
    judging: ImageSet
    args: Args
    memory: dict[Any, Any] = field(default_factory=dict)  # supernets and what was found in them

    @functools.cached_property
    def space(self) -> Space:
        reference = f"{Path(__file__).relative_to(Path.cwd())}:{self.name}"
        return spaces.get(reference, self.images.channels, self.images.size, self.images.classes)

    @functools.cached_property
    def layout(self) -> Any:
        return families.layout(self.space)

    @property
    def folder(self) -> Path:
        return place(self.args, self.name, self.seed)

    def cfg(self, epochs: int, lr: float | None = None) -> FitConfig:
        lr = defaults.learning_rate(64, lr, learnt=True)
        return FitConfig(epochs, 64, lr, schedule="cosine", augment=False, seed=self.seed)

    @functools.cached_property
    def given(self) -> nn.Module:
        """The given network, trained; by its own class, in eval mode."""
        cfg = self.cfg(self.args.epochs, 0.1)
        cfg = dataclasses.replace(cfg, weight_decay=DECAY.get(self.name, cfg.weight_decay))
        folder = self.folder / "given"
        whole = _common.trained(self.space, self.layout.whole, self.whole_set, cfg, folder, _common.CPU)
        state = {k.replace(SLASH, "."): v for module in whole.path() for k, v in module.state_dict().items()}
        model = NETWORKS[self.name](self.images.channels, self.images.classes)
        model.load_state_dict(state)
        weights.save(self.folder / "given.safetensors", model.state_dict())
        return Alone(model, self.space).eval().requires_grad_(False)

    def flops(self, arch: Arch) -> int:
        return families.flops(self.space, arch)

    @functools.cached_property
    def whole(self) -> int:
        return self.flops(self.layout.whole)

    def supernet(self, epochs: int) -> Supernet:
        """The parts together, after so many epochs with the given network as teacher."""
        if epochs in self.memory:
            return self.memory[epochs]
        _ = self.given
        source = str(self.folder / "given.safetensors")
        cfg = spos.Config(
            self.cfg(epochs), rule="sandwich", distil="teacher", weights=source, kernels="fused", probes=0
        )
        self.memory[epochs] = spos.run(self.space, self.images, cfg, self.folder / f"parts-{epochs}", _common.CPU)
        return self.memory[epochs]

    @functools.cached_property
    def table(self) -> LatencyTable:
        """Latencies of the layers of all parts, by onnxruntime; the same for all seeds."""
        path = self.args.run / f"own-{self.name}.lut.json"
        if not path.exists():
            archs = spread.calibration_archs(self.space, build.FIT_ARCHS, 8, 0)
            runtime = runtimes.get("onnxruntime", cache=path.parent / "converted")
            told = progress.shown(not self.args.quiet)
            table = build.Build(self.space, runtime, Protocol(), archs, progress=told).here(path)
            files.write_json(path, table.to_json())
        return LatencyTable.load(path, self.space)

    def window(self, share: float, by: str = "flops") -> Window:
        """The parts with ``share`` of all multiply-adds, or of the latency that the table gives, or up to 7 % less."""
        cost = priced.costs(self.space, {"latency": self.table.price} if by == "latency" else {})[by]
        most = share * cost(self.layout.whole)
        return Window(self.space, {by: cost}, {by: (0.93 * most, most)})

    def found(self, epochs: int, share: float, by: str = "flops") -> Arch:
        """The part in the window that scores best."""
        if (epochs, share, by) in self.memory:
            return self.memory[epochs, share, by]
        window = self.window(share, by)
        budget = GuidedConfig(population=48, iterations=1, seed=self.seed)
        budget = dataclasses.replace(budget, iterations=1 + (self.args.evaluations - 48) // budget.size(1))
        search = GuidedSearch(self.space, window.costs, window.bounds, [by], budget)
        evaluator = Scoring(recalibration=(4, 128), executor=Threads(1)).evaluator(self.supernet(epochs), self.images)
        self.memory[epochs, share, by] = _common.most_accurate(search, evaluator)
        return self.memory[epochs, share, by]

    def random(self, share: float) -> Arch:
        """Any part in the window."""
        rng = np.random.default_rng([self.seed, round(1000 * share)])
        return self.window(share).sample(rng, 1, (), 2000)[0]

    def part(self, epochs: int, arch: Arch) -> Made:
        """A part with the weights that it has in the supernet, and statistics of BN of its own."""
        network = self.supernet(epochs).extract(arch, "fused")
        recalibrate_bn(network, spos.recalibration_images(self.images, 4, 128))
        return network, self.flops(arch)

    def scratch(self, arch: Arch) -> Made:
        """A part with new weights."""
        torch.manual_seed(self.seed)
        return Network(self.space, arch, kernels="fused"), self.flops(arch)

    def pruned(self, prune: Callable[..., nn.Module], *args: Any) -> Made:
        """What a pruning leaves of the given network."""
        x = torch.zeros(1, self.images.channels, SIZE, SIZE)
        model = prune(self.given.network, x, *args)
        return Alone(model.eval(), self.space), pruners.multiply_adds(model, x)

    def score(self, network: nn.Module) -> float:
        """Accuracy on 2,000 validation images: FastNAS asks for it hundreds of times."""
        return evaluate(Alone(network, self.space).eval(), self.images.val.subset(2000, seed=0).plain_batches(512))

    def write(self, model: nn.Module, path: Path) -> None:
        """As ONNX."""
        if isinstance(model, Network):
            fused, model = model, Network(self.space, model.arch, kernels="eager").eval()
            model.load_state_dict(fused.state_dict())
        x = torch.zeros(1, self.images.channels, SIZE, SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the new exporter takes minutes for these networks
            torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"])

    def arms(self, share: float) -> dict[str, Callable[[], Made]]:
        """What is compared, before it is trained at last."""
        epochs = self.args.supernet_epochs
        others: dict[str, Callable[[], Made]] = {}
        if self.args.latency:
            others["ours, by latency"] = lambda: self.part(epochs, self.found(epochs, share, "latency"))
        if self.args.fastnas:
            recalibration = spos.recalibration_images(self.images, 4, 128)
            others["FastNAS"] = lambda: self.pruned(pruners.fastnas, share, recalibration, self.score)
        return {
            "ours": lambda: self.part(epochs, self.found(epochs, share)),
            "ours, parts not trained": lambda: self.part(0, self.found(0, share)),
            "random part": lambda: self.part(epochs, self.random(share)),
            "Torch-Pruning, uniform": lambda: self.pruned(pruners.torch_pruning, share, False),
            "Torch-Pruning, global": lambda: self.pruned(pruners.torch_pruning, share, True),
            "from scratch": lambda: self.scratch(self.found(epochs, share)),
            **others,
        }

    def tuned(self, name: str, share: float, make: Callable[[], Made]) -> dict[str, float]:
        """Accuracies before and after the last training, multiply-adds of the given network's, minutes of both."""
        start = time.process_time()
        model, flops = make()
        prepared = time.process_time() - start
        folder = self.folder / f"{name}-{share:g}"
        before = evaluate(model.eval(), self.judging.plain_batches(512))
        cfg = self.cfg(self.args.tuning_epochs, 0.1 if name == "from scratch" else None)
        rule: Rule = Taught(model, self.given)
        fit(model.train(), self.images.train, rule, cfg, folder, meta={})
        accuracy = evaluate(model.eval(), self.judging.plain_batches(512))
        self.write(model, folder / "network.onnx")
        if not (self.folder / "given.onnx").exists():
            self.write(self.given, self.folder / "given.onnx")
        return {
            "before": before,
            "accuracy": accuracy,
            "share": flops / self.whole,
            **measured(folder / "network.onnx"),
            "minutes": (time.process_time() - start) / 60,
            "minutes before": prepared / 60,
        }


def place(args: Args, name: str, seed: int) -> Path:
    """Where the networks of a study are made."""
    return args.run / f"own-{name}-{args.train}x{args.epochs}-{seed}{'-quick' if args.quick else ''}"


def measured(path: Path) -> dict[str, float]:
    """What onnxruntime takes for the network in ``path``, in turns with the given one beside its folder; one thread."""
    both = {"network": path, "given": path.parent.with_name("given.onnx")}
    calls = {name: agent.LOADERS["onnxruntime"](file.read_bytes(), 1) for name, file in both.items()}
    timers = {name: measure.stopwatch(call, agent.clock(1)) for name, call in calls.items()}
    samples = {name: one.median_ms for name, one in measure.measure(timers, Protocol()).items()}
    return {"ms": samples["network"], "latency": samples["network"] / samples["given"]}


def measure_again(args: Args) -> dict:
    """The results, with new latencies of all networks that lie in --run."""
    result = files.read_json(args.output, "results", "run it without --measure")
    paths = {
        (name, key, seed): place(args, name, seed) / "-".join(key.rsplit(", ", 1))
        for name in args.networks
        for key, made in result.get(name, {}).items()
        for seed in range(len(made))
    }
    there = [(at, path / "network.onnx") for at, path in paths.items() if (path / "network.onnx").exists()]
    for i, ((name, key, seed), path) in enumerate(there):
        result[name][key][seed] |= measured(path)
        print(f"{i + 1}/{len(there)} {name}, {key}, seed {seed}: {result[name][key][seed]}", flush=True)
    return result


def run(args: Args) -> None:
    if args.measure:
        return finish(args, measure_again(args))
    defaults.keep_memory()
    torch.set_num_threads(1)
    clock = _common.Clock(args.run, "own_network")
    if args.quick:
        args = dataclasses.replace(args, networks=args.networks[:1], shares=(0.5,), seeds=1, epochs=1)
        args = dataclasses.replace(args, supernet_epochs=1, tuning_epochs=1, evaluations=60, latency=False)
    source = _common.images_of(args, (640, 200, 400))
    kept = _common.Kept(
        args.output, _common.results("own_network", args, clock), clock, ("seeds", "networks", "shares")
    )
    for seed in range(args.seeds):
        for name in args.networks:
            (whole, judging), share = _common.open_images(source), SHARE.get(name, 1)
            part = dataclasses.replace(whole, train=whole.train.subset(round(share * len(whole.train)), seed=0))
            study = Study(name, seed, whole, part, judging, args)
            kept.add(name, "given", seed, lambda s=study: {"accuracy": evaluate(s.given, s.judging.plain_batches(512))})
            for share in args.shares:
                for arm, make in study.arms(share).items():
                    kept.add(name, f"{arm}, {share:g}", seed, functools.partial(study.tuned, arm, share, make))
    finish(args, kept.found)


def finish(args: Args, result: dict) -> None:
    tables = {}
    for name in (name for name in result["settings"]["networks"] if name in result):
        (given, *_), rows = [(key, made) for key, made in result[name].items() if key == "given"], {}
        whole = [one["accuracy"] for one in given[1]]
        rows["the given network"] = dict.fromkeys(HEADINGS, "") | {"accuracy, %": _report.mean_sd(whole, 100)}
        for key, made in result[name].items():
            if key != "given":
                found = {heading: [one[field] for one in made] for heading, field in HEADINGS.items()}
                rows[key] = {h: _report.mean_sd(v, 100 if "%" in h else 1) for h, v in found.items()}
        tables[name] = rows
        if ahead := _ahead.table(result[name]):
            tables[f"{name}: ours ahead of, seed by seed, 95 %"] = ahead
    _report.report(args.output, result, tables, draw, (11.0, 4.0 * len(result["settings"]["networks"])))


HEADINGS = {
    "multiply-adds, %": "share",
    "latency, %": "latency",
    "before, %": "before",
    "accuracy, %": "accuracy",
    "minutes": "minutes",
}


def draw(figure: Figure, result: dict) -> None:
    """Accuracy over multiply-adds, and over latency, a line for each way; those from scratch lie far below."""
    names = [name for name in result["settings"]["networks"] if name in result]
    rows = figure.subplots(len(names), 2, squeeze=False, sharey="row")
    for name, pair in zip(names, rows, strict=True):
        given = 100 * np.mean([one["accuracy"] for one in result[name]["given"]])
        for axes, cost, what in zip(pair, ("share", "latency"), ("multiply-adds", "latency"), strict=True):
            axes.axhline(given, color="0.5", linestyle=":", linewidth=1, label="the given network")
            lines: dict[str, list[tuple[float, float, float]]] = {}
            for key, made in result[name].items():
                if key != "given" and not key.startswith("from scratch"):
                    values = 100 * np.array([one["accuracy"] for one in made])
                    spread = values.std(ddof=1) if len(values) > 1 else 0.0
                    share = 100 * float(np.mean([one[cost] for one in made]))
                    lines.setdefault(key.rpartition(",")[0], []).append((share, values.mean(), spread))
            for arm, points in lines.items():
                x, y, spread = np.array(points).T
                axes.errorbar(x, y, spread, marker="o", markersize=4, linewidth=1, capsize=2, label=arm)
            axes.set(xlabel=f"{what}, % of the given network's", ylabel="accuracy, %", title=name)
            axes.grid(alpha=0.2)
        pair[1].legend(fontsize=7, loc="lower right")


if __name__ == "__main__":
    _common.main(run, Args, finish)
