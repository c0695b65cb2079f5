"""Feature maps of found networks: against timm's own, and under detectors and a segmentation head of torchvision."""

import copy
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from conftest import SMALL_SPACES, refused
from test_given import made, sub_networks
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork

import supernet.timm  # noqa: F401 — registers the spaces
from supernet import load_backbone, spaces
from supernet.backbone import backbone
from supernet.export import formats
from supernet.families.given import family
from supernet.model import Network, Supernet
from supernet.size import Size
from supernet.training import checkpoint

IMAGES = (3, Size(64, 96), 10)
ALIKE = [  # those of timm whose last feature map is what goes into the pooling
    "resnet18",
    "regnetx_002",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "convnext_atto",
]


def whole(space):
    return tuple(len(gene.choices) - 1 for gene in space.genes)


@pytest.mark.parametrize("name", ALIKE)
def test_they_are_timms(name):
    """Those of the given network: strides, channels and values; larger images than it was traced for."""
    theirs = timm.create_model(name, features_only=True).eval()
    space = made(f"timm:{name}", IMAGES)
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    own = timm.create_model(name, num_classes=10).state_dict()
    family.load(supernet.shared, own)
    assert not theirs.load_state_dict(
        {key: own[key.replace("stages_", "stages.").replace("stem_", "stem.")] for key in theirs.state_dict()}
    ).missing_keys
    ours = backbone(supernet.extract(whole(space)))
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    x = torch.randn(2, 3, 160, 224)
    with torch.no_grad():
        for mine, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0", "densenet121"])
def test_strides_of_torchvisions(name):
    space = made(f"torchvision:{name}", IMAGES)
    for arch in sub_networks(space, 2):
        network = Network(space, arch, kernels="eager").eval()
        found = backbone(network)
        assert found.feature_info.reduction() == [2, 4, 8, 16, 32]
        with torch.no_grad():
            maps = found(torch.randn(1, 3, 96, 160))
        assert [y.shape[2:] for y in maps] == [(96 // n, 160 // n) for n in (2, 4, 8, 16, 32)]
        assert [y.shape[1] for y in maps] == found.feature_info.channels()


@pytest.mark.parametrize(
    "name", ["mobile-small", "mobile-v3-small", "residual-small", "elastic-small", "shufflenet-small"]
)
def test_layers_of_other_families(name):
    """A map is what the last layer of its stride gives, the head's apart."""
    space = SMALL_SPACES[name]()
    network = Network(space, sub_networks(space, 2)[1], kernels="eager").eval()
    found = backbone(network)
    x, given = torch.randn(2, *network.input_shape), []
    with torch.no_grad():
        maps, y = found(x), x
        for layer in network.path()[:-1]:
            y = layer(y)
            if given and given[-1].shape[2:] == y.shape[2:]:
                given.pop()
            given.append(y)
    given = [y for y in given if y.shape[2:] != x.shape[2:]]
    for mine, expected in zip(maps, given, strict=True):
        torch.testing.assert_close(mine, expected)


def test_which_maps():
    network = Network(made("timm:resnet18"), whole(made("timm:resnet18")), kernels="eager").eval()
    assert backbone(network).feature_info.reduction() == [2, 4, 8, 16, 32]
    assert backbone(network, (1, -1)).feature_info.reduction() == [4, 32]
    assert backbone(network, 2).feature_info.reduction() == [16, 32]
    assert not any(name.startswith("layer4") for name in backbone(network, (1, 2)).state_dict())
    message = refused(backbone, network, (2, 5))
    assert "out_indices (2, 5): the network has 5 feature maps, of strides 2, 4, 8, 16, 32" in message
    vit = made("timm:vit_tiny_patch16_224", IMAGES)
    assert "no feature maps" in refused(backbone, Network(vit, whole(vit), kernels="eager"))


def test_maps_are_not_written_to(own_file):
    """What reads a map in place would change it: here the block after it begins with such an activation."""
    code = """
from torch import nn

def network(classes):
    block = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 1))
    ends = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), block, ends)
"""
    space = spaces.get(f"{own_file('in_place.py', code)}:network", 3, 32, 10)
    network = Network(space, whole(space), kernels="eager").eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone(network)(x)[0], network.plain().get_submodule("0")(x))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The folder of a trained network that was cut, as ``retrain.py`` leaves one."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("best")
    space = made("timm:mobilenetv3_small_050", IMAGES)
    arch = sub_networks(space, 2)[1]
    assert arch != whole(space)
    network = Network(space, arch, kernels="eager")
    meta = {"kind": "network", "space": space.to_json(), "arch": list(arch)}
    checkpoint.save(folder / "checkpoint.pt", {"model": network.state_dict(), "meta": meta})
    return folder, network


def test_its_weights_are_those_of_the_network(found):
    folder, network = found
    body, plain = load_backbone(folder), network.plain().state_dict()
    assert not body.training
    assert body.state_dict().keys() < plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in body.state_dict().items())
    again = copy.deepcopy(body)
    assert again.feature_info.channels() == body.feature_info.channels()
    for p in again.parameters():
        p.data.zero_()
    again.load_state_dict(plain)  # the head's are there, too
    x = torch.randn(1, 3, 64, 96)
    assert all(map(torch.equal, again(x), body(x)))


