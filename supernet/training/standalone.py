"""An architecture trained alone: what retraining, ranking and the experiments have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from supernet.data.sets import TrainVal
from supernet.model import Network, Supernet
from supernet.progress import Progress, silent
from supernet.space import Arch, Space
from supernet.training import checkpoint, distributed, evaluation
from supernet.training.loop import Drive, FitConfig, fit
from supernet.training.rules import Taught


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
        validate: called after each epoch; its numbers are logged. By default ``val_accuracy``, on the validation
            split.
        teacher: what it learns from besides the labels (``rules.Taught``).
        drive: as ``fit`` has it.

    Returns:
        The network, and the last line of its log: epoch, loss, accuracy, and what ``validate`` gave.
    """
    torch.manual_seed(cfg.seed)
    network = Network(space, arch, eps=eps, kernels=kernels).to(device)
    if supernet is not None:
        network.inherit(supernet)
    if start is not None:
        start(network)

    def val_accuracy(network: Network) -> dict:
        return {"val_accuracy": evaluation.validate(network, data.val, batch=cfg.validation_batch)}

    check = validate or val_accuracy
    meta = {"kind": "network", "space": space.to_json(), "arch": list(arch), "eps": eps}
    if cfg.epochs == 0:
        if distributed.rank() == 0:
            checkpoint.save(folder / "checkpoint.pt", {"model": network.state_dict(), "finished": True, "meta": meta})
        return network, check(network)
    log = fit(
        network,
        data.train,
        (lambda step: None) if teacher is None else Taught(network, teacher, cfg.label_smoothing),
        cfg,
        folder,
        meta=meta,
        validate=lambda: check(network),
        label=label,
        progress=progress,
        drive=drive,
    )
    return network, log[-1]
