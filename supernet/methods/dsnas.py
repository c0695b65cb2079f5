"""DSNAS: architecture and weights learnt together on one sampled path per step (Hu et al. 2020, Alg. 1).

A categorical distribution per layer is trained by score-function gradients whose cost is the gradient of a "dummy 1"
after each sampled operation. After the search the most probable child goes on with the weights it has: it is
deployed without retraining.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from supernet import files
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.methods.candidates import along, deciding
from supernet.methods.spos import recalibration_images, score
from supernet.model import Network, Supernet
from supernet.progress import Progress, silent
from supernet.quantities import digits
from supernet.space import Arch, Space
from supernet.training import checkpoint, distributed
from supernet.training.bn import recalibrate_bn
from supernet.training.evaluation import validate
from supernet.training.loop import Drive, FitConfig, Search, fit

# A layer that only feeds a convolution and BN has no influence on the loss through its scale: its credit vanishes as
# BN's eps does. The authors' code has 1e-2.
EPS = 1e-2


@dataclass(frozen=True)
class Budget:
    """A cost that adds up over layers, and the most that the child may have of it.

    ``table[i][j]`` (choice j of layer i) and ``base`` as ``Layout.priced`` gives them.
    """

    table: Sequence[Sequence[float]]
    base: float = 0.0
    limit: float = math.inf

    def cost(self, arch: Arch) -> float:
        """Of one architecture, in the unit of the table."""
        return math.fsum((self.base, *(row[i] for row, i in zip(self.table, arch, strict=True))))

    def leaves(self, allowed: Sequence[Sequence[int]]) -> bool:
        """Whether one of the architectures of these choices is within the limit."""
        cheapest = (min(open_, key=row.__getitem__) for row, open_ in zip(self.table, allowed, strict=True))
        return self.cost(tuple(cheapest)) <= self.limit


@dataclass(frozen=True)
class Config:
    """The paper: 240 epochs of SGD .5 cosine at batch 1024, of which the search takes 80; Adam 1e-3 (.5, .999)."""

    fit: FitConfig
    budget: Budget
    search_epochs: int
    weight_epochs: int = 0  # the first epochs of the search that train weights only
    arch_lr: float = 1e-3
    coefficient: float = 0.1  # of the budget's term, whose costs are shares of the limit
    stop_gap: float = 0.3  # between the two largest probabilities: then the layer is settled; above 1 is never
    kernels: Literal["fused", "eager"] = "fused"
    recalibration: tuple[int, int] = field(default=(8, 128))  # batches, images per batch, to score during the search

    def __post_init__(self) -> None:
        if not 0 <= self.weight_epochs < self.search_epochs <= self.fit.epochs:
            raise UserError(
                f"{self.weight_epochs} epochs of weights only, {self.search_epochs} of search, {self.fit.epochs} in "
                "all: expected 0 <= weights only < search <= all"
            )
        if not (0 <= self.arch_lr < math.inf and 0 <= self.coefficient < math.inf):
            raise UserError(f"arch lr {self.arch_lr:g}, coefficient {self.coefficient:g}: expected both at least 0")


class Parent(Supernet):
    """The parent network: a "dummy 1" after the feature map of each searched layer, or of each edge (Alg. 1).

    ``ones[i]`` is the scalar 1 of gene i; after a backward pass ``ones[i].grad`` is its credit C_i = ∂L/∂1 (eq. 6),
    summed where several cells have the gene. One that does not require grad costs nothing.
    """

    def __init__(self, space: Space, ones: Sequence[Tensor], *, eps: float = EPS, kernels: str = "fused"):
        super().__init__(space, affine=True, eps=eps, kernels=kernels)
        self.ones = list(ones)

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes]`` along the path ``arch``."""

        def credited(place: int, gene: int, operation: nn.Module, x: Tensor) -> Tensor:
            y, one = operation(x), self.ones[gene]
            return y * one if one.requires_grad else y

        return along(self.path(arch), deciding(self), x, credited)


