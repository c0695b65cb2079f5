"""What the stages found as a page, and as the entry for this GPU that `--kernels auto` reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supernet.files import write_bytes, write_json
from supernet.training.defaults import MEASURED

OURS = "ours"
Results = Mapping[str, dict[str, Any]]  # the JSON of each stage, by its name
NAMES = ("versions", "build", "tests", "sanitizer", "ceilings", "step", "layers", "operators", "table", "profile")


def write(folder: Path) -> None:
    """``page.md``, and ``measured_kernels.json`` once a step was timed: the shipped file with this GPU's entry."""
    found = {name: json.loads(path.read_text()) for name in NAMES if (path := folder / f"{name}.json").exists()}
    if entry := decision(found):
        device = found["versions"]["results"][0]["device"]
        write_json(folder / MEASURED.name, json.loads(MEASURED.read_text()) | {device: entry})
    write_bytes(folder / "page.md", ("\n".join(lines(found, entry)) + "\n").encode())


def decision(found: Results) -> dict[str, Any] | None:
    """The entry: the faster in a step of every type; None before the operators have passed their tests.

    The sanitizer may be missing, but must not have found anything.
    """
    states = {name: of["state"] for name, of in found.items()}
    if any(states.get(name) != "done" for name in ("versions", "tests", "step")) or states.get("sanitizer") == "failed":
        return None
    ratios = {step["type"]: step["ratio"] for step in results(found, "step")}
    machine = results(found, "versions")[0]
    return {
        "kernels": "fused" if all(ratio > 1 for ratio in ratios.values()) else "eager",
        "step_ratio": ratios,
        **{name: machine[name] for name in ("torch", "torch_cuda")},
    }


def results(found: Results, stage: str) -> list[dict[str, Any]]:
    return found.get(stage, {}).get("results", [])


def lines(found: Results, entry: dict[str, Any] | None) -> Iterator[str]:
    """The page, in Markdown."""
    yield "# The operators on a GPU\n"
    if entry is None:
        yield "`--kernels auto` is not decided: tests or steps are missing, or something was found wrong.\n"
    else:
        ratios = ", ".join(f"{ratio:.2f} times as fast in {kind}" for kind, ratio in entry["step_ratio"].items())
        yield f"`--kernels auto` should be **{entry['kernels']}** here. A training step of the supernet is, as the"
        yield f"median over paths, {ratios} as the faster eager form. `{MEASURED.name}` beside this page says so;"
        yield "copied to `supernet/training`, it makes this the default on GPUs of this name.\n"
    stages = ([name, of["state"], f"{of.get('seconds', 0):.0f}", of.get("reason", "")] for name, of in found.items())
    yield from table("Stages", ("stage", "state", "s", "why"), stages)
    for title, stage in (("Machine", "versions"), ("Build", "build"), ("Latency table by graphs", "table")):
        rows = ((key, value) for part in results(found, stage) for key, value in part.items())
        yield from table(title, ("", ""), rows)
    columns = ("file", "tests", "failures", "errors", "skipped", "failed")
    yield from table("Tests", columns, ([test.get(c, "") for c in columns] for test in results(found, "tests")))
    checks = ([run["tool"], run["exit"], run["end"]] for run in results(found, "sanitizer"))
    yield from table("Sanitizer", ("tool", "exit", "end of its output"), checks)
    ceilings = (
        [c["name"], *(f"{c[key]:.0f}" if key in c else "" for key in RATES)] for c in results(found, "ceilings")
    )
    yield from table("Ceilings", ("", "GB/s", "10¹² operations/s"), ceilings)
    yield from steps(results(found, "step"))
    layers = merged(results(found, "layers"))
    inference = ([(f"{r['operator']}, batch {r['batch']}", r["type"]), r] for r in layers)
    training = ([(r["row"], r["type"]), r] for r in results(found, "operators"))
    yield from compared("Inference, by graphs, inputs not in L2", inference)
    yield from compared("Forward and backward, by graphs, the same inputs each time", training)
    yield from cases(layers)
    keys = ("ns", "arithmetic_percent", "memory_percent", "dram_percent", "occupancy_percent")
    profiles = (
        [p["kernel"], *(f"{p[key]:.0f}" if key in p else "" for key in keys)] for p in results(found, "profile")
    )
    yield from table("Nsight Compute", ("kernel", "ns", "arithmetic %", "memory %", "DRAM %", "occupancy %"), profiles)


RATES = ("gb_per_s", "tera_operations_per_s")


def steps(measured: Sequence[dict[str, Any]]) -> Iterator[str]:
    rows = (
        [step["type"], form, f"{1e3 * sorted(seconds)[len(seconds) // 2]:.2f}"]
        for step in measured
        for form, seconds in step["seconds"].items()
    )
    yield from table("A training step of the supernet, median", ("type", "form", "ms"), rows)


def compared(title: str, named: Iterable[Sequence[Any]]) -> Iterator[str]:
    """By operator and type: how many times as fast ours is as each other form, and as the fastest of them."""
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for key, result in named:
        if OURS in result["ms"] and len(result["ms"]) > 1:
            groups.setdefault(key, []).append(result["ms"])
    rows = []
    for (operator, kind), times in groups.items():
        best = [min(ms for form, ms in of.items() if form != OURS) / of[OURS] for of in times]
        others = sorted({form for of in times for form in of} - {OURS})
        means = {form: mean([of[form] / of[OURS] for of in times if form in of]) for form in others}
        words = ", ".join(f"{form} {ratio:.2f}" for form, ratio in means.items())
        verdict = "fused" if mean(best) > 1 else "eager"
        rows.append([operator, kind, len(times), words, f"{mean(best):.2f}", f"{min(best):.2f}", verdict])
    columns = ("operator", "type", "shapes", "times as fast as", "as the fastest", "worst shape", "default")
    yield from table(title, columns, rows)


def mean(ratios: Sequence[float]) -> float:
    """The geometric one."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def merged(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One result for each case, with the forms of all passes."""
    cases: dict[tuple, dict[str, Any]] = {}
    for result in measured:
        key = tuple(result[name] for name in ("operator", "shape", "batch", "type"))
        case = cases.setdefault(key, {**result, "ms": {}})
        case["ms"] = case["ms"] | result["ms"]
    return list(cases.values())


def cases(measured: Sequence[dict[str, Any]]) -> Iterator[str]:
    rows = (
        [r["operator"], r["shape"], r["batch"], r["type"], form, f"{1e3 * ms:.2f}"]
        for r in measured
        for form, ms in r["ms"].items()
    )
    yield from table("Layers", ("operator", "shape", "batch", "type", "form", "µs"), rows)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A table of Markdown; nothing where there are no rows."""
    texts = [[" ".join(str(value).replace("|", "\\|").split()) for value in row] for row in rows]
    if texts:
        yield f"## {title}\n"
        for row in (columns, ["---"] * len(columns), *texts):
            yield f"| {' | '.join(row)} |"
        yield ""
