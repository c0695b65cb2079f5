"""TFLite models on 8-bit values, by ai-edge-quantizer: activations int8 with a zero point, weights int8 per channel."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supernet.export import tflite
from supernet.export.base import Int8, Shape, noise_batches


def quantise(
    files: Sequence[bytes],
    batches: Sequence[Sequence[np.ndarray]],
    inner: Sequence[bool],
    weights: Sequence[int] = (),
    floats: Sequence[int] = (),
) -> list[bytes]:
    """Float models to models on 8-bit values, in the converter's environment.

    Args:
        batches: of each model, what its ranges are taken from. inner: whether its input is 8-bit.
        weights: how many weights its convolutions and linear layers have, in order. floats: which of them stay floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        for i, (file, ranges, within) in enumerate(zip(files, batches, inner, strict=True)):
            path = Path(folder, f"{i}.tflite")
            path.write_bytes(file)
            np.save(path.with_suffix(".npy"), np.stack([x.transpose(0, 2, 3, 1) for x in ranges]))
            asked = {"inner": within, "weights": list(weights), "floats": list(floats)}
            path.with_suffix(".json").write_text(json.dumps(asked))
        tflite.in_converter("quantise_tflite.py", folder)
        return [Path(folder, f"{i}.int8").read_bytes() for i in range(len(files))]


class Quantiser:
    """Quantises one model.

    Args:
        file: float. layers: the layer of each of its convolutions and linear layers, in order, and how many weights
            that has.
    """

    def __init__(self, file: bytes, layers: Sequence[tuple[str, int]], batches: Sequence[np.ndarray]):
        self.file, self.layers, self.batches = file, layers, batches

    def __call__(self, floats: Collection[str] = ()) -> bytes:
        """The model on 8-bit values, but for the layers ``floats``."""
        kept = [place for place, (layer, _) in enumerate(self.layers) if layer in floats]
        if len(kept) == len(self.layers):
            return self.file
        return quantise([self.file], [self.batches], [False], [size for _, size in self.layers], kept)[0]


def quantiser(network: nn.Module, shape: Shape, batches: Sequence[np.ndarray]) -> Quantiser:
    """What quantises a network for batches of this size; its layers have the names of ``Network.named_path``."""
    (file,) = tflite.convert([network], [shape], len(batches[0]))
    return Quantiser(file, _weighted(network, torch.from_numpy(batches[0])), batches)


@torch.inference_mode()
def _weighted(network: Any, x: Tensor) -> list[tuple[str, int]]:
    """The convolutions and linear layers in the order in which they run: the layer that each is in, its weights."""
    ran: list[tuple[str, int]] = []
    hooks = []
    for name, layer in network.named_path().items():
        for module in layer.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                known = name, module.weight.numel()
                hooks.append(module.register_forward_hook(lambda *_, known=known: ran.append(known)))
    network(x)
    for hook in hooks:
        hook.remove()
    return ran


def layers(modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int, inner: Sequence[bool]) -> list[bytes]:
    """Modules on 8-bit values, with ranges of noise; what they give are such too if it is feature maps.

    Args:
        inner: whether a module gets 8-bit values, as a layer inside a network does, or images as floats.
    """
    return quantise(tflite.convert(modules, shapes, batch), [noise_batches(s, batch) for s in shapes], inner)


INT8 = Int8(quantiser, layers, ("ai-edge-quantizer",))
