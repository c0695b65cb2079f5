"""What a run took: minutes of its parts, energy where it was measured, and what it was made with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from search.run import CLOCK
from supernet import files
from supernet.quantities import digits, duration, several
from supernet.report import pieces
from supernet.runs import RunFolder
from supernet.shape import Number

if TYPE_CHECKING:
    from supernet.report.load import Run
    from supernet.report.page import Page

SPENT = {"energy_kwh?": Number(0)}
CANDIDATES = ("networks", "candidates")  # folders of what a search trains one by one


def section(page: Page) -> str:
    """The parts that tell how long they took; empty where none does."""
    run = page.run
    rows = [[name, duration(seconds)] for name, seconds in parts(run) if seconds]
    results = run.folder.path.glob("networks/*/result.json")
    told = [files.read_json(path, path.name, expected=SPENT) for path in results]
    energy = [result["energy_kwh"] for result in told if "energy_kwh" in result]
    if energy:
        rows.append([f"energy of {several(len(energy), 'network')}", f"{digits(sum(energy))} kWh"])
    shown = pieces.table(["part", "took"], rows) if rows else ""
    return pieces.section("What it took", pieces.paragraph(made_with(run.config)) if rows else "", shown)


def parts(run: Run) -> Iterator[tuple[str, float]]:
    """Seconds by the clock: of trainings without their validation, of searches with all processes that took part."""
    limit = run.config.get("limit")
    for path in (run.folder.path, *sorted(run.folder.path.glob("supernet-*"))):  # those of PAD-NAS
        folder, name = RunFolder(path), "supernet" if path == run.folder.path else path.name
        yield name, trained(folder, run, limit)
        if (clock := folder.clock_path).exists():
            yield f"search in {name}", files.read_json(clock, "clock", "delete it", expected=CLOCK)["seconds"]
    for name, result in run.results.items():
        own = result.get("settings", {"limit": limit}).get("limit")
        yield f"{name}, alone", trained(run.folder.network(name), run, own)
    others = [log.parent for kind in CANDIDATES for log in run.folder.path.glob(f"{kind}/*/metrics.jsonl")]
    yield several(len(others), "candidate"), sum(trained(RunFolder(path), run, limit) for path in others)


def trained(folder: RunFolder, run: Run, limit: Any) -> float:
    """Seconds of a training; 0 where the run does not say how many images there are, as one of 0.1."""
    images = run.config.get("made_with", {}).get("data", {}).get("images", {}).get("train", 0)
    return folder.seconds(min(images, limit) if isinstance(limit, int) else images)


def made_with(config: dict[str, Any]) -> str:
    """Versions, and the machine that the run began on."""
    record = config.get("made_with", {})
    words = {"version": "supernet ", "torch": "torch ", "device": "device ", "gpu": "", "cpu": ""}
    return ", ".join(f"{word}{record[name]}" for name, word in words.items() if name in record)
