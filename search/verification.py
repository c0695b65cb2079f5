"""Protocols of face recognition by embeddings: 1:1 verification, TAR at a FAR, rank-k identification. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from supernet.errors import UserError
from supernet.quantities import several

FARS, RANKS = (1e-1, 1e-2, 1e-3, 1e-4), (1, 5, 20)
BLOCK = 256  # rows that are compared with a gallery at once


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
            f"{several(len(scores), 'pair')} for {several(folds, 'fold')}: expected at least one pair in each of two "
            "or more folds"
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
            f"{several(len(impostors), 'different pair')} cannot show a FAR of {far:g}: expected at least {1 / far:.0f}"
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
        raise UserError(f"rank {k} in a gallery of {several(len(gallery), 'image')}: expected 1 to {len(gallery)}")
    return float(np.mean(ranks(probes, of, gallery, identities) <= k))


def ranks(probes: np.ndarray, of: np.ndarray, gallery: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """The place of each probe's most similar gallery image of its own identity among all: int64 [P], from 1.

    Of equally similar images the first one comes first. One whose identity is not in the gallery has the place G + 1.
    """
    probes, gallery, found = unit(probes), unit(gallery), []
    for start in range(0, len(probes), BLOCK):
        similar = probes[start : start + BLOCK] @ gallery.T
        own = identities == of[start : start + BLOCK, None]
        best = np.where(own, similar, -np.inf).argmax(1)  # the first of equals
        value = similar[np.arange(len(similar)), best]
        before = (similar > value[:, None]) | ((similar == value[:, None]) & (np.arange(len(gallery)) < best[:, None]))
        found.append(np.where(own.any(1), 1 + before.sum(1), len(gallery) + 1))
    return np.concatenate(found)


def templates(embeddings: np.ndarray, template: np.ndarray, medium: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One embedding for each template, as on IJB: the sum over its media of the mean over a medium's images.

    Args:
        embeddings: [M, E], as long as the network gives them, so that clear images count for more. template, medium:
            of each image, [M].

    Returns:
        The templates' numbers, ascending, [T], and their embeddings [T, E].
    """
    media, place, counts = np.unique(np.stack([template, medium]), axis=1, return_inverse=True, return_counts=True)
    means = np.zeros((media.shape[1], embeddings.shape[1]))
    np.add.at(means, place.reshape(-1), embeddings)
    means /= counts[:, None]
    numbers, place = np.unique(media[0], return_inverse=True)
    sums = np.zeros((len(numbers), embeddings.shape[1]))
    np.add.at(sums, place, means)
    return numbers, sums


def pair_similarity(embeddings: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarity of pairs of rows, by their places: [N]. Millions of pairs do not fit in memory at once."""
    rows = unit(embeddings)
    blocks = (slice(start, start + BLOCK**2) for start in range(0, len(first), BLOCK**2))
    return np.concatenate([(rows[first[block]] * rows[second[block]]).sum(1) for block in blocks])


def rates(scores: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """TAR at each of ``FARS`` that the different pairs can show."""
    different = int((~np.asarray(same, bool)).sum())
    return {str(far): tar_at_far(scores, same, far) for far in FARS if far * different >= 1}


def identification(embeddings: np.ndarray, identity: np.ndarray, gallery: np.ndarray) -> dict[str, Any]:
    """Rank-k identification of probes in a gallery, as on TinyFace.

    Args:
        embeddings: [M, E]. identity: [M]; distractors have one that no probe has. gallery: bool [M]; others are probes.
    """
    within, probes = embeddings[gallery], embeddings[~gallery]
    places = ranks(probes, identity[~gallery], within, identity[gallery])
    counts = {"probes": len(probes), "gallery": len(within)}
    counts["distractors"] = int((~np.isin(identity[gallery], identity[~gallery])).sum())
    return {**counts, "rank": {str(k): float(np.mean(places <= k)) for k in RANKS if k < len(within)}}


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
        "tar_at_far": rates(scores, same),
        "rank": {str(k): rank_k(*sets, k) for k in RANKS if len(probes) and k < len(gallery)},
    }


def describe(row: Mapping[str, Any]) -> str:
    """A ``summary``, or what a benchmark gave, in one line."""
    told = []
    if "accuracy" in row:
        accuracy = f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_deviation']:.2f} %"
        told.append(f"1:1 accuracy {accuracy} of {several(row['pairs'], 'pair')}")
    told += [f"TAR {100 * tar:.1f} % at FAR {float(far):g}" for far, tar in row.get("tar_at_far", {}).items()]
    told += [f"rank-{k} {100 * share:.1f} %" for k, share in row.get("rank", {}).items()]
    return ", ".join(told)


def _checked(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, same = np.asarray(scores, float), np.asarray(same, bool)
    if scores.shape != same.shape or not 0 < same.sum() < len(same):
        raise UserError(f"expected pairs of the same and of different identities, got {same.sum()} and {(~same).sum()}")
    return scores, same
