"""The installed command ``supernet``: its sub-commands are the scripts in tools/."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import supernet
from supernet.cli.common import COMMANDS, refuse


def usage() -> str:
    """One line for each command."""
    lines = ["usage: supernet COMMAND [OPTIONS]", "", "commands (supernet COMMAND --help lists the options of one):"]
    for module, name in COMMANDS.items():
        first = (importlib.import_module(f"supernet.cli.{module}").__doc__ or "").splitlines()[0]
        lines.append(f"  {name:<11} {first}")
    lines += ["  bench       Benchmarks; only in the source repository, which has them.", "", "supernet --version"]
    return "\n".join(lines)


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
        refuse(f"no command {name!r}: expected one of {', '.join((*modules, 'bench'))}")


def bench() -> None:
    """The benchmarks lie in the source repository, beside the kernels that they time."""
    script = Path(supernet.__file__).resolve().parents[1] / "tools" / "bench.py"
    if not script.exists():
        where = "clone the source repository and run python tools/bench.py there"
        refuse(f"the benchmarks are not part of an installed package: {where}")
    sys.argv = [str(script), *sys.argv[2:]]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
