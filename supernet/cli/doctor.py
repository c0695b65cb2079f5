"""What is built, what is installed, what is missing and how to get it; every operator against PyTorch, in seconds."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import supernet
from supernet import machine
from supernet.cli import common, starting, system
from supernet.errors import UserError

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from supernet.selftest import Outcome

NAME, EXTRA = re.compile(r"[A-Za-z0-9._-]+"), re.compile(r"extra *== *['\"](\w+)['\"]")
PYPROJECT = Path(supernet.__file__).parents[1] / "pyproject.toml"
FOR_DEVELOPERS = ("test", "lint")
GIB = 2**30


@dataclass(frozen=True)
class Args(common.Answering):
    """None of its own."""


def run(args: Args) -> None:
    found: dict[str, Any] = {"machine": of_machine(), "build": None, "operators": [], "extras": list(extras())}
    found["system"] = list(system.parts())
    missing = None
    try:
        from supernet import ops, selftest
    except ImportError as error:  # says how to build them
        missing = UserError(str(error))
    else:
        found["build"] = ops.build_info()
        found["operators"] = [plain(outcome) for outcome in selftest.run(selftest.devices())]
    show(found)
    common.answer(args, found)
    if missing:
        raise missing
    if wrong := [f"{row['name']} on {row['device']}" for row in found["operators"] if not row["fine"]]:
        raise UserError(
            f"{len(wrong)} of {len(found['operators'])} operators differ from PyTorch's: {', '.join(wrong)}; build "
            "them again (pip install --no-build-isolation -e .); if that does not help, report it with what --json says"
        )
    common.tell("every operator gives what PyTorch gives", style="green")


def plain(outcome: Outcome) -> dict[str, Any]:
    """As JSON, which has no NaN."""
    known = math.isfinite(outcome.difference)
    return {**outcome._asdict(), "difference": outcome.difference if known else None}


def show(found: dict[str, Any]) -> None:
    """What was found, as tables; what to do about it on the lines between."""
    from supernet.tables import Table

    here, build = found["machine"], found["build"]
    named = {name: name.replace("_gib", ", GiB").replace("_", " ") for name in here if name != "gpus"}
    rows = [(shown, str(here[name])) for name, shown in named.items()]
    rows.append(("GPUs", "; ".join(here["gpus"]) or "none that PyTorch sees"))
    if build:
        rows.append(("operators", f"compiled by {build['compiler']} for torch {build['torch']}"))
        rows.append(("CPU kernels", build["cpu_capability"]))
        cuda = f"{build['cuda']} for {' '.join(build['cuda_archs'])}" if build["cuda"] else "none"
        rows.append(("CUDA kernels", cuda))
    common.show(Table((), rows, text=2))
    if here["gpus"] and build and not build["cuda"]:
        common.warn(
            "a GPU is here and the operators were built without CUDA; in the project's folder this builds them, or "
            "says what is missing: SUPERNET_CUDA=1 pip install --no-build-isolation -e ."
        )
    common.show(
        Table(
            ("operator", "device", "difference", "allowed", "ms", ""),
            [
                (
                    row["name"],
                    row["device"],
                    "" if row["difference"] is None else f"{row['difference']:.2g}",
                    f"{row['allowed']:g}",
                    f"{1e3 * row['seconds']:.0f}",
                    verdict(row),
                )
                for row in found["operators"]
            ],
            text=2,
        )
    )
    others = [(row["extra"], row["package"], row["version"] or row["command"]) for row in found["extras"]]
    common.show(Table(("extra", "package", "version, or how to get it"), others, text=3))
    parts = [
        (row["name"], "optional" if row["optional"] else "needed", row["purpose"], row["path"] or row["command"])
        for row in found["system"]
    ]
    common.show(Table(("from the system", "", "for", "where it is, or how to get it"), parts, text=4))


def verdict(row: dict[str, Any]) -> str:
    """Whether an operator is right."""
    return "right" if row["fine"] else row["error"] or "wrong"


def of_machine() -> dict[str, Any]:
    """Versions, cores, memory and GPUs of this machine."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "supernet": supernet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cores": machine.cores(),
        "free_memory_gib": round(machine.free_memory() / GIB, 1),
        "gpus": [
            f"{torch.cuda.get_device_name(i)}, capability {'.'.join(map(str, torch.cuda.get_device_capability(i)))}"
            for i in range(count)
        ],
    }


def extras() -> Iterator[dict[str, Any]]:
    """Packages that something needs and the core does not: version where installed, else the command that gets it."""
    for extra, package in required():
        try:
            row = {"version": metadata.version(package), "command": None}
        except metadata.PackageNotFoundError:
            row = {"version": None, "command": f"pip install 'supernet[{extra}]'"}
        yield {"extra": extra, "package": package, **row}


def required() -> list[tuple[str, str]]:
    """Extras and their packages: as pyproject.toml has them in the sources, whose installation may be older; else as
    the installed package has them."""
    if tomllib and PYPROJECT.exists():
        given = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
        found = [(extra, NAME.match(text)) for extra, texts in given.items() for text in texts]
    else:
        try:
            texts = metadata.requires("supernet") or []
        except metadata.PackageNotFoundError:
            return []
        found = [(extra[1], NAME.match(text)) for text in texts if (extra := EXTRA.search(text))]
    return [(extra, package[0]) for extra, package in found if package and extra not in FOR_DEVELOPERS]


main = starting.entry(run, Args)
