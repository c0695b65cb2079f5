"""Parts of a trained network against pruning, at equal multiply-adds and equal fine-tuning.

mobilenetv2_050 and resnet18, made for 28² images, are trained once for each seed. At shares of their multiply-adds
stand: what a search finds among their parts, after a short training of these or without; a random part; what
Torch-Pruning leaves (by magnitude, uniform and global); and the part that was found, from scratch. All but the last
begin with the trained weights, and all are then trained as long, with the trained network as teacher. Each finished
network is kept in the results, so the command can be stopped and continued, on another machine too.
"""

from __future__ import annotations

import copy
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
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments import _common
from search import priced
from search.guided import GuidedConfig, GuidedSearch
from search.run import Scoring
from supernet import families, files, spaces
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Threads
from supernet.families.given import trace, weights
from supernet.families.given.layer import SLASH
from supernet.methods import spos
from supernet.model import Network, Supernet
from supernet.space import Arch, Space
from supernet.training import defaults, standalone
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig, fit
from supernet.training.rules import Rule, Taught

SIZE = 28


def mobilenetv2_050(channels: int = 1, classes: int = 10) -> nn.Module:
    """timm's, with a first convolution of stride 1."""
    import timm

    model: Any = timm.create_model("mobilenetv2_050", in_chans=channels, num_classes=classes)
    model.conv_stem.stride = (1, 1)
    return model


def resnet18(channels: int = 1, classes: int = 10) -> nn.Module:
    """timm's, with a first convolution of 3×3."""
    import timm

    model: Any = timm.create_model("resnet18", in_chans=channels, num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, 2, 1, bias=False)
    return model


NETWORKS = {"mobilenetv2_050": mobilenetv2_050, "resnet18": resnet18}


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
    epochs: int = 8
    """Of the given network."""
    supernet_epochs: int = 2
    """Of its parts together: four in each step."""
    tuning_epochs: int = 2
    """Of each network at last."""
    evaluations: int = 120
    """Parts that a search scores."""
    train: int = 30_000
    """Training images, stratified."""
    quick: bool = False
    """One network, share and seed, one epoch on few images: shows that it works, tells nothing."""


class Alone(nn.Module):
    """Any network as the training loop calls it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, arch: Arch | None = None) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))


Made = tuple[nn.Module, int]  # a network, its multiply-adds


@dataclass(frozen=True)
class Study:
    """One given network, trained with one seed."""

    name: str
    seed: int
    images: TrainVal
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
        args = self.args
        return args.run / f"own-{self.name}-{args.train}x{args.epochs}-{self.seed}{'-quick' if args.quick else ''}"

    def cfg(self, epochs: int, lr: float | None = None) -> FitConfig:
        lr = defaults.learning_rate(64, lr, learnt=True)
        return FitConfig(epochs, 64, lr, schedule="cosine", augment=False, seed=self.seed)

    @functools.cached_property
    def given(self) -> nn.Module:
        """The given network, trained; by its own class, in eval mode."""
        silent = {"validate": lambda network: {}}
        cfg = self.cfg(self.args.epochs, 0.1)
        whole, _ = standalone.train(
            self.space,
            self.layout.whole,
            self.images,
            cfg,
            self.folder / "given",
            _common.CPU,
            kernels="fused",
            **silent,
        )
        state = {k.replace(SLASH, "."): v for module in whole.path() for k, v in module.state_dict().items()}
        model = NETWORKS[self.name](self.images.channels, self.images.classes)
        model.load_state_dict(state)
        weights.save(self.folder / "given.safetensors", model.state_dict())
        return Alone(model).eval().requires_grad_(False)

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

    def found(self, epochs: int, share: float) -> Arch:
        """The part that scores best within the share of the multiply-adds."""
        if (epochs, share) in self.memory:
            return self.memory[epochs, share]
        bounds = {"flops": (0.0, share * self.whole)}
        budget = GuidedConfig(population=48, iterations=1, seed=self.seed)
        budget = dataclasses.replace(budget, iterations=1 + (self.args.evaluations - 48) // budget.size(1))
        search = GuidedSearch(self.space, {"flops": priced.costs(self.space, {})["flops"]}, bounds, ["flops"], budget)
        evaluator = Scoring(recalibration=(4, 128), executor=Threads(1)).evaluator(self.supernet(epochs), self.images)
        scores: dict[Arch, float] = {}
        while not search.done:
            archs = search.ask()
            scores |= dict(zip(archs, evaluator(archs), strict=True))
            search.tell(archs, [scores[arch] for arch in archs])
        self.memory[epochs, share] = max(scores, key=lambda arch: scores[arch])
        return self.memory[epochs, share]

    def random(self, share: float) -> Arch:
        """A part within 5 % below the share."""
        rng = np.random.default_rng([self.seed, round(1000 * share)])
        cost = priced.costs(self.space, {})["flops"]
        window = 0.95 * share * self.whole, share * self.whole
        return next(a for a in iter(lambda: self.space.sample(rng), None) if window[0] <= cost(a) <= window[1])

    def part(self, epochs: int, arch: Arch) -> Made:
        """A part with the weights that it has in the supernet."""
        return self.supernet(epochs).extract(arch, "fused"), self.flops(arch)

    def scratch(self, arch: Arch) -> Made:
        """A part with new weights."""
        torch.manual_seed(self.seed)
        return Network(self.space, arch, kernels="fused"), self.flops(arch)

    def pruned(self, share: float, everywhere: bool) -> Made:
        """By Torch-Pruning, by the L2 norm of groups: the same share of each, or the least of all."""
        try:
            import torch_pruning as tp
        except ImportError as error:
            raise UserError("Torch-Pruning is missing: pip install torch-pruning==1.6.1") from error
        x = torch.zeros(1, self.images.channels, SIZE, SIZE)

        def at(ratio: float) -> Made:
            model: Any = copy.deepcopy(self.given.network).requires_grad_(True).train()
            heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
            options = {"pruning_ratio": ratio, "ignored_layers": heads, "global_pruning": everywhere}
            tp.pruner.BasePruner(model, x, importance=tp.importance.GroupMagnitudeImportance(p=2), **options).step()
            return Alone(model), counted(model.eval(), x)

        low, high = 0.0, 0.98
        for _ in range(12):
            ratio = (low + high) / 2
            low, high = (ratio, high) if at(ratio)[1] > share * self.whole else (low, ratio)
        return at(high)

    def write(self, model: nn.Module, path: Path) -> None:
        """For a latency that is measured when the machine is quiet."""
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
        return {
            "ours": lambda: self.part(epochs, self.found(epochs, share)),
            "ours, parts not trained": lambda: self.part(0, self.found(0, share)),
            "random part": lambda: self.part(epochs, self.random(share)),
            "Torch-Pruning, uniform": lambda: self.pruned(share, False),
            "Torch-Pruning, global": lambda: self.pruned(share, True),
            "from scratch": lambda: self.scratch(self.found(epochs, share)),
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
        return {
            "before": before,
            "accuracy": accuracy,
            "share": flops / self.whole,
            "minutes": (time.process_time() - start) / 60,
            "minutes before": prepared / 60,
        }


def counted(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of a network on one image."""
    with FlopCounterMode(display=False) as counter:
        model(x)
    return trace.multiply_adds(counter)


