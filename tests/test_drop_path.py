"""Blocks that add nothing now and then, in the networks of every family that has such blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supernet import spaces
from supernet.extremes import largest
from supernet.families.given import family, source
from supernet.model import Network, Supernet, run_path
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
    block = next(part for part, _, kind in drop_path.places(model) if kind == "sum")
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


@pytest.fixture(params=["eager", "fused"])
def given(request):
    """The supernet of torchvision's ResNet-18, of MobileNetV2 by timm; and each network with the blocks left out whose
    input has their shape.
    """

    def made(reference):
        torch.manual_seed(0)
        space = spaces.get(reference, 3, 64, 10)
        supernet = Supernet(space, affine=True, kernels=request.param).eval()
        short = source.make(reference, 3, space.input_size, 10)
        family.load(supernet.shared, short.state_dict())
        if "resnet" in reference:
            short.layer1 = torch.nn.Identity()
            for stage in (short.layer2, short.layer3, short.layer4):
                del stage[1]
        else:
            for stage in short.blocks:
                for block in [block for block in stage if getattr(block, "has_skip", False)]:
                    del stage[list(stage).index(block)]
        return supernet, short

    return made


@pytest.mark.parametrize("reference", ["torchvision:resnet18", "timm:mobilenetv2_050"])
def test_sums_of_a_given_network_are_dropped_whole(given, reference, monkeypatch):
    """With every branch left out it is the network without those blocks; with none, it is as it was."""
    supernet, short = given(reference)
    x, arch = torch.randn(2, 3, 64, 64), largest(supernet.space)
    with torch.no_grad():
        monkeypatch.setattr("torchvision.ops.stochastic_depth", lambda y, p, mode: 0 * y)
        dropped = run_path(supernet.path(arch), x, 0.5)
        torch.testing.assert_close(dropped, short(x), rtol=1e-4, atol=1e-5)
        monkeypatch.setattr("torchvision.ops.stochastic_depth", lambda y, p, mode: y)
        whole = supernet(x, arch)
        torch.testing.assert_close(run_path(supernet.path(arch), x, 0.5), whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(dropped, whole, rtol=1e-3)


def test_the_probability_grows_with_the_place(given, monkeypatch):
    rates = []
    monkeypatch.setattr("torchvision.ops.stochastic_depth", lambda y, p, mode: rates.append(p) or y)
    supernet, _ = given("torchvision:resnet18")
    path = supernet.path(largest(supernet.space))
    run_path(path, torch.randn(2, 3, 64, 64), 0.5)
    assert len(path) == 21  # the stem and 16 convolutions, three of shortcuts, the head
    assert rates == pytest.approx([0.5 * place / 21 for place in (3, 5, 10, 15, 20)])


def test_a_network_of_torchvisions_drops_alone(monkeypatch):
    """It has no modules that mark where."""
    space = spaces.get("torchvision:resnet18", 3, 32, 10)
    model, x = Network(space, largest(space), kernels="eager").train(), torch.randn(4, 3, 32, 32)
    assert len(drop_path.places(model)) == 5
    with drop_path.dropping(model, 0.9):
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def test_networks_without_such_blocks_are_refused():
    space = spaces.get("shufflenet-small", 1, 28, 10)
    model = Network(space, space.sample(np.random.default_rng(0)), kernels="eager")
    assert "shufflenet-small" in refused(drop_path.require, model)
    with drop_path.dropping(model, 0.0):  # off is possible
        pass
    drop_path.require(Network(tiny_space(), (0, 1, 1), kernels="eager"))
