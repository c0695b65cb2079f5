"""Tables and pictures of ``experiments.pad_nas``, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import _report
from search import distribution, pad_nas, ranking
from search.ask_tell import Record
from search.drawing import draw_layers
from supernet.space import Space

Seeds = Sequence[Mapping[str, Any]]


def finish(args: Any, result: dict) -> None:
    """Tables of means and standard deviations over the supernet seeds; what there is of one seed stands alone."""
    seeds, small = result["seeds"], result.get("small", [])
    tables = {
        "Kendall's τ, one-shot against alone": taus(seeds),
        "paired difference of τ on the common set, 95 % interval": pairs(seeds),
        "the spaces": of_spaces(seeds),
    }
    if "fronts" in seeds[0]:
        spaces = {"L": seeds} | ({"S": small} if small else {})
        tables["small against large, the most accurate network of each front"] = small_against_large(spaces)
        tables["minutes by the clock"] = minutes(spaces)
        tables[f"networks by hand and along PAD's front, seed 0 ({result['unit']})"] = by_hand(seeds[0])
    _report.report(args.output, result, tables, picture)
    if "fronts" in seeds[0]:
        beside = {"fronts": fronts, "curves": curves}
        for name, draw in beside.items():
            _report.picture(args.output.with_name(f"{args.output.stem}_{name}.png"), result, draw)
        first = seeds[0]["operations"]["I"][-1]
        title = "operations of the unpruned space in its good networks, seed 0"
        distribution.heat_map(args.output.with_name(f"{args.output.stem}_operations.png"), first, title)
        networks(args.output.with_name(f"{args.output.stem}_networks.png"), result)


def mean_of(values: Sequence[float | None], scale: float = 1.0) -> str:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return _report.mean_sd(known, scale) if known else ""


def taus(seeds: Seeds) -> dict[str, dict[str, str]]:
    columns = {"common set": "common_set", "beyond multiply-adds": "common_set_beyond_multiply_adds"}
    columns |= {"own front": "own_front", "own random networks": "own_random"}

    def tau(part: str, name: str) -> str:
        rows = [seed[part].get(name) for seed in seeds]
        return mean_of([row["tau"] for row in rows if row is not None])

    names = (*seeds[0]["space_size"], "multiply-adds", "ceiling")
    return {name: {column: tau(part, name) for column, part in columns.items()} for name in names}


def pairs(seeds: Seeds) -> dict[str, dict[str, str]]:
    return {
        pair: {
            **{f"seed {seed['seed']}": ranking.show(*seed["paired_difference_of_tau"][pair]) for seed in seeds},
            "mean ± SD of the seeds": mean_of([seed["paired_difference_of_tau"][pair][0] for seed in seeds]),
        }
        for pair in seeds[0]["paired_difference_of_tau"]
    }


def percent(seeds: Seeds, part: str, name: str) -> str:
    """Means over the networks of each seed; the full space has the same ones in every seed, so no spread."""
    values = [float(np.mean(seed[part][name])) for seed in seeds if np.size(seed[part].get(name, []))]
    same = len(values) > 1 and len({repr(seed[part][name]) for seed in seeds}) == 1
    return _report.mean_sd(values[:1] if same else values, 100) if values else ""


def of_spaces(seeds: Seeds) -> dict[str, dict[str, str]]:
    def gap(name: str) -> str:
        rows = [seed["common_set"].get(name, {}).get("gap") for seed in seeds]
        return mean_of(rows, 100)

    return {
        name: {
            "networks, per seed": ", ".join(f"{seed['space_size'][name]:,}" for seed in seeds),
            "random networks alone, %": percent(seeds, "random_networks_alone", name),
            "alone minus one-shot on the common set, points": gap(name),
            "one-shot, %": percent(seeds, "random_networks_one_shot", name),
            "most accurate of the front alone, %": percent(seeds, "best_of_front_alone", name),
        }
        for name in seeds[0]["space_size"]
    }


def small_against_large(spaces: Mapping[str, Seeds]) -> dict[str, dict[str, str]]:
    """Table 6, and the rows of Tables 7 and 8 that the small space has."""

    def row(seeds: Seeds, name: str) -> dict[str, str]:
        best, shot = (
            [seed[part][name] for seed in seeds] for part in ("best_of_front_alone", "best_of_front_one_shot")
        )
        return {
            "alone, %": mean_of(best, 100),
            "one-shot, %": mean_of(shot, 100),
            "gap, points": mean_of(np.subtract(best, shot), 100),
            "random networks alone, %": percent(seeds, "random_networks_alone", name),
            "τ on its front": mean_of([(seed["own_front"][name] or {}).get("tau") for seed in seeds]),
            "networks on it": ", ".join(str(len(seed["fronts"][name])) for seed in seeds),
        }

    return {f"{name}-{place}": row(seeds, name) for place, seeds in spaces.items() for name in ("I", "PAD")}


def minutes(spaces: Mapping[str, Seeds]) -> dict[str, dict[str, str]]:
    """Table 9."""
    return {
        f"{name}-{place}": {
            **{part: mean_of([seed["minutes"][name][part] for seed in seeds]) for part in seeds[0]["minutes"][name]},
            "in all": mean_of([sum(seed["minutes"][name].values()) for seed in seeds]),
        }
        for place, seeds in spaces.items()
        for name in ("I", "PAD")
    }


def by_hand(seed: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Table 3 at our size."""
    found = {chr(65 + i): network for i, network in enumerate(pad_nas.along(seed["fronts"]["PAD"]))}
    rows = {f"{name} in every layer": of for name, of in seed["by_hand"].items()} | found
    return {name: {"cost": f"{of['cost']:.4g}", "alone, %": f"{100 * of['alone']:.2f}"} for name, of in rows.items()}


