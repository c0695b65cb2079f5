"""The active part of parameters: gradients as autograd's slices give them, and an optimiser that moves nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from test_elastic import TINY, ends, sample, trained
from test_residual import small
from torch.nn import functional as F

from supernet import active, modules
from supernet.families import elastic_sharing, residual, slices
from supernet.model import Supernet
from supernet.training.config import FitConfig
from supernet.training.optimizers import make

SPACES = {**TINY, "residual": small}
CFG = FitConfig(1, lr=0.1, momentum=0.9, weight_decay=0.01)


@pytest.fixture(params=SPACES)
def supernet(request) -> Supernet:
    model = trained(Supernet(SPACES[request.param](), affine=True, kernels="eager")).train()
    for module in model.modules():
        if isinstance(module, modules.SqueezeExcite):  # none of its units is off or saturated for all images
            torch.nn.init.constant_(module.reduce.bias, 3)
            module.expand.weight.data *= 0.1
    return model


def batch(space, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, space.channels, space.resolution, space.resolution, generator=generator)
    return x, torch.randint(space.classes, (6,), generator=generator)


def backward(supernet, arch, seed=0):
    x, y = batch(supernet.space, seed)
    F.cross_entropy(supernet(x, arch), y).backward()


def by_autograd(monkeypatch):
    """Parts as PyTorch slices and differentiates them."""
    for module in (elastic_sharing, residual, slices):
        monkeypatch.setattr(module, "active", lambda ps, sizes: list(map(active.part, ps, sizes)))


def gradients(supernet, archs):
    supernet.zero_grad()
    for seed, arch in enumerate(archs):
        backward(supernet, arch, seed)
    return {name: p.grad for name, p in supernet.named_parameters()}


def paths(space, n):
    return [ends(space)[0], *sample(space, n - 1)]


@pytest.mark.parametrize("n", [1, 3])
def test_gradients_are_those_of_slices(supernet, n, monkeypatch):
    archs = paths(supernet.space, n)
    ours = gradients(supernet, archs)
    with monkeypatch.context() as patch:
        by_autograd(patch)
        expected = gradients(supernet, archs)
    for name, grad in ours.items():
        assert (grad is None) == (expected[name] is None), name
        assert grad is None or torch.equal(grad, expected[name]), name


def stepped(model, optimizer, archs):
    """Weights and momentum by the names of the parameters after one step on some paths."""
    optimizer.zero_grad()
    gradients(model, archs)
    optimizer.step()
    momentum = (optimizer.state[p].get("momentum_buffer", torch.zeros_like(p)).clone() for p in model.parameters())
    return {name: (p.detach().clone(), m) for (name, p), m in zip(model.named_parameters(), momentum, strict=True)}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_nothing_outside_of_the_active_parts_moves(supernet, n):
    """Nor does its momentum, which steps of the largest network made; inside, the update is PyTorch's bit for bit."""
    twin = copy.deepcopy(supernet)
    optimizer = make(supernet, CFG)
    groups = [[p for p in twin.parameters() if (p.dim() > 1) == decays] for decays in (True, False)]
    decay, plain = {"params": groups[0], "weight_decay": CFG.weight_decay}, {"params": groups[1], "weight_decay": 0.0}
    other = torch.optim.SGD([decay, plain], CFG.lr, CFG.momentum)
    largest = ends(supernet.space)[1]
    before, whole = [
        [stepped(*pair, [largest]) for _ in range(2)][1] for pair in ((supernet, optimizer), (twin, other))
    ]
    require_equal(before, whole)

    archs, outside = paths(supernet.space, n), 0
    after, moved = stepped(supernet, optimizer, archs), stepped(twin, other, archs)
    for name, p in supernet.named_parameters():
        inside = torch.zeros_like(p, dtype=torch.bool) if p.grad is None else p.grad != 0
        outside += inside.numel() - int(inside.sum())
        moved[name] = [torch.where(inside, new, old) for new, old in zip(moved[name], before[name], strict=True)]
    require_equal(after, moved)
    assert outside > 1000


def require_equal(found, expected):
    for name, tensors in expected.items():
        assert all(map(torch.equal, found[name], tensors)), name


def test_the_state_of_pytorch_s_optimiser_is_taken_over():
    supernet = Supernet(small(), kernels="eager").train()
    twin, optimizer, largest = copy.deepcopy(supernet), make(supernet, CFG), [ends(supernet.space)[1]]
    plain = torch.optim.SGD(make(twin, CFG).param_groups, CFG.lr, CFG.momentum)
    stepped(twin, plain, largest)
    supernet.load_state_dict(twin.state_dict())
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    require_equal(stepped(supernet, optimizer, largest), stepped(twin, plain, largest))


@pytest.mark.parametrize("shape", [(7,), (6, 5), (6, 5, 7, 7)])
def test_boxes_cover_every_part_once(shape):
    """Against masks, on random parts of odd kernels."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 2, 3, 4, 5):
        parameter, expected = torch.nn.Parameter(torch.zeros(shape)), torch.zeros(shape)
        for _ in range(n):
            k = int(rng.choice([1, 3, 5, 7]))
            sizes = [*(int(rng.integers(1, size + 1)) for size in shape[:2]), k, k][: len(shape)]
            (view,) = active.active([parameter], [active.box(shape, sizes)])
            view.sum().backward()
            centre = [slice((7 - k) // 2, (7 + k) // 2)] * 2
            expected[tuple([*map(slice, sizes[:2]), *centre][: len(shape)])] = 1
        counts = torch.zeros(shape)
        for box in active.moved(parameter):
            active.part(counts, box).add_(1)
        assert torch.equal(counts, expected)
        active.forget([parameter])
        assert active.moved(parameter) == [tuple((0, size) for size in shape)]
