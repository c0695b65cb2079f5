"""ProxylessNAS: binary gates, learnt on two paths at a time (Cai et al. 2019, §3.2). A baseline of DSNAS.

Weights and gates take turns, each with images of their own: a step of the weights runs one sampled path, a step of the
gates two candidates in each layer. The most probable network is then to be trained from scratch.
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
from torch.nn import functional as F

from supernet import files, ops
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.methods.candidates import along, deciding, operations
from supernet.methods.dsnas import Budget
from supernet.methods.spos import recalibration_images, score
from supernet.model import Supernet
from supernet.progress import Progress, silent
from supernet.space import Arch, Space
from supernet.training import distributed
from supernet.training.batches import Batches
from supernet.training.loop import Drive, FitConfig, Search, fit

GATES = 1  # in the key of a draw, besides the seed and the step


@dataclass(frozen=True)
class Config:
    """The authors': Adam 1e-3 (0, .999) for the gates; weights alone first; a term of the expected cost."""

    fit: FitConfig
    budget: Budget  # its limit is the unit of the expected cost; nothing is refused by it
    weight_epochs: int = 0  # the first epochs, which train weights only, on uniform paths
    arch_lr: float = 1e-3
    cost_weight: float = 0.1  # λ of E[cost] / limit (their eq. 8)
    gate_share: float = 0.2  # of the training images, for the gates
    kernels: Literal["fused", "eager"] = "fused"
    recalibration: tuple[int, int] = field(default=(8, 128))  # batches, images per batch, to score

    def __post_init__(self) -> None:
        if not 0 <= self.weight_epochs < self.fit.epochs or not 0 < self.gate_share < 1:
            raise UserError(
                f"{self.weight_epochs} of {self.fit.epochs} epochs for weights only, a share of {self.gate_share:g} of "
                "the images for the gates: expected fewer than all, and a share between 0 and 1"
            )
        if not (0 <= self.arch_lr < math.inf and 0 <= self.cost_weight < math.inf):
            raise UserError(f"arch lr {self.arch_lr:g}, cost weight {self.cost_weight:g}: expected both at least 0")


def forward(
    model: Supernet, x: Tensor, pairs: Sequence[tuple[int, int]], gates: Sequence[Tensor], detached: bool = True
) -> Tensor:
    """Logits ``[B, classes]`` with two candidates for each gene, of which the first is the one that counts.

    Args:
        pairs: by gene, two places among its open choices.
        gates: by gene ``[1, 0]``; a gate's gradient is that of the loss by the output of its candidate, times this.
        detached: keep nothing of the second one's forward pass, as the authors' code; its weights get no gradient.
    """
    candidates = operations(model)

    def gated(place: int, gene: int, _: nn.Module, x: Tensor) -> Tensor:
        first, second = (candidates[place][k] for k in pairs[gene])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detached):
            other = second(x)
        return ops.depth_mix([first(x), other], gates[gene])

    return along(model.path(tuple(open_[0] for open_ in model.space.allowed)), deciding(model), x, gated)


def gate_loss(alpha: Tensor, pair: tuple[int, int], gradient: Tensor, costs: Tensor) -> Tensor:
    """What the logits of a gene descend: ∂L/∂α_i = Σ_j ∂L/∂g_j · p_j (δ_ij − p_i) over the pair (their eq. 4).

    Args:
        alpha: logits of the open choices.
        gradient: ∂L/∂g of the two. costs: λ · cost / limit of the two.
    """
    return torch.softmax(alpha[list(pair)], 0) @ (gradient + costs)


