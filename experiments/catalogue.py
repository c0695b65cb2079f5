"""Every numbered table and figure of the five papers, and the claims of their texts: what of ours tries them.

The items stand in ``experiments/papers``, one file for each paper. ``docs/papers.md`` is this module's ``markdown``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from experiments.papers import dsnas, global_nas, nss, pad_nas, stage_wise
from experiments.papers.item import SCALES, Command, Item, Paper
from supernet.errors import UserError

PAPERS = {m.PAPER.name: m.PAPER for m in (global_nas, nss, pad_nas, stage_wise, dsnas)}
ALL = "all"
COLUMNS = (
    "item",
    "what it shows",
    "the paper's",
    "ours",
    "verdict",
    "minutes",
    "command",
    "state; what is missing or other",
)
HEAD = """# Five papers, item by item

Every numbered table and figure of the five papers, and the claims of their texts that can be tried: the paper's
figure, ours, and how much of the item our command does at the size of two cores. Written by
`python -m experiments --write docs/papers.md`; what the figures mean is argued in [results.md](results.md).

`python -m experiments PAPER ITEM` runs an item and renews its row here. `--plan` tells the command and its cost and
runs nothing. `--scale gpu` and `--scale paper` take the paper's settings as far as our commands have them, or say what
is missing; their results lie in `runs/papers`, not here. `PAPER all` runs all of a paper, `make results-tiny` all there
is for two cores. Each goes on where it was stopped.

± is half of the 95 % interval of the mean over the seeds by Student's t: wide, as most have three seeds. results.md
mostly has the standard deviation instead. An interval in parentheses is of 95 %, too. Minutes are of one core, for all
of a command, which tries several items. Verdicts are written by hand, of the results that the repository has; where one
is empty, results.md does not argue it. "Nothing to try" is a drawing of an idea or a comparison of others.
"""


def select(paper: str, item: str = ALL) -> list[tuple[Paper, Item]]:
    """The items by their names; ``all`` stands for every one.

    Raises:
        UserError: there is no such name; says the nearest ones.
    """
    papers = list(PAPERS.values()) if paper == ALL else [PAPERS[known("paper", paper, PAPERS)]]
    found = [(each, one) for each in papers for one in each.items]
    if item == ALL:
        return found
    known(f"item of {paper}", item, [one.name for _, one in found])
    return [(each, one) for each, one in found if one.name == item]


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """The name, if it is one of ``names`` or stands for all; else a UserError with the nearest ones."""
    names = list(dict.fromkeys(names))
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names
    raise UserError(f"there is no {kind} {name!r}; expected {', '.join(near)}, or {ALL}")


def commands(paper: str, item: str, scale: str) -> list[tuple[str, Command]]:
    """Each command of the items once, with the name of the first item that it tries.

    Raises:
        UserError: one item is asked for, and there is no command for it at this scale; says why.
    """
    found: dict[str, tuple[str, Command]] = {}
    for each, one in select(paper, item):
        command = one.at(scale)
        if isinstance(command, Command):
            if scale == "tiny" and item != ALL:
                command = dataclasses.replace(command, lacks=one.lacks)
            found.setdefault(str(command), (f"{each.name} {one.name}", command))
        elif item != ALL:
            raise UserError(f"{each.name} {one.name} has no command at scale {scale}: {command}")
    return list(found.values())


def record(paper: Paper, item: Item) -> dict[str, Any]:
    """All of an item in JSON's values."""
    at = {scale: item.at(scale) for scale in SCALES}
    told = {
        scale: {"command": str(c), "lacks": c.lacks, "cost": c.cost} if isinstance(c, Command) else {"missing": c}
        for scale, c in at.items()
    }
    row = {"paper": paper.name, "item": item.name, "shows": item.shows, "theirs": item.theirs, "ours": item.found()}
    state = {"verdict": item.verdict, "minutes": item.minutes(), "state": item.state, "lacks": item.lacks}
    return {**row, **state, "commands": told}


def cells(item: Item) -> tuple[str, ...]:
    """A row of the page, by ``COLUMNS``."""
    spent = item.minutes()
    state = f"{item.state}: {item.lacks}" if item.lacks else item.state
    took = "" if spent is None else f"{spent:.0f}"
    command = "" if item.tiny is None or item.idea else f"`{item.tiny}`"
    ours = "to be run again, or to its end: the results lack this" if item.older else item.found()
    return (item.name, item.shows, item.theirs, ours, item.verdict, took, command, state)


def markdown() -> str:
    """The page: a table for each paper."""
    parts = [HEAD]
    for paper in PAPERS.values():
        states = Counter(item.state for item in paper.items)
        rows = [" | ".join(cell.replace("|", "\\|") for cell in cells(item)) for item in paper.items]
        counts = ", ".join(f"{n} {state}" for state, n in states.most_common())
        parts += [f"## {paper.title}", f"`python -m experiments {paper.name}`: {counts}."]
        head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        parts += ["\n".join([*head, *(f"| {row} |" for row in rows)])]
    return "\n\n".join(part.strip() for part in parts) + "\n"
