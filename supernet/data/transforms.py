"""From a PIL image to a normalised tensor [channels, side, side]: a plain and an augmenting transform each."""

from __future__ import annotations

from supernet.data.images import Transform

Values = tuple[float, ...]  # one per channel
IMAGENET: tuple[Values, Values] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation
GREY: tuple[Values, Values] = (0.449,), (0.226,)  # those of its channels together


def photograph(side: int, mean: Values, std: Values, mirror: bool = True) -> tuple[Transform, Transform]:
    """ImageNet's: the middle of the image; or a crop of random size and shape, mirrored, its colours jittered."""
    from timm.data import create_transform  # here, since it takes seconds that other sets need not wait for

    plain = create_transform(side, mean=mean, std=std, interpolation="bicubic", crop_pct=0.875)
    flip = 0.5 if mirror else 0.0
    augmenting = create_transform(side, is_training=True, mean=mean, std=std, interpolation="random", hflip=flip)
    return plain, augmenting


def picture(side: int, mean: Values, std: Values, mirror: bool) -> tuple[Transform, Transform]:
    """Resized if need be; shifted by up to 2 pixels, 4 from 32 on, over a black margin."""
    from torchvision import transforms as t  # takes two seconds, so that only who needs it waits

    resize = [t.Resize(side, t.InterpolationMode.BICUBIC), t.CenterCrop(side)]
    last = [t.ToTensor(), t.Normalize(mean, std)]
    crop = [t.RandomCrop(side, padding=4 if side >= 32 else 2)]
    flip = [t.RandomHorizontalFlip()] if mirror else []
    return t.Compose([*resize, *last]), t.Compose([*resize, *crop, *flip, *last])