class Distribution(Search):
    """p_α(Z): which operation each layer samples, learnt beside the weights (a ``loop.Search``).

    A layer settles where its two largest probabilities are far enough apart (progressive early stop, §3.5), and all
    do at the end of the search. The logits of a settled layer have no gradient, so Adam leaves them alone.

    Args:
        per_epoch: steps of an epoch.
    """

    def __init__(self, parent: Parent, cfg: Config, per_epoch: int):
        self.parent, self.cfg, self.per_epoch, self.epoch = parent, cfg, per_epoch, 0
        self.allowed = parent.space.allowed
        self.alpha = [nn.init.normal_(torch.empty(len(open_)), 1, 0.01).requires_grad_() for open_ in self.allowed]
        self.adam = torch.optim.Adam(self.alpha, lr=cfg.arch_lr, betas=(0.5, 0.999))
        self.credit, self.steps = torch.zeros(len(self.alpha)), 0  # Σ |C_i| over this epoch's steps
        self.settle([open_[0] if len(open_) == 1 else None for open_ in self.allowed])

    def settle(self, settled: list[int | None]) -> None:
        """Fix layers at a choice; None leaves a layer open."""
        self.settled = settled
        for one, choice in zip(self.parent.ones, settled, strict=True):
            one.requires_grad_(choice is None)

    def probabilities(self) -> list[np.ndarray]:
        """Per layer, of its open choices, in double."""
        return [torch.softmax(alpha.detach().double(), 0).numpy() for alpha in self.alpha]

    def sample(self, step: int) -> Arch:
        """Z ~ p_α: a function of the seed, the step and α, so all ranks draw the same path."""
        uniform = np.random.default_rng([self.cfg.fit.seed, step]).random(len(self.alpha))
        drawn = [
            open_[min(int(np.searchsorted(p.cumsum(), u, side="right")), len(open_) - 1)]
            for p, u, open_ in zip(self.probabilities(), uniform, self.allowed, strict=True)
        ]
        return tuple(z if choice is None else choice for z, choice in zip(drawn, self.settled, strict=True))

    def loss(self, arch: Arch, credit: dict[int, Tensor]) -> Tensor:
        """What α descends: its gradient is Σ_i ∂log p_i(Z_i)/∂α · C_i (eq. 5), and the budget's if Z breaks it.

        Z is an index here, so log p carries no gradient back into the credit.

        Args:
            credit: C_i of every layer i that is open; at least one.
        """
        budget = self.cfg.budget
        over, terms = budget.cost(arch) >= budget.limit, []
        for i, c in credit.items():
            log_p = torch.log_softmax(self.alpha[i], 0)[self.allowed[i].index(arch[i])]
            terms.append(log_p * c)
            if over:
                terms.append(self.cfg.coefficient * log_p.exp() * (budget.table[i][arch[i]] / budget.limit))
        return torch.stack(terms).sum()

    def update(self, step: int, scale: float = 1.0) -> None:
        """One Adam step on α, from the batch that the weights were just updated with; settles layers after an epoch."""
        cfg, (self.epoch, place) = self.cfg, divmod(step, self.per_epoch)
        if place == 0:
            self.credit, self.steps = torch.zeros(len(self.alpha)), 0
        if self.epoch >= cfg.search_epochs:
            return
        credit = self.collect(scale)
        if credit and self.epoch >= cfg.weight_epochs:
            self.adam.zero_grad(set_to_none=True)
            self.loss(self.sample(step), credit).backward()
            self.adam.step()
        if place == self.per_epoch - 1:
            if self.epoch == cfg.search_epochs - 1:
                self.settle(list(self.child()))
            elif self.epoch >= cfg.weight_epochs:
                self.settle(self.stopped())

    def collect(self, scale: float = 1.0) -> dict[int, Tensor]:
        """C_i of every open layer from the backward pass just done, averaged over the ranks as the loss is.

        None where fp16 has overflowed: then the weights made no step either.
        """
        live = [i for i, choice in enumerate(self.settled) if choice is None]
        if not live:
            return {}
        grads = (self.parent.ones[i].grad for i in live)
        credit = torch.stack([grad for grad in grads if grad is not None])  # every open layer has run
        distributed.average([credit])
        credit = credit.cpu() / scale
        for i in live:
            self.parent.ones[i].grad = None
        if self.precision.scaler and not credit.isfinite().all():
            return {}
        self.credit[live] += credit.abs()
        self.steps += 1
        return dict(zip(live, credit, strict=True))

    def stopped(self) -> list[int | None]:
        """The settled layers, and those whose gap has opened (eq. 8, on probabilities as the authors' code has it).

        Those with the widest gap come first. One stays open where nothing within the budget would be left.
        """
        settled, gaps = list(self.settled), {}
        for i, p in enumerate(self.probabilities()):
            if settled[i] is None:
                second, first = np.sort(p)[-2:]
                if first - second >= self.cfg.stop_gap:
                    gaps[i] = first - second, self.allowed[i][int(p.argmax())]
        for i, (_, choice) in sorted(gaps.items(), key=lambda gap: -gap[1][0]):
            settled[i] = choice
            if not self.cfg.budget.leaves(self.open(settled)):
                settled[i] = None
        return settled

    def open(self, settled: Sequence[int | None]) -> list[Sequence[int]]:
        """The choices that are left of each layer."""
        return [open_ if one is None else (one,) for open_, one in zip(self.allowed, settled, strict=True)]

    def child(self) -> Arch:
        """The most probable architecture within the budget, which has what is settled; the argmax of each layer if
        that is one.

        Raises:
            UserError: no architecture of the space keeps the budget; gives what it attains.
        """
        budget, probabilities = self.cfg.budget, self.probabilities()
        argmax = tuple(open_[int(p.argmax())] for p, open_ in zip(probabilities, self.allowed, strict=True))
        if budget.cost(argmax) <= budget.limit:
            return argmax
        left = self.open(self.settled)
        if not budget.leaves(left):  # before 0.2 layers settled whatever they cost
            left = list(self.allowed)
        shares = [
            p[[open_.index(j) for j in own]] for p, open_, own in zip(probabilities, self.allowed, left, strict=True)
        ]
        return most_probable(shares, left, budget)

    def after_epoch(self) -> dict:
        """Per layer the entropy of p_α (nats) and the epoch's mean |C_i| (None: settled); who is settled; E[cost]."""
        probabilities, budget = self.probabilities(), self.cfg.budget
        expected = budget.base
        for p, open_, row, choice in zip(probabilities, self.allowed, budget.table, self.settled, strict=True):
            expected += float(p @ [row[j] for j in open_]) if choice is None else row[choice]
        return {
            "entropy": [float(-(p * np.log(np.maximum(p, 1e-300))).sum()) for p in probabilities],
            "credit": [float(c) / self.steps if c > 0 else None for c in self.credit],
            "frozen": [i for i, choice in enumerate(self.settled) if choice is not None],
            "expected_cost": expected,
        }

    def state_dict(self) -> dict:
        return {
            "alpha": [alpha.detach() for alpha in self.alpha],
            "adam": self.adam.state_dict(),
            "settled": self.settled,
            "credit": self.credit,
            "steps": self.steps,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            for alpha, saved in zip(self.alpha, state["alpha"], strict=True):
                alpha.copy_(saved)
        self.adam.load_state_dict(state["adam"])
        self.credit, self.steps = state["credit"], state["steps"]
        self.epoch = state.get("epoch", self.epoch)  # version 0.1 did not keep it
        self.settle(list(state["settled"]))


def most_probable(probabilities: Sequence[np.ndarray], allowed: Sequence[Sequence[int]], budget: Budget) -> Arch:
    """argmax Σ_i log p_i(z_i) over architectures z with cost ≤ limit, exactly.

    Layer by layer; of the partial architectures only those stay that no other one beats in both cost and probability.

    Raises:
        UserError: there is none.
    """
    rest = math.fsum(min(row[j] for j in open_) for row, open_ in zip(budget.table, allowed, strict=True))
    front: list[tuple[float, float, Arch]] = [(budget.base, 0.0, ())]
    for p, open_, row in zip(probabilities, allowed, budget.table, strict=True):
        rest -= min(row[j] for j in open_)
        longer = sorted(
            (cost + row[j], surprise - math.log(max(q, 1e-300)), (*z, j))
            for cost, surprise, z in front
            for j, q in zip(open_, p, strict=True)
            if cost + row[j] + rest <= budget.limit * (1 + 1e-12)
        )
        front, least = [], math.inf
        for partial in longer:
            if partial[1] < least:
                front.append(partial)
                least = partial[1]
    if not front:
        rows = [[row[j] for j in open_] for row, open_ in zip(budget.table, allowed, strict=True)]
        low, high = (math.fsum((budget.base, *map(end, rows))) for end in (min, max))
        limit, lowest, highest = (digits(value, 6) for value in (budget.limit, low, high))
        raise UserError(f"no architecture costs at most {limit}: the space attains {lowest} to {highest}")
    return front[-1][2]


def run(
    space: Space,
    data: TrainVal,
    cfg: Config,
    folder: Path,
    device: torch.device,
    progress: Progress = silent,
    drive: Drive | None = None,
) -> Network:
    """Search, then train the child on, in ``folder``; or continue there. Returns the child.

    ``folder`` gets the parent's checkpoint, the child's in ``child/`` (for ``load_network``), and ``arch.json``.
    """
    torch.manual_seed(cfg.fit.seed)
    parent = Parent(space, [torch.ones((), device=device) for _ in space.genes], kernels=cfg.kernels).to(device)
    per_epoch = data.train.steps(cfg.fit.batch_size, drop_last=True)
    distribution = Distribution(parent, cfg, per_epoch)
    distribution.child()  # refuses a budget that nothing keeps
    recalibration = recalibration_images(data, *cfg.recalibration)

    def check() -> dict:
        child = distribution.child()
        if distribution.epoch < cfg.search_epochs:  # BN has seen many paths: its statistics are made anew for the child
            accuracy = score(parent, recalibration, data, child, cfg.fit.validation_batch)
        else:
            accuracy = validate(parent, data.val, child, cfg.fit.validation_batch)
        return {"val_accuracy": accuracy, "val_images": len(data.val), "arch": list(child)}

    log = fit(
        parent,
        data.train,
        distribution.sample,
        cfg.fit,
        folder,
        meta={
            "kind": "supernet",
            "method": "dsnas",
            "space": space.to_json(),
            "kernels": cfg.kernels,
            "affine": True,
            "eps": EPS,
            "config": asdict(cfg),
        },
        search=distribution,
        validate=check,
        label="DSNAS",
        progress=progress,
        drive=drive,
    )
    arch = distribution.child()
    if cfg.search_epochs == cfg.fit.epochs:  # no epoch of its own: BN has seen many paths
        recalibrate_bn(parent, recalibration, arch)
    child = parent.extract(arch)
    if distributed.rank() == 0:
        state = {"model": child.state_dict(), "finished": True, "meta": network_meta(space, arch)}
        checkpoint.save(folder / "child" / "checkpoint.pt", state)
        result = {"arch": list(arch), "layers": space.describe(arch), "cost": cfg.budget.cost(arch)}
        judged = {name: value for name, value in log[-1].items() if name.startswith("val_")}
        files.write_json(folder / "arch.json", {**result, **judged})
    return child


def retrain(
    space: Space,
    data: TrainVal,
    arch: Arch,
    cfg: Config,
    folder: Path,
    device: torch.device,
    progress: Progress = silent,
    drive: Drive | None = None,
) -> float:
    """Train ``arch`` alone and from scratch, as long as the whole run was. Returns its validation accuracy."""
    torch.manual_seed(cfg.fit.seed)
    network = Network(space, arch, eps=EPS, kernels=cfg.kernels).to(device)

    log = fit(
        network,
        data.train,
        lambda step: None,
        cfg.fit,
        folder,
        meta=network_meta(space, arch),
        validate=lambda: {"val_accuracy": validate(network, data.val, batch=cfg.fit.validation_batch)},
        label="retrain",
        progress=progress,
        drive=drive,
    )
    return log[-1]["val_accuracy"]


def network_meta(space: Space, arch: Arch) -> dict:
    """What ``load_network`` needs to rebuild the child."""
    return {"kind": "network", "space": space.to_json(), "arch": list(arch), "eps": EPS}
