"""Shared by the tests: tiny spaces, and images that a network can tell apart."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch

from supernet import families, spaces
from supernet.errors import UserError
from supernet.space import Choice, Gene, Space

# As where the environment of the tests is activated: commands that name others call it python.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # one that measures would wait for another that does
    tempfile.tempdir = os.environ["TMPDIR"] = f"{tempfile.gettempdir()}/supernet-tests-{os.getuid()}-{worker}"
    os.makedirs(tempfile.tempdir, exist_ok=True)


def tiny_space(layers: int = 3, act: str = "relu6", squeeze_excite: bool = False) -> Space:
    """A space with every kind of layer that the mobile one has, small enough to enumerate."""
    wide = (Choice("identity"), Choice("ib", 3, 1), Choice("ib", 3, 3), Choice("ib", 5, 2))
    genes = [Gene("layer0", wide[1:], 8, 12, 2)]
    genes += [Gene(f"layer{i}", wide, 12, 12, 1) for i in range(1, layers)]
    allowed = tuple(tuple(range(len(gene.choices))) for gene in genes)
    return Space("tiny", 1, 14, 10, 8, 2, 16, act, tuple(genes), allowed, squeeze_excite)


def refused(call, *arguments, **named) -> str:
    """The one line of the UserError."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def whole(images) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a set, not augmented, in the order of its labels; and these."""
    return next(images.in_order(len(images)))


SMALL_SPACES = {
    "tiny": tiny_space,
    "tiny-se": lambda: tiny_space(act="hard_swish", squeeze_excite=True),
    "shufflenet-small": lambda: spaces.get("shufflenet-small", 1, 28, 10),
    "mobile-small": lambda: spaces.get("mobile-small", 1, 28, 10),
    "mobile-v3-small": lambda: spaces.get("mobile-v3-small", 1, 28, 10),
    "cells-small": lambda: spaces.get("cells-small", 1, 28, 10),
    "residual-small": lambda: spaces.get("residual-small", 1, 28, 10),
    "elastic-small": lambda: spaces.get("elastic-small", 1, 28, 10),
    "tiny-resolutions": lambda: families.with_resolutions(tiny_space(), (9, 12, 14)),
}


@pytest.fixture(scope="module")
def space_file(tmp_path_factory) -> Path:
    """The tiny space for images of 28 pixels, as a command takes it."""
    path = tmp_path_factory.mktemp("space") / "tiny.json"
    path.write_text(json.dumps(dataclasses.replace(tiny_space(), resolution=28).to_json()))
    return path


def recorded_space(name: str, channels: int, resolution: int) -> Space:
    """A preset as ``litert_memory.json`` names it; ``excited`` has squeeze-excite and hard-swish in every layer."""
    preset, _, excited = name.partition(", ")
    space = spaces.get(preset, channels, resolution, 10)
    return dataclasses.replace(space, act="hard_swish", squeeze_excite=True) if excited else space


@pytest.fixture(params=SMALL_SPACES)
def small_space(request) -> Space:
    """Each small space in turn."""
    return SMALL_SPACES[request.param]()


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests share the cores; results must not depend on the number of threads anyway."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _whole_float32():
    """cuDNN rounds float32 to TF32 unless told otherwise."""
    if torch.cuda.is_available():
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cudnn.rnn.fp32_precision = "ieee"  # torch.export refuses two that differ


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """Writes a Python file of a user into a folder with a space and an umlaut; what is imported of it is forgotten."""
    folder = tmp_path / "mein Größe: 1"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = folder / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    yield write
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package of one module, with entry points."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    def install(module: str, text: str, entry_points: str) -> None:
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(text))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
        families._installed.cache_clear()
        installed_modules.append(module)

    installed_modules: list[str] = []
    yield install
    families._installed.cache_clear()
    for name in installed_modules:
        sys.modules.pop(name, None)


@pytest.fixture(params=["generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"])
def capability(request):
    """Each instruction set of the CPU kernels in turn."""
    _C = pytest.importorskip("supernet._C")
    best = _C.build_info()["cpu_capability"]
    try:
        _C.set_cpu_capability(request.param)
    except RuntimeError:
        pytest.skip(f"this processor has {best} at most")
    yield request.param
    _C.set_cpu_capability(best)
