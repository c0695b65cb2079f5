"""Rules of training: which paths the weights of a step learn on, and from what.

The paths of a step run one after the other on the same images; their gradients add up to one update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.extremes import largest, smallest
from supernet.model import Supernet, run_path
from supernet.space import Arch, Space
from supernet.training import distributed
from supernet.training.distillation import adaptive_alpha_divergence, kl_divergence
from supernet.training.fake_int8 import exact
from supernet.training.paths import Candidates
from supernet.training.precision import whole

Parts = Sequence[tuple[Tensor, Tensor]]  # this process's images and labels of a step
Forward = Callable[[int, Tensor, Tensor], Tensor]  # step, images, labels -> logits
Draw = Callable[[int], Sequence[Arch | Candidates]]  # the paths of a step
Distil = Literal["none", "inplace", "alpha", "teacher"]


class Rule:
    """One path for each step, on the labels.

    Args:
        forward: the logits, in place of ``model(images, path)``.

    Attributes:
        weights: of the classes in the loss by labels, float32 [classes], 1 on average over the images; None: all 1. The
            training sets them.
    """

    weights: Tensor | None = None

    def __init__(
        self,
        model: nn.Module,
        pick: Callable[[int], Arch | None],
        smoothing: float = 0.0,
        forward: Forward | None = None,
    ):
        self.model, self.pick, self.smoothing, self.forward = model, pick, smoothing, forward

    def paths(self, step: int, parts: Parts) -> Sequence[Arch | None]:
        """The paths of a step in their order; the same number in each step and the same paths on each rank."""
        return [self.pick(step)]

    def learn(self, step: int, place: int, arch: Arch | None, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[B, classes]`` on the path at ``place`` of a step's paths, and the loss that it learns by."""
        logits = self.forward(step, x, y) if self.forward else self.model(x, arch)
        return logits, self.loss(logits, y)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy with the labels ``[B]``, weighted by their classes, or with shares of them ``[B, classes]``."""
        if self.weights is None:
            return F.cross_entropy(whole(logits), y, label_smoothing=self.smoothing)
        each = F.cross_entropy(whole(logits), y, label_smoothing=self.smoothing, reduction="none")
        return (each * self.weights[y]).mean()  # not divided by the batch's weights, so that parts of a batch add up


class Taught(Rule):
    """One network, on the labels and on the predictions of a teacher, half each (Hinton et al. 2015, temperature 1).

    Args:
        teacher: in eval mode; its weights do not change.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, smoothing: float = 0.0, forward: Forward | None = None):
        super().__init__(model, lambda step: None, smoothing, forward)
        self.teacher = teacher

    def learn(self, step: int, place: int, arch: Arch | None, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), exact():
            soft = self.teacher(x)
        logits, loss = super().learn(step, place, arch, x, y)
        return logits, (loss + kl_divergence(logits, soft)) / 2


class Together(Rule):
    """Several paths in each step. The largest network may lead: on the labels, the others then by its soft targets.

    In the sandwich rule (BigNAS, Yu et al. 2020, §3.1) and wherever there is distillation it does, and dropout and
    drop-path run in it alone. The soft targets are its logits of the same step, without gradient; or those of a teacher
    whose weights do not change.

    Args:
        draw: the paths of each step; of ``Candidates`` the one with the smallest loss on the step's images is taken.
        leads: train the largest network first.
        distil: what the others learn by: the labels, or a divergence from the predictions of the largest network or of
            the ``teacher``.
        worst: of candidates the one with the largest loss instead (AttentiveNAS's WorstUp).
        drop_path: probability that the last block of the largest network is left out; it grows from 0.

    Raises:
        UserError: the largest network is to lead, and the space has none.
    """

    def __init__(
        self,
        model: Supernet,
        draw: Draw,
        *,
        leads: bool = False,
        distil: Distil = "none",
        worst: bool = False,
        smoothing: float = 0.0,
        drop_path: float = 0.0,
        teacher: nn.Module | None = None,
    ):
        super().__init__(model, lambda step: None, smoothing)
        self.model: Supernet
        self.draw, self.distil, self.worst, self.teacher = draw, distil, worst, teacher
        self.largest = largest(model.space) if leads or distil in ("inplace", "alpha") else None
        self.drop_path, self.soft = drop_path, torch.empty(0)
        self.dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]

    def paths(self, step: int, parts: Parts) -> list[Arch]:
        chosen = [self._chosen(drawn, parts) if isinstance(drawn, Candidates) else drawn for drawn in self.draw(step)]
        return chosen if self.largest is None else [self.largest, *chosen]

    def learn(self, step: int, place: int, arch: Arch | None, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert arch is not None
        if self.teacher is not None and place == 0:
            with torch.no_grad():
                self.soft = self.teacher(x)
        if self.largest is not None and place == 0:
            logits = run_path(self.model.path(arch), x, self.drop_path)
            if self.teacher is None:
                self.soft = logits.detach()
        else:
            logits = self._undropped(x, arch)
            if self.distil != "none":
                diverges = adaptive_alpha_divergence if self.distil == "alpha" else kl_divergence
                return logits, diverges(logits, self.soft)
        return logits, self.loss(logits, y)

    def _undropped(self, x: Tensor, arch: Arch) -> Tensor:
        """Logits without dropout, where the largest network alone has it."""
        if self.largest is None:
            return self.model(x, arch)
        before = [module.training for module in self.dropouts]
        try:
            for module in self.dropouts:
                module.eval()
            return self.model(x, arch)
        finally:
            for module, training in zip(self.dropouts, before, strict=True):
                module.train(training)

    @torch.no_grad()
    def _chosen(self, candidates: Candidates, parts: Parts) -> Arch:
        """The candidate to be trained, by the loss over the images of all ranks (AttentiveNAS, §3.2)."""
        device = parts[0][0].device
        losses = [
            sum(float(F.cross_entropy(whole(self._undropped(x, arch)), y, reduction="sum")) for x, y in parts)
            for arch in candidates.arches
        ]
        losses = distributed.total(*losses, device=device)
        wanted = max(losses) if self.worst else min(losses)
        return candidates.arches[losses.index(wanted)]


def sandwich(space: Space, paths: Callable[[int], Arch | Candidates], k: int = 2) -> Draw:
    """What follows the largest network in a step of the sandwich rule: ``k`` drawn paths and the smallest network."""
    least = smallest(space)
    return lambda step: [*(paths(k * step + i) for i in range(k)), least]
