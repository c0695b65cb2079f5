"""Where a given network comes from: timm's or torchvision's registry, or a function of one's own."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from supernet import plugins
from supernet.errors import UserError
from supernet.size import Size

TIMM, TORCHVISION = plugins.REGISTRIES
EXPECTED = "timm:NAME, torchvision:NAME or FILE.py:function"


def make(reference: str, channels: int, size: Size, classes: int) -> nn.Module:
    """The network that ``reference`` names, with random weights, in eval mode.

    Args:
        reference: ``timm:NAME``, ``torchvision:NAME``, ``FILE.py:function`` or ``package.module:function``. A function
            is given those of ``channels``, ``resolution`` and ``classes`` that it has as arguments.
        channels, size, classes: of the images.

    Raises:
        UserError: no such network, or it cannot be made for such images.
    """
    if reference.startswith(TIMM):
        model = _timm(reference.removeprefix(TIMM), channels, size, classes)
    elif reference.startswith(TORCHVISION):
        model = _torchvision(reference.removeprefix(TORCHVISION), channels, classes)
    elif plugins.is_reference(reference):
        plugin = plugins.resolve(reference)
        model = plugin.offer(channels=channels, resolution=size.height, classes=classes)
        if not isinstance(model, nn.Module):
            raise UserError(f"{plugin.source} returned {model!r:.80}, expected a torch.nn.Module")
    else:
        raise UserError(f"unknown model {reference!r}: expected {EXPECTED}")
    return model.eval()


def pretrained(reference: str, channels: int, size: Size, classes: int) -> nn.Module:
    """The network with the weights that its registry publishes; a UserError if it publishes none.

    timm fits the first convolution to the channels; the layer of the logits is new for other classes.
    """
    if reference.startswith(TIMM):
        return _timm(reference.removeprefix(TIMM), channels, size, classes, pretrained=True)
    if reference.startswith(TORCHVISION):
        from torchvision import models

        name = _known(reference.removeprefix(TORCHVISION), models.list_models(models), TORCHVISION)
        return models.get_model(name, weights="DEFAULT")
    raise UserError(f"{reference} has no published weights: give a file of them, or random")


def usual_images(reference: str) -> tuple[int, Size, int]:
    """Channels, size and classes of the images that a network is for: those that its registry has, else ImageNet's."""
    if reference.startswith(TIMM):
        import timm

        name = _known(reference.removeprefix(TIMM), timm.list_models(), TIMM)
        config: Any = timm.get_pretrained_cfg(name)
        if config is not None:
            channels, *size = config.input_size
            return channels, Size(*size), config.num_classes
    return 3, Size.of(224), 1000


def _timm(name: str, channels: int, size: Size, classes: int, pretrained: bool = False) -> nn.Module:
    import timm

    name = _known(name, timm.list_models(), TIMM)
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": channels, "num_classes": classes}
    try:
        return timm.create_model(name, img_size=tuple(size), **options)  # what has embeddings of positions takes it
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return timm.create_model(name, **options)


def _torchvision(name: str, channels: int, classes: int) -> nn.Module:
    from torchvision import models

    name = _known(name, models.list_models(module=models), TORCHVISION)
    if channels != 3:
        raise UserError(f"{TORCHVISION}{name} takes images of 3 channels, these have {channels}: take it from timm")
    return models.get_model(name, weights=None, num_classes=classes)


def _known(name: str, names: list[str], registry: str) -> str:
    """``name``; a UserError with those like it if the registry has no such name: it never goes to a network."""
    if name in names:
        return name
    like = difflib.get_close_matches(name, names, 3)
    raise UserError(f"{registry}{name} is not known" + (f": did you mean {' or '.join(like)}?" if like else ""))
