"""NSS on real images: are networks of an elite space cheaper to find and better than those of the expanded space?

For each target: samples until it is met, the best of five, and a network searched by SPOS in either space with its
error, deviation and minutes (table 1); elite networks against random ones and against those of random network spaces
of the same cost, at equal multiply-adds, and all of them against the front of the random ones (figures S3, S4). At the
middle target: what the warm-up does to the spaces and to the weights. Every finished cell is kept in RUN: the same
command continues. Networks are trained alone; they are chosen on one half of the validation split, their errors told
on the other. The test set stays closed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import t as student

from experiments import _common, _report
from experiments._nss import ALIKE, COLD, MEETS, PLAIN, WARM, Settings, Study, near
from search import ranking
from supernet import families, files
from supernet.space import Arch

# The groups that are compared at equal multiply-adds.
ELITE, SPACES, RANDOM = "elite", "random spaces", "random"
WITHOUT = {COLD: "elite without warm-up", PLAIN: "elite, nothing enabled"}
PAIRS = ((ELITE, RANDOM), (ELITE, SPACES), (SPACES, RANDOM))
COLORS = {ELITE: ("tab:blue", "o"), SPACES: ("tab:green", "s"), RANDOM: ("tab:orange", "x")}


@dataclass(frozen=True)
class Args(Settings):
    output: Path = Path("docs/results/nss.json")
    """The results."""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    if args.quick:
        small = {"limit": 320, "search_epochs": 3, "epochs": 1, "compared": 2, "population": 2, "iterations": 2}
        args = dataclasses.replace(args, targets=args.targets[:2], **small)
    study, seeds = Study(args), range(args.seeds)
    random = {target: study.random(target, ALIKE, args.compared, 99) for target in args.targets}
    probes = list(dict.fromkeys(arch for archs in random.values() for arch in archs))
    searches = {how: [study.search(seed, how) for seed in seeds] for how in (WARM, PLAIN, COLD)}
    found = {how: [search["elites"] for search in made] for how, made in searches.items()}
    warm = {target: [elites[i] for elites in found[WARM]] for i, target in enumerate(args.targets)}
    others = {name: elite(study, study.middle, [made[0] for made in found[how]]) for how, name in WITHOUT.items()}
    groups = {target: {RANDOM: random[target], **control(study, target, warm[target])} for target in args.targets}
    result = _common.results(
        "nss",
        args,
        study,
        seeds=args.seeds,
        samples=[samples(study, target, warm[target]) for target in args.targets],
        best_of_5=[row for target in args.targets for row in best_of_5(study, target, warm[target])],
        searched=[row for target in args.targets for row in searched(study, target, warm[target])],
        equal_flops=compared(study, groups[study.middle] | others),
        regimes=[{"target": target, **compared(study, archs)} for target, archs in groups.items()],
        weights={how: weights(study, how, probes) for how in searches},
        spaces=found,
        same_as_by_cost_alone=[study.by_cost_alone(seed, elites) for seed, elites in enumerate(found[WARM])],
        off_target=[
            [abs(e["argmax_cost"] / t - 1) for e, t in zip(elites, args.targets, strict=True)] for elites in found[WARM]
        ],
        search_minutes=[search["minutes"] for search in searches[WARM]],
    )
    finish(args, result)


def samples(study: Study, target: float, elites: Sequence[dict]) -> dict:
    """Draws until the first network within 10 % of the target: on average 1 / share."""
    shares = [study.share(study.space.restrict(found["allowed"]), target) for found in elites]
    everywhere = study.share(study.space, target)
    expanded = 1 / everywhere if everywhere else None
    return {"target": target, "elite": [1 / s if s else None for s in shares], "expanded": expanded}


def best_of_5(study: Study, target: float, elites: Sequence[dict]) -> list[dict]:
    """Error and deviation of the best of five networks within 10 % of the target, elite and expanded, per search."""
    rows = []
    for seed, found in enumerate(elites):
        archs = near(study.space.restrict(found["allowed"]), target, MEETS)
        rng = np.random.default_rng([seed, study.args.targets.index(target)])
        groups = {
            "elite": [archs[k] for k in rng.permutation(len(archs))[:5]],
            "expanded": study.random(target, MEETS, 5, seed),
        }
        row: dict = {"target": target, "search": seed, "networks": {}, "deviation": {}}
        for name, group in groups.items():
            scores = [study.accuracies(arch) for arch in group]
            flops = [families.flops(study.space, arch) for arch in group]
            best = max(range(len(group)), key=scores.__getitem__)
            row[name] = 1 - scores[best][1]
            row["deviation"][name] = abs(flops[best] / target - 1)
            row["networks"][name] = [(f, s[1]) for f, s in zip(flops, scores, strict=True)]
        rows.append(row)
    return rows


def searched(study: Study, target: float, elites: Sequence[dict]) -> list[dict]:
    """What SPOS finds in the elite and in the expanded space, per search."""
    rows = []
    for seed, found in enumerate(elites):
        own = study.space.restrict(found["allowed"])
        for name, key, space in (("elite", f"elite-{target:.9g}", own), ("expanded", "expanded", study.space)):
            rows.append({"target": target, "search": seed, "space": name, **study.best_of(space, key, target, seed)})
    return rows


def elite(study: Study, target: float, elites: Sequence[dict]) -> list[Arch]:
    """Networks near the target of the elite spaces of all searches in turn."""
    rng, n = np.random.default_rng(7), study.args.compared
    pools = [near(study.space.restrict(found["allowed"]), target, ALIKE) for found in elites]
    pools = [[pool[k] for k in rng.permutation(len(pool))[: 3 * n]] for pool in pools]
    return list(dict.fromkeys(pool[k] for k in range(3 * n) for pool in pools if k < len(pool)))[:n]


def control(study: Study, target: float, elites: Sequence[dict]) -> dict[str, list[Arch]]:
    """Elite networks, and those of random network spaces that cost as much."""
    return {
        SPACES: study.of_random_spaces(target, study.args.compared, 99),
        ELITE: elite(study, target, elites),
    }


def compared(study: Study, groups: Mapping[str, list[Arch]]) -> dict:
    """Accuracies of groups of networks alone, and the differences of their means."""
    scores = {name: [study.accuracies(arch)[1] for arch in archs] for name, archs in groups.items()}
    flops = {name: [families.flops(study.space, arch) for arch in archs] for name, archs in groups.items()}
    more = [pair for name in groups if name in WITHOUT.values() for pair in ((name, RANDOM), (ELITE, name))]
    pairs = [pair for pair in (*PAIRS, *more) if min(len(scores[name]) for name in pair) > 1]
    differences = [{"pair": pair, **permuted(*(scores[name] for name in pair))} for pair in pairs]
    return {"accuracies": scores, "flops": flops, "differences": differences}


def weights(study: Study, how: str, probes: Sequence[Arch]) -> dict[str, list[dict]]:
    """Random networks with the searches' weights: mean accuracy, that of the wider half, τ with themselves alone."""
    alone = np.array([study.accuracies(arch)[1] for arch in probes])
    widest = np.array([max(arch[1::2]) for arch in probes])
    wide = widest >= np.median(widest)
    rows: dict[str, list[dict]] = {}
    for seed in range(study.args.seeds):
        for moment, accuracies in study.weights(seed, how, probes).items():
            scores = np.array(accuracies)
            row = {"mean": scores.mean(), "wide": scores[wide].mean(), "tau": ranking.rank(scores, alone).tau}
            rows.setdefault(moment, []).append(files.plain(row))
    return rows


