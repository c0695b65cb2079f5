"""TFLite's models, which LiteRT runs."""

from __future__ import annotations

import importlib.metadata
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from supernet.errors import UserError
from supernet.export import pt2
from supernet.export.base import PLAIN, Format, Options, Run, Script, Shape, require

LITERT_PYTHON = Path(__file__).resolve().parents[2] / ".venv-litert/bin/python"  # made by `make litert`


def convert(
    modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1, options: Options = PLAIN
) -> list[bytes]:
    """Eager modules to TFLite models with channels_last inputs and outputs.

    The converter pins older packages, so it lives in an environment of its own (``make litert``) and is run there
    on torch.export's archives.
    """
    with tempfile.TemporaryDirectory() as folder:
        for i, file in enumerate(pt2.convert(modules, shapes, batch)):
            Path(folder, f"{i}.pt2").write_bytes(file)
        in_converter("convert_tflite.py", folder)
        return [Path(folder, f"{i}.tflite").read_bytes() for i in range(len(modules))]


def in_converter(script: str, folder: str) -> None:
    """Run a script of this folder in the converter's environment, on the files in ``folder``.

    Raises:
        UserError: there is no such environment, or the script fails.
    """
    if not LITERT_PYTHON.exists():
        raise UserError(f"the TFLite converter is missing ({LITERT_PYTHON}): make it with `make litert`")
    # As text and from that folder: beside the script lie modules named like packages of the converter's.
    command = [str(LITERT_PYTHON), "-c", Path(__file__).with_name(script).read_text(), folder]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"the TFLite converter failed ({reason}): make it again with `make litert`")


def version(package: str) -> str:
    """The version of a package in the converter's environment; ``missing`` where it is not: then nothing converts."""
    folders = [str(path) for path in LITERT_PYTHON.parents[1].glob("lib/python*/site-packages")]
    found = importlib.metadata.distributions(name=package, path=folders)
    return next((distribution.version for distribution in found), "missing")


def load(file: bytes) -> Run:
    """A model as a function; floats ``[B, C, H, W]`` are turned to channels_last, as pixels are."""
    interpreter = require("ai_edge_litert.interpreter", "litert").Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(taken["index"], x if x.dtype == np.uint8 else x.transpose(0, 2, 3, 1).copy())
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])

    return run


SCRIPT = Script(
    "ai-edge-litert",
    "from ai_edge_litert.interpreter import Interpreter",
    "model = Interpreter(str(FILE))\nmodel.allocate_tensors()\n"
    'taken, given = (ends[0]["index"] for ends in (model.get_input_details(), model.get_output_details()))',
    "model.set_tensor(taken, x)\nmodel.invoke()\ny = model.get_tensor(given)",
)
FORMAT = Format(convert, load, SCRIPT, ("litert-torch",), layout="NHWC", version=version)
