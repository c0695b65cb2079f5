"""Networks on 8-bit values: what is quantised, how they are judged, which layers hurt, what is refused."""

from __future__ import annotations

import collections
import dataclasses
import functools
import sys

import numpy as np
import pytest
import torch
from conftest import SMALL_SPACES, refused, tiny_space

from latency import runtimes
from latency.agent import load_onnxruntime
from supernet.answers import Answers
from supernet.data.images import MemoryImages
from supernet.data.sets import TrainVal
from supernet.export import formats, int8, int8_onnx
from supernet.families import lower
from supernet.metrics import METRICS
from supernet.model import Network
from supernet.training.bn import recalibrate_bn

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
ort = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
SPACE = tiny_space(4)
ARCH = (0, 2, 3, 2)
LOAD = formats.FORMATS["onnx"].load
SPOILT = {"layers.2", "layers.3", "head"}  # by the fixture below
INT8, UINT8, FLOAT = onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT


def labelled(network: Network, n: int, seed: int) -> MemoryImages:
    """Images of noise with what the network says as labels: it is right about all of them."""
    pixels = torch.randint(256, (n, 14, 14, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    images = MemoryImages(pixels, np.zeros(n, dtype=np.int64), (0.5,), (0.29,), margin=0, mirror=False)
    with torch.inference_mode():
        images.labels = torch.cat([network(x) for x, _ in images.in_order(64)]).argmax(1).numpy()
    return images


def data(network: Network, train: int, val: int) -> TrainVal:
    return TrainVal(labelled(network, train, 1), labelled(network, val, 2), 10, 1, 14, tuple("0123456789"))


@pytest.fixture(scope="module")
def network() -> Network:
    """Logits that differ from image to image."""
    torch.manual_seed(0)
    network = Network(SPACE, ARCH, kernels="eager")
    recalibrate_bn(network, [torch.randn(64, 1, 14, 14)])
    torch.nn.init.normal_(network.head.classifier.weight)
    return network.eval()


@pytest.fixture
def spoilt(network) -> Network:
    """From layers.2 on, a channel that nobody reads is so large that 256 values are too few for the others."""
    spoilt = Network(SPACE, ARCH, kernels="eager").eval()
    spoilt.load_state_dict(network.state_dict())
    with torch.no_grad():
        spoilt.layers[2].separable.pointwise.bn.bias[0] = 1000
        for reader in (spoilt.layers[3].expand.conv, spoilt.head.conv.conv):
            reader.weight[:, 0] = 0
    return spoilt


def weights(file: bytes) -> dict[str, int]:
    """The type of the weights of each convolution and product, by the name of the node."""
    graph = onnx.ModelProto.FromString(file).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    made = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    nodes = (node for node in graph.node if node.op_type in ("Conv", "Gemm"))
    return {node.name: types[made.get(node.input[1], node.input[1])] for node in nodes}


def convolutions(*modules: torch.nn.Module) -> int:
    return sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for module in modules for m in module.modules())


def test_all_weights_are_bytes_but_those_of_named_layers(network):
    batches = [np.random.default_rng(0).standard_normal((4, 1, 14, 14), dtype=np.float32)]
    quantiser = int8_onnx.quantiser(network, (1, 14, 14), batches)
    everything = weights(quantiser())
    assert collections.Counter(everything.values()) == {INT8: convolutions(network)}
    named = weights(quantiser({"layers.2", "head"}))
    assert collections.Counter(named.values())[FLOAT] == convolutions(network.layers[2], network.head)
    x = batches[0]
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    off = [np.abs(LOAD(quantiser(floats))(x) - expected).max() for floats in ((), [*network.named_path()])]
    assert 1e-3 < off[0] / np.abs(expected).max() < 0.1
    assert off[1] / np.abs(expected).max() < 1e-5


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_is_judged_in_its_runtime(network, tmp_path, batch):
    images = data(network, 40, 200)
    settings = int8.Settings(max_drop=10)
    made = int8.quantise(network, tmp_path / "net.onnx", images, settings, batch)
    assert made.float_accuracy == 1
    run, hits = LOAD(made.file), 0
    for i, (x, y) in enumerate(images.val.in_order(1)):
        assert i == 0 or len(y) == 1
        hits += int(run(np.repeat(x.numpy(), batch, 0))[0].argmax() == int(y))
    assert made.accuracy == hits / 200 > 0.9
    assert made.floats == ()
    assert not list(tmp_path.iterdir())


def test_what_it_loses_is_of_the_metric_that_counts(spoilt, tmp_path):
    """Of few images of a class, which an accuracy on all images hardly notices."""
    images = data(spoilt, 64, 300)
    classes, often = np.unique(images.val.labels), np.bincount(images.val.labels).argmax()
    some = np.concatenate([np.flatnonzero(images.val.labels == c)[: None if c == often else 3] for c in classes])
    images = dataclasses.replace(images, val=images.val.take(some))
    file, all_of = tmp_path / "n.onnx", functools.partial(int8.Settings, max_drop=100)
    made = {metric: int8.quantise(spoilt, file, images, all_of(metric=metric)) for metric in METRICS}
    right = LOAD(made["top1"].file)
    hits = np.array([right(x.numpy())[0].argmax() == int(y) for x, y in images.val.in_order(1)])
    labels = np.array([int(y) for _, y in images.val.in_order(1)])
    assert made["top1"].accuracy == hits.mean()
    assert made["balanced"].accuracy == pytest.approx(np.mean([hits[labels == c].mean() for c in classes]))
    assert made["balanced"].accuracy != made["top1"].accuracy
    assert "balanced accuracy on" in made["balanced"].describe()
    assert "points of balanced accuracy in validation" in refused(
        int8.quantise, spoilt, file, images, int8.Settings(max_drop=1, metric="balanced")
    )


def test_the_limit_itself_is_allowed():
    """From 91 to 90 of 100 images is one point, which binary fractions exceed a little."""
    labels, guesses = np.zeros(100, dtype=np.int64), np.array([[0]] * 90 + [[1]] * 10)
    assert 100 * (0.91 - 0.9) > 1
    assert int8.Quantised(b"", Answers(labels, guesses, 2), 0.91).lost == 1


def test_images_are_resized_for_a_file_as_the_network_resizes_them(tmp_path):
    space = SMALL_SPACES["tiny-resolutions"]()
    torch.manual_seed(0)
    network = Network(space, tuple(open_[0] for open_ in space.allowed), kernels="eager")
    recalibrate_bn(network, [torch.randn(64, 1, 14, 14)])
    torch.nn.init.normal_(network.head.classifier.weight)
    assert network.eval().input_shape == (1, 9, 9)
    made = int8.quantise(network, tmp_path / "net.onnx", data(network, 40, 100), int8.Settings(max_drop=20))
    assert made.accuracy > 0.8
    assert LOAD(made.file)(np.zeros((1, 1, 9, 9), np.float32)).shape == (1, 10)


def test_layers_that_hurt_are_named_and_kept(spoilt, tmp_path):
    images = data(spoilt, 64, 300)
    says = refused(int8.quantise, spoilt, tmp_path / "net.onnx", images, int8.Settings(max_drop=10))
    assert "net.onnx is not written: int8 loses" in says
    assert "at most 10 are allowed, and most is lost by" in says
    assert all(name in says for name in SPOILT)
    assert "(mixed)" in says
    assert "(qat)" in says
    made = int8.quantise(spoilt, tmp_path / "net.onnx", images, int8.Settings(max_drop=10, mixed=True))
    assert made.lost <= 10
    assert {*made.floats} == SPOILT
    floats = collections.Counter(weights(made.file).values())[FLOAT]
    assert floats == convolutions(*(spoilt.named_path()[name] for name in made.floats))
    assert made.precision == f"int8, float32 in {', '.join(made.floats)}"


def test_refusals(network, tmp_path, monkeypatch):
    images = data(network, 8, 8)
    assert "0 images: expected at least 1" in refused(int8.Settings, calibration=0)
    assert "-1 points: expected 0 to 100" in refused(int8.Settings, max_drop=-1)
    empty = dataclasses.replace(images, train=images.train.take(np.arange(0)))
    assert "the calibration set is empty" in refused(
        int8.quantise, network, tmp_path / "a.onnx", empty, int8.Settings()
    )
    assert "int8 files end in .onnx" in refused(int8.quantise, network, tmp_path / "a.pt2", images, int8.Settings())
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    says = refused(int8.quantise, network, tmp_path / "a.onnx", images, int8.Settings())
    assert says == "onnxruntime is not installed: pip install 'supernet[onnx]'"
    assert not list(tmp_path.iterdir())


def optimised(file: bytes, folder) -> collections.Counter[str]:
    """The operators that onnxruntime runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 3
    ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("tiny-se", -1),
        ("mobile-small", 1),
        *(pytest.param(name, -1, marks=pytest.mark.slow) for name in ("tiny", "shufflenet-small", "elastic-small")),
    ],
)
def test_layers_alone_run_what_they_run_in_a_network(name, place, tmp_path):
    """Of the whole network nothing is left out and nothing done twice: no values come and go as floats."""
    space = SMALL_SPACES[name]()
    arch = tuple(open_[min(place, len(open_) - 1)] for open_ in space.allowed)
    whole = runtimes.whole(space, arch, "eager")
    (file,) = int8_onnx.layers([whole], [whole.input_shape], 1, [False])
    path = lower(space, arch)
    specs = list(dict.fromkeys(path))
    inner = [spec.in_channels != space.channels for spec in specs]
    assert inner == [False] + [True] * (len(specs) - 1)
    alone = int8_onnx.layers([s.measured("eager") for s in specs], [s.input_shape for s in specs], 1, inner)
    together: collections.Counter[str] = collections.Counter()
    for layer, spec, within in zip(alone, specs, inner, strict=True):
        for _ in range(path.count(spec)):
            together += optimised(layer, tmp_path)
        load_onnxruntime(layer, 1)()
        graph = onnx.ModelProto.FromString(layer).graph
        assert graph.input[0].type.tensor_type.elem_type == (UINT8 if within else FLOAT)
        assert graph.output[0].type.tensor_type.elem_type == (FLOAT if spec.classes else UINT8)
    assert together == optimised(file, tmp_path)


def test_a_runtime_of_int8_is_made_again(tmp_path):
    floats, ints = (runtimes.get("onnxruntime", cache=tmp_path, precision=p) for p in ("float32", "int8"))
    assert floats.describe()["options"] == {}  # as tables of 0.1 have it
    assert ints.describe()["options"] == {"precision": "int8"}
    assert runtimes.get("onnxruntime", **ints.describe()["options"]).describe() == ints.describe()
    spec = lower(SPACE, ARCH)[1]
    layers = [runtimes.Layer(spec.key, spec.measured("eager"), spec.input_shape, inner) for inner in (False, True)]
    assert len({runtime.path(layer) for runtime in (floats, ints) for layer in layers}) == 3
    assert "expected float32 or int8" in refused(runtimes.get, "onnxruntime", precision="int4")
    assert "torch runs layers of float32: int8 runs in onnxruntime" in refused(runtimes.get, "torch", precision="int8")
