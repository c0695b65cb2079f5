"""Networks of stages: published counts, other libraries' modules, weights from deeper networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models import nasnet as timm_nasnet
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet as torchvision_resnet

from search.costs import AdditiveCost
from supernet import donors, families
from supernet.errors import UserError
from supernet.families import module_stages, nasnet
from supernet.model import Network, Supernet
from supernet.training import checkpoint

# Stage-Wise NAS, iterations 1 to 5: modules; parameters with BN's statistics, as Keras counts; million multiply-adds.
PUBLISHED = [
    ((6, 8, 6), 605_610, 92.7),
    ((8, 10, 6), 652_650, 111.6),
    ((10, 12, 6), 699_690, 130.5),
    ((10, 12, 8), 848_426, 139.9),
    ((10, 14, 8), 885_930, 149.3),
]
SMALL = {
    "residual": {"width": 4, "deepest": 3},
    "bottleneck": {"width": 4, "stages": 4, "stem_stride": 4, "deepest": 3},
    "nasnet": {"width": 4, "deepest": 4},
}


def small(module: str, modules=None, kernels="eager", resolution=20) -> Network:
    space = module_stages.space(module, 2, resolution, 5, **SMALL[module])
    modules = modules or (3, 2, 2, 2)[: len(space.genes)]
    return Network(space, module_stages.arch(space, modules), kernels=kernels)


@pytest.mark.parametrize(("modules", "params", "flops"), PUBLISHED)
def test_the_five_published_candidates(modules, params, flops):
    space = module_stages.space("residual", 3, 32, 10)
    arch = module_stages.arch(space, modules)
    with torch.device("meta"):
        network = Network(space, arch, kernels="eager")
    statistics = sum(value.numel() for name, value in network.named_buffers() if "running" in name)
    assert sum(p.numel() for p in network.parameters()) + statistics == params
    assert families.params(space, arch) + statistics == params
    assert round(families.flops(space, arch) / 1e6, 1) == flops


def test_published_sizes_of_the_other_modules():
    """ResNet-50: 25,557,032 parameters, 4.09 G multiply-adds (torchvision). NASNet-A (6 @ 768): 3.3 M parameters."""
    space = module_stages.space("bottleneck", 3, 224, 1000, width=64, stages=4, stem_stride=4)
    arch = module_stages.arch(space, (3, 4, 6, 3))
    assert families.params(space, arch) == 25_557_032
    assert round(families.flops(space, arch) / 1e9, 2) == 4.09
    space = module_stages.space("nasnet", 3, 32, 10, width=32)
    assert space.head_channels == 768
    assert round(families.params(space, module_stages.arch(space, (6, 6, 6))) / 1e6, 1) == 3.3


@pytest.mark.parametrize("module", SMALL)
def test_counts_equal_those_of_the_network(module):
    network = small(module, resolution=21).eval()
    space, arch = network.space, network.arch
    assert families.params(space, arch) == sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 2, 21, 21))
    assert 2 * families.flops(space, arch) == counter.get_total_flops()
    assert {spec.key for spec in families.lower(space, arch)} <= {spec.key for spec in families.layout(space).every()}


@pytest.mark.parametrize("module", SMALL)
def test_costs_by_genes_equal_the_sum_over_layers(module):
    space = small(module).space
    cost = AdditiveCost(*families.layout(space).priced(lambda spec: spec.flops))
    rng = np.random.default_rng(0)
    for arch in (space.sample(rng) for _ in range(5)):
        assert cost(arch) == families.flops(space, arch)


@pytest.mark.parametrize("module", SMALL)
def test_fused_and_eager_agree(module):
    eager, fused = small(module), small(module, kernels="fused")
    fused.load_state_dict(eager.state_dict())
    x = torch.randn(6, 2, 20, 20)
    for bias in (p for name, p in eager.named_parameters() if name.endswith("conv.bias")):
        torch.nn.init.normal_(bias)  # zero at first, and then no test of the folding
    fused.load_state_dict(eager.state_dict())
    for mode in (True, False):
        expected = eager.train(mode)(x)
        torch.testing.assert_close(fused.train(mode)(x), expected, rtol=2e-3, atol=2e-4)


def cell_pair(kind, cell, cin, before, channels, halve=False):
    """A cell of ours with timm's weights, and timm's."""
    first = halve
    left = channels // 2 if first else channels
    theirs = kind(before, left, cin, channels).eval()
    options = {"affine": True, "eps": 1e-3, "kernels": "eager"}
    ours = nasnet.Cell(*cell, cin, before, channels, halve, **options).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.5)
    names = {"conv_1x1.": "squeeze.conv.", "conv_prev_1x1.": "squeeze_before.conv."}
    names |= {"path_1.conv": "squeeze_before.even", "path_2.conv": "squeeze_before.odd"}
    names |= {"final_path_bn": "squeeze_before.bn"}
    state = {}
    for key, value in theirs.state_dict().items():
        for old, new in names.items():
            key = new + key.removeprefix(old) if key.startswith(old) else key
        if key.startswith("comb_iter"):
            block, side, *rest = key.removeprefix("comb_iter_").replace(".", "_", 1).split("_", 2)
            rest = rest[0]
            for i in "12":
                rest = rest.replace(f"separable_{i}.depthwise_conv2d", f"depthwise{i}")
                rest = rest.replace(f"separable_{i}.pointwise_conv2d", f"pointwise{i}.conv")
                rest = rest.replace(f"bn_sep_{i}", f"pointwise{i}.bn")
            key = f"separable.block{block}_{side}.{rest}"
        state[key] = value
    ours.load_state_dict(state)
    return ours, theirs


@pytest.mark.parametrize("size", [8, 7])
def test_cells_equal_timm_s(size):
    x, before, large = (
        torch.randn(2, 10, size, size),
        torch.randn(2, 6, size, size),
        torch.randn(2, 6, 2 * size, 2 * size),
    )
    normal, reduction = (nasnet.NORMAL, nasnet.NORMAL_OUTPUT), (nasnet.REDUCTION, nasnet.REDUCTION_OUTPUT)
    for kind, cell, other, halve in (
        (timm_nasnet.NormalCell, normal, before, False),
        (timm_nasnet.ReductionCell0, reduction, before, False),
        (timm_nasnet.FirstCell, normal, large, True),
    ):
        ours, theirs = cell_pair(kind, cell, 10, 6, 4, halve)
        with torch.no_grad():
            torch.testing.assert_close(ours(x, other), theirs(x, other), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def resnet():
    """torchvision's ResNet with 2, 1, 2, 1 bottlenecks, far narrower than any published one."""
    model = torchvision_resnet.ResNet(torchvision_resnet.Bottleneck, [2, 1, 2, 1], num_classes=7, width_per_group=64)
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.running_var, 0.5, 2)
            torch.nn.init.normal_(m.running_mean)
    return model.eval()


