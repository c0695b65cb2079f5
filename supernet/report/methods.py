"""What each method leaves besides networks, as charts: stages, ranges, growth, rankings, networks of devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet import files, metrics
from supernet.errors import UserError
from supernet.metrics import HEADINGS, METRICS, NAMES, TOP1, Metric
from supernet.quantities import digits, several
from supernet.report.charts import Matrix, Plot, Series
from supernet.report.pieces import paragraph, section, table
from supernet.run_files import ARCH, PROBABILITIES
from supernet.runs import RunFolder
from supernet.shape import COUNT, POSITIVE, SHARE, Number

if TYPE_CHECKING:
    from supernet.report.page import Page

STAGE = {"stage": POSITIVE, "size": POSITIVE, "pruned_size": POSITIVE, "distribution": [{str: SHARE}], "best": SHARE}
RANK: dict[str, Any] = {"metric?": METRICS, "one_shot": {str: [SHARE]}}
RANK |= {"trained_alone": [[SHARE]], "rankings": {str: dict}, "archs": [ARCH]}
RANGES = {"gene": str, "ranges": [[COUNT]], "probabilities": [SHARE], "elite": COUNT}
MODULES = {"role": str, "iteration": COUNT, "name": str, "modules": [POSITIVE]}
CANDIDATE = {"phase": str, "depth": POSITIVE, "width": POSITIVE, "epochs": POSITIVE}
GREEDY = {"records": [{"candidate": CANDIDATE, "val_accuracy": Number(0, 100)}]}
DEVICES: dict[str, Any] = {"metric?": METRICS}
DEVICES |= {"networks": [{"name": str, "file": str, "layers": str, "bound_ms": Number(0), "latency_ms": Number(0)}]}


def read(path: Path, expected: Any) -> Any:
    """Plain values from a file of the run; a UserError where it is damaged."""
    return files.read_json(path, path.name, expected=expected)


def require(path: Path, holds: bool) -> None:
    """Refuse a file whose lists do not belong together."""
    if not holds:
        raise UserError(f"{path} is not a readable {path.name} (its lists do not belong together): delete it")


def pruning(page: Page) -> str:
    """PAD-NAS: which operations the good architectures of each stage have, and the accuracy of all supernets."""
    stages = sorted(page.run.folder.path.glob("supernet-*/stage.json"), key=lambda path: read(path, STAGE)["stage"])
    parts, curves = [], []
    for path in stages:
        stage = read(path, STAGE)
        names = list(dict.fromkeys(name for gene in stage["distribution"] for name in gene))
        values = [[gene.get(name, math.nan) for gene in stage["distribution"]] for name in names]
        title = (
            f"supernet {stage['stage']}: {several(stage['size'], 'architecture')}, pruned to {stage['pruned_size']:,}"
        )
        places = [str(i) for i in range(len(stage["distribution"]))]
        title += "; share of operations in each layer of the good ones"
        parts.append(page.matrix(f"operations-{stage['stage']}", Matrix(title, names, places, values, "{:.2f}")))
        lines = [line for line in RunFolder(path.parent).metrics.read() if "val_accuracy" in line]
        accuracies = [100 * line["val_accuracy"] for line in lines]
        curves.append(Series(f"supernet {stage['stage']}", [line["epoch"] for line in lines], accuracies, "line"))
    if not parts:
        return ""
    plot = Plot("one-shot accuracy of the supernets", "epoch", "validation accuracy, %", curves)
    return section("The stages", page.chart("stages", plot), *parts)


def ranges(page: Page) -> str:
    """NSS: how probable each range of each stage is, and which became the elite space."""
    parts = []
    for path in sorted(page.run.folder.path.glob("elite-*/probabilities.json")):
        found = read(path, {**PROBABILITIES, "genes": [RANGES]})
        for gene in found["genes"]:
            options = gene["ranges"]
            require(path, gene["elite"] < len(options) == len(gene["probabilities"]) and all(options))
        target, cost = (digits(found[name], 4) for name in ("target", "cost"))
        told = [f"{gene['gene']} {ends(gene['ranges'][gene['elite']])}" for gene in found["genes"]]
        parts.append(paragraph(f"For a target of {target}, {cost} on average: {'; '.join(told)}"))
        for i, gene in enumerate(found["genes"]):
            columns = [ends(counts) for counts in gene["ranges"]]
            shown = Matrix(f"{gene['gene']}: probability", ["p"], columns, [gene["probabilities"]], "{:.2f}")
            parts.append(page.matrix(f"{path.parent.name}-{i}", shown))
    return section("The elite spaces", *parts)


def ends(counts: Sequence[int]) -> str:
    """A range in words."""
    return f"{counts[0]}–{counts[-1]}"


def depths(page: Page) -> str:
    """Stage-Wise NAS: modules of each stage, candidate by candidate; not what was trained again for a pair."""
    metric = _metric(page.run.config)
    val = metrics.key("val", metric)
    expected = {**MODULES, val: SHARE}
    results = [read(path, expected) for path in page.run.folder.path.glob("networks/*/result.json")]
    trained = sorted(
        (one for one in results if one["role"] != "T" and not one.get("seed")), key=lambda one: one["iteration"]
    )
    if not trained:
        return ""
    iterations = [one["iteration"] for one in trained]
    stages = range(min(len(one["modules"]) for one in trained))
    series = [Series(f"stage {i + 1}", iterations, [one["modules"][i] for one in trained], "line") for i in stages]
    accuracies = [100 * one[val] for one in trained]
    accuracy = Series("candidate", iterations, accuracies, "line", labels=[one["name"] for one in trained])
    shares = Plot(f"{NAMES[metric]} of the candidates", "iteration", _validated(metric), [accuracy])
    return section(
        "Growth",
        page.chart("depths", Plot("modules of each stage", "iteration", "modules", series)),
        page.chart("candidates", shares),
    )


def greedy(page: Page) -> str:
    """Efficient Global NAS: each candidate that was tried, phase by phase."""
    path = page.run.folder.search_path
    if not path.exists():
        return ""
    search = files.read_json(path, "search state")
    if not (isinstance(search, dict) and isinstance(search.get("config"), dict) and "depth_step" in search["config"]):
        return ""  # of another method
    records = read(path, GREEDY)["records"]
    phases = dict.fromkeys(record["candidate"]["phase"] for record in records)
    series = []
    for phase in phases:
        places = [i for i, record in enumerate(records) if record["candidate"]["phase"] == phase]
        labels = [_candidate(records[i]["candidate"]) for i in places]
        series.append(Series(phase, places, [records[i]["val_accuracy"] for i in places], "line", labels))
    plot = Plot(
        "networks that were tried: depth grows, width shrinks, then operations and kernels",
        "network",
        _validated(_metric(page.run.config)),
        series,
    )
    return section("Grow and prune", page.chart("history", plot))


def _candidate(candidate: dict[str, Any]) -> str:
    return f"{candidate['depth']} layers, {candidate['width']} channels, {several(candidate['epochs'], 'epoch')}"


def ranking(page: Page) -> str:
    """How the supernet ranks architectures that were trained alone."""
    path = page.run.folder.rank_path / "rank.json"
    if not path.exists():
        return ""
    found = read(path, RANK)
    lists = (found["archs"], found["trained_alone"], *found["one_shot"].values())
    require(path, len({len(one) for one in lists}) == 1 and all(found["trained_alone"]))
    alone = [100 * sum(seeds) / len(seeds) for seeds in found["trained_alone"]]
    labels = [page.run.space.describe(page.run.space.check(arch)) for arch in found["archs"]]
    series = [
        Series(f"BN {mode}", [100 * x for x in scores], alone, labels=labels)
        for mode, scores in found["one_shot"].items()
    ]
    told = [
        f"{name}: τ {row['tau']:.2f}" for name, row in found["rankings"].items() if isinstance(row.get("tau"), float)
    ]
    title = f"{NAMES[_metric(found)]} in the supernet, and trained alone"
    plot = Plot(title, "one-shot, %", "alone, validation, %", series)
    return section("Ranking", paragraph("; ".join(told)), page.chart("ranking", plot))


def specialised(page: Page) -> str:
    """A network for each device, from one supernet."""
    path = page.run.folder.specialised_path / "networks.json"
    if not path.exists():
        return ""
    found = read(path, DEVICES)
    rows, metric = found["networks"], _metric(found)
    numbers = [
        [
            digits(row["bound_ms"], 4),
            digits(row["latency_ms"], 4),
            _of(row, "measured_latency_ms", "{:.4g}"),
            _of(row, metrics.key("test", metric), "{:.2f}", 100),
        ]
        for row in rows
    ]
    cells = [[row["name"], *values, row["file"]] for row, values in zip(rows, numbers, strict=True)]
    return section(
        "A network for each device",
        table(["device", "bound, ms", "predicted, ms", "measured, ms", f"{HEADINGS[metric]}test, %", "file"], cells),
    )


def _metric(settings: Mapping[str, Any]) -> Metric:
    """What accuracies are, by the settings of a run or by a file that has them; top-1 where nothing is said."""
    return settings.get("metric", TOP1)


def _validated(metric: Metric) -> str:
    return f"validation {NAMES[metric]}, %"


def _of(row: dict[str, Any], key: str, form: str, scale: float = 1.0) -> str:
    value = row.get(key)
    return form.format(scale * value) if isinstance(value, int | float) else ""


SECTIONS: tuple[Callable[[Page], str], ...] = (pruning, ranges, depths, greedy, ranking, specialised)
