"""NSS: masks, mixtures and costs against their definitions, a killed search against a whole one, the real command."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import TRAIN, ok, refused
from test_residual import small
from test_train import Killed, images
from torch import nn
from torch.nn import functional as F

from supernet import families, spaces
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.families import residual
from supernet.methods import nss
from supernet.model import Supernet
from supernet.runs import RunFolder
from supernet.space import Space
from supernet.spec import LayerSpec
from supernet.training import checkpoint
from supernet.training.loop import FitConfig

CPU = torch.device("cpu")


def multiply_adds(spec: LayerSpec) -> int:
    return spec.flops


def supernet(space: Space, kernels: str = "fused") -> Supernet:
    """With BN parameters that matter: a bias would show in a channel that is off."""
    model = Supernet(space, affine=True, kernels=kernels)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return model


def thetas(ranges: nss.Ranges, dtype=torch.float32, scale: float = 1.0) -> list[torch.Tensor]:
    return [(scale * torch.randn(len(options), dtype=dtype)).requires_grad_() for options in ranges]


def mixture(model: Supernet, x: torch.Tensor, sample: nss.Sample) -> torch.Tensor:
    """The definition, in plain functions: every width and depth a network of its own, padded, weighted and added."""

    def bn(layer, y, w):
        return F.batch_norm(y, None, None, layer.bn.weight[:w], layer.bn.bias[:w], True)

    def conv(layer, x, w):
        weight = layer.conv.weight[:w, : x.shape[1]]
        return bn(layer, F.conv2d(x, weight, stride=layer.conv.stride, padding=layer.conv.padding), w)

    def mixed(weights, outputs, channels):
        return sum(p * F.pad(y, (0, 0, 0, 0, 0, channels - y.shape[1])) for p, y in zip(weights, outputs, strict=True))

    x = conv(model.stem, x, 16).relu()
    for i, stage in enumerate(model.layers):
        (p, g), (depths, widths) = sample.weights[2 * i : 2 * i + 2], sample.sizes[2 * i : 2 * i + 2]
        channels, outputs = max(widths), []
        for d, block in enumerate(stage[: max(depths)], 1):
            h = mixed(g, [conv(block.first, x, w).relu() for w in widths], channels)
            shortcuts = [x[:, :w] if d > 1 else conv(block.shortcut, x, w) for w in widths]
            branches = [conv(block.second, h, w) for w in widths]
            x = mixed(g, [(b + s).relu() for b, s in zip(branches, shortcuts, strict=True)], channels)
            if d in depths:
                outputs.append(x)
        x = mixed(p, outputs, channels)
    x = x.mean((2, 3))
    return x @ model.head.classifier.weight[:, : x.shape[1]].T + model.head.classifier.bias


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_soft_masks_equal_the_mixture_of_separate_networks(kernels):
    space = small(depth=4)
    ranges = nss.split(space, (2, 2))
    model = supernet(space, kernels).train()
    x = torch.randn(6, 2, 9, 9)
    for seed in range(4):
        sample = nss.draw(space, ranges, thetas(ranges), 1.0, (seed,))
        torch.testing.assert_close(nss.forward(model, x, sample), mixture(model, x, sample), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_one_hot_masks_equal_slicing(training):
    space = small(depth=4)
    ranges = nss.split(space, (2, 2))
    model, x = supernet(space).train(training), torch.randn(6, 2, 9, 9)
    for chosen in itertools.islice(itertools.product(*(range(len(options)) for options in ranges)), 0, 64, 7):
        sample = nss.draw(space, ranges, thetas(ranges), 1.0, chosen)
        hot = [F.one_hot(torch.tensor(b), len(options)).float() for b, options in zip(chosen, ranges, strict=True)]
        counts = [sizes[b] for sizes, b in zip(sample.sizes, chosen, strict=True)]
        arch = tuple(
            [c.count for c in gene.choices].index(count) for gene, count in zip(space.genes, counts, strict=True)
        )
        assert all(i in options[b] for i, options, b in zip(arch, ranges, chosen, strict=True))
        with torch.no_grad():
            soft = nss.forward(model, x, nss.Sample(tuple(hot), sample.sizes))
            torch.testing.assert_close(soft, model(x, arch), rtol=1e-4, atol=1e-5)


def test_gradient_of_theta():
    """Through masks, mixtures and the cost: what Adam gets is the derivative of the loss."""
    space = small(depth=4, resolution=5)
    ranges = nss.split(space, (2, 2))
    model, cost = supernet(space).double().train(), nss.SpaceCost.of(space, ranges, multiply_adds)
    cfg = nss.Config(FitConfig(1), (3e4,))
    search = nss.Search(model, ranges, cost, cfg, None, 1, 3e4)
    search.weight = 2.0
    x, y = torch.randn(4, 2, 5, 5, dtype=torch.double), torch.arange(4)
    model.requires_grad_(False)

    def loss(*theta):
        sample = nss.draw(space, ranges, theta, 2.0, (3,))
        return search.loss(sample, x, y)

    theta = thetas(ranges, torch.double)
    assert torch.autograd.gradcheck(loss, theta, eps=1e-6, atol=1e-5)
    loss(*theta).backward()
    assert all(t.grad.abs().max() > 1e-6 for t in theta)


@pytest.mark.parametrize("pruned", [False, True])
def test_expected_cost_equals_enumeration(pruned):
    """Over every network space, its probability and the mean over its architectures."""
    space = small(depth=4)
    if pruned:
        space = space.restrict([{0, 1, 3}, {1, 2, 3}, {0, 2}, {0, 1, 2, 3}, {0, 1, 2, 3}, {2, 3}])
    ranges = nss.split(space, (2, 2))
    cost = nss.SpaceCost.of(space, ranges, multiply_adds)
    weights = [F.softmax(t.detach().double(), 0) for t in thetas(ranges)]
    total, costs = 0.0, {}
    for chosen in itertools.product(*(range(len(options)) for options in ranges)):
        own = space.restrict([options[b] for options, b in zip(ranges, chosen, strict=True)])
        costs[chosen] = np.mean([families.flops(own, arch) for arch in own.enumerate()])
        total += costs[chosen] * np.prod([float(w[b]) for w, b in zip(weights, chosen, strict=True)])
    assert float(nss.expected(torch.from_numpy(cost.all()), weights)) == pytest.approx(total, rel=1e-12)
    assert dict(np.ndenumerate(cost.all())) == pytest.approx(costs, rel=1e-12)


def test_the_elite_space_is_the_most_probable_one_that_meets_the_target():
    space = small(depth=4)
    ranges = nss.split(space, (2, 2))
    cost = nss.SpaceCost.of(space, ranges, multiply_adds)
    theta = thetas(ranges)
    log_p = [F.log_softmax(t.detach(), 0) for t in theta]
    argmax = [int(t.argmax()) for t in theta]
    costs = cost.all()
    for target in np.quantile(costs, [0.0, 0.3, 0.7, 1.0]):
        meets = [i for i in np.ndindex(costs.shape) if abs(costs[i] / target - 1) <= 0.1]
        expected = max(meets, key=lambda i: sum(float(p[b]) for p, b in zip(log_p, i, strict=True)))
        assert nss.elite(ranges, theta, cost, target, 0.1) == list(expected)
    assert nss.elite(ranges, theta, cost, float(costs[tuple(argmax)]), 0.1) == argmax


def test_a_space_misses_the_target_by_its_mean_cost():
    space = small(depth=4)
    ranges = nss.split(space, (2, 2))
    cost = nss.SpaceCost.of(space, ranges, multiply_adds)
    target = middle(space)
    violation = cost.violation(target, 0.1)
    seen = set()
    for chosen in itertools.islice(np.ndindex(violation.shape), 0, None, 5):
        own = space.restrict([options[b] for options, b in zip(ranges, chosen, strict=True)])
        off = abs(np.mean([families.flops(own, arch) for arch in own.enumerate()]) / target - 1)
        kind = "met" if off <= 0.1 else "missed" if off < 1 else "far"
        seen.add(kind)
        assert violation[chosen] == pytest.approx({"met": 0, "missed": (1 + off) / 2, "far": 1}[kind], rel=1e-6)
    assert seen == {"met", "missed", "far"}


def test_the_multiplier_rises_by_what_the_most_probable_space_misses():
    """Θ that does not move: the most probable space stays the smallest one, each gene's first range."""
    space, data = toy()
    ranges = nss.split(space, (2, 2))
    smallest = space.restrict([options[0] for options in ranges])
    target = 1.5 * np.mean([families.flops(space, arch) for arch in smallest.enumerate()])
    cost = nss.SpaceCost.of(space, ranges, multiply_adds)
    cfg = dataclasses.replace(config((target,)), theta_lr=0.0, dual=6.0)
    search = nss.Search(supernet(space), ranges, cost, cfg, nss.halves(data.train, 0)[1], 3, target)
    for step in range(6, 12):  # the last two of four epochs of three steps each
        search.before_step(step)
        assert search.weight == pytest.approx(1 + (step - 5) * (1 + (1 - 1 / 1.5)) / 2, rel=1e-5)


