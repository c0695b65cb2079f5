"""An architecture trained alone: what retraining, ranking and the experiments have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.families.resolutions import resized
from supernet.model import Network, Supernet
from supernet.progress import Progress, silent
from supernet.quantities import several
from supernet.size import Size
from supernet.space import Arch, Space
from supernet.training import checkpoint, distributed, drop_path, evaluation
from supernet.training.average import MovingAverage
from supernet.training.fake_int8 import faking
from supernet.training.loop import Drive, FitConfig, fit, require_steps
from supernet.training.rules import Forward, Rule, Taught


@dataclass(frozen=True)
class AloneConfig(FitConfig):
    """How a network alone is trained."""

    ema: float = 0.0  # decay of the weights' moving average, which is what is kept; 0 is off
    drop_path: float = 0.0  # of the last block
    train_resolution: int = 0  # height of the images of all but the last epochs, below that of the run; 0: the run's
    finetune_epochs: int = 0  # the last ones

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ema < 1 or not 0 <= self.drop_path < 1:
            raise UserError(f"ema {self.ema:g}, drop path {self.drop_path:g}: expected numbers from 0 to below 1")
        if self.finetune_epochs and not self.train_resolution:
            resolution = "a smaller training resolution before"
            needing = f"fine-tuning epoch needs {resolution} it", f"fine-tuning epochs need {resolution} them"
            raise UserError(several(self.finetune_epochs, *needing))
        if self.train_resolution and not 0 < self.finetune_epochs < self.epochs:
            given, whole = several(self.finetune_epochs, "fine-tuning epoch"), several(self.epochs, "epoch")
            raise UserError(f"{given} in {whole}: expected 1 or more, and some before them")


def train(
    space: Space,
    arch: Arch,
    data: TrainVal,
    cfg: FitConfig,
    folder: Path,
    device: torch.device,
    *,
    kernels: str,
    supernet: Supernet | None = None,
    start: Callable[[Network], None] | None = None,
    eps: float = 1e-5,
    label: str = "training",
    progress: Progress = silent,
    validate: Callable[[Network], dict] | None = None,
    teacher: nn.Module | None = None,
    drive: Drive | None = None,
) -> tuple[Network, dict]:
    """Train ``arch`` alone in ``folder``, or continue there.

    Args:
        cfg: with 0 epochs the weights of ``supernet`` stay as they are.
        supernet: start from its weights instead of from scratch.
        start: called with the fresh network, to give it weights from elsewhere.
        eps: of the BN layers.
        validate: called after each epoch; its numbers are logged. By default every metric on the validation split, as
            ``Answers.result`` has them.
        teacher: what it learns from besides the labels (``rules.Taught``).
        drive: as ``fit`` has it.

    Returns:
        The network, and the last line of its log: epoch, loss, accuracy, and what ``validate`` gave.
    """
    torch.manual_seed(cfg.seed)
    how = cfg if isinstance(cfg, AloneConfig) else AloneConfig(**vars(cfg))
    if space.model and how.drop_path:
        kernels = "eager"  # our operators run over the places where a given network drops
    network = Network(space, arch, eps=eps, kernels=kernels).to(device)
    if supernet is not None:
        network.inherit(supernet)
    if start is not None:
        start(network)

    def result(network: Network) -> dict:
        return evaluation.shared_answers(network, data.val, batch=cfg.validation_batch).result("val")

    check = validate or result
    meta = {"kind": "network", "space": space.to_json(), "arch": list(arch), "eps": eps}
    if cfg.epochs == 0:
        if distributed.rank() == 0:
            checkpoint.save(folder / "checkpoint.pt", {"model": network.state_dict(), "finished": True, "meta": meta})
        return network, check(network)
    average = MovingAverage(network, how.ema, statistics=True) if how.ema else None
    forward = _first_smaller(network, how, data)

    def judged() -> dict:
        with average.applied() if average else contextlib.nullcontext(), faking(how.qat):
            return check(network)

    with drop_path.dropping(network, how.drop_path):
        log = fit(
            network,
            data.train,
            Taught(network, teacher, cfg.label_smoothing, forward)
            if teacher
            else Rule(network, lambda step: None, cfg.label_smoothing, forward),
            how,
            folder,
            meta=meta,
            search=average,
            validate=judged,
            label=label,
            progress=progress,
            drive=drive,
        )
    if average:
        average.copy(average.averages)
    return network, log[-1]


def require(space: Space, arch: Arch, cfg: AloneConfig) -> None:
    """A UserError where a network cannot be trained so: it has nothing to drop, or takes no smaller images."""
    if not (cfg.drop_path or cfg.train_resolution):
        return
    network = Network(space, arch, kernels="eager").eval()
    if cfg.drop_path:
        drop_path.require(network)
    if not cfg.train_resolution:
        return
    size = space.input_size
    if cfg.train_resolution >= size.height:
        raise UserError(f"training resolution {cfg.train_resolution}: expected one below the run's, {size.plain}")
    if network.size is not None:
        raise UserError(f"{space.name} has a gene for the resolution: a network's own is that of all its epochs")
    try:
        with torch.no_grad():
            network(torch.zeros(1, space.channels, *_smaller(size, cfg.train_resolution)))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"training resolution {cfg.train_resolution}: {space.name} does not take it ({reason})"
        ) from error


def _smaller(size: Size, height: int) -> Size:
    return Size(height, max(1, round(height * size.width / size.height)))


def _first_smaller(network: Network, cfg: AloneConfig, data: TrainVal) -> Forward | None:
    """The logits of a step, by smaller images before the fine-tuning (Touvron et al. 2019)."""
    if not cfg.train_resolution:
        return None
    until = (cfg.epochs - cfg.finetune_epochs) * require_steps(data.train, cfg)
    size = _smaller(network.space.input_size, cfg.train_resolution)

    def forward(step: int, x: Tensor, y: Tensor) -> Tensor:
        return network(resized(x, size) if step < until else x)

    return forward
