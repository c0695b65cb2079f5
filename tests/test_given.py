"""A given network as a space: against the network itself, and against networks with channels set to zero by hand."""

import copy
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import refused
from torch import nn

from supernet import families, spaces
from supernet.families import given, resolutions
from supernet.families.given import family, source, trace, verify
from supernet.families.given.layout import layout_of
from supernet.model import Supernet
from supernet.size import Size

SMALL = (3, Size.of(32), 10)
MODELS = [
    "timm:resnet18",  # shortcuts
    "timm:mobilenetv3_small_050",  # depthwise, squeeze-excite
    "timm:regnetx_002",  # grouped convolutions
    "timm:densenet121",  # concatenations
    "timm:ghostnet_100",  # slices
    "timm:convnext_atto",  # LayerNorm, linear layers on the last axis, scales of layers
    "torchvision:shufflenet_v2_x1_0",  # shuffled channels
    "torchvision:squeezenet1_1",  # a head that is a convolution
]


def made(reference, images=SMALL):
    return spaces.get(reference, images[0], images[1], images[2])


def sub_networks(space, n, seed=0):
    rng = np.random.default_rng(seed)
    return [tuple(open_[0] for open_ in space.allowed), *(space.sample(rng) for _ in range(n - 1))]


@pytest.fixture(scope="module", params=MODELS)
def space(request):
    return made(request.param)


def test_the_largest_architecture_is_the_network(space):
    assert verify.difference(space) < 1e-9


def test_parameters_and_multiply_adds_are_the_networks(space):
    """Against the network's own parameters, and products counted by hooks while it runs."""
    layout = layout_of(space)
    model = source.make(space.model, *space.images)
    assert families.params(space, layout.whole) == sum(p.numel() for p in model.parameters())
    assert families.flops(space, layout.whole) == products(model, space)


def products(model, space):
    found = []

    def count(module, args, out):
        found.append(out[0].numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.randn(1, space.channels, *space.input_size))
    return sum(found)


@pytest.mark.parametrize(
    ("reference", "size"),
    [
        ("timm:ghostnetv2_100", 64),  # kernels of 1×5
        ("timm:efficientvit_b0", 64),  # convolutions in modules that are not traced
        ("timm:rdnet_tiny", 32),  # a layer that begins with a vector
    ],
)
def test_multiply_adds_of_every_convolution(reference, size):
    space = made(reference, (3, Size.of(size), 10))
    model = source.make(space.model, *space.images)
    assert families.flops(space, layout_of(space).whole) == products(model, space)


def test_sub_networks_run_as_slices_and_alone(space):
    """The extracted network has the parameters that are counted, and gives what the slices gave."""
    torch.manual_seed(0)
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    x = torch.randn(2, space.channels, *space.input_size)
    for arch in sub_networks(space, 3):
        alone = supernet.extract(arch)
        with torch.no_grad():
            torch.testing.assert_close(alone(x), supernet(x, arch), rtol=1e-4, atol=1e-5)
        assert sum(p.numel() for p in alone.parameters()) == families.params(space, arch)


@pytest.mark.parametrize("reference", ["timm:resnet18", "timm:convnext_atto", "timm:mobilenetv3_small_050"])
def test_all_of_a_network_matters_where_it_is_compared(reference):
    """Logits depend on every parameter, though branches begin with scales of 0, or nearly."""
    torch.manual_seed(0)
    model, x = source.make(reference, *SMALL).double(), torch.randn(8, 3, 32, 32, dtype=torch.double)
    verify.enliven(model, x)
    assert not model.training
    out = model(x)
    gradients = torch.autograd.grad(out.square().mean(), list(model.parameters()))
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


def test_parts_that_are_left_out_do_not_learn(space):
    torch.manual_seed(0)
    supernet = Supernet(space, affine=True, kernels="eager").train()
    arch = sub_networks(space, 1)[0]
    x = torch.randn(2, space.channels, *space.input_size)
    supernet(x, arch).square().mean().backward()
    alone = sum(p.numel() for p in supernet.extract(arch).parameters())
    learnt = sum(int((p.grad != 0).sum()) for p in supernet.parameters() if p.grad is not None)
    assert 0 < learnt <= alone