@pytest.mark.parametrize("quantile", [0.1, 0.4, 0.6, 0.9])
def test_the_most_probable_space_comes_to_meet_the_target(quantile):
    """By its cost by listing, though each gene prefers a range of its own, drawn at random, by an artificial loss."""
    space, data = toy()
    ranges = nss.split(space, (1, 1))
    cost = nss.SpaceCost.of(space, ranges, multiply_adds)
    target = float(np.quantile(cost.all(), quantile))
    cfg = dataclasses.replace(config((target,), epochs=80), ranges=(1, 1))
    search = nss.Search(supernet(space), ranges, cost, cfg, nss.halves(data.train, 0)[1], 3, target)
    wishes = [0.2 * logits.detach() for logits in thetas(ranges)]

    def loss(sample, x, y):
        wished = sum(wish @ weight for wish, weight in zip(wishes, sample.weights, strict=True))
        return wished + search.weight * nss.expected(search.violation, sample.weights)

    search.loss = loss
    for step in range(120, 240):
        search.before_step(step)
    (arch,) = space.restrict([options[b] for options, b in zip(ranges, search.argmax(), strict=True)]).enumerate()
    assert abs(families.flops(space, arch) / target - 1) <= 0.1


def test_theta_gets_as_far_in_any_search():
    theta = [torch.zeros(3, requires_grad=True)]

    def rate(steps: int, **more) -> float:
        return nss.theta_adam(theta, dataclasses.replace(config(), **more), steps).param_groups[0]["lr"]

    paper = 35 * (45_000 // 2 // 64)  # epochs after the warm-up, halves of CIFAR-10 less a tenth, batches
    assert rate(paper) == rate(10 * paper) == 3e-4
    assert rate(paper // 35) == pytest.approx(35 * 3e-4)
    assert rate(10, theta_lr=0.5) == 0.5


def test_masks_wear_identity_paths_down_by_the_depth():
    """Where the convolutions give nothing, a block's output is its input times the mask: after d blocks mask^d."""
    space = small(depth=4)
    model = supernet(space).eval()
    blocks = [block for block in model.layers[1].children() if isinstance(block, residual.Residual)]
    for block in blocks[1:]:
        nn.init.zeros_(block.second.bn.weight)
        nn.init.zeros_(block.second.bn.bias)
    mask = torch.linspace(1, 0, 8)
    with torch.no_grad():
        first = blocks[0].narrow(torch.rand(2, 4, 9, 9), 8, mask)
        x = first
        for block in blocks[1:]:
            x = block.narrow(x, 8, mask)
    assert first.abs().max() > 0
    torch.testing.assert_close(x, first * mask.view(-1, 1, 1) ** 3)


def test_samples_are_uniform_within_a_range_and_functions_of_their_key():
    space = small(width=16, step=1)
    ranges = nss.split(space, (3, 4))
    theta = thetas(ranges)
    a, b, c = (nss.draw(space, ranges, theta, 1.0, key) for key in ((0, 1), (0, 1), (0, 2)))
    assert a.sizes == b.sizes
    assert all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a.weights, c.weights, strict=True))
    n = 800
    seen = np.array([nss.draw(space, ranges, theta, 1.0, (5, i)).sizes[1] for i in range(n)])
    for column, start in zip(seen.T, (1, 5, 9, 13), strict=True):
        counts = np.bincount(column, minlength=start + 4)[start:]
        assert counts.sum() == n
        assert ((counts - n / 4) ** 2 / (n / 4)).sum() < 21.1  # χ², 3 degrees of freedom: p = 1e-4


