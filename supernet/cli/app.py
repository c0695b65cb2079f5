"""The installed command ``supernet``: its sub-commands are the scripts in tools/."""

from __future__ import annotations

import difflib
import importlib
import runpy
import shutil
import sys
import textwrap
from pathlib import Path

import supernet
from supernet.cli.common import COMMANDS, refuse

BENCH = "Benchmarks; only in the source repository, which has them."


HEAD = "usage: supernet COMMAND [OPTIONS]\n\ncommands (supernet COMMAND --help lists the options of one):"
FOOT = "\nA run goes through train, lut, evolve, retrain and export.\n\nsupernet --version"


def about(module: str) -> str:
    """What the command of a module does, in a line: the first paragraph of its docstring."""
    text = importlib.import_module(f"supernet.cli.{module}").__doc__ or ""
    return " ".join(text.partition("\n\n")[0].split())


def usage() -> str:
    """What each command does, in lines that fit the terminal."""
    told = {name: about(module) for module, name in COMMANDS.items()} | {"bench": BENCH}
    columns = shutil.get_terminal_size().columns
    lines = (
        textwrap.fill(text, columns, initial_indent=f"  {name:<11} ", subsequent_indent=" " * 14)
        for name, text in told.items()
    )
    return "\n".join([HEAD, *lines, FOOT])


def main() -> None:
    """Run a sub-command; exit code 2 where there is none of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    modules = {command: module for module, command in COMMANDS.items()}
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"supernet {supernet.__version__}")
    elif name == "bench":
        bench()
    elif name in modules:
        sys.argv = [f"supernet {name}", *sys.argv[2:]]
        importlib.import_module(f"supernet.cli.{modules[name]}").main()
    else:
        known = (*modules, "bench")
        near = "".join(f"; perhaps {one}" for one in difflib.get_close_matches(name, known, 1))
        refuse(f"no command {name!r}: expected one of {', '.join(known)}{near}")


def bench() -> None:
    """The benchmarks lie in the source repository, beside the kernels that they time."""
    script = Path(supernet.__file__).resolve().parents[1] / "tools" / "bench.py"
    if not script.exists():
        where = "clone the source repository and run python tools/bench.py there"
        refuse(f"the benchmarks are not part of an installed package: {where}")
    sys.argv = [str(script), *sys.argv[2:]]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