def test_depth_leaves_out_the_last_blocks():
    """ResNet-18 of one block a stage, built by timm itself."""
    import timm

    space = made("timm:resnet18")
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    shallow = tuple(0 if gene.choices[0].op == "depth" else len(gene.choices) - 1 for gene in space.genes)
    assert sum(gene.choices[0].op == "depth" for gene in space.genes) == 4
    model = timm.create_model("resnet18", num_classes=10).eval()
    state = model.state_dict()
    family.load(supernet.shared, state)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        del stage[1]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, shallow), model(x), rtol=1e-4, atol=1e-5)


def test_a_branch_of_a_block_is_no_block():
    """The last part of ConViT's blocks gives what it gets in as many channels; what it got is added outside of it."""
    depths = [gene for gene in made("timm:convit_tiny", (3, Size.of(224), 10)).genes if gene.choices[0].op == "depth"]
    assert [(gene.name, len(gene.choices)) for gene in depths] == [("depth blocks.0", 10)]


@pytest.mark.parametrize("module", [True, False])
def test_a_softmax_over_channels_keeps_them_whole(tmp_path, module):
    """What is left would sum to 1 again."""
    shares = "self.shares(self.one(x))" if module else "torch.softmax(self.one(x), dim=1)"
    file = tmp_path / f"shares_{module}.py"
    file.write_text(f"""
import torch
from torch import nn

class Shares(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.shares = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Softmax(1)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.two({shares}).mean((2, 3)))

def network(classes):
    return Shares()
""")
    assert [gene.name for gene in made(f"{file}:network").genes] == ["width two"]