def test_a_resnet_of_torchvision_computes_the_same_here(resnet):
    donor = donors.from_resnet(resnet.state_dict(), "resnet")
    assert module_stages.depths(donor.space, donor.arch) == (2, 1, 2, 1)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(donor(x), resnet(x), rtol=1e-3, atol=1e-3)


def test_a_candidate_takes_the_first_modules_of_a_resnet(resnet):
    """Against torchvision's own network, its stages cut short."""
    donor = donors.from_resnet(resnet.state_dict(), "resnet")
    space = module_stages.space("bottleneck", 3, 64, 7, width=64, stages=4, stem_stride=4, deepest=2)
    network = Network(space, module_stages.arch(space, (1, 1, 1, 1)), kernels="eager").eval()
    donors.transfer(network, donor)
    layers = [resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool]
    layers += [layer[0] for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)]
    short = torch.nn.Sequential(*layers, resnet.avgpool, torch.nn.Flatten(), resnet.fc)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), short(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("module", SMALL)
def test_transfer_copies_stem_first_modules_and_head(module):
    donor, deep = small(module, kernels="fused"), SMALL[module]["deepest"]
    for value in donor.state_dict().values():
        value.copy_(torch.rand_like(value.float()))
    modules = tuple(2 for _ in donor.space.genes)
    space = module_stages.space(
        module, 2, 20, 5, **{**SMALL[module], "deepest": deep - 1}
    )  # other bounds, same modules
    network = Network(space, module_stages.arch(space, modules), kernels="eager")
    donors.transfer(network, donor)
    names = {"stem": "stem", "head": "head"}
    starts = np.cumsum([0, *module_stages.depths(donor.space, donor.arch)])
    for stage in range(len(modules)):
        for j in range(2):
            names[f"layers.{2 * stage + j}"] = f"layers.{starts[stage] + j}"
    given = donor.state_dict()
    for ours, theirs in names.items():
        for key, value in network.state_dict().items():
            if key.startswith(f"{ours}."):
                assert torch.equal(value, given[theirs + key.removeprefix(ours)]), key


def test_a_head_of_other_classes_stays():
    donor, network = small("residual"), small("residual", (1, 1, 1))
    space = module_stages.space("residual", 2, 20, 6, **SMALL["residual"])
    other = Network(space, network.arch, kernels="eager")
    before = other.head.classifier.weight.clone()
    donors.transfer(other, donor)
    assert torch.equal(other.head.classifier.weight, before)
    assert torch.equal(other.stem.conv.weight, donor.stem.conv.weight)


def test_donors_that_do_not_fit():
    donor = small("residual", (2, 1, 2))
    with pytest.raises(UserError, match="the donor has stages of 2-1-2 modules, but 3-2-2 are needed"):
        donors.transfer(small("residual"), donor)
    with pytest.raises(UserError, match=r"the donor has stages of 2-1-2 modules, but 3-2-2-2"):
        donors.transfer(small("bottleneck"), donor)
    wide = module_stages.space("residual", 2, 20, 5, width=6, deepest=3)
    with pytest.raises(UserError, match=r"the stem has bn.bias of shape \(4,\) here and \(6,\) there"):
        donors.transfer(small("residual", (1, 1, 1)), Network(wide, (1, 1, 1), kernels="eager"))
    other = Network(module_stages.space("bottleneck", 2, 20, 5, width=4, deepest=1), (0, 0, 0), kernels="eager")
    with pytest.raises(UserError, match=r"the stem has conv.bias of shape \(4,\) here and nothing there"):
        donors.transfer(small("residual", (1, 1, 1)), other)


def test_donors_from_files(tmp_path, resnet):
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    donor = donors.load(str(tmp_path / "resnet.pth"))
    assert torch.equal(donor.stem.conv.weight, resnet.conv1.weight)
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no weights"):
        donors.load(str(tmp_path / "broken.pth"))
    weights = {key: value for key, value in resnet.state_dict().items() if "conv3" not in key}
    torch.save(weights, tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match="does not hold the weights of a ResNet of bottlenecks"):
        donors.load(str(tmp_path / "resnet18.pth"))
    with pytest.raises(UserError, match="cannot get timm's resnet_no_such"):
        donors.load("timm:resnet_no_such")
    with pytest.raises(UserError, match="no checkpoint at"):
        donors.load(str(tmp_path / "nowhere"))


def test_donors_of_ours(tmp_path):
    network = small("residual")
    meta = {"kind": "network", "space": network.space.to_json(), "arch": list(network.arch)}
    checkpoint.save(tmp_path / "checkpoint.pt", {"model": network.state_dict(), "meta": meta})
    for source in (tmp_path, tmp_path / "checkpoint.pt"):
        donor = donors.load(str(source))
        assert module_stages.depths(donor.space, donor.arch) == (3, 2, 2)
        assert torch.equal(donor.head.classifier.weight, network.head.classifier.weight)


def test_impossible_spaces():
    for options, message in (
        ({"module": "dense"}, "among residual, bottleneck, nasnet, got 'dense'"),
        ({"module": "nasnet", "width": 5}, "width 5: expected at least 1, and even for nasnet"),
        ({"module": "nasnet", "deepest": 1}, "at least 2 of nasnet"),
        ({"module": "residual", "stem_stride": 3}, "stem stride 3: expected 1, 2 or 4"),
    ):
        with pytest.raises(UserError, match=message):
            module_stages.space(**{"channels": 1, "resolution": 28, "classes": 10, **options})
    space = module_stages.space("residual", 1, 28, 10, deepest=4)
    with pytest.raises(UserError, match="3 stages of 1 to 4 modules, asked for 2-5-2"):
        module_stages.arch(space, (2, 5, 2))
    with pytest.raises(UserError, match="it has no supernet"):
        Supernet(space)
