"""One HTML page about a run: what was found, its tests, the device, the supernet."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latency.table import LatencyTable
from search import ranking
from supernet import families, metrics
from supernet.families import layerwise
from supernet.quantities import digits, several
from supernet.report import columns, explorer, methods, pieces, taken
from supernet.report.charts import Matrix, Plot, Series
from supernet.report.explorer import label
from supernet.report.load import Run
from supernet.report.pieces import code, details, images, page, paragraph, place, section, table

CLASSES = 30  # that have a row each
COUNTS = 15  # classes whose confusion has its numbers
MATRIX = 100  # classes whose confusion is shown whole


class Page:
    """A page about one run or several, section by section.

    Args:
        runs: the first one is what the page is about; the others are compared with it.
        commands: what to do with an architecture, by the run's name. more: of the first run's network.
        reload: seconds after which the page loads itself again; None: never.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        commands: Mapping[str, Sequence[str]] | None = None,
        more: Sequence[str] = (),
        reload: int | None = None,
    ):
        self.runs, self.run, self.commands, self.more, self.reload = runs, runs[0], commands or {}, more, reload
        self.plots: dict[str, Plot] = {}
        self.matrices: dict[str, Matrix] = {}
        self.networks: dict[str, list[tuple[str, int, int]]] = {}

    def render(self) -> str:
        """All of it."""
        asked = explorer.data(self.runs, self.commands)
        parts = [
            heading(next((run for run in (self.run, *reversed(self.runs)) if run.winner), self.run)),
            compared(self.runs),
            section("Architectures", "<div data-explorer></div>") if asked else "",
            *(
                each(self)
                for each in (front, network, tested, classes, *methods.SECTIONS, device, supernet, taken.section)
            ),
            settings(self.run, self.more),
        ]
        plots = {name: plot.to_json() for name, plot in self.plots.items()}
        data = {"plots": plots, "networks": self.networks, "explorer": asked, "reload": self.reload}
        if asked:  # for figures; the page has its own
            self.plots["architectures"] = explorer.plot(asked)
        return page(f"{self.run.space.name}, {self.run.images}: {self.run.name}", parts, data)

    def chart(self, name: str, plot: Plot) -> str:
        """A plot in its place on the page."""
        self.plots[name] = plot
        return place("plot", name, plot.title)

    def matrix(self, name: str, matrix: Matrix) -> str:
        """Numbers in a table of the page, to be a picture of this name."""
        if matrix.rows and matrix.columns:
            self.matrices[name] = matrix
        return pieces.matrix(matrix)

    def drawn(self, name: str, blocks: list[tuple[str, int, int]], caption: str) -> str:
        """A network in its place: of each layer the operation, the channels and the height of its output."""
        self.networks[name] = blocks
        return place("network", name, caption)


# --- the sections; each is empty where the run has nothing to tell


def heading(run: Run) -> str:
    done = "No network is trained yet"
    if run.winner:
        name, row = run.winner
        if "test_accuracy" in row:
            metric = columns.metric_of({name: row})
            facts = [f"{metrics.HEADINGS[metric]}{metrics.percent(row, 'test', metric)} in the test"]
        elif "one_shot_accuracy" in row:
            metric = (run.front or {}).get("metric", metrics.TOP1)
            facts = [f"{metrics.HEADINGS[metric]}{100 * row['one_shot_accuracy']:.2f} % one-shot"]
        else:  # DSNAS scores no path
            facts = ["found"]
        ms = row.get("measured_latency_ms", row.get("latency_ms"))
        facts.append(f"{digits(ms)} ms {'measured' if 'measured_latency_ms' in row else 'predicted'}" if ms else "")
        done = f"{name}: {', '.join(fact for fact in facts if fact)}"
    where = f" on {run.lut.device.get('cpu', 'the device')}, {run.lut.runtime['name']}" if run.lut else ""
    images = f"{run.images}, {run.space.channels}×{run.space.input_size}"
    lead = f"{images}; {run.space.name}, {several(run.space.size, 'architecture')}{where}"
    return f"<h1>{html.escape(done)}</h1>\n<p>{html.escape(lead)}</p>"


