"""Our figures of PAD-NAS, as the results of its experiments have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.papers.item import mean


def of_seeds(result: dict[str, Any], value: Callable[[dict[str, Any]], float | None], scale: float = 1.0) -> str:
    """The mean over the supernet seeds that have it."""
    found = [value(seed) for seed in result["seeds"]]
    known = [x for x in found if x is not None]
    return mean(known, scale) if known else "none"


def of_both(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The results of the large space and of the small one, where there is one."""
    return {"L": result} | ({"S": {"seeds": result["small"]}} if result["small"] else {})


def gap(result: dict[str, Any]) -> str:
    """The best of each front alone, and that minus one-shot."""

    def difference(seed: dict[str, Any], name: str) -> float:
        return seed["best_of_front_alone"][name] - seed["best_of_front_one_shot"][name]

    return "; ".join(
        f"{name}-{place} "
        f"{of_seeds(of, lambda s, n=name: s['best_of_front_alone'][n], 100)} %, gap "
        f"{of_seeds(of, lambda s, n=name: difference(s, n), 100)}"
        for place, of in of_both(result).items()
        for name in ("I", "PAD")
    )


def random_networks(result: dict[str, Any]) -> str:
    """Means of random networks alone; the full space's are the same networks in every seed."""
    told = []
    for place, of in of_both(result).items():
        rows = of["seeds"][0]["random_networks_alone"]
        told.append(f"{place}: full space {100 * np.mean(rows['I']):.2f} % (one draw)")
        for name in ("PAD", "PAD, if sure", "random pruning", "keep the largest"):
            if rows.get(name):
                value = of_seeds(of, lambda s, n=name: mean_or_none(s["random_networks_alone"][n]), 100)
                told[-1] += f"{';' if name == 'PAD' else ','} {name} {value}"
    return "; ".join(told)


def mean_or_none(values: list[float]) -> float | None:
    """None where a space has no network within the window."""
    return float(np.mean(values)) if values else None


def taus(result: dict[str, Any], part: str) -> str:
    """Kendall's τ of each supernet; a front of fewer than three networks has none."""
    rows = {n: of_seeds(result, lambda s, n=n: (s[part][n] or {}).get("tau")) for n in ("I", "P", "PAD")}
    return "; ".join(f"{name} {tau}" for name, tau in rows.items())


def ranking(result: dict[str, Any]) -> str:
    """τ on own fronts and on the common set."""
    pairs = of_seeds(result, lambda s: s["paired_difference_of_tau"]["PAD − I"][0])
    small = ""
    if result["small"]:
        tau = {
            n: of_seeds(of_both(result)["S"], lambda s, n=n: (s["own_front"][n] or {}).get("tau")) for n in ("I", "PAD")
        }
        small = f"; small space: {'; '.join(f'{name}-S {value}' for name, value in tau.items())}"
    common = f"one common set: {taus(result, 'common_set')}, PAD − I {pairs}"
    return f"own fronts: {taus(result, 'own_front')}{small}; {common}"


def costs(result: dict[str, Any]) -> str:
    """Minutes of I and of PAD in the large space: training, search, retraining."""
    parts = ("training", "search", "retraining")
    rows = {n: [of_seeds(result, lambda s, n=n, p=p: s["minutes"][n][p]) for p in parts] for n in ("I", "PAD")}
    return "; ".join(f"{name} {', '.join(values)} minutes" for name, values in rows.items())


def curves(result: dict[str, Any]) -> str:
    """Accuracy of random networks in the supernets after the last epoch."""
    return "; ".join(
        f"{name}-{place} {of_seeds(of, lambda s, n=name: s['curves'][n][-1][1], 100)} %"
        for place, of in of_both(result).items()
        for name in ("I", "PAD")
    )


def absent(result: dict[str, Any]) -> str:
    """How many operations of the unpruned space never occur in its good networks."""

    def share(seed: dict[str, Any]) -> float:
        p = [value for layer in seed["operations"]["I"][-1] for value in layer["p"].values()]
        return float(np.mean([value == 0 for value in p]))

    return f"{of_seeds(result, share, 100)} % of the operations never occur"


