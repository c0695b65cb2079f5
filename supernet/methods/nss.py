"""NSS: Network Space Search (Hong et al. 2022). Searches not a network but a space of good ones for a cost.

A network space is a range of depths and a range of widths for each stage. min_Θ E_{A~P_Θ} E_{α~U(A)} L(α) (eq. S1): a
space is drawn by Gumbel-softmax, in each range an architecture uniformly. Weights are shared by channel masks and by
the depth mixture; the most probable space is the elite one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import files
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.families import residual
from supernet.methods.network_spaces import (
    Ranges,
    Sample,
    SpaceCost,
    draw,
    elite,
    enable,
    expected,
    forward,
    plot,
    probabilities,
    require_attainable,
    split,
)
from supernet.model import Supernet
from supernet.progress import Progress, silent
from supernet.quantities import count, digits, several
from supernet.run_files import SPACES
from supernet.runs import RunFolder
from supernet.space import Space
from supernet.spec import Price
from supernet.training import distributed, loop
from supernet.training.batches import Batches
from supernet.training.loop import Drive, FitConfig, fit
from supernet.training.precision import whole

SCHEMA = 1
WEIGHTS, THETA = range(2)  # what a step's random stream is for


@dataclass(frozen=True)
class Config:
    """The paper takes 50 epochs, batch 64 and DARTS's settings: SGD .025 → .001 (cosine), decay 3e-4, clip 5."""

    fit: FitConfig  # of the weights, on one half of the training images; Θ learns on the other
    targets: tuple[float, ...]  # costs that an elite space shall have on average
    ranges: tuple[int, int] = (4, 32)  # depths and widths in one range
    warmup: float = 0.3  # share of the epochs that train weights only
    enable_all: bool = True  # in the warm-up all channels, and all blocks, of a stage at random (supplementary C)
    temperature: tuple[float, float] = (5.0, 0.001)  # of Gumbel-softmax, from the first to the last step, linear
    cost_weight: float = 1.0  # λ at first
    dual: float = 20.0  # what λ would rise by in a search whose most probable space costs twice the target throughout
    tolerance: float = 0.1  # of the target
    lr_min: float = 0.001
    theta_lr: float | None = None  # Adam; None: DARTS's 3e-4, more in runs shorter than the paper's
    theta_betas: tuple[float, float] = (0.5, 0.999)
    theta_decay: float = 1e-3
    kernels: Literal["fused", "eager"] = "fused"  # of the stem; masks and mixtures always run our operators

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup {self.warmup:g}: expected a share of the epochs, 0 or more and below 1")
        if self.theta_lr is not None and not 0 <= self.theta_lr < math.inf:
            raise UserError(f"theta lr {self.theta_lr:g}: expected at least 0")


# Steps of the paper's 35 epochs at batch 64 on half of CIFAR-10's 45,000 images without validation. Adam moves a logit
# by its rate in a step, so a shorter search takes a larger one to get as far.
PAPER_STEPS = 35 * 351