def compared(runs: Sequence[Run]) -> str:
    """Several runs, a row each, and the settings that differ."""
    if len(runs) < 2:
        return ""
    best = [run.winner[1] if run.winner else {} for run in runs]
    shown = [c for c in columns.COLUMNS if any(c[1] in row for row in best)]
    rows = [
        [run.name, *(form.format(scale * row[key]) if key in row else "" for _, key, scale, form in shown)]
        for run, row in zip(runs, best, strict=True)
    ]
    plain = [{key: _plain(value) for key, value in run.config.items() if key != "made_with"} for run in runs]
    shared = set.intersection(*map(set, plain))
    keys = sorted(key for key in shared if len({one[key] for one in plain}) > 1)
    differ = [[key, *(one[key] for one in plain)] for key in keys]
    settings = table(["setting", *(run.name for run in runs)], differ) if differ else ""
    return section("The runs", table(["the best of", *(c[0] for c in shown)], rows), settings)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def front(page: Page) -> str:
    """What the search found, in numbers."""
    found = page.run.front
    if found is None or "objectives" not in found:  # a search of another kind, as DSNAS's
        return ""
    shown = columns.shared(found["front"])
    rows = [
        [str(i), *(form.format(scale * entry[key]) for _, key, scale, form in shown), entry["layers"]]
        for i, entry in enumerate(found["front"])
    ]
    inside = table(["front", *(c[0] for c in shown), "layers"], rows, [str(found["best"])])
    told = f"{found['algorithm']}, {several(found['evaluated'], 'architecture')} scored."
    return paragraph(told) + details(f"The front: {several(len(rows), 'architecture')}", inside)


def network(page: Page) -> str:
    run = page.run
    if run.winner is None:
        return ""
    name, row = run.winner
    specs = [spec for spec in families.lower(run.space, tuple(row["arch"])) if spec.runs]
    headings = ["layer", "input", "output channels", "M multiply-adds", "k parameters"]
    rows = [
        [label(s), f"{s.in_channels} × {s.size}", str(s.out_channels), digits(s.flops / 1e6), digits(s.params / 1e3)]
        for s in specs
    ]
    if run.lut:
        total = run.lut.predict(spec.key for spec in specs)
        headings += ["ms", "share"]
        for cells, spec in zip(rows, specs, strict=True):
            ms = run.lut.price(spec)
            guess = " (predicted)" if run.lut.guessed([spec]) else ""
            cells += [f"{digits(ms)}{guess}", f"{100 * ms / total:.0f} %"]
    blocks = [(label(spec), spec.out_channels, spec.out_size.height) for spec in specs]
    caption = "A block for each layer: as wide as it has channels, as high as its feature map."
    return section("The network", page.drawn(name, blocks, caption), table(headings, rows))


def tested(page: Page) -> str:
    results = {name: row for name, row in page.run.results.items() if "test_accuracy" in row}
    if not results:
        return ""
    picked, shown = [name for name in results if name in page.run.picked], columns.shared(results.values())
    rows = [[name, *(form.format(scale * row[key]) for _, key, scale, form in shown)] for name, row in results.items()]
    told = [paragraph(line) for line in ("; ".join(columns.told(results)), columns.gain(results)) if line]
    return section(
        "Trained alone, tested once",
        table(["network", *(c[0] for c in shown)], rows, picked),
        *told,
        alone(page),
        curves(page),
    )


def curves(page: Page) -> str:
    """How the networks' validation accuracies grew, where they were trained for several epochs."""
    series = []
    for name in page.run.results:
        lines = [line for line in page.run.folder.network(name).metrics.read() if "val_accuracy" in line]
        epochs, accuracies = [line["epoch"] for line in lines], [100 * line["val_accuracy"] for line in lines]
        series += [Series(name, epochs, accuracies, "line")] if len(lines) > 1 else []
    return page.chart("curves", Plot("trained alone", "epoch", "validation accuracy, %", series)) if series else ""


