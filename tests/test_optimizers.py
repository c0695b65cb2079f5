"""Optimisers against PyTorch's and timm's own, written out; rates of layers."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.optim import Lamb
from torch import nn

from supernet.model import Network
from supernet.training import optimizers
from supernet.training.config import FitConfig
from tests.conftest import tiny_space

PLAIN = {"adamw": torch.optim.AdamW, "lamb": Lamb}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    for step in range(count):
        optimizer.zero_grad()
        torch.manual_seed(step)
        (model(torch.randn(8, 1, 14, 14)).logsumexp(1) ** 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", PLAIN)
def test_steps_are_those_of_the_optimiser_itself(name):
    ours = Network(tiny_space(), (1, 2, 3), kernels="eager")
    theirs = copy.deepcopy(ours)
    cfg = FitConfig(1, lr=0.01, optimizer=name, weight_decay=0.1)
    parts = {decays: [p for p in theirs.parameters() if (p.dim() > 1) == decays] for decays in (True, False)}
    groups = [{"params": parts[True], "weight_decay": 0.1}, {"params": parts[False], "weight_decay": 0.0}]
    steps(ours, optimizers.make(ours, cfg))
    steps(theirs, PLAIN[name](groups, lr=0.01))
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


@pytest.mark.parametrize("name", ["sgd", *PLAIN])
def test_each_layer_has_its_share_of_the_rate(name):
    network = Network(tiny_space(4), (1, 2, 3, 1), kernels="eager")
    cfg = FitConfig(4, lr=0.5, optimizer=name, layer_decay=0.5, weight_decay=0.1)
    optimizer = optimizers.make(network, cfg)
    optimizers.set_rate(optimizer, cfg, 1, 1)  # a quarter of the linear schedule is over
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for place, module in enumerate(network.path()):
        for p in module.parameters():
            assert groups[id(p)]["lr"] == pytest.approx(0.5 * 0.75 * 0.5 ** (len(network.path()) - 1 - place))
            assert groups[id(p)]["weight_decay"] == (0.1 if p.dim() > 1 else 0)


@pytest.mark.parametrize("decays", ["all", "all but BN"])
def test_what_decays_is_chosen(decays):
    """As torch.optim.SGD does with all parameters in one group, or those of BN in another."""
    ours = Network(tiny_space(), (1, 2, 3), kernels="eager")
    theirs = copy.deepcopy(ours)
    cfg = FitConfig(1, lr=0.1, weight_decay=0.1, decays=decays)
    steps(ours, optimizers.make(ours, cfg))
    spared = [p for name, p in theirs.named_parameters() if "bn" in name and decays != "all"]
    others = [p for p in theirs.parameters() if not any(p is other for other in spared)]
    assert bool(spared) == (decays != "all")
    assert any(p.dim() == 1 for p in others)
    groups = [{"params": others}, {"params": spared, "weight_decay": 0}]
    steps(theirs, torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1))
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


def test_state_comes_back():
    network = Network(tiny_space(), (1, 2, 3), kernels="eager")
    cfg = FitConfig(1, optimizer="lamb", layer_decay=0.9)
    optimizer, again = optimizers.make(network, cfg), optimizers.make(network, cfg)
    steps(network, optimizer)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = copy.deepcopy(network.state_dict())
    steps(network, optimizer, 1)
    after = copy.deepcopy(network.state_dict())
    network.load_state_dict(before)
    steps(network, again, 1)
    assert all(torch.equal(value, after[name]) for name, value in network.state_dict().items())
