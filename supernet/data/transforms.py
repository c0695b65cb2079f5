"""From a picture to one of a size in a given mode: a plain and an augmenting transform each.

The part that is wanted is chosen first, in pixels of the whole picture, as ``pictures.resized_part`` decodes no more.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from PIL import Image

from supernet.data import pictures
from supernet.data.pictures import Fit, resized_part
from supernet.data.policies import Transform
from supernet.size import Size

Values = tuple[float, ...]  # one per channel
IMAGENET: tuple[Values, Values] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation
GREY: tuple[Values, Values] = (0.449,), (0.226,)  # those of its channels together
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
INTERPOLATIONS = (Image.Resampling.NEAREST, BILINEAR, Image.Resampling.BOX, BICUBIC, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class RandomPart:
    """A part of random size and shape, as Inception was trained with, by a random interpolation; draws are timm's.

    Its shape is drawn around that of ``size``.
    """

    size: Size
    mode: str = "RGB"

    def __call__(self, image: Image.Image) -> Image.Image:
        from timm.data.transforms import RandomResizedCropAndInterpolation as Crop

        shape = self.size.width / self.size.height
        across, down = pictures.size(image)
        whole = torch.empty(1, down, across, device="meta")  # whose size alone is looked at
        upper, left, height, width = Crop.get_params(whole, (0.08, 1.0), (3 / 4 * shape, 4 / 3 * shape))
        resample = random.choice((BILINEAR, BICUBIC))
        box = (left, upper, left + width, upper + height)
        return resized_part(image, box, (self.size.width, self.size.height), self.mode, resample)


def photograph(size: Size, mode: str = "RGB", mirror: bool = True) -> tuple[Transform, Transform]:
    """ImageNet's: the middle of the image; or a crop of random size and shape, mirrored, its colours jittered."""
    from torchvision import transforms as t  # takes two seconds, so that only who needs it waits

    flip = t.RandomHorizontalFlip(0.5 if mirror else 0.0)
    augmenting = t.Compose([RandomPart(size, mode), flip, t.ColorJitter(0.4, 0.4, 0.4)])
    return Fit(size, Size(*(math.floor(side / 0.875) for side in size)), mode), augmenting


def picture(size: Size, mode: str, mirror: bool) -> tuple[Transform, Transform]:
    """Resized if need be; shifted by up to 2 pixels, 4 from 32 on, over a black margin."""
    from torchvision import transforms as t

    plain = Fit(size, size, mode)
    crop = [t.RandomCrop(size, padding=4 if min(size) >= 32 else 2)]
    flip = [t.RandomHorizontalFlip()] if mirror else []
    return plain, t.Compose([plain, *crop, *flip])


@dataclass(frozen=True)
class Degraded:
    """AdaFace's augmentation, each with a probability of its own: a part of the image on black, fewer pixels, light.

    Kim et al., CVPR 2022, with the ranges of the authors' code: a part of .2 to 1 of the area, sides of .2 to 1 of the
    image's by random interpolations, brightness, contrast and saturation of .5 to 1.5.
    """

    probability: float = 0.2

    def __call__(self, image: Image.Image) -> Image.Image:
        from torchvision import transforms as t

        if random.random() < self.probability:
            whole = torch.empty(1, image.height, image.width, device="meta")  # whose size alone is looked at
            upper, left, height, width = t.RandomResizedCrop.get_params(whole, [0.2, 1.0], [3 / 4, 4 / 3])
            black = Image.new(image.mode, image.size)
            black.paste(image.crop((left, upper, left + width, upper + height)), (left, upper))
            image = black
        if random.random() < self.probability:
            share, before = random.uniform(0.2, 1.0), image.size
            smaller = max(1, int(share * before[0])), max(1, int(share * before[1]))
            image = image.resize(smaller, random.choice(INTERPOLATIONS)).resize(before, random.choice(INTERPOLATIONS))
        if random.random() < self.probability:
            image = t.ColorJitter(0.5, 0.5, 0.5)(image)
        return image


def adaface(size: Size) -> Transform:
    """The whole image, degraded as AdaFace trains with, and mirrored at random."""
    from torchvision import transforms as t

    return t.Compose([Fit(size, interpolation="bilinear"), Degraded(), t.RandomHorizontalFlip()])


def face(size: Size) -> tuple[Transform, Transform]:
    """The whole image; or that mirrored at random."""
    from torchvision import transforms as t

    plain = Fit(size, interpolation="bilinear")
    return plain, t.Compose([plain, t.RandomHorizontalFlip()])
