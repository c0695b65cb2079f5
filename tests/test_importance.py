"""The three criteria against their definitions, written out slowly, and the features that they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from search import criteria, importance, streamed
from supernet import donors
from supernet.errors import UserError
from supernet.families import module_stages
from supernet.model import Network
from tests.conftest import whole
from tests.test_train import images

CLASSES = 3


def sample(images=60, features=7, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the first ones tell the classes apart, and one is constant."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(images) % CLASSES)
    x = rng.normal(size=(images, features)) * rng.uniform(0.5, 3, features)
    x[:, :3] += 2 * np.eye(CLASSES)[y]
    x[:, -1] = 1.5
    return x.astype(np.float32), y


@pytest.mark.parametrize("components", [1, 2, 3])
def test_the_squares_of_vip_average_to_one(components):
    x, y = sample()
    vip = criteria.pls_vip(x, y, components)
    assert vip.shape == (7,)
    assert np.mean(vip**2) == pytest.approx(1)
    assert vip[:3].min() > vip[3:].max()
    assert vip[-1] == 0


def test_vip_of_one_component_is_the_first_singular_vector_of_the_covariance():
    """PLS's first weights are, by definition, the direction of the largest covariance with the labels."""
    x, y = sample()
    onehot = np.eye(CLASSES)[y]
    x0 = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0, ddof=1), 1)
    y0 = (onehot - onehot.mean(0)) / onehot.std(0, ddof=1)
    w = np.linalg.svd(x0.T @ y0)[0][:, 0]
    np.testing.assert_allclose(criteria.pls_vip(x, y, 1), np.sqrt(len(w)) * np.abs(w), rtol=1e-4, atol=1e-6)


def test_inf_fs_against_its_series_summed_term_by_term():
    x, y = sample()
    p = x.shape[1]
    sigma = [[max(np.std(x[:, i], ddof=1), np.std(x[:, j], ddof=1)) for j in range(p)] for i in range(p)]
    sigma = (np.array(sigma) - np.min(sigma)) / (np.max(sigma) - np.min(sigma))
    c = np.zeros((p, p))
    for i in range(p):
        for j in range(p):
            constant = np.ptp(x[:, i]) == 0 or np.ptp(x[:, j]) == 0
            correlation = float(i == j) if constant else spearmanr(x[:, i], x[:, j]).statistic
            c[i, j] = 1 - abs(correlation)
    a = 0.5 * sigma + 0.5 * c
    r = 0.9 / np.abs(np.linalg.eigvals(a)).max()
    term, total = np.eye(p), np.zeros((p, p))
    for _ in range(400):
        term = term @ (r * a)
        total += term
    np.testing.assert_allclose(criteria.inf_fs(x, y), total.sum(axis=1), rtol=1e-6)
    assert criteria.inf_fs(x, y).mean() <= 0.9 / 0.1


