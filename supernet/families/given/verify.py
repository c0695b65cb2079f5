"""Whether the largest architecture of a given network's space is the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernet.families.given import family
from supernet.families.given.layout import GivenLayout
from supernet.model import Supernet
from supernet.norm import BatchNorm
from supernet.space import Space

IMAGES = 2


@torch.no_grad()
def difference(space: Space, seed: int = 0) -> float:
    """The largest difference of the logits in eval mode, relative to the largest by which those of two images differ.

    Both have the same random weights, those of ``enliven``, in double precision, so that nothing passes as rounding;
    images are noise. The smallest architecture runs, too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(space, affine=True, kernels="eager").eval().double()
        layout = supernet.layout
        assert isinstance(layout, GivenLayout)
        channels, size, _ = layout.network.images
        model, x = layout.network.new(), torch.randn(IMAGES, channels, *size)
        enliven(model, x)
        model, x = model.double(), x.double()
        family.load(supernet.shared, model.state_dict())
        expected = model(x)
        supernet(x, tuple(open_[0] for open_ in space.allowed))
        spread = (expected - expected.flip(0)).abs().max()
        return float((supernet(x, layout.whole) - expected).abs().max() / spread.clamp_min(1e-30))


@torch.no_grad()
def enliven(model: nn.Module, x: Tensor) -> None:
    """Give a new network weights by which all of it matters to its logits.

    Networks begin with branches that add nothing, by scales of 0 or nearly, and statistics that are not of images:
    noise is added to each vector, and BN has the statistics of ``x`` [B, C, H, W]. It is in eval mode afterwards.
    """
    for parameter in model.parameters():
        if parameter.numel() == max(parameter.shape, default=1):
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.1))
    norms = [module for module in model.eval().modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()  # alone, as heads that only training has may want larger images
    if norms:
        model(x)
        model.eval()
