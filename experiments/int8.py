"""Do tables of float32 and of int8 layers choose different networks, for a device that runs them on 8-bit values?

On one supernet every network is scored once. At several bounds on the int8 latency the most accurate network is chosen
by the int8 table, and by the float32 table, whose bound is the same by the median ratio of both latencies. Both winners
are trained alone, quantised after training, and measured and judged as int8 files of onnxruntime. Told are the rank
correlation of both tables too, and scores by fake quantisation. Tables, scores and trainings are kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments import _common, _report
from latency import build, runtimes
from latency.measure import Protocol
from latency.table import LatencyTable
from search import ranking, spread
from search.run import Scoring
from supernet import executor, footprint, machine, spaces
from supernet.executor import Processes, Threads
from supernet.export import int8
from supernet.methods import spos
from supernet.model import Network, Supernet
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.loop import FitConfig

CPU = torch.device("cpu")
SHARES = (0.2, 0.4, 0.6)  # of the way from the fastest to the slowest network on 8-bit values


@dataclass(frozen=True)
class Args(_common.OnImages):
    run: Path = Path("runs/experiments")
    """Folder of the supernet, the tables, the scores and the trainings that are finished."""
    output: Path = Path("docs/results/int8.json")
    """The results."""
    space: str = "mobile-small"
    """A space that can be listed."""
    epochs: int = 12
    """Epochs of the supernet, and of each network alone."""
    train: int = 10_000
    """Training images, stratified."""
    seeds: int = 3
    """Trainings of each winner, seeds 0, 1, …"""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""


def run(args: Args) -> None:
    clock = _common.Clock(args.run, "int8")
    images = _common.images_of(args)
    if args.quick:
        args = dataclasses.replace(args, epochs=1, seeds=1)
    data, _ = _common.open_images(images)
    space = spaces.get(args.space, data.channels, data.size, data.classes)
    archs = space.enumerate()[:: space.size // 16 if args.quick else 1]
    folder = args.run / f"int8-{space.name}-{args.train}x{args.epochs}{'-quick' if args.quick else ''}"
    tables = {precision: table(folder, space, precision, args.quiet) for precision in footprint.VALUE}
    latencies = {p: [lut.predict_arch(space, arch) for arch in archs] for p, lut in tables.items()}
    scores = {p: scored(args, folder, space, data, archs, p == "int8") for p in tables}
    rows = chosen(archs, latencies, scores["float32"])
    winners = list(dict.fromkeys(tuple(row[by]) for row in rows for by in tables))
    accuracies = alone(args, folder, space, images, winners)
    measured = {precision: timed(folder, space, lut, winners) for precision, lut in tables.items()}
    found = {
        "checks": {precision: lut.describe()["check"] for precision, lut in tables.items()},
        "latencies": latencies,
        "scores": scores,
        "rows": rows,
        "winners": [
            {"arch": arch, "accuracies": accuracies[arch], "ms": {p: measured[p][name(arch)] for p in tables}}
            for arch in winners
        ],
    }
    finish(args, _common.results("int8", args, clock, **found))


def name(arch: Arch) -> str:
    """As files have it."""
    return "-".join(map(str, arch))


def table(folder: Path, space: Space, precision: footprint.Precision, quiet: bool) -> LatencyTable:
    """The table of one precision by onnxruntime on one core of this machine, built or found."""
    path = folder / f"lut-{precision}.json"
    if not path.exists():
        runtime = runtimes.get("onnxruntime", cache=folder / "converted", precision=precision)
        archs = spread.calibration_archs(space, build.FIT_ARCHS, 8, 0)
        job = build.Build(space, runtime, Protocol(), archs, progress=shown(not quiet))
        build.write(job.here(path), path)
    return LatencyTable.load(path, space)


def scored(args: Args, folder: Path, space: Space, data: Any, archs: Sequence[Arch], fake: bool) -> list[float]:
    """One-shot accuracies of all networks, as floats or by fake quantisation."""

    def compute() -> list[float]:
        cfg = spos.Config(FitConfig(args.epochs, lr=0.08, augment=False), probes=0)
        model = spos.run(space, data, cfg, folder / "supernet", CPU, shown(not args.quiet))
        plain = Supernet(space, affine=model.options["affine"], kernels="eager")
        plain.load_state_dict(model.state_dict())
        scoring = Scoring(recalibration=(4, 128), executor=Threads(args.jobs), int8=fake)
        return scoring.evaluator(plain, data)(archs)

    return _common.cell(folder / f"scores-{'int8' if fake else 'float32'}.json", compute)


def chosen(
    archs: Sequence[Arch], latencies: Mapping[str, Sequence[float]], scores: Sequence[float]
) -> list[dict[str, Any]]:
    """At each bound the most accurate network by either table; the float32 table's bound by the usual speed-up."""
    times = {precision: np.array(values) for precision, values in latencies.items()}
    speed_up = float(np.median(times["float32"] / times["int8"]))
    rows = []
    for share in SHARES:
        bound = times["int8"].min() + share * np.ptp(times["int8"])
        row: dict[str, Any] = {"share": share, "bound_ms": bound, "speed_up": speed_up}
        for precision, factor in (("float32", speed_up), ("int8", 1.0)):
            within = np.where(times[precision] <= bound * factor, scores, -1.0)
            best = int(within.argmax())
            row[precision] = list(archs[best])
            row[f"{precision}_by_int8_ms"] = float(times["int8"][best])
        rows.append(row)
    return rows