def found_against_hand(result: dict[str, Any]) -> str:
    """The best network of PAD's front against those with one operation in every layer."""
    hand = max(result["seeds"][0]["by_hand"].items(), key=lambda pair: pair[1]["alone"])
    best = of_seeds(result, lambda s: s["best_of_front_alone"]["PAD"], 100)
    return f"PAD's best {best} %; {hand[0]} in every layer {100 * hand[1]['alone']:.2f} %"


def drawn(result: dict[str, Any]) -> str:
    """What is in the picture of networks."""
    count = len(result["seeds"][0]["fronts"]["PAD"])
    return f"{min(count, 5)} networks along PAD's front of {count}, first seed"


def compared(result: dict[str, Any], table: str) -> str:
    """Random networks and the best of the front alone, by threshold or by the number of stages."""
    return "; ".join(
        f"{name}: random {mean([np.mean(row['random_alone']) for row in seeds], 100)}, best "
        f"{mean([row['best_alone'] for row in seeds], 100)} %"
        for name, seeds in result[table].items()
    )


def segmented(result: dict[str, Any]) -> str:
    """Mean IoU and multiply-adds of each network."""
    return "; ".join(
        f"{name} {mean([row['miou'] for row in seeds], 100)} % at {seeds[0]['flops'] / 1e6:.0f}M"
        for name, seeds in result["networks"].items()
    )


def operations(result: dict[str, Any]) -> str:
    """Variance between searches and sparsity of the last layer's operations."""
    rows = result["one_shot"]
    return "; ".join(
        f"{name} variance {rows[key]['last_layer_variance']:.4f}, sparsity {mean(rows[key]['last_layer_sparsity'])}"
        for key, name in (("ces", "CES"), ("spos", "SPOS"))
    )


def against_random(result: dict[str, Any]) -> str:
    """Best one-shot accuracy of evolution minus that of random search, by search."""
    rows = {name: np.array(row["best_accuracy"]) for name, row in result["one_shot"].items()}
    return "; ".join(
        f"{name} − random {mean(rows[key] - rows['random'], 100, '+')} points"
        for key, name in (("ces", "CES"), ("spos", "SPOS"))
    )


def sizes(result: dict[str, Any]) -> str:
    """Networks left by each pruning, by seed."""
    return "; ".join(" → ".join(f"{size:,}" for size in seed["pruning"]["PAD"]) for seed in result["seeds"])


def fine_tuned(result: dict[str, Any]) -> str:
    """The last space with fine-tuned weights against those trained anew: accuracies in pairs, and what it took."""
    rows, anew = (result["weights"][name] for name in ("fine-tuned", "anew"))

    def gain(key: str) -> str:
        pairs = zip(rows, anew, strict=True)
        return f"{mean([np.mean(a[key]) - np.mean(b[key]) for a, b in pairs], 100, '+')} points"

    times = " to ".join(mean([row["minutes"] for row in of]) for of in (rows, anew))
    took = f"{rows[0]['epochs']} to {anew[0]['epochs']} epochs, {times} minutes"
    return f"fine-tuned − anew: best of the front {gain('best_alone')}, one-shot {gain('random_one_shot')}; {took}"


def violators(result: dict[str, Any]) -> str:
    """CES against NSGA-II that lets violators in: the most accurate network within the window, and hypervolume."""
    ces, told = result["violators"]["ces"], []
    for name, label in (("dominated", "constrained domination"), ("let-in", "dropping them at the end")):
        pairs = list(zip(ces, result["violators"][name], strict=True))
        best = mean([a["best_accuracy"] - b["best_accuracy"] for a, b in pairs], 100, "+")
        told.append(f"{label} {best} points, {mean([a['hypervolume'] / b['hypervolume'] for a, b in pairs])}")
    return f"discarded − let in, by most accurate, and ratio of hypervolumes: {'; '.join(told)}"


def ranks(result: dict[str, Any]) -> str:
    """Agreement of what is kept where accuracies are drawn again, by the ranks counted."""
    rows = {rank: row["redrawn"] for rank, row in result["ranks"].items()}
    told = ", ".join(f"{mean(values)} up to rank {rank}" for rank, values in rows.items())
    return f"κ with accuracies drawn again: {told}; 9 − 1 {mean(np.subtract(rows['9'], rows['1']), sign='+')}"
