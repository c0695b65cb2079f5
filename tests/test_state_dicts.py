"""Files of weights as the wrappers and trainers that people use leave them."""

import argparse
import copy

import pytest
import torch
from conftest import refused
from torch import nn

from supernet import state_dicts
from supernet.errors import CheckpointError


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))


class Trained(nn.Module):
    """A network and what is not its own, as Lightning keeps them."""

    def __init__(self, network):
        super().__init__()
        self.criterion, self.model = nn.Linear(4, 2), network


def optimiser(network):
    adam = torch.optim.AdamW(network.parameters())
    sum(p.sum() for p in network.parameters()).backward()
    adam.step()
    return adam.state_dict()


CHECKPOINTS = {
    "alone": lambda network: network.state_dict(),
    "parallel": lambda network: {"state_dict": nn.DataParallel(network).state_dict(), "epoch": 3},
    "compiled": lambda network: torch.compile(network).state_dict(),
    "compiled in parallel": lambda network: nn.DataParallel(torch.compile(network)).state_dict(),
    "averaged": lambda network: torch.optim.swa_utils.AveragedModel(network).state_dict(),
    "lightning": lambda network: {"state_dict": Trained(network).state_dict(), "hyper_parameters": {"lr": 0.1}},
    "of a tutorial": lambda network: {
        "epoch": 1,
        "optimizer_state_dict": optimiser(copy.deepcopy(network)),
        "model_state_dict": network.state_dict(),
        "loss": torch.tensor(0.5),
    },
    "timm's trainer": lambda network: {"state_dict": network.state_dict(), "args": argparse.Namespace(lr=0.1)},
    "within": lambda network: {"checkpoint": {"net": network.state_dict()}},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_weights_are_found_wherever_they_are(network, tmp_path, kind):
    own = network.state_dict()
    torch.save(CHECKPOINTS[kind](network), tmp_path / "w.pt")
    found = state_dicts.read(tmp_path / "w.pt", own)
    assert found.keys() >= own.keys()
    assert all(torch.equal(found[name], value) for name, value in own.items())
    assert kind == "of a tutorial" or found.keys() == own.keys()


def test_names_that_begin_like_a_wrapper_are_the_networks(tmp_path):
    """A network whose own names begin so, and a part of it that has the names of the whole."""
    network = nn.DataParallel(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))))
    own = network.state_dict()
    torch.save(own, tmp_path / "w.pt")
    assert state_dicts.read(tmp_path / "w.pt", own).keys() == own.keys()


def test_of_two_averages_the_first_is_meant(network, tmp_path):
    own = network.state_dict()
    other = {name: value + 1 for name, value in own.items()}
    torch.save({"ema": own, "model": other}, tmp_path / "w.pt")
    assert all(torch.equal(value, own[name]) for name, value in state_dicts.read(tmp_path / "w.pt", own).items())


def test_weights_of_another_network_keep_their_names(network, tmp_path):
    torch.save({"features.weight": torch.ones(2)}, tmp_path / "w.pt")
    assert state_dicts.read(tmp_path / "w.pt", network.state_dict()).keys() == {"features.weight"}


def test_what_holds_no_weights(network, tmp_path):
    own = network.state_dict()
    itself = {"epoch": 3}
    itself["again"] = itself
    for content, expected in (
        (network, "torch.nn.modules.container.Sequential in it needs code"),
        ({"model": 3}, "holds no state dict"),
        (itself, "holds no state dict"),
        (own | {"1.bias": torch.tensor([0.0, torch.nan, 0.0, 0.0])}, "1.bias has values that are not finite"),
        (own | {"1.running_var": torch.tensor([1.0, torch.inf, 1, 1])}, "1.running_var has values that are not"),
    ):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(CheckpointError) as raised:
            state_dicts.read(tmp_path / "w.pt", own)
        assert expected in str(raised.value)
        assert str(raised.value).isprintable()  # one line
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        assert "holds no weights that can be read" in refused(state_dicts.read, tmp_path / name, own)
    assert "No such file" in refused(state_dicts.read, tmp_path / "none.pt", own)
    assert "directory" in refused(state_dicts.read, tmp_path, own)
