"""One network for each device from one supernet, without training: once-for-all (Cai et al., 2020, §3.4).

Each device has its own latency table and bound. A search for one of them scores architectures that the others may
take as well: an accuracy does not depend on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from search import nsga2, priced
from search.ask_tell import Record, Search
from search.costs import TableCost
from search.evaluator import Stream
from search.guided import GuidedConfig, GuidedSearch
from search.run import entry
from search.scores import Scores
from supernet import files, metrics
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.export import companions, formats, int8, networks
from supernet.export.card import Accuracy
from supernet.footprint import Precision
from supernet.metrics import TOP1, Metric
from supernet.model import Supernet
from supernet.progress import Progress, silent
from supernet.quantities import digits, several
from supernet.runs import RunFolder
from supernet.space import Arch, Space
from supernet.spec import Price
from supernet.tables import Table
from supernet.training import evaluation

LATENCY = "latency"
INT8 = int8.Settings()


@dataclass(frozen=True)
class Target:
    """A device and what a network may take there.

    Args:
        price: latency of a layer, in ms. table: where it is from, in plain JSON.
        batch: images of one run.
        wanted: bound in ms; None: ``priced.default_bound``.
        limits: on ``flash`` and ``ram`` in bytes of ``precision``, where there are any.
        promises: whether its file is run by what the table is of, so that its card has the latency.
    """

    name: str
    space: Space
    price: Price
    table: Mapping[str, Any]
    batch: int = 1
    wanted: float | None = None
    limits: Mapping[Any, float] = field(default_factory=dict)
    precision: Precision = "float32"
    promises: bool = True

    @cached_property
    def costs(self) -> dict[str, TableCost]:
        """Every cost by name, ``latency`` in ms on this device."""
        memory = priced.memory(self.space, self.precision) if self.limits else {}
        return {**priced.costs(self.space, {LATENCY: self.price}), **memory}

    @cached_property
    def bound(self) -> float:
        """The most that a network may take, in ms; a UserError where none is as fast."""
        try:
            return priced.window(self.space, self.costs[LATENCY], 0.0, self.wanted)[1]
        except UserError as error:
            raise error.of(self.name) from error

    def search(self, budget: GuidedConfig) -> Search:
        """The search for this device; a UserError where nothing meets the bound."""
        bounds = {name: (0.0, bound) for name, bound in {LATENCY: self.bound, **self.limits}.items()}
        return GuidedSearch(self.space, self.costs, bounds, [LATENCY], budget)

    def allows(self, record: Record) -> bool:
        """Whether a network is within all bounds."""
        return all(record.costs[name] <= bound for name, bound in {LATENCY: self.bound, **self.limits}.items())

    def record(self, arch: Arch, accuracy: float) -> Record:
        """An architecture with what it costs here."""
        return Record(arch, accuracy, {name: float(cost(arch)) for name, cost in self.costs.items()}, 0, 0)


@dataclass(frozen=True)
class Specialised:
    """What was found for a device.

    Args:
        scored: everything that was ever scored on this supernet, with its costs on this device.
    """

    target: Target
    scored: Sequence[Record]

    @cached_property
    def front(self) -> list[Record]:
        """What is within the bound and not dominated in accuracy and latency, the fastest first."""
        within = [record for record in self.scored if self.target.allows(record)]
        values = np.array([[-record.accuracy, record.costs[LATENCY]] for record in within])
        ranks = nsga2.fast_non_dominated_sort(values)
        first = [record for record, rank in zip(within, ranks, strict=True) if rank == 1]
        return sorted(first, key=lambda record: (record.costs[LATENCY], record.arch))

    @property
    def best(self) -> Record:
        """The most accurate network within the bound, the fastest of them."""
        return max(self.front, key=lambda record: record.accuracy)


def specialise(
    targets: Sequence[Target], searches: Sequence[Search], scores: Scores, progress: Progress = silent
) -> list[Specialised]:
    """Search for every device, one after the other, and take for each what is best for it of all that was scored.

    A stopped search begins again; what it scored is known then.

    Args:
        searches: those of the targets, not begun.
    """
    for target, search in zip(targets, searches, strict=True):
        with progress(target.name, search.config.evaluations, unit="evaluations") as bar:
            while not search.done:
                archs = search.ask()
                search.tell(archs, scores(archs, bar))
                bar.advance(0, text=f"best {100 * search.history[-1]['best_accuracy']:.2f} %")
    known = scores.known.items()
    return [Specialised(target, [target.record(arch, accuracy) for arch, accuracy in known]) for target in targets]


def write(
    run: RunFolder,
    found: Sequence[Specialised],
    suffixes: Mapping[str, str],
    supernet: Supernet,
    recalibration: Stream[Tensor],
    data: TrainVal,
    test: ImageSet,
    measure: Callable[[Target, Arch], float | None],
    progress: Progress = silent,
    settings: int8.Settings = INT8,
) -> list[dict[str, Any]]:
    """The networks with the supernet's weights as files, a folder for each with what deploys it; ``networks.json`` and
    ``networks.png`` beside these.

    Args:
        suffixes: formats of the files by the names of the targets.
        recalibration: images that BN statistics are taken from. data: those of training and validation.
        test: images that each file is tested on, once.
        measure: latency of a whole network on a device in ms; None where that cannot be done here.
        settings: of files on 8-bit values, and the metric by which the networks were scored.

    Returns:
        What ``networks.json`` has of each network: name, bound and latencies in ms, accuracies in [0, 1], counts, its
        file in ``specialised_path``.
    """
    folder, rows, metric = run.specialised_path, [], settings.metric
    images = networks.Images(data.train.preparation, data.class_names)
    with progress("networks", len(found), unit="networks") as bar:
        for one in found:
            target, best = one.target, one.best
            bar.advance(0, text=f"{target.name}, tested on {several(len(test), 'image')}")
            made = networks.recalibrated(supernet, best.arch, recalibration)
            path, table = file(run, target.name, suffixes[target.name]), target.table
            promise = (best.costs[LATENCY], table) if target.promises else ()
            card = networks.card(run, target.space, made, images, *promise)
            card = replace(card, batch=target.batch)
            if target.precision == "int8":
                answers = networks.write_int8(made, path, card, data, settings, test=test).tested
                assert answers is not None  # as there are test images
                tested = answers.result("test")
            else:
                tested = evaluation.shared_answers(made.network, test).result("test")
                scored = {"val_accuracy": best.accuracy} if metric == TOP1 else {}
                accuracy = Accuracy.of(tested | scored, metric, card.accuracy.size)
                networks.write(made, path, replace(card, accuracy=accuracy))
            known = {"name": target.name, "bound_ms": target.bound, **entry(best), **tested}
            known |= {"layers": target.space.describe(best.arch), "file": path.relative_to(folder).as_posix(), **table}
            for kept in companions.write(path, formats.read_card(path)):
                logging.getLogger("supernet").warning("%s is somebody's and stays: none for %s", kept, path.name)
            measured = measure(target, best.arch)
            rows.append(known | ({} if measured is None else {"measured_latency_ms": measured}))
            files.write_json(configuration(run, target.name), {"arch": list(best.arch)})
            bar.advance()
    told = {"schema": 1, "space": {"name": supernet.space.name, "fingerprint": supernet.space.fingerprint}}
    files.write_json(folder / "networks.json", {**told, "made_from": run.origin(), "metric": metric, "networks": rows})
    plot(folder / "networks.png", found)
    return rows


def file(run: RunFolder, name: str, suffix: str) -> Path:
    """Where the network for a device lies: in a folder of its own, as a script and a README lie beside it."""
    return run.specialised_path / name / f"{name}.{suffix}"


def configuration(run: RunFolder, name: str) -> Path:
    """Where the architecture for a device lies, in the form that ``supernet.configurations`` reads."""
    return run.specialised_path / name / "arch.json"


def table(rows: Sequence[Mapping[str, Any]], metric: Metric = TOP1) -> Table:
    """The networks side by side, for people."""
    times = ("bound_ms", "latency_ms", "measured_latency_ms")
    accuracies = ("one_shot_accuracy", metrics.key("test", metric))
    cells = [
        [
            row["name"],
            *(digits(row[key]) if key in row else "–" for key in times),
            digits(row["flops"] / 1e6),
            *(f"{100 * row[key]:.2f}" for key in accuracies),
        ]
        for row in rows
    ]
    headings = ["", "bound ms", "predicted ms", "measured ms", "MFLOPs"]
    headings += [f"{part} {metrics.HEADINGS[metric]}%" for part in ("one-shot", "test")]
    return Table(headings, cells, "specialised networks, as they are in the supernet")


def plot(file: Path | BinaryIO, found: Sequence[Specialised]) -> None:
    """Draw accuracy over latency for each device: what was scored, its front, its bound, its network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.8 + 3.4 * len(found), 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, one in zip(panels, found, strict=True):
        scored, front = (_points(records) for records in (one.scored, one.front))
        axes.scatter(*scored, s=8, color="0.75", linewidths=0, label="scored")
        axes.plot(*front, color="tab:blue", marker="o", markersize=3, linewidth=1.2, label="front")
        axes.axvline(one.target.bound, color="0.4", linestyle=":", linewidth=1, label="bound")
        axes.plot(*_points([one.best]), color="tab:orange", marker="*", markersize=12, linestyle="", label="chosen")
        axes.set(xlabel="predicted latency (ms)", title=f"{one.target.name}: {digits(one.best.costs[LATENCY])} ms")
        axes.grid(alpha=0.2)
    panels[0].set_ylabel("one-shot accuracy (%)")
    panels[0].legend(fontsize=8, loc="lower right")
    figure.savefig(file)


def _points(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    return [r.costs[LATENCY] for r in records], [100 * r.accuracy for r in records]
