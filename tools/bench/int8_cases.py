"""Blocks on 8-bit values: ours, our float32 operators, on the CPU onnxruntime (QDQ) and PyTorch's quantised ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.kernel_cases import OURS, Case, depthwise_flops, pointwise_flops
from supernet import ops, quantized
from supernet.quantized import QuantisedConv, QuantisedSum

# (channels, outputs, height and width, stride, kernel), at batch 1 of 224-type networks
SEPARABLE = ((32, 16, 112, 1, 3), (96, 24, 56, 1, 3), (144, 32, 28, 1, 5), (576, 96, 14, 1, 3), (576, 160, 14, 2, 5))
# (channels, expanded, outputs, height and width, stride, kernel)
BOTTLENECKS = (
    (16, 96, 24, 112, 2, 3),
    (24, 144, 24, 56, 1, 3),
    (32, 192, 32, 28, 1, 5),
    (64, 384, 64, 14, 1, 3),
    (96, 576, 96, 14, 1, 5),
    (160, 960, 160, 7, 1, 3),
)


def convolution(outputs: int, inputs: int, k: int) -> QuantisedConv:
    """Random weights; scales that spread the sums over the values; zero is the least value, so that it has a ReLU."""
    weight = torch.randint(-127, 128, (outputs, inputs, k, k), dtype=torch.int8)
    spread = 255 / (128 * 64 * (inputs * k * k) ** 0.5)
    scale, bias = spread * (torch.rand(outputs) + 0.5), torch.randint(-1000, 1000, (outputs,), dtype=torch.int32)
    return QuantisedConv(weight, bias, scale, 0, 0)


def qdq_session(x: Tensor, convs: Sequence[QuantisedConv], stride: int, residual: QuantisedSum | None = None):
    """The block as onnxruntime's static quantisation writes it, one thread: quantise and dequantise around float nodes.

    ``convs`` without tables. Activations have scale 1, so that the weights' are the convolutions' and all ratios are
    exact in float32.
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind = {torch.uint8: TensorProto.UINT8, torch.int8: TensorProto.INT8}[x.dtype]
    nodes, weights = [], []

    def constant(value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, f"c{len(weights)}"))
        return weights[-1].name

    def node(op: str, inputs: Sequence[str], **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{op}{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def zero(value: int) -> str:
        return constant(np.asarray(value, torch.empty(0, dtype=x.dtype).numpy().dtype))

    def real(q: str, value: int, scale: float = 1.0) -> str:
        return node("DequantizeLinear", [q, constant(np.float32(scale)), zero(value)])

    q = "x"
    for i, conv in enumerate(convs):
        depthwise = i == len(convs) - 2
        scale = constant(conv.scale.numpy())
        parts = [
            node("DequantizeLinear", [constant(v), scale, constant(np.zeros(len(v), v.dtype))], axis=0)
            for v in (conv.weight.numpy(), conv.bias.numpy())
        ]
        k = conv.weight.shape[2]
        settings = {"kernel_shape": [k, k], "pads": [k // 2] * 4, "strides": [stride if depthwise else 1] * 2}
        y = node("Conv", [real(q, conv.in_zero), *parts], group=len(conv.weight) if depthwise else 1, **settings)
        q = node("QuantizeLinear", [y, constant(np.float32(1)), zero(conv.zero)])
    if residual is not None:
        own = real(q, convs[-1].zero, residual.pw_factor)
        both = node("Add", [own, real("x", convs[0].in_zero, residual.x_factor)])
        q = node("QuantizeLinear", [both, constant(np.float32(1)), zero(residual.zero)])
    shape = (x.shape[0], len(convs[-1].weight), *(-(-n // stride) for n in x.shape[2:]))
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info(q, kind, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def in_pytorch(x: Tensor, convs: Sequence[QuantisedConv], stride: int, residual: QuantisedSum | None) -> Callable:
    """PyTorch's quantised convolutions (oneDNN), each packed once."""
    torch.backends.quantized.engine = "onednn"
    warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")

    def packed(i: int, conv: QuantisedConv) -> object:
        depthwise, k = i == len(convs) - 2, conv.weight.shape[2]
        zeros = torch.zeros(len(conv.weight), dtype=torch.long)
        real = conv.weight * conv.scale[:, None, None, None]
        weight = torch.quantize_per_channel(real, conv.scale.double(), zeros, 0, torch.qint8)
        strides, groups = [stride if depthwise else 1] * 2, len(conv.weight) if depthwise else 1
        bias = conv.bias * conv.scale
        return torch.ops.quantized.conv2d_prepack(weight, bias, strides, [k // 2] * 2, [1, 1], groups)

    steps = [(torch.ops.quantized.conv2d, packed(i, conv), conv.zero) for i, conv in enumerate(convs)]
    quantised = torch.quantize_per_tensor(x.float(), 1.0, convs[0].in_zero, torch.quint8)
    quantised = quantised.contiguous(memory_format=torch.channels_last)

    def form() -> Tensor:
        y = quantised
        for conv, weight, zero in steps:
            y = conv(y, weight, 1.0, zero)
        return y if residual is None else torch.ops.quantized.add(y, quantised, 1.0, residual.zero)

    return form


def cases(row: str, shape: str, x: Tensor, convs: Sequence[QuantisedConv], stride: int, flops: float) -> Iterator[Case]:
    expanded = len(convs) == 3
    residual = QuantisedSum(0.5, 0.5, 0) if expanded and stride == 1 and x.shape[1] == len(convs[-1].weight) else None
    parameters = [
        t for c in convs for t in (c.weight.float(), c.scale, c.bias * c.scale)
    ]  # of the float32 form, whatever it computes
    real = x.float()
    if expanded:
        forms = {
            OURS: lambda: quantized.inverted_bottleneck(x, *convs, residual=residual, stride=stride),
            "ours, float32": lambda: ops.inverted_bottleneck(
                real, *parameters, residual=residual is not None, stride=stride, act="relu"
            ),
        }
    else:
        forms = {
            OURS: lambda: quantized.dw_separable(x, *convs, stride=stride),
            "ours, float32": lambda: ops.dw_separable(real, *parameters, stride=stride, mid_act="relu"),
        }
    if x.device.type == "cpu":
        session, fed = qdq_session(x, convs, stride, residual), {"x": x.contiguous().numpy()}
        forms["onnxruntime, int8"] = lambda: session.run(None, fed)
        forms["PyTorch, int8"] = in_pytorch(x, convs, stride, residual)
    yield Case(row, shape, forms, flops, bytes=x.numel() + forms[OURS]().numel())


def int8() -> Iterator[Case]:
    """Values without images: random bytes."""
    for c, o, size, stride, k in SEPARABLE:
        yield from cases(
            "separable inference, int8",
            f"k{k} s{stride} {c}x{size}x{size}->{o}",
            torch.randint(0, 256, (1, c, size, size), dtype=torch.uint8).to(memory_format=torch.channels_last),
            [convolution(c, 1, k), convolution(o, c, 1)],
            stride,
            depthwise_flops(1, c, k, size, stride) + pointwise_flops(1, c, o, size // stride),
        )
    for c, m, o, size, stride, k in BOTTLENECKS:
        yield from cases(
            "inverted bottleneck inference, int8",
            f"k{k} s{stride} {c}x{size}x{size}->{m}->{o}",
            torch.randint(0, 256, (1, c, size, size), dtype=torch.uint8).to(memory_format=torch.channels_last),
            [convolution(m, c, 1), convolution(m, 1, k), convolution(o, m, 1)],
            stride,
            depthwise_flops(1, m, k, size, stride)
            + pointwise_flops(1, c, m, size)
            + pointwise_flops(1, m, o, size // stride),
        )
