"""Calls of the CUDA kernels whose traffic `bench.py cuda-model` counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from simt.runner import Out, Scratch

TYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """A call of the runner."""

    name: str
    shape: str
    file: str
    function: str
    arguments: dict
    """In the function's order; what is no Scratch belongs to the minimum."""
    operations: float
    """Outside of tensor cores, a multiply-add being two."""
    tensor_operations: float = 0
    """On tensor cores."""
    again: int = 0
    """Bytes that the algorithm has to read a second time."""


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float32).to(dtype)


def depth_mix(images: int) -> Iterator[Case]:
    depth, c, size = 3, 96, 14
    n = images * c * size * size
    shape = f"{depth} × {c}×{size}²"
    for dtype in TYPES:
        kind = str(dtype).removeprefix("torch.")
        xs = [tensor(n, dtype=dtype) for _ in range(depth)]
        common = {"xs": xs, "p": tensor(depth)}
        end = {"n": n, "depth": depth}
        arguments = {**common, "y": Out((n,), dtype), **end}
        yield Case("depth_mix", shape, "depth_mix", f"depth_mix_{kind}", arguments, 2 * depth * n)
        tiles = math.ceil(n * dtype.itemsize / (256 * 4 * 16))
        arguments = {
            "grad": tensor(n, dtype=dtype),
            **common,
            "grad_xs": [Out((n,), dtype)] * depth,
            "grad_p": Out((depth,)),
            "partial": Scratch((depth, tiles)),
            **end,
        }
        function = f"depth_mix_backward_{kind}"
        yield Case("depth_mix backward", shape, "depth_mix", function, arguments, 3 * depth * n)


def sizes(images: int, c: int, size: int, k: int, stride: int) -> dict:
    """The last arguments of the depthwise kernels."""
    out = (size - 1) // stride + 1
    names = ("batch", "channels", "height", "width", "out_height", "out_width", "kernel", "stride")
    return dict(zip(names, (images, c, size, size, out, out, k, stride), strict=True))


def depthwise(images: int) -> Iterator[Case]:
    for dtype, (c, size, k, stride) in itertools.product(TYPES, ((96, 28, 3, 1), (96, 28, 5, 2), (144, 14, 7, 1))):
        common = sizes(images, c, size, k, stride)
        out = common["out_height"]
        shape = f"{c}×{size}², k {k}, stride {stride}"
        operations = 2 * images * c * out * out * k * k
        partial = Scratch((images * 16, 3 * c * k * k))  # more than these plans need
        x, grad = tensor(images, size, size, c, dtype=dtype), tensor(images, out, out, c, dtype=dtype)
        like_x = Out(tuple(x.shape), dtype)
        norm = {"mean": tensor(c), "var": tensor(c), "gamma": tensor(c), "beta": tensor(c), "eps": 1e-5, "act": 2}
        weight = {"weight": tensor(c, k, k, dtype=dtype)}
        output = {"y": Out(tuple(grad.shape), dtype)}
        moments = {"partial": partial, "out_mean": Out((c,)), "out_var": Out((c,))}
        back = {"grad": grad, "partial": partial, "grad_weight": Out((c, k, k), dtype)}
        # With the gradient on through the norm: grad_z is written and read, x is read again.
        through = {"grad_z": like_x, "partial": partial, "sums": Scratch((2, c)), "grad_x": like_x}
        through |= {"grad_gamma": Out((c,)), "grad_beta": Out((c,))}
        calls = {
            "forward": {"x": x, **weight, **output},
            "forward_moments": {"x": x, **weight, **output, **moments},
            "norm_forward": {"x": x, **norm, **weight, **output, **moments},
            "input_gradient": {"grad": grad, **weight, "grad_x": like_x},
            "norm_input_gradient": {"grad": grad, **weight, "x": x, **norm, **through},
            "weight_gradient": {"x": x, **back},
            "norm_weight_gradient": {"x": x, **norm, **back},
        }
        for name, arguments in calls.items():
            function = f"{name}_{str(dtype).removeprefix('torch.')}"
            title = f"depthwise {name.replace('_', ' ')}"
            again = 2 * x.nbytes if name == "norm_input_gradient" else 0
            yield Case(title, shape, "depthwise", function, {**arguments, **common}, operations, again=again)


