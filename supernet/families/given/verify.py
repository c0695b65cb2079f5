"""Whether the largest architecture of a given network's space is the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernet.errors import UserError
from supernet.families.given import family, sorting
from supernet.families.given.layout import of_network
from supernet.model import Supernet
from supernet.norm import BatchNorm
from supernet.space import Space

IMAGES = 2
EQUAL = 1e-5
ROUNDING = 1e-3  # what float32 may lose over many layers; another operation or channel is far above


def require(space: Space) -> float:
    """The ``difference``; a UserError if it is more than 1e-5, or than rounding where all runs in float32."""
    found, precision = _compared(space, seed=0)
    if found > (EQUAL if precision is torch.double else ROUNDING):
        raise UserError(
            f"the logits of {space.model} as it was traced differ by {found:.1e} of their range: expected a network "
            "that gives the same each time in eval mode, by its modules and not by hooks on the whole of it"
        )
    return found


def difference(space: Space, seed: int = 0) -> float:
    """The largest difference of the logits in eval mode, relative to the largest by which those of two images differ.

    Both have the same random weights, those of ``enliven``, in double precision, so that nothing passes as rounding,
    unless the network's code itself asks for less; images are noise. Channels are sorted, and the smallest architecture
    runs, too.

    Raises:
        UserError: it does not run.
    """
    return _compared(space, seed)[0]


def _compared(space: Space, seed: int) -> tuple[float, torch.dtype]:
    """The ``difference``, and the precision in which it was computed."""
    try:
        return _difference(space, seed, torch.double), torch.double
    except RuntimeError:
        return _difference(space, seed, torch.float), torch.float


@torch.no_grad()
def _difference(space: Space, seed: int, precision: torch.dtype) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(space, affine=True, kernels="eager").eval().to(precision)
        layout = of_network(space)
        channels, size, _ = layout.network.images
        model, x = layout.network.new(), torch.randn(IMAGES, channels, *size)
        enliven(model, x)
        model, x = model.to(precision), x.to(precision)
        family.load(supernet.shared, model.state_dict())
        expected = _computed(model, x, precision)
        sorting.sort(supernet.shared, layout)
        try:
            supernet(x, tuple(open_[0] for open_ in space.allowed))
        except Exception as error:  # whatever an operation without a rule does
            if isinstance(error, RuntimeError) and precision is torch.double:
                raise
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
            raise UserError(f"{space.model} cannot be cut: its smallest part raises {why}") from error
        spread = (expected - expected.flip(0)).abs().max()
        return float((supernet(x, space.whole) - expected).abs().max() / spread.clamp_min(1e-30))


def _computed(model: nn.Module, x: Tensor, precision: torch.dtype) -> Tensor:
    """Its logits; constants that its code makes are of this precision, too."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(precision)
        return model(x)
    finally:
        torch.set_default_dtype(before)


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