def slow_il_fs(x, y, tokens=4, rounds=15, factor=0.99):
    """Feature by feature and token by token."""
    n, p = x.shape
    x = x.astype(float)
    counts = [[0] * p for _ in range(tokens)]
    for f in range(p):
        ts = []
        for i in range(n):
            far = [(x[i, f] - x[y == c, f].mean()) ** 2 for c in range(CLASSES)]
            ts.append(far[y[i]] / sum(far) if sum(far) > 0 else 0.0)
        low, high = min(ts), max(ts)
        if low == high:  # numpy's histogram of a constant: half below, half above, so the third of four bins
            low, high = low - 0.5, high + 0.5
        for t in ts:
            counts[min(int((t - low) / (high - low) * tokens), tokens - 1)][f] += 1
    ramp = np.linspace(5000, 1, tokens)
    token_given = [ramp / ramp.sum(), ramp[::-1] / ramp.sum()]
    given = [[counts[0][f] / n for f in range(p)], [1 - counts[0][f] / n for f in range(p)]]
    for _ in range(rounds):
        posterior = np.zeros((2, tokens, p))
        for f in range(p):
            for t in range(tokens):
                both = [token_given[z][t] * given[z][f] for z in range(2)]
                for z in range(2):
                    posterior[z, t, f] = both[z] / sum(both)
        for f in range(p):
            for z in range(2):
                given[z][f] = sum(counts[t][f] * posterior[z, t, f] for t in range(tokens)) / n
        for z in range(2):
            mass = [sum(counts[t][f] * posterior[z, t, f] for f in range(p)) for t in range(tokens)]
            token_given[z] = np.array(mass) / sum(mass)
    g = np.outer(given[0], given[0])
    r = factor / np.linalg.eigvalsh(g).max()
    return (np.linalg.inv(np.eye(p) - r * g) - np.eye(p)).sum(axis=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_il_fs_against_a_slow_literal_version(seed):
    x, y = sample(seed=seed)
    x = x[:, :-1] if seed else x
    score = criteria.il_fs(x, y)
    np.testing.assert_allclose(score, slow_il_fs(x, y), rtol=1e-6, atol=1e-9)
    assert score[:3].mean() > score[3:6].mean()  # it knows the labels


def test_scores_do_not_depend_on_the_scale():
    x, y = sample()
    for name, criterion in criteria.CRITERIA.items():
        np.testing.assert_allclose(criterion(8 * x, y), criterion(x, y), rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def network() -> Network:
    space = module_stages.space("residual", 1, 14, 10, width=4, deepest=3)
    return Network(space, module_stages.arch(space, (2, 1, 2)), kernels="eager").eval()


def test_features_are_the_pooled_sums_of_each_last_module(network):
    """Recomputed by hand: the sum in front of the ReLU, in windows of an eighth."""
    data = images(40)
    with importance.Reading(network, data) as reading:
        features, labels = reading.all()
    x, y = whole(data)
    order = [int(i) for i in labels]
    assert sorted(order) == sorted(y.tolist())
    with torch.no_grad():
        h, sums = network.stem(x), []
        for stage in donors.stages(network):
            for module in stage:
                z = module.second(module.first(h)) + module.shortcut(h)
                h = z.relu()
            sums.append(z)
    assert [f.shape for f in features] == [(40, 4 * 4), (40, 8), (40, 16)]
    for found, z in zip(features, sums, strict=True):
        size = -(-z.shape[-1] // 8)
        expected = F.adaptive_avg_pool2d(z, size).flatten(1).numpy()
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0), rtol=1e-4, atol=1e-5)


def test_memory_bounds_the_images(network, monkeypatch):
    monkeypatch.setattr(importance, "MEMORY", 25 * 4 * (16 + 8 + 16))
    with importance.Reading(network, images(60)) as reading:
        features, labels = reading.all()
    assert {len(f) for f in features} == {25}
    assert len(labels) == 25


@pytest.mark.parametrize("criterion", streamed.CRITERIA)
def test_all_images_count_where_memory_has_no_room(network, monkeypatch, criterion):
    data = images(300)
    roomy = importance.importance(network, data, criterion)
    monkeypatch.setattr(importance, "MEMORY", 25 * 4 * (16 + 8 + 16))
    assert importance.importance(network, data, criterion) == pytest.approx(roomy, rel=1e-6)
    sampled = importance.importance(network, data, criterion, limit=25)
    assert sampled != pytest.approx(roomy, rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("features", [1, 2, 9])
@pytest.mark.parametrize("criterion", streamed.CRITERIA)
def test_sums_over_batches_give_the_scores_of_all_features_at_once(criterion, features, seed):
    """With a constant feature, and a class without images."""
    x, y = sample(images=101, features=9, seed=seed)
    x, y = x[:, :features], np.where(y == 2, 3, y)
    scored = streamed.CRITERIA[criterion](features, 4)
    while scored.unfinished:
        for part in np.array_split(np.arange(101), 7):
            scored.add(x[part], y[part])
        scored.end()
    np.testing.assert_allclose(scored.scores(), criteria.CRITERIA[criterion](x, y), rtol=1e-5, atol=1e-8)  # NIPALS's


def test_importance_leaves_the_network_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    alpha = importance.importance(network, images(40), "inf-fs")
    assert network.training
    network.eval()
    assert len(alpha) == 3
    assert alpha == importance.importance(network, images(40), "inf-fs")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_refusals(network):
    with pytest.raises(UserError, match="among pls, inf-fs, il-fs, got 'vip'"):
        importance.importance(network, images(40), "vip")
    broken = Network(network.space, network.arch, kernels="eager")
    broken.layers[-1].second.conv.bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match="stage 3 gives features that are not finite"):
        importance.importance(broken, images(40), "pls")
