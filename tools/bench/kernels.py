"""How much faster the operators are than plain PyTorch: one row per claim, measured side by side.

Every case runs its forms in turn, in a shuffled order, round after round; both sides are channels_last, use one
thread and the same allocator. What is compared is the median of the thread's CPU time; on a GPU, of the time between
two CUDA events around queued calls.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch._inductor.config
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import ops

OURS = "ours"
# (batch, channels, outputs of the pointwise part, height and width, stride): 28x28 images behind a stem, and 224x224
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
class Goal:
    """What a row is held to: a ratio to reach, or not to exceed where it is an overhead."""

    gate: float
    stretch: float
    overhead: bool = False

    def met(self, ratio: float) -> bool:
        return ratio <= self.gate if self.overhead else ratio >= self.gate


# By (row, form that we are compared with).
GOALS = {
    ("separable inference", "eager"): Goal(1.6, 2.0),
    ("separable inference", "eager, BN folded"): Goal(1.3, 1.6),
    ("separable inference", "frozen inductor"): Goal(1.15, 1.4),
    ("separable inference, bfloat16", "ours, float32"): Goal(1.6, 2.0),
    ("inverted bottleneck inference", "eager"): Goal(2.4, 3.0),
    ("inverted bottleneck inference", "eager, BN folded"): Goal(2.0, 2.5),
    ("inverted bottleneck inference", "frozen inductor"): Goal(1.5, 2.0),
    ("inverted bottleneck inference, bfloat16", "ours, float32"): Goal(1.6, 2.0),
    ("depthwise k3 fwd+bwd", "eager"): Goal(1.5, 2.0),
    ("depthwise k5 fwd+bwd", "eager"): Goal(3.2, 5.0),
    ("depthwise k7 fwd+bwd", "eager"): Goal(3.7, 6.0),
    ("separable training k3", "eager"): Goal(1.4, 1.8),
    ("separable training k5", "eager"): Goal(2.0, 2.5),
    ("separable training k7", "eager"): Goal(2.5, 3.2),
    ("BN + activation training", "eager"): Goal(1.5, 1.8),
    ("depth mixture fwd+bwd", "sum"): Goal(2.6, 3.5),
    ("depth mixture fwd+bwd", "stack"): Goal(4.3, 6.0),
    ("prefix convolution fwd+bwd", "native width"): Goal(1.05, 1.02, overhead=True),
    ("prefix depthwise fwd+bwd", "native width"): Goal(0.9, 0.6, overhead=True),
    ("soft mask fwd+bwd", "plain"): Goal(1.12, 1.05, overhead=True),
}


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


@dataclass(frozen=True)
class Limits:
    """What one core of this machine reaches: multiply-adds in large matrix products, a copy in memory."""

    flops: float  # per second, in float32
    products: float  # per second, in bfloat16: where the processor has matrix units, theirs
    bandwidth: float  # bytes per second, read and written

    @classmethod
    def measure(cls) -> Limits:
        a, b, c = (torch.randn(1024, 1024) for _ in range(3))
        narrow = [t.bfloat16() for t in (a, b, c)]
        x, y = torch.randn(1 << 26), torch.empty(1 << 26)
        full = fastest(lambda: torch.mm(a, b, out=c))
        half = fastest(lambda: torch.mm(*narrow[:2], out=narrow[2]))
        copy = fastest(lambda: y.copy_(x))
        return cls(2 * 1024**3 / full, 2 * 1024**3 / half, 8 * (1 << 26) / copy)

    def of_arithmetic(self, case: Case, seconds: float) -> float:
        """The share of the time that the case's arithmetic takes at these rates."""
        return (case.flops / self.flops + case.products / self.products) / seconds


def fastest(form: Callable[[], object], times: int = 10) -> float:
    """Seconds of CPU time, the fewest of some runs."""
    seconds = []
    for _ in range(times):
        start = time.thread_time()
        form()
        seconds.append(time.thread_time() - start)
    return min(seconds)


def image(n: int, c: int, size: int, grad: bool = True) -> Tensor:
    x = torch.randn(n, c, size, size).to(memory_format=torch.channels_last)
    return x.requires_grad_(grad)


def gradients(forward: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Callable[[], object]:
    """Forward and backward of one form."""
    grad = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), inputs, grad)


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


def cpu_seconds(form: Callable[[], object]) -> float:
    """CPU time of the thread."""
    start = time.thread_time()
    form()
    return time.thread_time() - start


