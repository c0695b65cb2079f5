"""Networks that cannot be a space, or only after a change of their own code: one line each, and what does convert."""

import dataclasses
import warnings

import numpy as np
import pytest
import timm
import torch
from conftest import refused
from test_given_trace import Small
from torch import nn
from torch.nn import functional as F

from supernet import families, spaces
from supernet.cli import count, train_supernet
from supernet.cli.methods import Spos
from supernet.data import transforms
from supernet.data.images import MemoryImages
from supernet.data.sets import TrainVal
from supernet.families.given import verify, weights
from supernet.families.given.layout import of_network
from supernet.methods import given, spos
from supernet.model import Supernet
from supernet.size import Size
from supernet.training.loop import FitConfig
from tests.test_train import images

IMAGES = (3, Size.of(16), 10)


class Twice(Small):
    """One convolution in two places."""

    def __init__(self, classes):
        super().__init__(classes)
        self.more = nn.Conv2d(32, 32, 1)

    def between(self, x):
        return self.more(self.more(x).relu())


class TwoNames(Twice):
    def __init__(self, classes):
        super().__init__(classes)
        self.again = self.more


class OneTensor(Small):
    def __init__(self, classes):
        super().__init__(classes)
        self.second.weight = nn.Parameter(self.first.weight[:, :1, 1:2, 1:2].expand(32, 32, 1, 1).clone())
        self.more = nn.Conv2d(32, 32, 1)
        self.more.weight = self.second.weight


class Factor(Small):
    """One parameter that two functions use."""

    def __init__(self, classes):
        super().__init__(classes)
        self.factor = nn.Parameter(torch.ones(32, 1, 1))

    def forward(self, x):
        return self.head((self.second(self.first(x) * self.factor) * self.factor).mean((2, 3)))


def slashed(classes):
    network = Small(classes)
    network.first = nn.Sequential()
    network.first.add_module("3x3/2", nn.Conv2d(3, 32, 3, padding=1))
    return network


def spectral(classes):
    network = Small(classes)
    nn.utils.spectral_norm(network.second)
    return network


def parametrised(classes):
    network = Small(classes)
    nn.utils.parametrizations.weight_norm(network.second)
    return network


def compiled(classes):
    return torch.compile(Small(classes))


def scripted(classes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer releases of torch take it for old
        return torch.jit.trace(Small(classes), torch.zeros(1, 3, 16, 16))


def patched(classes):
    network = Small(classes)
    network.forward = lambda x: Small.forward(network, x) * 2
    return network


class Recurrent(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.then = nn.Conv2d(3, 16, 1), nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.then(self.first(x).flatten(2).transpose(1, 2))[0].mean(1))


class Random(Small):
    def between(self, x):
        return x + torch.randn_like(x)


class Unsteady(Small):
    """It differs by more than double precision, and less than float32, may lose."""

    def between(self, x):
        return x + 1e-4 * torch.randn_like(x)


class UnsteadySingle(Unsteady):
    """The same, by a constant that only runs in float32."""

    def between(self, x):
        return super().between(F.conv2d(x, torch.ones(32, 1, 1, 1, dtype=torch.float32), groups=32))


class Averaging(Small):
    """A constant of the precision that floats have."""

    def between(self, x):
        return F.conv2d(x, torch.ones(32, 1, 3, 3) / 9, padding=1, groups=32)


class Single(Small):
    """A constant of single precision, whatever floats are."""

    def between(self, x):
        return F.conv2d(x, torch.ones(32, 1, 3, 3, dtype=torch.float32) / 9, padding=1, groups=32)


def of_the_batch(classes):
    network = Small(classes)
    network.second = nn.Sequential(network.second, nn.BatchNorm2d(32, track_running_stats=False))
    return network


def half(classes):
    return Small(classes).half()


def double(classes):
    return Small(classes).double()


def space_of(network):
    return spaces.get(f"{__file__}:{network.__name__}", *IMAGES)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Twice, "runs more several times: weights that are shared"),
        (TwoNames, "one tensor as more.weight and as again.weight: weights that are shared"),
        (OneTensor, "one tensor as second.weight and as more.weight"),
        (Factor, "runs factor several times"),
        (slashed, "first.3x3/2 of test_given_network.py:slashed has a / in its name"),
        (spectral, "second of test_given_network.py:spectral computes its weight from others"),
        (parametrised, "second of test_given_network.py:parametrised computes its weight from others"),
        (compiled, "of the class OptimizedModule, which is not where its forward is written"),
        (scripted, "which is not where its forward is written"),
        (patched, "of the class Small, which is not where its forward is written"),
        (of_the_batch, "second.1 of test_given_network.py:of_the_batch has no running statistics"),
        (Recurrent, "nothing to choose: first stays whole, as then is a LSTM, which has no rule"),
    ],
)
def test_what_cannot_be_a_space_is_refused_in_a_line(network, expected):
    assert expected in refused(space_of, network)


@pytest.mark.parametrize("network", [half, double])
def test_other_precisions_are_computed_in_float32(network):
    space = space_of(network)
    assert {p.dtype for p in Supernet(space, affine=True).parameters()} == {torch.float32}
    assert verify.require(space) < 1e-12


