"""Spaces with a gene for each layer between a fixed stem and head: SPOS's ``shufflenet`` and PAD-NAS's ``mobile``.

Every choice of a layer has weights of its own; a path runs one of them in each layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from supernet.errors import UserError
from supernet.families.base import Priced, Shared, Total
from supernet.modules import ACTIVATIONS, Head, Identity, InvertedBottleneck, MaxPool, Shuffle, Stem, Xception
from supernet.size import Size
from supernet.space import Arch, Choice, Gene, Space
from supernet.spec import Block, BuildOptions, LayerSpec, Price

if TYPE_CHECKING:
    from typing_extensions import Unpack

NO_CODE = "for an operation of your own give the space by its code, FILE.py:function, or install its package"


@dataclass(frozen=True)
class Layers:
    """Every layer of a space: ``choices[i][j]`` is choice ``j`` of gene ``i``, open or pruned."""

    space: Space
    stem: LayerSpec
    choices: tuple[tuple[LayerSpec, ...], ...]
    head: LayerSpec

    @property
    def decides(self) -> list[int | None]:
        """The gene that decides about each module of a path; None: it always runs."""
        return [None, *range(len(self.choices)), None]

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem, the chosen layers, head."""
        return [self.stem, *(layer[i] for layer, i in zip(self.choices, arch, strict=True)), self.head]

    def every(self) -> Iterator[LayerSpec]:
        """Every layer that can run, pruned choices included."""
        return itertools.chain((self.stem,), *self.choices, (self.head,))

    def priced(self, price: Price, total: Total = math.fsum) -> Priced:
        """A table for each gene; stem and head are the base."""
        table = [[price(spec) for spec in choices] for choices in self.choices]
        return Priced(table, total((price(self.stem), price(self.head))), None)


@dataclass(frozen=True)
class Layerwise:
    """A family of spaces with a gene for each layer.

    Args:
        blocks: the operations that a choice can name.
        stem, head: what runs before and after them.
    """

    blocks: tuple[type[Block], ...]
    stem: type[Block]
    head: type[Block]
    presets: Mapping[str, Callable[..., Space]] = field(default_factory=dict)

    @property
    def ops(self) -> frozenset[str]:
        return frozenset(block.op for block in self.blocks)

    def layout(self, space: Space) -> Layers:
        """The layers of ``space``, whose choices can be operations of the family or its own (``Space.operations``)."""
        blocks = {block.op: block for block in (*self.blocks, *space.operations)}
        for act in (space.act, *(gene.act for gene in space.genes if gene.act)):
            if act not in ACTIVATIONS and self.stem is Stem:
                raise UserError(f"space {space.name}: act {act!r}, expected one of {', '.join(ACTIVATIONS)}")
        stem = LayerSpec(
            self.stem, space.channels, space.stem_channels, space.input_size, space.stem_stride, act=space.act
        )
        size, cin, layers = stem.out_size, space.stem_channels, []
        for gene in space.genes:
            if gene.in_channels != cin:
                raise UserError(
                    f"space {space.name}: gene {gene.name} takes {gene.in_channels} channels, but gets {cin}"
                )
            layers.append(tuple(self._layer(space, gene, choice, size, blocks) for choice in gene.choices))
            size, cin = layers[-1][0].out_size, gene.out_channels
        head = LayerSpec(
            self.head,
            cin,
            space.head_channels,
            size,
            act=space.act,
            classes=space.classes,
            bias=space.classifier_bias,
            dropout=space.dropout,
        )
        return Layers(space, stem, tuple(layers), head)

    def _layer(
        self, space: Space, gene: Gene, choice: Choice, size: Size, blocks: Mapping[str, type[Block]]
    ) -> LayerSpec:
        """One choice of a gene, or a UserError that names the gene."""
        if choice.op not in blocks:
            raise UserError(
                f"space {space.name}: gene {gene.name} has the operation {choice.op!r}, known here are "
                f"{', '.join(sorted(blocks))}; {NO_CODE}"
            )
        bottleneck = choice.op == InvertedBottleneck.op
        spec = LayerSpec(
            blocks[choice.op],
            gene.in_channels,
            gene.out_channels,
            size,
            gene.stride,
            choice.kernel,
            choice.expand,
            gene.act or space.act,
            bottleneck and (gene.se or space.squeeze_excite),
            middle=gene.in_channels * choice.expand if bottleneck and gene.se else 0,
        )
        reason = spec.block.refuses(spec)
        if min(spec.in_channels, spec.out_channels, spec.stride) < 1:
            reason = (
                f"{spec.in_channels} input, {spec.out_channels} output channels, stride {spec.stride}: expected ≥ 1"
            )
        if reason:
            raise UserError(f"space {space.name}: gene {gene.name} cannot be {choice.name}: {reason}")
        return spec

    def share(self, layout: Layers, **build: Unpack[BuildOptions]) -> Shared:
        """Weights of its own for every open choice."""
        stem = layout.stem.build(**build)
        # Keyed by the choice's index: a pruned space loads the weights of the full one by name.
        layers = nn.ModuleList(
            nn.ModuleDict({str(i): choices[i].build(**build) for i in open_})
            for choices, open_ in zip(layout.choices, layout.space.allowed, strict=True)
        )
        return Shared(stem, layers, layout.head.build(**build))

    def path(self, layout: Layers, shared: Shared, arch: Arch) -> list[nn.Module]:
        """Stem, the chosen module of each layer, head."""
        chosen = [choices.get_submodule(str(i)) for choices, i in zip(shared.layers, arch, strict=True)]
        return [shared.stem, *chosen, shared.head]


