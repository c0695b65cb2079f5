"""Rules of training: gradients of a step against the losses computed apart, the paths, and where dropout runs."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import test_given_trace
import torch
from test_train import images
from torch import nn
from torch.nn import functional as F

from supernet import model as model_module
from supernet import spaces
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.extremes import largest, smallest
from supernet.methods import ofa, spos
from supernet.model import Supernet
from supernet.training import distillation, paths, rules
from supernet.training.loop import FitConfig, fit
from supernet.training.rules import Rule, Together
from tests.conftest import SMALL_SPACES, refused, tiny_space

CPU = torch.device("cpu")


def elastic():
    return spaces.get("elastic-small", 1, 14, 10)


def batch(n=12):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 1, 14, 14, generator=generator), torch.arange(n) % 10


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_step(model, rule, folder: Path, **more) -> dict[str, torch.Tensor]:
    """The gradients of the first step of a training."""
    cfg = FitConfig(1, batch_size=20, lr=1e-9, augment=False, label_smoothing=0.0, weight_decay=0.0, **more)
    fit(model, images(20), rule, cfg, folder, meta={})
    return gradients(model)


SPACES = {"tiny": tiny_space, "elastic-small": elastic}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("distil", ["none", "inplace", "alpha"])
def test_a_sandwich_step_adds_the_gradients_of_its_four_losses(space, distil, tmp_path):
    space = SPACES[space]()
    model = Supernet(space, affine=True, kernels="eager").train()
    reference = copy.deepcopy(model)
    draw = rules.sandwich(space, paths.uniform_path(space, 0), 2)
    found = one_step(model, Together(model, draw, leads=True, distil=distil), tmp_path)

    (x, y), *_ = images(20).batches(20, seed=0, epoch=0, start=0, augment=False, drop_last=True)
    random = [paths.uniform_path(space, 0)(i) for i in range(2)]
    teacher = reference(x, largest(space))
    losses = [F.cross_entropy(teacher, y)]
    diverges = {
        "none": lambda logits: F.cross_entropy(logits, y),
        "inplace": lambda logits: distillation.kl_divergence(logits, teacher),
        "alpha": lambda logits: distillation.adaptive_alpha_divergence(logits, teacher),
    }[distil]
    losses += [diverges(reference(x, arch)) for arch in (*random, smallest(space))]
    expected: dict[str, torch.Tensor] = {}
    for loss in losses:  # each apart
        reference.zero_grad()
        loss.backward(retain_graph=True)
        for name, gradient in gradients(reference).items():
            expected[name] = expected.get(name, 0) + gradient
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_accumulated_parts_give_the_gradients_of_their_mean_loss(tmp_path):
    space = tiny_space()
    model = Supernet(space, kernels="eager").eval()  # batch statistics depend on the parts
    model.train = lambda mode=True: model  # type: ignore[method-assign, assignment]
    other = copy.deepcopy(model)
    draw = paths.fair_paths(space, 0)
    whole = one_step(model, Together(model, draw, distil="inplace"), tmp_path / "a")
    parts = one_step(other, Together(other, draw, distil="inplace"), tmp_path / "b", accumulate=4)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_fair_steps_give_every_choice_a_gradient(tmp_path):
    model = Supernet(tiny_space(), kernels="eager")
    found = one_step(model, Together(model, paths.fair_paths(model.space, 0)), tmp_path)
    assert found.keys() == {name for name, _ in model.named_parameters()}


def test_dropout_and_drop_path_run_in_the_largest_network_alone(tmp_path, monkeypatch):
    space = spaces.get("mobile-small", 1, 14, 10)
    model, seen = Supernet(space, kernels="eager").train(), []
    dropout = next(module for module in model.modules() if isinstance(module, nn.Dropout))
    whole = model_module.run_path

    def run_path(path, x, drop_path=0.0):
        seen.append((path, dropout.training, drop_path))
        return whole(path, x, drop_path)

    monkeypatch.setattr(model_module, "run_path", run_path)
    monkeypatch.setattr(rules, "run_path", run_path)
    draw = rules.sandwich(space, paths.uniform_path(space, 0), 1)
    one_step(model, Together(model, draw, leads=True, drop_path=0.2), tmp_path)
    (first, *others), top = seen, largest(space)
    assert first == (model.path(top), True, 0.2)
    assert len(others) == 2
    assert all(not trains and not drop for _, trains, drop in others)
    assert dropout.training  # as before


def test_drop_path_leaves_out_blocks_with_the_probability_of_their_place():
    space = spaces.get("mobile-small", 1, 14, 10)
    model = Supernet(space, kernels="eager").eval()
    arch, (x, _) = largest(space), batch(1)
    path, rate = model.path(arch), 0.6
    with torch.no_grad():
        inputs, values = x, []
        for module in path:  # what each block adds, if nothing is left out
            outputs = module(inputs)
            values.append((inputs, outputs, getattr(module, "adds", False)))
            inputs = outputs
        place, last = next((i, v) for i, v in reversed(list(enumerate(values, 1))) if v[2])
        torch.manual_seed(0)
        drop = rate * place / len(path)
        seen = model_module.run_path(
            [*[nn.Identity()] * (place - 1), path[place - 1], *[nn.Identity()] * (len(path) - place)],
            last[0].repeat(4000, 1, 1, 1),
            rate,
        )
    left_out = (seen == last[0]).flatten(1).all(1)
    kept = last[0] + (last[1] - last[0]) / (1 - drop)
    assert left_out.float().mean().item() == pytest.approx(drop, abs=5 * (drop * (1 - drop) / 4000) ** 0.5)
    torch.testing.assert_close(seen[~left_out][:1], kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("worst", [False, True])
def test_the_candidate_with_the_smallest_or_largest_loss_is_trained(worst):
    space = elastic()
    model = Supernet(space, affine=True, kernels="eager").train()
    rule = Together(model, lambda step: [paths.attentive_path(space, 0)(step)], worst=worst)
    x, y = batch()
    reference = copy.deepcopy(model)
    candidates = paths.attentive_path(space, 0)(5).arches
    losses = [float(F.cross_entropy(reference(x, arch), y).detach()) for arch in candidates]
    assert len(set(losses)) == len(candidates)
    wanted = candidates[losses.index(max(losses) if worst else min(losses))]
    assert rule.paths(5, [(x, y)]) == [wanted]
    assert rule.paths(5, list(zip(x.split(4), y.split(4), strict=True)))[0] in candidates
    assert all(p.grad is None for p in model.parameters())


def test_with_zero_gamma_the_blocks_that_add_are_the_identity_at_first(tmp_path):
    data = TrainVal(images(20), images(20, seed=1), 10, 1, 14, tuple("0123456789"))
    cfg = spos.Config(FitConfig(0, batch_size=20), zero_gamma=True, probes=0, kernels="eager")
    model = spos.run(elastic(), data, cfg, tmp_path, CPU)
    adding = [module for module in model.path(largest(model.space)) if getattr(module, "adds", False)]
    assert adding
    for module in adding:
        x = torch.randn(2, next(module.parameters()).shape[1], 7, 7)
        torch.testing.assert_close(module(x), x, rtol=0, atol=0)
    spos.run(elastic(), data, dataclasses.replace(cfg, fit=FitConfig(1, batch_size=20)), tmp_path / "trained", CPU)
    for space in (spaces.get("mobile-small", 1, 14, 10), spaces.get("timm:test_byobnet", 1, 28, 10)):
        with pytest.raises(UserError, match=r"zero gamma: .*expected an elastic space"):
            spos.run(space, data, cfg, tmp_path / "none", CPU)
    assert not (tmp_path / "none").exists()


RULES = [
    {"rule": "sandwich", "zero_gamma": True},
    {"rule": "sandwich", "distil": "inplace", "ema": 0.5},
    {"rule": "fair", "distil": "alpha"},
    {"rule": "sandwich", "draw": "best"},
    {"draw": "worst", "distil": "inplace", "drop_path": 0.2},
]


@pytest.mark.parametrize("options", RULES, ids=str)
def test_stopped_and_resumed_is_as_never_stopped(options, tmp_path):
    data = TrainVal(images(80), images(40, seed=1), 10, 1, 14, tuple("0123456789"))
    cfg = spos.Config(FitConfig(2, batch_size=20, lr=0.05, augment=False), probes=1, kernels="eager", **options)

    def train(folder, stop_after=None):
        if stop_after is None:
            return spos.run(elastic(), data, cfg, folder, CPU).state_dict()
        count = iter(range(100))

        def drive(training, validate, bar):
            for _ in training.single_steps():
                if next(count) == stop_after:
                    training.save()
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            spos.run(elastic(), data, cfg, folder, CPU, drive=drive)
        return None

    train(tmp_path / "stopped", stop_after=2)
    one, other = train(tmp_path / "stopped"), train(tmp_path / "whole")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def repeated(logits, y, smoothing):
    """The loss in which images of class 1 are there three times."""
    times = torch.where(y == 1, 3, 1)
    return F.cross_entropy(logits.repeat_interleave(times, 0), y.repeat_interleave(times), label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_image_of_weight_three_counts_as_three(smoothing):
    """30 and 10 images: their weights 2/3 and 2 are as 1 to 3. Losses of the parts of a batch add up to its own."""
    logits, y = torch.randn(40, 4), (torch.arange(40) % 4 == 0).long()
    for rule in (Rule(nn.Identity(), lambda step: None, smoothing), ofa_rule(smoothing)):
        rule.weights = torch.tensor([2 / 3, 2.0])
        torch.testing.assert_close(rule.loss(logits, y), repeated(logits, y, smoothing))
        parts = [rule.loss(logits[k::4], y[k::4]) for k in range(4)]
        torch.testing.assert_close(sum(parts) / 4, rule.loss(logits, y))


def ofa_rule(smoothing):
    return ofa.Taught(Supernet(elastic()), elastic(), FitConfig(1, label_smoothing=smoothing), 1, None, 1.0)


@pytest.mark.parametrize("together", [False, True])
def test_a_training_weighs_classes_where_its_images_say_so(together, tmp_path):
    data, arch = images(40), (0, 0, 0)
    data.labels = (np.arange(40) % 4 == 0).astype(np.int64)
    model = Supernet(tiny_space(), affine=True, kernels="eager").train()
    reference = copy.deepcopy(model)
    rule = Together(model, lambda step: [arch]) if together else Rule(model, lambda step: arch)
    cfg = FitConfig(1, 40, 1e-9, augment=False, label_smoothing=0.0, weight_decay=0.0)
    fit(model, data.balanced("loss"), rule, cfg, tmp_path, meta={})
    x, y = next(data.batches(40, seed=0, epoch=0, augment=False, drop_last=True))
    repeated(reference(x, arch), y, 0.0).backward()
    expected = gradients(reference)
    assert gradients(model).keys() == expected.keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_every_family_trains_by_every_rule(name, tmp_path):
    space = SMALL_SPACES[name]()
    data = TrainVal(images(16), images(8, seed=1), 10, 1, 14, tuple("0123456789"))
    for number, (rule, distil) in enumerate([("sandwich", "inplace"), ("fair", "none"), ("uniform", "alpha")]):
        cfg = spos.Config(FitConfig(1, batch_size=8, lr=0.01), rule=rule, distil=distil, probes=0)
        model = spos.run(space, data, cfg, tmp_path / str(number), CPU)
        assert all(p.isfinite().all() for p in model.parameters())


def test_options_that_exclude_each_other_are_refused():
    space, fit_config = tiny_space(), FitConfig(1)
    for options, told in (
        ({"rule": "fair", "draw": "best"}, "not fair"),
        ({"sampling": "flops", "draw": "worst"}, "sampling must be uniform"),
        ({"drop_path": 0.2}, "of the largest network"),
        ({"rule": "fair", "drop_path": 0.2}, "of the largest network"),
    ):
        assert told in refused(spos.require, space, spos.Config(fit_config, **options))
    spos.require(space, spos.Config(fit_config, drop_path=0.2, distil="alpha"))
    for options, told in (
        ({"paths": 0}, "0 random paths in a step: expected 1 to 1,000"),
        ({"paths": 2**31 - 1}, "expected 1 to 1,000"),
        *(({name: value}, "from 0 to below 1") for name in ("ema", "drop_path") for value in (-0.1, 1.0, 1.5)),
    ):
        assert told in refused(spos.Config, fit_config, **options)


def test_drop_path_where_nothing_can_be_dropped_is_refused_before_a_supernet_is_made():
    def require(name, **options):
        channels = 3 if ":" in name else 1
        spos.require(spaces.get(name, channels, 28, 10), spos.Config(FitConfig(1), drop_path=0.2, **options))

    require("mobile-small", rule="sandwich")
    require("mobile-small", distil="inplace")
    require("torchvision:resnet18", rule="sandwich")
    assert "the largest network, which leads" in refused(require, "mobile-small")
    for name in ("shufflenet-small", f"{test_given_trace.__file__}:Small"):
        assert f"no block of {name.rpartition('/')[2]} that leads" in refused(require, name, rule="sandwich")


def test_drop_path_is_that_of_the_rule():
    cfg = spos.Config(FitConfig(1), rule="sandwich", drop_path=0.2)
    assert spos.rule(spos.untrained(spaces.get("mobile-small", 1, 28, 10), cfg), cfg).drop_path == 0.2
