"""Wrong arguments of every operator end in its own refusal, on the CPU, by the form for every device, and in shapes.

SUPERNET_FUZZ_EXAMPLES tries more than the default; `make test-asan` runs this file on a build with sanitizers.
"""

import math
import os
import re
from contextlib import nullcontext

import pytest
import torch
from aten import forms_for_every_device
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

ops = pytest.importorskip("supernet.ops", reason="the extension is not built", exc_type=ImportError)

fuzz = settings(
    max_examples=int(os.environ.get("SUPERNET_FUZZ_EXAMPLES", 50)),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
ACTS = ("relu", "relu6", "hard_swish", "swish", "none")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
sizes = st.integers(1, 5)


# --- calls that are right ------------------------------------------------------------------------------------


@st.composite
def images(draw, channels=None):
    """``[N, C, H, W]``, whose type all else follows."""
    shape = draw(sizes), channels or draw(sizes), draw(sizes), draw(sizes) + 1
    x = torch.randn(shape, dtype=draw(st.sampled_from(DTYPES)))
    if draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    return x


def vector(x, n):
    return torch.rand(n, dtype=x.dtype) + 0.5


@st.composite
def norms(draw, x, channels, name):
    """gamma and beta, or neither."""
    affine = draw(st.booleans())
    return {f"{name}{p}": vector(x, channels) if affine else None for p in ("gamma", "beta")}


@st.composite
def masked_conv2d(draw):
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    channels, k = draw(st.integers(1, 3)), draw(st.sampled_from((1, 3, 5, 7)))
    active = draw(st.integers(1, groups))
    x = draw(images(channels * active))
    inputs = channels if groups > 1 else channels * active + draw(st.integers(0, 2))
    weight = torch.randn(groups * per_group, inputs, k, k).to(x.dtype)
    outputs = active * per_group if groups > 1 else draw(st.integers(1, per_group))
    c = vector(x, outputs) if draw(st.booleans()) else None
    padding = draw(st.integers(k // 2, 4))
    return {
        **{"x": x, "weight": weight, "coefficients": c, "out_channels": outputs},
        **{"stride": draw(st.integers(1, 3)), "padding": padding, "groups": groups},
    }


@st.composite
def depthwise_conv2d(draw):
    x = draw(images())
    k = draw(st.sampled_from((1, 3, 5, 7)))
    return {"x": x, "weight": torch.randn(x.shape[1], 1, k, k).to(x.dtype), "stride": draw(st.integers(1, 3))}


@st.composite
def pointwise_conv2d(draw):
    x = draw(images())
    return {"x": x, "weight": torch.randn(draw(sizes), x.shape[1], 1, 1).to(x.dtype)}


@st.composite
def depth_mix(draw):
    x = draw(images())
    depth = draw(st.integers(1, 4))
    return {"xs": [torch.randn_like(x) for _ in range(depth)], "p": vector(x, depth)}


@st.composite
def separable(draw, x, channels, affine):
    """The weights behind x or behind its expansion, each with what ``affine(channels, name)`` gives."""
    k, out = draw(st.sampled_from((1, 3, 5, 7))), draw(sizes)
    return {
        "dw_weight": torch.randn(channels, 1, k, k).to(x.dtype),
        **affine(channels, "dw_"),
        "pw_weight": torch.randn(out, channels, 1, 1).to(x.dtype),
        **affine(out, "pw_"),
    }


def folded(x):
    return lambda n, name: {f"{name}scale": vector(x, n), f"{name}shift": vector(x, n)}


def drawn_norms(draw, x, eps):
    return lambda n, name: {**draw(norms(x, n, name)), **({f"{name}eps": 1e-3} if eps else {})}


@st.composite
def ends(draw):
    return {"mid_act": draw(st.sampled_from(ACTS)), "out_act": draw(st.sampled_from(ACTS))}


@st.composite
def dw_separable(draw):
    x = draw(images())
    return {
        **{"x": x, **draw(separable(x, x.shape[1], folded(x)))},
        **{"stride": draw(st.integers(1, 3)), **draw(ends())},
    }


@st.composite
def dw_separable_train(draw):
    x = draw(images())
    x = torch.cat([x, x + 1])
    stride = draw(st.integers(1, 3))
    return {"x": x, **draw(separable(x, x.shape[1], drawn_norms(draw, x, True))), "stride": stride, **draw(ends())}


@st.composite
def bottleneck(draw, x, affine, last):
    mid = draw(sizes)
    expand = {"expand_weight": torch.randn(mid, x.shape[1], 1, 1).to(x.dtype), **affine(mid, "expand_")}
    behind = {"residual": False, "stride": draw(st.integers(1, 3)), "act": draw(st.sampled_from(ACTS))}
    return {"x": x, **expand, **draw(separable(x, mid, affine)), **last, **behind}


@st.composite
def inverted_bottleneck(draw):
    x = draw(images())
    return draw(bottleneck(x, folded(x), {}))


@st.composite
def inverted_bottleneck_train(draw):
    x = draw(images())
    x = torch.cat([x, x + 1])
    return draw(bottleneck(x, drawn_norms(draw, x, False), {"eps": 1e-3}))


@st.composite
def batch_norm_act_train(draw):
    x = draw(images())
    x = torch.cat([x, x + 1])
    return {"x": x, **draw(norms(x, x.shape[1], "")), "eps": 1e-3, "act": draw(st.sampled_from(ACTS))}


def int8_conv(draw, x, outputs, inputs, k, name, table=True):
    """The arguments of one convolution of an int8 block, beside x."""
    weight = torch.randint(-128, 128, (outputs, inputs, k, k)).to(torch.int8)
    bias = torch.randint(-1000, 1000, (outputs,), dtype=torch.int32)
    ends = torch.iinfo(x.dtype)
    zeros = {part: draw(st.integers(ends.min, ends.max)) for part in ("in_zero", "zero")}
    drawn = torch.randint(0, 100, (256,)).to(x.dtype) if table and draw(st.booleans()) else None
    parts = {"weight": weight, "bias": bias, "scale": torch.rand(outputs) / 100, **zeros, "table": drawn}
    return {f"{name}_{part}": value for part, value in parts.items()}


def int8_image(draw):
    x = torch.randint(0, 128, [draw(sizes) for _ in range(4)])
    return x.to(draw(st.sampled_from((torch.uint8, torch.int8))))


@st.composite
def dw_separable_int8(draw):
    x = int8_image(draw)
    dw = int8_conv(draw, x, x.shape[1], 1, draw(st.sampled_from((1, 3, 5, 7))), "dw")
    return {"x": x, **dw, **int8_conv(draw, x, draw(sizes), x.shape[1], 1, "pw"), "stride": draw(st.integers(1, 3))}


@st.composite
def inverted_bottleneck_int8(draw):
    x, mid, residual = int8_image(draw), draw(sizes), draw(st.booleans())
    return {
        **{"x": x, **int8_conv(draw, x, mid, x.shape[1], 1, "expand")},
        **int8_conv(draw, x, mid, 1, draw(st.sampled_from((1, 3, 5, 7))), "dw"),
        **int8_conv(draw, x, x.shape[1] if residual else draw(sizes), mid, 1, "pw", table=False),
        **{"residual": residual, "x_factor": 0.5, "pw_factor": 0.5, "y_zero": 3},
        "stride": 1 if residual else draw(st.integers(1, 3)),
    }


FORWARD = {
    f.__name__: f
    for f in (
        *(masked_conv2d, depthwise_conv2d, pointwise_conv2d, depth_mix, dw_separable, dw_separable_train),
        *(inverted_bottleneck, inverted_bottleneck_train, batch_norm_act_train),
        *(dw_separable_int8, inverted_bottleneck_int8),
    )
}


def backward_of(name: str) -> str:
    return name.removesuffix("_train") + "_backward"


def has_backward(name: str) -> bool:
    """Of its own: inference on floats has that of training, on integers none."""
    return f"{name}_train" not in FORWARD and not name.endswith("_int8")


OPERATORS = [*FORWARD, *map(backward_of, filter(has_backward, FORWARD))]


def operator(name: str):
    return getattr(torch.ops.supernet, name).default


def schema_order(name: str, arguments: dict) -> dict:
    return {a.name: arguments[a.name] for a in operator(name)._schema.arguments}


@st.composite
def calls(draw, name: str) -> dict:
    """Right arguments of an operator by name; of a backward, what its forward leaves it."""
    if name in FORWARD:
        return schema_order(name, draw(FORWARD[name]()))
    forward = next(f for f in FORWARD if backward_of(f) == name and has_backward(f))
    arguments = schema_order(forward, draw(FORWARD[forward]()))
    outputs = operator(forward)(*arguments.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    arguments |= {r.name: o for r, o in zip(operator(forward)._schema.returns, outputs, strict=True) if r.name}
    needed = next((a.type for a in operator(name)._schema.arguments if a.name == "needed"), None)
    arguments |= {"grad": torch.randn_like(outputs[0]), "x_needed": draw(st.booleans())}
    if needed is not None:
        arguments["needed"] = [draw(st.booleans()) for _ in range(needed_length(name))]
    return schema_order(name, arguments)


def needed_length(name: str) -> int:
    return int(re.search(r"bool\[(\d)\] needed", str(operator(name)._schema)).group(1))


def test_every_operator_is_fuzzed():
    names = {n.removeprefix("supernet::") for n in torch._C._dispatch_get_all_op_names() if n.startswith("supernet::")}
    assert names == set(OPERATORS)


# --- what can be wrong with one argument -----------------------------------------------------------------------

NO_TENSORS = (None, 3, 1.5, "x", [], [1.0], torch.float32)
INTEGERS = (*range(-2, 10), 31, 1025, 2**31 - 1, 2**31, 2**40, 2**61, 2**63 - 1, -(2**63), 2**70)
NO_INTEGERS = (None, 0.5, math.nan, "1", [1], True)
FLOATS = (0.0, -1.0, math.nan, math.inf, 1e-300, None, "1", [1.0], 10**400)
WORDS = ("", "gelu", "relu\0", "RELU", "\N{MULTIPLICATION SIGN}" * 100, None, 3, b"relu")


def misshapen(t: Tensor):
    """Other shapes, sizes, types, layouts and devices."""
    yield from (t[None], t.flatten(), t.sum(), t.reshape(-1, 1, 1), t.to("meta"), t.to_sparse())
    yield from (t.to(d) for d in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.cfloat))
    for axis in range(t.dim()):
        yield t.narrow(axis, 0, t.shape[axis] - 1)
        yield t.narrow(axis, 0, 0)
        yield torch.cat([t, t], axis)
        yield torch.repeat_interleave(t, 2, axis).narrow(axis, 1, t.shape[axis])
        # No machine has the memory to copy it; and one that holds nothing but whose sizes overflow.
        one = t.narrow(axis, 0, 1)
        yield one.expand(*[2**50 if i == axis else n for i, n in enumerate(one.shape)])
        yield t.new_empty([0 if i == axis else 2**20 for i in range(t.dim())])
    yield t.transpose(0, -1)
    if t.is_floating_point():
        yield t.clone().requires_grad_()
        yield torch.full_like(t, math.nan)


def alternatives(value, name: str) -> list:
    if isinstance(value, Tensor):
        return [*misshapen(value), *NO_TENSORS]
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        first, *rest = value
        return [[], value * 17, [*value, None], first, None, 3, *([other, *rest] for other in misshapen(first))]
    if isinstance(value, bool):
        return [not value, None, 0.5, "x", []]
    if isinstance(value, list):
        return [[], value * 2, [None] * len(value), [not v for v in value], None, 3]
    if isinstance(value, str):
        return [*WORDS, *ACTS]
    if isinstance(value, float):
        return list(FLOATS)
    if isinstance(value, int) or name == "out_channels":
        return [*INTEGERS, *NO_INTEGERS]
    return [torch.zeros(3), torch.zeros(0), *NO_TENSORS]  # an optional tensor that was not given


@st.composite
def wrong_calls(draw, name: str) -> dict:
    """Right arguments, of which one or two are then replaced."""
    arguments = draw(calls(name))
    for changed in draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2, unique=True)):
        others = alternatives(arguments[changed], changed)
        arguments[changed] = others[draw(st.integers(0, len(others) - 1))]
    return arguments


# The dispatcher's own words, where an argument is not of the schema's type; the allocator's.
OF_DISPATCHER = re.compile(r"supernet::\w+\(\) |Overflow when unpacking long|Tried to convert a List")
OF_ALLOCATOR = re.compile(r".*(can't allocate memory|Storage size calculation overflowed|numel: integer mult)")


def outcome(call, *arguments, **named):
    """The result, or the one line of the refusal."""
    try:
        return call(*arguments, **named)
    except (RuntimeError, ValueError) as error:
        line = str(error).splitlines()[0]
        ours = any(line.startswith(f"{name}: ") for name in OPERATORS)
        assert ours or OF_DISPATCHER.match(line) or OF_ALLOCATOR.match(line), line
        return line


@pytest.fixture(params=["cpu", "aten"])
def form(request):
    with forms_for_every_device() if request.param == "aten" else nullcontext():
        yield


@pytest.mark.parametrize("name", OPERATORS)
@settings(fuzz, max_examples=fuzz.max_examples // 5)
@given(data=st.data())
def test_right_calls_are_taken(form, name, data):
    arguments = data.draw(calls(name)).values()
    assert shapes(operator(name)(*arguments)) == shapes(operator(name)(*map(meta, arguments)))


@pytest.mark.parametrize("name", OPERATORS)
@fuzz
@given(data=st.data())
def test_operators_refuse(form, name, data):
    arguments = data.draw(wrong_calls(name))
    outcome(operator(name), *arguments.values())


def meta(value):
    if isinstance(value, list):
        return [meta(v) for v in value]
    return value.to("meta") if isinstance(value, Tensor) else value


def shapes(result):
    if isinstance(result, list | tuple):
        return [shapes(r) for r in result]
    return None if result is None else (tuple(result.shape), result.dtype)


@pytest.mark.parametrize("name", OPERATORS)
@fuzz
@given(data=st.data())
def test_shape_inference_refuses_the_same(name, data):
    arguments = data.draw(wrong_calls(name)).values()
    tensors = [t for a in arguments for t in (a if isinstance(a, list) else [a]) if isinstance(t, Tensor)]
    # Half is for other devices; memory and layouts are not shapes.
    if any(t.device.type == "meta" or t.layout != torch.strided or t.dtype == torch.half for t in tensors):
        return
    got, inferred = outcome(operator(name), *arguments), outcome(operator(name), *map(meta, arguments))
    if isinstance(got, str):
        same = got.replace(" on cpu", " on meta")
        assert inferred == same or OF_ALLOCATOR.match(got) or "needed" in inferred
    else:
        assert shapes(inferred) == shapes(got)


WRAPPED = [name for name in FORWARD if hasattr(ops, name)]


@pytest.mark.parametrize("name", WRAPPED)
@fuzz
@given(data=st.data())
def test_wrappers_refuse(name, data):
    arguments = data.draw(wrong_calls(name))
    arguments.pop("pw_eps", None)
    if "dw_eps" in arguments:
        arguments["eps"] = arguments.pop("dw_eps")
    if data.draw(st.booleans()):
        arguments.pop("out_channels", None)
    with torch.autocast("cpu", enabled=data.draw(st.booleans())):
        outcome(getattr(ops, name), **arguments)
