"""Random draws of a transform as a function of a key: it draws from the global generators."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed(key: int) -> None:
    """Seed the global generators, from which transforms draw."""
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(key)  # torch.manual_seed would reseed the GPUs too


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put the global generators back afterwards."""
    saved = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        torch.default_generator.set_state(saved[2])
