"""What setup.py decides to build, and where it looks; which sources may include which.

That they compile is `make test`'s and CI's.
"""

import importlib.util
import os
import re
import stat
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
# What the files of a folder include of ours. What a backend has no kernel for it leaves to the form of every device.
INCLUDES = {
    "ops": {"ops"},
    "aten": {"ops", "aten"},
    "cpu": {"ops", "aten", "cpu"},
    "cuda": {"ops", "aten", "cuda"},
}
spec = importlib.util.spec_from_file_location("supernet_setup", ROOT / "setup.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch, tmp_path):
    """No toolkit anywhere: neither named, nor on PATH, nor in /usr/local, nor as wheels."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin-on-path"))
    monkeypatch.setattr(build, "system_homes", list)
    monkeypatch.setattr(build, "wheel_homes", list)


def toolkit(home: Path, version="13.0", lib="lib64", cudart="libcudart.so") -> str:
    for file in ("bin/nvcc", "include/cuda_runtime.h", f"{lib}/{cudart}"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).touch()
    script(home / "bin/nvcc", f"echo 'Cuda compilation tools, release {version}, V{version}.88'")
    return str(home)


def script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_no_toolkit():
    assert build.find_cuda_home() is None


def test_a_named_toolkit_is_the_only_one_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "system_homes", lambda: [toolkit(tmp_path / "system")])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert build.find_cuda_home() is None
    assert "CUDA_HOME=" in build.cuda_obstacle(None, "13.0")
    monkeypatch.setenv("CUDA_HOME", toolkit(tmp_path / "named"))
    assert build.find_cuda_home() == str(tmp_path / "named")


def test_an_nvcc_on_path_that_is_a_link_leads_to_its_toolkit(tmp_path):
    home = toolkit(tmp_path / "cuda")
    (tmp_path / "bin-on-path").mkdir()
    os.symlink(f"{home}/bin/nvcc", tmp_path / "bin-on-path/nvcc")
    assert build.find_cuda_home() == home


def test_an_nvcc_on_path_that_is_a_wrapper_does_not_mislead(monkeypatch, tmp_path):
    script(tmp_path / "bin-on-path/nvcc", "exec elsewhere/nvcc")
    assert build.find_cuda_home() is None, "a folder without headers is no toolkit"
    home = toolkit(tmp_path / "system")
    monkeypatch.setattr(build, "system_homes", lambda: [home])
    assert build.find_cuda_home() == home


def test_the_runtime_wheels_alone_are_no_toolkit(monkeypatch, tmp_path):
    """torch's own wheels bring the headers, but no nvcc."""
    home = Path(toolkit(tmp_path / "cu13"))
    monkeypatch.setattr(build, "wheel_homes", lambda: [str(home)])
    assert build.find_cuda_home() == str(home)
    (home / "bin/nvcc").unlink()
    assert build.find_cuda_home() is None


def test_the_wheels_get_a_link_to_link_against(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    system = toolkit(tmp_path / "system")
    assert build.link_dir(system) == f"{system}/lib64"
    wheels = toolkit(tmp_path / "cu13", lib="lib", cudart="libcudart.so.13")
    for _ in range(2):  # again over the link that is there
        link = Path(build.link_dir(wheels), "libcudart.so")
        assert link.resolve() == Path(wheels, "lib/libcudart.so.13")


def test_obstacles(tmp_path):
    home = toolkit(tmp_path / "cuda", version="12.8")
    assert build.cuda_obstacle(home, "12.6") is None
    assert build.cuda_obstacle(home, "13.0") == (f"nvcc in {home} is CUDA 12.8, PyTorch was built with CUDA 13.0")
    assert build.cuda_obstacle(home, None) == "this PyTorch was built without CUDA"
    assert build.cuda_obstacle(None, "13.0") == "no folder found with bin/nvcc and include/cuda_runtime.h"


@pytest.mark.parametrize(
    ("mode", "obstacle", "gpu", "archs", "decision"),
    [
        ("0", None, True, "9.0", (False, None)),
        ("auto", None, True, None, (True, None)),  # torch asks the GPU for its architecture
        ("auto", None, False, "7.5", (True, "7.5")),
        ("auto", None, False, None, (False, None)),
        ("auto", "no nvcc", True, "9.0", (False, None)),
        ("1", None, False, None, (True, build.DEFAULT_ARCHS)),
        ("1", None, True, None, (True, None)),
        ("1", None, True, "7.5", (True, "7.5")),
    ],
)
def test_decisions(mode, obstacle, gpu, archs, decision, capsys):
    assert build.resolve_cuda(mode, obstacle, gpu, archs) == decision
    printed = capsys.readouterr().out
    skipped = mode == "auto" and not decision[0]
    assert printed.count("\n") == int(skipped)
    assert ("SUPERNET_CUDA=1 builds it" in printed) == skipped


@pytest.mark.parametrize("mode", ["", "yes", "2", "AUTO"])
def test_an_unknown_mode_is_refused(mode):
    with pytest.raises(SystemExit, match="SUPERNET_CUDA should be auto, 0 or 1, got "):
        build.resolve_cuda(mode, None, False, None)


def test_forcing_cuda_without_a_toolkit_is_refused_in_one_line():
    with pytest.raises(SystemExit, match=r"SUPERNET_CUDA=1, but no nvcc; .* SUPERNET_CUDA=0") as caught:
        build.resolve_cuda("1", "no nvcc", True, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", INCLUDES)
def test_backends_do_not_include_each_other(folder):
    files = [f for f in (CSRC / folder).rglob("*") if f.is_file()]
    assert files
    for file in files:
        for name in re.findall(r'^\s*#\s*include\s*"(.+?)"', file.read_text(), re.MULTILINE):
            if not (ROOT / "tests" / "simt" / name).is_file():  # of the runner
                assert name.split("/")[0] in INCLUDES[folder], f"{file.relative_to(ROOT)} includes {name}"
                assert (CSRC / name).is_file(), f"{file.relative_to(ROOT)} includes {name}, which is not in csrc"


def test_every_source_has_its_folder():
    assert {f.name for f in CSRC.iterdir()} == {*INCLUDES, "module.cpp"}


def test_no_source_is_long():
    lines = {f: f.read_text().count("\n") for f in CSRC.rglob("*") if f.is_file()}
    assert max(lines.values()) <= 450, max(lines, key=lines.get)
