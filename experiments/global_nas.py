"""Efficient Global NAS on real images: a full search, its gain over random networks, and the ranking study.

Hypotheses, written down before the run: the found network beats the mean of random networks of the same space
(RI > 0, §4.1), and dynamic training ranks better than static training of the same total epochs (§3.2) and better than
the same budgets in random order. Every finished training is kept in RUN: the same command continues. The search and
the study see the training and validation splits; the found and the random networks are tested once each. Where all is
trained, the command only writes the tables.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import _common
from latency.measure import host
from search import plain_run
from search.drawing import draw
from search.dynamic_ranking import Study, study
from search.efficient_global import Candidate, Config, relative_improvement, sample
from supernet import executor, families, files, machine
from supernet.data import sets
from supernet.progress import Bar
from supernet.runs import RunFolder
from supernet.training import checkpoint, defaults, standalone
from supernet.training.evaluation import evaluate


@dataclass(frozen=True)
class Args(_common.OnDevice):
    run: Path = Path("runs/experiment-global-nas")
    """Folder of the trainings."""
    output: Path = Path("docs/results")
    """Where global_nas.json, .md and .png go."""
    data: str = "fashion-mnist"
    """Images."""
    data_root: Path = Path("data")
    """Dataset directory."""
    limit: int = 3000
    """Training images, stratified."""
    depth: tuple[int, int] = (5, 10)
    """Fewest and most layers (the paper: 10 to 100)."""
    width: tuple[int, int] = (4, 12)
    """Fewest and most channels at full resolution (the paper: 16 to 64)."""
    epochs: int = 2
    """Epochs of the first candidate of the macro search (the paper: 10), and of the micro search."""
    final_epochs: int = 20
    """Epochs of the found network and of the random ones (the paper: 600)."""
    random: int = 10
    """Random networks that the found one is compared with."""
    seeds: int = 3
    """Trainings of the found network."""
    study: int = 40
    """Random networks of the ranking study."""
    budgets: tuple[int, ...] = (1, 2, 3, 4, 6)
    """Epochs of the study's trainings, each with a schedule of its own; two of the last are the truth."""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""
    quick: bool = False
    """Everything tiny, on digits: does it run at all?"""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    if args.quick:
        tiny = {"data": "digits", "limit": 192, "depth": (3, 4), "width": (2, 4), "epochs": 1, "final_epochs": 1}
        args = dataclasses.replace(args, **tiny, random=2, seeds=1, study=4, budgets=(1, 2))
    ignored = ("run", "output", "data_root", "jobs", "random", "seeds", "study", "quick")  # these only add trainings
    config = {k: v for k, v in dataclasses.asdict(args).items() if k not in ignored}
    defaults.device(args.device)
    images(args.data, args.data_root, args.limit)  # what cannot be is refused before anything is written
    RunFolder(args.run).begin(config, defaults=_common.OLDER)

    arch = search(args)
    found, macro = (candidate(arch[name]) for name in ("found", "macro"))
    results = train_all(args, {**final_jobs(args, found), **study_jobs(args)})
    summary = {
        "command": _common.command(),
        "settings": {**config, "random": args.random, "seeds": args.seeds, "study": args.study},
        "machine": {**host(), "torch": torch.__version__, "load": os.getloadavg()[0]},
        "minutes": {name: minutes(args.run / name, args.limit) for name in ("search", "trainings")},
        "search": arch,
        "comparison": compare(args, results),
        "study": dataclasses.asdict(judge(args, results)),
    }
    write(args, summary, {"macro search": macro, "found": found})


def candidate(saved: dict[str, Any]) -> Candidate:
    """As JSON has it."""
    return Candidate(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})


def config_of(args: Args) -> Config:
    """The bounds and epochs of the search, which the random networks are drawn from too."""
    return plain_run.configure(
        "small", depth=args.depth, width=args.width, epochs=args.epochs, micro_epochs=args.epochs
    )


def search(args: Args) -> dict[str, Any]:
    """Search to the end, or continue; what was found and what it took."""
    run, opened = RunFolder(args.run / "search"), images(args.data, args.data_root, args.limit)
    training = plain_run.Training(augment=None)
    told = functools.partial(_common.console.print, markup=False)
    job = plain_run.PlainRun(run, opened, training, defaults.device(args.device), Bar, told)
    job.search(plain_run.controller(config_of(args), job.image))
    return run.found()


# --- trainings


@dataclass(frozen=True)
class Job:
    """One network to train, and whether it is tested."""

    candidate: Candidate
    seed: int
    test: bool


