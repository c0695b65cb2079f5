"""Efficient Global NAS on real images: several searches and their gain over random networks of the same space.

Hypothesis, written down before the run: the found networks beat the mean of random ones of the same space (RI > 0,
§4.1), with fewer parameters. Every finished training is kept in RUN: the same command continues. A search sees the
training and the validation split; the found and the random networks are tested once each, after equally long trainings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _common, _plain, _report
from experiments._plain import Job, Search
from search import plain_run
from search.drawing import Block, draw_on
from search.efficient_global import Candidate, Config, relative_improvement, sample
from supernet import files
from supernet.errors import UserError
from supernet.quantities import count
from supernet.runs import RunFolder
from supernet.size import Size
from supernet.training import defaults


@dataclass(frozen=True)
class Args(_plain.Options):
    run: Path = Path("runs/experiment-global-nas")
    """Folder of the trainings."""
    output: Path = Path("docs/results/global_nas.json")
    """Results."""
    epochs: int = 2
    """Epochs of the first candidate of the macro search (the paper: 10)."""
    micro_epochs: int = 2
    """Epochs of the candidates of the micro search, as in the paper."""
    final_epochs: int = 20
    """Epochs of the found networks and of the random ones (the paper: 600)."""
    searches: int = 5
    """Searches, each with a seed of its own."""
    trainings: int = 1
    """Trainings of each found network, each with a seed of its own."""
    random: int = 10
    """Random networks that the found ones are compared with."""
    macro_width: bool = False
    """Train the found networks at the width of the macro search, as the paper's reported ones."""
    train_all: bool = False
    """Train the networks that are tested on the validation images, too, as the paper does."""
    beside: tuple[Path, ...] = ()
    """Results of other images whose first search is drawn in the same picture (Figure 1)."""


def run(args: Args) -> None:
    if args.quick:
        tiny = {"data": "digits", "limit": 192, "depth": (3, 4), "width": (2, 4), "epochs": 1, "final_epochs": 1}
        args = dataclasses.replace(args, **tiny, micro_epochs=1, searches=2, random=2)
    settings = _common.identity(args, "beside", "quiet", "jobs", "quick", "searches", "trainings", "random")
    if args.random < 1:
        raise UserError(f"--random {args.random}: expected one network or more, which the found ones are compared with")
    defaults.device(args.device)
    subset = _plain.subset_of(args)
    opened, config = _plain.images(subset), config_of(args)  # what cannot be is refused before anything is written
    beside(args)
    RunFolder(args.run).begin(settings, defaults=_common.OLDER)
    clock = _common.Clock(args.run, "global_nas")

    jobs = {f"search-{seed}": Search(config, seed, subset) for seed in range(args.searches)}
    found = _plain.all_of(args, _plain.search_one, jobs, "searches")
    searches = [found[name] for name in jobs]
    results = _plain.all_of(args, _plain.train_one, trainings(args, config, searches), "trainings")
    took = {
        "search": sum(_plain.minutes(args.run / name, len(opened.train)) for name in jobs),
        "trainings": _plain.minutes(args.run / "trainings", len(opened.train) + args.train_all * len(opened.val)),
    }
    result = {
        "minutes": took,
        "image": [opened.channels, *opened.size, opened.classes],
        "search": searches[0],
        "searches": searches,
        "comparison": compare(args, results),
        "space": {"networks": float(config.networks()), "paper": float(PAPER_SPACE.networks(25))},
    }
    write(args, _common.results("global_nas", args, clock, **result))


PAPER_SPACE = Config(depth=(5, 100), width=(16, 128))  # the bounds of §3.1, whose eq. 1 has a depth of 25


def config_of(args: Args) -> Config:
    """The bounds and epochs of the search, which the random networks are drawn from too."""
    return Config(depth=args.depth, width=args.width, epochs=args.epochs, micro_epochs=args.micro_epochs)


