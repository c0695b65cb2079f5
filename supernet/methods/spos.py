"""SPOS: single path one-shot training (Guo et al. 2020), the supernet that the searches score architectures on.

Each step draws one path and updates its weights alone. BN has no affine parameters; its statistics are
recalibrated for every architecture before it is scored. Other rules train several paths in a step (``training.rules``).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from supernet import families
from supernet.data import stored
from supernet.data.images import Batches, Inputs
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.extremes import largest
from supernet.families import elastic
from supernet.model import Network, Supernet, adds, zero_gamma
from supernet.progress import Progress, silent
from supernet.space import Arch, Space
from supernet.training import binned, paths, rules
from supernet.training.average import MovingAverage
from supernet.training.bn import recalibrate_bn
from supernet.training.evaluation import BATCH, validate
from supernet.training.loop import Drive, FitConfig, Validate, fit
from supernet.training.rules import Distil, Draw, Rule, Together


@dataclass(frozen=True)
class Config:
    """SPOS's own settings are lr .5 at batch 1024 for 120 epochs; the rate scales with the batch."""

    fit: FitConfig
    sampling: Literal["uniform", "flops"] = "uniform"
    flops_bins: tuple[float, float, float] = (290e6, 360e6, 10e6)  # from, to, width: of SPOS's code at 224
    rule: Literal["uniform", "fair", "sandwich"] = "uniform"  # which paths a step trains together
    paths: int = 2  # random ones in a step of the sandwich rule
    distil: Distil = "none"  # what all but the largest network learn by
    draw: Literal["uniform", "best", "worst"] = "uniform"  # the one to be trained among paths of about one cost
    drop_path: float = 0.0  # of the largest network's last block, where it leads
    zero_gamma: bool = False  # at first, of the last BN of each block that adds to its input (BigNAS, §3.2)
    ema: float = 0.0  # decay of the weights' exponential moving average, which is what is scored; 0 is off
    weights: str = "random"  # of a given network, as ``families.given.weights.read`` takes them
    importance: Literal["l1", "taylor", "none"] = "l1"  # by which its channels are sorted
    kernels: Literal["fused", "eager"] = "fused"
    probes: int = 4  # fixed random architectures, scored after each epoch
    recalibration: tuple[int, int] = field(default=(8, 128))  # batches, images per batch

    def __post_init__(self) -> None:
        if not 1 <= self.paths <= paths.MOST:
            raise UserError(f"{self.paths} random paths in a step: expected 1 to {paths.MOST:,}")
        if not 0 <= self.ema < 1 or not 0 <= self.drop_path < 1:
            raise UserError(f"ema {self.ema:g}, drop path {self.drop_path:g}: expected numbers from 0 to below 1")

    @property
    def leads(self) -> bool:
        """Whether the largest network trains in each step, before the others."""
        return self.rule == "sandwich" or self.distil in ("inplace", "alpha")


def affine(space: Space) -> bool:
    """Whether BN has a scale and a shift. SPOS, which compares architectures, has none; elastic ones serve as they are,
    and so do those of a given network.

    >>> from supernet import spaces
    >>> affine(spaces.get("elastic-small", 1, 28, 10)), affine(spaces.get("mobile-small", 1, 28, 10))
    (True, False)
    """
    return bool(space.model) or families.of(space) is elastic.FAMILY


def require(space: Space, cfg: Config) -> None:
    """Refuse what cannot be trained.

    Raises:
        UserError: the space lacks what ``cfg`` needs, such as a largest network, or two options exclude each other.
    """
    if cfg.draw != "uniform" and (cfg.rule == "fair" or cfg.sampling != "uniform"):
        raise UserError(
            f"draw {cfg.draw} chooses one of several random paths: sampling must be uniform and the rule not fair"
        )
    if cfg.distil == "teacher" and not space.model:
        raise UserError(f"space {space.name} is not of a given network, which the teacher is: expected another distil")
    if cfg.zero_gamma and (space.model or not affine(space)):
        begun = "begins with a network's weights" if space.model else "has BN without γ"
        raise UserError(f"zero gamma: the supernet of {space.name} {begun}; expected an elastic space")
    if cfg.leads:
        arch = largest(space)
        if cfg.drop_path and not adds(Network(space, arch, kernels=cfg.kernels).path()):
            raise UserError(f"drop path {cfg.drop_path:g}: no block of {space.name} that leads adds to its input")
    elif cfg.drop_path:
        raise UserError(
            f"drop path {cfg.drop_path:g}: it is of the largest network, which leads by the rule sandwich and by "
            "distil inplace or alpha: expected one of these"
        )


