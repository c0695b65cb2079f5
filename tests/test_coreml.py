"""CoreML's packages: what their programs compute, by PyTorch's functions, as no package runs beside macOS."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch.nn import functional as F

from supernet.export import coreml, formats
from supernet.export.base import Pixels
from supernet.model import Network
from tests.conftest import SMALL_SPACES, refused, tiny_space

pytestmark = pytest.mark.filterwarnings("ignore")  # of coremltools: versions that it was not tested with


@pytest.fixture(autouse=True)
def installed() -> None:
    with coreml._quiet():
        pytest.importorskip("coremltools", reason="needs the extra [coreml]")


def pads(op) -> list[int]:
    """As ``F.pad`` takes them."""
    if op.pad_type.val == "valid":
        return [0, 0, 0, 0]
    assert op.pad_type.val == "custom"
    top, bottom, left, right = op.pad.val.tolist()
    return [left, right, top, bottom]


def conv(op, x, weight, bias=None):
    x = F.pad(x, pads(op))
    return F.conv2d(x, weight, bias, op.strides.val.tolist(), 0, op.dilations.val.tolist(), int(op.groups.val))


def slice_by_index(op, x):
    """Masks leave an end open."""

    def of(name, usual):
        return usual if op.inputs.get(name) is None else op.inputs[name].val.tolist()

    assert not any(of("squeeze_mask", [False]))
    steps, opened, ends = (
        of("stride", [1] * x.ndim),
        of("begin_mask", [False] * x.ndim),
        of("end_mask", [False] * x.ndim),
    )
    begin = [None if mask else place for place, mask in zip(of("begin", None), opened, strict=True)]
    end = [None if mask else place for place, mask in zip(of("end", None), ends, strict=True)]
    return x[tuple(map(slice, begin, end, steps))]


def reduce_mean(op, x):
    return x.mean(op.axes.val.tolist(), keepdim=bool(op.keep_dims.val))


# By CoreML's specification of its operators (MIL, iOS 16).
OPERATORS = {
    "conv": conv,
    "relu": lambda op, x: x.clamp(min=0),
    "clip": lambda op, x: x.clamp(float(op.alpha.val), float(op.beta.val)),
    "thresholded_relu": lambda op, x: torch.where(x >= float(op.alpha.val), x, 0.0),
    "sigmoid": lambda op, x: x.sigmoid(),
    "sigmoid_hard": lambda op, x: (float(op.alpha.val) * x + float(op.beta.val)).clamp(0, 1),
    "silu": lambda op, x: x * x.sigmoid(),
    "add": lambda op, x, y: x + y,
    "mul": lambda op, x, y: x * y,
    "concat": lambda op, *parts: torch.cat(parts, int(op.axis.val)),
    "slice_by_index": slice_by_index,
    "reduce_mean": reduce_mean,
    "reshape": lambda op, x: x.reshape(op.shape.val.tolist()),
    "linear": lambda op, x, weight, bias: F.linear(x, weight, bias),
}
TAKEN = {"conv": ("x", "weight", "bias"), "linear": ("x", "weight", "bias")}
TAKEN |= dict.fromkeys(("add", "mul"), ("x", "y"))


def computed(path, x: torch.Tensor) -> torch.Tensor:
    """What the program of a package says, from the file."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    function = load(spec, spec.specificationVersion, model.weights_dir).functions["main"]
    values = {"x": x}

    def value(var):
        return values[var.name] if var.name in values else torch.as_tensor(var.val)

    for op in function.operations:
        if op.op_type == "const":
            continue
        if op.op_type == "concat":
            given = op.values
        else:
            given = [v for v in (op.inputs.get(name) for name in TAKEN.get(op.op_type, ("x",))) if v is not None]
        values[op.outputs[0].name] = OPERATORS[op.op_type](op, *map(value, given))
    (y,) = function.outputs
    assert [feature.name for feature in spec.description.output] == ["y"]
    return values[y.name]


QUICK = ("tiny-se", "shufflenet-small", "mobile-small")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SMALL_SPACES]
)
def test_a_package_says_what_the_network_computes(name, tmp_path):
    torch.manual_seed(0)
    space = SMALL_SPACES[name]()
    network = Network(space, tuple(open_[-1] for open_ in space.allowed), kernels="eager")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
    path = tmp_path / "net.mlpackage"
    (file,) = coreml.convert([network.eval()], [network.input_shape], 2)
    coreml.write(path, file, network, {})
    x = torch.randn(2, *network.input_shape)
    with torch.inference_mode():
        expected = network(x)
    assert float((computed(path, x) - expected).abs().max() / expected.abs().max()) < 1e-5


def test_metadata_lie_in_the_package_and_an_old_one_is_replaced(tmp_path):
    network, told = Network(tiny_space(), (0, 3, 2), kernels="eager").eval(), {"classes": ["a", "β"], "n": None}
    path = tmp_path / "net.mlpackage"
    for metadata in ({}, told):
        compared = formats.export(network, network, path, network.input_shape, metadata)
        assert (compared is None) == (sys.platform != "darwin")
    assert json.loads((tmp_path / "net.mlpackage.json").read_text()) == told
    (tmp_path / "net.mlpackage.json").unlink()
    assert formats.read_metadata(path) == told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.mlpackage"]
    again = tmp_path / "again.mlpackage"
    coreml.write(again, coreml.read(path), network, told)
    x = torch.randn(1, *network.input_shape)
    torch.testing.assert_close(computed(again, x), computed(path, x), rtol=0, atol=0)


def test_what_cannot_be_is_refused(tmp_path):
    network = Network(tiny_space(), (0, 3, 2), kernels="eager").eval()
    assert "CoreML has no arrays of bytes" in refused(coreml.convert, [network], [Pixels(14, 14, 1)])
    if sys.platform != "darwin":
        assert "CoreML runs on macOS alone: expected another format" in refused(coreml.load, b"")
    options = formats.Options(any_batch=True)
    assert "have no free number of images" in refused(
        formats.export, network, network, tmp_path / "n.mlpackage", network.input_shape, {}, 1, options
    )
