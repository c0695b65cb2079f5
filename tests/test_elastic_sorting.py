"""Channel sorting: the largest network computes what it did, and the first channels are the important ones."""

from __future__ import annotations

import pytest
import torch
from test_elastic import tiny

from supernet import spaces
from supernet.extremes import largest
from supernet.families.elastic_sorting import sort_channels
from supernet.model import Supernet

KINDS = {
    "mobile_relu_se": lambda: tiny("mobile_relu_se"),
    "attentive_se": lambda: tiny("attentive_se", each=False),
    "resnet_d": lambda: tiny("resnet_d", unit="expand_percent", expansions=(50, 100), kernels=()),
    "elastic-small": lambda: spaces.get("elastic-small", 1, 28, 10),
}


def trained_like(space) -> Supernet:
    """A supernet with BN parameters and statistics that differ from channel to channel."""
    model = Supernet(space, affine=True, kernels="eager").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and "to" not in name.split(".")[-1]:
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_the_largest_network_stay(kind):
    space = KINDS[kind]()
    model = trained_like(space)
    x = torch.randn(3, space.channels, space.resolution, space.resolution)
    with torch.no_grad():
        before = model(x, largest(space))
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        sort_channels(model)
        after = model(x, largest(space))
    assert any(not torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_channels_that_are_read_most_come_first():
    model = trained_like(spaces.get("elastic-small", 1, 28, 10))
    sort_channels(model)
    block = model.layers[1][0].layer
    read = block.separable.pointwise.conv.weight.detach().abs().sum((0, 2, 3))
    assert torch.equal(read, read.sort(descending=True).values)


def test_the_channels_of_networks_that_are_trained_remain_the_first():
    space = spaces.get("ofa-mobilenetv3", 3, 32, 10)
    kept = space.restrict([open_[1:] if len(open_) == 3 else open_ for open_ in space.allowed])  # no expansion of 3
    model = trained_like(space)
    block = model.layers[2][0].layer
    width = 4 * block.expand.conv.in_channels
    before = set(map(tuple, block.expand.conv.weight.detach()[:width].flatten(1).tolist()))
    sort_channels(model, kept)
    after = set(map(tuple, block.expand.conv.weight.detach()[:width].flatten(1).tolist()))
    assert after == before
    sort_channels(model)
    assert set(map(tuple, block.expand.conv.weight.detach()[:width].flatten(1).tolist())) != before
