"""The weights that a given network begins with, and the order of its channels."""

import pytest
import timm
import torch
from conftest import refused
from test_given import MODELS, made
from test_given_trace import Small
from torch import nn

from supernet.families.given import network, sorting, weights
from supernet.model import Supernet, batch_norms
from supernet.size import Size

IMAGES = (3, Size.of(32), 10)


@pytest.fixture(scope="module", params=MODELS)
def space(request):
    return made(request.param)


@pytest.fixture(scope="module")
def resnet():
    return network.opened("timm:resnet18", *IMAGES)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "nested.pth"])
def test_a_file_of_the_network(resnet, tmp_path, name):
    state = {key: torch.randn_like(value.float()).to(value.dtype) for key, value in resnet.new().state_dict().items()}
    if name.endswith("safetensors"):
        weights.save(tmp_path / name, state)
    else:
        parallel = {f"module.{key}": value for key, value in state.items()}
        torch.save({"state_dict": parallel, "epoch": 3} if "nested" in name else state, tmp_path / name)
    read = weights.read(resnet, str(tmp_path / name))
    assert read.new == ()
    assert read.state.keys() == state.keys()
    assert all(torch.equal(read.state[key], value) for key, value in state.items())


def test_other_classes_have_a_new_head(resnet, tmp_path):
    other = network_of_classes(100)
    weights.save(tmp_path / "w.safetensors", other)
    read = weights.read(resnet, str(tmp_path / "w.safetensors"))
    assert read.new == ("fc",)
    assert read.state["fc.weight"].shape == (10, 512)
    assert torch.equal(read.state["conv1.weight"], other["conv1.weight"])


def test_what_does_not_fit_is_named(resnet, tmp_path):
    path = tmp_path / "w.safetensors"
    state = network_of_classes(10)
    for changed, expected in [
        ({k: v for k, v in state.items() if k != "layer1.0.conv1.weight"}, "has no layer1.0.conv1.weight"),
        (
            state | {"layer1.0.conv1.weight": torch.zeros(3, 3)},
            "has layer1.0.conv1.weight of 3×3, expected 64×64×3×3",
        ),
        (
            state | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"].to(torch.int8)},
            "has layer1.0.conv1.weight of int8, expected float32",
        ),
        (state | {"fc.weight": state["fc.weight"].to(torch.int8)}, "has fc.weight of int8, expected float32"),
        (state | {"more.weight": torch.zeros(3)}, "has more.weight, which timm:resnet18 does not have"),
    ]:
        weights.save(path, changed)
        assert expected in refused(weights.read, resnet, str(path))


def test_how_many_batches_a_norm_has_seen_need_not_be_told(resnet, tmp_path):
    state = {name: value for name, value in network_of_classes(10).items() if "num_batches" not in name}
    weights.save(tmp_path / "w.safetensors", state)
    read = weights.read(resnet, str(tmp_path / "w.safetensors"))
    assert read.state.keys() == resnet.new().state_dict().keys()
    assert all(torch.equal(read.state[name], value) for name, value in state.items())


class Auxiliary(Small):
    """A second head, as some networks have for their training."""

    def __init__(self, classes):
        super().__init__(classes)
        self.more = nn.Linear(32, classes)

    def forward(self, x):
        y = self.second(self.first(x)).mean((2, 3))
        return (self.head(y), self.more(y)) if self.training else self.head(y)


class LogShares(Small):
    """As the examples of many courses end."""

    def forward(self, x):
        return super().forward(x).log_softmax(1)


def test_a_head_before_shares_is_a_head(tmp_path):
    opened = network.opened("given.py:LogShares", 3, Size.of(16), 10, LogShares)
    weights.save(tmp_path / "w.safetensors", LogShares(20).state_dict())
    assert weights.read(opened, str(tmp_path / "w.safetensors")).new == ("head",)


