"""Shared by the tests: tiny spaces, and images that a network can tell apart."""

from __future__ import annotations

import pytest
import torch

from supernet import spaces
from supernet.space import Choice, Gene, Space


def tiny_space(layers: int = 3, act: str = "relu6", squeeze_excite: bool = False) -> Space:
    """A space with every kind of layer that the mobile one has, small enough to enumerate."""
    wide = (Choice("identity"), Choice("ib", 3, 1), Choice("ib", 3, 3), Choice("ib", 5, 2))
    genes = [Gene("layer0", wide[1:], 8, 12, 2)]
    genes += [Gene(f"layer{i}", wide, 12, 12, 1) for i in range(1, layers)]
    allowed = tuple(tuple(range(len(gene.choices))) for gene in genes)
    return Space("tiny", 1, 14, 10, 8, 2, 16, act, tuple(genes), allowed, squeeze_excite)


SMALL_SPACES = {
    "tiny": tiny_space,
    "tiny-se": lambda: tiny_space(act="hard_swish", squeeze_excite=True),
    "shufflenet-small": lambda: spaces.get("shufflenet-small", 1, 28, 10),
    "mobile-small": lambda: spaces.get("mobile-small", 1, 28, 10),
    "mobile-v3-small": lambda: spaces.get("mobile-v3-small", 1, 28, 10),
    "residual-small": lambda: spaces.get("residual-small", 1, 28, 10),
}


@pytest.fixture(params=SMALL_SPACES)
def small_space(request) -> Space:
    """Each small space in turn."""
    return SMALL_SPACES[request.param]()


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests share the cores; results must not depend on the number of threads anyway."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _whole_float32():
    """cuDNN rounds float32 to TF32 unless told otherwise."""
    if torch.cuda.is_available():
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cudnn.rnn.fp32_precision = "ieee"  # torch.export refuses two that differ
