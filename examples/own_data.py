"""Images of your own, without a command; commands take them by --data examples/own_data.py:images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from supernet import spaces
from supernet.data import sets
from supernet.methods import spos
from supernet.training import loop

SIDE = 20


class Shapes:
    """Drawn when they are asked for, each from its index: a circle, a square or a triangle somewhere in the image.

    ``classes`` names the classes, ``targets`` saves drawing every image for its label, and ``mirror`` says that a
    mirrored image is still of its class. All three may be left out.
    """

    classes = ("circle", "square", "triangle")
    mirror = True

    def __init__(self, start: int, count: int):
        self.start, self.targets = start, [i % len(self.classes) for i in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        rng = np.random.default_rng(self.start + i)
        left, top, size = (int(n) for n in (*rng.integers(1, SIDE - 11, 2), rng.integers(7, 11)))
        image = Image.new("L", (SIDE, SIDE), int(rng.integers(0, 100)))
        draw, box, ink = ImageDraw.Draw(image), (left, top, left + size, top + size), int(rng.integers(150, 256))
        if self.targets[i] == 0:
            draw.ellipse(box, fill=ink)
        elif self.targets[i] == 1:
            draw.rectangle(box, fill=ink)
        else:
            draw.polygon([(left, top + size), (left + size // 2, top), (left + size, top + size)], fill=ink)
        return image, self.targets[i]


def images():
    """A training and a test set: any objects with __len__ and __getitem__ that give (image, label)."""
    return Shapes(0, 360), Shapes(360, 120)


if __name__ == "__main__":
    data = sets.open_train(f"{__file__}:images", Path("data"), workers=2)
    space = spaces.get("mobile-small", data.channels, data.size, data.classes)
    config = spos.Config(loop.FitConfig(epochs=6), kernels="eager", probes=0)
    supernet = spos.run(space, data, config, Path("runs/own_data"), torch.device("cpu"))
    arch = space.sample(np.random.default_rng(0))
    accuracy = spos.score(supernet, spos.recalibration_images(data, 4, 64), data, arch)
    print(f"{100 * accuracy:.1f} % of {len(data.val)} images: {', '.join(data.class_names)}")