def permuted(a: Sequence[float], b: Sequence[float], n: int = 20_000) -> dict:
    """Difference of means and its two-sided p by permutation, with Welch's 95 % interval."""
    a, b = np.array(a), np.array(b)
    both, rng, observed = np.concatenate([a, b]), np.random.default_rng(0), a.mean() - b.mean()
    order = rng.permuted(np.tile(np.arange(len(both)), (n, 1)), axis=1)
    first = both[order[:, : len(a)]].mean(1)
    rest = both[order[:, len(a) :]].mean(1)
    extreme = (np.abs(first - rest) >= abs(observed) - 1e-12).sum()
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    degrees = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if va + vb else 1.0
    half = float(student.ppf(0.975, degrees)) * (va + vb) ** 0.5
    return {"difference": float(observed), "interval": [observed - half, observed + half], "p": (extreme + 1) / (n + 1)}


# --- what a reader sees


def points(result: dict, name: str) -> np.ndarray:
    """Multiply-adds and accuracies of all networks of a group, those of the best-of-5 comparison included."""
    found = [pair for r in result["regimes"] for pair in zip(r["flops"][name], r["accuracies"][name], strict=True)]
    wide = {ELITE: "elite", RANDOM: "expanded"}
    return np.array(found + [pair for row in result["best_of_5"] for pair in row["networks"].get(wide.get(name), ())])


def front(result: dict) -> tuple[np.ndarray, np.ndarray]:
    """The Pareto front of all random networks: multiply-adds, and the best accuracy up to there."""
    flops, accuracies = points(result, RANDOM).T
    order = np.argsort(flops, kind="stable")
    return flops[order], np.maximum.accumulate(accuracies[order])


def beyond(result: dict, regime: Mapping, name: str) -> np.ndarray:
    """Accuracies of a group minus that of the best random network that costs no more; NaN where none does."""
    flops, best = front(result)
    place = np.searchsorted(flops, np.array(regime["flops"][name], float), side="right") - 1
    return np.where(place >= 0, np.array(regime["accuracies"][name]) - best[place], np.nan)


def mega(target: float) -> str:
    return f"{target / 1e6:.4g}M"


