"""Networks of every family of timm's and torchvision's CNNs as spaces, and some with attention; random weights."""

import numpy as np
import pytest
import torch
from conftest import refused

from experiments import given_models
from supernet import families, spaces
from supernet.export import source as export
from supernet.families.given import source, verify
from supernet.model import Supernet

OTHERS = """
cspdarknet53 cspresnet50 selecsls42 dla34 res2net50_26w_4s rexnet_100 dpn68 repghostnet_050 gernet_s hgnet_tiny
fasternet_t0 edgenext_xx_small repvit_m0_9 starnet_s1 xception41 inception_v4 poolformer_s12 mambaout_femto
nf_seresnet26 eca_nfnet_l0 rdnet_tiny caformer_s18 visformer_tiny efficientvit_m0 efficientvim_m1 maxvit_pico_rw_256
halonet26t tiny_vit_5m_224 vit_tiny_r_s16_p8_224 crossvit_tiny_240
"""
ATTENTION = """
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 eva02_tiny_patch14_224 pvt_v2_b0 vit_relpos_small_patch16_224
"""
CONVERT = [
    *(f"timm:{name}" for name in (*given_models.NAMED.split(), *OTHERS.split(), *ATTENTION.split())),
    *(f"torchvision:{name}" for name in given_models.TORCHVISION.split()),
]
FIXED = ("vi", "swin", "inception", "hybrid", "edgenext", "eva", "halonet")  # need images of their usual size

# They branch on the size of their images, which a trace for any size cannot follow.
BRANCH = ("timm:vgg11", "timm:vgg16_bn", "timm:efficientvit_m0", "timm:tiny_vit_5m_224", "timm:crossvit_tiny_240")
BRANCH += ("timm:vit_tiny_r_s16_p8_224", "torchvision:swin_t")


def size(reference):
    return source.usual_images(reference)[1] if any(word in reference for word in FIXED) else 64


def test_the_number_of_networks():
    assert len(set(CONVERT)) >= 60


@pytest.mark.chain
@pytest.mark.parametrize("reference", CONVERT)
def test_the_network_converts(reference):
    """The largest architecture gives its logits, a random one runs, as Python code too, and has as many parameters as
    are counted.
    """
    space = spaces.get(reference, 3, size(reference), 10)
    assert any(gene.choices[0].op == "width" for gene in space.genes)
    assert verify.difference(space) < 1e-9
    arch = space.sample(np.random.default_rng(0))
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    network = supernet.extract(arch)
    x = torch.randn(1, 3, *space.input_size)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(expected, supernet(x, arch), rtol=1e-3, atol=1e-4)
    if reference in BRANCH:
        assert "cannot be written with torch alone" in refused(network.plain)
    else:
        (file,) = export.convert([network], [network.input_shape])
        torch.testing.assert_close(torch.tensor(export.load(file)(x.numpy())), expected, rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in network.parameters()) == families.params(space, arch)


@pytest.mark.chain
@pytest.mark.parametrize("name", [*ATTENTION.split(), "deit_tiny_patch16_224", "mobilenetv4_hybrid_medium"])
def test_each_attention_has_a_gene_of_its_heads(name):
    """Another module of timm's for each kind: windows, tables of positions, rotary ones, one head of keys for all."""
    space = spaces.get(f"timm:{name}", 3, size(f"timm:{name}"), 10)
    modules = source.make(space.model, *space.images).named_modules()
    parts = [path for path, module in modules if path.endswith("attn") and module.num_heads > 1]
    assert [gene.name for gene in space.genes if gene.choices[0].op == "heads"] == [f"heads {path}" for path in parts]