def alone(page: Page) -> str:
    """One-shot accuracies against those alone, where several networks have both."""
    both = {n: r for n, r in page.run.results.items() if {"test_accuracy", "one_shot_accuracy"} <= r.keys()}
    if len(both) < 2:
        return ""
    groups = {
        "picked": [name for name in both if name in page.run.picked],
        "random": [name for name in both if name not in page.run.picked],
    }
    series = [
        Series(
            kind,
            [100 * both[name]["one_shot_accuracy"] for name in names],
            [100 * both[name]["test_accuracy"] for name in names],
            labels=names,
            error=[50 * (ends[1] - ends[0]) for name in names if (ends := metrics.interval_of(both[name], "test"))],
        )
        for kind, names in groups.items()
        if names
    ]
    series = [one if len(one.error) == len(one.x) else dataclasses.replace(one, error=()) for one in series]
    chart = page.chart("alone", Plot("in the supernet, and trained alone", "one-shot, %", "test, %", series))
    if len(both) < 3:
        return chart
    one_shot, test = ([row[key] for row in both.values()] for key in ("one_shot_accuracy", "test_accuracy"))
    found = ranking.rank(one_shot, test, draws=200)
    order = f"Kendall's τ of these {found.n} networks: {ranking.show(found.tau, found.tau_interval)}."
    return chart + paragraph(order)


def classes(page: Page) -> str:
    """How the first network does on each class, the worst first, and what it takes them for."""
    if page.run.classes is None:
        return ""
    rows, confusion = page.run.classes
    worst = sorted((row for row in rows if row["images"]), key=lambda row: row["recall"])
    cells = []
    for row in worst[:CLASSES]:
        low, high = metrics.interval([round(row["recall"] * row["images"])], [row["images"]])
        recall = f"{100 * row['recall']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        cells.append([row["name"], f"{row['images']:,}", recall, f"{100 * row['precision']:.1f}"])
    shown = table(["class", "images", "found, %", "right where it is said, %"], cells)
    left = paragraph(f"The {CLASSES} worst of {len(rows)} classes.") if len(rows) > CLASSES else ""
    names = [row["name"] for row in rows]
    shares = 100 * confusion / confusion.sum(1, keepdims=True).clip(1)
    title = "images of the class in a row that are taken for that in the column, %"
    form = "{:.0f}" if len(names) <= COUNTS else ""
    whole = page.matrices["confusion"] = Matrix(title, names, names, shares.tolist(), form)
    taken_for = (
        pieces.matrix(whole)
        if len(names) <= MATRIX
        else table(["class", "taken for", "images", "of the class, %"], mixed_up(names, confusion))
    )
    return section("The classes", shown, left, taken_for, gallery(page.run))


def mixed_up(names: Sequence[str], confusion: np.ndarray) -> list[list[str]]:
    """The pairs of classes with most images of the one that are taken for the other, a row each."""
    wrong = confusion * (1 - np.eye(len(names), dtype=confusion.dtype))
    most = np.argsort(-wrong, axis=None, kind="stable")[:CLASSES]
    pairs = [pair for pair in zip(*np.unravel_index(most, wrong.shape), strict=True) if wrong[pair]]
    return [[names[i], names[j], f"{wrong[i, j]:,}", f"{100 * wrong[i, j] / confusion[i].sum():.1f}"] for i, j in pairs]


def gallery(run: Run) -> str:
    """The test images that the first network is surely wrong about."""
    if run.mistakes is None or not run.mistakes["images"]:
        return ""
    pictures = [
        (row["png"], f"{row['class']}, taken for {row['taken_for']}, {100 * row['sure']:.0f} % sure")
        for row in run.mistakes["images"]
    ]
    told = paragraph(f"The surest mistakes among {run.mistakes['of']:,} of the test images:")
    return told + images(pictures)


def device(page: Page) -> str:
    return section("The device", *(part for table in page.run.tables.values() for part in measured(page, table)))