def test_warm_up_enables_everything_first_and_nothing_last():
    space = small(depth=4)
    ranges = nss.split(space, (2, 2))
    sample = nss.draw(space, ranges, thetas(ranges), 1.0, (0,))
    assert nss.enable(sample, space, 1.0, (0,)).sizes == ((4,), (8,)) * 3
    assert nss.enable(sample, space, 0.0, (0,)) == sample
    full = [len(sizes) == 1 for i in range(400) for sizes in nss.enable(sample, space, 0.25, (i,)).sizes]
    assert np.mean(full) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / len(full)) ** 0.5)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_warm_up_of_channels_and_blocks_can_be_left_out(enabled):
    space, data = toy()
    ranges = nss.split(space, (2, 2))
    cost = nss.SpaceCost.of(space, ranges, multiply_adds)
    cfg = dataclasses.replace(config(), enable_all=enabled)
    search = nss.Search(supernet(space), ranges, cost, cfg, data.train, 3, None)
    whole = [len(sizes) == 1 for sizes in search.sample(0).sizes]  # the first step enables everything
    assert whole == [enabled] * 6


# --- the whole search


def config(targets=(60e3,), epochs=4, **fit) -> nss.Config:
    fit = FitConfig(epochs, batch_size=20, lr=0.05, schedule="cosine", clip=5.0, checkpoint_minutes=0, **fit)
    return nss.Config(fit, tuple(targets), ranges=(2, 2), warmup=0.5)


