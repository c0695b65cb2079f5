"""A found network as a file that other runtimes take, compared with the supernet's path before it is written.

``pt2`` is torch.export's format, ``onnx`` opset 18, ``tflite`` LiteRT's, ``pte`` ExecuTorch's with XNNPACK. Latency
tables are measured on what the same functions convert.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from supernet import files
from supernet.errors import UserError

OPSET = 18  # of ONNX: the exporter's own, so nothing is rewritten by a version converter
IR_VERSION = 10  # of ONNX: what runtimes since 2024 read
TOLERANCE = 1e-4  # largest difference of a logit, of the largest logit; float32, BN folded into convolutions
METADATA_KEY = "supernet"
LITERT_PYTHON = Path(__file__).resolve().parents[2] / ".venv-litert/bin/python"  # made by `make litert`

Shape = tuple[int, int, int]  # of one image or feature map: channels, height, width


class _Together(nn.Module):
    """Modules side by side, so that one export serves them all: each call of the exporter costs a second."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


class _PlainLayout(TorchFunctionMode):
    """Leaves conversions to channels_last out of what is traced: ExecuTorch refuses a program of mixed layouts."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.contiguous and kwargs.get("memory_format") is torch.channels_last:
            return args[0]
        return func(*args, **kwargs)


def sample_input(shape: Shape, batch: int = 1) -> Tensor:
    """The same normal noise ``[batch, *shape]`` every time."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def to_onnx(modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1) -> list[bytes]:
    """Eager modules to ONNX models with the input ``x`` and the output ``y``. BN goes into the convolutions.

    Raises:
        UserError: the extra is missing.
    """
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    inputs = tuple(sample_input(shape, batch) for shape in shapes)
    together = _Together(modules).eval()
    program = torch.onnx.export(together, inputs, dynamo=True, opset_version=OPSET, verbose=False)
    model = program.model_proto
    extractor = onnx.utils.Extractor(model)
    files = []
    for x, y in zip(model.graph.input, model.graph.output, strict=True):
        part = extractor.extract_model([x.name], [y.name])
        part.ir_version = IR_VERSION
        for node in part.graph.node:
            node.input[:] = ["x" if name == x.name else name for name in node.input]
            node.output[:] = ["y" if name == y.name else name for name in node.output]
        part.graph.input[0].name, part.graph.output[0].name = "x", "y"
        onnx.checker.check_model(part)
        files.append(part.SerializeToString())
    return files


@torch.no_grad()
def to_pt2(modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1) -> list[bytes]:
    """Eager modules to torch.export's archives; ``torch.export.load(file).module()(x)`` runs one."""
    files = []
    for module, shape in zip(modules, shapes, strict=True):
        files.append(_save_pt2(torch.export.export(module.eval(), (sample_input(shape, batch),))))
    return files


def _save_pt2(program: torch.export.ExportedProgram, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Equal values of two buffers are saved as views of one storage: a warning for devices other than the CPU.
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, file, **options)
    return file.getvalue()


@torch.no_grad()
def to_executorch(modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1) -> list[bytes]:
    """Eager modules to ExecuTorch programs whose operators are delegated to XNNPACK."""
    exir = require("executorch.exir", "executorch")
    partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    files = []
    for module, shape in zip(modules, shapes, strict=True):
        module = copy.deepcopy(module).eval().to(memory_format=torch.contiguous_format)
        with _PlainLayout():
            exported = torch.export.export(module, (sample_input(shape, batch),))
        lowered = exir.to_edge_transform_and_lower(exported, partitioner=[partitioner.XnnpackPartitioner()])
        files.append(bytes(lowered.to_executorch().buffer))
    return files


def to_tflite(modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1) -> list[bytes]:
    """Eager modules to TFLite models with channels_last inputs and outputs.

    The converter pins older packages, so it lives in an environment of its own (``make litert``) and is run there
    on torch.export's archives.
    """
    if not LITERT_PYTHON.exists():
        raise UserError(f"the TFLite converter is missing ({LITERT_PYTHON}): make it with `make litert`")
    with tempfile.TemporaryDirectory() as folder:
        for i, file in enumerate(to_pt2(modules, shapes, batch)):
            Path(folder, f"{i}.pt2").write_bytes(file)
        # As text and from that folder: beside the script lie modules named like packages of the converter's.
        script = Path(__file__).with_name("convert_tflite.py").read_text()
        command = [str(LITERT_PYTHON), "-c", script, folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"the TFLite converter failed ({reason}): make it again with `make litert`")
        return [Path(folder, f"{i}.tflite").read_bytes() for i in range(len(modules))]