def measured(page: Page, lut: LatencyTable) -> list[str]:
    """A latency table: what it says of layers, and how far it is right on whole networks."""
    noisy = sum(sample.noisy for sample in lut.operations.values())
    text = (
        f"{lut.device.get('cpu', 'device')}, {lut.runtime['name']} {lut.runtime.get('version', '')}, "
        f"batch {lut.batch}, {several(lut.threads, 'thread')}: {several(len(lut.operations), 'layer')}, {noisy} noisy."
    )
    parts = [paragraph(text)]
    layers = families.layout(page.run.space)
    if isinstance(layers, layerwise.Layers):
        parts.append(page.matrix(f"candidates-{len(page.matrices)}", candidates(page.run, lut, layers)))
    if predicted := lut.describe_predictions():
        parts.append(paragraph(f"Predicted: {predicted}. Latencies of networks that have such layers rest on that."))
    if found := lut.calibration:
        error = "" if found.held_out_mape is None else f"; mean error {100 * found.held_out_mape:.1f} %"
        rank = "" if found.held_out_spearman is None else f", Spearman {found.held_out_spearman:.3f}"
        held = f"Whole networks: {found.describe()}"
        parts.append(paragraph(f"{held}{error}{rank} on {several(len(found.held_out), 'other')}."))
        checks = {"held out": found.held_out, "fitted on": found.fitted_on}
        series = [
            Series(name, [found.predict(c) for c in made], [c.measured_ms for c in made])
            for name, made in checks.items()
        ]
        plot = Plot("whole networks: predicted and measured", "predicted, ms", "measured, ms", series, diagonal=True)
        parts.append(page.chart(f"latency-{len(page.plots)}", plot))
    return parts


def candidates(run: Run, lut: LatencyTable, layers: layerwise.Layers) -> Matrix:
    """Candidate operation × layer, in microseconds; open choices only."""
    names = list(dict.fromkeys(choice.name for gene in run.space.genes for choice in gene.choices))
    values = [[math.nan] * len(run.space.genes) for _ in names]
    for column, (gene, open_) in enumerate(zip(run.space.genes, run.space.allowed, strict=True)):
        for choice in open_:
            price = lut.price(layers.choices[column][choice])
            values[names.index(gene.choices[choice].name)][column] = 1e3 * price
    places = [str(i) for i in range(len(run.space.genes))]
    return Matrix("each candidate operation in each layer, µs", names, places, values)


def supernet(page: Page) -> str:
    lines = [line for line in page.run.metrics if "loss" in line]
    if not lines:
        return ""
    last, method = lines[-1], page.run.config.get("method", "spos").upper()
    speed = f", {last['images_per_second']:,.0f} images/s in the last one" if "images_per_second" in last else ""
    loss = Series("loss", [line["epoch"] for line in lines], [line["loss"] for line in lines], "line")
    parts = [
        paragraph(f"{method}, {several(last['epoch'], 'epoch')}{speed}."),
        page.chart("loss", Plot("training", "epoch", "loss", [loss])),
    ]
    series = []
    for run in page.runs:
        told = [line for line in run.metrics if "val_accuracy" in line]
        epochs, means = [line["epoch"] for line in told], [100 * line["val_accuracy"] for line in told]
        each = [(line["epoch"], 100 * probe) for line in told for probe in line.get("val_probes", ())]
        name = "mean of random architectures" if len(page.runs) == 1 else run.name
        series += [Series(name, epochs, means, "line")] if told else []
        if each and len(page.runs) == 1:
            series.append(Series("each", [x for x, _ in each], [y for _, y in each], "faint"))
    if series:
        plot = Plot("one-shot accuracy", "epoch", "validation accuracy, %", series)
        parts.append(page.chart("accuracy", plot))
    return section("The supernet", *parts)


def settings(run: Run, commands: Sequence[str]) -> str:
    parts = [details("Settings of the supernet", code(json.dumps(run.config, indent=1)))]
    if run.picked:
        name = next(iter(run.picked))
        parts += [
            code(f"from supernet import load_network\n\nnetwork = load_network({str(run.folder.network(name).path)!r})")
        ]
    return section("Use it, make it again", *parts, *map(code, commands))