def toy() -> tuple[Space, TrainVal]:
    train = images(120)
    space = small(depth=4, channels=1, resolution=14, classes=10)
    return space, TrainVal(train, train, 10, 1, 14, tuple("0123456789"))


def middle(space: Space) -> float:
    return float(np.median(nss.SpaceCost.of(space, nss.split(space, (2, 2)), multiply_adds).all()))


def test_the_two_halves_share_no_image():
    train = images(120).take(np.arange(10, 101))
    weights, theta = nss.halves(train, 0)
    assert sorted([*weights.index, *theta.index]) == sorted(train.index)
    assert len(theta) == 45


@pytest.mark.parametrize("kill_at", [4, 10])  # forward passes: in the warm-up, and in the search
def test_n_plus_n_steps_equal_2n_steps(tmp_path, monkeypatch, kill_at):
    """Weights, momentum, Θ, Adam's state, log and elite space of a killed run: bit for bit the same."""
    space, data = toy()
    cfg = config((middle(space),))
    whole = nss.run(space, data, cfg, tmp_path / "whole", CPU)
    real, calls = nss.forward, itertools.count()

    def killed_once(*args):
        if next(calls) == kill_at:
            raise Killed
        return real(*args)

    monkeypatch.setattr(nss, "forward", killed_once)
    with pytest.raises(Killed):
        nss.run(space, data, cfg, tmp_path / "parts", CPU)
    assert nss.run(space, data, cfg, tmp_path / "parts", CPU) == whole
    own = RunFolder(Path()).elite(middle(space)).path
    a, b = (checkpoint.load(tmp_path / part / own / "checkpoint.pt") for part in ("whole", "parts"))
    assert a["step"] == b["step"] == 12
    a, b = ({**state, **state["search"]} for state in (a, b))
    for name in ("model", "theta"):
        assert all(torch.equal(x, y) for x, y in zip(a[name].values(), b[name].values(), strict=True)), name
    for name, parts in (("optimizer", ["momentum_buffer"]), ("adam", ["exp_avg", "exp_avg_sq", "step"])):
        for x, y in zip(a[name]["state"].values(), b[name]["state"].values(), strict=True):
            assert all(torch.equal(x[part], y[part]) for part in parts), name
    for file in ("space.json", "probabilities.json"):
        assert (tmp_path / "whole" / own / file).read_bytes() == (tmp_path / "parts" / own / file).read_bytes()
    for folder in (own, Path()):
        whole_log, log = (RunFolder(tmp_path / part / folder).metrics.read() for part in ("whole", "parts"))
        assert len(log) > 0
        for x, y in zip(whole_log, log, strict=True):
            assert {**x, "images_per_second": 0} == {**y, "images_per_second": 0}


def test_theta_rests_in_the_warm_up_and_the_cost_term_moves_it(tmp_path):
    space, data = toy()
    low, high = np.quantile(nss.SpaceCost.of(space, nss.split(space, (2, 2)), multiply_adds).all(), [0.0, 1.0])
    cfg = config((float(low), float(high)), epochs=8)
    small_one, large_one = nss.run(space, data, cfg, tmp_path, CPU)
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert all((logits == 0).all() for logits in state["search"]["theta"].values())
    probabilities = [
        json.loads((RunFolder(tmp_path).elite(target).path / "probabilities.json").read_text())["genes"]
        for target in (low, high)
    ]
    for a, b in zip(*probabilities, strict=True):
        assert a["probabilities"][0] > b["probabilities"][0], a["gene"]
    assert families.flops(small_one, small_one.enumerate()[-1]) < families.flops(large_one, large_one.enumerate()[0])
    for found in (small_one, large_one):
        assert found.fingerprint == space.fingerprint
        assert all(len(open_) == 2 for open_ in found.allowed)


def test_a_price_of_one_s_own_is_the_cost(tmp_path):
    """Any price of a layer, as of a latency table: here layers count 1, so only depths matter."""
    space, data = toy()
    cost = nss.SpaceCost.of(space, nss.split(space, (2, 2)), lambda spec: 1.0)
    assert (cost.all().min(), cost.all().max()) == (2 + 3 * 1.5, 2 + 3 * 3.5)
    found = nss.run(space, data, config((12.5,), epochs=2), tmp_path, CPU, price=lambda spec: 1.0)[0]
    assert [found.allowed[gene] for gene in (0, 2, 4)] == [(2, 3)] * 3


