"""The sources compile with the headers of older releases of PyTorch that users have; the installed one builds them.

Run by `make test-headers`. The headers come out of the release's wheel for macOS, by far the smallest (66 and 81 MB);
they are downloaded once into build/headers. What the compilers generate is thrown away: they only check. Of the CUDA
sources the host's half meets other headers, so those without any of PyTorch are left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest
from cubins import ROOT, needs_toolkit, setup, toolkit
from filelock import FileLock

RELEASES = ("2.6.0", "2.11.0")
HEADERS = ROOT / "build" / "headers"
OF_TORCH = re.compile(r"#include <(ATen|c10|torch)/|#include \"(aten|ops)/")
HOST = sorted(
    path for path in (ROOT / "csrc").rglob("*.cpp") if path.parent.name != "isa" and OF_TORCH.search(path.read_text())
)
DEVICE = sorted(path for path in (ROOT / "csrc").rglob("*.cu") if OF_TORCH.search(path.read_text()))
# c10/cuda/impl/cuda_cmake_macros.h, which CMake writes in builds with CUDA only.
CMAKE_MACROS = "#pragma once\n#define C10_CUDA_BUILD_SHARED_LIBS\n"

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("release", RELEASES)]


def name(source: Path) -> str:
    return str(source.relative_to(ROOT / "csrc"))


def unpacked(release: str) -> Path:
    """The folder ``include`` of a release."""
    folder = HEADERS / release
    HEADERS.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = Path(tempfile.mkdtemp(dir=HEADERS))
            platform = ("--platform", "macosx_11_0_arm64", "--python-version", "3.11", "--only-binary", ":all:")
            call(sys.executable, "-m", "pip", "download", "--no-deps", *platform, "-d", str(part), f"torch=={release}")
            with zipfile.ZipFile(next(part.glob("*.whl"))) as wheel:
                wheel.extractall(part, [name for name in wheel.namelist() if name.startswith("torch/include/")])
            macros = part / "torch/include/c10/cuda/impl/cuda_cmake_macros.h"
            macros.parent.mkdir(exist_ok=True)
            macros.write_text(CMAKE_MACROS)
            Path(part, "torch").rename(folder)
            shutil.rmtree(part)
    return folder / "include"


def includes(release: str) -> list[str]:
    headers = unpacked(release)
    system = [str(headers), str(headers / "torch/csrc/api/include"), sysconfig.get_path("include")]
    return [f"-I{ROOT / 'csrc'}", *(flag for folder in system for flag in ("-isystem", folder))]


@cache
def host_flags(release: str) -> tuple[str, ...]:
    flags = [setup.STANDARD, "-fopenmp", *setup.WARNINGS, *includes(release)]
    header = HEADERS / f"{release}.h"
    with FileLock(f"{header}.lock"):
        setup.precompile(header, [], flags, release)
    return (*flags, "-DTORCH_API_INCLUDE_EXTENSION_H", "-DTORCH_EXTENSION_NAME=_C")


def call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("source", HOST, ids=name)
def test_host(source, release):
    call(os.environ.get("CXX", "c++"), "-fsyntax-only", *host_flags(release), str(source))


@needs_toolkit
@pytest.mark.parametrize("source", DEVICE, ids=name)
def test_host_half_of_cuda(source, release):
    options = (setup.STANDARD, "-arch=sm_80", "-fdevice-syntax-only", "-Xcompiler", ",".join(setup.WARNINGS))
    call(f"{toolkit()[0]}/bin/nvcc", *options, *includes(release), "-c", "-o", os.devnull, str(source))
