"""OFA: progressive shrinking of an elastic supernet (once-for-all, Cai et al. 2020, §3.3).

First the largest network is trained, then smaller kernels, depths and expansions join it, phase after phase, each by
several random paths a step that learn from the labels and from the largest network as it was after its own phase.
Before smaller expansions join, the channels are sorted by importance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from supernet import families, files, shape
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.extremes import largest
from supernet.families import elastic
from supernet.families.elastic_sorting import sort_channels
from supernet.methods import spos
from supernet.model import Network, Supernet
from supernet.progress import Progress, silent
from supernet.quantities import several
from supernet.runs import RunFolder
from supernet.space import Arch, Gene, Space
from supernet.training.config import FitConfig
from supernet.training.distillation import kl_divergence
from supernet.training.loop import Drive, fit
from supernet.training.paths import MOST, uniform_path
from supernet.training.rules import Parts, Rule

KINDS = ("resolution", "width", "kernel", "depth", "expand")  # of genes
PHASE = {"name": str, "epochs": shape.POSITIVE, "lr?": shape.Number(0), "paths?": shape.Number(1, MOST, whole=True)}
FILE = {"phases": [{**PHASE, "open?": {str: shape.POSITIVE}}]}


@dataclass(frozen=True)
class Phase:
    """A part of the training.

    Args:
        open: kinds of genes by how many of their largest choices are open from now on. A kind that no phase names is
            open from the beginning, one that a later phase names is at its largest until then.
        lr: peak learning rate. paths: random ones in each step.
    """

    name: str
    epochs: int
    lr: float
    paths: int = 1
    open: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """What ``run`` takes besides space and images. ``fit`` has what all phases share."""

    fit: FitConfig
    phases: tuple[Phase, ...] = ()  # none: ``default_phases``
    kernels: Literal["fused", "eager"] = "fused"
    sort: bool = True  # the channels, before smaller expansions open
    ratio: float = 1.0  # weight of the loss against the largest network
    probes: int = 4
    recalibration: tuple[int, int] = (8, 128)  # batches, images per batch

    def __post_init__(self) -> None:
        self.settings(self.phases)  # before the first phase trains, not when its own turn comes

    def settings(self, phases: Sequence[Phase]) -> list[FitConfig]:
        """How each phase trains; a UserError names the one that cannot."""
        found = []
        for number, phase in enumerate(phases):
            try:
                found.append(
                    dataclasses.replace(self.fit, epochs=phase.epochs, lr=phase.lr, seed=self.fit.seed + number)
                )
            except UserError as error:
                raise error.of(f"phase {phase.name}") from error
        return found


def default_phases(epochs: int, lr: float) -> tuple[Phase, ...]:
    """Once-for-all's phases in so many epochs, at least one for each.

    Their shares are those of its code: 180 epochs for the largest network, 120 for kernels, 25 + 120 for depths,
    25 + 120 for expansions, with 1, 2 and 4 paths a step; as rates it has 3e-2 for kernels, 2.5e-3 and 7.5e-3 for the
    others. Here ``lr`` is that of the largest network, and 3e-2 stands for a third of it.

    Raises:
        UserError: fewer epochs than phases.
    """
    parts = [
        ("largest", 180, 1.0, 1, {}),
        ("kernel", 120, 1 / 3, 1, {"kernel": 99}),
        ("depth1", 25, 1 / 36, 2, {"depth": 2}),
        ("depth2", 120, 1 / 12, 2, {"depth": 99}),
        ("expand1", 25, 1 / 36, 4, {"expand": 2}),
        ("expand2", 120, 1 / 12, 4, {"expand": 99}),
    ]
    if epochs < len(parts):
        raise UserError(
            f"{several(epochs, 'epoch')}: expected at least {len(parts)}, one for each phase of progressive shrinking"
        )
    shares = np.array([part[1] for part in parts], float)
    counts = 1 + np.floor(shares / shares.sum() * (epochs - len(parts))).astype(int)
    counts[0] += epochs - counts.sum()
    return tuple(
        Phase(name, int(count), lr * factor, paths, dict(opened))
        for (name, _, factor, paths, opened), count in zip(parts, counts, strict=True)
    )


def read_phases(path: Path, lr: float) -> tuple[Phase, ...]:
    """The phases in a JSON file: ``{"phases": [{"name": …, "epochs": …, "lr": …, "paths": …, "open": {…}}, …]}``.

    Args:
        lr: of phases that do not say theirs.

    Raises:
        UserError: no such file, or it does not hold phases.
    """
    found = files.read_json(path, "file of phases", expected=FILE, damaged="phases")["phases"]
    known = {field.name for field in dataclasses.fields(Phase)}
    for phase in found:
        if unknown := sorted(phase.keys() - known):
            raise UserError(
                f"{path}: phase {phase['name']} has {', '.join(unknown)}: expected {', '.join(sorted(known))}"
            )
    phases = tuple(Phase(**{"lr": lr, **phase}) for phase in found)
    for phase in phases:
        if unknown := sorted(phase.open.keys() - set(KINDS)):
            raise UserError(f"{path}: phase {phase.name} opens {', '.join(unknown)}: expected {', '.join(KINDS)}")
        if not phase.name.isidentifier():
            raise UserError(f"{path}: phase {phase.name!r}: expected a name of letters and digits")
    if not phases or len({phase.name for phase in phases}) < len(phases):
        raise UserError(f"{path}: expected one phase at least, each of another name")
    return phases


def kind(gene: Gene) -> str:
    """One of ``KINDS``, or ``head``."""
    op = gene.choices[0].op
    if op.startswith("expand"):
        return "expand"
    return "depth" if op in elastic.KINDS else op if op in KINDS else "head"


def spaces(space: Space, phases: Sequence[Phase]) -> list[Space]:
    """What is open in each phase.

    Raises:
        UserError: the space is not elastic, or the last phase leaves some of it closed.
    """
    if families.of(space) is not elastic.FAMILY:
        raise UserError(f"space {space.name} is not elastic: progressive shrinking opens smaller sizes of one network")
    count = dict.fromkeys({name for phase in phases for name in phase.open}, 1)
    opened = []
    for phase in phases:
        count |= phase.open
        allowed = [
            open_[-count.get(kind(gene), len(open_)) :] for gene, open_ in zip(space.genes, space.allowed, strict=True)
        ]
        opened.append(space.restrict(allowed))
    if opened[-1].allowed != space.allowed:
        closed = {
            kind(gene)
            for gene, now, all_ in zip(space.genes, opened[-1].allowed, space.allowed, strict=True)
            if now != all_
        }
        raise UserError(
            f"the last phase leaves choices of {', '.join(sorted(closed))} closed: open them or narrow the space"
        )
    return opened


class Taught(Rule):
    """Random paths on the labels and on the predictions of a teacher, by KL divergence times ``ratio``.

    Args:
        teacher: a network whose weights do not change; None: labels only. It normalises by the batch, as the paths do.
    """

    def __init__(
        self, model: Supernet, space: Space, cfg: FitConfig, paths: int, teacher: Network | None, ratio: float
    ):
        super().__init__(model, lambda step: None, cfg.label_smoothing)
        self.draw, self.count, self.teacher, self.ratio = uniform_path(space, cfg.seed), paths, teacher, ratio
        self.taught = torch.empty(0)

    def paths(self, step: int, parts: Parts) -> Sequence[Arch]:
        return [self.draw(self.count * step + i) for i in range(self.count)]

    def learn(self, step: int, place: int, arch: Arch | None, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(x, arch)
        loss = self.loss(logits, y)
        if self.teacher is not None:
            if place == 0:
                with torch.no_grad():
                    self.taught = self.teacher(x)
            loss = loss + self.ratio * kl_divergence(logits, self.taught)
        return logits, loss


def run(
    space: Space,
    data: TrainVal,
    cfg: Config,
    folder: Path,
    device: torch.device,
    progress: Progress = silent,
    drive: Drive | None = None,
) -> Supernet:
    """Train the supernet of an elastic space phase by phase, the last one in ``folder``, or continue there.

    Args:
        drive: as ``fit`` has it.

    Raises:
        UserError: as ``spaces`` has it.
    """
    phases = cfg.phases or default_phases(cfg.fit.epochs, cfg.fit.lr)
    opened = spaces(space, phases)
    torch.manual_seed(cfg.fit.seed)
    model = Supernet(space, affine=True, kernels=cfg.kernels).to(device)
    teacher: Network | None = None
    own = RunFolder(folder)
    probes = spos.Probes(space, data, cfg.fit, cfg.probes, cfg.recalibration)
    meta = {**spos.meta(space, cfg.kernels), "method": "ofa", "config": asdict(cfg)}
    for number, (phase, now, settings) in enumerate(zip(phases, opened, cfg.settings(phases), strict=True)):
        last = number == len(phases) - 1
        if cfg.sort and number and _expands(opened[number - 1]) < _expands(now):
            sort_channels(model, kept=opened[number - 1])
        fit(
            model,
            data.train,
            Taught(model, now, settings, phase.paths, teacher, cfg.ratio),
            settings,
            folder if last else own.network(f"phases/{phase.name}").path,
            meta={**meta, "phase": phase.name},
            validate=probes.of(model) if last else dict,
            label=phase.name,
            progress=progress,
            drive=drive,
        )
        if teacher is None and not last:
            teacher = model.extract(largest(space), kernels=cfg.kernels).train()
            for module in teacher.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()
    return model


def _expands(space: Space) -> int:
    return sum(len(open_) for gene, open_ in zip(space.genes, space.allowed, strict=True) if kind(gene) == "expand")
