"""Profiles: every operator of a converted network, in order. No timed assertion."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from conftest import tiny_space
from torch import nn

from latency import profile
from latency.runtimes import SUFFIXES
from supernet.errors import UserError
from supernet.export.formats import FORMATS
from supernet.model import Network

NEEDS = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch",)}
# ExecuTorch warns of itself: of calls that are deprecated, of an interface that is experimental.
RUNTIMES = ["onnxruntime", pytest.param("executorch", marks=pytest.mark.filterwarnings("ignore"))]


def converted(runtime: str, module: nn.Module, shape: tuple[int, int, int]) -> bytes:
    for name in NEEDS[runtime]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}: an extra")
    (file,) = FORMATS[SUFFIXES[runtime]].convert([module.eval()], [shape], 1)
    return file


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_operators_come_in_the_order_of_the_network(runtime):
    module = nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 1), nn.Flatten(), nn.Linear(784, 10)
    )
    operators = profile.profile(runtime, converted(runtime, module, (8, 16, 16)))
    assert all(operator.ms >= 0 for operator in operators)
    assert sum(operator.ms for operator in operators) > 0
    names = [operator.name.split()[0] for operator in operators]
    kinds = {"onnxruntime": ("Conv", "MaxPool", "Gemm"), "executorch": ("Convolution", "Max", "Fully")}
    places = [names.index(kind) for kind in kinds[runtime]]
    assert places == sorted(places)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_network_is_profiled_whole(runtime):
    torch.manual_seed(0)
    network = Network(tiny_space(), (0, 1, 2), kernels="eager")
    operators = profile.profile(runtime, converted(runtime, network, (1, 14, 14)))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    matched = [o for o in operators if o.name.startswith(("Conv", "FusedConv", "Fully"))]
    assert len(matched) >= convolutions
    assert len({o.name for o in operators}) > 1


def test_the_mean_leaves_out_the_warm_up_and_what_was_held_up():
    assert profile.mean([9.0] * profile.WARM_UP + [1.0, 2.0] * 10 + [500.0]) == pytest.approx(1.5, abs=0.1)


def test_onnxruntime_names_the_sizes_of_the_inputs():
    file = converted("onnxruntime", nn.Conv2d(3, 16, 3), (3, 8, 8))
    assert profile.profile("onnxruntime", file)[0].name == "Conv 1×3×8×8, 16×3×3×3, 16"


@pytest.mark.parametrize("runtime", ["torch", "litert", "abacus"])
def test_other_runtimes_have_none(runtime):
    with pytest.raises(UserError, match=f"{runtime} has no profile .* onnxruntime or executorch"):
        profile.profile(runtime, b"")


def test_without_executorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.devtools", None)
    with pytest.raises(UserError, match="executorch is not installed"):
        profile.profile("executorch", b"")