@pytest.mark.parametrize("left_out", [True, False])
def test_what_does_not_run_need_not_fit(tmp_path, left_out):
    """torchvision publishes GoogLeNet without its auxiliary heads, and Inception v3 with one of 1000 classes."""
    opened = network.opened("given.py:Auxiliary", 3, Size.of(16), 10, Auxiliary)
    state = Auxiliary(20).state_dict()
    weights.save(tmp_path / "w.safetensors", {k: v for k, v in state.items() if not (left_out and "more" in k)})
    read = weights.read(opened, str(tmp_path / "w.safetensors"))
    assert read.new == ("head",)
    assert read.state["more.weight"].shape == (10, 32)
    assert torch.equal(read.state["second.weight"], state["second.weight"])


def test_files_that_are_no_weights(resnet, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"no weights")
    assert "holds no weights" in refused(weights.read, resnet, str(tmp_path / "w.pt"))
    torch.save({"model": 3}, tmp_path / "w.pt")
    assert "holds no state dict" in refused(weights.read, resnet, str(tmp_path / "w.pt"))
    assert "cannot read" in refused(weights.read, resnet, str(tmp_path / "none.safetensors"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sparse_weights_are_refused(resnet, tmp_path):
    torch.save(network_of_classes(10) | {"fc.weight": torch.zeros(10, 512).to_sparse()}, tmp_path / "w.pt")
    message = refused(weights.read, resnet, str(tmp_path / "w.pt"))
    assert "has fc.weight as a sparse tensor: expected dense ones" in message


def network_of_classes(classes):
    return timm.create_model("resnet18", num_classes=classes).state_dict()


def test_sorting_leaves_the_function(space):
    torch.manual_seed(0)
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    for norm in batch_norms([supernet]):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    x = torch.randn(2, space.channels, *space.input_size)
    with torch.no_grad():
        before = supernet(x, supernet.layout.whole)
        weights_before = supernet.stem.state_dict()
        weights_before = {key: value.clone() for key, value in weights_before.items()}
        sorting.sort(supernet.shared, supernet.layout)
        torch.testing.assert_close(supernet(x, supernet.layout.whole), before, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(value, weights_before[key]) for key, value in supernet.stem.state_dict().items())


def test_sorted_channels_descend_by_their_weights():
    """ResNet-18's first convolution of a block: its channels by the L1 norms of what makes and reads them."""
    space = made("timm:resnet18")
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    sorting.sort(supernet.shared, supernet.layout)
    state = {name.split(".", 2)[-1].replace("/", "."): value for name, value in supernet.state_dict().items()}
    make, read = state["layer3.1.conv1.weight"].abs(), state["layer3.1.conv2.weight"].abs()
    importance = make.sum((1, 2, 3)) / make.sum() + read.sum((0, 2, 3)) / read.sum()
    assert (importance.diff() <= 1e-9).all()


def test_taylor_needs_what_the_loss_needs():
    """A channel that the logits do not depend on comes after those that they do, however large its weights are."""
    space = made("timm:resnet18")
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    layers = {name: layer for unit in [supernet.stem, *supernet.layers] for name, layer in unit.named_children()}
    conv1, conv2 = layers["layer1/1/conv1"], layers["layer1/1/conv2"]
    with torch.no_grad():
        layers["layer1/1/bn2"].weight.fill_(1)  # timm begins with 0, so that a block adds nothing
        conv1.weight[5] *= 100
        conv2.weight[:, 5] = 0
    x = torch.randn(4, 3, 32, 32)
    torch.nn.functional.cross_entropy(supernet(x, supernet.layout.whole), torch.arange(4)).backward()
    alive = int((conv1.weight * conv1.weight.grad).abs().sum((1, 2, 3)).count_nonzero())
    sorting.sort(supernet.shared, supernet.layout, sorting.taylor)
    place = int(conv1.weight.abs().sum((1, 2, 3)).argmax())
    assert 32 < alive <= place  # some are not needed since no image lets them pass the ReLU
