"""Protocols of face recognition by embeddings: 1:1 verification, TAR at a FAR, rank-k identification. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from supernet.errors import UserError

FARS, RANKS = (1e-1, 1e-2, 1e-3, 1e-4), (1, 5, 20)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of every row of ``a`` [N, E] and the same row of ``b``: [N]."""
    return (unit(a) * unit(b)).sum(1)


def unit(a: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    return a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)


def accuracy(scores: np.ndarray, same: np.ndarray, folds: int = 10) -> tuple[float, float]:
    """1:1 verification by LFW's protocol: each fold is judged by the threshold that is best on the other folds.

    Args:
        scores: [N], larger means more similar, in the order of the pairs file.
        same: bool [N], whether a pair shows the same person.
        folds: number of consecutive parts of equal size.

    Returns:
        Mean and standard deviation of the folds' accuracies in [0, 1].

    Raises:
        UserError: fewer pairs than folds, or only same or only different pairs.
    """
    scores, same = _checked(scores, same)
    if not 2 <= folds <= len(scores):
        raise UserError(
            f"{len(scores)} pairs for {folds} folds: expected at least one pair in each of two or more folds"
        )
    parts = np.array_split(np.arange(len(scores)), folds)
    accuracies = []
    for part in parts:
        others = np.setdiff1d(np.arange(len(scores)), part)
        threshold = best_threshold(scores[others], same[others])
        accuracies.append(np.mean((scores[part] >= threshold) == same[part]))
    return float(np.mean(accuracies)), float(np.std(accuracies))


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold t with the most pairs right, if pairs with a score ≥ t count as the same person.

    It is half-way between two neighbouring scores; of equally good ones the lowest.
    """
    order = np.argsort(scores, kind="stable")
    ascending, hits = scores[order], same[order]
    # With the threshold just below position i, different pairs before i and same pairs from i on are right.
    right = np.concatenate([[0], np.cumsum(~hits)]) + hits.sum() - np.concatenate([[0], np.cumsum(hits)])
    edges = np.concatenate([[-np.inf], (ascending[1:] + ascending[:-1]) / 2, [np.inf]])
    distinct = np.concatenate([[True], ascending[1:] > ascending[:-1], [True]])
    return float(edges[distinct][np.argmax(right[distinct])])


def tar_at_far(scores: np.ndarray, same: np.ndarray, far: float) -> float:
    """The share of same pairs above the lowest threshold that at most ``far`` of the different pairs exceed.

    Raises:
        UserError: fewer than 1 / far different pairs, too few for such a rate; only same or only different pairs.
    """
    scores, same = _checked(scores, same)
    impostors = np.sort(scores[~same])[::-1]
    if len(impostors) * far < 1:
        raise UserError(
            f"{len(impostors)} different pairs cannot show a FAR of {far:g}: expected at least {1 / far:.0f}"
        )
    allowed = int(np.floor(len(impostors) * far + 1e-9))
    threshold = impostors[allowed] if allowed < len(impostors) else -np.inf  # accept what is above it
    return float(np.mean(scores[same] > threshold))


def rank_k(probes: np.ndarray, of: np.ndarray, gallery: np.ndarray, identities: np.ndarray, k: int) -> float:
    """The share of probes whose identity is among the ``k`` most similar gallery images.

    Args:
        probes: [P, E], embeddings of the identities ``of`` [P].
        gallery: [G, E], embeddings of the ``identities`` [G].

    Raises:
        UserError: k is not in [1, G].
    """
    if not 1 <= k <= len(gallery):
        raise UserError(f"rank {k} in a gallery of {len(gallery)} images: expected 1 to {len(gallery)}")
    closest = np.argsort(-(unit(probes) @ unit(gallery).T), axis=1, kind="stable")[:, :k]
    return float(np.mean((identities[closest] == of[:, None]).any(1)))


def summary(scores: np.ndarray, same: np.ndarray, embeddings: np.ndarray, identities: Sequence[str]) -> dict[str, Any]:
    """1:1 accuracy, TAR at the FARs that the pairs can show, rank-k with the first image of each identity as gallery.

    Args:
        scores, same: of the pairs, [N].
        embeddings: [M, E] of all images. identities: their names, [M].
    """
    mean, deviation = accuracy(scores, same)
    names, identity = np.unique(identities, return_inverse=True)
    _, gallery = np.unique(identity, return_index=True)
    probes = np.setdiff1d(np.arange(len(identity)), gallery)
    sets = (embeddings[probes], identity[probes], embeddings[gallery], identity[gallery])
    return {
        "accuracy": mean,
        "accuracy_deviation": deviation,
        "pairs": len(scores),
        "identities": len(names),
        "tar_at_far": {
            str(far): tar_at_far(scores, same, far) for far in FARS if far * (~np.asarray(same, bool)).sum() >= 1
        },
        "rank": {str(k): rank_k(*sets, k) for k in RANKS if len(probes) and k < len(gallery)},
    }


def describe(row: Mapping[str, Any]) -> str:
    """A ``summary`` in one line."""
    rates = [f"TAR {100 * tar:.1f} % at FAR {float(far):g}" for far, tar in row["tar_at_far"].items()]
    rates += [f"rank-{k} {100 * share:.1f} %" for k, share in row["rank"].items()]
    accuracy = f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_deviation']:.2f} %"
    return f"1:1 accuracy {accuracy} of {row['pairs']} pairs, {', '.join(rates)}"


def _checked(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, same = np.asarray(scores, float), np.asarray(same, bool)
    if scores.shape != same.shape or not 0 < same.sum() < len(same):
        raise UserError(f"expected pairs of the same and of different identities, got {same.sum()} and {(~same).sum()}")
    return scores, same
