"""The stages of `make gpu` in this process, on the CPU: operators that fail, what is compared, what is gone on with."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from gpu import layers, one, operators, profile
from gpu.stage import Machine, Mistake, Results, require_alive

from supernet import ops


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "stage.json")


@pytest.fixture
def _switches():
    """Of PyTorch, which stages set: as they were, afterwards."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    yield
    cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = before


def broken(*arguments, **named):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.usefixtures("_switches")
def test_an_operator_that_fails_fails_its_stage_and_the_others_are_timed(results, monkeypatch):
    monkeypatch.setattr(ops, "inverted_bottleneck", broken)
    with pytest.raises(Mistake, match=r"ours failed in 3 of 8 cases, first in inverted_bottleneck .* illegal memory"):
        layers.run(Machine(dry=True), results)
    timed = {(of["operator"], of["type"]): set(of["ms"]) for of in results.data["results"]}
    assert len(timed) == 8
    assert timed["dw_separable", "float32"] == {"ours", "eager", "eager, BN folded"}
    assert timed["inverted_bottleneck", "TF32"] == {"eager", "eager, BN folded"}


def test_an_operator_that_fails_in_training_fails_its_stage(results, monkeypatch):
    monkeypatch.setattr(ops, "depth_mix", broken)
    with pytest.raises(Mistake, match=r"ours failed in 1 of 1 cases, first in depth mixture .* illegal memory access"):
        operators.run(Machine(dry=True), results)
    assert set(results.data["results"][0]["ms"]) == {"sum", "stack"}


def test_that_pytorch_cannot_do_a_case_fails_nothing(results, monkeypatch):
    monkeypatch.setattr(torch, "stack", broken)
    operators.run(Machine(dry=True), results)
    assert set(results.data["results"][0]["ms"]) == {"ours", "sum"}


def test_a_device_that_is_lost_is_blamed_on_the_first_form_that_failed():
    lost = SimpleNamespace(synchronize=broken)
    failed = {"row": "norm", "shape": "1x2", "failed": {"ours": "illegal memory access", "eager": "illegal"}}
    with pytest.raises(Mistake, match="the device is lost after norm 1x2, ours: illegal memory access"):
        require_alive(lost, failed)


@pytest.mark.usefixtures("_switches")
def test_ours_and_pytorch_s_forms_take_tf32_alike(results, monkeypatch):
    """Ours by the switch of products, cuDNN's convolutions by their own."""
    seen = {}

    def noted(machine, forms):
        switches = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        seen.setdefault(switches, set()).update(forms)
        return {}, {}

    monkeypatch.setattr(layers, "side_by_side", noted)
    layers.run(Machine(dry=True), results)
    every = {"ours", "eager", "eager, BN folded"}
    assert seen == {(False, False): every, (True, True): every}


@pytest.mark.usefixtures("_switches")
def test_a_stage_that_goes_on_times_what_it_has_not(results, monkeypatch):
    monkeypatch.setattr(layers, "side_by_side", lambda machine, forms: (dict.fromkeys(forms, 1.0), {}))
    layers.run(Machine(dry=True), results)
    whole = results.data["results"].copy()
    results.data["results"] = whole[:3]
    times = []
    monkeypatch.setattr(layers, "side_by_side", lambda machine, forms: times.append(forms) or ({}, {}))
    layers.run(Machine(dry=True), results)
    assert len(times) == len(whole) - 3
    assert results.data["results"][:3] == whole[:3]


def test_int8_needs_nothing_of_the_cpu():
    """Neither ``.numpy()``, which tensors of a GPU refuse as those without values do, nor onnxruntime."""
    gpu = SimpleNamespace(device="meta")
    cases = list(operators.cases(gpu, ["int8"]))
    assert {case.row for case in cases} >= {"separable inference, int8", "inverted bottleneck inference, int8"}
    for case in cases:
        assert case.forms.keys() == {"ours", "ours, float32"}
        assert {form().device.type for form in case.forms.values()} == {"meta"}
    with torch.device("meta"):
        for layer in layers.LAYERS:
            x = torch.empty(2, layer.channels, layer.size, layer.size, dtype=torch.uint8)
            size = layer.size // layer.stride
            assert layer.quantised()(x).shape == (2, layer.outputs, size, size)


@pytest.mark.parametrize("error", [ImportError("undefined symbol"), RuntimeError("wrong")])
def test_operators_that_do_not_load_are_a_failure(error, monkeypatch, tmp_path):
    def fails(machine, results):
        raise error

    monkeypatch.setitem(sys.modules, "gpu.step", SimpleNamespace(run=fails))
    monkeypatch.setattr(sys, "argv", ["one", "step", str(tmp_path / "step.json"), "--dry"])
    with pytest.raises(type(error)):
        one.main()
    data = json.loads((tmp_path / "step.json").read_text())
    assert data["state"] == "failed"
    assert str(error) in data["reason"]


def test_figures_of_the_profiler():
    """Names as ncu prints them: with types, namespaces and enumerators; the program's own lines come before."""
    kernel = "void supernet::cuda::depthwise_kernel<float, supernet::cuda::ForwardWindow<3, 1>, (Form)0>(const T1 *)"
    columns = ["ID", "Kernel Name", *profile.METRICS]
    rows = [columns, ["", "", "ns", "%", "%", "%", "%"], ["0", kernel, "1,234", "1", "2", "3", "4.5"]]
    rows += [["1", kernel, *"99999"], ["2", "supernet::cuda::depth_mix_kernel(int)", *"56789"]]
    text = "==PROF== Connected\ncalled depthwise\n" + "\n".join('"' + '","'.join(row) + '"' for row in rows)
    first, second = profile.first_of_each(text)
    assert (first["kernel"], first["ns"], first["occupancy_percent"]) == ("depthwise_kernel", 1234.0, 4.5)
    assert (second["kernel"], second["ns"]) == ("depth_mix_kernel", 5.0)
