"""One page about a run, to look at in a browser: the network, its test, the search, the device, the supernet."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from supernet.cli import common

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from latency.table import Calibration, LatencyTable
    from supernet.families.layerwise import Layers
    from supernet.runs import RunFolder
    from supernet.space import Space
    from supernet.spec import LayerSpec

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; display: block; margin: .5rem auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e2e5e9; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tr.picked td { font-weight: 600; } .scroll { overflow-x: auto; }
pre { background: #f4f5f7; padding: .75rem; overflow-x: auto; border-radius: 4px; font-size: .85rem; }
summary { cursor: pointer; } .note { color: #57606a; font-size: .9rem; }
"""


@dataclass(frozen=True)
class Args(common.OnRun):
    output: Path | None = None
    """Output page; defaults to RUN/report.html."""


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
    results: dict[str, dict[str, Any]]  # of retrain.py, by folder: the picked networks first
    earlier: list[str] = field(default_factory=list)  # networks that were trained for an earlier search

    @classmethod
    def load(cls, folder: RunFolder) -> Run:
        """Read a run; a UserError where there is none or a file is damaged."""
        from latency.table import LatencyTable

        config, space = folder.config(), folder.space()
        front = folder.front(space) if folder.front_path.exists() else None
        results = folder.results()
        earlier = [name for name, row in results.items() if folder.stale(name, tuple(row["arch"]), front)]
        return cls(
            folder,
            config,
            space,
            folder.metrics.read(),
            LatencyTable.load(folder.lut_path, space) if folder.lut_path.exists() else None,
            front,
            folder.population.read(),
            {name: row for name, row in results.items() if name not in earlier},
            earlier,
        )

    @property
    def options(self) -> common.OnRun:
        """What a command on this run is told."""
        return common.OnRun(self.folder.path, self.folder.space_code, self.folder.data_code)

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


def run(args: Args) -> None:
    from supernet import files

    found = Run.load(args.folder)
    output = args.output or args.folder.report_path
    page = render(found)
    files.write_bytes(output, page.encode())
    common.say(f"report → {common.escape(str(output))}")
    for name in found.earlier:
        common.say(common.escape(f"{name} was trained for an earlier search: it is left out"), style="yellow")
    if found.picked:
        name = next(iter(found.picked))
        common.next_command("export", args, "--pick", name, "--output", f"{name}.onnx")


