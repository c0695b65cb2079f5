"""Train architectures of the front alone, beside random ones of the same window, and test each of them once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supernet.cli import common
from supernet.errors import UserError

if TYPE_CHECKING:
    from supernet.retraining import Settings


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

    @property
    def settings(self) -> Settings:
        """What shapes a trained network."""
        from supernet.retraining import Settings

        return Settings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)})


def run(args: Args) -> None:
    from supernet.cli import alone

    if args.epochs == 0 and not args.inherit:
        raise UserError("--epochs 0 trains nothing: expected --inherit with it, or at least one epoch")
    alone.train(
        args.folder,
        args.settings,
        args.pick,
        args.controls,
        device=args.device,
        at_once=args.jobs,
        workers=args.workers,
        data_root=args.data_root,
        progress=args.progress,
    )
    common.next_command("report", args)


def main() -> None:
    """The command line."""
    common.main(run, Args)
