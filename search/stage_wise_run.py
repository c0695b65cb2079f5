"""Stage-Wise NAS in a run folder: trains what it asks for, measures the importance of stages, lets candidates vote."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from search.importance import CRITERIA, importance
from search.stage_wise import Config, Proposal, StageWise
from supernet import donors, families, files, machine
from supernet import executor as executors
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Executor, Processes
from supernet.families import module_stages
from supernet.model import Network
from supernet.progress import Progress, silent
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
TESTED = {"test_accuracy": {str: SHARE}, "ensemble_test_accuracy": SHARE, "test_images": COUNT}
LARGE = 96  # pixels from which on images get ResNet-50's four stages and its stem


@dataclass(frozen=True)
class Settings:
    """Sizes and training; the defaults are small ones, for two cores."""

    initial: int = 2  # modules in each stage of the initial network
    step: int = 1
    iterations: int = 3
    width: int = 8  # channels of the first stage
    epochs: int = 4  # of every network
    further_epochs: int = 0  # of candidates
    batch_size: int = 64
    lr: float = 0.1


def preset(paper: bool, module: str, donor: str | None = None, **given: Any) -> Settings:
    """The paper's settings (§IV), or small ones, with what is not None of ``given``.

    Args:
        module: a kind of ``module_stages``. donor: networks begin with its weights, so fewer epochs suffice.

    Raises:
        UserError: an unknown module, or epochs that cannot be.
    """
    kind = module_stages.kind_of(module)
    found = Settings(width=4 if module == "nasnet" else 8)
    if paper:
        widths = {"residual": 16, "bottleneck": 64, "nasnet": 32}
        found = Settings(6, kind.step, 5, widths[module], 200 if donor is None else 50, 100, 128, 0.01)
    found = dataclasses.replace(found, **{name: value for name, value in given.items() if value is not None})
    if found.epochs == 0 and donor is None:
        raise UserError("0 epochs train nothing: expected at least one epoch, or a donor")
    if min(found.epochs, found.further_epochs) < 0:
        raise UserError(f"{found.epochs} epochs, {found.further_epochs} further ones: expected no negative number")
    return found


def fit_config(paper: bool, epochs: int, batch_size: int, lr: float, seed: int) -> FitConfig:
    """The paper's §IV: SGD .01, ÷10 at a half and three quarters, Nesterov .9, weight decay 1e-4; or a short one."""
    shared: dict[str, Any] = {"batch_size": batch_size, "lr": lr, "weight_decay": 1e-4, "seed": seed}
    if paper:
        return FitConfig(epochs, schedule="step", nesterov=True, label_smoothing=0.0, **shared)
    return FitConfig(epochs, schedule="cosine", clip=5.0, augment=defaults.augments(None, epochs), **shared)


def stages_for(images: TrainVal) -> int:
    """How many stages images of this size have room for: a CIFAR ResNet's three, or ResNet-50's four."""
    return 4 if min(images.size) >= LARGE else 3


def space_for(images: TrainVal, module: str, config: Config, width: int, paper: bool) -> Space:
    """The space of all networks that a search with ``config`` can ask for; the stem halves small images unless as in
    the paper."""
    space = module_stages.space(
        module,
        images.channels,
        images.resolution,
        images.classes,
        width=width,
        stages=config.stages,
        stem_stride=4 if min(images.size) >= LARGE else 1 if paper else 2,
        deepest=config.reach,
    ).at(images.size)
    module_stages.arch(space, (config.initial,) * config.stages)  # refuses an initial network that is not in it
    return space


def controller(config: Config, space: Space, flops_max: float = math.inf, params_max: float = math.inf) -> StageWise:
    """The search, with bounds on the candidates."""
    costs: dict[str, Callable[[tuple[int, ...]], float]] = {
        "multiply-adds": lambda m: families.flops(space, module_stages.arch(space, m)),
        "parameters": lambda m: families.params(space, module_stages.arch(space, m)),
    }
    return StageWise(config, costs, {"multiply-adds": flops_max, "parameters": params_max})


