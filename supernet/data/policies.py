"""Random operations on whole images: RandAugment by timm, TrivialAugment by torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from PIL import Image

AutoAugment = Literal["none", "rand", "trivial"]
# timm's usual one: two operations, each in half of the images, of strength 9 and a little less; at 10 it posterizes to
# 0 bits, which Pillow refuses.
RAND = "rand-m9-mstd0.5-mmax9-inc1"
FILL = 128  # what comes in from outside of an image
Transform: TypeAlias = "Callable[[Image.Image], Image.Image]"


def transform(policy: AutoAugment, channels: int) -> Transform:
    """What a policy does to an image of 1 or 3 channels; it draws from the global generators."""
    if policy == "rand":
        from timm.data.auto_augment import rand_augment_transform

        return rand_augment_transform(RAND, {"img_mean": FILL if channels == 1 else (FILL,) * 3})
    from torchvision.transforms import TrivialAugmentWide

    return TrivialAugmentWide(fill=[float(FILL)] * channels)


@dataclass(frozen=True)
class Then:
    """One transform after the other."""

    first: Transform
    second: Transform

    def __call__(self, image: Image.Image) -> Image.Image:
        return self.second(self.first(image))
