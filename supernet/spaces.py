"""Spaces by name. Torch is imported when the first one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from supernet import plugins
from supernet.errors import UserError
from supernet.quantities import several
from supernet.size import Size
from supernet.space import Space
from supernet.spec import Block


def presets() -> Mapping[str, Callable[..., Space]]:
    """The spaces of every family by name: functions of ``channels``, ``resolution`` and ``classes`` of their images."""
    from supernet.families import FAMILIES  # loads torch

    return {name: make for family in FAMILIES for name, make in family.presets.items()}


def get(name: str, channels: int, resolution: int | Size, classes: int) -> Space:
    """The space ``name`` for images of this shape.

    Args:
        name: a preset, an installed space, a space file (.json), a network whose parts make the space,
            ``timm:NAME`` or ``torchvision:NAME``, or code: ``FILE.py:function`` or ``package.module:function``, which
            gives a space or such a network. The function is given those of ``channels``, ``resolution`` and
            ``classes`` that it has as arguments. Block classes in the same module are operations of the space.

    Raises:
        UserError: unknown name, a space for other images or for larger ones only, code that fails, or a block that
            contradicts itself.
    """
    from supernet import families  # loads torch

    space = _get(name, channels, Size.of(resolution), classes)
    families.require_strides(space, smallest=families.of(space) is not families.elastic.FAMILY)
    return space


def _get(name: str, channels: int, size: Size, classes: int) -> Space:
    images = channels, size, classes
    given = {"channels": channels, "resolution": size.height, "classes": classes}
    if name.endswith(".json"):
        return _read(name, images)
    if name.startswith(plugins.REGISTRIES):
        from supernet.families.given import network  # loads torch

        return network.of(network.opened(name, *images, None))
    known = presets()
    if name in known:
        return known[name](**given).at(size)
    plugin = _plugin(name)
    space = plugin.offer(**given)
    if not isinstance(space, Space):
        return _of_network(name, plugin, space, images)
    if space.resolution == size.height and not space.width:
        space = space.at(size)  # functions are asked for square images
    _require_images(space, images, plugin.source)
    from supernet import own_blocks  # loads torch

    try:
        space = space.with_operations(*plugin.operations)
    except UserError as error:
        raise error.of(plugin.source) from error
    own_blocks.check(space, plugin)
    return space


def _of_network(name: str, plugin: plugins.Plugin, model: object, images: tuple[int, Size, int]) -> Space:
    """The space of the network that a function returned; a UserError if it returned anything else."""
    from torch import nn

    from supernet.families.given import network

    if not isinstance(model, nn.Module):
        raise UserError(f"{plugin.source} returned {model!r:.80}, expected a supernet.space.Space or a torch.nn.Module")
    place, _, function = name.rpartition(":")
    return network.of(network.opened(f"{PurePath(place).name}:{function}", *images, plugin.function))


def usual_images(name: str) -> tuple[int, int | Size, int]:
    """Channels, resolution and classes of the images that a space is for where none are at hand: ImageNet's.

    A name that ends in ``-small`` is for Fashion-MNIST, ``cells`` for CIFAR-10; a registry says what a network of its
    own is for.
    """
    if name.startswith(plugins.REGISTRIES):
        from supernet.families.given import source  # loads torch

        return source.usual_images(name)
    if name == "cells":
        return 3, 32, 10
    return (1, 28, 10) if name.endswith("-small") else (3, 224, 1000)


def usual(name: str, size: Size | None = None, channels: int | None = None, classes: int | None = None) -> Space:
    """The space ``name`` without images at hand: a space file as it is, others for their usual images but for what is
    given.

    Raises:
        UserError: as ``get``, or a space file and other images.
    """
    if not name.endswith(".json"):
        known = usual_images(name)
        return get(name, channels or known[0], size or known[1], classes or known[2])
    space = Space.load(name)
    if size not in (None, space.input_size):
        raise UserError(f"{name} is for images of {space.input_size} pixels: leave out the resolution {size}")
    if channels not in (None, space.channels) or classes not in (None, space.classes):
        raise UserError(f"{name} is for {_words(space.images)}: leave out channels and classes")
    return space


def operations(name: str) -> tuple[type[Block], ...]:
    """The block classes in the module of the function ``name``, for ``Space.load`` and ``load_network``.

    Files hold only the names of operations; what a file says never decides which code is run.
    """
    return _plugin(name).operations


def _plugin(name: str) -> plugins.Plugin:
    plugin = plugins.find(name, plugins.SPACES)
    if plugin is None:
        known = ", ".join(sorted({*presets(), *plugins.names(plugins.SPACES)}))
        raise UserError(
            f"unknown space {name!r}: expected one of {known}, a space .json file, timm:NAME, torchvision:NAME, or "
            "FILE.py:function"
        )
    return plugin


def _read(name: str, images: tuple[int, Size, int]) -> Space:
    """A space file, laid out once, so that what cannot be built is refused here, with the file's name."""
    from supernet import families

    space = Space.load(Path(name))
    _require_images(space, images, name)
    try:
        families.layout(space)
    except UserError as error:
        raise error.of(name) from error
    return space


def _require_images(space: Space, images: tuple[int, Size, int], source: str) -> None:
    if space.images != images:
        channels, size, classes = images
        raise UserError(f"{source} is for {_words(space.images)}, the data has {channels}×{size} of {classes}")


def _words(images: tuple[int, Size, int]) -> str:
    channels, size, classes = images
    return f"{channels}×{size} images of {several(classes, 'class', 'classes')}"