def configure(
    space: Space,
    fit: FitConfig,
    price: Price,
    *,
    targets: Sequence[float] = (),
    depth_range: int | None = None,
    width_range: int | None = None,
    **more: Any,
) -> Config:
    """A Config of DARTS's settings with defaults that follow from the space.

    Args:
        fit: epochs, batch size, rates, seed and what else is not DARTS's.
        price: what one layer costs, in the unit of the targets.
        targets: average costs of the elite spaces; by default they part the range of the space into quarters.
        depth_range, width_range: how many depths and widths are in one range; by default a quarter of the open depths
            (the paper: 4 of 16), at least 2, and a sixteenth of the open widths (32 of 512), at least 4.
        more: other fields of ``Config``.

    Raises:
        UserError: a space without stages, or a target out of reach.
    """
    residual.require(space)
    depths, widths = (len(open_) for open_ in space.allowed[:2])
    ranges = (depth_range or max(2, depths // 4), width_range or max(4, widths // 16))
    cost = SpaceCost.of(space, split(space, ranges), price)
    low, high = float(cost.all().min()), float(cost.all().max())
    targets = tuple(targets) or tuple(float(f"{low * (high / low) ** (i / 4):.2g}") for i in (1, 2, 3))
    fit = replace(fit, schedule="cosine", weight_decay=3e-4, label_smoothing=0.0)
    cfg = Config(fit, targets, ranges, **more)
    require_attainable(cost, targets, cfg.tolerance, space)
    return cfg


def halves(train: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """The images of the weights and those of Θ, stratified."""
    second = train.subset(len(train) // 2, seed)
    return train.take(np.flatnonzero(~np.isin(train.index, second.index))), second


def run(
    space: Space,
    data: TrainVal,
    cfg: Config,
    folder: Path,
    device: torch.device,
    progress: Progress = silent,
    price: Price = lambda spec: spec.flops,
    drive: Drive | None = None,
) -> list[Space]:
    """Search the elite space for each target in ``folder/elite-TARGET``, or continue there.

    The warm-up does not depend on the target: it runs once, in ``folder``.

    Args:
        price: what one layer costs, in the unit of the targets; multiply-adds, or a latency table's milliseconds.
        drive: as ``fit`` has it.

    Raises:
        UserError: a space without stages, a target out of reach.
    """
    ranges = split(space, cfg.ranges)
    cost = SpaceCost.of(space, ranges, price)
    require_attainable(cost, cfg.targets, cfg.tolerance, space)
    warmup = warmup_epochs(cfg)
    if not 0 <= warmup < cfg.fit.epochs:
        raise UserError(f"{warmup} of {cfg.fit.epochs} epochs are warm-up: expected 0 or more, and fewer than all")
    weights_half, theta_half = halves(data.train, cfg.fit.seed)
    steps = [half.steps(cfg.fit.batch_size, drop_last=True) for half in (weights_half, theta_half)]
    torch.manual_seed(cfg.fit.seed)
    model = Supernet(space, affine=True, kernels=cfg.kernels).to(device)
    meta = {"kind": SPACES, "space": space.to_json(), "config": asdict(cfg)}
    schedule = replace(cfg.fit, lr_min=cfg.lr_min)

    def train(own: Path, epochs: tuple[int, int], target: float | None, begin: Path | None) -> Search:
        """Epochs ``from`` to ``to`` in a folder: weights alone (``target`` None), or alternating with Θ."""
        distributed.wait()  # rank 0 writes what all begin with
        search = Search(model, ranges, cost, cfg, theta_half, min(steps), target)
        fit(
            model,
            weights_half,
            lambda step: None,
            schedule,
            own,
            meta=meta,
            search=search,
            forward=lambda step, x, y: forward(model, x, search.sample(step)),
            label="warm-up" if target is None else f"search {digits(target, 4)}",
            progress=progress,
            epochs=epochs,
            begin=begin,
            steps_per_epoch=min(steps),
            drive=drive,
        )
        return search

    run = RunFolder(folder)
    train(folder, (0, warmup), None, None)
    spaces = []
    for target in cfg.targets:
        own = run.elite(target)
        search = train(own.path, (warmup, cfg.fit.epochs), target, run.checkpoint)
        chosen = elite(ranges, list(search.theta), cost, target, cfg.tolerance)
        spaces.append(space.restrict([options[i] for options, i in zip(ranges, chosen, strict=True)]))
        if distributed.rank() == 0:
            write_elite(own, search, spaces[-1], target, chosen)
    return spaces


class Search(loop.Search):
    """Θ, one vector of logits per gene, learnt on one half of the training images while weights learn on the other.

    Every draw is a function of the seed and the step.

    Args:
        images: of Θ's half. per_epoch: steps of an epoch.
        target: cost that the space shall have; None in the warm-up, which leaves Θ alone.
    """

    def __init__(
        self,
        model: Supernet,
        ranges: Ranges,
        cost: SpaceCost,
        cfg: Config,
        images: ImageSet,
        per_epoch: int,
        target: float | None,
    ):
        self.model, self.ranges, self.cost, self.cfg = model, ranges, cost, cfg
        self.batches, self.target = Batches(images, cfg.fit, per_epoch), target
        self.device = next(model.parameters()).device
        self.total, self.warmup = (epochs * per_epoch for epochs in (cfg.fit.epochs, warmup_epochs(cfg)))
        self.theta = nn.ParameterList(torch.zeros(len(options)) for options in ranges).to(self.device)
        self.adam = theta_adam(self.theta.parameters(), cfg, self.total - self.warmup)
        self.weight, self.tau = cfg.cost_weight, cfg.temperature[0]  # λ, and the temperature of the last step
        if target is not None:
            self.violation = torch.from_numpy(cost.violation(target, cfg.tolerance)).to(self.device)

    def temperature(self, step: int) -> float:
        """Of Gumbel-softmax, linear in the step."""
        return np.interp(step, (0, self.total - 1), self.cfg.temperature).item()

    @torch.no_grad()
    def sample(self, step: int) -> Sample:
        """The space that the weights of this step are trained in."""
        key, space = (self.cfg.fit.seed, step, WEIGHTS), self.model.space
        sample = draw(space, self.ranges, list(self.theta), self.temperature(step), key)
        if step < self.warmup and self.cfg.enable_all:
            return enable(sample, space, 1 - step / self.warmup, (*key, 1))
        return sample

    def before_step(self, step: int) -> None:
        """One step of Θ in a drawn space, and of dual ascent: λ rises while the most probable space is off target."""
        self.tau = self.temperature(step)
        if self.target is None:
            return
        self.model.requires_grad_(False)
        self.adam.zero_grad()
        x, y = (tensor.to(self.device) for tensor in self.batches.at(step))
        parts = self.cfg.fit.accumulate
        for images, labels in distributed.parts(x, y, parts):
            key = (self.cfg.fit.seed, step, THETA)  # the same space for every part
            sample = draw(self.model.space, self.ranges, list(self.theta), self.tau, key)
            (self.loss(sample, images, labels) / parts).backward()
        distributed.average([logits.grad for logits in self.theta if logits.grad is not None])
        self.adam.step()
        self.weight += self.cfg.dual / (self.total - self.warmup) * self.violation[self.argmax()].item()
        self.model.requires_grad_(True)

    def loss(self, sample: Sample, x: Tensor, y: Tensor) -> Tensor:
        """CE + λ·E[what a space misses the target by] of a drawn space, as ``SpaceCost.violation`` has it."""
        with self.precision.autocast_unscaled():
            logits = forward(self.model, x, sample)
        return F.cross_entropy(whole(logits), y) + self.weight * expected(self.violation, sample.weights)

    def argmax(self) -> tuple[int, ...]:
        """The range of each gene in the most probable space."""
        return tuple(int(logits.argmax()) for logits in self.theta)

    def argmax_cost(self) -> float:
        """Average cost of the most probable space."""
        return float(self.cost.all()[self.argmax()])

    def after_epoch(self) -> dict:
        """What is logged."""
        if self.target is None:
            return {"temperature": self.tau}
        line = {"temperature": self.tau, "argmax_cost": self.argmax_cost(), "cost_weight": self.weight}
        return {**line, "probabilities": probabilities(list(self.theta))}

    def state_dict(self) -> dict:
        return {"theta": self.theta.state_dict(), "adam": self.adam.state_dict(), "cost_weight": self.weight}

    def load_state_dict(self, state: dict) -> None:
        self.theta.load_state_dict(state["theta"])
        self.adam.load_state_dict(state["adam"])
        self.weight = state["cost_weight"]


def theta_adam(theta: Iterable[Tensor], cfg: Config, steps: int) -> torch.optim.Adam:
    """What Θ is updated by in a search of so many steps."""
    lr = cfg.theta_lr if cfg.theta_lr is not None else 3e-4 * max(1.0, PAPER_STEPS / steps)
    return torch.optim.Adam(theta, lr, cfg.theta_betas, weight_decay=cfg.theta_decay)


def warmup_epochs(cfg: Config) -> int:
    """Epochs that train weights only."""
    return round(cfg.warmup * cfg.fit.epochs)


def describe(folder: RunFolder, target: float, unit: str, scale: float) -> str:
    """An elite space in one line.

    Args:
        unit: of costs, once they are multiplied by ``scale``.
    """
    space, result = folder.space(), folder.probabilities()
    genes = "  ".join(
        f"{gene.name} {gene.choices[open_[0]].count}–{gene.choices[open_[-1]].count}"
        for gene, open_ in zip(space.genes, space.allowed, strict=True)
    )
    networks = several(space.size, "network", form=count)
    return (
        f"{digits(scale * target, 4)} {unit}: {networks} of {digits(scale * result['cost'], 4)} {unit} on average "
        f"(the most probable space: {digits(scale * result['argmax_cost'], 4)}): {genes}"
    )


def write_elite(folder: RunFolder, search: Search, found: Space, target: float, chosen: list[int]) -> None:
    """The elite space, with the probabilities it was taken from as JSON and as a picture."""
    space, cost = search.model.space, float(search.cost.all()[tuple(chosen)])
    tables = [
        {
            "gene": gene.name,
            "ranges": [[gene.choices[i].count for i in range_] for range_ in options],
            "probabilities": p,
            "elite": i,
        }
        for gene, options, p, i in zip(
            space.genes, search.ranges, probabilities(list(search.theta)), chosen, strict=True
        )
    ]
    report = {"schema": SCHEMA, "space": {"name": space.name, "fingerprint": space.fingerprint}}
    report |= {"target": target, "cost": cost, "argmax_cost": search.argmax_cost(), "cost_weight": search.weight}
    folder.write_space(found)
    files.write_json(folder.probabilities_path, {**report, "genes": tables})
    title = f"{space.name}: {digits(cost, 4)} on average for a target of {digits(target, 4)}"
    plot(folder.probabilities_path.with_suffix(".png"), tables, title)
