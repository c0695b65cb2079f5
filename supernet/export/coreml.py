"""CoreML's packages, ``.mlpackage``, for Apple's devices: folders, by coremltools.

They are made anywhere and run on macOS alone, so that elsewhere a file is not compared with PyTorch before it is
written. ``tests/test_coreml.py`` computes what their programs say.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from supernet import files
from supernet.errors import UserError
from supernet.export import executorch
from supernet.export.base import PLAIN, Format, Options, Pixels, Run, Script, Shape, require
from supernet.export.card import KEY

ABSENT = "CoreML runs on macOS alone"


def absent() -> str | None:
    """Why a package cannot run here, if so."""
    return None if sys.platform == "darwin" else ABSENT


def convert(
    modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1, options: Options = PLAIN
) -> list[bytes]:
    """Eager modules to archives of packages: programs in float32, for iOS 16 and macOS 13 on."""
    if any(isinstance(shape, Pixels) for shape in shapes):
        raise UserError(".mlpackage files take floats, CoreML has no arrays of bytes: export it without preprocessing")
    return [_package(module, shape, batch) for module, shape in zip(modules, shapes, strict=True)]


def _package(module: nn.Module, shape: Shape, batch: int) -> bytes:
    with _quiet() as tools:
        program = executorch.exported(module, shape, batch).run_decompositions({})
        precision, target = tools.precision.FLOAT32, tools.target.iOS16
        made = tools.convert(
            program, convert_to="mlprogram", compute_precision=precision, minimum_deployment_target=target
        )
        spec = made.get_spec()
        for feature, name in ((spec.description.input[0], "x"), (spec.description.output[0], "y")):
            tools.utils.rename_feature(spec, feature.name, name)
        return _archive(tools.models.MLModel(spec, weights_dir=made.weights_dir, skip_model_load=True))


@contextlib.contextmanager
def _quiet() -> Iterator[ModuleType]:
    """coremltools, without its bars and without what it says of versions and of macOS."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield require("coremltools", "coreml")


def _archive(model: Any) -> bytes:
    """A package's folder as one file."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w") as archive:
        package = Path(folder, "model.mlpackage")
        model.save(str(package))
        for path in sorted(path for path in package.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(package))
    return content.getvalue()


@contextlib.contextmanager
def _unpacked(file: bytes, folder: Path | None = None) -> Iterator[Path]:
    """An archive as a package again, in a folder of its own within ``folder`` that goes away."""
    with tempfile.TemporaryDirectory(dir=folder) as place, zipfile.ZipFile(io.BytesIO(file)) as archive:
        package = Path(place, "model.mlpackage")
        archive.extractall(package)
        yield package


def load(file: bytes) -> Run:
    """A package as a function, on macOS."""
    if reason := absent():
        raise UserError(f"{reason}: expected another format, such as .onnx, to run here")
    with _quiet() as tools, _unpacked(file) as package:
        model = tools.models.MLModel(str(package))
    return lambda x: np.asarray(model.predict({"x": x})["y"])


def write(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """The package with the metadata among its own, in place of one that is there."""
    files.make_folder(path.parent)
    with _quiet() as tools, _unpacked(file, path.parent) as package:
        model = tools.models.MLModel(str(package), skip_model_load=True)
        model.user_defined_metadata[KEY] = json.dumps(metadata)
        new, old = package.with_name(f"new-{path.name}"), package.with_name(f"old-{path.name}")
        model.save(str(new))
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)


def read(path: Path) -> bytes:
    """The package as an archive again."""
    with _quiet() as tools:
        return _archive(tools.models.MLModel(str(path), skip_model_load=True))


def inside(path: Path) -> dict[str, Any]:
    """The metadata of a package."""
    with _quiet() as tools:
        return files.parse(tools.models.MLModel(str(path), skip_model_load=True).user_defined_metadata[KEY])


SCRIPT = Script(
    "coremltools",
    "import coremltools",
    "model = coremltools.models.MLModel(str(FILE))",
    'y = model.predict({"x": np.ascontiguousarray(x)})["y"]',
)
FORMAT = Format(convert, load, SCRIPT, ("coremltools",), write, read, inside, absent=absent)