def rule(model: Supernet, cfg: Config, teacher: nn.Module | None = None) -> Rule:
    """What a step trains: ``cfg.rule`` on the paths that ``cfg.sampling`` and ``cfg.draw`` draw.

    Raises:
        UserError: as ``require``, or there is no path within the bins of multiply-adds.
    """
    space, seed = model.space, cfg.fit.seed
    require(space, cfg)
    pick: Callable[[int], Arch | paths.Candidates]
    if cfg.draw != "uniform":
        pick = paths.attentive_path(space, seed)
    elif cfg.sampling == "flops":
        pick = binned.flops_binned_path(space, seed, cfg.flops_bins)
    else:
        pick = paths.uniform_path(space, seed)
    draws: dict[str, Callable[[], Draw]] = {
        "uniform": lambda: lambda step: [pick(step)],
        "fair": lambda: paths.fair_paths(space, seed),
        "sandwich": lambda: rules.sandwich(space, pick, cfg.paths),
    }
    return Together(
        model,
        draws[cfg.rule](),
        leads=cfg.rule == "sandwich",
        distil=cfg.distil,
        worst=cfg.draw == "worst",
        smoothing=cfg.fit.label_smoothing,
        drop_path=cfg.drop_path,
        teacher=teacher,
    )


def score(
    model: Supernet, recalibration: Iterable[torch.Tensor], data: TrainVal, arch: Arch, batch: int = BATCH
) -> float:
    """One-shot accuracy: recalibrate BN on training images, evaluate on the validation split (SPOS §3.4)."""
    recalibrate_bn(model, recalibration, arch)
    return validate(model, data.val, arch, batch)


def recalibration_images(data: TrainVal, batches: int, size: int) -> Inputs:
    """The same training images for every architecture, not augmented; decoded once."""
    count = min(batches * size, len(data.train))
    if count > size > 1 and count % size == 1:  # BN has no variance of one image where a map has one pixel
        count -= 1
    return Inputs(Batches(stored.in_memory(data.train.subset(count, seed=0)), size))


class Probes:
    """Fixed random architectures that are scored after each epoch.

    Args:
        count: of them; with 0 nothing is scored.
        recalibration: batches, images per batch.
    """

    def __init__(self, space: Space, data: TrainVal, cfg: FitConfig, count: int, recalibration: tuple[int, int]):
        rng = np.random.default_rng([cfg.seed, 2**32])
        self.arches = [space.sample(rng) for _ in range(count)]
        self.images: Iterable[torch.Tensor] = recalibration_images(data, *recalibration) if count else []
        self.data, self.batch = data, cfg.validation_batch

    def of(self, model: Supernet, average: MovingAverage | None = None) -> Validate:
        """What scores ``model``, with the average of its weights where there is one."""
        return functools.partial(self._score, model, average) if self.arches else dict

    def _score(self, model: Supernet, average: MovingAverage | None) -> dict:
        with average.applied() if average else contextlib.nullcontext():
            scores = [score(model, self.images, self.data, arch, self.batch) for arch in self.arches]
        return {"val_accuracy": float(np.mean(scores)), "val_probes": scores, "val_images": len(self.data.val)}


def meta(space: Space, kernels: str) -> dict:
    """What a reader of the checkpoint needs to rebuild the supernet."""
    return {
        "kind": "supernet",
        "method": "spos",
        "space": space.to_json(),
        "kernels": kernels,
        "affine": affine(space),
    }


def untrained(space: Space, cfg: Config) -> Supernet:
    """The supernet before its first step; the seed is ``cfg``'s."""
    torch.manual_seed(cfg.fit.seed)
    model = Supernet(space, affine=affine(space), kernels=cfg.kernels)
    if cfg.zero_gamma:
        zero_gamma(model)
    return model


def run(
    space: Space,
    data: TrainVal,
    cfg: Config,
    folder: Path,
    device: torch.device,
    progress: Progress = silent,
    inherit: Supernet | None = None,
    drive: Drive | None = None,
) -> Supernet:
    """Train the supernet of ``space`` in ``folder``, or continue there. Returns it trained.

    Args:
        inherit: a supernet of the same space with more open choices, whose weights it starts from.
        drive: as ``fit`` has it.
    """
    require(space, cfg)
    model = untrained(space, cfg).to(device)
    if inherit is not None:
        weights = inherit.state_dict()
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    teacher = None
    if space.model:
        from supernet.methods import given  # it knows of run folders

        new = given.begin(model, cfg.weights, cfg.importance, folder, data, cfg.fit.seed)
        if new and not cfg.fit.epochs:
            raise UserError(
                f"{new[0]} of {space.model} is new for these images, so parts cannot be scored as they are: expected "
                "weights that know them, or at least one epoch"
            )
        if cfg.distil == "teacher":
            if new:
                raise UserError(
                    f"{new[0]} of {space.model} is new for these images, so the network teaches nothing: expected "
                    "weights that know them, or distil inplace"
                )
            teacher = given.teacher(model)
    average = MovingAverage(model, cfg.ema) if cfg.ema else None
    probes = Probes(space, data, cfg.fit, cfg.probes, cfg.recalibration)
    fit(
        model,
        data.train,
        rule(model, cfg, teacher),
        cfg.fit,
        folder,
        meta={**meta(space, cfg.kernels), "config": asdict(cfg)},
        search=average,
        validate=probes.of(model, average),
        label="supernet",
        progress=progress,
        drive=drive,
    )
    if average:
        average.copy(average.averages)
    return model
