"""Three criteria of feature selection: scores of all features from features [images, features] and labels [images].

Jordao et al., "Stage-Wise Neural Architecture Search", §III. PLS–VIP and il-FS use the labels, inf-FS does not. None
depends on the scale of the features, so the scores of two networks can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve
from scipy.stats import rankdata
from sklearn.cross_decomposition import PLSRegression

Features = NDArray[np.floating]  # [images, features]
Labels = NDArray[np.integer]  # [images]
Scores = NDArray[np.float64]  # [features]


def pls_vip(x: Features, y: Labels, components: int = 2) -> Scores:
    """Variable importance in projection (Mehmood et al. 2012), [features]: its squares average to 1."""
    components = min(components, *x.shape)
    # Differences in the third decimal decide about growth; the default tolerance of 1e-6 changes them.
    pls = PLSRegression(components, tol=1e-12, max_iter=5000).fit(x, np.eye(y.max() + 1)[y])
    t, w, q = pls.x_scores_, pls.x_weights_, pls.y_loadings_  # [images | features | classes, components]
    s = np.diag(t.T @ t @ q.T @ q)  # what each component explains of the labels
    return np.sqrt(len(w) * (w / np.linalg.norm(w, axis=0)) ** 2 @ s / s.sum())


def inf_fs(x: Features, y: Labels, alpha: float = 0.5, factor: float = 0.9) -> Scores:
    """Infinite feature selection (Roffo et al. 2015), [features]: the energy of all paths that start at a feature.

    Does not use ``y``. Needs memory for a few matrices [features, features].
    """
    sigma = np.std(x, axis=0, dtype=np.float64, ddof=1)
    sigma = np.maximum.outer(sigma, sigma)
    sigma -= sigma.min()
    sigma /= sigma.max() or 1.0
    edges = alpha * sigma + (1 - alpha) * (1 - np.abs(spearman(x)))
    rho = eigh(edges, eigvals_only=True, subset_by_index=[len(edges) - 1] * 2)[0]
    # The row sums of S = (I − rA)⁻¹ − I.
    return solve(np.eye(len(edges)) - factor / rho * edges, np.ones(len(edges)), assume_a="sym") - 1


def spearman(x: Features) -> NDArray[np.float64]:
    """Rank correlations of all pairs of columns, [features, features]; 0 for a constant one, 1 with itself."""
    ranks = rankdata(x, axis=0)
    ranks -= ranks.mean(axis=0)
    norm = np.linalg.norm(ranks, axis=0)
    ranks /= np.where(norm > 0, norm, 1.0)
    correlations = ranks.T @ ranks
    np.fill_diagonal(correlations, 1.0)
    return correlations


def il_fs(x: Features, y: Labels, tokens: int = 4, rounds: int = 15, factor: float = 0.99) -> Scores:
    """Infinite latent feature selection (Roffo et al. 2017), [features].

    The token of a value says how far it is from the mean of its own class, relative to all classes. PLSA with two
    latent classes gives p, the probability that a feature is relevant. The graph of the features is ppᵀ.
    """
    return relevance_sums(latent_relevance(tokenise(x, y, tokens), rounds), factor)


def latent_relevance(counts: NDArray[np.float64], rounds: int = 15) -> NDArray[np.float64]:
    """PLSA: the probability that a feature is relevant, [features], by its tokens' counts, [tokens, features]."""
    tokens, images = len(counts), counts[:, 0].sum()
    # The initial values of the authors' code: relevant features have low tokens, above all the lowest.
    ramp = np.linspace(5000.0, 1.0, tokens)
    p_token = np.stack([ramp, ramp[::-1]], axis=1) / ramp.sum()  # p(token | z), z = 0 relevant
    p_z = np.stack([counts[0] / images, 1 - counts[0] / images])  # p(z | feature)
    for _ in range(rounds):
        joint = p_token[:, :, None] * p_z  # [token, z, feature]
        posterior = joint / joint.sum(axis=1, keepdims=True)  # p(z | token, feature)
        expected = counts[:, None] * posterior
        p_z = expected.sum(axis=0) / images
        p_token = expected.sum(axis=2) / np.maximum(expected.sum(axis=(0, 2)), np.finfo(float).tiny)
        p_token = np.maximum(p_token, np.finfo(float).tiny)  # a token without values must not divide by 0
    return p_z[0]


def relevance_sums(p: NDArray[np.float64], factor: float = 0.99) -> Scores:
    """The row sums of (I − rppᵀ)⁻¹ − I = r/(1 − r‖p‖²) ppᵀ, with r = factor / ‖p‖²."""
    return factor / (1 - factor) * p * p.sum() / (p @ p) if p.any() else np.zeros_like(p)


def tokenise(x: Features, y: Labels, tokens: int) -> NDArray[np.float64]:
    """How many values of each feature have each token, [tokens, features].

    The token is the bin of t = (x − μ_y)² / Σ_c (x − μ_c)² among ``tokens`` bins of equal width from the feature's
    smallest t to its largest.
    """
    means = np.stack([x[y == c].mean(axis=0, dtype=np.float64) for c in np.unique(y)])  # [classes, features]
    own = np.searchsorted(np.unique(y), y)
    counts = np.empty((tokens, x.shape[1]))
    for j, column in enumerate(np.ascontiguousarray(x.T, dtype=np.float64)):
        far = (column[:, None] - means[:, j]) ** 2  # [images, classes]
        total = far.sum(axis=1)
        t = far[np.arange(len(column)), own] / np.where(total > 0, total, 1.0)  # a constant feature has t = 0
        counts[:, j] = np.histogram(t, bins=tokens, range=(t.min(), t.max()))[0]
    return counts


CRITERIA: dict[str, Callable[[Features, Labels], Scores]] = {"pls": pls_vip, "inf-fs": inf_fs, "il-fs": il_fs}