def finish(args: Args, result: dict) -> None:
    """Table 1, the groups of each regime, the weights."""
    targets = [row["target"] for row in result["samples"]]
    spaces = ("elite", "expanded")
    table_1 = {f"{mega(t)}, {space}": row_of_table_1(result, t, space) for t in targets for space in spaces}
    regimes = {}
    for regime in result["regimes"]:
        for name, scores in regime["accuracies"].items():
            gap = beyond(result, regime, name)
            regimes[f"{mega(regime['target'])}, {name}"] = {
                "n": str(len(scores)),
                "accuracy, %": _report.mean_sd(scores, 100),
                "minus the front of the random ones, points": f"{100 * np.nanmean(gap):+.2f}",
                "on or above it": f"{(gap >= 0).sum()}",
            }
    differences = {}
    for part in (*result["regimes"], {"target": targets[len(targets) // 2], **result["equal_flops"]}):
        for d in part["differences"]:
            low, high = (100 * end for end in d["interval"])
            differences[f"{mega(part['target'])}: {' − '.join(d['pair'])}"] = {
                "points": f"{100 * d['difference']:+.2f}",
                "95 % interval": f"{low:+.2f} to {high:+.2f}",
                "p (permutation)": f"{d['p']:.3f}",
            }
    learnt = {
        f"{WEIGHTS[how]}, {moment}": {
            "one-shot, %": _report.mean_sd([row["mean"] for row in rows], 100),
            "of the wider half, %": _report.mean_sd([row["wide"] for row in rows], 100),
            "τ with alone": _report.mean_sd([row["tau"] for row in rows]),
        }
        for how, moments in result["weights"].items()
        for moment, rows in moments.items()
    }
    off, alike = np.array(result["off_target"]), result["same_as_by_cost_alone"]
    summary = {
        "most probable spaces off target, %": {"": f"{100 * off.min():.1f} to {100 * off.max():.1f}"},
        "most probable spaces that miss it by more than 10 %": {"": f"{(off > MEETS).sum()} of {off.size}"},
        "elite spaces that the cost term finds without images": {"": f"{np.sum(alike)} of {np.size(alike)}"},
        "minutes of a search of spaces, all targets": {"": _report.mean_sd(result["search_minutes"])},
    }
    tables = {
        "Table 1: elite against expanded": table_1,
        f"Networks alone within ±{ALIKE:.0%} of a target": regimes,
        "Differences of means": differences,
        "Random networks with the weights of the searches": learnt,
        "The searches": summary,
    }
    _report.report(args.output, result, tables, draw, (11.0, 4.5))


WEIGHTS = {WARM: "warm-up", PLAIN: "warm-up, nothing enabled", COLD: "no warm-up"}


def row_of_table_1(result: dict, target: float, space: str) -> dict[str, str]:
    """Samples, deviations and errors in one of the two spaces; means ± SD over the searches."""
    sampled = next(row[space] for row in result["samples"] if row["target"] == target)
    needed = [n for n in (sampled if space == "elite" else [sampled]) if n is not None]
    best = [row for row in result["best_of_5"] if row["target"] == target]
    own = [row for row in result["searched"] if (row["target"], row["space"]) == (target, space)]
    return {
        f"samples until ±{MEETS:.0%}": _report.mean_sd(needed) if needed else "none",
        "best of 5: error, %": _report.mean_sd([row[space] for row in best], 100),
        "deviation, %": _report.mean_sd([row["deviation"][space] for row in best], 100),
        "searched: error, %": _report.mean_sd([row["error"] for row in own], 100),
        "its deviation, %": _report.mean_sd([row["deviation"] for row in own], 100),
        "minutes of its search": _report.mean_sd([row["minutes"] for row in own]),
    }


def draw(figure: Figure, result: dict) -> None:
    """Accuracy over multiply-adds of all groups with the random networks' front; samples and minutes per target."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for name in (RANDOM, SPACES, ELITE):
        color, marker = COLORS[name]
        flops, accuracies = points(result, name).T
        left.scatter(flops / 1e6, 100 * accuracies, s=14, color=color, marker=marker, alpha=0.7, label=name)
    flops, best = front(result)
    left.step(flops / 1e6, 100 * best, where="post", color="tab:orange", linewidth=1, label="front of the random ones")
    left.set(xscale="log", xlabel="MFLOPs", ylabel="accuracy (%)", title=f"alone, within ±{MEETS:.0%} of a target")
    lowest = [np.quantile(r["accuracies"][name], 0.1) for r in result["regimes"] for name in (ELITE, SPACES)]
    left.set_ylim(bottom=100 * min(lowest) - 3)
    for i, row in enumerate(result["samples"]):
        for name, values in ((ELITE, row["elite"]), ("expanded", [row["expanded"]])):
            color, marker = COLORS.get(name, COLORS[RANDOM])
            values = [n for n in values if n is not None]
            right.scatter([i] * len(values), values, color=color, marker=marker, label=name if i == 0 else None)
    labels = [f"{row['target'] / 1e6:.4g}" for row in result["samples"]]
    right.set(yscale="log", xlabel="target (MFLOPs)", ylabel=f"samples until within ±{MEETS:.0%}")
    right.set_xticks(range(len(labels)), labels)
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.legend(fontsize=8)


if __name__ == "__main__":
    _common.main(run, Args, finish)