Group = tuple[int, int, int]  # of layers: output channels, repeats, stride of the first
Own = Callable[[int], dict[str, Any]]  # group -> fields of its genes besides
Candidates = Callable[[int, int, int, int], tuple[Choice, ...]]  # (group, repeat, in, out) -> choices of one layer


def _space(
    name: str,
    groups: Sequence[Group],
    candidates: Candidates,
    stem_channels: int,
    own: Own = lambda group: {},
    **fields: Any,
) -> Space:
    """A space with a gene for each layer of ``groups``, whose choices are ``candidates(group, repeat, in, out)``."""
    genes: list[Gene] = []
    channels = stem_channels
    for g, (out, repeats, stride) in enumerate(groups):
        for r in range(repeats):
            choices = candidates(g, r, channels, out)
            genes.append(Gene(f"layer{len(genes)}", choices, channels, out, stride if r == 0 else 1, **own(g)))
            channels = out
    allowed = tuple(tuple(range(len(gene.choices))) for gene in genes)
    return Space(name=name, stem_channels=stem_channels, genes=tuple(genes), allowed=allowed, **fields)


SHUFFLE_CHOICES = (*(Choice("shuffle", kernel=k) for k in (3, 5, 7)), Choice("xception", kernel=3))


def shufflenet(channels: int = 3, resolution: int = 224, classes: int = 1000) -> Space:
    """SPOS: 20 layers, each a choice of four ShuffleNetV2-like blocks: 4^20 paths. As in its published code."""
    groups = [(64, 4, 2), (160, 4, 2), (320, 8, 2), (640, 4, 2)]
    return _shufflenet("shufflenet", groups, channels, resolution, classes, stem_stride=2, head_channels=1024)


def shufflenet_small(channels: int = 1, resolution: int = 28, classes: int = 10) -> Space:
    """SPOS's blocks for 28² and 32² images: stride-1 stem, three stages of four layers. Our preset."""
    groups = [(32, 4, 2), (64, 4, 2), (128, 4, 2)]
    return _shufflenet("shufflenet-small", groups, channels, resolution, classes, stem_stride=1, head_channels=256)


def _shufflenet(
    name: str,
    groups: Sequence[Group],
    channels: int,
    resolution: int,
    classes: int,
    stem_stride: int,
    head_channels: int,
) -> Space:
    return _space(
        name,
        groups,
        lambda group, repeat, cin, cout: SHUFFLE_CHOICES,
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
    """Inverted bottlenecks in the order (kernel, expansion), which polynomial mutation relies on."""
    return tuple(Choice("ib", kernel=k, expand=e) for k in kernels for e in expansions)


def _mobile_candidates(expansions: Sequence[int]) -> Candidates:
    """PAD-NAS Table 2: layer 1 has e = 1 only; no Identity in the first layer of a group."""

    def candidates(group: int, repeat: int, cin: int, cout: int) -> tuple[Choice, ...]:
        if group == 0:
            return _bottlenecks((3, 5, 7), (1,))
        identity = (Choice("identity"),) if repeat > 0 else ()
        return identity + _bottlenecks((3, 5, 7), expansions)

    return candidates


def _small_candidates(large: bool) -> Candidates:
    """Few candidates of clearly different quality: at this size similar ones cannot be told apart."""
    blocks = _bottlenecks((3, 5), (1, 2, 4)) if large else (Choice("ib", 3, 1), Choice("ib", 5, 4))

    def candidates(group: int, repeat: int, cin: int, cout: int) -> tuple[Choice, ...]:
        return (Choice("identity"), Choice("max_pool", 3), *blocks) if repeat > 0 else blocks

    return candidates


MOBILE_GROUPS = {
    "basic": [(16, 1, 1), (32, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)],
    "large": [(16, 1, 1), (24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)],
}
SMALL_GROUPS = [(16, 2, 1), (64, 4, 2)]  # wide where the image is small: capacity that costs little time


def _as_in_v3(small: bool) -> Own:
    """MobileNetV3-Large (Howard et al. 2019, Table 1): ReLU up to 40 channels, hard-swish from 80 on; squeeze-excite at
    40 channels and from 112 on, which our 96 stand for.
    """
    relu, excited = ((0,), (1,)) if small else ((0, 1, 2), (2, 4, 5, 6))

    def own(group: int) -> dict[str, Any]:
        return ({"act": "relu"} if group in relu else {}) | ({"se": True} if group in excited else {})

    return own


def mobile(
    variant: str = "basic", channels: int = 3, resolution: int = 224, classes: int = 1000, small: bool = False
) -> Space:
    """PAD-NAS Tables 1 and 2: 22 searched inverted bottlenecks.

    ``basic``: k ∈ {3,5,7} × e ∈ {3,6}; ``large``: e ∈ {1..6}; ``v3``: basic with squeeze-excite and hard-swish where
    MobileNetV3 has them (Table 4, which gives no channels: they are Table 1's). ``small`` is our preset for 28² and 32²
    images: 6 layers; the first in each group is k3_e1 or k5_e4, the others may also be Identity or a 3×3 max pool. With
    ``large`` it has k ∈ {3,5} × e ∈ {1,2,4}.
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
        own=_as_in_v3(small) if v3 else lambda group: {},
        init="kaiming",
    )


FAMILY = Layerwise(
    (InvertedBottleneck, Shuffle, Xception, Identity, MaxPool),
    Stem,
    Head,
    {
        "shufflenet": shufflenet,
        "shufflenet-small": shufflenet_small,
        **{
            "mobile" + ("" if v == "basic" else f"-{v}") + ("-small" if small else ""): partial(mobile, v, small=small)
            for v in ("basic", "large", "v3")
            for small in (False, True)
        },
    },
)
