"""Blocks that add nothing now and then, in the networks of every family that has such blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supernet import spaces
from supernet.extremes import largest
from supernet.model import Network
from supernet.training import drop_path
from tests.conftest import refused, tiny_space

SPACES = ("mobile-small", "mobile-v3-small", "residual-small", "elastic-small")


def network(name: str, kernels: str = "eager") -> Network:
    torch.manual_seed(0)
    space = spaces.get(name, 1, 28, 10)
    return Network(space, largest(space), kernels=kernels)


@pytest.mark.parametrize("kernels", ["eager", "fused"])
@pytest.mark.parametrize("name", SPACES)
def test_a_block_adds_nothing_with_the_probability_of_its_place(name, kernels):
    """Each block's share of images that leave it as they came, or by its shortcut."""
    model = network(name, kernels).train()
    rate, path, x = 0.8, model.path(), torch.randn(400, 1, 28, 28)
    wanted = {place: rate * place / len(path) for _, place, _ in drop_path.places(model)}
    assert wanted
    seen: dict[int, float] = {}
    with torch.no_grad(), drop_path.dropping(model, rate):
        for place, module in enumerate(path, 1):
            y = module(x)
            if place in wanted:
                shortcut = getattr(module, "shortcut", torch.nn.Identity())(x)
                nothing = module.act(shortcut) if hasattr(module, "act") else shortcut
                if nothing.shape == y.shape:  # ResNet-D averages over the stride
                    seen[place] = (y - nothing).flatten(1).abs().amax(1).lt(1e-4).float().mean().item()
            x = y
    assert len(seen) > 1
    for place, share in seen.items():
        p = wanted[place]
        assert share == pytest.approx(p, abs=5 * (p * (1 - p) / 400) ** 0.5), place


@pytest.mark.parametrize("name", SPACES)
def test_evaluation_drops_nothing_and_hooks_are_gone_afterwards(name):
    model = network(name).eval()
    x = torch.randn(4, 1, 28, 28)
    whole = model(x)
    with drop_path.dropping(model, 0.9):
        torch.testing.assert_close(model(x), whole, rtol=1e-4, atol=1e-5)
        model.train()
        assert not torch.equal(model(x), model(x))
    model.eval()
    assert not any(module._forward_hooks for module in model.modules())


def test_what_is_kept_makes_up_for_what_is_dropped():
    """The mean over many draws is what is computed without."""
    model = network("mobile-small").eval()
    block = next(part for part, _, whole in drop_path.places(model) if whole)
    x = torch.randn(1, *_input(model, block)).repeat(3000, 1, 1, 1)
    with torch.no_grad():
        plain = block(x)
        with drop_path.dropping(model, 0.5):
            block.train()
            for norm in (m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)):
                norm.eval()
            mean = block(x).mean(0)
    assert (mean - plain[0]).abs().mean() < 0.1 * (plain[0] - x[0]).abs().mean()


def _input(model: Network, block: torch.nn.Module) -> tuple[int, ...]:
    shapes = []
    handle = block.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[1:])))
    model(torch.zeros(1, 1, 28, 28))
    handle.remove()
    return shapes[0]


def test_a_given_network_drops_where_timm_would():
    space = spaces.get("timm:mobilenetv3_small_050", 3, 32, 10)
    model = Network(space, largest(space), kernels="eager").train()
    assert len(drop_path.places(model)) == 7  # its blocks whose stride is 1 and whose channels stay
    x = torch.randn(4, 3, 32, 32)
    with drop_path.dropping(model, 0.9):
        assert not torch.equal(model(x), model(x))


def test_networks_without_such_blocks_are_refused():
    space = spaces.get("shufflenet-small", 1, 28, 10)
    model = Network(space, space.sample(np.random.default_rng(0)), kernels="eager")
    assert "shufflenet-small" in refused(drop_path.require, model)
    with drop_path.dropping(model, 0.0):  # off is possible
        pass
    drop_path.require(Network(tiny_space(), (0, 1, 1), kernels="eager"))
