"""Images with a class for each pixel: scenes drawn from the images of a data set, or Cityscapes; and mean IoU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import Cityscapes
from torchvision.transforms.functional import to_tensor

from supernet.data.images import AUGMENT, ImageSet, Step, generator
from supernet.errors import UserError
from supernet.size import Size

VOID = -100  # pixels that do not count, as PyTorch's losses have it
THINGS = 4  # in a drawn scene, at most
Read = Callable[[int], tuple[Tensor, Tensor]]  # image [C, H, W], normalised, and its classes, int64 [H, W]


class Scenes(ImageSet):
    """Images whose labels are maps; augmentation mirrors half of them.

    Args:
        read: gives image number i and its classes.
        threads: that read.
    """

    def __init__(self, read: Read, count: int, channels: int, size: Size, threads: int = 1):
        super().__init__(np.zeros(count, dtype=np.int64), (0.0,) * channels, (1.0,) * channels, size)
        self.read, self.threads = read, threads

    def _serve(
        self, plan: Iterable[Step], mine: slice, seed: int, epoch: int, augment: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(self.threads) as pool:
            for _, positions in plan:
                chosen = self.index[positions[mine]].tolist()
                pairs = list(pool.map(self.read, chosen))
                if augment:
                    mirror = [float(torch.rand((), generator=generator(AUGMENT, seed, epoch, i))) < 0.5 for i in chosen]
                    pairs = [(x.flip(-1), y.flip(-1)) if m else (x, y) for m, (x, y) in zip(mirror, pairs, strict=True)]
                x, y = (torch.stack(part) for part in zip(*pairs, strict=True))
                yield x.contiguous(memory_format=torch.channels_last), y


def drawn(items: ImageSet, count: int, size: Size, seed: int) -> Scenes:
    """Scenes of one to four items on noise, each pixel of the class of the item that it shows, plus one; else 0.

    The next item lies over the last. An item's pixels are those brighter than a tenth of its range.
    """
    pixels, labels = (torch.cat(part) for part in zip(*items.in_order(512), strict=True))
    if size.height < items.size.height or size.width < items.size.width:
        raise UserError(f"scenes of {size}: expected them as large as the items, {items.size}, or larger")
    black = pixels.amin((0, 2, 3))

    def read(i: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([seed, i])
        noise = torch.from_numpy(rng.normal(0, 0.3, (items.channels, *size)).astype(np.float32))
        x, y = black[:, None, None] + noise.abs(), torch.zeros(tuple(size), dtype=torch.long)
        for item in rng.integers(len(labels), size=rng.integers(1, THINGS + 1)):
            top, left = (int(rng.integers(a - b + 1)) for a, b in zip(size, items.size, strict=True))
            window = slice(top, top + items.size.height), slice(left, left + items.size.width)
            light = (pixels[item] - black[:, None, None]).mean(0)
            shown = light > 0.1 * light.max()
            x[:, window[0], window[1]][:, shown] = pixels[item][:, shown]
            y[window][shown] = labels[item] + 1
        return x, y

    return Scenes(read, count, items.channels, size)


def cityscapes(root: Path, part: str, size: Size, threads: int) -> Scenes:
    """Cityscapes' fine annotations, 19 classes, resized; ``part`` is train or val. ImageNet's mean and deviation.

    Raises:
        UserError: it is not there.
    """
    try:
        found = Cityscapes(str(root), split=part, mode="fine", target_type="semantic")
    except RuntimeError as error:
        raise UserError(
            f"no Cityscapes in {root}: expected its folders leftImg8bit and gtFine, from its site"
        ) from error
    classes = torch.full((256,), VOID)
    for of in Cityscapes.classes:
        if not of.ignore_in_eval:
            classes[of.id] = of.train_id
    mean, std = (torch.tensor(of)[:, None, None] for of in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def read(i: int) -> tuple[Tensor, Tensor]:
        image, target = found[i]
        x = to_tensor(image.resize((size.width, size.height), Image.Resampling.BILINEAR))
        y = np.array(target.resize((size.width, size.height), Image.Resampling.NEAREST), dtype=np.int64)
        return (x - mean) / std, classes[torch.from_numpy(y)]

    return Scenes(read, len(found), 3, size, threads)


@torch.no_grad()
def mean_iou(model: nn.Module, scenes: Scenes, classes: int, batch: int = 16) -> float:
    """The mean over the classes of intersection over union, of all pixels of all scenes; void ones do not count."""
    device = next(model.parameters()).device
    confusion = torch.zeros(classes, classes, dtype=torch.long)
    model.eval()
    for x, y in scenes.plain_batches(batch):
        counted = y != VOID
        predicted = model(x.to(device)).argmax(1).cpu()[counted]
        confusion += torch.bincount(y[counted] * classes + predicted, minlength=classes**2).view(classes, classes)
    model.train()
    return iou(confusion)


def iou(confusion: Tensor) -> float:
    """Mean intersection over union of the classes that there are: rows are true, columns predicted.

    >>> iou(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))  # 3/4 and 4/5; nothing is of the third class
    0.7749999761581421
    """
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    return float((both / either)[either > 0].mean())