def test_narrow_is_the_network_without_the_last_channels():
    """A channel that nothing reads is one that is not there: timm's own network with zeros in the weights."""
    import timm

    space = made("timm:resnet18")
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    model = timm.create_model("resnet18", num_classes=10).eval()
    arch = [len(gene.choices) - 1 for gene in space.genes]
    place = next(i for i, gene in enumerate(space.genes) if gene.name == "width layer2.1.conv1")
    arch[place] = 2
    kept = space.genes[place].choices[2].count
    family.load(supernet.shared, model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        model.layer2[1].conv2.weight[:, kept:] = 0
        torch.testing.assert_close(supernet(x, tuple(arch)), model(x), rtol=1e-4, atol=1e-5)


def test_kernels_are_cut_to_their_centre():
    import timm

    space = made("timm:mobilenetv3_small_050")
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    model = timm.create_model("mobilenetv3_small_050", num_classes=10).eval()
    family.load(supernet.shared, model.state_dict())
    arch = tuple(0 if gene.choices[0].op == "kernel" else len(gene.choices) - 1 for gene in space.genes)
    cut = [gene.name.split()[1] for gene in space.genes if gene.choices[0].op == "kernel"]
    with torch.no_grad():
        for name in cut:
            weight = model.get_submodule(name).weight
            ring = torch.ones_like(weight, dtype=torch.bool)
            ring[..., 1:-1, 1:-1] = False
            weight[ring] = 0
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(supernet(x, arch), model(x), rtol=1e-4, atol=1e-5)


def test_counts_of_sub_networks_are_those_of_the_slices(space):
    """Multiply-adds of each layer, from the shapes of the weights that it has alone and of what it gives."""
    for arch in sub_networks(space, 2):
        for spec in families.lower(space, arch):
            layer = spec.build(kernels="eager")
            for name, conv in spec.convs.items():
                weight = layer.get_submodule(name.replace(".", "/")).weight
                assert conv.flops == weight.numel() * conv.size.pixels


def test_tables_of_costs_add_up(space):
    layout = layout_of(space)
    for price in (lambda spec: spec.flops, lambda spec: spec.params):
        tables, base, deciding = layout.priced(price)
        for arch in sub_networks(space, 3):
            found = base + sum(table[tuple(arch[g] for g in own)] for table, own in zip(tables, deciding, strict=True))
            assert found == sum(map(price, layout.pick(arch)))


def test_layers_alike_have_one_key():
    """The two convolutions of a block of ResNet-18 differ by the shortcut; those of equal blocks do not."""
    layout = layout_of(made("timm:resnet34"))
    keys = {next(iter(spec.convs)): spec.key for spec in layout.units()}
    assert keys["layer3.2.conv1"] == keys["layer3.3.conv1"]
    assert keys["layer3.2.conv1"] != keys["layer3.2.conv2"]
    assert len(set(keys.values())) < len(keys)


def test_units_of_the_same_ends_are_different_layers():
    """A unit can have widths that neither its first input nor its last output shows: MixNet's split kernels."""
    layout = layout_of(made("timm:mixnet_s"))
    smallest = tuple(open_[0] for open_ in layout.space.allowed)
    place = next(i for i, spec in enumerate(layout.units()) if "blocks.1.0.conv_pw.0" in spec.convs)
    small, large = layout.layer(place, smallest), layout.layer(place, layout.whole)
    assert small.params < large.params
    assert len({small, large}) == 2


def test_specs_and_supernets_are_the_same_in_another_process():
    space = made("timm:resnet18")
    spec = families.lower(space, sub_networks(space, 2)[1])[3]
    assert pickle.loads(pickle.dumps(spec)) is spec
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    x, arch = torch.randn(2, 3, 32, 32), sub_networks(space, 1)[0]
    with torch.no_grad():
        expected = supernet(x, arch)
        assert torch.equal(copy.deepcopy(supernet)(x, arch), expected)
        assert torch.equal(pickle.loads(pickle.dumps(supernet))(x, arch), expected)


def test_a_gene_for_the_resolution():
    space = families.with_resolutions(made("timm:resnet18"), [24, 32])
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    assert resolutions.varies(space)
    for arch in sub_networks(space, 3):
        assert supernet(torch.randn(2, 3, 32, 32), arch).shape == (2, 10)


def test_images_that_are_not_square():
    space = made("timm:mobilenetv3_small_050", (3, Size(32, 48), 10))
    assert families.lower(space, sub_networks(space, 1)[0])[0].size == Size(32, 48)
    assert verify.difference(space) < 1e-9


def test_a_space_is_read_from_a_file_without_code(tmp_path):
    space = made("timm:resnet18")
    assert type(space).from_json(space.to_json()) == space
    other = space.to_json() | {"model": "FILE.py:function"}
    del other["fingerprint"]
    assert families.of(space) is given.FAMILY
    assert "not allowed" in refused(families.layout, type(space).from_json(other))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("timm:resnet81", "did you mean resnet18"),
        ("timm:nope", "is not known: did you mean"),
        ("torchvision:nope", "is not known: did you mean"),
        ("torchvision:resnet", "is not known"),
        ("timm:", "is not known"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "is not known"),
    ],
)
def test_unknown_networks(reference, expected):
    assert expected in refused(spaces.get, reference, *SMALL)


def test_a_network_that_cannot_be_traced_names_the_line():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return self.conv(x) if x.mean() > 0 else x

    message = refused(trace.trace, Branching(), 3, Size.of(8), "mine")
    assert "mine cannot be traced: test_given.py, line" in message
    assert "if x.mean() > 0" in message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("torchvision:efficientnet_b0", "timm:efficientnet_b0"),  # stochastic depth is a function in torchvision
        ("torchvision:convnext_tiny", "timm:convnext_tiny"),  # timm's blocks are a module in that of their stage
        ("torchvision:mobilenet_v2", "timm:mobilenetv2_100"),  # torchvision's are one sequence, timm's have stages
        ("timm:convnextv2_atto", "timm:convnext_atto"),  # a norm of whole responses
    ],
)
def test_networks_alike_have_the_same_genes(one, other):
    def counts(reference):
        return Counter(gene.choices for gene in made(reference, (3, Size.of(64), 10)).genes)

    assert counts(one) == counts(other)


def test_what_stays_whole_and_why():
    whole = layout_of(made("timm:vgg11_bn")).network.whole
    assert "cannot be traced" in whole["features.25"]
    assert whole["head.fc"] == "they are the network's output"
    shuffled = layout_of(made("torchvision:shufflenet_v2_x1_0")).network.whole
    assert any("told apart" in reason for reason in shuffled.values())
