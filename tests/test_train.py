import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from supernet.data.images import MemoryImages
from supernet.errors import CheckpointError, UserError
from supernet.families import layerwise
from supernet.methods import spos
from supernet.model import Network, Supernet
from supernet.training import checkpoint
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig, fit, learning_rate, sgd
from tests.conftest import tiny_space


def images(n=120, seed=0):
    """Images whose class is the place of a bright square: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10)
    pixels = rng.integers(0, 60, (n, 14, 14, 1), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[(label // 5) * 7 : (label // 5) * 7 + 6, (label % 5) * 2 : (label % 5) * 2 + 4] += 150
    return MemoryImages(torch.from_numpy(pixels), labels, (0.2,), (0.2,), 1, False)


def options(tmp_path):
    return {"folder": tmp_path, "meta": {}}


def uniform(space, seed=0):
    return spos.uniform_path(space, seed)


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_schedules_follow_their_formulas():
    linear = FitConfig(epochs=4, lr=0.5)
    assert [learning_rate(linear, step, 5) for step in (0, 10, 19)] == pytest.approx([0.5, 0.25, 0.025])
    cosine = FitConfig(epochs=4, lr=0.5, schedule="cosine", warmup_epochs=1)
    assert [learning_rate(cosine, step, 5) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert learning_rate(cosine, 5 + 7, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 15)) / 2)


def test_only_weights_with_more_than_one_dimension_decay():
    network = Network(tiny_space(), (0, 1, 2), kernels="eager")
    optimizer = sgd(network, FitConfig(1, weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in network.named_parameters():
        assert decay[id(p)] == (0.1 if p.dim() > 1 else 0.0), name


def test_one_step_equals_sgd_written_out(tmp_path):
    """Against the textbook update, with momentum and decay, on the sampled path; nothing else moves."""
    space = tiny_space()
    train = images(32)
    cfg = FitConfig(epochs=2, batch_size=32, lr=0.1, momentum=0.9, weight_decay=0.01, label_smoothing=0.1)
    archs = [(0, 1, 2), (0, 3, 2)]
    model = Supernet(space, kernels="eager")
    expected = copy.deepcopy(model).train()
    velocity = {}
    for step, arch in enumerate(archs):
        x, y = next(iter(train.batches(32, seed=0, epoch=step, augment=True, drop_last=True)))
        on_path = {id(p) for module in expected.path(arch) for p in module.parameters()}
        parameters = [p for p in expected.parameters() if id(p) in on_path]
        log_p = torch.log_softmax(expected(x, arch), 1)
        target = torch.full_like(log_p, 0.1 / 10).scatter(1, y[:, None], 0.9 + 0.1 / 10)
        gradients = torch.autograd.grad(-(target * log_p).sum(1).mean(), parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                g = g + (0.01 * p if p.dim() > 1 else 0)
                velocity[id(p)] = 0.9 * velocity[id(p)] + g if id(p) in velocity else g
                p -= 0.1 * (1 - step / 2) * velocity[id(p)]
    fit(model, train, lambda step: archs[step], cfg, **options(tmp_path))
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kernels", ["eager", "fused"])
def test_training_learns(tmp_path, kernels):
    torch.manual_seed(0)
    network = Network(tiny_space(), (2, 2, 2), kernels=kernels)
    cfg = FitConfig(epochs=12, batch_size=20, lr=0.05)
    log = fit(network, images(200), lambda step: None, cfg, **options(tmp_path))
    assert [line["epoch"] for line in log] == list(range(1, 13))
    held_out = images(100, seed=1).batches(50, seed=0, epoch=0, augment=False, drop_last=False)
    assert evaluate(network, held_out) > 0.5  # chance is .1
    assert log[-1]["loss"] < log[0]["loss"]


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_at", [3, 6, 14])
def test_n_plus_n_steps_equal_2n_steps(tmp_path, kill_at):
    """Stopped within an epoch or between two: weights, momentum and log come out bit for bit the same."""
    space, train = tiny_space(), images(120)
    cfg = FitConfig(epochs=3, batch_size=20, lr=0.05, checkpoint_minutes=0)

    def run(folder, pick):
        torch.manual_seed(0)
        model = Supernet(space)
        fit(model, train, pick, cfg, folder, meta={})
        return model

    whole = run(tmp_path / "whole", uniform(space))

    def killed_once(step):
        if step == kill_at:
            raise Killed
        return uniform(space)(step)

    with pytest.raises(Killed):
        run(tmp_path / "parts", killed_once)
    resumed = run(tmp_path / "parts", uniform(space))
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    states = [checkpoint.load(tmp_path / part / "checkpoint.pt") for part in ("whole", "parts")]
    momenta = [[s["momentum_buffer"] for s in state["optimizer"]["state"].values()] for state in states]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))
    logs = []
    for part in ("whole", "parts"):
        lines = [json.loads(line) for line in (tmp_path / part / "metrics.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in line.items() if k != "images_per_second"} for line in lines])
    assert logs[0] == logs[1]


def test_same_seed_same_weights_other_seed_other(tmp_path):
    space, train = tiny_space(), images(60)

    def run(name, seed):
        torch.manual_seed(seed)
        model = Supernet(space)
        cfg = FitConfig(epochs=1, batch_size=20, seed=seed)
        fit(model, train, uniform(space, seed), cfg, tmp_path / name, meta={})
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    a, b, c = run("a", 0), run("b", 0), run("c", 1)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    network = Network(tiny_space(), (2, 2, 2), kernels="eager")
    train = images(60)
    fit(network, train, lambda step: None, FitConfig(epochs=1, batch_size=20), **options(tmp_path))
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        next(network.parameters()).fill_(math.inf)
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    state["model"]["head.classifier.weight"].fill_(math.inf)
    checkpoint.save(tmp_path / "checkpoint.pt", state)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError, match=r"loss became .*lower the learning rate"):
        fit(network, train, lambda step: None, FitConfig(epochs=2, batch_size=20), **options(tmp_path))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before != good


def test_gradient_clipping_bounds_the_update(tmp_path):
    network = Network(tiny_space(), (2, 2, 2), kernels="eager")
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    cfg = FitConfig(epochs=1, batch_size=60, lr=1.0, momentum=0.0, weight_decay=0.0, clip=1e-3)
    fit(network, images(60), lambda step: None, cfg, **options(tmp_path))
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert (after - before).norm() <= 1e-3 * 1.01


def test_a_set_smaller_than_a_batch_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"30.*batch"):
        fit(
            Network(tiny_space(), (0, 0, 0), kernels="eager"),
            images(30),
            lambda step: None,
            FitConfig(epochs=1, batch_size=64),
            **options(tmp_path),
        )


def test_evaluate_counts_hits():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(1))

        def forward(self, x, arch):
            return x

    x = torch.eye(4)
    batches = [(x, torch.tensor([0, 1, 0, 0])), (x[:1], torch.tensor([0]))]
    assert evaluate(Fixed(), batches) == 3 / 5
    with pytest.raises(UserError, match="empty"):
        evaluate(Fixed(), [])


# --- SPOS's samplers


def test_uniform_paths_are_a_function_of_seed_and_step():
    space = tiny_space()
    a, b = spos.uniform_path(space, 1), spos.uniform_path(space, 1)
    assert [a(i) for i in range(20)] == [b(i) for i in range(20)][::1]
    assert [a(i) for i in range(20)] != [spos.uniform_path(space, 2)(i) for i in range(20)]
    counts = np.unique([a(i) for i in range(600)], axis=0).shape[0]
    assert counts == space.size


def test_binned_paths_fill_every_bin_alike():
    from supernet import families

    space = layerwise.shufflenet(3, 224, 1000)
    pick = spos.flops_binned_path(space, 0, (290e6, 360e6, 10e6))
    n = 350
    bins = np.array([families.flops(space, pick(step)) // 10e6 for step in range(n)])
    counts = [(bins == b).sum() for b in range(29, 36)]
    assert sum(counts) > 0.98 * n
    assert min(counts) > 50 * 0.5
    assert max(counts) < 50 * 1.6


def test_impossible_bins_say_what_is_there():
    with pytest.raises(UserError, match=r"multiply-adds \(they have .* to .*\)"):
        spos.flops_binned_path(tiny_space(), 0, (1e12, 2e12, 1e11))
    with pytest.raises(UserError, match="0 < step"):
        spos.flops_binned_path(tiny_space(), 0, (2e6, 1e6, 1e5))


def test_training_tells_where_torch_was_imported_too_early(tmp_path):
    code = """
import sys, tempfile, pathlib
{first}
import torch
import supernet
from supernet.training.loop import FitConfig, fit
from tests.test_train import images, tiny_space
model = supernet.Supernet(tiny_space(), kernels="eager")
arch = tiny_space().enumerate()[0]
fit(model, images(16), lambda step: arch, FitConfig(1, batch_size=8), pathlib.Path(sys.argv[1]), meta={{}})
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for first, told in (("import supernet", False), ("", True)):
        arguments = [sys.executable, "-c", code.format(first=first), str(tmp_path / str(told))]
        result = subprocess.run(
            arguments, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=True
        )
        assert ("import supernet first" in result.stderr) == told


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    arch = tiny_space().enumerate()[0]
    options = {"folder": tmp_path, "meta": {}}
    fit(Supernet(tiny_space(), kernels="eager"), images(16), lambda step: arch, FitConfig(1, batch_size=8), **options)
    other = Supernet(tiny_space(layers=2), kernels="eager")
    with pytest.raises(CheckpointError, match="is of another training"):
        fit(other, images(16), lambda step: arch[:2], FitConfig(1, batch_size=8), **options)
