"""Whether the largest architecture of a given network's space is the network."""

from __future__ import annotations

import torch

from supernet.families.given import family
from supernet.families.given.layout import GivenLayout
from supernet.model import Supernet
from supernet.norm import BatchNorm
from supernet.space import Space

IMAGES = 2
SMALL = 1e-3  # of a parameter: what begins so, such as the scales of layers


@torch.no_grad()
def difference(space: Space, seed: int = 0) -> float:
    """The largest difference of the logits in eval mode, relative to the largest logit, on noise.

    Both have the same random weights and BN statistics. The smallest architecture runs, too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(space, affine=True, kernels="eager").eval()
        layout = supernet.layout
        assert isinstance(layout, GivenLayout)
        model = layout.network.new().eval()
        for norm in (module for module in model.modules() if isinstance(module, BatchNorm)):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
        for parameter in model.parameters():
            if parameter.abs().max() < SMALL:  # hides what is multiplied by it
                parameter.normal_(0, 0.1)
        family.load(supernet.shared, model.state_dict())
        channels, size, _ = layout.network.images
        x = torch.randn(IMAGES, channels, *size)
        expected = model(x)
        supernet(x, tuple(open_[0] for open_ in space.allowed))
        return float((supernet(x, layout.whole) - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