def cuda_seconds(form: Callable[[], object], calls: int = 50) -> float:
    """Time on the device of one call; enough are queued that the device does not wait for the host's start."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        form()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


CLOCKS = {"cpu": cpu_seconds, "cuda": cuda_seconds}


def measure(case: Case, rounds: int, clock: Callable[[Callable[[], object]], float]) -> dict[str, float]:
    """Median seconds of each form."""
    rng, times = random.Random(0), {name: [] for name in case.forms}
    for form in case.forms.values():
        form()
        form()
    for _ in range(rounds):
        for name in rng.sample(list(case.forms), len(case.forms)):
            times[name].append(clock(case.forms[name]))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def made_on(device: str, cases: Iterator[Case]) -> Iterator[Case]:
    """The cases with their tensors on the device; what they do later is not slowed by it."""
    while True:
        with torch.device(device):
            case = next(cases, None)
        if case is None:
            return
        yield case


def run(
    rounds: int = 11,
    groups: Sequence[str] = tuple(GROUPS),
    advance: Callable[[str], None] = lambda case: None,
    device: str = "cpu",
) -> list[dict]:
    """Measures all cases of the groups; sets PyTorch to one thread.

    Args:
        rounds: how often every form runs.
        groups: names out of ``GROUPS``.
        advance: called with the name of each case when it is done.
        device: ``cpu`` or ``cuda``.

    Returns:
        A dict for each case and each form that we are compared with: ``row``, ``shape``, ``against``, ``ratio``
        (theirs / ours; ours / theirs where the goal is a small overhead), ``ours_ms``, ``theirs_ms``, and the shares
        of the machine's `Limits` that ours reaches, ``of_flops`` and ``of_bandwidth`` (0: not counted).
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._inductor.config.freezing = True  # as an option of torch.compile it has no effect on the graph's weights
    limits, results = Limits.measure(), []  # of this machine's CPU
    for group in groups:
        for case in made_on(device, GROUPS[group]()):
            with torch.inference_mode(group == "inference"):
                seconds = measure(case, rounds, CLOCKS[device])
            ours = seconds.pop(OURS)
            for against, theirs in seconds.items():
                goal = GOALS.get((case.row, against))
                results.append(
                    {
                        "row": case.row,
                        "shape": case.shape,
                        "against": against,
                        "ratio": ours / theirs if goal and goal.overhead else theirs / ours,
                        "ours_ms": 1e3 * ours,
                        "theirs_ms": 1e3 * theirs,
                        "of_flops": limits.of_arithmetic(case, ours) if device == "cpu" else 0.0,
                        "of_bandwidth": case.bytes / ours / limits.bandwidth if device == "cpu" else 0.0,
                    }
                )
            advance(f"{case.row} {case.shape}")
    return results


def summary(results: Sequence[dict], device: str = "cpu") -> list[dict]:
    """One dict per row and comparison: geometric means over the shapes, the worst shape, the goal on the CPU."""
    rows: dict[tuple[str, str], list[dict]] = {}
    for result in results:
        rows.setdefault((result["row"], result["against"]), []).append(result)
    out = []
    for (row, against), cases in rows.items():
        known, ratios = GOALS.get((row, against)), [case["ratio"] for case in cases]
        goal = known if device == "cpu" else None
        mean = geometric_mean(ratios)
        out.append(
            {
                "row": row,
                "against": against,
                "shapes": len(ratios),
                "geomean": mean,
                "worst": max(ratios) if known and known.overhead else min(ratios),
                "gate": goal.gate if goal else None,
                "stretch": goal.stretch if goal else None,
                "met": goal.met(mean) if goal else None,
                **{key: geometric_mean([case[key] for case in cases]) for key in ("of_flops", "of_bandwidth")},
            }
        )
    return out


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values))) if all(values) else 0.0


def table(results: Sequence[dict], device: str = "cpu") -> Table:
    """The summary as a table to print."""
    clock = "1 thread, CPU time" if device == "cpu" else "CUDA events"
    title = f"Kernels against plain PyTorch: {clock}, geometric means over the shapes"
    limits = "of arithmetic, of copy: the share of what one core does in large products (float32, or bfloat16 "
    limits += "for pointwise convolutions in bfloat16) and in copying memory"
    out = Table(title=title, caption=limits if device == "cpu" else None)
    for column in ("", "against", "shapes", "ratio", "worst", "gate", "stretch", "", "of arithmetic", "of copy"):
        out.add_column(column, justify="left" if column in ("", "against") else "right")
    for s in summary(results, device):
        goal = [f"{s[key]:g}" if s[key] else "" for key in ("gate", "stretch")]
        verdict = {True: "met", False: "missed", None: ""}[s["met"]]
        ratios = f"{s['geomean']:.2f}", f"{s['worst']:.2f}"
        shares = [f"{s[key]:.0%}" if s[key] else "" for key in ("of_flops", "of_bandwidth")]
        out.add_row(s["row"], s["against"], str(s["shapes"]), *ratios, *goal, verdict, *shares)
    return out