def test_what_cannot_be_is_refused_with_what_can(tmp_path):
    space, data = toy()
    for targets, message in (((1e3,), r"cost .* to .*, the nearest"), ((), "expected one or more"), ((-1,), "above 0")):
        with pytest.raises(UserError, match=message):
            nss.run(space, data, config(targets), tmp_path, CPU)
    with pytest.raises(UserError, match="at least 1"):
        nss.split(space, (0, 2))
    with pytest.raises(UserError, match="larger"):
        nss.split(small(depth=32, width=64, step=1), (1, 1))
    for wrong, message in (
        ({"warmup": 1.0}, "below 1"),
        ({"warmup": -0.1}, "below 1"),
        ({"theta_lr": -1.0}, "at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(config(), **wrong)
    assert not list(tmp_path.iterdir())


# --- the real command


def digits_space(folder: Path) -> tuple[Path, float]:
    """A tiny space of stages for the bundled digits, and a cost in its middle."""
    space = small(depth=4, channels=1, resolution=28, classes=10)
    path = folder / "residual.json"
    path.write_text(json.dumps(space.to_json()))
    return path, float(f"{middle(space):.3g}")


@pytest.mark.chain
def test_search_then_supernet_table_and_evolution_on_the_elite_space(tmp_path):
    space, target = digits_space(tmp_path)
    run = tmp_path / "nss"
    command = ("--method", "nss", "--run", run, "--space", space, "--width-range", 2, *TRAIN, "--epochs", 3)
    printed = ok("train_supernet", *command, "--targets", f"{target:g},{2 * target:g}")
    folders = [RunFolder(run).elite(t).path for t in (target, 2 * target)]
    for folder, t in zip(folders, (target, 2 * target), strict=True):
        assert (folder / "probabilities.png").read_bytes().startswith(b"\x89PNG")
        found, report = Space.load(folder / "space.json"), json.loads((folder / "probabilities.json").read_text())
        mean = np.mean([families.flops(found, arch) for arch in found.enumerate()])
        assert report["cost"] == pytest.approx(mean, rel=1e-9)
        assert abs(mean / t - 1) <= 0.1
        for gene in report["genes"]:
            assert sum(gene["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert f"--space {folders[0] / 'space.json'}" in printed

    elite = tmp_path / "elite"
    ok("train_supernet", "--run", elite, "--space", folders[0] / "space.json", *TRAIN, "--epochs", 1)
    ok("build_lut", "--run", elite, "--runtime", "torch", "--rounds", 10, "--check-archs", 2)
    ok("evolve", "--run", elite, "--population", 4, "--iterations", 2, "--random", 2, "--val-limit", 60)
    found = Space.load(folders[0] / "space.json")
    assert all(tuple(entry["arch"]) in found for entry in json.loads((elite / "front.json").read_text())["front"])


def test_impossible_targets_are_refused_before_anything_is_written(tmp_path):
    space, target = digits_space(tmp_path)
    command = ("--method", "nss", "--run", tmp_path / "run", "--space", space, "--data", "digits")
    assert "the nearest" in refused("train_supernet", *command, "--targets", f"{target:g},1e12")
    assert "expected numbers" in refused("train_supernet", *command, "--targets", "many")
    assert "gene per layer" in refused("train_supernet", *command, "--space", "mobile-small")
    assert not (tmp_path / "run").exists()


def test_defaults_follow_from_the_space():
    space = spaces.get("residual-small", 1, 28, 10)
    cfg = nss.configure(space, FitConfig(4), multiply_adds)
    depths, widths = (len(open_) for open_ in space.allowed[:2])
    assert cfg.ranges == (max(2, depths // 4), max(4, widths // 16))
    costs = nss.SpaceCost.of(space, nss.split(space, cfg.ranges), multiply_adds).all()
    ratios = np.diff(np.log([float(costs.min()), *cfg.targets, float(costs.max())]))
    np.testing.assert_allclose(ratios, ratios.mean(), atol=0.1)  # targets have two digits
    assert (cfg.fit.schedule, cfg.fit.weight_decay, cfg.fit.label_smoothing) == ("cosine", 3e-4, 0.0)
    with pytest.raises(UserError, match="set another target"):
        nss.configure(space, FitConfig(4), multiply_adds, targets=[1.0])
