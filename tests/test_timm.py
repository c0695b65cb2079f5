"""timm takes found networks: its factory, its data configuration, its optimiser, a step of training."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, resolve_data_config
from timm.optim import create_optimizer_v2

import supernet.timm
from supernet import spaces
from supernet.errors import UserError
from supernet.export import formats, hub
from supernet.export.card import Card
from supernet.model import Network, Supernet

NAME, ARCH = "supernet_mobile_small", [1, 0, 1, 1, 3, 2]


@pytest.fixture
def arch_file(tmp_path):
    path = tmp_path / "arch.json"
    path.write_text(json.dumps({"arch": ARCH, "test_accuracy": 0.5}))
    return str(path)


def test_every_space_is_registered():
    names = {f"supernet_{name.replace('-', '_')}" for name in spaces.presets()}
    assert names <= set(timm.list_models("supernet_*"))


def test_exported_weights_come_back(arch_file, tmp_path):
    """What export writes, ``create_model`` loads: the same logits bit for bit."""
    space = spaces.get("mobile-small", 1, 28, 10)
    network = Network(space, tuple(ARCH), kernels="eager").eval()
    formats.export(network, network, tmp_path / "net.pt2", (1, 28, 28), {})
    model = timm.create_model(NAME, arch=arch_file, checkpoint_path=str(tmp_path / "net.safetensors")).eval()
    x = torch.rand(2, 1, 28, 28)
    with torch.inference_mode():
        assert torch.equal(model(x), network(x))
    assert resolve_data_config({}, model=model)["input_size"] == (1, 28, 28)
    wide = timm.create_model(NAME, arch=arch_file, img_size=(20, 36))
    assert resolve_data_config({}, model=wide)["input_size"] == (1, 20, 36)


def test_a_step_as_timms_training_script_takes_it(arch_file):
    options = {"num_classes": 7, "in_chans": 3, "img_size": 32, "drop_rate": 0.1, "global_pool": None}
    model = timm.create_model(NAME, arch=arch_file, bn_momentum=0.2, bn_eps=1e-3, scriptable=False, **options)
    assert (model.num_classes, model.default_cfg["input_size"]) == (7, (3, 32, 32))
    assert {(m.momentum, m.eps) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {(0.2, 1e-3)}
    assert model.head.dropout.p == 0.1
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = torch.nn.functional.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if p.grad.abs().max() > 0)
    model.reset_classifier(3)
    assert model.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    assert model.get_classifier().out_features == 3


@pytest.mark.parametrize(("reference", "last"), [("timm:resnet18", "fc"), ("timm:convnext_atto", "head/fc")])
def test_a_part_of_a_given_network_has_the_layers_that_timm_asks_for(reference, last):
    """The first convolution and the layer of the logits, by timm's own names for them."""
    space = spaces.get(reference, 3, 32, 10)
    arch = tuple(open_[0] for open_ in space.allowed)
    model = timm.create_model("supernet_network", space=space.to_json(), arch=arch, num_classes=4).eval()
    known = timm.get_pretrained_cfg(reference.removeprefix("timm:"))
    assert model.default_cfg["classifier"].replace("/", ".") == f"head.{known.classifier}"
    assert model.default_cfg["first_conv"].replace("/", ".") == f"stem.{known.first_conv}"
    assert model.get_classifier() is getattr(model.head, last)
    assert model.num_features == model.get_classifier().in_features > 0
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize("reference", ["timm:resnet18", "timm:convnext_atto"])
def test_files_of_a_part_of_a_given_network(reference, tmp_path):
    """A program of torch's and weights for timm, by which both give its logits."""
    space = spaces.get(reference, 3, 32, 10)
    supernet_ = Supernet(space, affine=True, kernels="eager").eval()
    arch = tuple(open_[0] for open_ in space.allowed)
    network, path = supernet_.extract(arch, "eager").eval(), tmp_path / "net.pt2"
    formats.export(network, network, path, (3, 32, 32), {"arch": list(arch)})
    options = {"space": space.to_json(), "arch": arch}
    model = timm.create_model("supernet_network", **options, checkpoint_path=str(path.with_suffix(".safetensors")))
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = supernet_(x, arch)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(model.eval()(x), network(x))
    torch.testing.assert_close(torch.export.load(path).module()(x), expected, rtol=1e-4, atol=1e-5)
    assert formats.read_metadata(path) == {"arch": list(arch)}


def test_a_folder_for_the_hub_of_a_part_of_a_given_network(tmp_path):
    space = spaces.get("timm:resnet18", 3, 32, 10)
    network = Network(space, tuple(open_[0] for open_ in space.allowed), kernels="eager").eval()
    digits = [str(i) for i in range(10)]
    hub.write(tmp_path / "hub", network, Card({"name": space.name}, network.arch, "", digits, None, (3, 32, 32)))
    model = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(x), network(x))


def test_timms_own_validation_numbers_classes_as_the_network_does(tmp_path):
    """Its data sets sort them naturally, c2 before c10, and without regard to case."""
    names, size = ["B", "a b", "c10", "c2"], (28, 28)
    for name in names:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("L", size).save(tmp_path / "val" / name / "1.png")
    space = spaces.get("mobile-small", 1, 28, 4)
    network = Network(space, tuple(ARCH), kernels="eager").eval()
    hub.write(tmp_path / "hub", network, Card({"name": space.name}, network.arch, "", names, None, (1, *size)))
    numbers = dict(zip(names, range(4), strict=True))
    assert create_dataset("", tmp_path / "val").reader.class_to_idx != numbers
    mapped = create_dataset("", tmp_path / "val", class_map=str(tmp_path / "hub" / "classes.txt"))
    assert mapped.reader.class_to_idx == numbers


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="needs the architecture"):
        timm.create_model(NAME)
    with pytest.raises(UserError, match="6 genes, the architecture has 2"):
        timm.create_model(NAME, arch=[0, 1])
    with pytest.raises(UserError, match="checkpoint_path"):
        timm.create_model(NAME, arch=ARCH, pretrained=True)
    (tmp_path / "bad.json").write_text('{"arch": "0,1"}')
    with pytest.raises(UserError, match="list of indices"):
        timm.create_model(NAME, arch=str(tmp_path / "bad.json"))
    with pytest.raises(UserError, match="no architecture at"):
        timm.create_model(NAME, arch=str(tmp_path / "missing.json"))
    assert supernet.timm.create("mobile-small", ARCH).arch == tuple(ARCH)
    squeezed = supernet.timm.built(space := spaces.get("torchvision:squeezenet1_1", 3, 64, 10), space.whole)
    with pytest.raises(UserError, match="no linear layer for the logits"):
        squeezed.reset_classifier(3)
