"""Files for other runtimes: round trips, numbers, metadata, and what is refused."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import SMALL_SPACES, tiny_space
from torch import nn

from supernet import spaces
from supernet.cli.export import timed, usable
from supernet.errors import UserError
from supernet.export import formats, tflite
from supernet.export.base import Options
from supernet.model import Network, Supernet, batch_norms

SPACE = tiny_space(act="hard_swish", squeeze_excite=True)
ARCH = (0, 3, 2)
METADATA = {"space": {"fingerprint": SPACE.fingerprint}, "arch": list(ARCH), "accuracy": {"test": 0.5}, "lut": None}
NEEDS = {
    "pt2": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "pte": ("executorch",),
    "tflite": ("ai_edge_litert",),
    "xml": ("onnx", "onnxscript", "openvino"),
    "mlpackage": (),
    "py": (),
}


def skip_without(suffix: str) -> None:
    if reason := formats.FORMATS[suffix].absent():
        pytest.skip(reason)
    for name in NEEDS[suffix]:
        pytest.importorskip(name, reason=f"needs {name}: an extra")
    if suffix == "tflite" and not tflite.LITERT_PYTHON.exists():
        pytest.skip("needs the converter's environment: make litert")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    """A supernet whose BN layers do something."""
    torch.manual_seed(1)
    supernet = Supernet(SPACE, affine=True, kernels="eager").eval()
    for bn in batch_norms(supernet.path(ARCH)):
        for tensor, low, high in ((bn.running_mean, -0.2, 0.2), (bn.running_var, 0.5, 2), (bn.weight, 0.5, 2)):
            nn.init.uniform_(tensor, low, high)
    return supernet


# ExecuTorch warns of itself: of calls that are deprecated, of an interface that is experimental.
QUIETED = {"pte": pytest.mark.filterwarnings("ignore")}


@pytest.mark.parametrize("suffix", [pytest.param(name, marks=QUIETED.get(name, ())) for name in formats.FORMATS])
def test_round_trip(supernet, tmp_path, suffix):
    """The file gives the logits of the supernet's path, on images that the export did not see."""
    skip_without(suffix)
    path = tmp_path / f"net.{suffix}"
    difference = formats.export(supernet.extract(ARCH), lambda x: supernet(x, ARCH), path, (1, 14, 14), METADATA, 2)
    assert 0 <= difference <= formats.TOLERANCE
    x = torch.rand(2, 1, 14, 14, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        expected = supernet(x, ARCH).numpy()
    if suffix == "py":
        got = runpy.run_path(str(path))["load"]()(x).detach().numpy()
    else:
        form = formats.of(path)
        got = form.run(form.read(path), x.numpy())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert formats.read_metadata(path) == METADATA
    if suffix == "pt2":
        weights = path.with_suffix(".safetensors")
        again = Network(SPACE, ARCH, kernels="eager").eval()
        again.load_state_dict(safetensors.torch.load_file(weights))
        with torch.inference_mode():
            assert torch.equal(again(x), supernet(x, ARCH))
        assert formats.read_metadata(weights) == METADATA


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_every_space_exports(name, tmp_path):
    """torch.export takes the first architecture of each space and the one with its last choices."""
    space = SMALL_SPACES[name]()
    shape = (space.channels, space.resolution, space.resolution)
    for arch in (tuple(open_[0] for open_ in space.allowed), tuple(open_[-1] for open_ in space.allowed)):
        supernet = Supernet(space, kernels="eager").eval()
        path = tmp_path / "net.pt2"
        formats.export(supernet.extract(arch), lambda x, s=supernet, a=arch: s(x, a), path, shape, {})


@QUIETED["pte"]
@pytest.mark.parametrize("name", ["mobile-small", "shufflenet-small"])
def test_executorch_takes_colours(name, tmp_path):
    """Networks that keep channels_last, with blocks that convert to it: programs of mixed layouts do not run there."""
    skip_without("pte")
    space = spaces.get(name, 3, 32, 10)
    network = Network(space, tuple(open_[-1] for open_ in space.allowed), kernels="eager").eval()
    layouts = [weight.stride() for weight in network.parameters()]
    assert formats.export(network, network, tmp_path / "net.pte", (3, 32, 32), {}) <= formats.TOLERANCE
    assert [weight.stride() for weight in network.parameters()] == layouts


@pytest.mark.parametrize(("suffix", "weights"), [("pt2", ".safetensors"), ("py", ".pt"), ("xml", ".bin")])
def test_weights_of_somebody_are_not_written_over(tmp_path, suffix, weights):
    """``resnet.pt`` by an export to ``resnet.py``; those of an earlier export are."""
    path, lies = tmp_path / f"resnet.{suffix}", tmp_path / f"resnet{weights}"
    lies.write_bytes(b"mine")
    with pytest.raises(UserError, match=f"resnet{weights} lies there without resnet.{suffix}"):
        formats.export(nn.ReLU().eval(), nn.ReLU(), path, (1, 2, 2), {})
    assert [*tmp_path.iterdir()] == [lies]
    path.touch()
    assert formats.able(path, Options())


def test_other_numbers_are_refused(supernet, tmp_path):
    path = tmp_path / "net.pt2"
    for reference in (lambda x: supernet(x, ARCH) * 1.01, lambda x: supernet(x, ARCH) * float("nan")):
        with pytest.raises(UserError, match="is not written: its logits differ"):
            formats.export(supernet.extract(ARCH), reference, path, (1, 14, 14), METADATA)
    assert not list(tmp_path.iterdir())


def test_no_number_of_images_may_be_wrong(supernet, tmp_path):
    def reference(x):
        return supernet(x, ARCH) * (float("nan") if len(x) == 3 else 1)

    network, options = supernet.extract(ARCH), Options(any_batch=True)
    with pytest.raises(UserError, match="differ by nan"):
        formats.export(network, reference, tmp_path / "net.pt2", (1, 14, 14), {}, options=options)


def test_unknown_formats(supernet, tmp_path):
    with pytest.raises(UserError, match=r"ends in \.pt2, \.onnx, \.tflite, \.pte"):
        formats.export(supernet.extract(ARCH), supernet, tmp_path / "net.h5", (1, 14, 14), METADATA)


@pytest.mark.parametrize(
    ("suffix", "module", "says"),
    [
        ("onnx", "onnx", r"supernet\[onnx\]"),
        ("pte", "executorch.exir", r"supernet\[executorch\]"),
        ("xml", "openvino", r"supernet\[openvino\]"),
    ],
)
def test_a_missing_extra_is_named(supernet, tmp_path, monkeypatch, suffix, module, says):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=says):
        formats.export(supernet.extract(ARCH), supernet, tmp_path / f"net.{suffix}", (1, 14, 14), METADATA)