class Pyramid(nn.Module):
    """What torchvision's detectors take."""

    def __init__(self, body, channels):
        super().__init__()
        self.body, self.out_channels = body, channels
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), channels)

    def forward(self, x):
        return self.fpn(OrderedDict((str(i), y) for i, y in enumerate(self.body(x))))


class Maps(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return OrderedDict((str(i), y) for i, y in enumerate(self.body(x)))


def faster_rcnn(body):
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 4)
    pool = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    return FasterRCNN(Pyramid(body, 16), 3, min_size=64, max_size=96, rpn_anchor_generator=anchors, box_roi_pool=pool)


def ssd_lite(body):
    anchors = DefaultBoxGenerator([[2, 3]] * 4)
    head = SSDLiteHead(body.feature_info.channels(), anchors.num_anchors_per_location(), 3, nn.BatchNorm2d)
    return SSD(Maps(body), anchors, (64, 96), 3, head=head)


@pytest.mark.parametrize("detector", [faster_rcnn, ssd_lite])
def test_a_step_of_a_detector(found, detector):
    body = load_backbone(found[0], out_indices=(1, 2, 3, 4))
    assert body.feature_info.reduction() == [4, 8, 16, 32]
    model = detector(body).train()
    images = [torch.rand(3, 64, 96), torch.rand(3, 60, 80)]
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [20.0, 10.0, 60.0, 50.0]])
    losses = model(images, [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in images])
    learns(body, sum(losses.values()), model)
    with torch.no_grad():
        assert len(model.eval()(images)) == 2


def test_a_step_of_segmentation(found):
    body = load_backbone(found[0], out_indices=(3,)).train()
    head = FCNHead(*body.feature_info.channels(), 5)
    model = nn.ModuleList([body, head])
    x, y = torch.rand(2, 3, 64, 96), torch.randint(5, (2, 64, 96))
    logits = nn.functional.interpolate(head(body(x)[0]), x.shape[2:])
    learns(body, nn.functional.cross_entropy(logits, y), model)


def learns(body, loss, model):
    """A step moves all weights of the backbone."""
    before = {name: p.detach().clone() for name, p in body.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert not [name for name, p in body.named_parameters() if torch.equal(p, before[name])]


def test_timm_makes_them(tmp_path):
    """``features_only`` as for timm's own, with weights that were exported."""
    space = spaces.get("mobile-small", 3, 32, 10)
    network = Network(space, (1, 0, 1, 1, 3, 2), kernels="eager").eval()
    formats.export(network, network, tmp_path / "net.pt2", (3, 32, 32), {})
    options = {"arch": list(network.arch), "in_chans": 3, "img_size": 32, "features_only": True}
    model = timm.create_model(
        "supernet_mobile_small", checkpoint_path=str(tmp_path / "net.safetensors"), out_indices=(0, 1), **options
    ).eval()
    assert model.feature_info.reduction() == backbone(network).feature_info.reduction()[:2]
    x = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        assert all(map(torch.equal, model(x), backbone(network, (0, 1))(x)))