def render(run: Run) -> str:
    """The page."""
    parts = [heading(run), network(run), tested(run), search(run), device(run), supernet(run), settings(run)]
    title = html.escape(f"{run.space.name}, {run.config['data']}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


# --- the sections; each is empty where the run has nothing to tell


def heading(run: Run) -> str:
    done = "No network is trained yet"
    if run.winner:
        name, row = run.winner
        facts = [f"{100 * row['test_accuracy']:.2f} % on the test images" if "test_accuracy" in row else ""]
        facts.append(f"{100 * row['one_shot_accuracy']:.2f} % one-shot" if "test_accuracy" not in row else "")
        ms = row.get("measured_latency_ms", row.get("latency_ms"))
        facts.append(f"{ms:.3g} ms {'measured' if 'measured_latency_ms' in row else 'predicted'}" if ms else "")
        done = f"{name}: {', '.join(fact for fact in facts if fact)}"
    where = f" on {run.lut.device.get('cpu', 'the device')}, {run.lut.runtime['name']}" if run.lut else ""
    images = f"{run.config['data']}, {run.space.channels}×{run.space.resolution}²"
    lead = f"{images}; {run.space.name}, {run.space.size:,} architectures{where}"
    return f"<h1>{html.escape(done)}</h1>\n<p>{html.escape(lead)}</p>"


def network(run: Run) -> str:
    from search import drawing
    from supernet import families

    if run.winner is None:
        return ""
    name, row = run.winner
    specs = families.lower(run.space, tuple(row["arch"]))
    drawn = [drawing.Block(spec.out_size, spec.out_channels, label(spec)) for spec in specs[1:-1]]
    columns = ["layer", "input", "output channels", "M multiply-adds", "k parameters"]
    rows = [
        [label(s), f"{s.in_channels} × {s.size}²", str(s.out_channels), f"{s.flops / 1e6:.3g}", f"{s.params / 1e3:.3g}"]
        for s in specs
    ]
    if run.lut:
        total = run.lut.predict(spec.key for spec in specs)
        columns += ["ms", "share"]
        for cells, spec in zip(rows, specs, strict=True):
            ms = run.lut.price(spec)
            cells += [f"{ms:.3g}", f"{ms / total:.0%}"]
    picture = image(lambda file: drawing.draw(file, {name: drawn}), "the layers of the network") if drawn else ""
    return section("The network", picture, table(columns, rows))


def label(spec: LayerSpec) -> str:
    """An operation in words: ``ib k5 e4``."""
    return " ".join([spec.op] + [f"k{spec.kernel}"] * (spec.kernel > 0) + [f"e{spec.expand}"] * (spec.expand > 0))


def tested(run: Run) -> str:
    import numpy as np

    from supernet.cli import tables

    if not run.results:
        return ""
    columns = tables.columns(run.results.values())
    rows = [
        [name, *(form.format(scale * row[key]) for _, key, scale, form in columns)] for name, row in run.results.items()
    ]
    note = ""
    chance = [100 * row["test_accuracy"] for name, row in run.results.items() if name not in run.picked]
    if run.picked and len(chance) > 1:
        first, row = next(iter(run.picked.items()))
        gain = 100 * row["test_accuracy"]
        note = paragraph(
            f"{first} is {gain - np.mean(chance):+.2f} points from the mean of {len(chance)} random networks of the "
            f"same window (standard deviation {np.std(chance, ddof=1):.2f}), {gain - max(chance):+.2f} from the best."
        )
    cost = next(c for c in ("measured_latency_ms", "latency_ms", "flops") if all(c in r for r in run.results.values()))

    def plot(file: BinaryIO) -> None:
        figure, axes = axes_of(6, 3.6)
        for names, style, name in (
            (run.picked, {"color": "tab:blue", "marker": "o"}, "picked"),
            ([n for n in run.results if n not in run.picked], {"color": "tab:orange", "marker": "x"}, "random"),
        ):
            rows = [run.results[n] for n in names]
            if rows:
                axes.scatter([r[cost] for r in rows], [100 * r["test_accuracy"] for r in rows], label=name, **style)
        axes.set(xlabel=cost.replace("_", " ").replace(" ms", " (ms)"), ylabel="test accuracy (%)")
        axes.legend(fontsize=8)
        figure.savefig(file)

    headings = ["trained alone", *(c[0] for c in columns)]
    picture = image(plot, "test accuracy over cost") if len(run.results) > 1 else ""
    return section("Trained alone, tested once", table(headings, rows, run.picked), note, picture)


def search(run: Run) -> str:
    from search import front as fronts
    from search.ask_tell import Record
    from supernet.cli import tables

    front = run.front
    if front is None or "objectives" not in front:  # a search of another kind, as DSNAS's
        return ""

    def records(entries: Iterable[dict[str, Any]]) -> list[Record]:
        costs = [{k.removesuffix("_ms"): v for k, v in e.items() if isinstance(v, int | float)} for e in entries]
        return [Record(tuple(e["arch"]), e["one_shot_accuracy"], c, 0, 0) for e, c in zip(entries, costs, strict=True)]

    scored = [Record(tuple(s["arch"]), s["accuracy"], s["costs"], s["generation"], 0) for s in run.scored]
    found, random = records(front["front"]), records(front["random"])
    objectives = front["objectives"]
    low, high = front["bounds"].get(objectives[0], [0.0, None])
    bound = (low or 0.0, math.inf if high is None else high)
    title = f"{front['algorithm']}, {front['evaluated']} architectures scored"
    picture = image(
        lambda file: fronts.plot(file, scored, found, random, bound, title, objectives), "accuracy over cost"
    )
    columns = tables.columns(front["front"])
    rows = [
        [str(i), *(form.format(scale * entry[key]) for _, key, scale, form in columns), entry["layers"]]
        for i, entry in enumerate(front["front"])
    ]
    inside = table(["", *(c[0] for c in columns), "layers"], rows, [str(front["best"])])
    return section(
        "The search", picture, f"<details><summary>The front: {len(rows)} architectures</summary>{inside}</details>"
    )


def device(run: Run) -> str:
    from supernet import families
    from supernet.cli import tables
    from supernet.families import layerwise

    lut = run.lut
    if lut is None:
        return ""
    noisy = sum(sample.noisy for sample in lut.operations.values())
    text = (
        f"{lut.device.get('cpu', 'device')}, {lut.runtime['name']} {lut.runtime.get('version', '')}, "
        f"batch {lut.batch}, threads {lut.threads}: {len(lut.operations)} layers, {noisy} of them noisy."
    )
    parts = [paragraph(text)]
    found = lut.calibration
    if found:
        error = "" if found.held_out_mape is None else f"; mean error {found.held_out_mape:.1%}"
        rank = "" if found.held_out_spearman is None else f", Spearman {found.held_out_spearman:.3f}"
        held = f"Whole networks: {tables.calibration_in_words(found)}"
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


def plot_layers(file: BinaryIO, space: Space, lut: LatencyTable, layers: Layers) -> None:
    """A heat map: candidate operation × layer, in microseconds; open choices only."""
    import numpy as np

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
    if not run.metrics:
        return ""

    def plot(file: BinaryIO) -> None:
        figure, left = axes_of(6, 3.2)
        epochs, right = [line["epoch"] for line in run.metrics], left.twinx()
        left.plot(epochs, [line["loss"] for line in run.metrics], color="tab:gray", marker=".")
        left.set(xlabel="epoch", ylabel="training loss (grey)")
        told = [line for line in run.metrics if "val_accuracy" in line]
        right.plot([x["epoch"] for x in told], [100 * x["val_accuracy"] for x in told], color="tab:blue", marker="o")
        right.set(ylabel="validation accuracy (%, blue)")
        left.xaxis.get_major_locator().set_params(integer=True)
        figure.savefig(file)

    last, method = run.metrics[-1], run.config.get("method", "spos").upper()
    speed = f", {last['images_per_second']:,.0f} images/s in the last one" if "images_per_second" in last else ""
    return section(
        "The supernet",
        paragraph(f"{method}, {last['epoch']} epochs{speed}."),
        image(plot, "loss and accuracy over the epochs"),
    )


def settings(run: Run) -> str:
    text = html.escape(json.dumps(run.config, indent=1))
    parts = [f"<details><summary>Settings of the supernet</summary><pre>{text}</pre></details>"]
    if run.picked:
        name = next(iter(run.picked))
        code = f"from supernet import load_network\n\nnetwork = load_network({str(run.folder.network(name).path)!r})"
        export = common.command("export", run.options, "--pick", name, "--output", f"{name}.onnx")
        parts.append(f"<pre>{html.escape(code)}</pre><pre>{html.escape(export)}</pre>")
    return section("Use it, make it again", *parts)


# --- pieces of a page


def section(title: str, *parts: str) -> str:
    return "\n".join([f"<h2>{html.escape(title)}</h2>", *(part for part in parts if part)])


def paragraph(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], picked: Iterable[str] = ()) -> str:
    """A table; rows whose first cell is in ``picked`` stand out."""
    picked = set(picked)

    def line(cells: Sequence[str], tag: str, row: str = "<tr>") -> str:
        return row + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = (line(cells, "td", '<tr class="picked">' if cells[0] in picked else "<tr>") for cells in rows)
    return f'<div class="scroll"><table>{line(headings, "th")}{"".join(body)}</table></div>'


def image(draw: Callable[[BinaryIO], None], alt: str) -> str:
    """What ``draw`` saves, as SVG inside the page."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.format": "svg"}):
        draw(buffer)
    code = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{code}">'


def axes_of(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of so many inches with one plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.2)
    return figure, axes


def main() -> None:
    """The command line."""
    common.main(run, Args)
