"""The spaces by name: ``shufflenet`` (SPOS), ``mobile`` (PAD-NAS), ``residual`` (NSS) and their presets. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from supernet.errors import UserError
from supernet.space import Choice, Gene, Space

# One group of layers: (output channels, repeats, stride of the first layer).
Group = tuple[int, int, int]


def _space(
    name: str,
    groups: Sequence[Group],
    candidates: Callable[[int, int, int, int], tuple[Choice, ...]],
    stem_channels: int,
    **fields,
) -> Space:
    """Lay ``groups`` out as genes; ``candidates(group, repeat, in, out)`` gives the choices of one layer."""
    genes, channels = [], stem_channels
    for g, (out, repeats, stride) in enumerate(groups):
        for r in range(repeats):
            choices = candidates(g, r, channels, out)
            genes.append(Gene(f"layer{len(genes)}", choices, channels, out, stride if r == 0 else 1))
            channels = out
    allowed = tuple(tuple(range(len(gene.choices))) for gene in genes)
    return Space(name=name, stem_channels=stem_channels, genes=tuple(genes), allowed=allowed, **fields)


SHUFFLE_CHOICES = (*(Choice("shuffle", kernel=k) for k in (3, 5, 7)), Choice("xception", kernel=3))


def shufflenet(channels: int = 3, resolution: int = 224, classes: int = 1000) -> Space:
    """SPOS: 20 choice layers of four ShuffleNetV2-like blocks, 4^20 paths (ALGORITHMS of SPOS, its code)."""
    groups = [(64, 4, 2), (160, 4, 2), (320, 8, 2), (640, 4, 2)]
    return _shufflenet("shufflenet", groups, channels, resolution, classes, stem_stride=2, head_channels=1024)


def shufflenet_small(channels: int = 1, resolution: int = 28, classes: int = 10) -> Space:
    """SPOS's blocks for 28² and 32² images: stride-1 stem, three stages of four layers. Our preset."""
    groups = [(32, 4, 2), (64, 4, 2), (128, 4, 2)]
    return _shufflenet("shufflenet-small", groups, channels, resolution, classes, stem_stride=1, head_channels=256)


def _shufflenet(name, groups, channels, resolution, classes, stem_stride, head_channels) -> Space:
    return _space(
        name,
        groups,
        lambda g, r, cin, cout: SHUFFLE_CHOICES,
        stem_channels=16,
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem_stride=stem_stride,
        head_channels=head_channels,
        act="relu",
        dropout=0.1,
        classifier_bias=False,
        init="spos",
    )


def _bottlenecks(kernels: Sequence[int], expansions: Sequence[int]) -> tuple[Choice, ...]:
    """Inverted bottlenecks ordered by (kernel, expansion), the order that polynomial mutation relies on."""
    return tuple(Choice("ib", kernel=k, expand=e) for k in kernels for e in expansions)


def _mobile_candidates(expansions: Sequence[int]):
    """PAD-NAS Table 2: layer 1 has e = 1 only; no Identity in the first layer of a group."""

    def candidates(group: int, repeat: int, cin: int, cout: int) -> tuple[Choice, ...]:
        if group == 0:
            return _bottlenecks((3, 5, 7), (1,))
        identity = (Choice("identity"),) if repeat > 0 else ()
        return identity + _bottlenecks((3, 5, 7), expansions)

    return candidates


def _small_candidates(large: bool):
    """Few candidates that differ, good and bad: at this size near-equal ones cannot be told apart."""
    blocks = _bottlenecks((3, 5), (1, 2, 4)) if large else (Choice("ib", 3, 1), Choice("ib", 5, 4))

    def candidates(group: int, repeat: int, cin: int, cout: int) -> tuple[Choice, ...]:
        return (Choice("identity"), Choice("max_pool", 3), *blocks) if repeat > 0 else blocks

    return candidates


MOBILE_GROUPS = {
    "basic": [(16, 1, 1), (32, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)],
    "large": [(16, 1, 1), (24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)],
}
SMALL_GROUPS = [(16, 2, 1), (64, 4, 2)]  # wide where the image is small: capacity that costs little time


