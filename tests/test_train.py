import copy
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from supernet.data.images import MemoryImages
from supernet.data.sets import TrainVal
from supernet.errors import CheckpointError, UserError
from supernet.methods import spos
from supernet.model import Network, Supernet
from supernet.training import checkpoint, faults, optimizers, paths, standalone
from supernet.training.config import learning_rate
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig, fit
from tests.conftest import refused, tiny_space


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
    return paths.uniform_path(space, seed)


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_schedules_follow_their_formulas():
    linear = FitConfig(epochs=4, lr=0.5)
    assert [learning_rate(linear, step, 5) for step in (0, 10, 19)] == pytest.approx([0.5, 0.25, 0.025])
    cosine = FitConfig(epochs=4, lr=0.5, schedule="cosine", warmup_epochs=1)
    assert [learning_rate(cosine, step, 5) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert learning_rate(cosine, 5 + 7, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 15)) / 2)
    step = FitConfig(epochs=26, lr=0.1, schedule="step", milestones=(12 / 26, 20 / 26, 24 / 26))
    rates = [learning_rate(step, 7 * epoch, 7) for epoch in (0, 11, 12, 19, 20, 23, 24, 25)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_only_weights_with_more_than_one_dimension_decay():
    network = Network(tiny_space(), (0, 1, 2), kernels="eager")
    optimizer = optimizers.make(network, FitConfig(1, weight_decay=0.1))
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


def test_clipping_by_value_bounds_each_component_of_the_update(tmp_path):
    network = Network(tiny_space(), (2, 2, 2), kernels="eager")
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    cfg = FitConfig(epochs=1, batch_size=60, lr=1.0, momentum=0.0, weight_decay=0.0, clip_value=1e-3)
    fit(network, images(60), lambda step: None, cfg, **options(tmp_path))
    moved = (torch.cat([p.detach().flatten() for p in network.parameters()]) - before).abs()
    assert moved.max() <= 1e-3 * 1.01
    assert moved.norm() > 1e-3 * 1.01  # not the norm


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
        space = SimpleNamespace(classes=4)

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


def test_a_smaller_batch_makes_validation_smaller(tmp_path):
    """Who lowers the batch because memory is full is not refused again by the validation after the epoch."""
    sizes = set()

    def seen(module, args):
        if not module.training:
            sizes.add(len(args[0]))

    hook = nn.modules.module.register_module_forward_pre_hook(seen)
    try:
        data = TrainVal(images(40), images(64, seed=1), 10, 1, 14, ())
        cfg = FitConfig(epochs=1, batch_size=8, accumulate=2)
        standalone.train(tiny_space(), (2, 2, 2), data, cfg, tmp_path, torch.device("cpu"), kernels="eager")
    finally:
        hook.remove()
    assert sizes == {32}


# --- SPOS's samplers


def test_uniform_paths_are_a_function_of_seed_and_step():
    space = tiny_space()
    a, b = paths.uniform_path(space, 1), paths.uniform_path(space, 1)
    assert [a(i) for i in range(20)] == [b(i) for i in range(20)][::1]
    assert [a(i) for i in range(20)] != [paths.uniform_path(space, 2)(i) for i in range(20)]
    counts = np.unique([a(i) for i in range(600)], axis=0).shape[0]
    assert counts == space.size


@pytest.mark.chain
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


# --- what goes wrong while a network is trained


def network(seed=0):
    torch.manual_seed(seed)
    return Network(tiny_space(), (2, 2, 2), kernels="eager")


def trained(folder, epochs=3, validate=dict, train=None, **settings):
    model = network()
    log = fit(
        model,
        train or images(60),
        lambda step: None,
        FitConfig(epochs, batch_size=20, lr=0.05, **settings),
        folder,
        meta={},
        validate=validate,
    )
    return log, (folder / "checkpoint.pt").read_bytes()


def test_a_fault_in_validation_costs_no_weights(tmp_path):
    def broken():
        raise UserError("no images to validate on")

    with pytest.raises(UserError, match="no images"):
        trained(tmp_path / "a", validate=broken)
    assert checkpoint.load(tmp_path / "a" / "checkpoint.pt")["step"] == 3
    accuracies = iter([0.5, 0.6, 0.7])
    log, after = trained(tmp_path / "a", validate=lambda: {"val_accuracy": next(accuracies)})
    assert [line["val_accuracy"] for line in log] == [0.5, 0.6, 0.7]
    whole = iter([0.5, 0.6, 0.7])
    assert after == trained(tmp_path / "b", validate=lambda: {"val_accuracy": next(whole)})[1]


def test_validation_leaves_no_trace_in_the_weights(tmp_path):
    plain = trained(tmp_path / "a")[1]
    model = network()

    def recalibrating():
        for buffer in model.buffers():
            buffer.add_(1)
        return {}

    cfg = FitConfig(3, batch_size=20, lr=0.05)
    fit(model, images(60), lambda step: None, cfg, tmp_path / "b", meta={}, validate=recalibrating)
    assert (tmp_path / "b" / "checkpoint.pt").read_bytes() == plain


def test_a_lost_log_comes_back_from_the_checkpoint(tmp_path):
    def clock_free(lines):
        return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]

    log, _ = trained(tmp_path, validate=lambda: {"val_accuracy": 0.5})
    path = tmp_path / "metrics.jsonl"
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    assert clock_free(whole) == clock_free(log)
    for left in (0, 1, 2):
        path.write_text("".join(json.dumps(line) + "\n" for line in whole[:left]) + '{"epoch": 9, "cut')
        again, _ = trained(tmp_path, validate=lambda: {"val_accuracy": 0.5})
        assert clock_free(again) == clock_free(whole)
        assert clock_free(json.loads(line) for line in path.read_text().splitlines()) == clock_free(whole)


