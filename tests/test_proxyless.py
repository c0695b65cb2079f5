"""ProxylessNAS against its formulas, and against what a resume must give."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from supernet import files, spaces
from supernet.errors import UserError
from supernet.methods import proxyless
from supernet.model import Supernet
from supernet.training import checkpoint
from supernet.training.loop import FitConfig
from tests.conftest import tiny_space
from tests.test_dsnas import CPU, Killed, budget, train_val


def config(space, **options):
    fit = FitConfig(epochs=2, batch_size=20, lr=0.05, augment=False, schedule="cosine", checkpoint_minutes=0)
    return proxyless.Config(fit, budget(space, 1e6), recalibration=(2, 20), **{"arch_lr": 0.1, **options})


def gates_of(space, **options):
    model = Supernet(space, affine=True).train()
    return proxyless.Gates(model, config(space, **options), train_val().train, 6)


@pytest.mark.parametrize("space", [tiny_space(), spaces.get("cells-small", 1, 28, 10)], ids=["layers", "cells"])
@pytest.mark.parametrize("detached", [True, False])
def test_the_first_candidate_counts_and_both_gates_learn(space, detached):
    """Logits are the path's; the gradient of a gate is that of the loss as the gate moves, by differences."""
    model = Supernet(space, affine=True, kernels="eager").double().eval()
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.permutation(len(open_))[:2].tolist()) for open_ in space.allowed]
    arch = tuple(open_[first] for open_, (first, _) in zip(space.allowed, pairs, strict=True))
    x = torch.randn(4, 1, space.resolution, space.resolution, dtype=torch.double)
    gates = [torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True) for _ in pairs]
    y = torch.arange(4)

    def loss(values):
        return F.cross_entropy(proxyless.forward(model, x, pairs, values, detached), y)

    torch.testing.assert_close(proxyless.forward(model, x, pairs, gates, detached), model(x, arch))
    gradients = torch.autograd.grad(loss(gates), gates)
    for gene in range(len(pairs)):
        for side in (0, 1):
            moved = [gate.detach().clone() for gate in gates]
            losses = []
            for h in (1e-5, -1e-5):
                moved[gene][side] = gates[gene].detach()[side] + h
                losses.append(loss(moved).item())
            assert float(gradients[gene][side]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-2, abs=1e-6)


def test_weights_of_what_does_not_count_get_no_gradient():
    space = tiny_space()
    model = Supernet(space, affine=True)
    gates = [torch.tensor([1.0, 0.0], requires_grad=True) for _ in space.genes]
    proxyless.forward(model, torch.randn(4, 1, 14, 14), [(0, 1)] * 3, gates).sum().backward()
    on_path = {id(p) for module in model.path((0, 0, 0)) for p in module.parameters()}
    assert all((p.grad is not None) == (id(p) in on_path) for p in model.parameters())


def test_the_gradient_of_alpha_is_their_equation_4():
    """Σ_j ∂L/∂g_j p_j (δ_ij − p_i) over two of three, written out."""
    alpha = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    gradient, costs = torch.tensor([0.5, -1.5]), torch.tensor([0.1, 0.3])
    proxyless.gate_loss(alpha, (2, 0), gradient, costs).backward()
    p = np.exp([0.9, 0.3]) / np.exp([0.9, 0.3]).sum()
    g = [0.6, -1.2]
    expected = [sum(g[j] * p[j] * ((i == j) - p[i]) for j in (0, 1)) for i in (0, 1)]
    np.testing.assert_allclose(alpha.grad.numpy(), [expected[1], 0, expected[0]], rtol=1e-5)


def test_probabilities_of_what_was_not_drawn_stay():
    gates = gates_of(tiny_space())
    for step in range(3):
        before, pairs = gates.probabilities(), gates.pairs(step)
        gates.learn(pairs, [torch.tensor([1.0, -2.0])] * 3)
        for p, q, two in zip(before, gates.probabilities(), pairs, strict=True):
            others = [k for k in range(len(p)) if k not in two]
            np.testing.assert_allclose(q[others], p[others], rtol=1e-5)
            assert q[two[0]] < p[two[0]]  # a positive gradient lowers it
            assert q[two[1]] > p[two[1]]


def test_pairs_are_two_different_ones_and_the_first_is_drawn_by_p():
    gates = gates_of(tiny_space())
    with torch.no_grad():
        gates.alpha[1].copy_(torch.tensor([1.0, 0.0, -1.0, 0.5]))
    drawn = [gates.pairs(step)[1] for step in range(4000)]
    assert all(a != b for a, b in drawn)
    p, expected = gates.probabilities()[1], np.zeros(4)
    for a in range(4):
        for b in set(range(4)) - {a}:  # drawn in this order, then one of the two counts
            share = p[a] * p[b] / (1 - p[a])
            expected[a] += share * p[a] / (p[a] + p[b])
            expected[b] += share * p[b] / (p[a] + p[b])
    found = np.bincount([a for a, _ in drawn], minlength=4) / 4000
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected / 4000))


def test_n_plus_n_steps_equal_2n_steps(tmp_path, monkeypatch):
    space = tiny_space()
    whole = proxyless.run(space, train_val(), config(space), tmp_path / "whole", CPU)
    sample = proxyless.Gates.sample

    def killed(self, step):
        if step == 6:
            raise Killed
        return sample(self, step)

    monkeypatch.setattr(proxyless.Gates, "sample", killed)
    with pytest.raises(Killed):
        proxyless.run(space, train_val(), config(space), tmp_path / "parts", CPU)
    monkeypatch.undo()
    assert proxyless.run(space, train_val(), config(space), tmp_path / "parts", CPU) == whole
    a, b = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert all(torch.equal(value, b["model"][name]) for name, value in a["model"].items())
    assert all(torch.equal(x, y) for x, y in zip(a["search"]["alpha"], b["search"]["alpha"], strict=True))
    assert any(not torch.equal(alpha, torch.zeros_like(alpha)) for alpha in a["search"]["alpha"])
    found = json.loads((tmp_path / "whole" / "arch.json").read_text())
    last = files.JsonLines(tmp_path / "whole" / "metrics.jsonl").read()[-1]
    assert (found["arch"], found["val_accuracy"]) == (last["arch"], last["val_accuracy"])


def test_the_first_epochs_may_train_weights_only():
    gates = gates_of(tiny_space(), weight_epochs=1)
    for step in (0, 5):
        gates.before_step(step)
    assert not any(alpha.detach().any() for alpha in gates.alpha)
    gates.before_step(6)
    assert all(alpha.detach().any() for alpha in gates.alpha)


def test_settings_that_cannot_be():
    for options in ({"weight_epochs": 2}, {"gate_share": 1.0}):
        with pytest.raises(UserError, match="expected fewer than all, and a share between 0 and 1"):
            config(tiny_space(), **options)
    for rates in ({"arch_lr": -1.0}, {"cost_weight": float("inf")}):
        with pytest.raises(UserError, match="expected both at least 0"):
            config(tiny_space(), **rates)
    with pytest.raises(UserError, match="20 images needs a set of at least as many, this one has 6"):
        proxyless.run(tiny_space(), train_val(60), config(tiny_space(), gate_share=0.1), None, CPU)
