"""Stage-Wise NAS in a run folder: trains what it asks for, measures the importance of stages, lets candidates vote."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search.criteria import CRITERIA
from search.importance import importance
from search.stage_wise import ROLES, Proposal, StageWise
from supernet import donors, families, files, machine, metrics
from supernet import executor as executors
from supernet.answers import Answers
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Executor, Processes
from supernet.families import module_stages
from supernet.metrics import HEADINGS, METRICS, TOP1, Metric
from supernet.model import Network
from supernet.progress import Progress, silent
from supernet.quantities import digits, several
from supernet.runs import RunFolder
from supernet.shape import COUNT, SHARE, Number
from supernet.space import Space
from supernet.tables import Table
from supernet.training import checkpoint, defaults, standalone
from supernet.training.evaluation import Batches
from supernet.training.loop import FitConfig

Meter = Callable[[], AbstractContextManager[dict]]  # what a training spends is in the dict once the context is left
RESULT = {  # of a network, in files
    "schema": 1,
    "name": str,
    "role": str,
    "iteration": COUNT,
    "modules": [COUNT],
    "importance": [float],
    "val_accuracy": SHARE,
    "params": COUNT,
    "flops": COUNT,
    "seconds": Number(0),
    "whole": bool,
}
EQUAL = {"importance": [float], "equal_val_accuracy": SHARE}  # of a candidate that is trained further
TESTED = {"test_accuracy": {str: SHARE}, "ensemble_test_accuracy": SHARE, "test_images": COUNT}
OTHERS = [metrics.key("test", metric) for metric in METRICS if metric != TOP1]
TESTED |= {f"{name}?": {str: SHARE} for name in OTHERS} | {f"ensemble_{name}?": SHARE for name in OTHERS}


@dataclass(frozen=True)
class Training:
    """How a network is trained and its stages are judged."""

    fit: FitConfig
    further_epochs: int = 0  # for candidates, once their importance is measured (the paper: 100)
    criterion: str = "pls"  # a name in importance.CRITERIA
    images: int | None = None  # training images that importance is measured on; all that memory has room for
    kernels: str = "fused"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise UserError(f"criterion {self.criterion}: expected {', '.join(CRITERIA)}")

    def further(self, asked: Proposal) -> int:
        """Further epochs of a network: none but for candidates."""
        return self.further_epochs if asked.role == "Â" and not asked.seed else 0


def unmetered() -> AbstractContextManager[dict]:
    """Measures nothing."""
    return contextlib.nullcontext({})


@dataclass(frozen=True)
class StageRun:
    """A search in a run folder.

    Args:
        donor: networks begin with its weights.
        meter: measures what a training spends, in numbers that add up; they are kept with the result. It must be
            picklable where the executor's workers are other processes, and counts what trains beside it, too.
        executor: who trains networks that do not wait for each other.
        again: the seed, where a network of another search is trained again.
        metric: by which the best network is chosen.
    """

    run: RunFolder
    space: Space
    images: TrainVal
    training: Training
    device: torch.device
    donor: Network | None = None
    meter: Meter = unmetered
    progress: Progress = silent
    executor: Executor = Processes()
    again: int | None = None
    metric: Metric = TOP1

    def label(self, asked: Proposal) -> str:
        """What progress calls a network."""
        return asked.name if self.again is None else f"{asked.name}, seed {self.again}"

    def search(self, search: StageWise) -> Iterator[dict]:
        """Run Algorithm 1, or continue: no network is trained twice.

        Yields:
            The result of each network, see ``train``, those of earlier runs too.
        """
        path = self.run.search_path
        if path.exists():
            search.replay(files.read_json(path, "search"), str(path))
            for record in search.records:
                yield self.train(record.network)
        while (asked := search.ask()) is not None:
            self.train_all([(self, proposal) for proposal in search.ahead()])
            result = self.train(asked)
            search.tell(asked, result["importance"])
            files.write_json(path, search.state())
            yield result

    def train_all(self, jobs: Sequence[tuple[StageRun, Proposal]]) -> None:
        """Train networks side by side where the executor has workers; ``train`` then finds their results."""
        executor = executors.for_device(self.executor, self.device)
        jobs = [job for job in jobs if not job[0].run.stage_network(job[1].name).result_path.exists()]
        at_once = min(executor.at_once, len(jobs))
        if at_once < 2 and isinstance(executor, Processes):
            return
        threads, cfg = max(1, machine.cores() // max(at_once, 1)), self.training
        epochs = sum(cfg.fit.epochs + cfg.further(asked) for _, asked in jobs)
        logs = [job.run.stage_network(asked.name).metrics for job, asked in jobs]
        executors.run(
            executor,
            _train,
            {
                f"{i}": (dataclasses.replace(job, progress=silent), asked, threads)
                for i, (job, asked) in enumerate(jobs)
            },
            self.progress(" and ".join(job.label(asked) for job, asked in jobs), epochs, unit="epochs"),
            lambda: sum(len(log.read()) for log in logs),
        )

    def train(self, asked: Proposal) -> dict:
        """A network, trained once: role, iteration, modules, α of each stage, accuracies, costs.

        α is measured after equal training; candidates are then trained further (§IV). ``whole`` says that one process
        trained it, so that seconds and energy are all that it took.
        """
        here, arch = self.run.stage_network(asked.name), module_stages.arch(self.space, asked.modules)
        if here.result_path.exists():
            return files.read_json(here.result_path, "result of a network", expected=RESULT)
        whole, began, cfg = not checkpoint.exists(here.checkpoint), time.monotonic(), self.training
        further = cfg.further(asked)
        spent: dict[str, float] = {}
        if here.importance_path.exists():  # it was stopped while it was trained further
            equal = files.read_json(here.importance_path, "importance of a network", expected=EQUAL)
        else:
            network, last = self.trained(asked, 0, spent)
            alpha = importance(network, self.images.train, cfg.criterion, cfg.images)
            equal = {"importance": alpha, "equal_val_accuracy": last["val_accuracy"]}
        if further:
            files.write_json(here.importance_path, equal)
            _, last = self.trained(asked, further, spent)
        result = {
            "schema": 1,
            "name": asked.name,
            "role": asked.role,
            "iteration": asked.iteration,
            "seed": asked.seed,
            "modules": list(asked.modules),
            **equal,
            "metric": self.metric,
            **{name: last[name] for name in (metrics.key("val", metric) for metric in METRICS) if name in last},
            "params": families.params(self.space, arch),
            "flops": families.flops(self.space, arch),
            "seconds": time.monotonic() - began,
            "whole": whole,
            **spent,
        }
        files.write_json(here.result_path, result)
        return result

    def trained(self, asked: Proposal, further: int, spent: dict[str, float]) -> tuple[Network, dict]:
        """The network after so many further epochs, and the last line of its log; adds to what was spent."""
        cfg, donor = self.training, self.donor
        fit = dataclasses.replace(cfg.fit, epochs=cfg.fit.epochs + further, seed=cfg.fit.seed + asked.seed)
        with self.meter() as metered:
            trained = standalone.train(
                self.space,
                module_stages.arch(self.space, asked.modules),
                self.images,
                fit,
                self.run.stage_network(asked.name).path,
                self.device,
                kernels=cfg.kernels,
                start=None if donor is None else lambda network: donors.transfer(network, donor),
                label=self.label(asked),
                progress=self.progress,
            )
        spent.update({name: spent.get(name, 0.0) + value for name, value in metered.items()})
        return trained

    def spread(self, initial: Proposal, first: Mapping[str, Any], more: int) -> list[float] | None:
        """Standard deviation of the initial network's importance over seeds, stage by stage; None without ``more``.

        Args:
            first: its result in the search. more: trainings besides, in ``RUN/seed-N``.
        """
        if not more:
            return None

        def seeded(seed: int) -> StageRun:
            training = dataclasses.replace(self.training, fit=dataclasses.replace(self.training.fit, seed=seed))
            return dataclasses.replace(self, run=self.run.seed(seed), training=training, again=seed)

        runs = [seeded(self.training.fit.seed + 1 + i) for i in range(more)]
        self.train_all([(run, initial) for run in runs])
        scores = [first, *(run.train(initial) for run in runs)]
        return np.std([score["importance"] for score in scores], axis=0, ddof=1).tolist()

    def test(self, results: Sequence[Mapping[str, Any]], images: Callable[[], ImageSet]) -> dict:
        """Test accuracies of the initial network and the candidates, and of the candidates' vote: ``candidates.json``.

        Args:
            images: opens the test images; called once in the life of a run.
        """
        path = self.run.tested_path
        if not path.exists():
            trained, test = judged(results), images()
            found: dict[str, dict[str, float]] = {}  # by the name of a metric: network: share
            together: dict[str, float] = {}
            for group in (trained[:1], trained[1:]):  # the initial network is no candidate and has no vote
                if group:
                    folders = [self.run.stage_network(result["name"]) for result in group]
                    networks = [folder.trained(self.space).to(self.device) for folder in folders]
                    alone, voted = vote(networks, test.plain_batches(256))
                    for result, answers in zip(group, alone, strict=True):
                        for name, share in answers.shares("test").items():
                            found.setdefault(name, {})[result["name"]] = share
                    together = voted.shares("test")
            # Of the initial network alone where no stage grew.
            tested = {**found, **{f"ensemble_{name}": share for name, share in together.items()}}
            tested |= {"test_images": len(test)}
            files.write_json(path, {"schema": 1, **tested})
        return files.read_json(path, "test result", expected=TESTED)

    def write_best(self, results: Sequence[Mapping[str, Any]], tested: Mapping, noise: list[float] | None) -> Mapping:
        """``arch.json``: the network that is best by the metric on the validation split, the last of equals.

        The last, as it is the one that the search went on from. Returns its result.
        """
        trained, (val, test) = judged(results), (metrics.key(part, self.metric) for part in ("val", "test"))
        best = max(reversed(trained[1:] or trained), key=lambda result: result[val])
        accuracies = {name: best[name] for name in ("val_accuracy", val)}
        accuracies |= {name: tested[name][best["name"]] for name in ("test_accuracy", test)}
        self.run.write_found(
            self.space,
            module_stages.arch(self.space, best["modules"]),
            **{key: best[key] for key in ("name", "modules", "params", "flops")},
            **accuracies,
            metric=self.metric,
            importance_sd=noise,
        )
        return best


def _train(job: StageRun, asked: Proposal, threads: int) -> dict:
    """What a worker does."""
    defaults.keep_memory()
    if job.device.type == "cpu":
        torch.set_num_threads(threads)
    return job.train(asked)


def judged(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The results of the initial network and of the candidates, without temporary networks and further pairs."""
    return [result for result in results if result["role"] != "T" and not result.get("seed")]