def alone(
    args: Args, folder: Path, space: Space, images: _common.Images, winners: Sequence[Arch]
) -> dict[Arch, list[dict[str, float]]]:
    """Accuracies of each network trained alone, by seed, as floats and as an int8 file."""
    keys = {f"{name(arch)}-{seed}": (arch, seed) for arch in winners for seed in range(args.seeds)}
    jobs = {key: (folder / "alone" / f"{key}.json", space, images, args.epochs, *of) for key, of in keys.items()}
    bar = shown(not args.quiet)("alone", len(jobs), unit="networks")
    made = executor.run(Processes(args.jobs), trained, jobs, bar)
    return {arch: [made[f"{name(arch)}-{seed}"] for seed in range(args.seeds)] for arch in winners}


def trained(path: Path, space: Space, images: _common.Images, epochs: int, arch: Arch, seed: int) -> dict[str, float]:
    """Train one network on one thread; its accuracies on the truth images, which nothing else sees."""

    def compute() -> dict[str, float]:
        defaults.keep_memory()
        torch.set_num_threads(1)
        data, judging = _common.open_images(images)
        cfg = FitConfig(epochs, lr=0.08, schedule="cosine", augment=False, seed=seed)
        network = _common.trained(space, arch, data, cfg, path.with_suffix(""), CPU)
        plain = Network(space, arch, kernels="eager").eval()
        plain.load_state_dict(network.state_dict())
        judged = dataclasses.replace(data, val=judging)
        made = int8.quantise(plain, Path("network.onnx"), judged, int8.Settings(max_drop=100))
        return {"float32": made.float_accuracy, "int8": made.accuracy}

    return _common.cell(path, compute)


def timed(folder: Path, space: Space, lut: LatencyTable, archs: Sequence[Arch]) -> dict[str, float]:
    """Latencies of whole networks, ms, by the runtime of a table."""

    def compute() -> dict[str, float]:
        networks = [(name(arch), runtimes.whole(space, arch, "eager")) for arch in archs]
        found = runtimes.measure_like(lut, lambda kernels: [(key, net, net.input_shape) for key, net in networks])
        return {key: samples.median_ms for key, samples in found.items()}

    which = hashlib.sha256(" ".join(map(name, archs)).encode()).hexdigest()[:8]
    return _common.cell(folder / f"measured-{lut.precision}-{which}.json", compute)


def finish(args: Args, result: dict) -> None:
    """Tables for people, and the picture."""
    times, scores = result["latencies"], result["scores"]
    winners = {tuple(winner["arch"]): winner for winner in result["winners"]}
    tau = {what: ranking.kendall(of["float32"], of["int8"]) for what, of in (("latency", times), ("score", scores))}
    speed_up = np.array(times["float32"]) / np.array(times["int8"])
    ranks = {
        "latencies, Kendall's τ": {"value": f"{tau['latency']:.3f}"},
        "one-shot accuracies, Kendall's τ": {"value": f"{tau['score']:.3f}"},
        "float32 / int8, from 5 % to 95 % of the networks": {
            "value": " to ".join(f"{q:.2f}" for q in np.quantile(speed_up, (0.05, 0.95)))
        },
        **{f"check of the {p} table": {"value": text} for p, text in result["checks"].items()},
    }
    rows = {}
    for row in result["rows"]:
        for by in ("float32", "int8"):
            winner = winners[tuple(row[by])]
            rows[f"{row['share']:.0%}, by the {by} table"] = {
                "bound, int8 ms": f"{row['bound_ms']:.4f}",
                "by the int8 table": f"{row[f'{by}_by_int8_ms']:.4f}",
                "measured, int8 ms": f"{winner['ms']['int8']:.4f}",
                "measured, float32 ms": f"{winner['ms']['float32']:.4f}",
                "int8 %": _report.mean_sd([seed["int8"] for seed in winner["accuracies"]], 100),
                "float32 %": _report.mean_sd([seed["float32"] for seed in winner["accuracies"]], 100),
                "network": name(tuple(row[by])),
            }
    tables = {f"{len(times['int8'])} networks": ranks, "winners at the same bound": rows}
    _report.report(args.output, result, tables, draw)


def draw(figure: Figure, result: dict) -> None:
    """Both latencies of each network, and both scores."""
    left, right = figure.subplots(1, 2)
    left.scatter(result["latencies"]["float32"], result["latencies"]["int8"], s=6, color="tab:blue", linewidths=0)
    for by, marker in (("float32", "x"), ("int8", "+")):
        chosen = [w["ms"] for w in result["winners"] if w["arch"] in [row[by] for row in result["rows"]]]
        points = [ms["float32"] for ms in chosen], [ms["int8"] for ms in chosen]
        left.scatter(*points, marker=marker, color="tab:orange", label=f"chosen by {by}, measured")
    left.set(xlabel="float32 (ms)", ylabel="int8 (ms)", title="latency")
    left.legend(fontsize=8)
    scores = {p: 100 * np.array(values) for p, values in result["scores"].items()}
    right.scatter(scores["float32"], scores["int8"], s=6, color="tab:blue", linewidths=0)
    right.set(xlabel="float32 (%)", ylabel="fake quantisation (%)", title="one-shot accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args, finish)
