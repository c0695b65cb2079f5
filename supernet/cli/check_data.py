"""Read every image of a data set once, before days of training: what is damaged, uneven, nearly the same; a picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from supernet import quantities
from supernet.cli import common, opening, starting
from supernet.errors import UserError
from supernet.quantities import several

if TYPE_CHECKING:
    from supernet.data.findings import Findings
    from supernet.tables import Table

ROWS = 40  # classes in the table
KINDS = {  # of Pillow's modes
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I;16": "grey of 16 bits",
    "I": "grey of 32 bits",
    "F": "grey in floats",
    "P": "palette",
    "RGB": "colour",
    "RGBA": "colour with transparency",
}


@dataclass(frozen=True)
class Args(common.Answering, opening.DataSet):
    folder: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder that holds train/ and val/: short for --data folder --data-root DIR."""
    seed: int = 0
    """Random seed of the split."""
    sheet: Annotated[Path | None, common.UNSET] = None
    """Contact sheet, a PNG file; defaults to runs/data/NAME.png."""
    damaged: Literal["stop", "skip"] = "stop"
    """Fail at the end where images cannot be read, or tell them and succeed."""
    quiet: bool = False
    """Show no progress."""


def run(args: Args) -> None:
    from supernet import files
    from supernet.data import findings, sheet
    from supernet.data.sets import Source
    from supernet.data.split import Draw, few_of
    from supernet.progress import shown

    name, root = ("folder", args.folder) if args.folder else (args.data, args.data_root)
    if args.folder and args.data:
        raise UserError(f"{args.folder} and --data {args.data}: give one of the two")
    if name is None:
        raise UserError("expected a folder with train/ and val/, or --data hf:NAME, hf:FOLDER or FILE.py:function")
    progress, given = shown(not args.quiet), opening.drawing(args)
    drawn = Draw(args.seed, given["val_fraction"], fold=given["fold"], few=few_of(name, args.val_fraction))
    source = Source(name, root, args.resolution, args.workers, given["channels"], progress=progress)
    began = time.monotonic()
    opened = findings.open_all(source, drawn)
    found = findings.read_all(opened, args.damaged == "skip", progress)
    seconds = time.monotonic() - began
    show(found, str(root) if name == "folder" else name, seconds)  # first: the sheet may not be writable
    path = args.sheet or findings.default_sheet(name, root)
    parts = {"training": opened.train, "test": opened.test}
    files.write_bytes(path, sheet.draw({title: (part.images, part.classes) for title, part in parts.items()}))
    common.tell(f"→ {path}")
    common.answer(args, {"data": name, **found.to_json(), "sheet": str(path)})
    if found.problems:
        why = "damaged" if not found.opened.problems else None
        raise UserError(f"training would stop: {'; '.join(found.problems)}", why)
    where = [] if name != "folder" and root == Args.data_root else ["--data-root", root]
    taken = common.words(args, "resolution", "channels", "val_fraction", "fold", "seed", "damaged")
    common.next_command("train_supernet", None, "--data", name, *where, *taken)


def show(found: Findings, name: str, seconds: float) -> None:
    """Tables of the classes and of what the files are; lines on what a person should look at."""
    from supernet.data import words

    counts = found.counts()
    common.show(by_class(counts, name))
    common.show(by_kind(found, seconds))
    for line in found.opened.notes:
        common.tell(line)
    for why in list(found.errors.values())[:ROWS]:
        common.warn(why)
    for side, twins in found.twins.items():
        if twins:
            pairs = words.listed([f"{other} like {train}" for other, train, _ in twins], quote=False)
            alike = several(len(twins), f"{side} image is", f"{side} images are")
            common.warn(f"{alike} nearly the same as training images: {pairs}")
    if found.contradictions:
        pairs = words.listed([f"{a} and {b}" for a, b in found.contradictions], quote=False)
        alike = several(len(found.contradictions), "training image looks", "training images look")
        common.warn(f"{alike} like one of another class: {pairs}")
    if animated := found.names("animated"):
        common.warn(words.animated(animated))
    if found.noted["grey"].all() and not found.noted["grey_kind"].all():
        common.warn("all images are grey, but not all files say so: --channels 1 trains on one channel")
    sizes = {of: row["training"] for of, row in counts.items()}
    for line in opening.uneven(sizes):
        common.warn(line)


def by_class(counts: dict[str, dict[str, int]], name: str) -> Table:
    """Images of each class."""
    from supernet.tables import Table

    sides = ("training", "validation", "test")
    rows = [(of, *(f"{row[side]:,}" for side in sides)) for of, row in counts.items()]
    if len(rows) > ROWS:
        rows = [*rows[:ROWS], (f"and {len(rows) - ROWS:,} more", "", "", "")]
    totals = [sum(row[side] for row in counts.values()) for side in sides]
    rows.append((f"all {len(counts):,}", *(f"{total:,}" for total in totals)))
    return Table(("class", *sides), rows, title=name)


def by_kind(found: Findings, seconds: float) -> Table:
    """What the files are."""
    from supernet.tables import Table

    size, count = found.opened.train.images.size, sum(len(of.noted) for of in found.found.values())
    kinds = ", ".join(f"{KINDS.get(kind, kind)} {number:,}" for kind, number in found.kinds().items())
    rows = [
        ("files read", f"{count:,} in {quantities.duration(seconds)}"),
        ("cannot be read", f"{len(found.errors):,}"),
        *(
            (side, "{:,} to {:,} pixels, median {:,}".format(*found.sides(side)))
            for side in ("width", "height")
            if len(found.noted)
        ),
        (f"smaller than {size}, enlarged", f"{found.smaller():,}"),
        ("kinds", kinds),
        ("turned as their EXIF says", f"{len(found.names('turned')):,}"),
        ("transparent, laid on white", f"{len(found.names('transparent')):,}"),
        ("grey", f"{len(found.names('grey')):,}"),
        ("like an earlier training image", f"{found.again:,}"),
    ]
    return Table(("", ""), rows, text=2)


main = starting.entry(run, Args)