def final_jobs(args: Args, found: Candidate) -> dict[str, Job]:
    """The found network with several seeds, and random networks, trained for equally long."""
    rng = np.random.default_rng([0, 1])
    config = config_of(args)
    jobs = {
        f"found-{seed}": Job(dataclasses.replace(found, epochs=args.final_epochs), seed, True)
        for seed in range(args.seeds)
    }
    jobs |= {f"random-{i}": Job(sample(rng, config, args.final_epochs), 0, True) for i in range(args.random)}
    return jobs


def study_jobs(args: Args) -> dict[str, Job]:
    """Every network of the study with every budget, and twice more with the longest."""
    rng = np.random.default_rng([0, 2])
    config = config_of(args)
    jobs = {}
    for i in range(args.study):
        network = sample(rng, config, 0)
        for seed, budgets in ((0, args.budgets), (1, args.budgets[-1:]), (2, args.budgets[-1:])):
            for epochs in budgets:
                jobs[f"study-{i}-{epochs}-{seed}"] = Job(dataclasses.replace(network, epochs=epochs), seed, False)
    return jobs


def train_all(args: Args, jobs: dict[str, Job]) -> dict[str, dict]:
    """The result of every job by name; those of an earlier run are read."""
    results = {name: json.loads(path(args, name).read_text()) for name in jobs if path(args, name).exists()}
    todo = {name: (args, name, job) for name, job in jobs.items() if name not in results}
    finished: list[str] = []
    if todo:
        bar = Bar("trainings", len(jobs), done=len(results), unit="trainings")
        already = len(results)
        results |= executor.run(
            executor.Processes(args.jobs),
            train_one,
            todo,
            bar,
            done=lambda: already + len(finished),
            finished=lambda name, result: finished.append(name),
        )
    return results


def path(args: Args, name: str) -> Path:
    return args.run / "trainings" / name / "result.json"


@functools.cache
def images(name: str, root: Path, limit: int) -> sets.TrainVal:
    """What every network is trained on."""
    return plain_run.with_cutout(sets.open_train(name, root, limit=limit), 16)


def train_one(args: Args, name: str, job: Job) -> dict[str, Any]:
    """Train one network as the search does; its last epoch counts, as nothing is selected here."""
    defaults.keep_memory()
    torch.set_num_threads(1)
    opened = images(args.data, args.data_root, args.limit)
    space, arch = plain_run.network(job.candidate, (opened.channels, opened.size, opened.classes))
    cfg = plain_run.Training(augment=None, seed=job.seed).fit(job.candidate.epochs)
    folder = path(args, name).parent
    last_epoch_counts = {"validate": lambda network: {}}
    device = defaults.device(args.device)
    network, _ = standalone.train(space, arch, opened, cfg, folder, device, kernels="fused", **last_epoch_counts)
    result = {
        "candidate": dataclasses.asdict(job.candidate),
        "params": families.params(space, arch),
        "flops": families.flops(space, arch),
        "val_accuracy": evaluate(network, opened.val.plain_batches(512)),
    }
    if job.test:
        test = sets.open_test(args.data, args.data_root)
        result["test_accuracy"] = evaluate(network, test.plain_batches(512))
    files.write_json(path(args, name), result)
    checkpoint.delete(folder / "checkpoint.pt")
    return result


# --- what came out


def minutes(folder: Path, limit: int) -> float:
    """What the epochs of all trainings in a folder took on one thread, by the rates in their logs."""
    lines = (line for path in sorted(folder.rglob("metrics.jsonl")) for line in files.JsonLines(path).read())
    return round(sum(limit / line["images_per_second"] for line in lines) / 60, 1)


def compare(args: Args, results: dict[str, dict]) -> dict[str, Any]:
    """Found against random: test accuracies in per cent, RI, sizes."""
    found = [results[f"found-{seed}"] for seed in range(args.seeds)]
    random = [results[f"random-{i}"] for i in range(args.random)]
    accuracies = {
        "found": [100 * r["test_accuracy"] for r in found],
        "random": [100 * r["test_accuracy"] for r in random],
    }
    ri = [relative_improvement(accuracy, accuracies["random"]) for accuracy in accuracies["found"]]
    sizes = {"found_params": found[0]["params"], "random_params": [r["params"] for r in random]}
    return {**accuracies, "ri": ri, **sizes}


