"""What the stages found as a page, and as the entry for this GPU that `--kernels auto` reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu.stage import OURS, TYPES, failures, read
from supernet.files import write_bytes, write_json
from supernet.training.measured import HERE

Results = Mapping[str, dict[str, Any]]  # the JSON of each stage, by its name
NAMES = ("versions", "build", "tests", "sanitizer", "ceilings", "step", "layers", "operators", "table", "profile")
DECIDING = ("versions", "build", "tests", "sanitizer", "step", "layers", "operators")
RATES = ("gb_per_s", "tera_operations_per_s")
GOING_ON = "The same command goes on with what is not done; to begin anew, delete this folder."
LIKE_WITH_LIKE = (
    "In float32 no form takes TF32, in the rows of TF32 all may. PyTorch has no convolutions in int8 on a GPU: ours in "
    "int8 are compared with its in bfloat16."
)
DEFAULTS = (
    "In float32 with PyTorch's defaults: TF32 in convolutions alone. Our pointwise ones in training are PyTorch's, "
    "to which it applies, too."
)
ALL_AT_ONCE = f"{DEFAULTS} `--kernels` chooses for all operators at once, by the step."


def write(folder: Path) -> None:
    """``page.md``, and ``measured_kernels.json`` with this GPU's entry, if it is decided.

    Only what was made with the same as ``versions``: the sources, the device, PyTorch.
    """
    found = {name: of for name in NAMES if (of := read(folder / f"{name}.json"))}
    made_with = found.get("versions", {}).get("made_with")
    found = {name: of for name, of in found.items() if of.get("made_with") == made_with}
    entry = None
    if obstacles(found):
        (folder / HERE.name).unlink(missing_ok=True)
    else:
        entry = decision(found)
        write_json(folder / HERE.name, {results(found, "versions")[0]["device"]: entry})
    write_bytes(folder / "page.md", ("\n".join(lines(found, entry)) + "\n").encode())


def is_dry(found: Results) -> bool:
    return found.get("versions", {}).get("made_with", {}).get("mode") == "dry"


def obstacles(found: Results) -> list[str]:
    """Why nothing is decided; nothing where it is."""
    if is_dry(found):
        return ["a dry run says nothing of a GPU"]
    states = {name: found.get(name, {}).get("state", "has not run") for name in DECIDING}
    fine = {"sanitizer": ("done", "unavailable")}  # it may be missing, but must not have found anything
    why = [f"{name} {state}" for name, state in states.items() if state not in fine.get(name, ("done",))]
    if lacking := sorted(set(TYPES) - {step["type"] for step in results(found, "step")}):
        why.append(f"no step was timed in {', '.join(lacking)}")
    return why


def decision(found: Results) -> dict[str, Any]:
    """The entry: the faster in a step of every type."""
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
    """The page, in Markdown: what went wrong, what is decided, and all figures."""
    yield "# The operators on a GPU\n"
    if is_dry(found):
        yield "**This was a dry run, on the CPU at tiny sizes: its figures mean nothing.**\n"
    failed = [f"- {name}: {of.get('reason', '')}" for name, of in found.items() if of["state"] == "failed"]
    if failed:
        yield "## Failed\n"
        yield from (" ".join(line.split()) for line in failed)
        yield ""
    if entry is None:
        yield f"`--kernels auto` is not decided: {'; '.join(obstacles(found))}.\n"
    else:
        ratios = ", ".join(f"{ratio:.2f} times as fast in {kind}" for kind, ratio in entry["step_ratio"].items())
        yield f"`--kernels auto` should be **{entry['kernels']}** here. A training step of the supernet is, as the"
        yield f"median over paths, {ratios} as the faster eager form. `{HERE.name}` beside this page says so. In"
        yield f"`{HERE.parent.parent.name}/{HERE.parent.name}` the commands of this checkout find it by themselves;"
        yield "an installed package reads the file of this name in `supernet/training`.\n"
    missing = {"state": "has not run"}
    stages = ((name, found.get(name, missing)) for name in NAMES)
    states = ([name, of["state"], f"{of.get('seconds', 0):.0f}", of.get("reason", "")] for name, of in stages)
    yield from table("Stages", ("stage", "state", "s", "why"), states, GOING_ON)
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
    yield from compared("Inference, by graphs, inputs not in L2", LIKE_WITH_LIKE, inference)
    yield from compared("Forward and backward, by graphs, the same inputs each time", ALL_AT_ONCE, training)
    lost = [*failures(results(found, "layers")), *failures(results(found, "operators"))]
    yield from table("What could not be timed", ("case", "form", "why"), lost)
    yield from cases(layers)
    keys = ("ns", "arithmetic_percent", "memory_percent", "dram_percent", "occupancy_percent")
    profiles = (
        [p["kernel"], *(f"{p[key]:.0f}" if key in p else "" for key in keys)] for p in results(found, "profile")
    )
    yield from table("Nsight Compute", ("kernel", "ns", "arithmetic %", "memory %", "DRAM %", "occupancy %"), profiles)


def steps(measured: Sequence[dict[str, Any]]) -> Iterator[str]:
    rows = (
        [step["type"], form, f"{1e3 * sorted(seconds)[len(seconds) // 2]:.2f}"]
        for step in measured
        for form, seconds in step["seconds"].items()
    )
    yield from table("A training step of the supernet, median", ("type", "form", "ms"), rows, DEFAULTS)


def compared(title: str, note: str, named: Iterable[Sequence[Any]]) -> Iterator[str]:
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
        faster = "fused" if mean(best) > 1 else "eager"
        rows.append([operator, kind, len(times), words, f"{mean(best):.2f}", f"{min(best):.2f}", faster])
    columns = ("operator", "type", "shapes", "times as fast as", "as the fastest", "worst shape", "faster")
    yield from table(title, columns, rows, note)


def mean(ratios: Sequence[float]) -> float:
    """The geometric one."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def merged(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One result for each case, with the forms of all passes; int8 with PyTorch's in bfloat16."""
    cases: dict[tuple, dict[str, Any]] = {}
    for result in measured:
        key = tuple(result[name] for name in ("operator", "shape", "batch", "type"))
        case = cases.setdefault(key, {**result, "ms": {}})
        case["ms"] = case["ms"] | result["ms"]
    for (*where, kind), case in cases.items():
        if kind == "int8":
            other = cases.get((*where, "bfloat16"), {"ms": {}})["ms"]
            case["ms"] = case["ms"] | {f"{form} in bfloat16": ms for form, ms in other.items() if form != OURS}
    return list(cases.values())


def cases(measured: Sequence[dict[str, Any]]) -> Iterator[str]:
    rows = (
        [r["operator"], r["shape"], r["batch"], r["type"], form, f"{1e3 * ms:.2f}"]
        for r in measured
        for form, ms in r["ms"].items()
    )
    yield from table("Layers", ("operator", "shape", "batch", "type", "form", "µs"), rows)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> Iterator[str]:
    """A table of Markdown with a note before it; nothing where there are no rows."""
    texts = [[" ".join(str(value).replace("|", "\\|").split()) for value in row] for row in rows]
    if texts:
        yield f"## {title}\n"
        if note:
            yield f"{note}\n"
        for row in (columns, ["---"] * len(columns), *texts):
            yield f"| {' | '.join(row)} |"
        yield ""
