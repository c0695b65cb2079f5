"""SPOS: single path one-shot training (Guo et al. 2020), the supernet that the searches score architectures on.

Each step draws one path and updates its weights alone. BN has no affine parameters; its statistics are
recalibrated for every architecture before it is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from supernet.data import stored
from supernet.data.images import Batches, Inputs
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.families import layout
from supernet.model import Supernet
from supernet.progress import Progress, silent
from supernet.space import Arch, Space
from supernet.training.bn import recalibrate_bn
from supernet.training.evaluation import BATCH, validate
from supernet.training.loop import Drive, FitConfig, fit


@dataclass(frozen=True)
class Config:
    """SPOS's own settings are lr .5 at batch 1024 for 120 epochs; the rate scales with the batch."""

    fit: FitConfig
    sampling: Literal["uniform", "flops"] = "uniform"
    flops_bins: tuple[float, float, float] = (290e6, 360e6, 10e6)  # from, to, width: of SPOS's code at 224
    kernels: Literal["fused", "eager"] = "fused"
    probes: int = 4  # fixed random architectures, scored after each epoch
    recalibration: tuple[int, int] = field(default=(8, 128))  # batches, images per batch


def uniform_path(space: Space, seed: int) -> Callable[[int], Arch]:
    """A uniform path for each step; the same on every rank and after a resume."""
    return lambda step: space.sample(np.random.default_rng([seed, step]))


def flops_binned_path(
    space: Space, seed: int, bins: tuple[float, float, float], tries: int = 200
) -> Callable[[int], Arch]:
    """SPOS's code: a FLOPs bin drawn uniformly, a path in it by rejection, any path if ``tries`` find none.

    Raises:
        UserError: none of 2,000 uniform paths lies in any of the bins.
    """
    low, high, width = bins
    if not 0 < width <= high - low:
        raise UserError(f"FLOPs bins from {low:g} to {high:g} in steps of {width:g}: expected 0 < step ≤ to − from")
    specs = layout(space)

    def flops(arch: Arch) -> int:
        return sum(spec.flops for spec in specs.pick(arch))

    rng = np.random.default_rng(seed)
    sample = [flops(space.sample(rng)) for _ in range(2000)]
    if not any(low <= cost < high for cost in sample):
        raise UserError(
            f"no path of {space.name} has between {low:g} and {high:g} multiply-adds (they have {min(sample):.3g} to "
            f"{max(sample):.3g}): set other bins, or sample uniformly"
        )
    count = round((high - low) / width)

    def pick(step: int) -> Arch:
        rng = np.random.default_rng([seed, step])
        start = low + width * int(rng.integers(count))
        arch = space.sample_where(rng, lambda arch: start <= flops(arch) < start + width, tries)
        return arch if arch is not None else space.sample(rng)

    return pick


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


def meta(space: Space, cfg: Config) -> dict:
    """What a reader of the checkpoint needs to rebuild the supernet."""
    return {
        "kind": "supernet",
        "method": "spos",
        "space": space.to_json(),
        "kernels": cfg.kernels,
        "affine": False,
    }


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
    torch.manual_seed(cfg.fit.seed)
    model = Supernet(space, affine=False, kernels=cfg.kernels).to(device)
    if inherit is not None:
        weights = inherit.state_dict()
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    if cfg.sampling == "uniform":
        pick = uniform_path(space, cfg.fit.seed)
    else:
        pick = flops_binned_path(space, cfg.fit.seed, cfg.flops_bins)
    rng = np.random.default_rng([cfg.fit.seed, 2**32])
    probes = [space.sample(rng) for _ in range(cfg.probes)]

    recalibration: Iterable[torch.Tensor] = recalibration_images(data, *cfg.recalibration) if probes else []

    def check() -> dict:
        scores = [score(model, recalibration, data, arch, cfg.fit.validation_batch) for arch in probes]
        return {"val_accuracy": float(np.mean(scores)), "val_probes": scores}

    fit(
        model,
        data.train,
        pick,
        cfg.fit,
        folder,
        meta={**meta(space, cfg), "config": asdict(cfg)},
        validate=check if probes else dict,
        label="supernet",
        progress=progress,
        drive=drive,
    )
    return model
