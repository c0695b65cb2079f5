"""The papers' tables, figures and claims: what of ours tries them, and the commands that do.

PAPER lists one paper, PAPER ITEM runs an item, PAPER all runs all of it. What follows -- goes to the command itself; of
several to those that are experiments. At the size of two cores a run renews the rows of docs/papers.md.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from experiments import catalogue
from experiments.papers.item import Command, minutes
from supernet import files
from supernet.cli import printing, starting
from supernet.tables import Table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
LISTED = ("paper", "item", "shows", "theirs", "ours", "state")


@dataclass(frozen=True)
class Args:
    paper: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[PAPER]")] = catalogue.ALL
    """global-nas, nss, pad-nas, stage-wise or dsnas."""
    item: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[ITEM]", help_behavior_hint="")] = ""
    """table-4, figure-s3, text-…; without one, the items are listed."""
    scale: Literal["tiny", "gpu", "paper"] = "tiny"
    """Two cores, hours of one GPU, or the paper's own settings."""
    plan: bool = False
    """Tell the command, its settings and what it will cost, without an item of all; run nothing."""
    json: bool = False
    """List as JSON."""
    write: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Write the page of all papers (docs/papers.md) and stop."""


def main() -> None:
    """Parse, then list, plan or run; what ends it is told as by the commands."""
    name, *words = sys.argv
    cut = words.index("--") if "--" in words else len(words)
    sys.argv = [name, *words[:cut]]
    starting.main(functools.wraps(run)(lambda args: run(args, words[cut + 1 :])), Args, program="python -m experiments")


def run(args: Args, further: list[str]) -> None:
    """List, plan or run."""
    if args.write is not None:
        files.write_bytes(args.write, catalogue.markdown().encode())
        return
    if args.json or not (args.item or args.plan):
        show(args)
        return
    commands = catalogue.commands(args.paper, args.item or catalogue.ALL, args.scale)
    for name, command in commands:
        if args.plan:
            tell(name, command, args.scale)
            continue
        start(name, command, further if len(commands) == 1 or command.program.startswith("experiments.") else [])
        if args.scale == "tiny":
            renew()


def show(args: Args) -> None:
    """The items: JSON, a table, or where nobody looks, a line each with tabs between."""
    rows = [catalogue.record(paper, item) for paper, item in catalogue.select(args.paper, args.item or catalogue.ALL)]
    console = Console()
    if args.json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
    elif not console.is_terminal:
        print("\n".join("\t".join(row[name] for name in LISTED) for row in rows))
    else:
        printing.show(Table(LISTED, [[row[name] for name in LISTED] for row in rows], text=len(LISTED)))


def tell(name: str, command: Command, scale: str) -> None:
    """What would be run, and what is known of it."""
    result = command.result() if scale == "tiny" else None
    known = "a minute or two of one core" if command.program == "pytest" else command.cost
    cost = known if result is None else f"{minutes(result):.0f} minutes of one core, as docs/results has it"
    lines = [f"{name}, {scale}: {command}"]
    if result is not None:
        settings = (f"{key} {value}" for key, value in result["settings"].items() if value not in (None, False))
        lines.append(f"settings: {', '.join(settings)}")
    lines.append(f"cost: {cost}")
    if command.lacks:
        lines.append(f"missing or other: {command.lacks}")
    print("\n  ".join(lines))


def start(name: str, command: Command, further: list[str]) -> None:
    """Run it; its failure is ours."""
    lacks = f" (missing or other: {command.lacks})" if command.lacks else ""
    print(f"{name}: {command}{lacks}", file=sys.stderr, flush=True)
    if code := ended([sys.executable, *command.words, *further]):
        sys.exit(code if code > 0 else 128 - code)


def ended(words: list[str]) -> int:
    """Its exit code. Ctrl-C reaches it by itself, SIGTERM is handed on: it saves what it has, and says so."""
    with subprocess.Popen(words, cwd=ROOT) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while process.returncode is None:
            with contextlib.suppress(KeyboardInterrupt):
                process.wait()
        signal.signal(signal.SIGTERM, before)
    return process.returncode


def renew() -> None:
    """Write the page anew where results have changed a row of it."""
    page = catalogue.markdown().encode()
    if PAGE.exists() and PAGE.read_bytes() != page:
        files.write_bytes(PAGE, page)
        print(f"→ {PAGE.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
