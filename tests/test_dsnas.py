"""DSNAS against its formulas written out: every path of a tiny space, weighted by its probability."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latency.measure import host
from latency.table import LatencyTable
from supernet import families, files, spaces
from supernet.cli import methods, train_supernet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.export.formats import read_metadata
from supernet.families import cells
from supernet.methods import dsnas, soft_mixture
from supernet.methods.soft_mixture import concrete_weights, softmax_weights
from supernet.model import Supernet, load_network
from supernet.space import Choice
from supernet.training import checkpoint
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig, fit
from tests.conftest import tiny_space
from tests.test_cli import ok, refused
from tests.test_latency_table import samples
from tests.test_train import images

CPU = torch.device("cpu")


def budget(space, limit=math.inf):
    return dsnas.Budget(*families.layout(space).priced(lambda spec: spec.flops)[:2], limit)


def parent_of(space, eps=dsnas.EPS, kernels="eager"):
    return dsnas.Parent(space, [torch.ones((), dtype=torch.double) for _ in space.genes], eps=eps, kernels=kernels)


def search_of(space, per_epoch=1000, alpha=None, **options):
    """A parent in double and its distribution; ``alpha`` replaces the initial logits."""
    settings = {"budget": budget(space), "search_epochs": 2, **options}
    cfg = dsnas.Config(fit=FitConfig(epochs=4, batch_size=20, lr=0.05, augment=False), **settings)
    search = dsnas.Distribution(parent_of(space).double().train(), cfg, per_epoch)
    if alpha is not None:
        with torch.no_grad():
            for own, given in zip(search.alpha, alpha, strict=True):
                own.copy_(given)
    return search


def batch(n=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 14, 14, generator=generator, dtype=torch.double)
    return x, torch.arange(n) % 10


def loss_of(parent, arch):
    x, y = batch()
    return F.cross_entropy(parent(x, arch), y)


UNEVEN = [torch.tensor([0.3, -0.5, 0.9]), *2 * [torch.tensor([0.0, 1.2, -0.7, 0.4])]]


def analytic(search, arch, credit):
    """Σ_i (onehot(Z_i) − p_i) · C_i per layer: the softmax's score by hand."""
    gradient = []
    for p, open_, z, c in zip(search.probabilities(), search.allowed, arch, credit, strict=True):
        gradient.append((np.eye(len(p))[open_.index(z)] - p) * float(c))
    return np.concatenate(gradient)


def alpha_gradient(search, arch):
    """What the implementation gives for this path: a backward pass, the credit, the gradient of α."""
    search.parent.zero_grad()
    loss_of(search.parent, arch).backward()
    for alpha in search.alpha:
        alpha.grad = None
    search.loss(arch, search.collect()).backward()
    return torch.cat([alpha.grad for alpha in search.alpha]).numpy()


def scaled_loss(parent, arch, i, scale):
    """The loss with the output of layer i scaled, in plain modules."""
    x, y = batch()
    stem, *chosen, head = parent.path(arch)
    x = stem(x)
    for j, module in enumerate(chosen):
        x = module(x) * (scale if i == j else 1.0)
    return float(F.cross_entropy(head(x), y).detach())


@pytest.fixture(scope="module")
def enumerated():
    """Every path of the tiny space: its probability, the implementation's gradient, and the one by differences."""
    torch.manual_seed(0)
    space, h = tiny_space().restrict([{1, 2, 3}, {0, 1, 3}, {2, 3}]), 1e-6  # so small because of ReLU6's kinks
    search = search_of(space, alpha=[torch.tensor([-0.5, 0.9]), torch.tensor([0.0, 1.2, -0.7]), torch.tensor([0.4, 0])])
    paths = {}
    for arch in space.enumerate():
        chosen = zip(search.probabilities(), search.allowed, arch, strict=True)
        p = math.prod(q[open_.index(z)] for q, open_, z in chosen)
        credit = [
            (scaled_loss(search.parent, arch, i, 1 + h) - scaled_loss(search.parent, arch, i, 1 - h)) / (2 * h)
            for i in range(len(arch))
        ]
        paths[arch] = (p, alpha_gradient(search, arch), analytic(search, arch, credit))
    return search, paths


