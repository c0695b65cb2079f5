"""What a network takes of a small device, in bytes of its precision: flash for its file, memory to run. No torch.

As LiteRT has it without delegates, and its version for microcontrollers: one operator after the other, each with its
inputs and output and whatever is still to be read; a convolution of a stride may need its input with zeros around.
"""

from __future__ import annotations

import math
from typing import Literal

from supernet.spec import Conv, LayerSpec, Price

Precision = Literal["float32", "int8"]
VALUE: dict[Precision, int] = {"float32": 4, "int8": 1}  # bytes of a weight or an activation
# Bytes of an output channel besides its weights: its bias; in int8 also scales and zero points of weights and bias.
CHANNEL: dict[Precision, int] = {"float32": 4, "int8": 28}
OPERATORS = 1000  # bytes of a .tflite that describe a convolution and what is around it, as measured
FUSED = ("none", "relu", "relu6")  # activations that are part of the convolution before them


def flash(spec: LayerSpec, precision: Precision) -> int:
    """Bytes of a layer in a file: weights, what belongs to each channel, BN folded in, and the operators."""
    convs = spec.convs.values()
    channels = sum(conv.out_channels * CHANNEL[precision] + VALUE["float32"] * conv.extra for conv in convs)
    return sum(conv.weights for conv in convs) * VALUE[precision] + channels + OPERATORS * len(convs)


def ram(spec: LayerSpec, precision: Precision) -> int:
    """Bytes of feature maps at the peak of a layer, for one image."""
    held = spec.in_channels * spec.size.pixels + spec.out_channels * spec.out_size.pixels if not spec.convs else 0
    for name, conv in spec.convs.items():
        source = conv.in_channels * (spec.size if conv.stride > 1 else conv.size).pixels
        out, kept = conv.out_channels * conv.size.pixels, spec.block.kept(spec, name)
        if padded := _padded(conv, spec):
            held = max(held, source + padded + kept)
        held = max(held, (padded or source) + out + kept, 0 if conv.act in FUSED else 2 * out + kept)
    return VALUE[precision] * held


def _padded(conv: Conv, spec: LayerSpec) -> int:
    """Values of the input with the zeros around it; 0 where TFLite's padding has these zeros in the same places."""
    before = conv.kernel // 2
    sides = [
        (size, max((out - 1) * conv.stride + conv.kernel - size, 0))
        for size, out in zip(spec.size, conv.size, strict=True)
    ]
    if conv.stride == 1 or all(total // 2 == before for _, total in sides):
        return 0
    height, width = (size + 2 * before for size, _ in sides)
    return conv.in_channels * height * width


def ram_of(image: tuple[int, int, int], precision: Precision) -> Price:
    """The working memory of each layer with the image, which is held to the end, as floats.

    Args:
        image: channels, height and width; of several resolutions the largest.
    """
    held = VALUE["float32"] * math.prod(image)

    def price(spec: LayerSpec) -> int:
        counted = held if precision == "float32" and spec.input_shape == image else 0  # as an input of the layer
        return held + ram(spec, precision) - counted if spec.runs else 0

    return price
