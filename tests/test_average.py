"""The moving average of weights against its definition."""

from __future__ import annotations

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from supernet.training.average import MovingAverage
from supernet.training.checkpoint import AVERAGE
from tests.conftest import refused


def moved(model: nn.Module, average: MovingAverage, steps: int):
    """Weights that change, and what the average is by its definition, in double."""
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    for step in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        average.update(step)
        decay = min(average.decay, (1 + step) / (10 + step))
        expected = {
            name: decay * expected[name] + (1 - decay) * p.detach().double() for name, p in model.named_parameters()
        }
    return expected


def test_average_is_its_definition_and_is_applied_within_the_block_only():
    model = nn.Linear(3, 2)
    average = MovingAverage(model, 0.9)
    expected, last = moved(model, average, 200), model.weight.detach().clone()
    with average.applied():
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(model.weight, last)


def test_it_takes_the_steps_of_timm():
    """Once its decay is reached; with BN statistics, which timm averages too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average, theirs = MovingAverage(model, 0.9, statistics=True), ModelEmaV3(model, 0.9)
    for step in range(100, 120):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(8, 3))
        average.update(step)
        theirs.update(model)
    expected = {name: value for name, value in theirs.module.state_dict().items() if value.is_floating_point()}
    assert average.averages.keys() == expected.keys()
    for name, value in average.averages.items():
        torch.testing.assert_close(value, expected[name])


def test_state_comes_back_exactly():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    average, again = MovingAverage(model, 0.5), MovingAverage(other, 0.5)
    moved(model, average, 3)
    again.load_state_dict(average.state_dict())
    assert all(torch.equal(average.state_dict()[AVERAGE][name], value) for name, value in again.averages.items())
    with pytest.raises(ValueError, match="other weights"):
        MovingAverage(nn.Linear(2, 2, bias=False), 0.5).load_state_dict(average.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    assert "between 0 and 1" in refused(MovingAverage, nn.Linear(2, 2), decay)