def test_expected_gradient_is_the_score_function_gradient_over_all_paths(enumerated):
    """Σ_Z p(Z) ∂log p(Z)/∂α · C(Z), C by central differences of the loss: no sampling, so no statistical error."""
    _, paths = enumerated
    assert sum(p for p, *_ in paths.values()) == pytest.approx(1, abs=1e-12)
    got = sum(p * gradient for p, gradient, _ in paths.values())
    expected = sum(p * by_hand for p, _, by_hand in paths.values())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)
    assert np.abs(expected).max() > 1e-4


def test_sampled_gradients_average_to_it(enumerated):
    """4,000 paths of the real sampler: each coordinate within 5 standard errors (chance of any failing: 1e-5)."""
    search, paths = enumerated
    sampled = np.stack([paths[search.sample(step)][1] for step in range(4000)])
    expected = sum(p * by_hand for p, _, by_hand in paths.values())
    error = sampled.std(axis=0, ddof=1) / math.sqrt(len(sampled))
    assert np.all(np.abs(sampled.mean(axis=0) - expected) < 5 * error)


@pytest.mark.parametrize("detached", [True, False])
def test_log_p_taken_after_z_requires_grad_is_wrong(enumerated, detached):
    """The authors' form: Z one-hot on the outputs, (loss + log p).backward(), C = Z.grad.sum(). If log p saw Z with
    its gradient, 1/p(Z_i) is added to C_i and the expected gradient is no longer that of the enumeration."""
    search, paths = enumerated
    expected = sum(p * by_hand for p, _, by_hand in paths.values())
    total, (x, y) = 0, batch()
    for arch, (p, *_) in paths.items():
        z = [F.one_hot(torch.tensor(o.index(c)), len(o)).double() for o, c in zip(search.allowed, arch, strict=True)]
        for one_hot in z:
            one_hot.requires_grad_()
        alpha = [a.detach().double().requires_grad_() for a in search.alpha]
        seen = [one_hot.detach() for one_hot in z] if detached else z
        log_p = sum((s * torch.softmax(a, 0)).sum().log() for s, a in zip(seen, alpha, strict=True))
        stem, *chosen, head = search.parent.path(arch)
        features = stem(x)
        for module, one_hot in zip(chosen, z, strict=True):
            features = module(features) * one_hot.sum()
        (F.cross_entropy(head(features), y) + log_p).backward()
        chosen_z = [one_hot.grad.sum() if not detached else one_hot.grad.mean() for one_hot in z]
        total = total + p * torch.cat([a.grad * c for a, c in zip(alpha, chosen_z, strict=True)]).numpy()
    if detached:
        np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-7)
    else:
        assert np.abs(total - expected).max() > 100 * np.abs(expected).max()


def test_credit_vanishes_with_bn_eps():
    """Layer 0 feeds the head's convolution and BN alone, so the loss hardly depends on its scale."""
    space, arch, credit = tiny_space(), (0, 0, 0), {}
    for eps in (1e-5, 1e-2):
        torch.manual_seed(0)
        parent = parent_of(space, eps=eps).double().train()
        parent.ones[0].requires_grad_()
        loss_of(parent, arch).backward()
        credit[eps] = abs(float(parent.ones[0].grad))
    assert credit[1e-5] < 1e-5
    assert credit[1e-2] > 100 * credit[1e-5]


def test_only_the_sampled_path_has_gradients():
    search = search_of(tiny_space())
    arch = search.sample(0)
    loss_of(search.parent, arch).backward()
    on_path = {id(p) for module in search.parent.path(arch) for p in module.parameters()}
    for name, p in search.parent.named_parameters():
        assert (p.grad is not None) == (id(p) in on_path), name


def step(search, i):
    search.parent.zero_grad()
    loss_of(search.parent, search.sample(i)).backward()
    search.update(i)


def test_a_settled_layer_does_not_move():
    """Adam has momentum by then: a gradient of 0 would still move it."""
    search = search_of(tiny_space(), arch_lr=0.1)
    for i in range(5):
        step(search, i)
    search.settle([None, 3, None])
    before = [alpha.detach().clone() for alpha in search.alpha]
    for i in range(5, 15):
        step(search, i)
        assert search.sample(i)[1] == 3
    assert [torch.equal(a, b) for a, b in zip(before, search.alpha, strict=True)] == [False, True, False]


