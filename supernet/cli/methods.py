"""The options of each method of training, what it trains and what it tells at the end."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from supernet import files
from supernet.cli import common, opening, planning
from supernet.errors import UserError
from supernet.metrics import percent
from supernet.quantities import digits, several

if TYPE_CHECKING:
    import torch

    from search.costs import TableCost
    from supernet.data.sets import TrainVal
    from supernet.methods import dsnas, nss, ofa
    from supernet.runs import RunFolder
    from supernet.space import Space
    from supernet.spec import Price
    from supernet.training.loop import FitConfig
    from supernet.training.rehearsal import Rehearsal


@dataclass(frozen=True)
class Args(planning.Planned, common.Devices, common.Training, common.Kernels, opening.NewRun):
    """What every method takes; enough for one whose ``Config`` and ``run`` need no more (``supernet/methods``)."""

    topic: ClassVar[str] = "training"
    method: Annotated[str, tyro.conf.arg(metavar="spos|ofa|dsnas|nss")] = "spos"
    """spos: paths by a --rule; ofa: progressive shrinking; dsnas: architecture and weights at once; nss: spaces."""
    space: Annotated[str | None, tyro.conf.arg(aliases=["--model"], help_behavior_hint="")] = None
    """Search space: a name, a .json, FILE.py:function, or one network, timm:NAME, torchvision:NAME or FILE.py:function,
    whose parts it then has; defaults to mobile-small below 96 pixels, else mobile."""
    resolutions: Annotated[str, tyro.conf.arg(metavar="R,R,…", help_behavior_hint="")] = ""
    """A gene for the resolution: these, ascending, the last that of the images; defaults to those of the space."""
    epochs: Annotated[int | None, common.UNSET] = None
    """Epochs (SPOS on ImageNet: 120); defaults to 12, with --weights to 3. SPOS may be given more later, and goes on at
    the longer schedule's rate."""
    batch_size: int = 64
    """Images per step, over all processes (SPOS on ImageNet: 1024)."""
    warmup_epochs: Annotated[float | None, common.UNSET] = None
    """Epochs of linear warm-up; defaults to 0, with dsnas to 5 of 240, and fewer of fewer."""
    clip: float = 0.0
    """Largest gradient norm; 0 turns clipping off."""
    clip_value: float = 0.0
    """Largest component of the gradient (BigNAS: 1); 0 turns it off."""
    augment: Annotated[bool | None, common.UNSET] = None
    """Random crops and flips; defaults to on from 30 epochs, since short trainings do better without."""

    grows: ClassVar[tuple[str, ...]] = ()  # settings that may be larger when the run goes on

    def __post_init__(self) -> None:
        least = 0 if self.learnt else 1  # weights that are there can be searched
        if self.epochs is not None and self.epochs < least:
            raise UserError(f"--epochs {self.epochs}: expected at least {least}")

    @property
    def learnt(self) -> bool:
        """Whether the training begins with weights from elsewhere."""
        return getattr(self, "weights", "random") != "random"

    def settled(self, space: Space, begun: Mapping[str, Any]) -> Any:
        """These options with what was not given: as the run began, else what suits the weights and the method.

        Args:
            begun: settings of the run where there is one.
        """
        epochs = begun.get("epochs", 3 if self.learnt else 12) if self.epochs is None else self.epochs
        usual = 0.0 if begun else self.usual_warmup(epochs)
        warmup = begun.get("warmup_epochs", usual) if self.warmup_epochs is None else self.warmup_epochs
        return dataclasses.replace(self, epochs=epochs, warmup_epochs=warmup)

    def usual_warmup(self, epochs: int) -> float:
        """Epochs of warm-up of a training that is new."""
        return 0.0

    def sized(self, space: Space) -> Space:
        """The space with a gene for the ``resolutions``, where there are some."""
        from supernet import families

        try:
            sizes = [int(size) for size in self.resolutions.split(",")] if self.resolutions else []
        except ValueError as error:
            raise UserError(f"--resolutions {self.resolutions}: expected whole numbers with commas between") from error
        return families.with_resolutions(space, sizes)

    @property
    def library(self) -> Any:
        """The module of the method."""
        return importlib.import_module(f"supernet.methods.{self.method}")

    @property
    def own(self) -> dict[str, Any]:
        """The options that the method adds to those of all, by name."""
        shared = {field.name for field in dataclasses.fields(Args)}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in shared}

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> Any:
        """The method's ``Config``, of its own options; refuses what cannot be before anything is written."""
        return self.library.Config(fit, kernels=kernels, **self.own)

    def contents(self, cfg: Any) -> dict[str, Any]:
        """What a run records of files that shape it, in place of their names: one that changed is another run."""
        return {}

    def train(
        self,
        space: Space,
        images: TrainVal,
        cfg: Any,
        device: torch.device,
        run: RunFolder,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        """Train in the run folder, or continue there; or have the first steps measured by a rehearsal."""
        drive = rehearsal.training() if rehearsal else None
        self.library.run(space, images, cfg, run.path, device, self.progress, drive=drive)

    def report(self, space: Space, cfg: Any, run: RunFolder) -> Any:
        """Tell what came out and the next command. Returns what --json prints: how the training stood at its end."""
        lines = run.metrics.read()
        last = lines[-1] if lines else {}
        accuracy = last.get("val_accuracy")
        on = f" on {several(last['val_images'], 'image')}" if "val_images" in last else ""
        told = "" if accuracy is None else f", one-shot accuracy of random architectures {100 * accuracy:.1f} %{on}"
        done = f"trained: loss {lines[-1]['loss']:.3f}{told}" if lines else "not trained: the weights as they are"
        common.say(f"{done} → {common.escape(str(run.checkpoint))}")
        common.next_command("build_lut", self)
        return last


@dataclass(frozen=True)
class Spos(Args):
    """SPOS: the supernet that searches score architectures on."""

    topic: ClassVar[str] = "method"
    grows: ClassVar[tuple[str, ...]] = ("epochs",)
    rule: Annotated[Literal["uniform", "fair", "sandwich"] | None, common.UNSET] = None
    """Paths of a step: a random one; every choice of every gene once; the largest, random ones and the smallest;
    defaults to uniform, with --weights to sandwich."""
    paths: int = 2
    """Random paths in a step of the sandwich rule."""
    distil: Annotated[Literal["none", "inplace", "alpha", "teacher"] | None, common.UNSET] = None
    """Paths learn from the largest network, which trains in each step, by KL (inplace) or adaptive α-divergence; or
    from the given network as it was (teacher); defaults to none, with --weights to teacher, or to inplace where their
    classes are others."""
    weights: str = "random"
    """Of a given network: a file of a state dict (.safetensors, .pt), pretrained (what timm or torchvision publishes),
    or random."""
    importance: Literal["l1", "taylor", "none"] = "l1"
    """By which the channels of a given network are sorted: L1 of weights, or Taylor's on training images."""
    draw: Literal["uniform", "best", "worst"] = "uniform"
    """Of three random paths of about the same cost train the one with the smallest or largest loss (AttentiveNAS)."""
    drop_path: float = 0.0
    """Probability to leave out the last block of the largest network, where it leads; grows from 0 at the first one."""
    zero_gamma: bool = False
    """Start each block that adds to its input as the identity: γ of its last BN is 0 (BigNAS)."""
    ema: float = 0.0
    """Decay of a moving average of the weights that is then scored (BigNAS: .9999, short trainings less); 0 is off."""
    sampling: Literal["uniform", "flops"] = "uniform"
    """Draw paths uniformly, or within a uniformly drawn bin of multiply-adds (SPOS's code)."""
    flops_bins: tuple[float, float, float] = (290e6, 360e6, 10e6)
    """From, to and width of the bins, in multiply-adds."""
    probes: int = 4
    """Random architectures whose one-shot accuracy is validated after each epoch; 0 validates none."""

    def settled(self, space: Space, begun: Mapping[str, Any]) -> Spos:
        """Rule and distillation too."""
        if self.learnt and not space.model:
            raise UserError(
                f"--weights {self.weights}: space {space.name} is not of a given network, which they are for: expected "
                "--model timm:NAME, torchvision:NAME or FILE.py:function"
            )
        rule, distil = self.rule or begun.get("rule"), self.distil or begun.get("distil")
        if distil is None and self.learnt:
            from supernet.families.given import layout, weights

            network = layout.of_network(space).network
            distil = "inplace" if weights.read(network, self.weights).new else "teacher"
        usual = "sandwich" if self.learnt else "uniform"
        return dataclasses.replace(super().settled(space, begun), rule=rule or usual, distil=distil or "none")

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> Any:
        """SPOS's Config; refuses options that exclude each other or that the space is not for."""
        cfg = super().config(space, fit, kernels)
        self.library.require(space, cfg)
        return cfg


@dataclass(frozen=True)
class Ofa(Args):
    """OFA: progressive shrinking of an elastic space; what spos --rule sandwich trains at once comes phase by phase."""

    topic: ClassVar[str] = "method"
    method: Annotated[str, tyro.conf.arg(metavar="spos|ofa|dsnas|nss")] = "ofa"
    space: str | None = "elastic-small"
    """Search space: an elastic one, such as elastic-small or ofa-mobilenetv3, or a .json."""
    phases: Annotated[Path | None, common.UNSET] = None
    """JSON file of phases; defaults to those of the paper, in --epochs epochs."""
    sort: bool = True
    """Sort channels by importance before smaller expansions open."""
    probes: int = 4
    """Random architectures whose one-shot accuracy is validated after each epoch of the last phase."""

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> ofa.Config:
        """The method's Config; refuses a space that is not elastic and phases that leave some of it closed."""
        from supernet.methods import ofa

        given = ofa.read_phases(self.phases, fit.lr) if self.phases else ofa.default_phases(fit.epochs, fit.lr)
        ofa.spaces(space, given)
        return ofa.Config(fit, given, kernels=kernels, sort=self.sort, probes=self.probes)

    def contents(self, cfg: ofa.Config) -> dict[str, Any]:
        """The phases of a file."""
        return {"phases": [dataclasses.asdict(phase) for phase in cfg.phases]} if self.phases else {}


@dataclass(frozen=True)
class Dsnas(Args):
    """DSNAS: architecture and weights together; the child keeps its weights."""

    topic: ClassVar[str] = "method"
    flops_max: Annotated[float | None, common.UNSET] = None
    """Most multiply-adds of the child."""
    lat_max: Annotated[float | None, common.UNSET] = None
    """Largest latency of the child in ms, instead of --flops-max; needs --lut."""
    lut: Annotated[str | None, common.UNSET] = None
    """Latency table of the space, from build_lut.py."""
    search_epochs: Annotated[int | None, common.UNSET] = None
    """Epochs until the child is fixed and trains on alone; defaults to a third of --epochs (the paper: 80 of 240)."""
    weight_epochs: int = 0
    """First epochs of the search, which train weights only."""
    arch_lr: float = 1e-3
    """Adam's learning rate for the distribution over architectures; short searches need more."""
    coefficient: float = 0.1
    """Weight of the budget in the loss of paths that exceed it."""
    stop_gap: float = 0.3
    """A layer is settled when its two largest probabilities differ by this much; above 1 is never."""
    retrain: bool = False
    """Also train the child from scratch for as long, to measure the gap."""

    def usual_warmup(self, epochs: int) -> float:
        """5 of 240, the authors'; in a short training five would be the whole search."""
        return min(5.0, epochs / 48)

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> dsnas.Config:
        """The method's Config; refuses a limit out of reach."""
        from search.costs import Window
        from supernet.methods import dsnas

        name, limit = self.bound()
        cost, more = self.costs(space)[name], self.own
        for other in ("flops_max", "lat_max", "lut", "retrain"):
            del more[other]
        Window(space, {name: cost}, {name: (0.0, limit)})
        budget, fit = dsnas.Budget(cost.table, cost.base, limit), dataclasses.replace(fit, schedule="cosine")
        more["search_epochs"] = -(-fit.epochs // 3) if self.search_epochs is None else self.search_epochs
        return dsnas.Config(fit, budget, kernels=kernels, **more)

    def bound(self) -> tuple[str, float]:
        """The cost that is bounded, and its limit."""
        if self.lat_max is None:
            return "flops", math.inf if self.flops_max is None else self.flops_max
        if self.flops_max is not None or self.lut is None:
            table = common.command("build_lut", None, "--space", "SPACE", "--output", "FILE")
            raise UserError(
                f"--lat-max takes the place of --flops-max and needs --lut FILE, the table of the space, by {table}"
            )
        return "latency_ms", self.lat_max

    def costs(self, space: Space) -> dict[str, TableCost]:
        """Multiply-adds, parameters, and latency where there is a table."""
        from latency.table import LatencyTable
        from search import priced
        from supernet import families

        families.require_layers(space, edges=True)
        latencies = {} if self.lut is None else {"latency_ms": LatencyTable.load(self.lut, space).price}
        return {name: cost for name, cost in priced.costs(space, latencies).items() if name != "activations"}

    def train(
        self,
        space: Space,
        images: TrainVal,
        cfg: dsnas.Config,
        device: torch.device,
        run: RunFolder,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        """Search and train in the run folder, or continue there; then train the child from scratch if asked."""
        drive = rehearsal.training() if rehearsal else None
        child = self.library.run(space, images, cfg, run.path, device, self.progress, drive)
        if self.retrain:
            path, drive = run.network("retrained").path, rehearsal.training("retraining") if rehearsal else None
            self.library.retrain(space, images, child.arch, cfg, path, device, self.progress, drive)

    def report(self, space: Space, cfg: dsnas.Config, run: RunFolder) -> Any:
        """Leave table and front for the later commands; tell what came out and the next command."""
        from search import front

        found, (name, limit) = run.found(), self.bound()
        if self.lut is not None and not run.lut_path.exists():
            files.write_bytes(run.lut_path, Path(self.lut).read_bytes())
        front.write_single(run, space, tuple(found["arch"]), self.costs(space), {name: (0.0, limit)}, self.seed)
        accuracy, judged = 100 * found["val_accuracy"], common.escape(percent(found, "val"))
        cost = f"{name} {digits(found['cost'], 6)} (at most {digits(limit, 6)})"
        common.say(
            f"child: {found['layers']}; {cost}; validation accuracy {judged} with the weights of the search → "
            f"{common.escape(str(run.child.path))}"
        )
        if self.retrain:
            scratch = 100 * run.network("retrained").metrics.read()[-1]["val_accuracy"]
            common.say(f"from scratch, as long: {scratch:.2f} %, {scratch - accuracy:+.2f} points")
        asis = ("--inherit", "--epochs", 0, "--controls", 0)
        common.next_command("retrain", self, *asis, note="test it as it is")
        return found


@dataclass(frozen=True)
class Nss(Args):
    """NSS: spaces of residual networks that are good for a cost; each is then a --space of its own."""

    topic: ClassVar[str] = "method"
    method: Annotated[str, tyro.conf.arg(metavar="spos|ofa|dsnas|nss")] = "nss"
    space: str | None = "residual-small"
    """Search space: residual, residual-medium, residual-small, or a .json of such a space."""
    lr: float | None = 0.025
    """Peak learning rate; it ends at 0.001."""
    clip: float = 5.0
    """Largest gradient norm; 0 turns clipping off."""
    targets: Annotated[str, tyro.conf.arg(metavar="T,T,…", help_behavior_hint="")] = ""
    """Average cost of each elite space to find: multiply-adds, or ms with --lut; defaults to quarters of the range."""
    lut: Annotated[Path | None, common.UNSET] = None
    """Latency table of the space: targets are then milliseconds."""
    depth_range: Annotated[int | None, common.UNSET] = None
    """Depths in one range; defaults to a quarter of the open ones, at least 2 (the paper: 4 of 16)."""
    width_range: Annotated[int | None, common.UNSET] = None
    """Widths in one range; defaults to a sixteenth of the open ones, at least 4 (the paper: 32 of 512)."""
    warmup: float = 0.3
    """Share of the epochs that train weights only."""
    enable_all: bool = True
    """Enable all channels, and all blocks, of a stage at random in the warm-up: always at first, never at its end."""
    theta_lr: Annotated[float | None, common.UNSET] = None
    """Adam's rate for the probabilities; defaults to DARTS's 3e-4, in runs shorter than the paper's to as much more."""

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> nss.Config:
        """The method's Config; refuses what cannot be before anything is written."""
        try:
            targets = [float(target) for target in self.targets.split(",") if target]
        except ValueError as error:
            raise UserError(f"--targets {self.targets}: expected numbers with commas between ({error})") from error
        if (self.targets and not targets) or not all(0 < target < math.inf for target in targets):
            raise UserError(f"--targets {self.targets}: expected numbers above 0")
        given = {name: value for name, value in self.own.items() if name != "lut"} | {"targets": targets}
        return self.library.configure(space, fit, self.price(space), kernels=kernels, **given)

    def price(self, space: Space) -> Price:
        """What a layer costs, in the unit of the targets."""
        from latency.table import LatencyTable

        return LatencyTable.load(self.lut, space).price if self.lut else lambda spec: spec.flops

    def train(
        self,
        space: Space,
        images: TrainVal,
        cfg: nss.Config,
        device: torch.device,
        run: RunFolder,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        """Search every target in the run folder, or continue there."""
        drive = rehearsal.training() if rehearsal else None
        self.library.run(space, images, cfg, run.path, device, self.progress, self.price(space), drive)

    def report(self, space: Space, cfg: nss.Config, run: RunFolder) -> Any:
        """Tell what came out and the next command."""
        unit, scale = ("ms", 1.0) if self.lut else ("MFLOPs", 1e-6)
        for target in cfg.targets:
            common.tell(
                f"{self.library.describe(run.elite(target), target, unit, scale)} → {run.elite(target).space_path}"
            )
        first, images = run.elite(cfg.targets[0]), common.words(self, "data", "data_root", "resolution")
        where = ("--space", first.space_path, "--run", first.path / "supernet")
        common.next_command("train_supernet", None, *where, *images)
        return [run.elite(target).probabilities() for target in cfg.targets]


# The options of each method: its own, or ``Args`` where those are enough.
METHODS: dict[str, type[Args]] = {"spos": Spos, "ofa": Ofa, "dsnas": Dsnas, "nss": Nss}