def run(args: Args) -> None:
    if args.redraw:
        finish(args, files.read_json(args.output, "results", "run it without --redraw"))
        return
    defaults.keep_memory()
    torch.set_num_threads(1)
    clock = _common.Clock(args.run, "own_network")
    source = _common.Images(args.data, str(args.data_root), args.train)
    if args.quick:
        source = _common.Images(args.data, str(args.data_root), 640, 200, 400)
        args = dataclasses.replace(args, networks=args.networks[:1], shares=(0.5,), seeds=1, epochs=1)
        args = dataclasses.replace(args, supernet_epochs=1, tuning_epochs=1, evaluations=60)
    images, judging = _common.open_images(source)
    kept = _common.Kept(
        args.output, _common.results("own_network", args, clock), clock, ("seeds", "networks", "shares")
    )
    for name in args.networks:
        for seed in range(args.seeds):
            study = Study(name, seed, images, judging, args)
            kept.add(name, "given", seed, lambda s=study: {"accuracy": evaluate(s.given, judging.plain_batches(512))})
            for share in args.shares:
                for arm, make in study.arms(share).items():
                    kept.add(name, f"{arm}, {share:g}", seed, functools.partial(study.tuned, arm, share, make))
    finish(args, kept.found)


def finish(args: Args, result: dict) -> None:
    tables = {}
    for name in (name for name in result["settings"]["networks"] if name in result):
        (given, *_), rows = [(key, made) for key, made in result[name].items() if key == "given"], {}
        whole = [one["accuracy"] for one in given[1]]
        rows["the given network"] = dict.fromkeys(HEADINGS, "") | {"accuracy, %": _common.mean_sd(whole, 100)}
        for key, made in result[name].items():
            if key != "given":
                found = {heading: [one[field] for one in made] for heading, field in HEADINGS.items()}
                rows[key] = {h: _common.mean_sd(v, 100 if "%" in h else 1) for h, v in found.items()}
        tables[name] = rows
    _common.report(args.output, result, tables, draw, (5.5 * len(tables), 4.0))


HEADINGS = {
    "multiply-adds, %": "share",
    "before, %": "before",
    "accuracy, %": "accuracy",
    "minutes": "minutes",
}


def draw(figure: Figure, result: dict) -> None:
    """Accuracy over multiply-adds, a line for each way."""
    names = [name for name in result["settings"]["networks"] if name in result]
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        given = 100 * np.mean([one["accuracy"] for one in result[name]["given"]])
        axes.axhline(given, color="0.5", linestyle=":", linewidth=1, label="the given network")
        lines: dict[str, list[tuple[float, float, float]]] = {}
        for key, made in result[name].items():
            if key != "given":
                values = 100 * np.array([one["accuracy"] for one in made])
                spread = values.std(ddof=1) if len(values) > 1 else 0.0
                share = 100 * float(np.mean([one["share"] for one in made]))
                lines.setdefault(key.rpartition(",")[0], []).append((share, values.mean(), spread))
        for arm, points in lines.items():
            x, y, spread = np.array(points).T
            axes.errorbar(x, y, spread, marker="o", markersize=4, linewidth=1, capsize=2, label=arm)
        axes.set(xlabel="multiply-adds, % of the given network's", ylabel="accuracy, %", title=name)
        axes.grid(alpha=0.2)
        axes.legend(fontsize=7)


if __name__ == "__main__":
    _common.main(run, Args)