@torch.inference_mode()
def vote(networks: Sequence[Network], batches: Batches) -> tuple[list[Answers], Answers]:
    """What each network answers, and all together: the mean of their probabilities decides."""
    labels: list[Tensor] = []
    guesses: list[list[np.ndarray]] = [[] for _ in range(len(networks) + 1)]
    device, classes = next(networks[0].parameters()).device, networks[0].space.classes
    for network in networks:
        network.eval()
    for x, y in batches:
        probabilities = torch.stack([network(x.to(device)).softmax(1) for network in networks]).cpu()
        for kept, own in zip(guesses, [*probabilities, probabilities.mean(0)], strict=True):
            kept.append(Answers.of(own.numpy(), y.numpy()).guesses)
        labels.append(y)
    truth = torch.cat(labels).numpy()
    *alone, together = (Answers(truth, np.concatenate(own), classes) for own in guesses)
    return alone, together


def table(
    results: Sequence[Mapping[str, Any]],
    tested: Mapping,
    criterion: str,
    noise: Sequence[float] | None,
    seeds: int,
    carbon: bool,
    metric: Metric = TOP1,
) -> Table:
    """One row for each network.

    Args:
        results: of ``StageRun.train``. tested: of ``StageRun.test``. noise: of ``StageRun.spread`` over ``seeds``.
        carbon: show energy and CO₂. metric: what accuracies are.
    """
    rows = []
    for result in results:
        least = "" if result["whole"] else "≥ "
        names = [f"{result['iteration']} {role(result)}", *modules_and_importance(result)]
        counts = [f"{result['flops'] / 1e6:.2f}", f"{result['params'] / 1e3:.1f}", f"{least}{result['seconds']:.0f}"]
        shares = [result[metrics.key("val", metric)], tested[metrics.key("test", metric)].get(result["name"])]
        rows.append([*names, *counts, *("" if share is None else f"{100 * share:.2f}" for share in shares)])
        if carbon:
            spent = [result.get(key) for key in ("energy_kwh", "co2_kg")]  # not there if it was not asked for then
            rows[-1] += ["" if value is None else f"{least}{digits(1e3 * value)}" for value in spent]
    if noise is not None:
        spread = ["SD", several(seeds, "seed"), " ".join(f"{value:.4f}" for value in noise)]
        rows.append([*spread, *[""] * (len(rows[0]) - len(spread))])
    title = f"importance by {criterion}, stage by stage; candidates tested once"
    headings = ["", "modules", "importance", "MFLOPs", "k params", "s"]
    headings += [f"{HEADINGS[metric]}{part} %" for part in ("val", "test")]
    return Table([*headings, *(("Wh", "g CO₂") if carbon else ())], rows, title, text=2, wraps=2)


def role(result: Mapping[str, Any]) -> str:
    """What a network is in the search, in words."""
    return ROLES[result["role"]] + (f" seed {result['seed']}" if result.get("seed") else "")


def modules_and_importance(result: Mapping[str, Any]) -> tuple[str, str]:
    """Of a trained network, stage by stage."""
    return "-".join(map(str, result["modules"])), " ".join(f"{value:.4f}" for value in result["importance"])
