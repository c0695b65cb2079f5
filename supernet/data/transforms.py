"""From a PIL image to one of a size in a given mode: a plain and an augmenting transform each.

A JPEG file is decoded at a half, a quarter or an eighth of its size where the part that is wanted keeps at least as
many pixels as it is resized to (libjpeg's scaling, by ``Image.draft``). So the part is chosen first, in pixels of the
whole image. Its pixels differ a little from those by way of the full size; images that are not reduced are the same to
the bit.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image

from supernet.data.images import Transform
from supernet.size import Size

Values = tuple[float, ...]  # one per channel
Box = tuple[float, float, float, float]  # left, upper, right, lower
IMAGENET: tuple[Values, Values] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation
GREY: tuple[Values, Values] = (0.449,), (0.226,)  # those of its channels together
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def resized_part(
    image: Image.Image, box: Box, size: tuple[int, int], mode: str, resample: Image.Resampling
) -> Image.Image:
    """The part ``box`` of an image, in pixels of the whole image, as ``mode`` and of ``size`` (across, down)."""
    whole = image.size
    across, down = ((end - start) // wanted for start, end, wanted in zip(box[:2], box[2:], size, strict=True))
    scale = max((scale for scale in (2, 4, 8) if scale <= min(across, down)), default=1)
    drafted = image.draft(None, (whole[0] // scale, whole[1] // scale)) if scale > 1 else None
    if drafted is not None:  # a JPEG file: its second value says what the whole image has become
        across, down = (end / before for end, before in zip(drafted[1][2:], whole, strict=True))
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    left, upper = math.floor(box[0]), math.floor(box[1])
    right, lower = min(math.ceil(box[2]), image.width), min(math.ceil(box[3]), image.height)
    if (left, upper, right, lower) != (0, 0, *image.size):
        image = image.crop((left, upper, right, lower))
    if image.mode != mode:
        image = image.convert(mode)
    inner = (box[0] - left, box[1] - upper, min(box[2] - left, image.width), min(box[3] - upper, image.height))
    return image.resize(size, resample, inner)


@dataclass(frozen=True)
class Middle:
    """Resized so that it just covers ``resized``, then the middle of ``size``."""

    size: Size
    resized: Size
    mode: str = "RGB"

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.resized.width * height >= self.resized.height * width:  # the width decides: the height is left over
            size = self.resized.width, int(self.resized.width * height / width)
        else:
            size = int(self.resized.height * width / height), self.resized.height
        image = resized_part(image, (0, 0, width, height), size, self.mode, BICUBIC)
        left, upper = round((size[0] - self.size.width) / 2), round((size[1] - self.size.height) / 2)
        return image.crop((left, upper, left + self.size.width, upper + self.size.height))


@dataclass(frozen=True)
class Squeezed:
    """The whole image, resized to ``size``, whatever its shape."""

    size: Size
    mode: str = "RGB"

    def __call__(self, image: Image.Image) -> Image.Image:
        return resized_part(image, (0, 0, *image.size), (self.size.width, self.size.height), self.mode, BILINEAR)


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
        upper, left, height, width = Crop.get_params(image, (0.08, 1.0), (3 / 4 * shape, 4 / 3 * shape))
        resample = random.choice((BILINEAR, BICUBIC))
        box = (left, upper, left + width, upper + height)
        return resized_part(image, box, (self.size.width, self.size.height), self.mode, resample)


def photograph(size: Size, mode: str = "RGB", mirror: bool = True) -> tuple[Transform, Transform]:
    """ImageNet's: the middle of the image; or a crop of random size and shape, mirrored, its colours jittered."""
    from torchvision import transforms as t  # takes two seconds, so that only who needs it waits

    flip = t.RandomHorizontalFlip(0.5 if mirror else 0.0)
    augmenting = t.Compose([RandomPart(size, mode), flip, t.ColorJitter(0.4, 0.4, 0.4)])
    return Middle(size, Size(*(math.floor(side / 0.875) for side in size)), mode), augmenting


def picture(size: Size, mode: str, mirror: bool) -> tuple[Transform, Transform]:
    """Resized if need be; shifted by up to 2 pixels, 4 from 32 on, over a black margin."""
    from torchvision import transforms as t

    plain = Middle(size, size, mode)
    crop = [t.RandomCrop(size, padding=4 if min(size) >= 32 else 2)]
    flip = [t.RandomHorizontalFlip()] if mirror else []
    return plain, t.Compose([plain, *crop, *flip])


def face(size: Size) -> tuple[Transform, Transform]:
    """The whole image; or that mirrored at random."""
    from torchvision import transforms as t

    plain = Squeezed(size)
    return plain, t.Compose([t.RandomHorizontalFlip(), plain])
