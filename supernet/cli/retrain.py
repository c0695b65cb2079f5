"""Train architectures of the front alone, beside random ones of the same window, and test each of them once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from supernet.cli import common


@dataclass(frozen=True)
class Args(common.Alone):
    pick: str = "best"
    """Architecture to train: best, knee, all, or its number in the front."""
    controls: int = 4
    """Random architectures of the same window to train beside it."""
    epochs: int = 12
    """Epochs (SPOS on ImageNet: 240); 0 with --inherit tests the weights as they are."""
    clip: float = 0.0
    """Largest gradient norm; 0 turns clipping off."""
    inherit: bool = False
    """Start from the supernet's weights instead of from scratch."""
    augment: bool | None = None
    """Random crops and flips; defaults to on from 30 epochs, since short trainings do better without."""
    seed: int = 0
    """Random seed of the weights and the augmentation."""


def run(args: Args) -> None:
    from supernet.cli import alone
    from supernet.retraining import Settings

    settings = Settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)})
    alone.train(args.folder, settings, args.pick, args.controls, args, args.jobs)
    common.next_command("report", args)


main = common.entry(run, Args)
