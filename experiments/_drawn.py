"""Drawn images of twenty classes: gratings of ten directions and two widths, for what needs data that are not here."""

from __future__ import annotations

import numpy as np
from PIL import Image

DIRECTIONS, WAVES = 10, (4.0, 7.0)  # of a grating in pixels of an image of 32


class Gratings:
    """Drawn when they are asked for, each from its index, in any phase and under noise.

    ``classes`` and ``targets`` are what a data set of one's own may tell of itself.
    """

    classes = tuple(f"{180 * i // DIRECTIONS}° {wave:g}" for wave in WAVES for i in range(DIRECTIONS))
    mirror = False  # a mirrored grating has another direction

    def __init__(self, side: int, start: int, count: int):
        self.side, self.start = side, start
        self.targets = [i % len(self.classes) for i in range(count)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        rng, target = np.random.default_rng(self.start + i), self.targets[i]
        angle, wave = np.pi * (target % DIRECTIONS) / DIRECTIONS, WAVES[target // DIRECTIONS] * self.side / 32
        row, column = np.mgrid[: self.side, : self.side]
        phase = 2 * np.pi * ((column * np.cos(angle) + row * np.sin(angle)) / wave + rng.random())
        noise = rng.normal(0, 60, (self.side, self.side))
        return Image.fromarray(np.clip(128 + 60 * np.sin(phase) + noise, 0, 255).astype(np.uint8)), target


def small() -> tuple[Gratings, Gratings]:
    """Training and test images of 32 pixels."""
    return Gratings(32, 0, 3000), Gratings(32, 3000, 1000)


def large() -> tuple[Gratings, Gratings]:
    """Training and test images of 96 pixels, from which on networks get the four stages of ImageNet's."""
    return Gratings(96, 0, 2000), Gratings(96, 2000, 600)
