"""Networks as modules of torch alone: names, weights, logits, and files for where neither timm nor this library is."""

import re
import subprocess
import sys
import zlib

import pytest
import torch
from conftest import refused
from test_given import made, sub_networks
from torch import nn

from supernet.export import formats
from supernet.export import source as export
from supernet.families.given import family, sorting, source
from supernet.model import Network, Supernet, batch_norms
from supernet.size import Size

MODELS = [
    "timm:resnet18",
    "timm:mobilenetv2_050",
    "timm:mobilenetv3_small_050",
    "timm:efficientnet_b0",  # squeeze-excite, SiLU
    "timm:tf_efficientnetv2_b0",  # TensorFlow's padding
    "timm:regnetx_002",
    "timm:convnext_atto",
    "timm:densenet121",
    "timm:vit_tiny_patch16_224",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:mobilenet_v3_small",
]
IMAGES = (3, Size(64, 96), 10)
ELSEWHERE = """
import importlib.util, json, sys
from pathlib import Path
sys.modules |= dict.fromkeys(("timm", "supernet", "torchvision", "safetensors"))  # importing one raises ImportError
import torch
torch.set_num_threads(1)
for path in sorted(Path(sys.argv[1]).glob("*.py")):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network, (x, y) = module.load(), torch.load(path.with_suffix(".case"), weights_only=True)
    with torch.inference_mode():
        print(path.stem, float((network(x) - y).abs().max() / y.abs().max()))
"""


def whole(space):
    return tuple(len(gene.choices) - 1 for gene in space.genes)


def network_of(reference):
    return Network(made(reference), whole(made(reference)), kernels="eager").eval()


def filled(reference):
    """A supernet of a network with random weights, all of which matter, and their state dict."""
    torch.manual_seed(zlib.crc32(reference.encode()))
    supernet = Supernet(made(reference, IMAGES), affine=True, kernels="eager").eval()
    state = source.make(reference, *IMAGES).state_dict()
    for name, value in state.items():
        if value.is_floating_point() and value.ndim < 2:
            value.uniform_(0.5, 1.5) if "var" in name else value.add_(0.1 * torch.randn_like(value))
    family.load(supernet.shared, state)
    return supernet, state


@pytest.fixture(scope="module", params=MODELS)
def both(request):
    return filled(request.param)


def test_the_largest_has_the_given_networks_state_dict(both):
    supernet, given = both
    plain = supernet.extract(supernet.layout.whole).plain().state_dict()
    assert plain.keys() == given.keys()
    assert all(torch.equal(plain[name], value) for name, value in given.items())


def test_the_given_networks_own_class_takes_its_weights(both):
    """With sorted channels, too: the library's own network with these weights gives the logits."""
    supernet, given = both
    sorting.sort(supernet.shared, supernet.layout)
    model = source.make(supernet.space.model, *IMAGES)
    model.load_state_dict(supernet.extract(supernet.layout.whole).plain().state_dict())
    original = source.make(supernet.space.model, *IMAGES)
    original.load_state_dict(given)
    x = torch.randn(2, 3, *supernet.space.input_size)
    with torch.no_grad():
        torch.testing.assert_close(model(x), original(x), rtol=1e-4, atol=1e-5)


def test_modules_are_torchs_and_give_the_same(both):
    supernet, given = both
    for arch in sub_networks(supernet.space, 2):
        network = supernet.extract(arch)
        plain = network.plain()
        assert {type(module).__module__.split(".")[0] for module in plain.modules()} == {"torch"}
        close(plain, network, torch.randn(2, 3, *supernet.space.input_size))
        names = plain.state_dict()
        assert names.keys() <= given.keys()
        assert all(a <= b for n, v in names.items() for a, b in zip(v.shape, given[n].shape, strict=True))


