"""Face recognition protocols against literal versions of themselves."""

import numpy as np
import pytest

from search import verification
from supernet.errors import UserError


def pairs(n: int, seed: int, gap: float = 1.0):
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(n) % 2 == 0)
    return rng.normal(gap * same, 1).round(1), same  # rounded: ties


@pytest.mark.parametrize("seed", range(5))
def test_best_threshold_is_the_best_of_all(seed):
    scores, same = pairs(31, seed)
    tried = [-np.inf, *(scores[:, None] + [-0.01, 0.01]).ravel()]
    best = max(np.mean((scores >= t) == same) for t in tried)
    threshold = verification.best_threshold(scores, same)
    assert np.mean((scores >= threshold) == same) == best
    assert threshold not in scores


@pytest.mark.parametrize("seed", range(3))
def test_each_fold_is_judged_by_the_others_threshold(seed):
    scores, same = pairs(47, seed)
    accuracies = []
    for fold in np.array_split(np.arange(47), 10):
        others = [i for i in range(47) if i not in fold]
        threshold = verification.best_threshold(scores[others], same[others])
        accuracies.append(sum((scores[i] >= threshold) == same[i] for i in fold) / len(fold))
    assert verification.accuracy(scores, same) == pytest.approx((np.mean(accuracies), np.std(accuracies)))


def test_accuracy_of_known_scores():
    same = np.arange(40) % 2 == 0
    assert verification.accuracy(np.where(same, 0.8, 0.1), same) == (1.0, 0.0)
    noise = np.random.default_rng(0).normal(size=4000)
    assert abs(verification.accuracy(noise, np.arange(4000) % 2 == 0)[0] - 0.5) < 0.04


@pytest.mark.parametrize("far", [0.5, 0.1, 0.02, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_tar_at_far_is_the_best_of_all_thresholds(far, seed):
    scores, same = pairs(120, seed)
    best = 0.0
    for t in [-np.inf, *scores, *(scores + 0.05), np.inf]:
        if np.mean(scores[~same] >= t) <= far:
            best = max(best, np.mean(scores[same] >= t))
    assert verification.tar_at_far(scores, same, far) == pytest.approx(best)


def test_rank_k_counts_probes_one_by_one():
    rng = np.random.default_rng(0)
    gallery, identities = rng.normal(size=(12, 5)), np.arange(12) % 6
    probes, of = rng.normal(size=(30, 5)), rng.integers(0, 6, 30)
    for k in (1, 3, 12):
        hits = 0
        for probe, identity in zip(probes, of, strict=True):
            cosine = [probe @ g / np.linalg.norm(probe) / np.linalg.norm(g) for g in gallery]
            hits += identity in identities[sorted(range(12), key=lambda i: -cosine[i])[:k]]
        assert verification.rank_k(probes, of, gallery, identities, k) == hits / 30
    assert verification.rank_k(gallery, identities, 3 * gallery, identities, 1) == 1.0


def test_similarity_is_the_cosine():
    a, b = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[8.0, 6.0], [1.0, 0.0]])
    assert verification.similarity(a, b).tolist() == pytest.approx([0.96, 0.0])


def test_the_summary_tells_what_the_pairs_can_show():
    """Embeddings that point to their identity, but one: b's second image looks like a."""
    names = ["a", "a", "b", "b", "c"]
    embeddings = np.eye(3)[[0, 0, 1, 0, 2]]
    scores, same = np.where(np.arange(24) % 2 == 0, 0.9, 0.1), np.arange(24) % 2 == 0
    told = verification.summary(scores, same, embeddings, names)
    assert (told["accuracy"], told["pairs"], told["identities"]) == (1.0, 24, 3)
    assert told["tar_at_far"] == {"0.1": 1.0}  # 12 different pairs cannot show a FAR of 0.01
    assert told["rank"] == {"1": 0.5}  # two probes; a gallery of three cannot show rank 5


def test_what_cannot_be_judged_is_refused():
    scores, same = pairs(9, 0)
    with pytest.raises(UserError, match="9 pairs for 10 folds"):
        verification.accuracy(scores, same)
    with pytest.raises(UserError, match="got 9 and 0"):
        verification.accuracy(scores, np.ones(9, bool), 2)
    with pytest.raises(UserError, match=r"cannot show a FAR of 0\.01: expected at least 100"):
        verification.tar_at_far(scores, same, 0.01)
    with pytest.raises(UserError, match="rank 4 in a gallery of 3"):
        verification.rank_k(np.eye(3), np.arange(3), np.eye(3), np.arange(3), 4)
