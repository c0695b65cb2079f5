"""Given networks on our operators against the same networks in plain PyTorch; what our operators take of a network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search.evaluator import Walk, _pool, prefix_tree
from supernet import active, families, spaces
from supernet.families.given.layout import GivenLayout, layout_of
from supernet.families.given.network import of, opened
from supernet.model import Network, Supernet, batch_norms, joined
from supernet.size import Size
from supernet.training.bn import recalibrate_bn

# Inverted bottlenecks and separable pairs without squeeze-excite, by the tables of the papers.
EXPECTED = {
    "timm:mobilenetv2_050": (2 + 3 + 4 + 3 + 3 + 1, 1),  # arXiv:1801.04381, table 2: t = 6, and t = 1
    "timm:mnasnet_050": (3 + 3 + 3 + 2 + 4 + 1, 1),  # arXiv:1807.11626's B1 in timm: MBConv, and SepConv
    "timm:mobilenetv1_100": (0, 13),  # arXiv:1704.04861, table 1
    "timm:mobilenetv3_small_050": (2, 0),  # arXiv:1905.02244, table 2: the second and the third block have no SE
    "timm:resnet18": (0, 0),
}
SIZE = 32


@pytest.fixture(scope="module", params=EXPECTED)
def space(request):
    return spaces.get(request.param, 3, SIZE, 10)


def archs_of(space):
    """The largest, a random and the smallest one."""
    largest, smallest = (tuple(open_[end] for open_ in space.allowed) for end in (-1, 0))
    return [largest, space.sample(np.random.default_rng(1)), smallest]


def pair(space, dtype=torch.float64):
    """The same supernet on our operators and in plain PyTorch, with statistics of BN that say something."""
    torch.manual_seed(0)
    fused = Supernet(space, kernels="fused")
    for norm in batch_norms([fused]):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.1)
    plain = Supernet(space, kernels="eager")
    plain.load_state_dict(fused.state_dict())
    return fused.to(dtype), plain.to(dtype)


def images(n=4, dtype=torch.float64):
    return torch.randn(n, 3, SIZE, SIZE, dtype=dtype)


def statistics(model):
    return {name: b for name, b in model.named_buffers() if not name.endswith("num_batches_tracked")}


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def test_what_our_operators_run_is_what_the_papers_have(space):
    triples, pairs = EXPECTED[space.model]
    lengths = list(layout_of(space).together.values())
    assert (lengths.count(3), lengths.count(2), len(lengths)) == (triples, pairs, triples + pairs)
    supernet = Supernet(space, kernels="fused")
    for arch in archs_of(space):
        path = supernet.path(arch)
        runs = [layers for _, layers in joined(path)]
        assert sum(runs) == len(path) == len(families.lower(space, arch))
    path = Supernet(space, kernels="eager").path(archs_of(space)[0])
    assert [module for module, _ in joined(path)] == path


def test_a_step_is_that_of_the_plain_network(space):
    """Logits, gradients, what of the parameters is active, and the statistics of BN."""
    x, (ours, plain) = images(), pair(space)
    others = dict(plain.named_parameters())
    for arch in archs_of(space):
        logits = []
        for model in (ours, plain):
            model.zero_grad()
            active.forget(model.parameters())
            y = model.train()(x, arch)
            F.cross_entropy(y, torch.arange(4)).backward()
            logits.append(y.detach())
        torch.testing.assert_close(*logits, rtol=1e-6, atol=1e-8)
        same(statistics(ours), statistics(plain), rtol=1e-6, atol=1e-9)
        same(gradients(ours), gradients(plain), rtol=1e-5, atol=1e-8)
        for name, p in ours.named_parameters():
            assert sorted(active.moved(p)) == sorted(active.moved(others[name]))


def test_inference_and_recalibration_are_those_of_the_plain_network(space):
    x, (ours, plain) = images(8), pair(space)
    for arch in archs_of(space):
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(x, arch), plain.eval()(x, arch), rtol=1e-6, atol=1e-8)
        for model in (ours, plain):
            recalibrate_bn(model, x.split(4), arch)
        same(statistics(ours), statistics(plain), rtol=1e-6, atol=1e-9)


def test_there_are_gradients_in_eval_mode(space):
    """Taylor's importance takes them."""
    arch, x = archs_of(space)[1], images()
    ours, plain = pair(space)
    for model in (ours, plain):
        model.eval()(x, arch).square().mean().backward()
    same(gradients(ours), gradients(plain), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", ["timm:mobilenetv2_050", "timm:mobilenetv1_100"])
def test_parts_of_what_runs_together_change_alone(name):
    space = spaces.get(name, 3, SIZE, 10)
    (ours, plain), x = pair(space), images()
    largest, _, smallest = archs_of(space)
    with torch.no_grad():
        for i, choice in enumerate(smallest):
            arch = (*largest[:i], choice, *largest[i + 1 :])
            torch.testing.assert_close(ours.eval()(x, arch), plain.eval()(x, arch), rtol=1e-6, atol=1e-8)


def test_float32_is_within_rounding(space):
    """By the kernels for float32; on images so large that BN has values to average over."""
    arch, x = archs_of(space)[1], torch.randn(8, 3, 64, 64)
    ours, plain = pair(space, torch.float32)
    for train in (True, False):
        logits, expected = (model.train(train)(x, arch).detach() for model in (ours, plain))
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_scoring_by_prefixes_has_the_statistics_of_each_path_alone():
    space = spaces.get("timm:mobilenetv2_050", 3, SIZE, 10)
    supernet, x = pair(space)[0].eval(), images(8)
    largest, sampled, _ = archs_of(space)
    last = next(i for i in reversed(range(len(largest))) if len(space.allowed[i]) > 1)
    near = (*largest[:last], 0, *largest[last + 1 :])
    tree = prefix_tree(supernet, [largest, near, sampled])
    for norm in batch_norms([supernet]):
        norm.train()
    with torch.inference_mode():
        Walk()(tree, x, _pool)
    supernet.eval()
    assert len(list(tree)) - 1 < sum(len(list(joined(supernet.path(arch)))) for arch in (largest, near, sampled))
    for arch in (largest, near, sampled):
        alone = copy.deepcopy(supernet)
        recalibrate_bn(alone, [x], arch)
        (leaf,) = (node for node in tree if arch in node.archs)
        path = [module for module, _ in joined(alone.path(arch))]
        nodes = branch(tree, leaf)
        for module, node in zip(path, nodes, strict=True):
            for bn, pool in zip(batch_norms([module]), node.pools, strict=True):
                torch.testing.assert_close(pool.mean, bn.running_mean[: len(pool.mean)])
                torch.testing.assert_close(pool.var, bn.running_var[: len(pool.mean)])


def branch(tree, leaf):
    """The nodes from below the root to a leaf."""
    for child in tree.children.values():
        if child is leaf:
            return [child]
        if leaf in list(child):
            return [child, *branch(child, leaf)]
    raise AssertionError


def test_a_network_alone_is_that_of_the_supernet():
    """Extracted, and with the weights of one that runs otherwise: the names do not depend on the kernels."""
    space = spaces.get("timm:mobilenetv2_050", 3, SIZE, 10)
    supernet, x = pair(space)[0].eval(), images()
    for arch in archs_of(space)[1:]:
        ours, plain = (supernet.extract(arch, kernels).double() for kernels in ("fused", "eager"))
        assert sum(1 for _ in joined(ours.path())) < len(ours.path()) == sum(1 for _ in joined(plain.path()))
        fresh = Network(space, arch, kernels="fused").double().eval()
        fresh.load_state_dict(plain.state_dict())
        with torch.no_grad():
            expected = supernet(x, arch)
            for network in (ours, plain, fresh, copy.deepcopy(fresh)):
                torch.testing.assert_close(network(x), expected, rtol=1e-6, atol=1e-8)
    ours(x)
    other = copy.deepcopy(ours).train()
    before = [p.clone() for p in ours.parameters()]
    other(x).square().mean().backward()
    assert all(p.grad is None for p in ours.parameters())
    assert all(p.grad is not None for p in other.parameters())
    assert all(map(torch.equal, before, ours.parameters()))


def test_a_step_after_a_stop_has_the_same_bits():
    space = spaces.get("timm:mobilenetv2_050", 3, SIZE, 10)
    archs, x = archs_of(space), images(dtype=torch.float32)
    straight, _ = pair(space, torch.float32)

    def step(model, arch):
        model.zero_grad(set_to_none=True)
        model.train()(x, arch).square().mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad

    step(straight, archs[1])
    resumed = Supernet(space, kernels="fused")
    resumed.load_state_dict(straight.state_dict())
    for model in (straight, resumed):
        step(model, archs[0])
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())