def run_pt2(file: bytes, x: np.ndarray) -> np.ndarray:
    """Logits ``[B, classes]`` of images ``[B, C, H, W]`` by an exported file; likewise below."""
    with torch.inference_mode():
        return torch.export.load(io.BytesIO(file)).module()(torch.from_numpy(x)).numpy()


def run_onnx(file: bytes, x: np.ndarray) -> np.ndarray:
    runtime = require("onnxruntime", "onnx")
    return runtime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def run_tflite(file: bytes, x: np.ndarray) -> np.ndarray:
    interpreter = require("ai_edge_litert.interpreter", "litert").Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x.transpose(0, 2, 3, 1).copy())
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def run_executorch(file: bytes, x: np.ndarray) -> np.ndarray:
    runtime = require("executorch.runtime", "executorch").Runtime.get()
    return runtime.load_program(file).load_method("forward").execute([torch.from_numpy(x)])[0].numpy()


@dataclass(frozen=True)
class Format:
    """How a file is made, and how it is run to compare it."""

    convert: Callable[[Sequence[nn.Module], Sequence[Shape], int], list[bytes]]
    run: Callable[[bytes, np.ndarray], np.ndarray]
    packages: tuple[str, ...]  # of its extra whose versions the file depends on


FORMATS = {
    "pt2": Format(to_pt2, run_pt2, ()),
    "onnx": Format(to_onnx, run_onnx, ("onnx", "onnxscript")),
    "tflite": Format(to_tflite, run_tflite, ()),
    "pte": Format(to_executorch, run_executorch, ("executorch",)),
}


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or a UserError that names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module.split('.')[0]} is not installed: pip install 'supernet[{extra}]'") from error


def export(
    network: nn.Module,
    reference: Callable[[Tensor], Tensor],
    path: Path,
    shape: Shape,
    metadata: dict[str, Any],
    batch: int = 1,
) -> float:
    """Write ``network`` in the format that the suffix of ``path`` names, its metadata inside or beside it.

    ``.pt2`` comes with the weights as ``.safetensors``; ``.tflite`` and ``.pte`` carry their metadata in a ``.json`` of
    the same name, the others inside.

    Args:
        network: eager, in eval mode. reference: what it was extracted from: the supernet's path.
        batch: images in one run; the files take no other number.

    Returns:
        The largest difference of a logit, relative to the largest logit.

    Raises:
        UserError: unknown format, missing extra, or results that differ by more than ``TOLERANCE``: nothing is
            written then.
    """
    name = path.suffix[1:]
    if name not in FORMATS:
        raise UserError(f"{path}: expected a file name that ends in .{', .'.join(FORMATS)}")
    (file,) = FORMATS[name].convert([network], [shape], batch)
    x = sample_input(shape, batch)
    with torch.inference_mode():
        expected = reference(x).numpy()
    difference = relative_difference(FORMATS[name].run(file, x.numpy()), expected)
    if not difference <= TOLERANCE:  # NaN is refused too
        raise UserError(
            f"{path} is not written: its logits differ by {difference:.1e} of the largest, at most {TOLERANCE:g} is "
            "taken for rounding; report this architecture"
        )
    text = json.dumps(metadata)
    if name == "pt2":
        weights = {key: value.contiguous() for key, value in network.state_dict().items()}
        weights = safetensors.torch.save(weights, metadata={METADATA_KEY: text})
        files.write_atomically(path.with_suffix(".safetensors"), lambda out: out.write(weights))
        file = _with_metadata_pt2(file, text)
    elif name == "onnx":
        file = _with_metadata_onnx(file, text)
    else:
        files.write_json(path.with_suffix(".json"), metadata)
    files.write_atomically(path, lambda out: out.write(file))
    return difference


def relative_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def _with_metadata_pt2(file: bytes, text: str) -> bytes:
    return _save_pt2(torch.export.load(io.BytesIO(file)), extra_files={METADATA_KEY: text})


def _with_metadata_onnx(file: bytes, text: str) -> bytes:
    model = require("onnx", "onnx").ModelProto.FromString(file)
    model.metadata_props.add(key=METADATA_KEY, value=text)
    return model.SerializeToString()


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``export`` wrote beside the weights.

    Raises:
        UserError: no such file, or none that ``export`` wrote.
    """
    try:
        if path.suffix == ".pt2":
            extra = {METADATA_KEY: ""}
            torch.export.load(path, extra_files=extra)
            return json.loads(extra[METADATA_KEY])
        if path.suffix == ".onnx":
            model = require("onnx", "onnx").load(path)
            return json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                return json.loads(file.metadata()[METADATA_KEY])
        return json.loads(path.with_suffix(".json").read_text())
    except UserError:
        raise
    except Exception as error:  # each library has its own way to say that a file is none of its own
        raise UserError(f"{path} is no network that tools/export.py wrote ({error})") from error