def close(one, other, x):
    with torch.no_grad():
        expected = other(x)
        assert (one(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("references", [MODELS[:2], pytest.param(MODELS, marks=pytest.mark.chain)])
def test_files_run_where_nothing_else_is_installed(tmp_path, references):
    for reference in references:
        supernet, _ = filled(reference)
        space = supernet.space
        x = torch.randn(2, 3, *space.input_size)
        for i, arch in enumerate(sub_networks(space, 2)):
            network, path = supernet.extract(arch), tmp_path / f"{reference.replace(':', '-')}-{i}.py"
            formats.export(network, network, path, network.input_shape, {"arch": list(arch)})
            assert formats.read_metadata(path) == {"arch": list(arch)}
            with torch.no_grad():
                torch.save((x, network(x)), path.with_suffix(".case"))
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    differences = dict(line.split() for line in done.stdout.splitlines())
    assert len(differences) == 2 * len(references)
    assert max(map(float, differences.values())) <= 1e-5, differences


def test_a_source_is_for_people():
    """ResNet-18's blocks as one would write them."""
    network = network_of("timm:resnet18")
    (file,) = formats.FORMATS["py"].convert([network], [(3, 32, 32)])
    text = export.unpacked(file)[0]
    assert "self.layer1[0].conv1 = nn.Conv2d(64, 64, 3, padding=1, bias=False)\n" in text
    assert (
        "        y = self.layer1[0].bn2(y)\n        x = y + x\n        x = self.layer1[0].act2(x)\n"
        "        y = self.layer1[1].conv1(x)\n"
    ) in text


def test_networks_of_every_family(small_space):
    for arch in sub_networks(small_space, 3):
        network = Network(small_space, arch, kernels="eager").eval()
        for bn in batch_norms(network.path()):
            nn.init.uniform_(bn.running_var, 0.5, 2)
        plain = network.plain()
        assert plain.state_dict().keys() == network.state_dict().keys()
        close(plain, network, torch.randn(2, *network.input_shape))


def test_it_trains_as_the_network_does():
    space = made("timm:mobilenetv3_small_050")
    network = Network(space, whole(space), kernels="eager").train()
    network.head.get_submodule("classifier").weight.data.normal_(0, 0.1)
    plain, x = network.plain(), torch.randn(4, 3, 64, 64)
    assert plain.training
    for model in (network, plain):
        model(x).square().mean().backward()
    found = dict([*plain.named_parameters(), *plain.named_buffers()])
    for name, expected in [*network.named_parameters(), *network.named_buffers()]:
        given = re.sub(r"^(stem|head|layers\.\d+)\.", "", name).replace("/", ".")
        torch.testing.assert_close(found[given], expected)
        if expected.requires_grad:
            torch.testing.assert_close(found[given].grad, expected.grad, rtol=1e-3, atol=1e-5)


def test_images_of_other_sizes():
    space = made("torchvision:shufflenet_v2_x1_0")
    plain = Network(space, whole(space), kernels="eager").eval().plain()
    model = source.make(space.model, *space.images)
    model.load_state_dict(plain.state_dict())
    for size in ((96, 160), (75, 50)):
        close(plain, model, torch.randn(2, 3, *size))


def test_what_cannot_be_written():
    assert "torch alone: swin_transformer.py, line" in refused(network_of("torchvision:swin_t").plain)
    fused = Network(made("timm:resnet18"), whole(made("timm:resnet18")))
    with pytest.raises(ValueError, match="expected an eager network"):
        fused.plain()


def test_a_source_of_ones_own_is_not_written_over(tmp_path):
    path, network = tmp_path / "mine.py", network_of("timm:resnet18")
    path.write_text("def network(): ...\n")
    path.with_suffix(".pt").write_bytes(b"weights")
    assert "mine.py is not written over" in refused(formats.export, network, network, path, (3, 32, 32), {})
    assert path.with_suffix(".pt").read_bytes() == b"weights"
    path = tmp_path / "found.py"
    for _ in range(2):
        formats.export(network, network, path, (3, 32, 32), {})
