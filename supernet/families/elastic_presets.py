"""Elastic spaces by name: once-for-all's three, AttentiveNAS's, and a small one of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from supernet.space import Choice, Gene, Space
from supernet.spec import make_divisible

OFA_RESOLUTIONS = range(128, 225, 4)  # as in its code
RESNET_DEPTHS = (2, 2, 4, 2)
RESNET_WIDTHS = (0.65, 0.8, 1.0)


def stage(
    name: str,
    kind: str,
    channels: Sequence[int],
    stride: int,
    depths: Sequence[int] = (1,),
    kernels: Sequence[int] = (),
    expansions: Sequence[int] = (),
    *,
    each: bool = False,
    unit: str = "expand",
) -> list[Gene]:
    """The genes of a stage. What has one value is no gene: a kernel and an expansion then stand in the depth's choices.

    Args:
        channels: the widths.
        each: kernel and expansion are chosen for each block, not for the stage.
        unit: ``expand`` or ``expand_percent``.
    """

    def gene(part: str, choices: Sequence[Choice]) -> Gene:
        return Gene(f"{name}.{part}", tuple(choices), channels[-1], channels[-1], stride)

    genes = [gene("width", [Choice("width", count=c) for c in channels])] if len(channels) > 1 else []
    for block in range(max(depths)) if each else ("",):
        for op, values in (("kernel", kernels), (unit, expansions)):
            if len(values) > 1:
                genes.append(gene(f"{op}{block}", [Choice(op, count=value) for value in values]))
    kernel, expand = (values[0] if len(values) == 1 else 0 for values in (kernels, expansions))
    return [*genes, gene("depth", [Choice(kind, kernel, expand, depth) for depth in depths])]


def space(
    name: str,
    images: tuple[int, int, int],
    resolutions: Sequence[int],
    stages: Sequence[Sequence[Gene]],
    head: Sequence[Choice],
    act: str,
    **fields: Any,
) -> Space:
    """A space whose resolutions are those for images of 224 pixels, or as many times smaller or larger."""
    channels, resolution, classes = images
    stem, last = stages[0][-1], stages[-1][-1]
    sizes = sorted({round(r * resolution / 224) for r in resolutions} - {0})
    genes = (
        Gene("resolution", tuple(Choice("resolution", count=s) for s in sizes), channels, channels, 1),
        *(gene for stage in stages for gene in stage),
        Gene("head", tuple(head), last.out_channels, max(1, head[-1].count), 1),
    )
    return Space(
        name=name,
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem_channels=stem.out_channels,
        stem_stride=stem.stride,
        head_channels=head[-1].count or last.out_channels,
        act=act,
        genes=genes,
        allowed=tuple(tuple(range(len(gene.choices))) for gene in genes),
        **fields,
    )


def ofa_mobilenetv3(channels: int = 3, resolution: int = 224, classes: int = 1000, *, multiplier: float = 1.0) -> Space:
    """Once-for-all on MobileNetV3: kernel and expansion of each block, depth of each stage.

    Args:
        multiplier: of all widths; 1.0 and 1.2 are the published supernets.
    """
    stem, first, *widths, head = (make_divisible(c * multiplier) for c in (16, 16, 24, 40, 80, 112, 160, 1280))
    kinds = ("mobile_relu", "mobile_relu_se", "mobile", "mobile_se", "mobile_se")
    stages = [stage("stem", "image_stem", [stem], 2), stage("first", "mobile_relu", [first], 1, (1,), (3,), (1,))]
    for i, (kind, width, stride) in enumerate(zip(kinds, widths, (2, 2, 2, 1, 2), strict=True), 1):
        stages.append(stage(f"stage{i}", kind, [width], stride, (2, 3, 4), (3, 5, 7), (3, 4, 6), each=True))
    name = "ofa-mobilenetv3" + ("" if multiplier == 1 else f"-{multiplier}")
    mix = [Choice("mix_head", expand=6, count=head)]
    return space(name, (channels, resolution, classes), OFA_RESOLUTIONS, stages, mix, "hard_swish", dropout=0.1)


def ofa_proxyless(channels: int = 3, resolution: int = 224, classes: int = 1000, *, multiplier: float = 1.3) -> Space:
    """Once-for-all on ProxylessNAS's widths: MobileNetV2-like blocks with ReLU6. 1.3 is the published supernet."""
    stem, first, *widths, head = (make_divisible(c * multiplier) for c in (32, 16, 24, 40, 80, 96, 192, 320, 1280))
    stages = [stage("stem", "image_stem", [stem], 2), stage("first", "mobile", [first], 1, (1,), (3,), (1,))]
    for i, (width, stride) in enumerate(zip(widths, (2, 2, 2, 1, 2, 1), strict=True), 1):
        depths = (2, 3, 4) if i < len(widths) else (1,)
        stages.append(stage(f"stage{i}", "mobile", [width], stride, depths, (3, 5, 7), (3, 4, 6), each=True))
    images = channels, resolution, classes
    return space("ofa-proxyless", images, OFA_RESOLUTIONS, stages, [Choice("head", count=head)], "relu6", dropout=0.1)


