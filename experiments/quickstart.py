"""What ``make quickstart`` gives: its own commands with other seeds, and their minutes. Wants a quiet machine."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments import _common, _report
from latency.measure import host
from supernet import files
from supernet.errors import UserError
from supernet.runs import RunFolder

ROOT = Path(__file__).parents[1]
SEEDED = ("train_supernet", "evolve", "retrain")  # tools that draw something
QUICK = {"train_supernet": "--limit 640", "build_lut": "--rounds 10", "retrain": "--limit 640"}
TOLD = ("test_accuracy", "one_shot_accuracy", "latency_ms", "measured_latency_ms", "flops", "params")


@dataclass(frozen=True)
class Args(_common.Options):
    run: Path = Path("runs/experiments/quickstart")
    """Folder of the runs, one for each seed."""
    output: Path = Path("docs/results/quickstart.json")
    """The results."""
    seeds: int = 3
    """Of the supernet, the search and the training: seeds 0, 1, …"""
    data_root: Path = Path("data")
    """Dataset directory."""


def commands(folder: Path, seed: int, data_root: Path, quick: bool = False) -> list[list[str]]:
    """The lines of the Makefile's recipe, for a run in ``folder``."""
    makefile = (ROOT / "Makefile").read_text()
    values = dict(re.findall(r"^(\w+) \?= (\S+)$", makefile, re.MULTILINE)) | {"RUN": str(folder)}
    lines = re.findall(r"\$\(BIN\)/python (.*)", makefile.split("\nquickstart:")[1].split("\n\n")[0])
    if not lines:
        raise UserError("the Makefile has no recipe of quickstart")
    found = []
    for line in lines:
        words = shlex.split(re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], line))
        tool = Path(words[0]).stem
        words += ["--seed", str(seed)] if tool in SEEDED else []
        words += ["--data-root", str(data_root)] if tool == "train_supernet" else []
        words += QUICK.get(tool, "").split() if quick else []
        found.append([sys.executable, *words])
    return found


def one(folder: Path, seed: int, data_root: Path, quick: bool = False) -> dict[str, Any]:
    """The networks that one seed's quickstart ends with, and its minutes."""
    began, before = time.monotonic(), sum(os.times()[2:4])
    for words in commands(folder, seed, data_root, quick):
        print("$", shlex.join(words[1:]), flush=True)
        subprocess.run(words, cwd=ROOT, check=True)
    spent = {"minutes": (time.monotonic() - began) / 60, "cpu_minutes": (sum(os.times()[2:4]) - before) / 60}
    results = RunFolder(folder).results()
    networks = {name: {key: row[key] for key in TOLD if key in row} for name, row in results.items()}
    return {"networks": networks, **spent}


def run(args: Args) -> None:
    if not args.redraw:
        recipe = [" ".join(words[1:]) for words in commands(Path("RUN"), 0, Path("data"), args.quick)]
        settings = {"seeds": args.seeds, "recipe": recipe}
        known = files.read_json(args.output, "results", "delete it") if args.output.exists() else {}
        rows = known.get("seeds", []) if known.get("settings", {}).get("recipe") == settings["recipe"] else []
        for seed in range(len(rows), 1 if args.quick else args.seeds):
            rows.append(one(args.run.resolve() / str(seed), seed, args.data_root.resolve(), args.quick))
            result = {"schema": 1, "experiment": "quickstart", "command": "python -m experiments.quickstart"}
            files.write_json(args.output, {**result, "settings": settings, "machine": machine(rows), "seeds": rows})
    result = files.read_json(args.output, "results", "run it without --redraw")
    rows = {
        f"seed {i}, {name}": told(row) for i, one in enumerate(result["seeds"]) for name, row in one["networks"].items()
    }
    minutes = {f"seed {i}": {"minutes": f"{one['minutes']:.1f}"} for i, one in enumerate(result["seeds"])}
    _report.report(args.output, result, {"networks": rows, "minutes": minutes}, draw, (6.0, 4.0))


def machine(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Where it ran."""
    return {**host(), "torch": torch.__version__, "cpu_minutes": sum(row["cpu_minutes"] for row in rows)}


def told(row: dict[str, float]) -> dict[str, str]:
    """A network's numbers as the page has them."""
    scales = {"test_accuracy": ("test, %", 100, 2), "one_shot_accuracy": ("one-shot, %", 100, 2)}
    scales |= {"latency_ms": ("predicted, ms", 1, 3), "measured_latency_ms": ("measured, ms", 1, 3)}
    scales |= {"flops": ("M multiply-adds", 1e-6, 2), "params": ("k parameters", 1e-3, 1)}
    return {
        name: f"{scale * row[key]:.{digits}f}" if key in row else "" for key, (name, scale, digits) in scales.items()
    }


def draw(figure: Figure, result: dict[str, Any]) -> None:
    """Test accuracy over multiply-adds, by seed."""
    axes = figure.subplots()
    for i, one in enumerate(result["seeds"]):
        for name, row in one["networks"].items():
            axes.plot(
                row["flops"] / 1e6,
                100 * row["test_accuracy"],
                "o" if name == "best" else "x",
                color=f"C{i}",
                label=f"seed {i}, {name}",
            )
    axes.set(xlabel="M multiply-adds", ylabel="test accuracy, %")
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8)


if __name__ == "__main__":
    _common.main(run, Args)