def test_layers_settle_where_the_gap_is_wide_enough():
    """Probabilities .5 .2 .15 .15 settle at .3, .45 .2 .175 .175 do not."""
    wide, narrow = torch.tensor([0.51, 0.2, 0.145, 0.145]).log(), torch.tensor([0.45, 0.2, 0.175, 0.175]).log()
    search = search_of(tiny_space(), alpha=[torch.zeros(3), wide, narrow], per_epoch=1, arch_lr=1e-6)
    step(search, 0)
    assert search.settled == [None, 0, None]
    never = search_of(tiny_space(), alpha=[torch.zeros(3), wide, narrow], per_epoch=1, arch_lr=1e-6, stop_gap=1.1)
    step(never, 0)
    assert never.settled == [None] * 3


def test_the_first_epochs_may_train_weights_only():
    search = search_of(tiny_space(), per_epoch=2, weight_epochs=1, arch_lr=0.1)
    before = [alpha.detach().clone() for alpha in search.alpha]
    for i in (0, 1):
        step(search, i)
    assert all(torch.equal(a, b) for a, b in zip(before, search.alpha, strict=True))
    step(search, 2)
    assert not any(torch.equal(a, b) for a, b in zip(before, search.alpha, strict=True))


# --- the budget


def test_paths_over_the_budget_alone_pay_for_it():
    """coefficient · p_i[s] · cost[i, s] / limit has the gradient … · p_s (onehot(s) − p), in the open layers."""
    space = tiny_space()
    table = budget(space)
    costs = sorted(table.cost(arch) for arch in space.enumerate())
    limit = costs[len(costs) // 2]
    search = search_of(space, alpha=UNEVEN, budget=budget(space, limit), coefficient=0.7)
    search.settle([None, None, 1])
    for arch in [(0, 0, 1), (2, 2, 1)]:
        credit = {0: torch.tensor(0.1), 1: torch.tensor(-0.2)}
        for alpha in search.alpha:
            alpha.grad = None
        search.loss(arch, credit).backward()
        for i in (0, 1):
            p, k = search.probabilities()[i], search.allowed[i].index(arch[i])
            expected = (np.eye(len(p))[k] - p) * float(credit[i])
            if table.cost(arch) >= limit:
                expected += 0.7 * table.table[i][arch[i]] / limit * p[k] * (np.eye(len(p))[k] - p)
            np.testing.assert_allclose(search.alpha[i].grad.numpy(), expected, rtol=1e-4, atol=1e-7)
        assert search.alpha[2].grad is None
    assert table.cost((0, 0, 1)) < limit <= table.cost((2, 2, 1))


@pytest.mark.parametrize("seed", range(5))
def test_the_child_is_the_most_probable_within_the_budget(seed):
    """Against all 192 architectures of a tiny space with pruned choices."""
    rng = np.random.default_rng(seed)
    space = tiny_space(4).restrict([{1, 2}, {0, 1, 3}, {0, 1, 2, 3}, {0, 2}])
    alpha = [torch.from_numpy(rng.normal(size=len(open_))) for open_ in space.allowed]
    costs = sorted(budget(space).cost(arch) for arch in space.enumerate())
    limit = costs[int(rng.integers(len(costs) // 2))]
    search = search_of(space, alpha=alpha, budget=budget(space, limit))

    def log_p(arch):
        chosen = zip(search.probabilities(), search.allowed, arch, strict=True)
        return sum(math.log(p[open_.index(z)]) for p, open_, z in chosen)

    within = [arch for arch in space.enumerate() if search.cfg.budget.cost(arch) <= limit]
    assert search.child() == max(within, key=log_p)


def random_search(seed, share):
    """Logits drawn at random, and a limit that ``share`` of the architectures keep; and all of these."""
    rng = np.random.default_rng(seed)
    space = tiny_space(4)
    alpha = [torch.from_numpy(rng.normal(size=len(open_), scale=2)) for open_ in space.allowed]
    costs = sorted(budget(space).cost(arch) for arch in space.enumerate())
    limit = costs[int(share * len(costs))]
    search = search_of(space, alpha=alpha, budget=budget(space, limit))
    return search, [arch for arch in space.enumerate() if search.cfg.budget.cost(arch) <= limit]


@pytest.mark.parametrize("seed", range(5))
def test_the_budget_does_not_replace_what_has_settled(seed):
    """Against all architectures that have it; some other one would be more probable otherwise."""
    search, within = random_search(seed, 0.3)
    unlikely = within[seed]
    settled = [None, unlikely[1], None, unlikely[3]]
    search.settle(settled)
    probable = search.probabilities()
    having = [arch for arch in within if all(one in (None, z) for one, z in zip(settled, arch, strict=True))]
    likely = max(having, key=lambda arch: sum(math.log(p[z]) for p, z in zip(probable, arch, strict=True)))
    argmax = tuple(int(p.argmax()) for p in probable)
    assert search.child() == (argmax if argmax in within else likely)


def test_layers_settle_only_where_the_budget_can_still_be_kept():
    """What stays open has a narrow gap, or would leave nothing within the budget; some do for that."""
    kept = 0
    for seed in range(8):
        search, within = random_search(seed, 0.1)
        settled = search.stopped()

        def left(settled, within=within):
            return any(all(one in (None, z) for one, z in zip(settled, arch, strict=True)) for arch in within)

        assert left(settled)
        for i, p in enumerate(search.probabilities()):
            second, first = np.sort(p)[-2:]
            if settled[i] is None and first - second >= search.cfg.stop_gap:
                assert not left([*settled[:i], int(p.argmax()), *settled[i + 1 :]])
                kept += 1
        search.settle(settled)
        assert search.child() in within
    assert kept > 0


def test_impossible_settings_are_refused():
    space = tiny_space()
    with pytest.raises(UserError, match=r"at most 10: the space attains \S+ to "):
        search_of(space, budget=budget(space, 10)).child()
    with pytest.raises(UserError, match="weights only < search"):
        search_of(space, weight_epochs=2)
    for rates in ({"arch_lr": -1.0}, {"arch_lr": float("inf")}, {"coefficient": -1.0}):
        with pytest.raises(UserError, match="expected both at least 0"):
            search_of(space, **rates)


# --- cells


def small_cells():
    """A normal cell and two reductions, which have their genes in common."""
    return cells.space("tiny-cells", "nrr", 1, 4, 1, 14, 10)


def test_the_credit_of_an_edge_is_summed_over_the_cells_of_its_kind():
    """By central differences of the loss with the outputs of the edge scaled wherever it is."""
    space = small_cells()
    search, h = search_of(space), 1e-6
    arch = tuple(cells.CHOICES.index(Choice(op, 3)) for op in ("sep2", "dil", "pool_max", "sep2"))
    loss_of(search.parent, arch).backward()
    credit = [float(c) for c in search.collect().values()]
    assert [families.layout(space).decides.count(gene) for gene in range(4)] == [1, 1, 2, 2]
    for gene in range(4):
        losses = []
        for scale in (1 + h, 1 - h):
            ones = [torch.tensor(scale if g == gene else 1.0, dtype=torch.double) for g in range(4)]
            for one in ones:
                one.requires_grad_()
            search.parent.ones = ones
            losses.append(float(loss_of(search.parent, arch).detach()))
        assert credit[gene] == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-4, abs=1e-8)
    assert min(map(abs, credit)) > 1e-6


def test_a_mixture_in_cells():
    """One-hot it is the path; as α has it, one node by hand."""
    space = small_cells()
    model, arch = Supernet(space, affine=True).eval(), (4, 0, 6, 2)
    x = batch()[0].float()
    one_hot = [F.one_hot(torch.tensor(z), 8).float() for z in arch]
    torch.testing.assert_close(soft_mixture.forward(model, x, one_hot), model(x, arch), rtol=1e-5, atol=1e-6)
    weights = softmax_weights([torch.randn(8, generator=torch.Generator().manual_seed(0)) for _ in space.genes])
    state = model.stem(x)
    for i, cell in enumerate(model.layers):
        state = cell["inputs"][1](cell["inputs"][0](state))
        last, *nodes = state
        new = sum(
            w * edge[str(j)].op(nodes[source])
            for source, edge in enumerate(cell["edges"])
            for j, w in enumerate(weights[source + 2 * (i > 0)])
        )
        state = cell["output"]((last, *nodes, new))
    torch.testing.assert_close(soft_mixture.forward(model, x, weights), model.head(state), rtol=1e-4, atol=1e-5)


def test_cells_are_searched_and_the_child_is_a_network(tmp_path):
    space = small_cells()
    child = run(space, tmp_path)
    found = json.loads((tmp_path / "arch.json").read_text())
    assert tuple(found["arch"]) == child.arch
    assert load_network(tmp_path / "child").arch == child.arch
    assert found["cost"] == families.flops(space, child.arch)


# --- whole runs


def train_val(n=120):
    return TrainVal(images(n), images(60, seed=1), 10, 1, 14, tuple("0123456789"))


def config(space, **options):
    fit = FitConfig(epochs=4, batch_size=20, lr=0.05, augment=False, schedule="cosine", checkpoint_minutes=0)
    settings = {"arch_lr": 0.1, "recalibration": (2, 20), **options}
    return dsnas.Config(fit, budget(space), search_epochs=2, **settings)


def run(space, folder, **options):
    return dsnas.run(space, train_val(), config(space, **options), folder, CPU)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(tiny_space(), folder, stop_gap=0.1)


@pytest.mark.parametrize("kill_at", [3, 12, 15])
def test_n_plus_n_steps_equal_2n_steps(whole_run, tmp_path, monkeypatch, kill_at):
    """Killed within the search, at its end, in the child's part: weights, α, Adam and log agree."""
    space = tiny_space()
    sample = dsnas.Distribution.sample

    def killed(self, step):
        if step == kill_at:
            raise Killed
        return sample(self, step)

    monkeypatch.setattr(dsnas.Distribution, "sample", killed)
    with pytest.raises(Killed):
        run(space, tmp_path, stop_gap=0.1)
    monkeypatch.undo()
    run(space, tmp_path, stop_gap=0.1)
    whole, parts = (checkpoint.load(folder / "checkpoint.pt") for folder in (whole_run[0], tmp_path))
    for name, value in whole["model"].items():
        assert torch.equal(value, parts["model"][name]), name
    a, b = whole["search"], parts["search"]
    assert all(torch.equal(x, y) for x, y in zip(a["alpha"], b["alpha"], strict=True))
    assert a["settled"] == b["settled"]
    for key, state in a["adam"]["state"].items():
        assert all(torch.equal(value, b["adam"]["state"][key][name]) for name, value in state.items())
    logs = []
    for folder in (whole_run[0], tmp_path):
        lines = files.JsonLines(folder / "metrics.jsonl").read()
        logs.append([{k: v for k, v in line.items() if k != "images_per_second"} for line in lines])
    assert logs[0] == logs[1]


def test_the_child_keeps_the_weights_of_the_search(whole_run):
    space = tiny_space()
    folder, child = whole_run
    state = checkpoint.load(folder / "checkpoint.pt")
    parent = dsnas.Parent(space, [torch.ones(()) for _ in space.genes])
    parent.load_state_dict(state["model"])
    loaded = load_network(folder / "child")
    for own, other, shared in zip(child.path(), loaded.path(), parent.path(child.arch), strict=True):
        for name, value in shared.state_dict().items():
            assert torch.equal(own.state_dict()[name], value), name
            assert torch.equal(other.state_dict()[name], value), name
    found = json.loads((folder / "arch.json").read_text())
    val = train_val().val.batches(20, seed=0, epoch=0, augment=False, drop_last=False)
    assert evaluate(loaded, val) == pytest.approx(found["val_accuracy"], abs=0.5 / 60)
    assert found["arch"] == list(child.arch)


def test_metrics_say_what_the_search_does(tmp_path):
    space = tiny_space()
    run(space, tmp_path, stop_gap=1.1)
    lines = files.JsonLines(tmp_path / "metrics.jsonl").read()
    state = checkpoint.load(tmp_path / "checkpoint.pt")["search"]
    p = [torch.softmax(alpha.double(), 0) for alpha in state["alpha"]]
    assert lines[1]["entropy"] == pytest.approx([float(-(q * q.log()).sum()) for q in p], abs=1e-9)
    assert all(c > 0 for c in lines[0]["credit"])
    assert lines[2]["credit"] == [None] * 3
    assert [line["frozen"] for line in lines] == [[], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    every = {arch: budget(space).cost(arch) for arch in space.enumerate()}
    assert min(every.values()) < lines[0]["expected_cost"] < max(every.values())
    assert lines[1]["expected_cost"] == every[tuple(lines[1]["arch"])]


def test_with_one_architecture_left_it_is_plain_training(tmp_path):
    """No choice: the same weights, bit for bit, as training that network alone from the same start."""
    space, arch = tiny_space().restrict([{2}, {1}, {3}]), (2, 1, 3)
    cfg = config(space)
    torch.manual_seed(cfg.fit.seed)
    alone = dsnas.Parent(space, [torch.ones(())] * 3).extract(arch, kernels="fused")
    child = dsnas.run(space, train_val(), cfg, tmp_path / "dsnas", CPU)
    fit(alone, train_val().train, lambda step: None, cfg.fit, tmp_path / "alone", meta={})
    for (name, a), b in zip(child.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_expected_cost_is_the_mean_over_all_architectures():
    search = search_of(tiny_space(), alpha=UNEVEN)
    expected = 0.0
    for arch in tiny_space().enumerate():
        chosen = zip(search.probabilities(), search.allowed, arch, strict=True)
        expected += math.prod(p[open_.index(z)] for p, open_, z in chosen) * search.cfg.budget.cost(arch)
    assert search.after_epoch()["expected_cost"] == pytest.approx(expected, rel=1e-9)


# --- full instantiation


def test_a_one_hot_mixture_is_the_path():
    space, arch = tiny_space(), (2, 3, 1)
    model = Supernet(space, affine=True).eval()
    x = batch()[0].float()
    one_hot = [F.one_hot(torch.tensor(o.index(z)), len(o)).float() for o, z in zip(space.allowed, arch, strict=True)]
    torch.testing.assert_close(soft_mixture.forward(model, x, one_hot), model(x, arch), rtol=1e-5, atol=1e-6)


def test_a_mixture_learns_both_weights_and_alpha():
    """Against the sum written out."""
    space = tiny_space()
    model = Supernet(space, affine=True, kernels="eager").train()
    alpha = [torch.randn(len(open_), requires_grad=True) for open_ in space.allowed]
    x, y = batch()[0].float(), batch()[1]
    F.cross_entropy(soft_mixture.forward(model, x, softmax_weights(alpha)), y).backward()
    got = [a.grad.clone() for a in alpha]
    for a in alpha:
        a.grad = None
    features = model.stem(x)
    for candidates, a in zip(model.layers, alpha, strict=True):
        p = a.exp() / a.exp().sum()
        features = sum(q * candidate(features) for q, candidate in zip(p, candidates.values(), strict=True))
    F.cross_entropy(model.head(features), y).backward()
    for a, g in zip(alpha, got, strict=True):
        torch.testing.assert_close(g, a.grad, rtol=1e-3, atol=1e-6)


def test_concrete_weights_become_one_hot_samples_of_p():
    alpha, rng = [UNEVEN[1]], np.random.default_rng(0)
    weights = torch.stack([concrete_weights(alpha, 1e-3, rng)[0] for _ in range(4000)])
    p = torch.softmax(UNEVEN[1], 0)
    assert (weights.max(1).values > 0.999).float().mean() > 0.98
    assert torch.all((weights.mean(0) - p).abs() < 5 * (p * (1 - p) / 4000).sqrt() + 2e-3)


# --- the commands


DIGITS = ("--method", "dsnas", "--data", "digits", "--batch-size", 32, "--limit", 320, "--epochs", 3)
SPACE = dataclasses.replace(tiny_space(), resolution=28)


@pytest.fixture
def space_file(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(SPACE.to_json()))
    return path


@pytest.mark.chain
def test_one_command_gives_a_network(tmp_path, space_file):
    """Search, child, from scratch beside it; then retrain.py trains it beside a random architecture of the bound."""
    folder = tmp_path / "run"
    costs = sorted(budget(SPACE).cost(arch) for arch in SPACE.enumerate())
    limit = costs[len(costs) // 3]
    printed = ok("train_supernet", "--run", folder, "--space", space_file, *DIGITS, "--flops-max", limit, "--retrain")
    assert "from scratch" in printed
    assert f"next: python tools/retrain.py --inherit --epochs 0 --controls 0 --run {folder}" in printed
    found = json.loads((folder / "arch.json").read_text())
    assert found["cost"] == budget(SPACE).cost(tuple(found["arch"])) <= limit
    assert load_network(folder / "retrained").arch == load_network(folder / "child").arch == tuple(found["arch"])
    ok("export", "--run", folder, "--pick", "child", "--output", tmp_path / "child.pt2")
    metadata = read_metadata(tmp_path / "child.pt2")
    assert metadata["arch"] == found["arch"]
    assert metadata["accuracy"]["test"] is None  # tested by retrain.py only
    assert "has no profile" in refused("export", "--run", folder, "--output", tmp_path / "net.pt2", "--profile")
    state = checkpoint.load(folder / "child" / "checkpoint.pt")
    checkpoint.save(tmp_path / "run" / "half" / "checkpoint.pt", {**state, "finished": False})
    assert "not trained to the end" in refused("export", "--run", folder, "--pick", "half")

    printed = ok("retrain", "--run", folder, "--epochs", 1, "--controls", 1, "--jobs", 1, "--limit", 320)
    assert "LUT" not in printed
    result = json.loads((folder / "random-0" / "result.json").read_text())
    assert result["flops"] <= limit
    assert result["arch"] != found["arch"]


def test_a_latency_budget_and_the_test_of_the_child_as_it_is(tmp_path, space_file):
    lut, folder = tmp_path / "lut.json", tmp_path / "run"
    every = families.layout(SPACE)
    keys = [spec.key for spec in (every.stem, *itertools.chain(*every.choices), every.head) if spec.runs]
    table = LatencyTable(
        space={"name": SPACE.name, "fingerprint": SPACE.fingerprint},
        device=host(),  # a table of another machine is not measured against here
        runtime={"name": "torch", "options": {}},
        batch=1,
        threads=1,
        input=(1, 28, 28),
        protocol={},
        operations={key: samples(0.1 + 0.01 * i) for i, key in enumerate(dict.fromkeys(keys))},
    )
    files.write_json(lut, table.to_json())
    latency = methods.Dsnas(lut=str(lut)).costs(SPACE)["latency_ms"]
    low, high = latency.bounds(SPACE)
    with pytest.raises(UserError, match=f"attains {low:.9g} to {high:.9g}"):
        methods.Dsnas(lut=str(lut), lat_max=low / 2).config(SPACE, FitConfig(3), "fused")
    bound = low + 0.4 * (high - low)
    ok("train_supernet", "--run", folder, "--space", space_file, *DIGITS, "--lut", lut, "--lat-max", bound)
    found = json.loads((folder / "arch.json").read_text())
    assert found["cost"] == latency(tuple(found["arch"])) <= bound

    ok("retrain", "--run", folder, "--inherit", "--epochs", 0, "--controls", 0)
    result = json.loads((folder / "best" / "result.json").read_text())
    assert result["val_accuracy"] == found["val_accuracy"]
    assert result["measured_latency_ms"] > 0
    tested, child = load_network(folder / "best"), load_network(folder / "child")
    assert all(torch.equal(a, b) for a, b in zip(tested.parameters(), child.parameters(), strict=True))


def test_a_budget_out_of_reach_is_refused_before_anything_is_written(tmp_path):
    message = refused("train_supernet", "--run", tmp_path / "run", *DIGITS, "--flops-max", 10)
    space = spaces.get("mobile-small", 1, 28, 10)
    every = [families.flops(space, arch) for arch in space.enumerate()]
    assert f"space mobile-small attains {min(every)} to {max(every)}" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"lat_max": 1.0}, "needs --lut FILE"),
        ({"lat_max": 1.0, "lut": "x.json", "flops_max": 1e6}, "takes the place of --flops-max"),
        ({"lat_max": 1.0, "lut": "missing.json"}, "no latency table at missing.json"),
        ({"search_epochs": 9}, "9 of search, 3 in all"),
        ({"search_epochs": 0}, "weights only < search"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(flags, expected):
    with pytest.raises(UserError, match=expected):
        methods.Dsnas(**flags).config(SPACE, FitConfig(3), "fused")


def test_warm_up_is_five_epochs_of_240_and_a_run_keeps_its_own():
    for epochs, expected in ((240, 5), (480, 5), (12, 0.25)):
        assert methods.Dsnas(epochs=epochs).settled(SPACE, {}).warmup_epochs == expected
        assert methods.Spos(epochs=epochs).settled(SPACE, {}).warmup_epochs == 0
    assert methods.Dsnas(warmup_epochs=1).settled(SPACE, {"warmup_epochs": 0.5}).warmup_epochs == 1
    assert methods.Dsnas().settled(SPACE, {"epochs": 24, "warmup_epochs": 0.0}).warmup_epochs == 0
    assert methods.Dsnas().settled(SPACE, {"epochs": 24}).warmup_epochs == 0  # of a version that kept none


def test_each_method_has_its_own_options():
    assert train_supernet.chosen([]) is train_supernet.chosen(["--run", "x", "--method", "spos"])
    own = {method: {f.name for f in dataclasses.fields(args)} for method, args in methods.METHODS.items()}
    assert "flops_bins" in own["spos"] - own["dsnas"]
    assert "arch_lr" in own["dsnas"] - own["spos"]
    assert train_supernet.chosen(["--method=dsnas", "--epochs", "3"]) is methods.METHODS["dsnas"]
