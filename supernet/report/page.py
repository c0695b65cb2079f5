"""One HTML page about a run: the network, its test, the search, the device, the supernet."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from latency.table import Calibration, LatencyTable
from search import drawing
from search import front as fronts
from search.ask_tell import Record
from supernet import answers, families, metrics
from supernet.families import layerwise
from supernet.report import columns
from supernet.report.pieces import axes_of, image, page, paragraph, section, table
from supernet.runs import RunFolder
from supernet.space import Space
from supernet.spec import LayerSpec

CLASSES = 30  # that have a row each


@dataclass(frozen=True)
class Run:
    """What a run folder holds; None or empty where a step has not been done."""

    folder: RunFolder
    config: dict[str, Any]
    space: Space
    metrics: list[dict[str, Any]]
    lut: LatencyTable | None
    front: dict[str, Any] | None
    scored: list[dict[str, Any]]
    results: dict[str, dict[str, Any]]  # of networks trained alone, by folder: the picked ones first
    earlier: list[str] = field(default_factory=list)  # networks that were trained for an earlier search
    classes: tuple[list[dict[str, Any]], np.ndarray] | None = None  # of the first network's test, and their confusion

    @classmethod
    def load(cls, folder: RunFolder) -> Run:
        """Read a run; a UserError where there is none or a file is damaged."""
        config, space = folder.config(), folder.space()
        front = folder.front(space) if folder.front_path.exists() else None
        results = folder.results()
        if folder.arch_path.exists():  # a search that ends with one network names it once
            results = {name: {"arch": folder.found()["arch"], **row} for name, row in results.items()}
        results = {name: row for name, row in results.items() if "arch" in row}
        earlier = [name for name, row in results.items() if folder.stale(name, tuple(row["arch"]), front)]
        told = next((folder.network(name).classes_path for name in results if name not in earlier), None)
        return cls(
            folder,
            config,
            space,
            folder.metrics.read(),
            LatencyTable.find(folder.lut_path, space),
            front,
            folder.population.read(),
            {name: row for name, row in results.items() if name not in earlier},
            earlier,
            answers.read(told) if told is not None and told.exists() else None,
        )

    @property
    def picked(self) -> dict[str, dict[str, Any]]:
        """The trained networks that are no controls."""
        return {name: row for name, row in self.results.items() if not name.startswith("random-")}

    @property
    def winner(self) -> tuple[str, dict[str, Any]] | None:
        """The network that the page is about: the first one trained, else the best of the front."""
        if self.picked:
            return next(iter(self.picked.items()))
        return ("best", self.front["front"][self.front["best"]]) if self.front else None


def render(run: Run, commands: Iterable[str] = ()) -> str:
    """The page.

    Args:
        commands: command lines to show, on what to do with the network.
    """
    found = [network(run), tested(run), classes(run), search(run)]
    parts = [heading(run), *found, device(run), supernet(run), settings(run, commands)]
    return page(f"{run.space.name}, {run.config['data']}", parts)


# --- the sections; each is empty where the run has nothing to tell


def heading(run: Run) -> str:
    done = "No network is trained yet"
    if run.winner:
        name, row = run.winner
        if "test_accuracy" in row:
            facts = [f"{metrics.percent(row, 'test')} in the test"]
        else:  # DSNAS scores no path
            facts = [f"{100 * row['one_shot_accuracy']:.2f} % one-shot" if "one_shot_accuracy" in row else "found"]
        ms = row.get("measured_latency_ms", row.get("latency_ms"))
        facts.append(f"{ms:.3g} ms {'measured' if 'measured_latency_ms' in row else 'predicted'}" if ms else "")
        done = f"{name}: {', '.join(fact for fact in facts if fact)}"
    where = f" on {run.lut.device.get('cpu', 'the device')}, {run.lut.runtime['name']}" if run.lut else ""
    images = f"{run.config['data']}, {run.space.channels}×{run.space.input_size}"
    lead = f"{images}; {run.space.name}, {run.space.size:,} architectures{where}"
    return f"<h1>{html.escape(done)}</h1>\n<p>{html.escape(lead)}</p>"


def network(run: Run) -> str:
    if run.winner is None:
        return ""
    name, row = run.winner
    specs = families.lower(run.space, tuple(row["arch"]))
    drawn = [drawing.Block(spec.out_size, spec.out_channels, label(spec)) for spec in specs[1:-1]]
    columns = ["layer", "input", "output channels", "M multiply-adds", "k parameters"]
    rows = [
        [label(s), f"{s.in_channels} × {s.size}", str(s.out_channels), f"{s.flops / 1e6:.3g}", f"{s.params / 1e3:.3g}"]
        for s in specs
    ]
    if run.lut:
        total = run.lut.predict(spec.key for spec in specs)
        columns += ["ms", "share"]
        for cells, spec in zip(rows, specs, strict=True):
            ms = run.lut.price(spec)
            guess = " (predicted)" if run.lut.guessed([spec]) else ""
            cells += [f"{ms:.3g}{guess}", f"{ms / total:.0%}"]
    picture = image(lambda file: drawing.draw(file, {name: drawn}), "the layers of the network") if drawn else ""
    return section("The network", picture, table(columns, rows))


def label(spec: LayerSpec) -> str:
    """An operation in words: ``ib k5 e4``."""
    return " ".join([spec.op] + [f"k{spec.kernel}"] * (spec.kernel > 0) + [f"e{spec.expand}"] * (spec.expand > 0))


def tested(run: Run) -> str:
    results = {name: row for name, row in run.results.items() if "test_accuracy" in row}
    if not results:
        return ""
    picked, shown = {name: row for name, row in results.items() if name in run.picked}, columns.shared(results.values())
    rows = [[name, *(form.format(scale * row[key]) for _, key, scale, form in shown)] for name, row in results.items()]
    known = set.intersection(*map(set, results.values()))
    cost = next((c for c in ("measured_latency_ms", "latency_ms", "flops", "params") if c in known), "")

    def plot(file: BinaryIO) -> None:
        figure, axes = axes_of(6, 3.6)
        for names, style, name in (
            (picked, {"color": "tab:blue", "marker": "o"}, "picked"),
            ([n for n in results if n not in picked], {"color": "tab:orange", "marker": "x"}, "random"),
        ):
            rows = [results[n] for n in names]
            if rows:
                axes.scatter([r[cost] for r in rows], [100 * r["test_accuracy"] for r in rows], label=name, **style)
        axes.set(xlabel=cost.replace("_", " ").replace(" ms", " (ms)"), ylabel="test accuracy (%)")
        axes.legend(fontsize=8)
        figure.savefig(file)

    headings = ["trained alone", *(c[0] for c in shown)]
    picture = image(plot, "test accuracy over cost") if cost and len(results) > 1 else ""
    told = [paragraph(line) for line in ("; ".join(columns.told(results)), columns.gain(results)) if line]
    return section("Trained alone, tested once", table(headings, rows, picked), *told, picture)


def classes(run: Run) -> str:
    """How the first network does on each class, the worst first, and what it takes them for."""
    if run.classes is None:
        return ""
    rows, confusion = run.classes
    worst = sorted((row for row in rows if row["images"]), key=lambda row: row["recall"])
    cells = []
    for row in worst[:CLASSES]:
        low, high = metrics.interval([round(row["recall"] * row["images"])], [row["images"]])
        recall = f"{100 * row['recall']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        cells.append([row["name"], f"{row['images']:,}", recall, f"{100 * row['precision']:.1f}"])
    shown = table(["class", "images", "found, %", "right where it is said, %"], cells)
    left = paragraph(f"The {CLASSES} worst of {len(rows)} classes.") if len(rows) > CLASSES else ""
    names = [row["name"] for row in rows]
    picture = image(lambda file: answers.draw(file, confusion, names), "what each class is taken for")
    return section("The classes", shown, left, picture)


def search(run: Run) -> str:
    front = run.front
    if front is None or "objectives" not in front:  # a search of another kind, as DSNAS's
        return ""

    def records(entries: Iterable[dict[str, Any]]) -> list[Record]:
        costs = [{k.removesuffix("_ms"): v for k, v in e.items() if isinstance(v, int | float)} for e in entries]
        return [Record(tuple(e["arch"]), e["one_shot_accuracy"], c, 0, 0) for e, c in zip(entries, costs, strict=True)]

    objectives, found, random = front["objectives"], records(front["front"]), records(front["random"])
    told = [line for line in run.scored if line["costs"].keys() >= set(objectives)]
    scored = [Record(tuple(s["arch"]), s["accuracy"], s["costs"], s["generation"], 0) for s in told]
    low, high = front["bounds"].get(objectives[0], [0.0, None])
    metric = front.get("metric", metrics.TOP1)
    bound = (low or 0.0, math.inf if high is None else high)
    title = f"{front['algorithm']}, {front['evaluated']} architectures scored"
    picture = image(
        lambda file: fronts.plot(file, scored, found, random, bound, title, objectives, metric), "accuracy over cost"
    )
    shown = columns.shared(front["front"])
    rows = [
        [str(i), *(form.format(scale * entry[key]) for _, key, scale, form in shown), entry["layers"]]
        for i, entry in enumerate(front["front"])
    ]
    inside = table(["", *(c[0] for c in shown), "layers"], rows, [str(front["best"])])
    return section(
        "The search", picture, f"<details><summary>The front: {len(rows)} architectures</summary>{inside}</details>"
    )


def device(run: Run) -> str:
    lut = run.lut
    if lut is None:
        return ""
    noisy = sum(sample.noisy for sample in lut.operations.values())
    text = (
        f"{lut.device.get('cpu', 'device')}, {lut.runtime['name']} {lut.runtime.get('version', '')}, "
        f"batch {lut.batch}, threads {lut.threads}: {len(lut.operations)} layers, {noisy} of them noisy."
    )
    parts = [paragraph(text)]
    if predicted := lut.describe_predictions():
        parts.append(paragraph(f"Predicted: {predicted}. Latencies of networks that have such layers rest on that."))
    found = lut.calibration
    if found:
        error = "" if found.held_out_mape is None else f"; mean error {found.held_out_mape:.1%}"
        rank = "" if found.held_out_spearman is None else f", Spearman {found.held_out_spearman:.3f}"
        held = f"Whole networks: {found.describe()}"
        parts.append(paragraph(f"{held}{error}{rank} on {len(found.held_out)} others."))
        parts.append(image(lambda file: plot_check(file, found), "predicted and measured latencies"))
    layers = families.layout(run.space)
    if isinstance(layers, layerwise.Layers):
        parts.insert(
            1, image(lambda file: plot_layers(file, run.space, lut, layers), "latency of every candidate layer")
        )
    return section("The device", *parts)


def plot_check(file: BinaryIO, calibration: Calibration) -> None:
    """Whole networks: what the table predicts against what was measured."""
    figure, axes = axes_of(5, 3.6)
    for checks, color, name in (
        (calibration.fitted_on, "0.6", "fitted on"),
        (calibration.held_out, "tab:blue", "held out"),
    ):
        predicted = [calibration.predict(c) for c in checks]
        axes.scatter(predicted, [c.measured_ms for c in checks], color=color, label=name)
    ends = [min(*axes.get_xlim(), *axes.get_ylim()), max(*axes.get_xlim(), *axes.get_ylim())]
    axes.plot(ends, ends, color="0.4", linestyle=":", linewidth=1)
    axes.set(xlabel="predicted (ms)", ylabel="measured (ms)")
    axes.legend(fontsize=8)
    figure.savefig(file)


def plot_layers(file: BinaryIO, space: Space, lut: LatencyTable, layers: layerwise.Layers) -> None:
    """A heat map: candidate operation × layer, in microseconds; open choices only."""
    names = list(dict.fromkeys(choice.name for gene in space.genes for choice in gene.choices))
    values = np.full((len(names), len(space.genes)), math.nan)
    for column, (gene, open_) in enumerate(zip(space.genes, space.allowed, strict=True)):
        for choice in open_:
            values[names.index(gene.choices[choice].name), column] = 1e3 * lut.price(layers.choices[column][choice])
    figure, axes = axes_of(2 + 0.5 * values.shape[1], 1.2 + 0.27 * len(names))
    shown = axes.imshow(values, aspect="auto", cmap="Blues")
    middle = np.nanmax(values) / 2
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            color = "white" if value > middle else "black"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=6, color=color)
    axes.set(xlabel="layer", yticks=range(len(names)), yticklabels=names, xticks=range(values.shape[1]))
    axes.grid(False)
    figure.colorbar(shown, label="µs")
    figure.savefig(file)


def supernet(run: Run) -> str:
    lines = [line for line in run.metrics if "loss" in line]
    if not lines:
        return ""

    def plot(file: BinaryIO) -> None:
        figure, left = axes_of(6, 3.2)
        epochs, right = [line["epoch"] for line in lines], left.twinx()
        left.plot(epochs, [line["loss"] for line in lines], color="tab:gray", marker=".")
        left.set(xlabel="epoch", ylabel="training loss (grey)")
        told = [line for line in lines if "val_accuracy" in line]
        right.plot([x["epoch"] for x in told], [100 * x["val_accuracy"] for x in told], color="tab:blue", marker="o")
        right.set(ylabel="validation accuracy (%, blue)")
        left.xaxis.get_major_locator().set_params(integer=True)
        figure.savefig(file)

    last, method = lines[-1], run.config.get("method", "spos").upper()
    speed = f", {last['images_per_second']:,.0f} images/s in the last one" if "images_per_second" in last else ""
    return section(
        "The supernet",
        paragraph(f"{method}, {last['epoch']} epochs{speed}."),
        image(plot, "loss and accuracy over the epochs"),
    )


def settings(run: Run, commands: Iterable[str]) -> str:
    text = html.escape(json.dumps(run.config, indent=1))
    parts = [f"<details><summary>Settings of the supernet</summary><pre>{text}</pre></details>"]
    if run.picked:
        name = next(iter(run.picked))
        code = f"from supernet import load_network\n\nnetwork = load_network({str(run.folder.network(name).path)!r})"
        parts += [f"<pre>{html.escape(text)}</pre>" for text in (code, *commands)]
    return section("Use it, make it again", *parts)
