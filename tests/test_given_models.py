"""Networks of every family of timm's and torchvision's CNNs as spaces, with random weights."""

import numpy as np
import pytest
import torch

from experiments import given_models
from supernet import families, spaces
from supernet.families.given import source, verify
from supernet.model import Supernet

OTHERS = """
cspdarknet53 cspresnet50 selecsls42 dla34 res2net50_26w_4s rexnet_100 dpn68 repghostnet_050 gernet_s hgnet_tiny
fasternet_t0 edgenext_xx_small repvit_m0_9 starnet_s1 xception41 inception_v4 poolformer_s12 mambaout_femto
nf_seresnet26 eca_nfnet_l0 rdnet_tiny caformer_s18 visformer_tiny efficientvit_m0 efficientvim_m1 maxvit_pico_rw_256
halonet26t tiny_vit_5m_224 eva02_tiny_patch14_224 vit_tiny_r_s16_p8_224 crossvit_tiny_240
"""
CONVERT = [
    *(f"timm:{name}" for name in (*given_models.NAMED.split(), *OTHERS.split())),
    *(f"torchvision:{name}" for name in given_models.TORCHVISION.split()),
]
FIXED = ("vi", "swin", "inception", "hybrid", "edgenext", "eva", "halonet")  # need images of their usual size


def size(reference):
    return source.usual_images(reference)[1] if any(word in reference for word in FIXED) else 64


def test_the_number_of_networks():
    assert len(set(CONVERT)) >= 60


@pytest.mark.chain
@pytest.mark.parametrize("reference", CONVERT)
def test_the_network_converts(reference):
    """The largest architecture gives its logits, a random one runs and has as many parameters as are counted."""
    space = spaces.get(reference, 3, size(reference), 10)
    assert any(gene.choices[0].op == "width" for gene in space.genes)
    assert verify.difference(space) < 1e-9
    arch = space.sample(np.random.default_rng(0))
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    network = supernet.extract(arch)
    x = torch.randn(1, 3, *space.input_size)
    with torch.no_grad():
        torch.testing.assert_close(network(x), supernet(x, arch), rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in network.parameters()) == families.params(space, arch)
