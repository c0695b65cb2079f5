"""OpenVINO's models on 8-bit values, by NNCF's static quantisation: activations by layer, weights by channel."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from torch import nn

from supernet.export import int8_onnx, onnx, openvino
from supernet.export.base import Int8, Shape, require


class Quantiser:
    """Quantises one model; its layers have the names of ``Network.named_path``.

    Args:
        network: eager, in eval mode. shape: of one image. batches: that the ranges of activations are taken from.
    """

    def __init__(self, network: nn.Module, shape: Shape, batches: Sequence[np.ndarray]):
        (self.file,) = onnx.convert([network], [shape], len(batches[0]))
        model = require("onnx", "onnx").ModelProto.FromString(self.file)
        self.layers, self.batches = dict(int8_onnx.layers_of(model, network)), batches

    def __call__(self, floats: Collection[str] = ()) -> bytes:
        """The model on 8-bit values, but for the layers ``floats``."""
        with _quiet() as nncf:
            model = require("openvino", "openvino").Core().read_model(io.BytesIO(self.file))
            names = _named(model)
            ignored = [name for name in names if self.layers.get(name.split("/")[0]) in floats]
            if len(ignored) < len(names):
                model = nncf.quantize(
                    model,
                    nncf.Dataset(self.batches),
                    subset_size=len(self.batches),
                    ignored_scope=nncf.IgnoredScope(names=ignored),
                )
            return openvino.archive(model)


def _named(model: Any) -> list[str]:
    """The operators that come from nodes of a layer, or from the node that makes the logits."""
    passive = ("Constant", "Parameter", "Result")
    return [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() not in passive]


@contextlib.contextmanager
def _quiet() -> Any:
    """NNCF, without its bars and lines."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # nncf imports it, and it misses CUDA
        nncf = require("nncf", "openvino")
        logging.getLogger("nncf").setLevel(logging.ERROR)
        yield nncf


INT8 = Int8(Quantiser, None, ("nncf",))
