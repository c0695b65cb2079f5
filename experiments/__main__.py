"""The papers' tables, figures and claims: what of ours tries them, and the commands that do.

PAPER lists one paper, PAPER ITEM runs an item, PAPER all runs all of it. What follows -- goes to the command itself.
At the size of two cores a run renews the rows of docs/papers.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import catalogue
from experiments.papers.item import Command, minutes
from supernet import files
from supernet.errors import UserError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
LISTED = ("paper", "item", "shows", "theirs", "ours", "state")


@dataclass(frozen=True)
class Args:
    paper: tyro.conf.Positional[str] = catalogue.ALL
    """global-nas, nss, pad-nas, stage-wise or dsnas."""
    item: tyro.conf.Positional[str] = ""
    """table-4, figure-s3, text-…; without one, the items are listed."""
    scale: Literal["tiny", "gpu", "paper"] = "tiny"
    """Two cores, hours of one GPU, or the paper's own settings."""
    plan: bool = False
    """Tell the command, its settings and what it will cost; run nothing."""
    json: bool = False
    """List as JSON."""
    write: Path | None = None
    """Write the page of all papers (docs/papers.md) and stop."""


def main() -> None:
    """Parse, then list, plan or run. Bad input ends in one line and exit code 2."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args = tyro.cli(Args, args=words[:cut], description=__doc__, prog="python -m experiments")
    try:
        if args.write is not None:
            files.write_bytes(args.write, catalogue.markdown().encode())
        elif args.json or not args.item:
            show(args)
        else:
            for name, command in catalogue.commands(args.paper, args.item, args.scale):
                if args.plan:
                    tell(name, command, args.scale)
                else:
                    start(name, command, words[cut + 1 :])
                    if args.scale == "tiny":
                        renew()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)


def show(args: Args) -> None:
    """The items: JSON, a table, or where nobody looks, a line each with tabs between."""
    rows = [catalogue.record(paper, item) for paper, item in catalogue.select(args.paper, args.item or catalogue.ALL)]
    console = Console()
    if args.json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
    elif not console.is_terminal:
        print("\n".join("\t".join(row[name] for name in LISTED) for row in rows))
    else:
        table = Table(*LISTED)
        for row in rows:
            table.add_row(*(escape(row[name]) for name in LISTED))
        console.print(table)


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
    code = subprocess.run([sys.executable, *command.words, *further], cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code if code > 0 else 128 - code)


def renew() -> None:
    """Write the page anew where results have changed a row of it."""
    page = catalogue.markdown().encode()
    if PAGE.exists() and PAGE.read_bytes() != page:
        files.write_bytes(PAGE, page)
        print(f"→ {PAGE.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
