"""IR-ResNets for face recognition: the layers of Efficient Global NAS §4.2, in the form that ArcFace and AdaFace use.

Stem 3×3, BN, PReLU; four stages of blocks, each stage halving the image and all but the first doubling the channels;
BN, dropout, linear and BN give the embedding. Trained with AdaFace's margin softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supernet.errors import UserError
from supernet.families.layerwise import Layerwise
from supernet.modules import ConvBN
from supernet.norm import BatchNorm
from supernet.size import PIXEL
from supernet.space import Choice, Gene, Space
from supernet.spec import Block, Conv, LayerSpec

SHARES = (1, 2, 4, 1)  # of the blocks, by stage: our choice; it matches the published parameters of R-34-512


def stages(depth: int) -> tuple[int, ...]:
    """Blocks per stage of a network of ``depth`` layers, which are two in each block, the stem and the embedding.

    >>> stages(34)
    (2, 4, 8, 2)

    Raises:
        UserError: the depth is odd or below 12.
    """
    if depth < 12 or depth % 2:
        raise UserError(
            f"an IR-ResNet of depth {depth}: expected an even number, at least 12 (two layers in each block)"
        )
    counts = [1] * len(SHARES)
    while sum(counts) < depth // 2 - 1:  # one after the other (Sainte-Laguë): a deeper network only adds blocks
        stage = max(range(len(SHARES)), key=lambda i: SHARES[i] / (2 * counts[i] + 1))
        counts[stage] += 1
    return tuple(counts)


def space(blocks: Sequence[int], width: int, channels: int, resolution: int, embedding: int | None = None) -> Space:
    """One network as a space: ``blocks`` per stage, ``width`` channels in the stem and the first stage.

    Args:
        embedding: its length; by default the channels of the last stage, 8 · width.
    """
    genes, cin = [], width
    for stage, count in enumerate(blocks):
        for i in range(count):
            cout = width * 2**stage
            genes.append(Gene(f"stage{stage}.{i}", (Choice("ir", 3),), cin, cout, 2 if i == 0 else 1))
            cin = cout
    return Space(
        name=f"ir-{2 * sum(blocks) + 2}-{cin}",
        channels=channels,
        resolution=resolution,
        classes=0,
        stem_channels=width,
        stem_stride=1,
        head_channels=cin if embedding is None else embedding,
        act="prelu",
        genes=tuple(genes),
        allowed=((0,),) * len(genes),
        dropout=0.4,
        init="pytorch",
    )


class IRStem(Block, nn.Module):
    """3×3 convolution, BN, PReLU."""

    op = "ir_stem"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        size, cout = spec.out_size, spec.out_channels
        return {"conv": Conv(spec.in_channels, cout, 3, size, spec.stride, extra=cout)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.conv = ConvBN(self.convs(spec)["conv"], affine, eps, kernels)
        self.act = nn.PReLU(spec.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class IRBlock(Block, nn.Module):
    """BN, conv, BN, PReLU, conv with the stride, BN; plus the input, through 1×1 conv and BN if the width changes."""

    op, added = "ir", "conv2"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, cout = spec.in_channels, spec.out_channels
        convs = {
            "conv1": Conv(cin, cout, 3, spec.size, extra=2 * cin + cout),  # the first BN and the PReLU
            "conv2": Conv(cout, cout, 3, spec.out_size, spec.stride),
        }
        if cin != cout:
            convs["shortcut"] = Conv(cin, cout, 1, spec.out_size, spec.stride)
        return convs

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.bn = BatchNorm(spec.in_channels, eps=eps, affine=affine)
        self.act = nn.PReLU(spec.out_channels)
        convs = {name: ConvBN(conv, affine, eps, kernels) for name, conv in self.convs(spec).items()}
        self.conv1, self.conv2 = convs["conv1"], convs["conv2"]
        self.shortcut = convs.get("shortcut") or nn.MaxPool2d(1, spec.stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(self.bn(x)))) + self.shortcut(x)


class Embedding(Block, nn.Module):
    """BN, dropout, linear over all pixels, BN without affine: ``[B, C, H, W]`` to ``[B, embedding]``."""

    op = "embedding"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        values = spec.in_channels * spec.size.pixels
        return {"linear": Conv(values, spec.out_channels, 1, PIXEL, norm=False, bias=True, extra=2 * spec.in_channels)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.bn = BatchNorm(spec.in_channels, eps=eps, affine=affine)
        self.dropout = nn.Dropout(spec.dropout)
        self.linear = nn.Linear(spec.in_channels * spec.size.pixels, spec.out_channels)
        self.out = BatchNorm(spec.out_channels, eps=eps, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(self.dropout(self.bn(x)).flatten(1))
        return self.out(x[:, :, None, None]).flatten(1)


class AdaFace(nn.Module):
    """Margin softmax whose margin adapts to the norm of the embedding, a proxy of image quality.

    Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, eq. 12-16. A norm that is 1/h
    deviations below the mean gives ArcFace's angular margin, a norm at the mean CosFace's additive one.

    Args:
        embedding: its length.
        identities: number of classes.
        m, h, s: margin, concentration, scale.
        momentum: of the norm's running mean and deviation; 1 - α of the paper.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, embedding: int, identities: int, m: float = 0.4, h: float = 0.333, s: float = 64.0, momentum: float = 0.01
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(identities, embedding))
        self.m, self.h, self.s, self.momentum = m, h, s, momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits ``[B, identities]`` of embeddings ``[B, E]``, those of the labels ``y`` reduced by the margin."""
        norm = z.norm(dim=1, keepdim=True).clamp(1e-3, 100)
        cosine = nn.functional.linear(nn.functional.normalize(z), nn.functional.normalize(self.weight))
        with torch.no_grad():
            detached = norm.detach()
            self.mean.lerp_(detached.mean(), self.momentum)
            self.std.lerp_(detached.std(), self.momentum)
            quality = ((detached - self.mean) / (self.std + 1e-3) * self.h).clamp(-1, 1)  # eq. 13
        target = cosine.gather(1, y[:, None]).clamp(-1 + 1e-3, 1 - 1e-3)
        angle = (target.acos() - self.m * quality).clamp(1e-3, torch.pi - 1e-3)  # g_angle = -m · quality
        reduced = angle.cos() - (self.m * quality + self.m)  # g_add = m · quality + m
        return self.s * cosine.scatter(1, y[:, None], reduced)


FAMILY = Layerwise((IRBlock,), IRStem, Embedding)