def judge(args: Args, results: dict[str, dict]) -> Study:
    """The ranking study on validation accuracies; the truth is a full training with another seed."""

    def accuracy(i: int, epochs: int, seed: int) -> float:
        return results[f"study-{i}-{epochs}-{seed}"]["val_accuracy"]

    networks, longest = range(args.study), args.budgets[-1]
    return study(
        [results[f"study-{i}-{longest}-0"]["params"] for i in networks],
        args.budgets,
        [[accuracy(i, epochs, 0) for epochs in args.budgets] for i in networks],
        final=[accuracy(i, longest, 1) for i in networks],
        again=[accuracy(i, longest, 2) for i in networks],
    )


def write(args: Args, summary: dict[str, Any], networks: dict[str, Candidate]) -> None:
    """``global_nas.json``, the tables as ``global_nas.md``, the picture."""
    args.output.mkdir(parents=True, exist_ok=True)
    files.write_json(args.output / "global_nas.json", summary)
    opened = images(args.data, args.data_root, args.limit)
    shape = (opened.channels, opened.size, opened.classes)
    rows = {
        f"{name}\nL {n.depth} C {n.width}": plain_run.drawn(*plain_run.network(n, shape))
        for name, n in networks.items()
    }
    draw(args.output / "global_nas.png", rows)
    title = "# Efficient Global NAS: a search, its gain over random networks, the ranking study"
    tables = (comparison_table(summary["comparison"]), study_table(summary["study"]))
    text = "\n\n".join([title, in_words(args, summary), *tables])
    (args.output / "global_nas.md").write_text(text + "\n")
    _common.console.print(text, markup=False)
    _common.console.print(f"→ {args.output / 'global_nas.md'}, .json, .png", markup=False)


def in_words(args: Args, summary: dict[str, Any]) -> str:
    arch, took = summary["search"], summary["minutes"]
    return (
        f"`{summary['command']}`: {args.data}, {args.limit} training images, {args.depth[0]} to {args.depth[1]} "
        f"layers, {args.width[0]} to {args.width[1]} channels, E from {args.epochs}; final trainings of "
        f"{args.final_epochs} epochs. The search trained {arch['trained']} candidates for {arch['epochs']} epochs in "
        f"all, {took['search']:.0f} minutes of one thread; the networks that are compared and ranked took "
        f"{took['trainings']:.0f}. {summary['machine']['cpu']}. The hypotheses are in the head of the script, written "
        f"before the run.\n\nMacro search: {candidate(arch['macro']).describe()}; found: "
        f"{candidate(arch['found']).describe()}, {arch['params'] / 1e3:.1f} k parameters, {arch['flops'] / 1e6:.2f} M "
        "multiply-adds."
    )


def comparison_table(c: dict[str, Any]) -> str:
    rows = [
        ("found", c["found"], f"{c['found_params'] / 1e3:.1f}"),
        (f"{len(c['random'])} random", c["random"], spread([p / 1e3 for p in c["random_params"]], 1)),
    ]
    lines = ["| network | test % | k params |", "|---|---|---|"]
    lines += [f"| {name} | {spread(accuracies, 2)} | {size} |" for name, accuracies, size in rows]
    best = max(c["random"])
    lines.append(f"\nRI {spread(c['ri'], 2)} over trainings of the found network; best random network {best:.2f} %.")
    return "\n".join(lines)


def study_table(s: dict[str, Any]) -> str:
    def cell(rho: float | None) -> str:
        return "—" if rho is None else f"{rho:.2f}"

    mean, interval = f"{s['dynamic_epochs']:.1f}", s["permuted_interval"] or (None, None)
    rows = [(f"static, {epochs} epochs", str(epochs), cell(rho)) for epochs, rho in s["static"].items()]
    rows.append(("dynamic", mean, cell(s["dynamic"])))
    rows.append(("its budgets permuted", mean, f"{cell(s['permuted'])} [{', '.join(map(cell, interval))}]"))
    rows.append(("parameters", "0", cell(s["params"])))
    rows.append(("ceiling: another full training", "", cell(s["ceiling"])))
    lines = [f"| ranking of {s['n']} networks | epochs per network | Spearman ρ |", "|---|---|---|"]
    gain, (low, high) = s["gain"], s["gain_interval"] or (None, None)
    said = (
        ""
        if gain is None
        else f"\nDynamic minus static of about the same epochs: {gain:+.2f} [{low:+.2f}, {high:+.2f}]."
    )
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), said]).rstrip()


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


if __name__ == "__main__":
    _common.main(run, Args)
