"""The commands and the Python code of the documentation, as its pages have them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from supernet.cli.common import COMMANDS
from tests.forks import forks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOOLS = {name: tool for tool, name in COMMANDS.items()}
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """A line of a block of commands; ``tool`` is a script of ours, else the program as it is called."""

    tool: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join((self.tool, *self.words))


def pages() -> list[str]:
    """The names of all pages within docs/."""
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page that are in a language, "" for commands."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [textwrap.dedent(block) for _, name, block in FENCE.findall(text) if name == language]


def commands(page: str) -> list[Command]:
    """The commands of a page in order."""
    return [found for block in blocks(page, "") for found in within(block)]


def within(block: str) -> list[Command]:
    """The commands of a block in order."""
    return [command(line) for line in block.splitlines() if line.strip()]


def command(line: str) -> Command:
    """One line, without its comment."""
    program, *words = shlex.split(line, comments=True)
    if program == "supernet" and words:
        return Command(TOOLS.get(words[0], words[0]), tuple(words[1:]))
    if program == "python" and words[0].startswith("tools/"):
        return Command(Path(words[0]).stem, tuple(words[1:]))
    return Command(program, tuple(words))


def local(command: Command) -> Command:
    """As it can be run here: with any latency allowed, as that of the page is of another machine."""
    words = list(command.words)
    for option, value in (("--lat-max", "1000"), ("--cores", "0")):
        words = [value if before == option else word for before, word in zip(("", *words), words, strict=False)]
    words = [re.sub(r"^(tables/\w+\.json):[\d.]+$", r"\1:1000", word) for word in words]
    if re.search("--device (ssh|adb)", shlex.join(words)):
        for option in {"--device", "--runtime"} & set(words):
            place = words.index(option)
            del words[place : place + 2]
    return Command(command.tool, tuple(words))


def run(found: Iterable[Command], folder: Path, short: Mapping[str, Sequence[object]]) -> Iterator[tuple[Command, str]]:
    """Run commands one after the other in a folder; gives what each printed.

    Args:
        short: further options by tool, which make it quick.
    """
    for command in found:
        if command.tool in COMMANDS:
            done = forks().run(command.tool, *command.words, *short.get(command.tool, ()), where=folder)
        else:
            program = sys.executable if command.tool == "python" else command.tool
            done = subprocess.run([program, *command.words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (str(command), done.stderr)
        yield command, done.stdout
