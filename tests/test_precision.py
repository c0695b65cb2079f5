"""Forward and backward in bfloat16 on the CPU, and the loss scale of float16, against float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_distributed import sets
from test_nss import middle, toy
from test_train import Killed, images
from torch import nn

from supernet.errors import UserError
from supernet.methods import dsnas, nss, spos
from supernet.model import Supernet
from supernet.training import loop
from supernet.training.loop import FitConfig, fit
from supernet.training.precision import Precision, in_words, resolve
from tests.conftest import refused, tiny_space

CPU = torch.device("cpu")


def fit_config(precision: str, **more) -> FitConfig:
    return FitConfig(2, batch_size=20, lr=0.05, precision=precision, checkpoint_minutes=0, **more)


def train(method: str, folder: Path, precision: str) -> dict:
    """Train a method; its checkpoint."""
    cfg, kernels = fit_config(precision), {"kernels": "eager"}
    if method == "spos":
        spos.run(tiny_space(), sets(images(80)), spos.Config(cfg, probes=1, **kernels), folder, CPU)
    elif method == "dsnas":
        budget = dsnas.Budget([[1.0] * 4] * 3)
        dsnas.run(tiny_space(), sets(images(80)), dsnas.Config(cfg, budget, 2, stop_gap=2, **kernels), folder, CPU)
    else:
        space, data = toy()
        nss.run(space, data, nss.Config(cfg, (middle(space),), (2, 2), **kernels), folder, CPU)
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def of_weights(state: dict) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state["model"].items() if value.is_floating_point()}


@pytest.mark.parametrize("method", ["spos", "dsnas", "nss"])
def test_bfloat16_trains_float32_weights_near_those_of_float32(method, tmp_path):
    whole, half = (of_weights(train(method, tmp_path / p, p)) for p in ("fp32", "bf16"))
    assert {value.dtype for value in half.values()} == {torch.float32}
    moved = False
    for name, value in half.items():
        if value.dim() > 1:  # 8 bits of mantissa, over the steps of two epochs
            assert (value - whole[name]).norm() < 0.1 * whole[name].norm(), name
            moved |= not torch.equal(value, whole[name])
    assert moved


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_batch_statistics_in_bfloat16_are_those_of_the_images_in_float32(kernels, tmp_path):
    """One step at learning rate 0: running statistics of the stem against the definition."""
    space = tiny_space()
    model = Supernet(space, kernels=kernels)
    conv, bn = model.stem.conv, model.stem.bn
    train_set = images(20)
    cfg = FitConfig(1, batch_size=20, lr=1e-12, weight_decay=0.0, precision="bf16", augment=False)
    weight = conv.weight.detach().clone()
    fit(model, train_set, lambda step: (0, 0, 0), cfg, tmp_path, meta={})
    x, _ = next(iter(train_set.batches(20, seed=0, epoch=0, augment=False, drop_last=True)))
    y = nn.functional.conv2d(x, weight, None, conv.stride, conv.padding)
    expected = 0.9 + 0.1 * y.var((0, 2, 3))
    assert bn.running_var.dtype == torch.float32
    torch.testing.assert_close(bn.running_var, expected, rtol=5e-3, atol=1e-4)


def test_a_training_in_bfloat16_goes_on_bit_for_bit(tmp_path, monkeypatch):
    train("dsnas", tmp_path / "whole", "bf16")
    steps, one_step = 0, loop.Training.one_step

    def killed(self, *args):
        nonlocal steps
        steps += 1
        if steps == 6:
            raise Killed
        one_step(self, *args)

    monkeypatch.setattr(loop.Training, "one_step", killed)
    with pytest.raises(Killed):
        train("dsnas", tmp_path / "parts", "bf16")
    train("dsnas", tmp_path / "parts", "bf16")
    whole, parts = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts"))
    for name, value in whole["model"].items():
        assert torch.equal(value, parts["model"][name]), name


def test_the_scale_of_float16_changes_no_step_and_an_overflow_makes_none():
    plain, scaled = nn.Linear(3, 2), nn.Linear(3, 2)
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3)
    plain_sgd, scaled_sgd = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (plain, scaled))
    precision = Precision("fp16", CPU)
    plain(x).square().mean().backward()
    plain_sgd.step()
    precision.backward(scaled(x).square().mean())
    assert precision.scale > 1
    torch.testing.assert_close(scaled.weight.grad / precision.scale, plain.weight.grad)
    precision.step(scaled_sgd)
    torch.testing.assert_close(scaled.weight, plain.weight)

    before, scale = scaled.weight.clone(), precision.scale
    scaled_sgd.zero_grad()
    precision.backward(scaled(x).mean() * float("inf"))
    precision.step(scaled_sgd)
    assert torch.equal(scaled.weight, before)
    assert precision.scale < scale
    again = Precision("fp16", CPU)
    again.load_state_dict(precision.state_dict())
    assert again.scale == precision.scale


def test_the_credit_of_dsnas_does_not_depend_on_the_scale():
    space = tiny_space()
    parent = dsnas.Parent(space, [torch.ones(()) for _ in space.genes], kernels="eager")
    cfg = dsnas.Config(fit_config("fp32"), dsnas.Budget([[1.0] * 4] * 3), 2)
    search = dsnas.Distribution(parent, cfg, 4)
    for one, grad in zip(parent.ones, (1.0, -2.0, 3.0), strict=True):
        one.grad = torch.tensor(512.0 * grad)
    assert [float(c) for c in search.collect(512.0).values()] == [1.0, -2.0, 3.0]


def test_auto_is_bfloat16_where_a_gpu_has_it(monkeypatch):
    cuda = torch.device("cuda", 0)
    assert resolve("auto", CPU) == "fp32"
    for there, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, there=there: there)
        assert resolve("auto", cuda) == expected
        assert resolve("auto", cuda, exact=True) == "fp32"
    assert resolve("fp16", cuda) == "fp16"
    assert "needs a GPU" in refused(resolve, "fp16", CPU)
    with pytest.raises(UserError, match="expected auto"):
        resolve("int8", CPU)


def test_what_tf32_does_is_told(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert in_words("fp32", torch.device("cuda", 0)) == "fp32 (TF32 in convolutions)"
    assert in_words("bf16", torch.device("cuda", 0)) == "bf16"
    assert in_words("fp32", CPU) == "fp32"
