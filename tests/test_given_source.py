"""Networks from registries and from functions of one's own."""

import sys

import pytest
import timm
import torch
from conftest import refused
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision import models

from supernet import families, spaces
from supernet.families.given import family, source, verify
from supernet.families.given.modules import ours
from supernet.model import Supernet
from supernet.size import Size
from supernet.space import Space

CODE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 24, 1))
        self.head = nn.Linear(24, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def of_any(channels, classes): return Small(channels, classes)
def of_five(channels): return Small(channels, 5)
def nothing(): return 3
def square(channels): return nn.Conv2d(channels, 4, 1)
def grey(): return Small(1, 10)
def branching():
    class Branching(Small):
        def forward(self, x):
            return self.head(self.body(x).mean((2, 3))) if x.sum() >= 0 else None
    return Branching(3, 10)
"""
IMAGES = (3, 16, 10)


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "own_given.py"
    path.write_text(CODE)
    yield lambda name: f"{path}:{name}"
    sys.modules.pop("own_given", None)
    if str(path.parent) in sys.path:
        sys.path.remove(str(path.parent))


def test_a_function_gives_the_network(code):
    space = spaces.get(code("of_any"), *IMAGES)
    assert (space.model, space.name) == ("own_given.py:of_any", "own_given.py:of_any")
    assert [gene.name for gene in space.genes] == ["width body.0", "width body.3"]
    assert verify.difference(space) < 1e-9


def test_the_layer_of_the_logits_is_replaced_for_other_classes(code):
    space = spaces.get(code("of_five"), *IMAGES)
    assert families.lower(space, tuple(open_[-1] for open_ in space.allowed))[-1].out_channels == 10
    assert verify.difference(space) < 1e-9


def test_a_file_does_not_bring_its_code(code):
    """What is read knows the function's name only; who reads it gives the function."""
    space = spaces.get(code("of_any"), *IMAGES)
    read = Space.from_json(space.to_json())
    assert read == space
    assert "a file is not allowed to name code" in refused(families.layout, read)
    again = Space.from_json(space.to_json(), make=space.make)
    assert Supernet(again, affine=True).layout.network.reference == "own_given.py:of_any"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothing", "own_given.py:nothing returned 3, expected a supernet.space.Space or a torch.nn.Module"),
        ("square", "gives [1, 4, 16, 16] of an image, expected [1, classes]"),
        ("grey", "does not run on 3×16² images: RuntimeError in line"),
        ("branching", "cannot be traced: own_given.py, line"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_functions_that_give_no_network(code, name, expected):
    assert expected in refused(spaces.get, code(name), *IMAGES)


def test_torchvision_takes_colours():
    assert "takes images of 3 channels, these have 1" in refused(spaces.get, "torchvision:resnet18", 1, 28, 10)


def test_a_tag_names_one_of_several_weights():
    """timm's own record of a network that has weights of several trainings."""
    tagged, plain = "timm:vit_base_patch16_224.augreg_in21k", "timm:vit_base_patch16_224"
    assert source.usual_images(tagged) == (3, Size(224, 224), 21843)
    assert source.normalisation("timm:tf_efficientnet_b0.aa_in1k") == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert source.normalisation("timm:tf_efficientnet_b0.ap_in1k") == ((0.5,) * 3, (0.5,) * 3)  # AdvProp's
    assert source.usual_images(plain)[2] == 1000
    space = spaces.get("timm:resnet18.a1_in1k", 3, 32, 10)
    assert space.genes == spaces.get("timm:resnet18", 3, 32, 10).genes
    assert "did you mean resnet18.a" in refused(spaces.get, "timm:resnet18.a7_in1k", 3, 32, 10)


@pytest.mark.parametrize("tag", ["", ".a2_in1k"])
def test_published_weights_are_those_of_the_tag(monkeypatch, tag):
    asked = []

    def load(model, pretrained_cfg, **options):
        asked.append(pretrained_cfg["tag"])

    monkeypatch.setattr(timm.models._builder, "load_pretrained", load)
    source.pretrained(f"timm:resnet18{tag}", 3, Size.of(32), 10)
    assert asked == [tag.removeprefix(".") or timm.get_pretrained_cfg("resnet18").tag]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_images_are_changed_as_torchvision_does_with_its_weights(name, monkeypatch):
    """The space's network gives what torchvision's own has of the same weights, if those are published ones."""
    reference, images = f"torchvision:{name}", (3, Size.of(96), 10)
    space = spaces.get(reference, *images)
    torch.manual_seed(0)
    made, x = source.make(reference, *images), torch.randn(2, 3, 96, 96)
    verify.enliven(ours(made), x)
    state = made.state_dict() | {"fc.weight": torch.randn(1000, made.fc.in_features), "fc.bias": torch.zeros(1000)}
    published = models.get_model_weights(name).DEFAULT
    model = models.get_model(name, weights=None, init_weights=False)
    state = {key: state[key] if state[key].shape == v.shape else v for key, v in model.state_dict().items()}
    monkeypatch.setattr(type(published), "get_state_dict", lambda *_, **__: state)
    theirs = models.get_model(name, weights=published).eval()
    theirs.fc = made.fc
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    family.load(supernet.shared, made.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, space.whole), theirs(x), rtol=1e-4, atol=1e-5)
        theirs.transform_input = False
        assert (supernet(x, space.whole) - theirs(x)).abs().max() > 1e-3


def test_images_of_a_registry():
    assert spaces.usual_images("timm:efficientnet_b1") == (3, Size(240, 240), 1000)
    assert spaces.usual_images("torchvision:resnet18") == (3, Size(224, 224), 1000)