# Small networks that have almost what our operators take.


class Bottleneck(nn.Module):
    """An inverted bottleneck of 16 channels after a stem, before a head; parts of it can be replaced."""

    def __init__(
        self, act=nn.ReLU6, out_act=nn.Identity, eps=1e-5, padding=1, bias=False, stride=1, between=nn.Identity
    ):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.expand, self.bn1, self.act1 = nn.Conv2d(16, 32, 1, bias=bias), nn.BatchNorm2d(32), nn.ReLU6()
        self.depthwise = nn.Conv2d(32, 32, 3, stride, padding, groups=32, bias=False)
        self.bn2, self.act2, self.between = nn.BatchNorm2d(32, eps=eps), act(), between()
        self.project, self.bn3, self.act3 = nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16), out_act()
        self.head = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.classifier = nn.Linear(16, 10)

    def block(self, x):
        y = self.act1(self.bn1(self.expand(x)))
        y = self.between(self.act2(self.bn2(self.depthwise(y))))
        return self.act3(self.bn3(self.project(y)))

    def forward(self, x):
        return self.classifier(self.head(self.block(self.stem(x))).mean((2, 3)))


class Residual(Bottleneck):
    def block(self, x):
        return x + super().block(x)


class Functional(Bottleneck):
    """Functions, some in place, where others have modules."""

    def block(self, x):
        y = F.relu(self.bn1(self.expand(x)), inplace=True)
        y = torch.relu_(self.bn2(self.depthwise(y)))
        x += self.bn3(self.project(y))
        return x