def ofa_resnet50(channels: int = 3, resolution: int = 224, classes: int = 1000) -> Space:
    """Once-for-all on ResNet-50: expansion of each block in per cent, width and depth of each stage.

    The stem's depth says whether its residual convolution runs.
    """
    end = resnet_widths(64)
    stages = [
        stage("stem", "image_stem", sorted(set(resnet_middles())), 2, (1, 2)),
        stage("stem_end", "stem_pool", end, 2),
    ]
    for i, (width, depth) in enumerate(zip((256, 512, 1024, 2048), RESNET_DEPTHS, strict=True), 1):
        depths = [depth + more for more in range(3)]
        expansions, stride = (20, 25, 35), 1 if i == 1 else 2
        options: dict[str, Any] = {"each": True, "unit": "expand_percent"}
        stages.append(stage(f"stage{i}", "resnet_d", resnet_widths(width), stride, depths, (), expansions, **options))
    images = channels, resolution, classes
    return space("ofa-resnet50", images, OFA_RESOLUTIONS, stages, [Choice("pool_head")], "relu")


def resnet_widths(channels: int) -> list[int]:
    """The widths of a stage that has so many channels at most."""
    return [make_divisible(channels * multiplier) for multiplier in RESNET_WIDTHS]


def resnet_middles() -> list[int]:
    """The widths within the stem, which belong to those at its end; two of them are equal."""
    return [make_divisible(width // 2) for width in resnet_widths(64)]


ATTENTIVE = (  # widths, depths, kernels, expansions, stride, kind
    ((16, 24), (1, 2), (3, 5), (1,), 1, "attentive"),
    ((24, 32), (3, 4, 5), (3, 5), (4, 5, 6), 2, "attentive"),
    ((32, 40), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, "attentive_se"),
    ((64, 72), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, "attentive"),
    ((112, 120, 128), (3, 4, 5, 6, 7, 8), (3, 5), (4, 5, 6), 1, "attentive_se"),
    ((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (3, 5), (6,), 2, "attentive_se"),
    ((216, 224), (1, 2), (3, 5), (6,), 1, "attentive_se"),
)


def attentive_nas(channels: int = 3, resolution: int = 224, classes: int = 1000) -> Space:
    """AttentiveNAS: width, depth, kernel and expansion of each stage, stem, head and resolution (192 to 288)."""
    stages = [stage("stem", "image_stem", (16, 24), 2)]
    for i, (widths, depths, kernels, expansions, stride, kind) in enumerate(ATTENTIVE, 1):
        stages.append(stage(f"stage{i}", kind, widths, stride, depths, kernels, expansions))
    head = [Choice("mix_head", expand=6, count=count) for count in (1792, 1984)]
    return space(
        "attentive-nas", (channels, resolution, classes), (192, 224, 256, 288), stages, head, "swish", dropout=0.2
    )


def elastic_small(channels: int = 1, resolution: int = 28, classes: int = 10) -> Space:
    """All five kinds of gene for 28² and 32² images on a small CPU. Our preset.

    Narrow widths, expansion 1 and half the resolution are bad choices on purpose: a rule of training or a search that
    cannot tell them from good ones is of no use.
    """
    stages = [
        stage("stem", "image_stem", [16], 2),
        stage("stage1", "mobile", (8, 16, 24), 1, (1, 2), (3, 5), (1, 4)),
        stage("stage2", "mobile", (24, 48, 64), 2, (1, 2, 3), (3, 5), (1, 4)),
    ]
    head = [Choice("head", count=128)]
    return space("elastic-small", (channels, resolution, classes), (112, 160, 224), stages, head, "relu6")


PRESETS: Mapping[str, Callable[..., Space]] = {
    "ofa-mobilenetv3": ofa_mobilenetv3,
    "ofa-mobilenetv3-1.2": partial(ofa_mobilenetv3, multiplier=1.2),
    "ofa-proxyless": ofa_proxyless,
    "ofa-resnet50": ofa_resnet50,
    "attentive-nas": attentive_nas,
    "elastic-small": elastic_small,
}