def open_donor(source: str, space: Space, config: Config) -> Network:
    """The donor of ``donors.load``, if it fits every network that the search can ask for."""
    donor = donors.load(source)
    donors.require_depth(donor, (config.reach,) * config.stages)
    initial = module_stages.arch(space, (config.initial,) * config.stages)
    donors.transfer(Network(space, initial, kernels="eager"), donor)
    return donor


@dataclass(frozen=True)
class Training:
    """How a network is trained and its stages are judged."""

    fit: FitConfig
    further_epochs: int = 0  # for candidates (the paper: 100)
    criterion: str = "pls"  # a name in importance.CRITERIA
    images: int | None = None  # training images that importance is measured on; all that memory has room for
    kernels: str = "fused"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise UserError(f"criterion {self.criterion}: expected {', '.join(CRITERIA)}")


def unmetered() -> AbstractContextManager[dict]:
    """Measures nothing."""
    return contextlib.nullcontext({})


@dataclass(frozen=True)
class StageRun:
    """A search in a run folder.

    Args:
        donor: networks begin with its weights.
        meter: measures what a training spends; its numbers are kept with the result. It must be picklable where the
            executor's workers are other processes, and counts what trains beside it, too.
        executor: who trains networks that do not wait for each other.
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
        epochs = sum(cfg.fit.epochs + cfg.further_epochs * (asked.role == "Â") for _, asked in jobs)
        logs = [job.run.stage_network(asked.name).metrics for job, asked in jobs]
        executors.run(
            executor,
            _train,
            {
                f"{i}": (dataclasses.replace(job, progress=silent), asked, threads)
                for i, (job, asked) in enumerate(jobs)
            },
            self.progress(" and ".join(asked.name for _, asked in jobs), epochs, unit="epochs"),
            lambda: sum(len(log.read()) for log in logs),
        )

    def train(self, asked: Proposal) -> dict:
        """A network, trained once: role, iteration, modules, α of each stage, accuracies, costs.

        ``whole`` says that one process trained it, so that seconds and energy are all that it took.
        """
        here, arch = self.run.stage_network(asked.name), module_stages.arch(self.space, asked.modules)
        if here.result_path.exists():
            return files.read_json(here.result_path, "result of a network", expected=RESULT)
        whole, began = not checkpoint.exists(here.checkpoint), time.monotonic()
        donor, cfg = self.donor, self.training
        further = cfg.further_epochs if asked.role == "Â" else 0
        with self.meter() as spent:
            network, last = standalone.train(
                self.space,
                arch,
                self.images,
                dataclasses.replace(cfg.fit, epochs=cfg.fit.epochs + further),
                here.path,
                self.device,
                kernels=cfg.kernels,
                start=None if donor is None else lambda network: donors.transfer(network, donor),
                label=asked.name,
                progress=self.progress,
            )
        result = {
            "schema": 1,
            "name": asked.name,
            "role": asked.role,
            "iteration": asked.iteration,
            "modules": list(asked.modules),
            "importance": importance(network, self.images.train, cfg.criterion, cfg.images),
            "val_accuracy": last["val_accuracy"],
            "params": families.params(self.space, arch),
            "flops": families.flops(self.space, arch),
            "seconds": time.monotonic() - began,
            "whole": whole,
            **spent,
        }
        files.write_json(here.result_path, result)
        return result

    def spread(self, initial: Proposal, first: Mapping[str, Any], more: int) -> list[float] | None:
        """Standard deviation of the initial network's importance over seeds, stage by stage; None without ``more``.

        Args:
            first: its result in the search. more: trainings besides, in ``RUN/seed-N``.
        """
        if not more:
            return None

        def seeded(seed: int) -> StageRun:
            training = dataclasses.replace(self.training, fit=dataclasses.replace(self.training.fit, seed=seed))
            return dataclasses.replace(self, run=self.run.seed(seed), training=training)

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
            accuracies: dict[str, float] = {}
            ensemble = 0.0
            for group in (trained[:1], trained[1:]):  # the initial network is no candidate and has no vote
                if group:
                    folders = [self.run.stage_network(result["name"]) for result in group]
                    networks = [folder.trained(self.space).to(self.device) for folder in folders]
                    alone, ensemble = vote(networks, test.plain_batches(256))
                    accuracies |= {result["name"]: accuracy for result, accuracy in zip(group, alone, strict=True)}
            tested = {"test_accuracy": accuracies, "ensemble_test_accuracy": ensemble, "test_images": len(test)}
            files.write_json(path, {"schema": 1, **tested})
        return files.read_json(path, "test result", expected=TESTED)

    def write_best(self, results: Sequence[Mapping[str, Any]], tested: Mapping, noise: list[float] | None) -> Mapping:
        """``arch.json``: the network that is most accurate on the validation split, the last of equals.

        The last, as it is the one that the search went on from. Returns its result.
        """
        trained = judged(results)
        best = max(reversed(trained[1:] or trained), key=lambda result: result["val_accuracy"])
        self.run.write_found(
            self.space,
            module_stages.arch(self.space, best["modules"]),
            **{key: best[key] for key in ("name", "modules", "val_accuracy", "params", "flops")},
            test_accuracy=tested["test_accuracy"][best["name"]],
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
    """The results of the initial network and of the candidates, without those of temporary networks."""
    return [result for result in results if result["role"] != "T"]


@torch.inference_mode()
def vote(networks: Sequence[Network], batches: Batches) -> tuple[list[float], float]:
    """Accuracy of each network in [0, 1], and of all together: the mean of their probabilities decides."""
    hits, together, n = [0] * len(networks), 0, 0
    device = next(networks[0].parameters()).device
    for network in networks:
        network.eval()
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        probabilities = torch.stack([network(x).softmax(1) for network in networks])
        for i, own in enumerate(probabilities):
            hits[i] += int((own.argmax(1) == y).sum())
        together += int((probabilities.mean(0).argmax(1) == y).sum())
        n += len(y)
    return [h / n for h in hits], together / n


def table(
    results: Sequence[Mapping[str, Any]],
    tested: Mapping,
    criterion: str,
    noise: Sequence[float] | None,
    seeds: int,
    carbon: bool,
) -> Table:
    """One row for each network.

    Args:
        results: of ``StageRun.train``. tested: of ``StageRun.test``. noise: of ``StageRun.spread`` over ``seeds``.
        carbon: show energy and CO₂.
    """
    rows = []
    for result in results:
        accuracy, least = tested["test_accuracy"].get(result["name"]), "" if result["whole"] else "≥ "
        names = [f"{result['role']} {result['iteration']}", *modules_and_importance(result)]
        counts = [f"{result['flops'] / 1e6:.2f}", f"{result['params'] / 1e3:.1f}", f"{least}{result['seconds']:.0f}"]
        rows.append([*names, *counts, f"{100 * result['val_accuracy']:.2f}"])
        rows[-1].append("" if accuracy is None else f"{100 * accuracy:.2f}")
        if carbon:
            spent = [result.get(key) for key in ("energy_kwh", "co2_kg")]  # not there if it was not asked for then
            rows[-1] += ["" if value is None else f"{least}{1e3 * value:.3g}" for value in spent]
    if noise is not None:
        rows.append(["SD", f"{seeds} seeds", " ".join(f"{value:.4f}" for value in noise)])
    title = f"importance by {criterion}, stage by stage; candidates tested once"
    headings = ["", "modules", "importance", "MFLOPs", "k params", "s", "val %", "test %"]
    return Table([*headings, *(("Wh", "g CO₂") if carbon else ())], rows, title, text=2, wraps=2)


def modules_and_importance(result: Mapping[str, Any]) -> tuple[str, str]:
    """Of a trained network, stage by stage."""
    return "-".join(map(str, result["modules"])), " ".join(f"{value:.4f}" for value in result["importance"])
