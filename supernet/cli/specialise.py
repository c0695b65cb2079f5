"""Find one network for each of several devices in a trained supernet, without training, and export them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from supernet import metrics
from supernet.cli import common, report, searching, starting
from supernet.errors import UserError

if TYPE_CHECKING:
    from supernet.space import Arch


@dataclass(frozen=True)
class Args(searching.Small, searching.Scored, common.Kernels, common.OnRun):
    lut: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Latency table of a device and its bound in ms, such as phone.json:70; repeat for each device. Defaults to
    RUN/lut.json, and the bound to 40 % of the way from the fastest to the slowest network."""
    export: Annotated[Literal["onnx", "tflite", "pte", "xml", "pt2"] | None, common.UNSET] = None
    """Format of the files; defaults to what the runtime of each table executes."""
    bn: Literal["recalibrated"] = "recalibrated"
    """BN statistics of the networks, which is what they are scored with: recalibrated on training images."""
    population: int = 32
    """Random architectures that each search begins with; a quarter as many in each further iteration."""
    iterations: int = 12
    """Iterations of each search, including the random first one."""
    max_drop: float = 1.0
    """For tables of int8 layers: write a file only if it loses at most so many points in validation."""
    mixed: bool = False
    """For tables of int8 layers: keep the layers that hurt most as floats, as few as needed."""


def run(args: Args) -> None:
    from latency import runtimes
    from latency.table import LatencyTable
    from search import specialise
    from search.guided import GuidedConfig
    from search.scores import Scores
    from supernet.export import formats, int8
    from supernet.training import defaults

    folder = args.folder
    space = folder.space()
    devices = named(args.lut or (str(folder.lut_path),))
    tables = {name: LatencyTable.load(path, space) for name, (path, _) in devices.items()}
    suffixes = {name: args.export or runtimes.SUFFIXES.get(t.runtime["name"], "pt2") for name, t in tables.items()}
    targets = []
    for name, lut in tables.items():
        known = (lut.batch, devices[name][1], args.limits, args.file_precision([lut]))
        promises = runtimes.tells_of(lut, specialise.file(folder, name, suffixes[name]))
        targets.append(specialise.Target(name, space, lut.price, lut.named(), *known, promises))
    budget = GuidedConfig(population=args.population, iterations=args.iterations, seed=args.seed)
    searches = [target.search(budget) for target in targets]
    for suffix in sorted(set(suffixes.values())):
        formats.require(suffix)
    for target in targets:
        if target.precision == "int8":
            int8.of(specialise.file(folder, target.name, suffixes[target.name]))
    settings = int8.Settings(max_drop=args.max_drop, mixed=args.mixed, metric=args.metric)
    device = defaults.device(args.device)
    supernet = folder.supernet(space, device, folder.kernels(device, args.wish(args.kernels)))
    images = folder.images(args.data_root, workers=args.workers, progress=args.progress)
    test = folder.test_images(args.data_root, args.workers)
    scoring = args.scoring

    notes: list[str] = []

    def measure(target: specialise.Target, arch: Arch) -> float | None:
        found = runtimes.measure_networks(
            tables[target.name],
            space,
            lambda kernels: {target.name: runtimes.whole(space, arch, kernels)},
            lambda reason: notes.append(f"{target.name}: {reason}"),
        )
        return found[target.name].median_ms if found else None

    with folder.lock():
        evaluator = scoring.evaluator(supernet, images)
        scores = Scores(evaluator, folder.scores, scoring.identity(folder.identity, images.identity), space)
        found = specialise.specialise(targets, searches, scores, args.progress)
        common.tell(f"scored {evaluator.summary}")
        tools = (supernet.cpu(), evaluator.scorer.recalibration, images, test)
        rows = specialise.write(folder, found, suffixes, *tools, measure, args.progress, settings)
    for note in notes:
        common.tell(note)
    common.show(specialise.table(rows, args.metric))
    for row in rows:
        tested = f"test {metrics.NAMES[args.metric]} {metrics.percent(row, 'test', args.metric)}"
        common.tell(f"{row['name']}: {tested}, an interval of 95 %")
        if rests := searching.rests_on(tables[row["name"]], space, [row["arch"]]):
            common.tell(f"{row['name']}: {rests}")
        common.tell(f"→ {folder.specialised_path / row['file']}")
    common.tell(f"→ {folder.specialised_path / 'networks.png'}")
    first = specialise.configuration(folder, rows[0]["name"])
    common.next_command("retrain", args, "--inherit", after=("--arch-config", first), note="trains one of them further")
    common.answer(args, folder.specialised_path / "networks.json")


def named(luts: Sequence[str]) -> dict[str, tuple[Path, float | None]]:
    """Tables and their bounds, by the names of the files; with the bound where two files have one name."""
    given = [table_and_bound(text) for text in luts]
    stems = [path.stem for path, _ in given]
    found: dict[str, tuple[Path, float | None]] = {}
    for path, bound in given:
        name = path.stem if stems.count(path.stem) == 1 or bound is None else f"{path.stem}-{bound:g}ms"
        if name in found:
            raise UserError(f"--lut: two devices are called {name}: rename one of the files, or give other bounds")
        found[name] = path, bound
    return found


def table_and_bound(text: str) -> tuple[Path, float | None]:
    """``phone.json:70`` in its parts."""
    path, colon, bound = text.rpartition(":")
    if not colon:
        return Path(text), None
    try:
        ms = float(bound)
    except ValueError:
        ms = math.nan
    if not 0 < ms < math.inf:
        raise UserError(f"--lut {text}: expected a table and its bound in ms, such as phone.json:70")
    return Path(path), ms


main = starting.entry(run, Args, after=report.leave_page)
