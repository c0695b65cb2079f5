"""Trains what Stage-Wise NAS asks for, measures the importance of its stages, and lets the candidates vote."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from search.importance import importance
from search.stage_wise import Proposal, StageWise
from supernet import donors, families, files
from supernet.data.sets import TrainVal
from supernet.families import module_stages
from supernet.model import Network
from supernet.progress import Progress, silent
from supernet.space import Space
from supernet.training import standalone
from supernet.training.evaluation import Batches
from supernet.training.loop import FitConfig

Meter = Callable[[], AbstractContextManager[dict]]  # what a training spends is in the dict once the context is left


@dataclass(frozen=True)
class Training:
    """How a network is trained and its stages are judged."""

    fit: FitConfig
    further_epochs: int = 0  # for candidates (the paper: 100)
    criterion: str = "pls"  # a name in importance.CRITERIA
    images: int | None = None  # training images that importance is measured on; all that memory has room for
    kernels: str = "fused"


def run(
    search: StageWise,
    space: Space,
    data: TrainVal,
    cfg: Training,
    folder: Path,
    device: torch.device,
    *,
    donor: Network | None = None,
    meter: Meter = lambda: contextlib.nullcontext({}),
    progress: Progress = silent,
) -> Iterator[dict]:
    """Run Algorithm 1 in ``folder``, or continue there: no network is trained twice.

    Args:
        donor: networks begin with its weights.

    Yields:
        The result of each network, see ``train``, those of earlier runs too.
    """
    path, how = folder / "search.json", {"donor": donor, "meter": meter, "progress": progress}
    if path.exists():
        search.replay(files.read_json(path, "search", "run the same command again"), str(path))
        for record in search.records:
            yield train(record.network, space, data, cfg, folder, device, **how)
    while (asked := search.ask()) is not None:
        result = train(asked, space, data, cfg, folder, device, **how)
        search.tell(asked, result["importance"])
        files.write_json(path, search.state())
        yield result


def train(
    asked: Proposal,
    space: Space,
    data: TrainVal,
    cfg: Training,
    folder: Path,
    device: torch.device,
    *,
    donor: Network | None = None,
    meter: Meter = lambda: contextlib.nullcontext({}),
    progress: Progress = silent,
) -> dict:
    """The network in ``folder/networks``, trained once: role, iteration, modules, α of each stage, accuracies, costs.

    ``whole`` says that one process trained it, so that seconds and energy are all that it took.
    """
    here = folder / "networks" / asked.name
    path, arch = here / "result.json", module_stages.arch(space, asked.modules)
    if path.exists():
        return files.read_json(path, "result of a network", "run the same command again")
    whole, began = not (here / "checkpoint.pt").exists(), time.monotonic()
    further = cfg.further_epochs if asked.role == "Â" else 0
    with meter() as spent:
        network, last = standalone.train(
            space,
            arch,
            data,
            dataclasses.replace(cfg.fit, epochs=cfg.fit.epochs + further),
            here,
            device,
            kernels=cfg.kernels,
            start=None if donor is None else lambda network: donors.transfer(network, donor),
            label=asked.name,
            progress=progress,
        )
    result = {
        "schema": 1,
        "name": asked.name,
        "role": asked.role,
        "iteration": asked.iteration,
        "modules": list(asked.modules),
        "importance": importance(network, data.train, cfg.criterion, cfg.images),
        "val_accuracy": last["val_accuracy"],
        "params": families.params(space, arch),
        "flops": families.flops(space, arch),
        "seconds": time.monotonic() - began,
        "whole": whole,
        **spent,
    }
    files.write_json(path, result)
    return result


@torch.inference_mode()
def vote(networks: Sequence[Network], batches: Batches) -> tuple[list[float], float]:
    """Accuracy of each network in [0, 1], and of all together: the mean of their probabilities decides."""
    hits, together, n = [0] * len(networks), 0, 0
    device = next(networks[0].parameters()).device
    for network in networks:
        network.eval()
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        probabilities = torch.stack([network(x).softmax(1) for network in networks])
        for i, own in enumerate(probabilities):
            hits[i] += int((own.argmax(1) == y).sum())
        together += int((probabilities.mean(0).argmax(1) == y).sum())
        n += len(y)
    return [h / n for h in hits], together / n
