"""What the operators are compared on: shapes, and for each the same computation by us and by plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import ops

OURS = "ours"
# (batch, channels, outputs of the pointwise part, height and width, stride): 28x28 images after a stem, and 224x224
SEPARABLE = (
    (64, 24, 24, 28, 1),
    (64, 48, 48, 28, 2),
    (64, 96, 24, 14, 1),
    (64, 144, 24, 14, 1),
    (64, 96, 24, 14, 2),
    (64, 192, 48, 7, 1),
    (64, 576, 96, 7, 1),
    (16, 32, 16, 112, 1),
    (16, 96, 24, 56, 1),
    (16, 144, 32, 28, 1),
    (16, 576, 96, 14, 1),
)
# (batch, channels, expanded, outputs, height and width, stride, kernel)
BOTTLENECKS = (
    (64, 24, 96, 24, 28, 1, 3),
    (64, 24, 96, 48, 28, 2, 5),
    (64, 24, 144, 24, 14, 1, 5),
    (64, 48, 192, 48, 7, 1, 7),
    (64, 96, 576, 96, 7, 1, 3),
    (16, 16, 96, 24, 112, 2, 3),
    (16, 24, 144, 24, 56, 1, 5),
    (16, 32, 192, 32, 28, 1, 7),
    (16, 96, 576, 96, 14, 1, 3),
    (16, 160, 960, 160, 7, 1, 5),
)
DEPTHWISE = tuple((n, c, size, stride) for n, c, _, size, stride in SEPARABLE)
IMAGES = ((64, 16, 28), (64, 96, 14), (64, 576, 7), (16, 96, 56), (16, 144, 28))
# (batch, inputs, outputs, kernel, height and width, active share)
PREFIXES = ((64, 96, 24, 1, 14, 0.5), (64, 192, 48, 1, 7, 0.75), (16, 64, 64, 3, 28, 0.5), (16, 144, 32, 1, 28, 0.5))


@dataclass(frozen=True)
class Case:
    """One shape of one row: forms that compute the same, ``ours`` among them.

    ``flops`` are those of the convolutions, two a multiply-add, without ``products``: those of pointwise convolutions
    in bfloat16. ``bytes`` are of the tensors that every form has to read and write once: inputs and outputs, and in
    training their gradients. 0: not counted.
    """

    row: str
    shape: str
    forms: dict[str, Callable[[], object]]
    flops: float = 0.0
    products: float = 0.0
    bytes: float = 0.0


def image(n: int, c: int, size: int, grad: bool = True) -> Tensor:
    x = torch.randn(n, c, size, size).to(memory_format=torch.channels_last)
    return x.requires_grad_(grad)


def gradients(forward: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Callable[[], object]:
    """Forward and backward of one form; its first call makes the gradient that goes in."""
    grad: list[Tensor] = []

    def both() -> object:
        y = forward()
        if not grad:
            grad.append(torch.randn_like(y))
        return torch.autograd.grad(y, inputs, grad)

    return both


class Branch(nn.Module):
    """Convolutions, batch norms and activations; x is added to what comes out where ``residual``."""

    def __init__(self, layers: Sequence[nn.Module], residual: bool = False):
        super().__init__()
        self.layers, self.residual = nn.Sequential(*layers), residual
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.residual else y

    def folded(self) -> Branch:
        """The batch norms folded into the convolutions."""
        layers = list(self.layers)
        fused = [
            torch.nn.utils.fuse_conv_bn_eval(layer, layers[i + 1]) if isinstance(layer, nn.Conv2d) else layer
            for i, layer in enumerate(layers)
            if not isinstance(layer, nn.BatchNorm2d)
        ]
        return Branch(fused, self.residual).eval()

    def affine(self) -> list[Tensor]:
        """Weight, scale and shift of each convolution, as our inference operators take them."""
        out = []
        for conv, bn in zip(self.layers, self.layers[1:], strict=False):
            if isinstance(conv, nn.Conv2d):
                scale = (bn.weight * torch.rsqrt(bn.running_var + bn.eps)).detach()
                out += [conv.weight.detach(), scale, (bn.bias - bn.running_mean * scale).detach()]
        return out


def separable_layers(c: int, o: int, k: int, stride: int) -> list[nn.Module]:
    """Depthwise, BN, ReLU6, pointwise, BN."""
    depthwise = nn.Conv2d(c, c, k, stride, k // 2, groups=c, bias=False)
    pointwise = nn.Conv2d(c, o, 1, bias=False)
    return [depthwise, nn.BatchNorm2d(c), nn.ReLU6(inplace=True), pointwise, nn.BatchNorm2d(o)]


def bottleneck_layers(c: int, m: int, o: int, k: int, stride: int) -> list[nn.Module]:
    """Expansion, BN, ReLU6 and `separable_layers`."""
    expand = nn.Conv2d(c, m, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU6(inplace=True)
    return [*expand, *separable_layers(m, o, k, stride)]


def depthwise_flops(n: int, c: int, k: int, size: int, stride: int) -> float:
    return 2.0 * n * (size // stride) ** 2 * c * k * k


def pointwise_flops(n: int, c: int, o: int, size: int) -> float:
    return 2.0 * n * size**2 * c * o


def inference_cases(
    row: str, shape: str, branch: Branch, x: Tensor, ours: Callable, flops: float, products: float
) -> Iterator[Case]:
    """float32 against PyTorch's forms, bfloat16 against our own float32. ``ours`` takes x and ``affine()``.

    ``flops`` are the depthwise part's, ``products`` the pointwise parts'.
    """
    branch.eval()
    parameters, folded = branch.affine(), branch.folded()
    torch.compiler.reset()
    frozen = torch.compile(folded)  # with what `run` set
    forms = {
        OURS: lambda: ours(x, *parameters),
        "eager": lambda: branch(x),
        "eager, BN folded": lambda: folded(x),
        "frozen inductor": lambda: frozen(x),
    }
    values = x.numel() + ours(x, *parameters).numel()
    yield Case(row, shape, forms, flops + products, bytes=4 * values)
    low = [t.bfloat16() if t.dim() == 4 else t for t in (x, *parameters)]
    narrow = {OURS: lambda: ours(*low), "ours, float32": forms[OURS]}
    yield Case(f"{row}, bfloat16", shape, narrow, flops, products, 2 * values)


def inference() -> Iterator[Case]:
    for k in (3, 5, 7):
        for n, c, o, size, stride in SEPARABLE:
            yield from inference_cases(
                "separable inference",
                f"k{k} s{stride} {n}x{c}x{size}x{size}->{o}",
                Branch(separable_layers(c, o, k, stride)),
                image(n, c, size, grad=False),
                partial(ops.dw_separable, stride=stride, mid_act="relu6"),
                depthwise_flops(n, c, k, size, stride),
                pointwise_flops(n, c, o, size // stride),
            )
    for n, c, m, o, size, stride, k in BOTTLENECKS:
        residual = stride == 1 and c == o
        yield from inference_cases(
            "inverted bottleneck inference",
            f"k{k} s{stride} {n}x{c}x{size}x{size}->{m}->{o}",
            Branch(bottleneck_layers(c, m, o, k, stride), residual),
            image(n, c, size, grad=False),
            partial(ops.inverted_bottleneck, residual=residual, stride=stride, act="relu6"),
            depthwise_flops(n, m, k, size, stride),
            pointwise_flops(n, c, m, size) + pointwise_flops(n, m, o, size // stride),
        )


def depthwise() -> Iterator[Case]:
    for k in (3, 5, 7):
        for n, c, size, stride in DEPTHWISE:
            x, weight = image(n, c, size), torch.randn(c, 1, k, k, requires_grad=True)
            forms = {
                OURS: lambda x=x, w=weight, s=stride: ops.depthwise_conv2d(x, w, stride=s),
                "eager": lambda x=x, w=weight, s=stride, k=k, c=c: F.conv2d(x, w, None, s, k // 2, 1, c),
            }
            yield Case(
                f"depthwise k{k} fwd+bwd",
                f"s{stride} {n}x{c}x{size}x{size}",
                {name: gradients(form, [x, weight]) for name, form in forms.items()},
                3 * depthwise_flops(n, c, k, size, stride),
                bytes=4 * (3 * x.numel() + 2 * x.numel() // stride**2),
            )


def training_case(row: str, shape: str, branch: Branch, x: Tensor, ours: Callable[..., tuple], flops: float) -> Case:
    """Forward and backward. Inputs and outputs move once, and so do the gradients of both."""
    p = list(branch.parameters())
    forms = {
        OURS: gradients(lambda: ours(x, *p, eps=1e-5)[0], [x, *p]),
        "eager": gradients(lambda: branch(x), [x, *p]),
    }
    return Case(row, shape, forms, 3 * flops, bytes=4 * (3 * x.numel() + 2 * branch(x).numel()))


def training() -> Iterator[Case]:
    for k in (3, 5, 7):
        for n, c, o, size, stride in SEPARABLE:
            yield training_case(
                f"separable training k{k}",
                f"s{stride} {n}x{c}x{size}x{size}->{o}",
                Branch(separable_layers(c, o, k, stride)),
                image(n, c, size),
                partial(ops.dw_separable_train, stride=stride, mid_act="relu6"),
                depthwise_flops(n, c, k, size, stride) + pointwise_flops(n, c, o, size // stride),
            )
    for n, c, m, o, size, stride, k in BOTTLENECKS:
        residual = stride == 1 and c == o
        yield training_case(
            "inverted bottleneck training",
            f"k{k} s{stride} {n}x{c}x{size}x{size}->{m}->{o}",
            Branch(bottleneck_layers(c, m, o, k, stride), residual),
            image(n, c, size),
            partial(ops.inverted_bottleneck_train, residual=residual, stride=stride, act="relu6"),
            pointwise_flops(n, c, m, size)
            + depthwise_flops(n, m, k, size, stride)
            + pointwise_flops(n, m, o, size // stride),
        )


def batch_norm() -> Iterator[Case]:
    for n, c, size in IMAGES:
        x, bn = image(n, c, size), nn.BatchNorm2d(c)
        inputs = [x, bn.weight, bn.bias]

        def ours(x=x, bn=bn):
            return ops.batch_norm_act_train(x, bn.weight, bn.bias, eps=bn.eps, act="relu6")[0]

        forms = {OURS: ours, "eager": lambda x=x, bn=bn: F.relu6(bn(x), inplace=True)}
        yield Case(
            "BN + activation training",
            f"{n}x{c}x{size}x{size}",
            {name: gradients(form, inputs) for name, form in forms.items()},
            bytes=4 * 5 * x.numel(),
        )


def depth_mixture() -> Iterator[Case]:
    for n, c, size in IMAGES:
        xs, p = [image(n, c, size) for _ in range(4)], torch.rand(4, requires_grad=True)
        forms = {
            OURS: lambda xs=xs, p=p: ops.depth_mix(xs, p),
            "sum": lambda xs=xs, p=p: sum(w * x for w, x in zip(p, xs, strict=True)),
            "stack": lambda xs=xs, p=p: (torch.stack(xs) * p[:, None, None, None, None]).sum(0),
        }
        yield Case(
            "depth mixture fwd+bwd",
            f"4 of {n}x{c}x{size}x{size}",
            {name: gradients(form, [*xs, p]) for name, form in forms.items()},
            bytes=4 * (3 * len(xs) + 2) * xs[0].numel(),
        )


def masked() -> Iterator[Case]:
    for n, c, o, k, size, share in PREFIXES:
        inputs, outputs = int(c * share), int(o * share)
        x, full = image(n, inputs, size), torch.randn(o, c, k, k, requires_grad=True)
        own = full[:outputs, :inputs].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        coefficients = torch.rand(outputs, requires_grad=True)
        options = {"out_channels": outputs, "padding": k // 2}
        shape = f"k{k} {n}x{inputs} of {c}x{size}x{size}->{outputs} of {o}"

        def plain(x=x, w=own, k=k):
            return F.conv2d(x, w, None, 1, k // 2)

        def prefix(x=x, w=full, options=options):
            return ops.masked_conv2d(x, w, **options)

        def soft(x=x, w=own, g=coefficients, options=options):
            return ops.masked_conv2d(x, w, coefficients=g, **options)

        native = gradients(plain, [x, own])
        forms = {OURS: gradients(prefix, [x, full]), "native width": native}
        yield Case("prefix convolution fwd+bwd", shape, forms)
        yield Case("soft mask fwd+bwd", shape, {OURS: gradients(soft, [x, own, coefficients]), "plain": native})
    for n, c, size, stride in DEPTHWISE:
        width, k = c // 2, 5
        x, full = image(n, width, size), torch.randn(c, 1, k, k, requires_grad=True)
        own = full[:width].detach().clone().requires_grad_()

        def ours(x=x, w=full, c=c, stride=stride):
            return ops.masked_conv2d(x, w, groups=c, stride=stride, padding=2)

        def depthwise_native(x=x, w=own, width=width, stride=stride):
            return F.conv2d(x, w, None, stride, 2, 1, width)

        forms = {OURS: gradients(ours, [x, full]), "native width": gradients(depthwise_native, [x, own])}
        yield Case("prefix depthwise fwd+bwd", f"k{k} s{stride} {n}x{width} of {c}x{size}x{size}", forms)


GROUPS = {
    "inference": inference,
    "depthwise": depthwise,
    "training": training,
    "norm": batch_norm,
    "mixture": depth_mixture,
    "masked": masked,
}