def mobile(
    variant: str = "basic", channels: int = 3, resolution: int = 224, classes: int = 1000, small: bool = False
) -> Space:
    """PAD-NAS Tables 1 and 2: 22 searched inverted bottlenecks.

    ``basic``: k ∈ {3,5,7} × e ∈ {3,6}; ``large``: e ∈ {1..6}; ``v3``: basic with squeeze-excite and
    hard-swish (Table 4). ``small`` is our preset for 28² and 32² images: 6 layers, of which the first in each
    group is k3_e1 or k5_e4 and the others may also be Identity or a 3×3 max pool; ``large`` there has
    k ∈ {3,5} × e ∈ {1,2,4}.
    """
    large, v3 = variant == "large", variant == "v3"
    groups = SMALL_GROUPS if small else MOBILE_GROUPS["large" if large else "basic"]
    return _space(
        "mobile" + ("" if variant == "basic" else f"-{variant}") + ("-small" if small else ""),
        groups,
        _small_candidates(large) if small else _mobile_candidates(range(1, 7) if large else (3, 6)),
        stem_channels=16 if large or small else 32,
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem_stride=2,
        head_channels=128 if small else 1280,
        act="hard_swish" if v3 else "relu6",
        squeeze_excite=v3,
        init="kaiming",
    )


def residual(
    channels: int = 3,
    resolution: int = 32,
    classes: int = 10,
    *,
    name: str = "residual",
    depth: int = 16,
    width: int = 512,
    step: int = 1,
    strides: Sequence[int] = (1, 2, 2),
    stem_stride: int = 1,
) -> Space:
    """NSS's expanded space (supplementary A): 3 stages of basic residual blocks, 16 · 512 networks each.

    Args:
        depth: every stage has 1 to so many blocks.
        width: and step, 2·step, … up to so many channels.
        strides: of the first block of each stage; the paper does not give them, (1, 2, 2) reach its 32 GFLOPs.
    """
    depths = tuple(Choice("depth", count=d) for d in range(1, depth + 1))
    widths = tuple(Choice("width", count=w) for w in range(step, width + 1, step))
    genes, cin = [], 16
    for i, stride in enumerate(strides):
        genes += [
            Gene(f"stage{i}.depth", depths, cin, width, stride),
            Gene(f"stage{i}.width", widths, cin, width, stride),
        ]
        cin = width
    return Space(
        name=name,
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem_channels=16,
        stem_stride=stem_stride,
        head_channels=0,
        act="relu",
        genes=tuple(genes),
        allowed=tuple(tuple(range(len(gene.choices))) for gene in genes),
    )


def residual_small(channels: int = 1, resolution: int = 28, classes: int = 10) -> Space:
    """NSS's blocks for 28² and 32² images on two cores: up to 4 blocks of 2, 4, … 32 channels. Our preset."""
    return residual(channels, resolution, classes, name="residual-small", depth=4, width=32, step=2, stem_stride=2)


def residual_medium(channels: int = 3, resolution: int = 32, classes: int = 10) -> Space:
    """NSS's space up to 8 blocks of 8, 16, … 128 channels. Our preset."""
    return residual(channels, resolution, classes, name="residual-medium", depth=8, width=128, step=8)


SPACES: dict[str, Callable[..., Space]] = {
    "residual": residual,
    "residual-medium": residual_medium,
    "residual-small": residual_small,
    "shufflenet": shufflenet,
    "shufflenet-small": shufflenet_small,
    **{
        "mobile" + ("" if v == "basic" else f"-{v}") + ("-small" if small else ""): (
            lambda v=v, small=small, **image: mobile(v, small=small, **image)
        )
        for v in ("basic", "large", "v3")
        for small in (False, True)
    },
}


def get(name: str, channels: int, resolution: int, classes: int) -> Space:
    """The space ``name`` for images of this shape, or the space in the JSON file that ``name`` names.

    Raises:
        UserError: unknown name, or a file made for other images.
    """
    if name.endswith(".json"):
        space = Space.load(Path(name))
        if (space.channels, space.resolution, space.classes) != (channels, resolution, classes):
            raise UserError(
                f"{name} is for {space.channels}×{space.resolution}² images of {space.classes} classes, the data "
                f"has {channels}×{resolution}² of {classes}"
            )
        return space
    if name not in SPACES:
        raise UserError(f"unknown space {name!r}: expected one of {', '.join(sorted(SPACES))}, or a space .json file")
    return SPACES[name](channels=channels, resolution=resolution, classes=classes)
