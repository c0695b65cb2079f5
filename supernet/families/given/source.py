"""Where a given network comes from: timm's or torchvision's registry, or a function of one's own."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from supernet import plugins
from supernet.data.transforms import IMAGENET
from supernet.errors import UserError
from supernet.quantities import several
from supernet.size import Size

TIMM, TORCHVISION = plugins.REGISTRIES
Values = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel, for pixels in [0, 1]
EXPECTED = "timm:NAME, torchvision:NAME or FILE.py:function"


def make(
    reference: str, channels: int, size: Size, classes: int, function: Callable[..., Any] | None = None
) -> nn.Module:
    """The network that ``reference`` names, with random weights, in eval mode.

    Args:
        reference: ``timm:NAME``, with or without the tag of its weights as in ``resnet50.a1_in1k``,
            ``torchvision:NAME``, or the name of ``function``.
        channels, size, classes: of the images.
        function: of one's own. It is given those of ``channels``, ``resolution`` and ``classes`` that it has as
            arguments; the last linear layer is replaced where it gives other classes.

    Raises:
        UserError: no such network, or it cannot be made for such images.
    """
    if function is not None:
        return _own(plugins.Plugin(function, sys.modules[function.__module__], reference), channels, size, classes)
    if reference.startswith(TIMM):
        return _timm(reference.removeprefix(TIMM), channels, size, classes).eval()
    if reference.startswith(TORCHVISION):
        return _torchvision(reference.removeprefix(TORCHVISION), channels, classes).eval()
    raise UserError(f"unknown model {reference!r}: expected {EXPECTED}")


def _own(plugin: plugins.Plugin, channels: int, size: Size, classes: int) -> nn.Module:
    model = plugin.offer(channels=channels, resolution=size.height, classes=classes)
    if not isinstance(model, nn.Module):
        raise UserError(f"{plugin.source} returned {model!r:.80}, expected a torch.nn.Module")
    if "forward" in vars(model) or not inspect.isfunction(inspect.getattr_static(type(model), "forward")):
        raise UserError(
            f"{plugin.source} gives a network of the class {type(model).__name__}, which is not where its forward is "
            "written: expected the network itself, before torch.compile or torch.jit"
        )
    try:
        with torch.no_grad():
            logits = model.float().eval()(torch.zeros(1, channels, *size))
    except Exception as error:
        why = plugins.reason(error, plugin.module.__file__)
        raise UserError(f"{plugin.source} does not run on {channels}×{size} images: {why}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"{plugin.source} gives {given} of an image, expected [1, classes]")
    if logits.shape[1] != classes:
        heads = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == logits.shape[1]]
        if not heads:
            raise UserError(
                f"{plugin.source} gives {several(logits.shape[1], 'class', 'classes')}, the images have {classes}"
            )
        owner, _, name = heads[-1].rpartition(".")
        head: Any = model.get_submodule(heads[-1])
        setattr(model.get_submodule(owner), name, nn.Linear(head.in_features, classes, bias=head.bias is not None))
    return model


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

        config: Any = timm.get_pretrained_cfg(_timms(reference.removeprefix(TIMM)))
        if config is not None:
            channels, *size = config.input_size
            return channels, Size(*size), config.num_classes
    return 3, Size.of(224), 1000


def normalisation(reference: str) -> Values | None:
    """Mean and deviation of the images that published weights learnt by; None where their registry does not say."""
    if reference.startswith(TIMM):
        import timm

        config: Any = timm.get_pretrained_cfg(_timms(reference.removeprefix(TIMM)))
        return config and (tuple(config.mean), tuple(config.std))
    return IMAGENET if reference.startswith(TORCHVISION) else None


def _timm(name: str, channels: int, size: Size, classes: int, pretrained: bool = False) -> nn.Module:
    import timm

    name = _timms(name)
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": channels, "num_classes": classes}
    try:
        return timm.create_model(name, img_size=tuple(size), **options)  # what has embeddings of positions takes it
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return timm.create_model(name, **options)


def _timms(name: str) -> str:
    """A name of timm's, alone or with the tag of some of its weights behind a dot."""
    import timm

    return _known(name, timm.list_pretrained() if "." in name else timm.list_models(), TIMM)


def _torchvision(name: str, channels: int, classes: int) -> nn.Module:
    from torchvision import models

    name = _known(name, models.list_models(module=models), TORCHVISION)
    if channels != 3:
        raise UserError(f"{TORCHVISION}{name} takes images of 3 channels, these have {channels}: take it from timm")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # as with the weights that are published; theirs take half a minute
        options = {"transform_input": True, "init_weights": False}
    return models.get_model(name, weights=None, num_classes=classes, **options)


def _known(name: str, names: list[str], registry: str) -> str:
    """``name``; a UserError with the nearest if the registry has no such name: it never goes to a network."""
    if name in names:
        return name
    like = difflib.get_close_matches(name, names, 3, cutoff=0.01)
    raise UserError(f"{registry}{name} is not known" + (f": did you mean {' or '.join(like)}?" if like else ""))
