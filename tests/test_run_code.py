"""A network of one's own whose code changes after a run has begun."""

import sys

import pytest
from conftest import refused

from supernet import spaces
from supernet.runs import RunFolder

CODE = """
from torch import nn

def network(channels, classes):
    layers = nn.Conv2d(channels, 16, 3), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 32, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
"""
CHANGED = "test_code.py:network is another network than the one that"


@pytest.fixture
def again(own_file):
    """Writes the file and gives its space and the run that takes it, as in a process of its own."""

    def written(code, folder):
        path = own_file("test_code.py", code)
        sys.modules.pop("test_code", None)
        reference = f"{path}:network"
        return spaces.get(reference, 1, 28, 10), RunFolder(folder, space_code=reference)

    return written


def test_a_change_of_what_it_computes_is_refused(again, tmp_path):
    space, run = again(CODE, tmp_path / "run")
    assert run.begin({"seed": 0}, space=space)
    before = run.config_path.read_bytes()
    for same in (CODE, CODE.replace("16, 32, 3)", "16, 32, kernel_size=3)")):
        space, run = again(same, run.path)
        assert run.space().make is not None
        assert not run.begin({"seed": 0}, space=space)
    for other in (CODE.replace("SiLU", "Hardswish"), CODE.replace("(16)", "(16, eps=1e-3)")):
        space, run = again(other, run.path)
        assert CHANGED in refused(run.space)
        assert CHANGED in refused(run.begin, {"seed": 0}, space=space)
    assert run.config_path.read_bytes() == before
    assert run.begin({"seed": 0}, space=space, restart=True)
    assert run.space() == space


def test_another_version_may_trace_it_otherwise(again, tmp_path, monkeypatch):
    space, run = again(CODE, tmp_path / "run")
    assert run.begin({"seed": 0}, space=space)
    _, run = again(CODE.replace("SiLU", "Hardswish"), run.path)
    monkeypatch.setattr("supernet.__version__", "99.0")
    assert run.space() == space


def test_runs_of_before_have_no_record_of_it_and_open(again, tmp_path):
    space, run = again(CODE, tmp_path / "run")
    run.write_space(space)
    assert run.space() == space


def test_networks_of_registries_are_known_by_their_names(tmp_path):
    space = spaces.get("torchvision:mobilenet_v2", 3, 32, 10)
    run = RunFolder(tmp_path)
    run.begin({"seed": 0}, space=space)
    assert "network" not in run.config()["made_with"]