@pytest.mark.parametrize("network", [Averaging, Single])
def test_constants_have_the_precision_that_is_compared_in(network):
    assert verify.require(space_of(network)) < 1e-5


def test_a_network_that_is_another_each_time_is_refused():
    space = space_of(Random)
    assert verify.difference(space) > 0.1
    assert "expected a network that gives the same each time" in refused(verify.require, space)


def test_equal_is_to_1e_5_in_double_precision():
    double, single = space_of(Unsteady), space_of(UnsteadySingle)
    assert 1e-5 < verify.difference(double) < 1e-3
    assert "differ by" in refused(verify.require, double)
    assert 1e-5 < verify.require(single) < 1e-3


def test_a_training_tells_how_many_layers_stay_whole(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tools/train_supernet.py"])
    space = spaces.get("torchvision:shufflenet_v2_x0_5", 3, 32, 10)
    told = train_supernet.whole(space, Spos(space=space.model, resolution=Size.of(32)))
    layers, words = told.split(" ", 1)
    assert int(layers) == len(count.given(space)["whole"]) > 1
    assert words == f"layers stay whole: python tools/count.py --resolution 32 --space {space.model} says why"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A trained network as timm has it, the file of its weights, and its space of several resolutions."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=10).eval()
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    weights.save(path, network.state_dict())
    return network, path, families.with_resolutions(spaces.get("timm:resnet18", 3, 32, 10), [24, 32])


def data():
    return TrainVal(images(), images(), 10, 1, Size.of(14), tuple("0123456789"))


def test_a_gene_for_the_resolution_leaves_the_network_its_own_teacher(resnet, tmp_path):
    network, path, space = resnet
    model, x = Supernet(space, affine=True, kernels="eager"), torch.randn(2, 3, 32, 32)
    assert given.begin(model, str(path), "l1", tmp_path, data(), 0) == ()
    assert verify.require(space) < 1e-9
    assert of_network(space).space == families.resolutions.without(space)
    with torch.no_grad():
        torch.testing.assert_close(given.teacher(model)(x), network(x), rtol=1e-4, atol=1e-5)


def test_images_that_are_normalised_otherwise_than_published_weights_know_are_told():
    """By timm: .5 for its vision transformers, ImageNet's values for its ResNets."""
    pixels = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    images = MemoryImages(pixels, np.zeros(4, np.int64), *transforms.IMAGENET, margin=0, mirror=False)
    told = given.other_values("timm:vit_tiny_patch16_224", images)
    assert "by 0.5, 0.5, 0.5 ± 0.5, 0.5, 0.5, these are by 0.485, 0.456, 0.406 ± 0.229, 0.224, 0.225" in told
    assert given.other_values("timm:resnet18", images) is None
    assert given.other_values("torchvision:resnet18", images) is None
    assert given.other_values("a.py:network", images) is None


def test_a_new_layer_of_the_logits_is_not_scored_untrained(resnet, tmp_path):
    _, path, _ = resnet
    space = spaces.get("timm:resnet18", 3, 32, 5)
    cfg = spos.Config(FitConfig(0), weights=str(path), distil="inplace", probes=0)
    message = refused(spos.run, space, data(), cfg, tmp_path, torch.device("cpu"))
    assert message.startswith("fc of timm:resnet18 is new for these images, so parts cannot be scored as they are")


def grey(classes):
    network = Small(classes)
    network.first = nn.Conv2d(1, 32, 3, padding=1)
    return network


def test_taylors_importance_is_that_of_the_training_images(tmp_path):
    """|w · dL/dw| of what makes and reads each channel, by gradients over all of them in the sorted network."""
    space = spaces.get(f"{__file__}:grey", 1, 14, 10)
    weights.save(tmp_path / "w.safetensors", grey(10).state_dict())
    orders = {}
    for importance in ("taylor", "l1"):
        model = Supernet(space, affine=True, kernels="eager")
        given.begin(model, str(tmp_path / "w.safetensors"), importance, tmp_path / importance, data(), 0)
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())
        network = model.extract(space.whole).plain()
        for x, y in data().train.plain_batches(64):
            F.cross_entropy(network(x), y, reduction="sum").backward()
        scores = [(p * p.grad).abs() for p in (network.first.weight, network.second.weight)]
        made, read = (one / one.sum() for one in scores)
        orders[importance] = made.sum((1, 2, 3)) + read.sum((0, 2, 3))
    assert (orders["taylor"].diff() <= 1e-6).all()
    assert not (orders["l1"].diff() <= 1e-6).all()


def test_options_of_a_training_follow_the_weights(resnet):
    _, path, space = resnet
    args = Spos(weights=str(path))
    settled = args.settled(space, {})
    assert (settled.rule, settled.distil, settled.epochs) == ("sandwich", "teacher", 3)
    fewer = spaces.get("timm:resnet18", 3, 32, 5)
    assert args.settled(fewer, {}).distil == "inplace"
    ours = spaces.get("mobile-small", 1, 28, 10)
    assert "expected --model timm:NAME, torchvision:NAME or FILE.py:function" in refused(args.settled, ours, {})
    assert dataclasses.replace(args, weights="random").settled(ours, {}).rule == "uniform"