class Twice(Bottleneck):
    """What the expansion gives is read again at the end."""

    def block(self, x):
        y = self.act1(self.bn1(self.expand(x)))
        z = self.act2(self.bn2(self.depthwise(y)))
        return self.bn3(self.project(z)) + y[:, :16]


class Excited(Bottleneck):
    """The expansion's mean is a gate on the depthwise output."""

    def block(self, x):
        y = self.act1(self.bn1(self.expand(x)))
        y = self.act2(self.bn2(self.depthwise(y)))
        return self.bn3(self.project(y * y.mean((2, 3), keepdim=True).sigmoid()))


class Scaled(nn.Module):
    """Convolutions that can be left out, since they keep their channels, none of which can be cut, and end in a sum."""

    def __init__(self):
        super().__init__()
        expand = nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        self.conv = nn.Sequential(*expand, nn.Conv2d(32, 16, 3, padding=1))
        self.register_buffer("scale", torch.rand(16, 1, 1) + 0.5)

    def forward(self, x):
        y = self.conv(x) * self.scale
        return y + y.mean((2, 3), keepdim=True)


class Shallow(nn.Module):
    """A depthwise convolution, and blocks that begin with a pointwise one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.register_buffer("scale", torch.rand(16, 1, 1) + 0.5)
        depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(depthwise, Scaled(), Scaled())
        self.head = nn.Conv2d(16, 32, 1)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x):
        return self.classifier(self.head(self.blocks(self.stem(x) * self.scale)).mean((2, 3)))


CASES = {
    "plain": (Bottleneck, {}, 3),
    "stride 2": (Bottleneck, {"stride": 2}, 3),
    "with a sum": (Residual, {}, 3),
    "with functions": (Functional, {}, 3),
    "with nothing in between": (Bottleneck, {"between": nn.Identity}, 3),
    "an activation at the end": (Bottleneck, {"out_act": nn.ReLU}, 2),  # the last two
    "activations that differ": (Bottleneck, {"act": nn.SiLU}, 2),
    "another activation": (Bottleneck, {"act": nn.GELU}, None),
    "another eps": (Bottleneck, {"eps": 1e-3}, None),
    "no padding": (Bottleneck, {"padding": 0}, None),
    "a bias": (Bottleneck, {"bias": True}, 2),
    "something in between": (Bottleneck, {"between": nn.Hardsigmoid}, None),
    "read twice": (Twice, {}, 2),
    "squeeze-excite": (Excited, {}, None),
    "what can be left out alone": (Shallow, {}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_what_matches(case):
    cls, options, expected = CASES[case]
    space = of(opened(f"case.py:{case}", 3, Size.of(SIZE), 10, lambda: cls(**options)))
    layout = GivenLayout(space, opened(f"case.py:{case}", 3, Size.of(SIZE), 10, space.make))
    assert list(layout.together.values()) == ([] if expected is None else [expected])
    ours, plain = pair(space)
    for arch in archs_of(space):
        x = images()
        found = []
        for model in (ours, plain):
            model.zero_grad()
            y = model.train()(x, arch)
            y.square().mean().backward()
            with torch.no_grad():
                found.append(gradients(model) | {"training": y, "inference": model.eval()(x, arch)})
        same(*found, rtol=1e-5, atol=1e-8)
        same(statistics(ours), statistics(plain), rtol=1e-6, atol=1e-9)