def test_without_the_tflite_converter(supernet, tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "LITERT_PYTHON", tmp_path / "python")
    with pytest.raises(UserError, match="make litert"):
        formats.export(supernet.extract(ARCH), supernet, tmp_path / "net.tflite", (1, 14, 14), METADATA)


def test_a_converter_that_fails(supernet, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2; echo 'RuntimeError: no such operator' >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(tflite, "LITERT_PYTHON", python)
    with pytest.raises(UserError, match="RuntimeError: no such operator"):
        tflite.convert([supernet.extract(ARCH)], [(1, 14, 14)])


@pytest.mark.parametrize("suffix", ["pt2", "onnx", "safetensors", "pte"])
def test_foreign_files_have_no_metadata(tmp_path, suffix):
    if suffix == "onnx" and importlib.util.find_spec("onnx") is None:
        pytest.skip("needs the extra [onnx]")
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"no network that was exported here"):
        formats.read_metadata(path)


def test_what_a_file_says_is_read_without_loading_it(supernet, tmp_path, monkeypatch):
    """PyTorch's loader of .pt2 unpickles what it cannot read otherwise."""
    path = tmp_path / "net.pt2"
    formats.export(supernet.extract(ARCH), lambda x: supernet(x, ARCH), path, (1, 14, 14), METADATA)
    monkeypatch.setattr(torch.export, "load", None)
    path.with_name("net.pt2.json").unlink()
    assert formats.read_metadata(path) == METADATA


@pytest.mark.parametrize(
    ("file", "int8", "batch", "told"),
    [
        ("a.onnx", True, 2, "float32 layers: no latency is promised for a file of int8"),
        ("a.onnx", False, 1, "2 images at once: no latency is promised for a file of 1 image at once"),
        ("a.xml", False, 2, "onnxruntime: no latency is promised for a file of openvino"),
        ("a.tflite", False, 2, "onnxruntime: no latency is promised for a file of litert"),
        ("a.pt2", False, 2, "onnxruntime: no latency is promised for a file of torch"),
        ("a.mlpackage", False, 2, "onnxruntime: no latency is promised for a file of mlpackage"),
    ],
)
def test_a_table_promises_nothing_for_another_runtime_precision_or_batch(capsys, file, int8, batch, told):
    table: Any = SimpleNamespace(precision="float32", batch=2, source="lut.json", runtime={"name": "onnxruntime"})
    assert usable(table, Path("a.onnx"), False, 2) is table
    assert usable(None, Path(file), int8, batch) is None
    assert capsys.readouterr().out == ""
    assert usable(table, Path(file), int8, batch) is None
    assert f"lut.json is of {told}" in capsys.readouterr().out


def test_what_a_table_of_another_machine_promises_is_not_compared_with_this_one(capsys, tmp_path):
    runtime = {"name": "onnxruntime"}
    table: Any = SimpleNamespace(device={"cpu": "abacus"}, source="lut.json", runtime=runtime, threads=1, protocol={})
    timed(tmp_path / "never opened.onnx", table, 65.0)
    told = capsys.readouterr().out
    assert "not timed: lut.json was measured on abacus, this is " in told
    assert "promised" not in told


def test_a_table_promises_nothing_for_a_graph_with_more_than_the_network(capsys):
    table: Any = SimpleNamespace(precision="float32", batch=1, source="lut.json", runtime={"name": "onnxruntime"})
    assert usable(table, Path("a.onnx"), False, 1, plain=False) is None
    assert "no latency is promised for a file of any number of images, or of pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("runtime", "files"),
    [
        ("torch", (".pt2", ".py")),
        ("tensorrt", (".onnx",)),
        ("litert", (".tflite",)),
        ("of a package", (".onnx", ".pt2", ".xml")),  # whatever it executes
    ],
)
def test_a_table_promises_for_every_file_that_its_runtime_executes(runtime, files):
    table: Any = SimpleNamespace(precision="float32", batch=1, source="lut.json", runtime={"name": runtime})
    for suffix in files:
        assert usable(table, Path(f"a{suffix}"), False, 1) is table


def test_onnx_has_bn_in_its_convolutions(supernet):
    skip_without("onnx")
    import onnx as format_of_files

    network = supernet.extract(ARCH)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    (file,) = formats.FORMATS["onnx"].convert([network], [(1, 14, 14)], 1)
    graph = format_of_files.ModelProto.FromString(file).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
