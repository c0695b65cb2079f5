"""The images that a command begins a run with, and what a person should know of them before days of training."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from supernet.cli import common, numbers
from supernet.data import NAMES
from supernet.errors import UserError
from supernet.quantities import several

if TYPE_CHECKING:
    from supernet.data.images import ImageSet
    from supernet.data.sets import TrainVal

SETS = "|".join((*NAMES, "hf:NAME", "hf:FOLDER", "FILE.py:function"))
UNEVEN = 2.0  # times as many images as another class has


@dataclass(frozen=True)
class DataSet(common.Decoding):
    """Options that say which images there are, and how a new run splits them."""

    topic: ClassVar[str] = "image"
    data: Annotated[str | None, tyro.conf.arg(metavar=SETS, help_behavior_hint="")] = None
    """Images; defaults to fashion-mnist if available, else the bundled digits."""
    data_root: Path = Path("data")
    """Dataset directory; for --data folder the one that holds train/ and val/."""
    resolution: Annotated[numbers.Pixels | None, common.UNSET] = None
    """Pixels, for images of any size: of a square, or HEIGHTxWIDTH such as 96x160; defaults to 224."""
    channels: Literal["auto", "1", "3"] = "auto"
    """1 is grey, 3 colour; auto is 1 where all training images are grey files."""
    val_fraction: Annotated[float | None, common.UNSET] = None
    """Share of the training images to validate on, of each class at least one; defaults to 0.1, and to at most 50 of
    each class of --data folder."""
    fold: Annotated[str | None, tyro.conf.arg(metavar="I/K", help_behavior_hint="")] = None
    """Validate on part I, from 0, of K equal parts instead, for small sets: K runs validate on each image once."""


@dataclass(frozen=True)
class Images(DataSet):
    """Options of commands that open images for a new run."""

    topic: ClassVar[str] = "image"
    limit: Annotated[int | None, common.UNSET] = None
    """Train on a stratified subset of this many images."""


@dataclass(frozen=True)
class Balance:
    """Option of commands whose trainings may make up for classes of few images."""

    topic: ClassVar[str] = "training"
    balance: Literal["none", "loss", "sampling"] = "none"
    """Weigh classes in the loss by labels inversely to their images, or draw all equally often."""


@dataclass(frozen=True)
class NewRun(common.Computing, Balance, Images, common.Beginning):
    """Options of commands that begin a run on images. A command adds its own, and may set other defaults."""


def in_words(images: TrainVal, name: str, reason: str = "") -> str:
    """A data set in one line."""
    why = f" ({common.escape(reason)})" if reason else ""
    return (
        f"[bold]{common.escape(name)}[/bold]{why}: {len(images.train):,} training, "
        f"{several(len(images.val), 'validation image')}, {images.channels}×{images.size}"
    )


def open_images(args: Any) -> tuple[str, str, TrainVal]:
    """The images of a run, new or to be continued: name, why it was chosen, train and validation.

    A new run reads every file of them once.
    """
    from supernet.data import sets
    from supernet.training import distributed

    name, reason = (args.data, "") if args.data else sets.default_name(args.data_root)
    given = {"seed": args.seed, "resolution": args.resolution, "limit": args.limit, "workers": args.workers}
    folder, plan = common.open_run(args), getattr(args, "plan", False)
    if begun := common.begun(args, folder):
        # Where the settings are others, which data_root is not, they are refused later on.
        same = begun.get("data") == name
        given |= folder.opening() if same else drawing(args)
        images = sets.open_train(name, args.data_root, **given)
        images = folder.prepared(images) if same else images
    else:
        given |= drawing(args)
        images = sets.open_train(name, args.data_root, **given, progress=args.progress)
        images = images if plan else checked(images, name, args, given)
    if distributed.rank() == 0:
        sizes = collections.Counter(images.class_names[label] for label in images.train.labels.tolist())
        for note in (*images.notes, *(uneven(sizes) if args.balance == "none" else ())):
            common.warn(note)
    given["damaged"].path = None if plan else folder.damaged_path
    return name, reason, dataclasses.replace(images, train=images.train.balanced(args.balance))


def drawing(args: Any) -> dict[str, Any]:
    """How the split of a new run is drawn, and what is done about damaged images."""
    from supernet.data.damaged import Damaged

    fold = None
    if args.val_fraction == 0:
        raise UserError("--val-fraction 0: expected some images to validate on")
    if args.fold is not None:
        if (found := re.fullmatch(r"(\d{1,6})/(\d{1,6})", args.fold, re.ASCII)) is None:
            raise UserError(f"--fold {args.fold}: expected the number of a part and that of all, such as 0/5")
        fold = int(found[1]), int(found[2])
    channels = None if args.channels == "auto" else int(args.channels)
    damaged = Damaged(args.damaged == "skip")
    return {"val_fraction": args.val_fraction, "fold": fold, "channels": channels, "damaged": damaged}


def checked(images: TrainVal, name: str, args: Any, given: dict[str, Any]) -> TrainVal:
    """The images without those that cannot be read, which are refused unless they are to be skipped.

    Files of the test part are read only to see whether they can be.
    """
    from supernet.data import sets
    from supernet.training import distributed

    if not getattr(images.train, "in_files", False):
        return images
    found: dict[str, str] | UserError = {}
    if distributed.rank() == 0:
        shown = {key: given[key] for key in ("resolution", "workers")}
        test = sets.open_test(name, args.data_root, channels=images.channels, **shown)
        try:
            found = found_damaged((images.train, images.val, test), args)
        except UserError as error:  # the other processes end by it, too
            found = error
    errors = distributed.gathered(found)[0]
    if isinstance(errors, UserError):
        raise errors
    given["damaged"].known |= errors
    return sets.open_train(name, args.data_root, **given) if errors else images


def found_damaged(sets: Sequence[ImageSet], args: Any) -> dict[str, str]:
    """Names of files that cannot be read, and why: told where they are to be skipped, else refused."""
    from supernet.data import inspection, words

    errors, animated = inspection.faults(sets, args.progress)
    if animated:
        common.warn(words.animated(animated))
    if errors and args.damaged == "stop":
        raise inspection.refusal(errors)
    if errors:
        left = several(len(errors), "image cannot be read and is left out", "images cannot be read and are left out")
        common.warn(f"{left}: {words.listed(list(errors))}")
    return errors


def uneven(counts: Mapping[str, int]) -> list[str]:
    """A line where a class has far fewer training images than another."""
    there = {name: count for name, count in counts.items() if count}
    least, most = min(there, key=there.__getitem__, default=""), max(there, key=there.__getitem__, default="")
    if not there or there[most] < UNEVEN * there[least]:
        return []
    return [
        f"classes are uneven, from {there[least]:,} training images of {least!r} to {there[most]:,} of {most!r}: "
        "--balance loss weighs them, --balance sampling draws all equally often"
    ]
