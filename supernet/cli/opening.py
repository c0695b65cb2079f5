"""The images that a command begins a run with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supernet.cli import common

if TYPE_CHECKING:
    from supernet.data.sets import TrainVal


def in_words(images: TrainVal, name: str, reason: str = "") -> str:
    """A data set in one line."""
    why = f" ({common.escape(reason)})" if reason else ""
    return (
        f"[bold]{common.escape(name)}[/bold]{why}: {len(images.train):,} training, {len(images.val):,} validation "
        f"images, {images.channels}×{images.size}"
    )


def open_images(args: Any) -> tuple[str, str, TrainVal]:
    """The images that a new run is asked to take: name, why it was chosen, train and validation."""
    from supernet.data import sets

    name, reason = (args.data, "") if args.data else sets.default_name(args.data_root)
    given = {"seed": args.seed, "resolution": args.resolution, "limit": args.limit, "workers": args.workers}
    return name, reason, sets.open_train(name, args.data_root, **given)
