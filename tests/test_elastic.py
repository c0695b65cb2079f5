"""Elastic spaces: the authors' counts."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from search.costs import AdditiveCost, MaxCost
from search.evaluator import prefix_tree
from supernet import configurations, families, spaces
from supernet.families import elastic, elastic_presets
from supernet.families.base import peak
from supernet.model import Network, Supernet, batch_norms
from supernet.space import Choice, Space
from supernet.spec import LayerSpec
from supernet.training.bn import recalibrate_bn
from tests.conftest import refused

GOLDEN = json.loads((Path(__file__).parent / "data" / "elastic.json").read_text())
ROWS = {f"attentive-nas {tag}": row for tag, row in GOLDEN["attentive_nas"].items()}
for key, name in (
    ("ofa_mobilenetv3_w1.0", "ofa-mobilenetv3"),
    ("ofa_proxyless_w1.3", "ofa-proxyless"),
    ("ofa_resnet50", "ofa-resnet50"),
):
    ROWS |= {f"{name} {row['tag']}": row for row in GOLDEN[key]}


@pytest.mark.parametrize("row", ROWS)
def test_counts_are_those_of_the_authors_models(row):
    space = spaces.get(row.split()[0], 3, 224, 1000)
    arch = configurations.arch(space, ROWS[row])
    specs = families.lower(space, arch)
    assert sum(spec.flops for spec in specs) == ROWS[row]["macs"]
    assert sum(spec.params + configurations.unused(spec) for spec in specs) == ROWS[row]["params"]
    again = configurations.configuration(space, arch)
    assert configurations.arch(space, again) == arch


def tiny(kind: str, widths=(8, 16), unit="expand", expansions=(1, 3), kernels=(3, 5, 7), each=True) -> Space:
    """A space of a kind of stage, with a residual in its stem, odd sizes and widths that meet across stages."""
    options = {"each": each, "unit": unit}
    stages = [
        elastic_presets.stage("stem", "image_stem", (8, 16), 2, (1, 2)),
        elastic_presets.stage("stage1", kind, widths, 1, (1, 2), kernels, expansions, **options),
        elastic_presets.stage("stage2", kind, (16, 24), 2, (1, 2), kernels, expansions, **options),
    ]
    images = 2, 26, 5
    heads = {
        "attentive_se": [Choice("mix_head", expand=6, count=c) for c in (16, 24)],
        "resnet_d": [Choice("pool_head")],
    }
    head = heads.get(kind, [Choice("head", count=16)])
    return elastic_presets.space(f"tiny-{kind}", images, (9 * 224 / 26, 224), stages, head, "swish")


TINY = {
    "mobile_se": lambda: tiny("mobile_se"),
    "attentive_se": lambda: tiny("attentive_se", each=False),
    "resnet_d": lambda: tiny("resnet_d", unit="expand_percent", expansions=(25, 50), kernels=()),
}


@pytest.fixture(params=TINY)
def space(request) -> Space:
    return TINY[request.param]()


def sample(space, n, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(n)]


def ends(space):
    return [tuple(open_[end] for open_ in space.allowed) for end in (0, -1)]


def test_counts_equal_those_of_the_network(space):
    for arch in [*sample(space, 4), *ends(space)]:
        network = Network(space, arch, kernels="eager").eval()
        assert families.params(space, arch) == sum(p.numel() for p in network.parameters())
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *families.input_shape(space, arch)))
        assert 2 * families.flops(space, arch) == counter.get_total_flops()


def test_costs_by_genes_equal_the_sum_over_layers_and_bounds_equal_enumeration():
    space = tiny("attentive_se", kernels=(3, 5), each=False)
    pruned = space.restrict([{1}, *[{0, 1}] * 8, {0}, {0, 1}, {1}])
    archs, specs = pruned.enumerate()[::3], families.layout(pruned)
    for price in (lambda spec: spec.flops, lambda spec: float(np.cos(spec.params))):  # monotone, and not
        cost = AdditiveCost(*specs.priced(price))
        expected = [sum(map(price, specs.pick(arch))) for arch in archs]
        np.testing.assert_allclose([cost(arch) for arch in archs], expected, rtol=1e-12, atol=1e-12)
        values = [cost(arch) for arch in pruned.enumerate()]
        assert cost.bounds(pruned) == pytest.approx((min(values), max(values)), rel=1e-12)
    memory = MaxCost(*specs.priced(lambda spec: spec.activations, peak))
    assert [memory(arch) for arch in archs] == [
        max(spec.activations for spec in families.lower(space, arch)) for arch in archs
    ]


@pytest.mark.parametrize("name", elastic_presets.PRESETS)
def test_a_space_file_holds_all_of_a_space(name):
    space = spaces.usual(name)
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    largest = families.layout(space).largest
    assert families.lower(again, largest) == families.lower(space, largest)


def test_every_layer_of_every_architecture_is_listed(space):
    every = {spec.key for spec in families.layout(space).every()}
    assert {spec.key for arch in sample(space, 1500) for spec in families.lower(space, arch)} == every


def test_keys_tell_apart_what_differs(space):
    specs = set(families.layout(space).every())
    assert len({spec.key for spec in specs}) == len(specs)


# --- the supernet


def trained(supernet):
    """As if it had learnt something: every weight is another number, kernel matrices are no identities."""
    generator = torch.Generator().manual_seed(1)
    for p in supernet.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return supernet


def images(space, n=6):
    return torch.randn(
        n, space.channels, space.resolution, space.resolution, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_a_path_is_the_network_that_is_extracted(space, kernels):
    """After recalibration, from the smallest network to the largest."""
    supernet, x = trained(Supernet(space, affine=True, kernels=kernels)).eval(), images(space)
    for arch in [*sample(space, 6), *ends(space)]:
        recalibrate_bn(supernet, [x, x + 1], arch)
        network = supernet.extract(arch)
        with torch.no_grad():
            expected = supernet(x, arch)
            torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
        recalibrated = supernet.extract(arch)
        recalibrate_bn(recalibrated, [x, x + 1])
        for mine, theirs in zip(batch_norms(network.path()), batch_norms(recalibrated.path()), strict=True):
            torch.testing.assert_close(mine.running_var, theirs.running_var, rtol=1e-3, atol=1e-5)


def test_the_largest_path_uses_every_weight_as_it_is(space):
    """All tensors of the supernet, but matrices and shortcuts of smaller networks, are those of the largest network."""
    supernet, largest = trained(Supernet(space, affine=True)), families.layout(space).largest
    network, shared = supernet.extract(largest), supernet.state_dict()
    mine = network.state_dict()
    left = [name for name in shared if "matrices" not in name and "shortcut" not in name]
    assert sum(shared[name].numel() for name in left) == sum(v.numel() for k, v in mine.items() if "shortcut" not in k)
    assert not {"matrices", "layer"} & {part for name in mine for part in name.split(".")}


def test_a_slice_has_first_channels_and_the_centre_times_matrices():
    """One block against its formula in plain functions (once-for-all's code), with the batch's statistics."""
    space = tiny("mobile_se", kernels=(3, 5, 7), each=False)
    supernet = trained(Supernet(space, affine=True, kernels="eager")).train()
    block = supernet.layers[2][0]
    own = LayerSpec(block.layer.__class__, 8, 16, 13, 2, 3, 0, "swish", True, middle=24)
    layer, x = block.layer, torch.randn(5, 8, 13, 13)

    def norm(conv_bn, y):
        c = y.shape[1]
        return F.batch_norm(y, None, None, conv_bn.bn.weight[:c], conv_bn.bn.bias[:c], True)

    depthwise, excite, project = layer.separable
    kernel = depthwise.conv.weight[:24, :, 1:6, 1:6].reshape(24, 25)
    kernel = F.linear(kernel, block.matrices["7to5"]).view(24, 5, 5)[:, 1:4, 1:4].reshape(24, 9)
    kernel = F.linear(kernel, block.matrices["5to3"]).view(24, 1, 3, 3)
    y = F.silu(norm(layer.expand, F.conv2d(x, layer.expand.conv.weight[:24, :8])))
    y = F.silu(norm(depthwise, F.conv2d(y, kernel, stride=2, padding=1, groups=24)))
    squeezed = F.relu(F.conv2d(y.mean((2, 3), keepdim=True), excite.reduce.weight[:8, :24], excite.reduce.bias[:8]))
    y = y * F.hardsigmoid(F.conv2d(squeezed, excite.expand.weight[:24, :8], excite.expand.bias[:24]))
    expected = norm(project, F.conv2d(y, project.conv.weight[:16, :24]))
    torch.testing.assert_close(block.slice(own)(x), expected, rtol=1e-4, atol=1e-5)


def test_what_is_outside_of_a_slice_does_not_matter(space):
    """It may be NaN; only what the path has, has a gradient, and outside of the slice that is zero."""
    supernet, x = trained(Supernet(space, affine=True)), images(space)
    arch = ends(space)[0]
    supernet.eval()(x, arch).square().sum().backward()  # in training BN cancels what shifts before it do
    on_path = {id(p) for module in supernet.path(arch) for p in module.parameters()}
    unused = {}
    for name, p in supernet.named_parameters():
        assert (p.grad is not None) == (id(p) in on_path), name
        unused[name] = torch.ones_like(p, dtype=torch.bool) if p.grad is None else p.grad == 0
    with torch.no_grad():
        before = supernet.eval()(x, arch)
        for name, p in supernet.named_parameters():
            if "matrices" not in name and "separable.1" not in name:  # its ReLU lets some have no gradient either
                p[unused[name]] = torch.nan
        assert torch.equal(supernet(x, arch), before)


def test_copies_and_the_original_share_nothing(space):
    supernet, x = Supernet(space), images(space)
    arch = sample(space, 1)[0]
    supernet.train()(x, arch).sum().backward()
    other = copy.deepcopy(supernet).eval()
    with torch.no_grad():
        before = supernet.eval()(x, arch)
        for p in other.parameters():
            p.zero_()
        other(x, arch)
        assert torch.equal(supernet(x, arch), before)
    assert pickle.loads(pickle.dumps(supernet)).eval()(x, arch).equal(before)


def test_the_first_module_resizes_as_the_authors_do():
    space = spaces.usual("elastic-small")
    supernet, x = Supernet(space, kernels="eager").eval(), images(space)
    smallest, largest = ends(space)
    with torch.no_grad():
        resized = F.interpolate(x, size=14, mode="bicubic")
        assert torch.equal(supernet(x, smallest), supernet.extract(smallest)(resized))
        assert supernet.extract(largest).input_shape == (1, 28, 28)
    assert supernet.extract(smallest).input_shape == (1, 14, 14)


def test_layers_that_are_alike_in_two_stages_keep_their_own_statistics():
    """AttentiveNAS's last two stages both have blocks of 216 to 216 channels; here those of two stages meet."""
    stages = [
        elastic_presets.stage("stem", "image_stem", (8,), 2),
        elastic_presets.stage("stage1", "attentive", (8,), 1, (1, 2), (3,), (2,)),
        elastic_presets.stage("stage2", "attentive", (8, 16), 1, (1,), (3,), (2,)),
    ]
    space = elastic_presets.space("alike", (1, 8, 3), (224,), stages, [Choice("head", count=8)], "swish")
    one, two = (a for a in space.enumerate() if space.describe(a).count("width8"))
    tree = prefix_tree(Supernet(space), [one, two])
    assert len(list(tree)) == 1 + 2 + 2 + 3  # the images, what both have, then stage 2 and head, or a block more


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda genes: genes[1:], "expected the first gene to be the resolution"),
        (lambda genes: genes[:-1], "the last one the head"),
        (lambda genes: [*genes[:1], *genes[2:]], "expected image_stem first"),
        (lambda genes: [*genes[:3], *genes[4:]], "cannot be built: kernel 0: expected an odd number"),
        (lambda genes: [*genes[:-2], genes[-1]], "expected a gene of its depth"),
        (lambda genes: [dataclasses.replace(genes[0], choices=genes[0].choices[::-1]), *genes[1:]], "ascending counts"),
    ],
)
def test_genes_out_of_place_are_named(change, says):
    space = spaces.usual("elastic-small")
    genes = tuple(change(list(space.genes)))
    allowed = tuple(tuple(range(len(gene.choices))) for gene in genes)
    assert says in refused(elastic.FAMILY.layout, dataclasses.replace(space, genes=genes, allowed=allowed))