def batch_norm_act(images: int) -> Iterator[Case]:
    c, size = 96, 28
    pixels = images * size * size
    for dtype in TYPES:
        x = tensor(pixels, c, dtype=dtype)
        moments = {"mean": tensor(c), "var": tensor(c)}
        norm = {**moments, "gamma": tensor(c), "beta": tensor(c), "eps": 1e-5, "act": 2}
        end = {"pixels": pixels, "channels": c}
        out = Out((pixels, c), dtype)
        calls = {
            "statistics": {"x": x, "moments": Scratch((pixels // 8, 3, c)), "mean": Out((c,)), "var": Out((c,))},
            "forward": {"x": x, **norm, "y": out},
            # It reads x and grad twice, for the sums and then for the gradient, so twice belongs to the minimum.
            "backward": {
                "grad": tensor(pixels, c, dtype=dtype),
                "x": x,
                **norm,
                "partial": Scratch((pixels // 8, 2, c)),
                "sums": Scratch((2, c)),
                "grad_x": out,
                "grad_gamma": Out((c,)),
                "grad_beta": Out((c,)),
            },
        }
        for name, arguments in calls.items():
            function = f"{name}_{str(dtype).removeprefix('torch.')}"
            again = 2 * x.nbytes if name == "backward" else 0
            arguments.update(end)
            operations = 8 * pixels * c
            yield Case(
                f"batch_norm_act {name}",
                f"{c}×{size}²",
                "batch_norm_act",
                function,
                arguments,
                operations,
                again=again,
            )


def masked_conv(images: int) -> Iterator[Case]:
    """The convolution is cuDNN's; ours is the scaled weight, the same for any number of images."""
    outputs, inputs, k = 96, 96, 3
    for dtype in TYPES:
        weight, scaled = tensor(outputs, inputs, k, k, dtype=dtype), Out((outputs, k, k, inputs), dtype)
        end = dict(zip(("o", "i", "k", "active_o", "active_i"), (outputs, inputs, k, outputs, inputs), strict=True))
        calls = {
            "scale": {"weight": weight, "coefficients": tensor(outputs), "scaled": scaled},
            "gradient": {
                "scaled_grad": tensor(outputs, k, k, inputs, dtype=dtype),
                "weight": weight,
                "coefficients": tensor(outputs),
                "grad_weight": Out(tuple(weight.shape), dtype),
                "grad_coefficients": Out((outputs,)),
            },
        }
        for name, arguments in calls.items():
            function = f"{name}_{str(dtype).removeprefix('torch.')}"
            shape = f"{outputs}×{inputs}×{k}×{k} weight"
            arguments.update(end)
            yield Case(f"masked_conv {name}", shape, "masked_conv", function, arguments, 2 * weight.numel())


def dw_separable(images: int) -> Iterator[Case]:
    for dtype, (c, o, size, k, stride) in itertools.product(
        TYPES, ((96, 24, 28, 3, 1), (144, 32, 28, 5, 2), (192, 64, 14, 3, 1), (576, 160, 14, 3, 2))
    ):
        end = sizes(images, c, size, k, stride)
        out = end["out_height"]
        pixels, cores = images * out * out, dtype != torch.float32
        arguments = {
            "x": tensor(images, size, size, c, dtype=dtype),
            "dw_weight": tensor(c, k, k, dtype=dtype),
            "dw_scale": tensor(c),
            "dw_shift": tensor(c),
            "pw_weight": tensor(o, c, dtype=dtype),
            "pw_scale": tensor(o),
            "pw_shift": tensor(o),
            "y": Out((images, out, out, o), dtype),
            "mid_act": 2,
            "out_act": 0,
            "tf32": False,
            "outputs": o,
            **end,
        }
        yield Case(
            "dw_separable",
            f"{c}→{o}×{size}², k {k}, stride {stride}",
            "dw_separable",
            f"fused_{str(dtype).removeprefix('torch.')}",
            arguments,
            2 * pixels * c * (k * k if cores else k * k + o),
            tensor_operations=2 * pixels * c * o if cores else 0,
        )


def inverted_bottleneck(images: int) -> Iterator[Case]:
    for dtype, (i, c, o, size, k, stride) in itertools.product(
        TYPES, ((24, 144, 24, 28, 3, 1), (32, 192, 64, 28, 5, 2), (64, 384, 64, 14, 5, 1), (160, 960, 160, 7, 3, 1))
    ):
        end = sizes(images, c, size, k, stride)
        out = end["out_height"]
        pixels, cores = images * out * out, dtype != torch.float32
        products = 2 * images * c * (size * size * i + out * out * o)
        arguments = {
            "x": tensor(images, size, size, i, dtype=dtype),
            "expand_weight": tensor(c, i, dtype=dtype),
            "expand_scale": tensor(c),
            "expand_shift": tensor(c),
            "dw_weight": tensor(c, k, k, dtype=dtype),
            "dw_scale": tensor(c),
            "dw_shift": tensor(c),
            "pw_weight": tensor(o, c, dtype=dtype),
            "pw_scale": tensor(o),
            "pw_shift": tensor(o),
            "y": Out((images, out, out, o), dtype),
            "act": 2,
            "tf32": False,
            "residual": i == o and stride == 1,
            "inputs": i,
            "outputs": o,
            **end,
        }
        yield Case(
            "inverted_bottleneck",
            f"{i}→{c}→{o}×{size}², k {k}, stride {stride}",
            "inverted_bottleneck",
            f"fused_{str(dtype).removeprefix('torch.')}",
            arguments,
            2 * pixels * c * k * k + (0 if cores else products),
            tensor_operations=products if cores else 0,
        )


GROUPS: dict[str, Callable[[int], Iterator[Case]]] = {
    "depth_mix": depth_mix,
    "depthwise": depthwise,
    "batch_norm_act": batch_norm_act,
    "masked_conv": masked_conv,
    "dw_separable": dw_separable,
    "inverted_bottleneck": inverted_bottleneck,
}