def trainings(args: Args, config: Config, searches: Sequence[Mapping[str, Any]]) -> dict[str, Job]:
    """The found networks and random ones, trained for equally long."""
    subset, rng, jobs = _plain.subset_of(args), np.random.default_rng([0, 1]), {}
    for number, search in enumerate(searches):
        found = dataclasses.replace(_plain.candidate(search["found"]), epochs=args.final_epochs)
        if args.macro_width:
            found = dataclasses.replace(found, width=search["macro"]["width"])
        for again in range(args.trainings):
            jobs[f"trainings/found-{number}-{again}"] = Job(
                found, number + 100 * again, subset, test=True, train_all=args.train_all
            )
    for i in range(args.random):
        jobs[f"trainings/random-{i}"] = Job(
            sample(rng, config, args.final_epochs), 0, subset, test=True, train_all=args.train_all
        )
    return jobs


def compare(args: Args, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Found against random: test accuracies in per cent, RI, sizes; of a found network the mean of its trainings."""
    of_search = [
        [results[f"trainings/found-{number}-{again}"] for again in range(args.trainings)]
        for number in range(args.searches)
    ]
    random = [results[f"trainings/random-{i}"] for i in range(args.random)]
    found = [100 * float(np.mean([r["test_accuracy"] for r in trained])) for trained in of_search]
    accuracies = {"found": found, "random": [100 * r["test_accuracy"] for r in random]}
    sizes = {"found_params": [trained[0]["params"] for trained in of_search]}
    ri = [relative_improvement(accuracy, accuracies["random"]) for accuracy in found]
    return {**accuracies, "ri": ri, **sizes, "random_params": [r["params"] for r in random]}


# --- what came out


def write(args: Args, result: dict[str, Any]) -> None:
    """The results, their tables and the picture of the found networks."""
    rows = networks(result)
    for other in beside(args):
        rows |= networks({**other, "searches": other["searches"][:1]})
    size = (10.0, 1.6 * len(rows) + 0.8)
    _report.report(args.output, result, tables(result), lambda figure, _: draw_on(figure, rows), size)


def beside(args: Args) -> list[dict[str, Any]]:
    """The results of other images.

    Raises:
        UserError: there are none, or of another form.
    """
    form = {"searches": [dict], "image": [int], "settings": dict}
    return [files.read_json(p, "results", "run the experiment on these images", expected=form) for p in args.beside]


def networks(result: Mapping[str, Any]) -> dict[str, list[Block]]:
    """The macro and the found network of every search, to be drawn."""
    channels, height, width, classes = result["image"]
    rows = {}
    for number, search in enumerate(result["searches"]):
        for name in ("macro", "found"):
            network: Candidate = _plain.candidate(search[name])
            space, arch = plain_run.network(network, (channels, Size(height, width), classes))
            told = f"{result['settings']['data']} {number}, {name}\nL {network.depth} C {network.width}"
            rows[told] = plain_run.drawn(space, arch)
    return rows


def tables(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    c, k = result["comparison"], 1e-3
    compared = {
        f"found by {len(c['found'])} searches": sized(c["found"], c["found_params"]),
        f"{len(c['random'])} random ones": sized(c["random"], c["random_params"]),
        "the best random one": sized(*zip(max(zip(c["random"], c["random_params"], strict=True)), strict=True)),
    }
    found = {}
    for number, (search, accuracy, ri) in enumerate(zip(result["searches"], c["found"], c["ri"], strict=True)):
        network = _plain.candidate(search["found"])
        found[f"{number}: {network.describe()}"] = {
            "k parameters": f"{k * search['params']:.1f}",
            "M multiply-adds": f"{search['flops'] / 1e6:.2f}",
            "networks trained": str(search["trained"]),
            "epochs": str(search["epochs"]),
            "test %": f"{accuracy:.2f}",
            "RI %": f"{ri:+.2f}",
        }
    space = result["space"]
    size = {
        "these bounds, all depths": {"networks": count(int(space["networks"]))},
        "the paper's by eq. 1 with depth 25": {"networks": count(int(space["paper"]))},
    }
    return {"found against random networks": compared, "the found networks": found, "the space": size}


def sized(accuracies: Sequence[float], params: Sequence[int]) -> dict[str, str]:
    """A row: mean and standard deviation of accuracies in per cent and of parameters."""
    return {"test %": _report.mean_sd(accuracies), "k parameters": _report.mean_sd(params, 1e-3)}


if __name__ == "__main__":
    _common.main(run, Args, write)