def picture(figure: Figure, result: dict) -> None:
    """τ on the common set of every supernet seed; random networks of every space, trained alone."""
    left, right = figure.subplots(1, 2)
    seeds = result["seeds"]
    ranked = list(seeds[0]["common_set"])
    for seed in seeds:
        known = [seed["common_set"][name]["tau"] for name in ranked]
        known = [np.nan if tau is None else tau for tau in known]
        left.plot(range(len(ranked)), known, "o", label=f"seed {seed['seed']}")
    left.set_xticks(range(len(ranked)), ranked, fontsize=8)
    left.set(ylabel="Kendall's τ", title="common set inside PAD's final space")
    left.legend(fontsize=8)
    names = [name for name, of in seeds[0]["random_networks_alone"].items() if of]
    values = [[100 * v for seed in seeds for v in seed["random_networks_alone"][name]] for name in names]
    right.boxplot(values, widths=0.5, medianprops={"color": "tab:orange"}, flierprops={"markersize": 3})
    right.set_xticks(range(1, len(names) + 1), [name.replace(" ", "\n", 1) for name in names], fontsize=7)
    right.set(ylabel="accuracy alone (%)", title="random networks of each space")
    for axes in (left, right):
        axes.grid(alpha=0.2, axis="y")


def fronts(figure: Figure, result: dict) -> None:
    """Networks of each front, one-shot against alone (Figure 6); accuracy alone over cost (Figure 1)."""
    left, right = figure.subplots(1, 2)
    seeds = result["seeds"]
    for i, name in enumerate(seeds[0]["fronts"]):
        points = [network for seed in seeds for network in seed["fronts"][name]]
        shot, alone = ([100 * network[key] for network in points] for key in ("one_shot", "alone"))
        left.plot(shot, alone, "o", markersize=3, color=f"C{i}", label=name)
        if name in ("I", "PAD"):
            right.plot([n["cost"] for n in points], alone, "o", markersize=3, color=f"C{i}", label=name)
    hand = seeds[0]["by_hand"].values()
    costs, alone = ([scale * network[key] for network in hand] for key, scale in (("cost", 1), ("alone", 100)))
    right.plot(costs, alone, "k+", label="the same in every layer")
    left.set(xlabel="one-shot accuracy (%)", ylabel="accuracy alone (%)", title="networks of the fronts")
    right.set(xlabel=result["unit"], ylabel="accuracy alone (%)", title="networks of the fronts over cost")
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.2)


def curves(figure: Figure, result: dict) -> None:
    """Accuracy of random networks in the supernets over the epochs of all stages (Figure 5)."""
    axes = figure.add_subplot()
    for place, seeds in (("L", result["seeds"]), ("S", result["small"])):
        for name in ("I", "PAD"):
            runs = [np.array(seed["curves"][name]) for seed in seeds if seed["curves"][name]]
            if not runs:
                continue
            accuracy = 100 * np.stack([run[:, 1] for run in runs])
            line = axes.plot(runs[0][:, 0], accuracy.mean(0), "-" if place == "L" else "--", label=f"{name}-{place}")
            if len(runs) > 1:
                spread = accuracy.std(0, ddof=1)
                ends = accuracy.mean(0) - spread, accuracy.mean(0) + spread
                axes.fill_between(runs[0][:, 0], *ends, color=line[0].get_color(), alpha=0.15, linewidth=0)
    for pruned in np.cumsum(result["settings"]["epochs"])[:-1]:
        axes.axvline(pruned, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel="epochs (dotted: pruned)", ylabel="random networks in the supernet (%)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.2)


def networks(path: Path, result: dict) -> None:
    """Five networks along PAD's front, seed 0 (Figure 4)."""
    space, unit = Space.from_json(result["space"]), result["unit"]
    chosen = pad_nas.along(result["seeds"][0]["fronts"]["PAD"])
    records = [Record(space.check(of["arch"]), of["alone"], {unit: of["cost"]}, 0, 0) for of in chosen]
    draw_layers(path, pad_nas.layers_of(space, records))