class Gates(Search):
    """p(g): which operation each layer samples, learnt on images of its own (a ``loop.Search``).

    Every draw is a function of the seed, the step and α.

    Args:
        images: of the gates.
        per_epoch: steps of an epoch of the weights.
    """

    def __init__(self, model: Supernet, cfg: Config, images: ImageSet, per_epoch: int):
        self.model, self.cfg, self.batches, self.per_epoch = model, cfg, Batches(images, cfg.fit), per_epoch
        self.device = next(model.parameters()).device
        self.allowed = model.space.allowed
        self.alpha = [torch.zeros(len(open_), requires_grad=True) for open_ in self.allowed]
        self.adam = torch.optim.Adam(self.alpha, cfg.arch_lr, (0.0, 0.999))

    def probabilities(self) -> list[np.ndarray]:
        """By gene, of its open choices, in double."""
        return [torch.softmax(alpha.detach().double(), 0).numpy() for alpha in self.alpha]

    def sample(self, step: int) -> Arch:
        """The path of the weights."""
        rng = np.random.default_rng([self.cfg.fit.seed, step])
        pairs = zip(self.probabilities(), self.allowed, strict=True)
        return tuple(open_[int(rng.choice(len(p), p=p))] for p, open_ in pairs)

    def pairs(self, step: int) -> list[tuple[int, int]]:
        """By gene, two of its open choices without replacement, the first by their renormalised probabilities.

        A gene of one choice has it twice.
        """
        rng = np.random.default_rng([self.cfg.fit.seed, step, GATES])
        found = []
        for p in self.probabilities():
            two = rng.choice(len(p), 2, replace=False, p=p) if len(p) > 1 else np.zeros(2, int)
            if len(p) > 1 and rng.random() >= p[two[0]] / p[two].sum():
                two = two[::-1]
            found.append((int(two[0]), int(two[1])))
        return found

    def before_step(self, step: int) -> None:
        """One step of the gates, once the weights have had theirs alone."""
        if step < self.cfg.weight_epochs * self.per_epoch:
            return
        x, y = (tensor.to(self.device) for tensor in self.batches.at(step))
        pairs = self.pairs(step)
        gates = [torch.tensor([1.0, 0.0], device=self.device, requires_grad=True) for _ in pairs]
        with self.precision.autocast_unscaled():
            loss = F.cross_entropy(forward(self.model, x, pairs, gates).float(), y)
        gradients = [gradient.cpu() for gradient in torch.autograd.grad(loss, gates)]
        distributed.average(gradients)
        self.learn(pairs, gradients)

    def learn(self, pairs: Sequence[tuple[int, int]], gradients: Sequence[Tensor]) -> None:
        """One step of Adam on the logits of each pair; the probabilities of the others stay as they are."""
        budget, open_genes = self.cfg.budget, [i for i, open_ in enumerate(self.allowed) if len(open_) > 1]
        before = [alpha.detach().clone() for alpha in self.alpha]
        self.adam.zero_grad(set_to_none=True)
        losses = []
        for i in open_genes:
            row = torch.tensor([budget.table[i][self.allowed[i][k]] for k in pairs[i]])
            losses.append(gate_loss(self.alpha[i], pairs[i], gradients[i], self.cfg.cost_weight * row / budget.limit))
        torch.stack(losses).sum().backward()
        self.adam.step()
        with torch.no_grad():
            for i in open_genes:
                two = list(pairs[i])
                moved, old = self.alpha[i][two], before[i][two]
                self.alpha[i].copy_(before[i])
                self.alpha[i][two] = moved + (torch.logsumexp(old, 0) - torch.logsumexp(moved, 0))

    def child(self) -> Arch:
        """The most probable architecture."""
        pairs = zip(self.probabilities(), self.allowed, strict=True)
        return tuple(open_[int(p.argmax())] for p, open_ in pairs)

    def after_epoch(self) -> dict:
        """Per gene the entropy of its distribution (nats)."""
        return {"entropy": [float(-(p * np.log(np.maximum(p, 1e-300))).sum()) for p in self.probabilities()]}

    def state_dict(self) -> dict:
        return {"alpha": [alpha.detach() for alpha in self.alpha], "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            for alpha, saved in zip(self.alpha, state["alpha"], strict=True):
                alpha.copy_(saved)
        self.adam.load_state_dict(state["adam"])


def run(
    space: Space,
    data: TrainVal,
    cfg: Config,
    folder: Path,
    device: torch.device,
    progress: Progress = silent,
    drive: Drive | None = None,
) -> tuple[Arch, float]:
    """Search in ``folder``, or continue there. Returns the architecture and its one-shot accuracy, as ``arch.json``."""
    torch.manual_seed(cfg.fit.seed)
    gate_images = data.train.subset(round(cfg.gate_share * len(data.train)), cfg.fit.seed)
    gate_images.steps(cfg.fit.batch_size, drop_last=True)  # refuses fewer than a batch
    images = data.train.take(np.flatnonzero(~np.isin(data.train.index, gate_images.index)))
    model = Supernet(space, affine=True, kernels=cfg.kernels).to(device)
    gates = Gates(model, cfg, gate_images, images.steps(cfg.fit.batch_size, drop_last=True))
    recalibration = recalibration_images(data, *cfg.recalibration)

    def check() -> dict:
        accuracy = score(model, recalibration, data, gates.child(), cfg.fit.validation_batch)
        return {"val_accuracy": accuracy, "val_images": len(data.val), "arch": list(gates.child())}

    meta = {"kind": "supernet", "method": "proxyless", "space": space.to_json(), "affine": True}
    log = fit(
        model,
        images,
        gates.sample,
        cfg.fit,
        folder,
        meta={**meta, "kernels": cfg.kernels, "config": asdict(cfg)},
        search=gates,
        validate=check,
        label="ProxylessNAS",
        progress=progress,
        drive=drive,
    )
    if distributed.rank() == 0:
        files.write_json(folder / "arch.json", {"arch": log[-1]["arch"], "val_accuracy": log[-1]["val_accuracy"]})
    return tuple(log[-1]["arch"]), log[-1]["val_accuracy"]