def test_a_damaged_checkpoint_costs_an_epoch(tmp_path, caplog):
    whole = trained(tmp_path / "a")[1]
    trained(tmp_path / "b")
    path = tmp_path / "b" / "checkpoint.pt"
    path.write_bytes(whole[: len(whole) // 2])
    assert trained(tmp_path / "b")[1] == whole
    assert "the one before is used" in caplog.text


@pytest.mark.parametrize("other", [{"seed": 1}, {"clip": 1.0}, {"train": images(80)}, {"epochs": 2}])
def test_weights_of_other_settings_are_refused(tmp_path, other):
    before = trained(tmp_path)[1]
    with pytest.raises(CheckpointError, match="was trained with other settings"):
        trained(tmp_path, **other)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_more_epochs_go_on_at_the_rate_of_the_longer_schedule(tmp_path):
    trained(tmp_path, epochs=2)
    log, _ = trained(tmp_path, epochs=4)
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    cfg = FitConfig(4, lr=0.05)
    assert [line["lr"] for line in log[2:]] == [learning_rate(cfg, step, 3) for step in (8, 11)]


def test_a_loss_that_is_not_finite_is_kept_with_its_step_and_path(tmp_path):
    space, count = tiny_space(), [0]
    model, archs = Supernet(space, kernels="eager"), space.enumerate()

    def pick(step):
        count[0] = step
        if step == 4:
            with torch.no_grad():
                model.head.classifier.weight.fill_(math.nan)
        return archs[step]

    with pytest.raises(UserError, match=rf"nan in step 4 on the path {','.join(map(str, archs[4]))} .*failure"):
        fit(model, images(200), pick, FitConfig(1, batch_size=20, lr=0.01), tmp_path, meta={})
    assert count[0] > 4  # it was looked for later
    kept = json.loads((tmp_path / "failure.json").read_text())
    assert (kept["step"], tuple(kept["arch"]), kept["loss"]) == (4, archs[4], "nan")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            r"out of memory in step 2.*20 images of 1×14×14.*lower the batch",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory in step 2"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), None),
    ],
)
def test_out_of_memory_is_one_line(tmp_path, error, told):
    def forward(step, x, y):
        if step == 2:
            raise error
        return model(x)

    model, cfg = network(), FitConfig(1, batch_size=20)
    with pytest.raises(UserError if told else RuntimeError, match=told):
        fit(model, images(60), lambda step: None, cfg, tmp_path, meta={}, forward=forward)


def test_a_dead_loader_is_one_line():
    def batches():
        yield 1
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    with pytest.raises(UserError, match="process that decodes images has died"):
        list(faults.loaded(batches()))


def test_a_loss_that_does_not_move_is_told_as_a_collapse(tmp_path, caplog):
    model, cfg = network(), FitConfig(4, batch_size=20, lr=1e-9, weight_decay=0.0)
    with torch.no_grad():
        model.head.classifier.weight.zero_()
    fit(model, images(60), lambda step: None, cfg, tmp_path, meta={})
    assert [message.count("collapsed") for message in caplog.messages] == [1]
    caplog.clear()
    fit(network(), images(200), lambda step: None, FitConfig(8, batch_size=20, lr=0.1), tmp_path / "b", meta={})
    assert not caplog.messages


def test_sigterm_saves_the_step_and_ends_the_process(tmp_path):
    whole = trained(tmp_path / "whole")[1]
    model, before = network(), signal.getsignal(signal.SIGTERM)

    def forward(step, x, y):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return model(x)

    def ended(*_):
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, ended)
    try:
        cfg = FitConfig(3, batch_size=20, lr=0.05)
        with pytest.raises(SystemExit) as caught:
            fit(model, images(60), lambda step: None, cfg, tmp_path / "parts", meta={}, forward=forward)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143
    assert checkpoint.load(tmp_path / "parts" / "checkpoint.pt")["step"] == 5  # the step was finished
    assert trained(tmp_path / "parts")[1] == whole


def test_settings_that_cannot_be_are_refused():
    for name, value in (("lr", math.nan), ("lr", -1.0), ("batch_size", 0), ("seed", -1), ("clip", math.nan)):
        assert "expected" in refused(FitConfig, 1, **{name: value})


def test_recalibration_has_no_batch_of_one_image():
    train = images(129)
    data = SimpleNamespace(train=train)
    assert [len(x) for x in spos.recalibration_images(data, 8, 128)] == [128]
    assert [len(x) for x in spos.recalibration_images(data, 8, 43)] == [43, 43, 43]
