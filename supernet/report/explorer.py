"""The architectures of one run or of several, each with all that is known of it, for the chart that one can ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latency.table import LatencyTable
from search import priced
from search.costs import TableCost
from supernet import families, metrics
from supernet.errors import UserError
from supernet.report.charts import Plot, Series
from supernet.report.load import LATENCY, Run
from supernet.report.pieces import embedded
from supernet.space import Arch
from supernet.spec import LayerSpec

KINDS = ("scored", "random", "front", "trained alone")  # of points; one that is several is the last of them
SHOWN = 2000  # scored architectures at most, the latest
ROOM = 1_250_000  # bytes on the page, beyond which the layers of the others are left out


@dataclass(frozen=True)
class Axis:
    """A number that architectures have: its key, what it is called with its unit, and the factor to that."""

    key: str
    name: str
    scale: float = 1.0


COSTS = (
    Axis("flops", "multiply-adds, M", 1e-6),
    Axis("params", "parameters, k", 1e-3),
    Axis("activations", "values alive at the peak, k", 1e-3),
    Axis("flash", "file, KiB", 1 / 1024),
    Axis("ram", "working memory, KiB", 1 / 1024),
)


@dataclass
class Point:
    """An architecture: what it is, and its numbers by the key of their axis."""

    arch: Arch
    kind: str = KINDS[0]
    on_front: bool = False
    name: str = ""
    numbers: dict[str, float] = field(default_factory=dict)

    def also(self, kind: str, name: str, numbers: Mapping[str, Any]) -> None:
        """It is this, too."""
        self.on_front |= kind == "front"
        if KINDS.index(kind) >= KINDS.index(self.kind):
            self.kind, self.name = kind, ", ".join(filter(None, (self.name, name)))
        self.numbers |= {key: value for key, value in numbers.items() if isinstance(value, int | float)}


def points(run: Run) -> list[Point]:
    """All architectures that the run has scored, found or trained, the trained ones last."""
    found: dict[Arch, Point] = {}

    def point(arch: Sequence[int]) -> Point:
        known = run.space.check(arch)
        return found.setdefault(known, Point(known))

    for line in run.scored[-SHOWN:]:
        made = point(line["arch"])
        made.also("scored", "", {"one_shot": line["accuracy"], **_costs(line["costs"])})
        made.numbers.setdefault("generation", line["generation"])
    front = run.front or {"random": [], "front": []}
    for kind in ("random", "front"):
        for i, entry in enumerate(front[kind]):
            told = [word for word in ("best", "knee") if kind == "front" and front.get(word) == i]
            point(entry["arch"]).also(kind, ", ".join([f"{kind} {i}", *told]), {**_costs(entry), **_accuracies(entry)})
    for name, row in run.results.items():
        point(row["arch"]).also("trained alone", f"trained as {name}", {**_costs(row), **_accuracies(row)})
    return sorted(found.values(), key=lambda one: KINDS.index(one.kind))


def _costs(row: Mapping[str, Any]) -> dict[str, float]:
    renamed = {"latency_ms": LATENCY, "measured_latency_ms": "measured"}
    known = {renamed.get(key, key): value for key, value in row.items()}
    names = {LATENCY, "measured", *(axis.key for axis in COSTS)}
    return {key: value for key, value in known.items() if key in names or key.startswith(LATENCY)}


def _accuracies(row: Mapping[str, Any]) -> dict[str, float]:
    known = {"one_shot": row.get("one_shot_accuracy")}
    for part in ("val", "test"):
        known |= {f"{part} {metric}": row.get(metrics.key(part, metric)) for metric in metrics.METRICS}
    return {key: value for key, value in known.items() if value is not None}


def axes(runs: Sequence[Run]) -> list[Axis]:
    """All numbers that an architecture may have: the accuracies, then the costs."""
    metric = next((run.front["metric"] for run in runs if run.front and "metric" in run.front), metrics.TOP1)
    found = [Axis("one_shot", f"one-shot {metrics.NAMES[metric]}, %", 100)]
    for part, word in (("test", "test"), ("val", "validation")):
        found += [Axis(f"{part} {m}", f"{word} {metrics.NAMES[m]}, %", 100) for m in metrics.METRICS]
    found += [Axis("measured", "measured latency, ms")]
    found += [Axis(key, f"{name}, ms") for key, name in devices(runs).items()]
    return [*found, *COSTS, Axis("generation", "iteration of the search")]


def devices(runs: Sequence[Run]) -> dict[str, str]:
    """Latencies by the name of the cost, in words: what they were predicted for."""
    found: dict[str, str] = {}
    for run in runs:
        known = {name: (table.device, table.runtime) for name, table in run.tables.items()}
        known |= {one["cost"]: (one["device"], one["runtime"]) for one in (run.front or {}).get("devices", ())}
        for name, (device, runtime) in known.items():
            words = (device.get("cpu") or device.get("model"), runtime.get("name"))
            found.setdefault(name, f"latency, {', '.join(filter(None, words))}")
    return found


def priced_points(run: Run) -> list[Point]:
    """The points with every cost that can be told of them, in the tables of the run and without."""
    found: list[Point] = points(run)
    costs: dict[str, TableCost] = {}
    for name, table in run.tables.items():
        try:
            costs[name] = priced.additive(run.space, table.price)
        except UserError:  # a table of another part of the space
            continue
    costs |= priced.costs(run.space, {})
    for point in found:
        point.numbers |= {name: cost(point.arch) for name, cost in costs.items()}
    return found


@dataclass
class Layers:
    """The layers of architectures, each distinct one told once."""

    rows: list[list[Any]] = field(default_factory=list)
    places: dict[Any, int] = field(default_factory=dict)

    def of(self, run: Run, arch: Arch) -> list[int]:
        """Where the layers of an architecture are told."""
        return [self._place(run, spec) for spec in families.lower(run.space, arch) if spec.runs]

    def _place(self, run: Run, spec: LayerSpec) -> int:
        key = (run.name, spec)
        if key not in self.places:
            self.places[key] = len(self.rows)
            size = spec.out_size
            told = [label(spec), spec.out_channels, size.height, size.width, spec.flops, spec.params]
            self.rows.append([*told, {name: _price(table, spec) for name, table in run.tables.items()}])
        return self.places[key]


def _price(table: LatencyTable, spec: LayerSpec) -> float | None:
    try:
        return table.price(spec)
    except UserError:
        return None


def label(spec: LayerSpec) -> str:
    """An operation in words: ``ib k5 e4``."""
    return " ".join([spec.op] + [f"k{spec.kernel}"] * (spec.kernel > 0) + [f"e{spec.expand}"] * (spec.expand > 0))


def data(runs: Sequence[Run], commands: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    """All of it as plain values, for the page; None where there is nothing to compare.

    Args:
        commands: what to do with a pinned architecture, by the run's name; the page replaces ``FILE`` by a name.
    """
    made = list(_made(runs))
    if len(made) < 2:
        return None
    known = {key for _, point in made for key in point.numbers}
    shown = [axis for axis in axes(runs) if axis.key in known]
    told = []
    for run, point in made:
        numbers = [_rounded(point.numbers.get(axis.key), axis.scale) for axis in shown]
        one = {"run": run.name, "kind": point.kind, "name": point.name, "numbers": numbers, "arch": point.arch}
        told.append(one | ({"on_front": True} if point.on_front else {}))
    layers = _with_layers(told, made)
    return {
        "axes": [axis.name for axis in shown],
        "x": _first(shown, made, (*(runs[0].front or {}).get("objectives", ()), LATENCY, "flops")),
        "y": _first(shown, made, ("one_shot", "test top1", "val top1", "params")),
        "windows": [_window(runs, axis) for axis in shown],
        "kinds": [kind for kind in KINDS if any(one["kind"] == kind for one in told)],
        "points": told,
        "layers": layers.rows,
        "commands": commands,
    }


def _with_layers(told: Sequence[dict[str, Any]], made: Sequence[tuple[Run, Point]]) -> Layers:
    """Add their layers to the architectures, the last first, while there is room."""
    layers, room = Layers(), ROOM - len(embedded(told))
    for one, (run, point) in zip(reversed(told), reversed(made), strict=True):
        known = len(layers.rows)
        places = layers.of(run, point.arch)
        room -= len(embedded([{"layers": places}, layers.rows[known:]]))
        if room < 0:
            break
        one["layers"] = places
    return layers


def plot(asked: Mapping[str, Any]) -> Plot:
    """The chart as the page first shows it, of several runs the fronts and what was trained: as a picture.

    Args:
        asked: as ``data`` gives it.
    """
    x, y, told = asked["x"], asked["y"], asked["points"]
    runs, kinds = dict.fromkeys(one["run"] for one in told), asked["kinds"]
    series = []
    for run in runs:
        for kind in kinds if len(runs) == 1 else [kind for kind in kinds if kind not in ("scored", "random")]:
            of_kind = [one["numbers"] for one in told if (one["run"], one["kind"]) == (run, kind)]
            pairs = sorted((one[x], one[y]) for one in of_kind if None not in (one[x], one[y]))
            if pairs:
                name = kind if len(runs) == 1 else f"{run}: {kind}"
                xs, ys = zip(*pairs, strict=True)
                series.append(Series(name, xs, ys, "faint" if kind == "scored" else "points"))
    window = tuple(asked["windows"][x] or (None, None))
    return Plot("architectures", asked["axes"][x], asked["axes"][y], series, window=window)


def _made(runs: Sequence[Run]) -> Iterator[tuple[Run, Point]]:
    pairs = [(run, point) for run in runs for point in priced_points(run)]
    return iter(sorted(pairs, key=lambda pair: KINDS.index(pair[1].kind)))


def _rounded(value: float | None, scale: float) -> float | None:
    return None if value is None else float(f"{value * scale:.6g}")


def _first(shown: Sequence[Axis], made: Sequence[tuple[Run, Point]], wanted: Sequence[str]) -> int:
    """The place of the first wanted axis that every run has values for."""
    runs = {run.name for run, _ in made}
    told = {key: {run.name for run, point in made if key in point.numbers} for key in wanted}
    found = next((key for key in wanted if told[key] == runs), wanted[-1])
    return next((place for place, axis in enumerate(shown) if axis.key == found), 0)


def _window(runs: Sequence[Run], axis: Axis) -> list[float | None] | None:
    """What one run was asked for; several may have been asked for different things."""
    bounds = (runs[0].front or {}).get("bounds", {}).get(axis.key) if len(runs) == 1 else None
    return bounds and [None if end is None else end * axis.scale for end in bounds]
