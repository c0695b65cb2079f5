"""Scoring the generations of a recorded search: one architecture at a time, by shared prefixes, with fused kernels.

Every form scores the same generations on the same images with the same weights, and their scores are compared. No
form scores an architecture twice. Weights and images are random: they decide no timing.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from search.evaluator import Evaluator
from supernet.errors import UserError
from supernet.executor import Executor, nothing
from supernet.model import Supernet
from supernet.progress import Bar
from supernet.space import Arch, Space
from supernet.tables import Table
from supernet.training.bn import recalibrate_bn
from supernet.training.evaluation import evaluate

POPULATION = Path(__file__).parents[2] / "docs" / "bench" / "ces_population.json"
BASE = "one by one, eager"


def opened(path: Path, generations: int) -> tuple[Space, list[list[Arch]]]:
    """The space of a recorded population, and that many of its generations, evenly spaced."""
    recorded = json.loads(path.read_text())
    space = Space.from_json(recorded["space"], str(path))
    chosen = [[tuple(arch) for arch in archs] for archs in recorded["generations"]]
    step = max(1, len(chosen) // generations)
    return space, chosen[step - 1 :: step]


def drawn(space: Space, images: int, recalibration: tuple[int, int]) -> tuple[list[Tensor], list]:
    """Random images to recalibrate BN with, and random ones with labels."""
    x, y = torch.randn(images, space.channels, 28, 28), torch.randint(space.classes, (images,))
    batches, size = recalibration
    pool = list(torch.randn(batches * size, space.channels, 28, 28).split(size))
    return pool, list(zip(x.split(512), y.split(512), strict=True))


def run(path: Path, images: int, recalibration: tuple[int, int], generations: int) -> dict:
    """Seconds (wall and CPU) of each form on each generation, and what sharing saved."""
    space, chosen = opened(path, generations)
    eager, fused = (Supernet(space, kernels=kernels) for kernels in ("eager", "fused"))
    eager.load_state_dict(fused.state_dict())
    pool, validation = drawn(space, images, recalibration)
    evaluators = {
        kernels: Evaluator(model, pool, validation) for kernels, model in (("eager", eager), ("fused", fused))
    }
    forms = {
        BASE: lambda archs: [one(eager, pool, validation, arch) for arch in archs],
        "prefix tree, eager": evaluators["eager"],
        "one by one, fused": lambda archs: [one(fused, pool, validation, arch) for arch in archs],
        "prefix tree, fused": evaluators["fused"],
    }
    seconds = {name: {"wall": [], "cpu": []} for name in forms}
    shuffle = random.Random(0)
    for call in forms.values():
        call(chosen[0][:1])  # warm up
    with Bar("population", len(chosen) * len(forms), unit="generations") as bar:
        for archs in chosen:
            for evaluator in evaluators.values():
                evaluator.scores.clear()
            scores = {}
            for name in shuffle.sample(sorted(forms), len(forms)):
                scores[name] = timed(forms[name], archs, seconds[name])
                bar.advance()
            require_equal(scores, images)
    tree = evaluators["fused"]
    return {
        "population": path.name,
        "architectures": sum(map(len, chosen)),
        "generations": len(chosen),
        "images": images,
        "recalibration": list(recalibration),
        "layer_runs_saved": tree.separate_runs / tree.runs,
        "peak_activation_mib": tree.peak_bytes / 2**20,
        "seconds": seconds,
        "ratios": {name: {clock: ratio(seconds, name, clock) for clock in ("wall", "cpu")} for name in forms},
    }


def share(path: Path, images: int, recalibration: tuple[int, int], generations: int, workers: Executor) -> dict:
    """Seconds of each generation in this process and by the workers, and of a task that does nothing."""
    space, chosen = opened(path, generations)
    supernet, streams = Supernet(space), drawn(space, images, recalibration)
    forms = {"one process": Evaluator(supernet, *streams), "workers": Evaluator(supernet, *streams, workers)}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for call in forms.values():
        call(chosen[0])  # warm up: every worker gets the supernet
        call.scores.clear()
    with Bar("workers", len(chosen) * len(forms), unit="generations") as bar:
        for archs in chosen:
            scores = {}
            for name, call in forms.items():
                began = time.perf_counter()
                scores[name] = call(archs)
                seconds[name].append(time.perf_counter() - began)
                bar.advance()
            if scores["one process"] != scores["workers"]:
                raise UserError("the workers' scores are not those of one process: report this")
    began, tasks = time.perf_counter(), {str(i): () for i in range(200)}
    list(workers.map(idle, tasks, nothing))
    overhead = (time.perf_counter() - began) / len(tasks)
    pairs = zip(*seconds.values(), strict=True)
    gain = statistics.median(alone / shared for alone, shared in pairs)
    return {"at_once": workers.at_once, "seconds": seconds, "gain": gain, "overhead_ms_per_task": 1e3 * overhead}


def idle() -> None:
    """A task that does nothing."""


def one(model: Supernet, pool: Sequence[Tensor], validation: Sequence[tuple[Tensor, Tensor]], arch: Arch) -> float:
    """What the evaluator does for a single architecture, by the functions that training shares."""
    recalibrate_bn(model, pool, arch)
    return evaluate(model, validation, arch)


def timed(call: Callable[[Sequence[Arch]], list[float]], archs: Sequence[Arch], seconds: dict) -> list[float]:
    """Scores; the wall and the CPU clock go into ``seconds``."""
    wall, cpu = time.perf_counter(), time.process_time()
    scores = call(archs)
    seconds["wall"].append(time.perf_counter() - wall)
    seconds["cpu"].append(time.process_time() - cpu)
    return scores


def require_equal(scores: dict[str, list[float]], images: int) -> None:
    """All forms agree to one image in a thousand: rounding moves those that lie on the line."""
    worst = max(abs(a - b) for name in scores for a, b in zip(scores[name], scores[BASE], strict=True))
    if worst > max(1.5 / images, 1e-3):
        raise UserError(f"the forms disagree by {worst:.4f} in accuracy: rebuild the extension, or report this")


def ratio(seconds: dict, name: str, clock: str) -> float:
    """How much faster than the base: the median over the generations."""
    pairs = zip(seconds[BASE][clock], seconds[name][clock], strict=True)
    return statistics.median(base / own for base, own in pairs)


def table(result: dict) -> Table:
    title = (
        f"{result['architectures']} architectures of {result['generations']} generations, "
        f"{result['images']} images, one thread; {result['layer_runs_saved']:.2f} times fewer layer runs; "
        f"activations at most {result['peak_activation_mib']:.1f} MiB (depth × batch)"
    )
    rows = []
    for name, ratios in result["ratios"].items():
        median = statistics.median(result["seconds"][name]["wall"])
        rows.append((name, f"{median:.2f}", f"{ratios['wall']:.2f}×", f"{ratios['cpu']:.2f}×"))
    return Table(("", "s per generation", "faster (wall)", "faster (CPU time)"), rows, title)
