"""Fake quantisation: the values and gradients of an operator, a network, and scores by it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from search.evaluator import Evaluator
from supernet.model import Network, Supernet
from supernet.quantized import Quantisation
from supernet.training.bn import recalibrate_bn
from supernet.training.evaluation import evaluate
from supernet.training.fake_int8 import FakeInt8, activations, exact, weights
from supernet.training.rules import Taught
from tests.conftest import refused, tiny_space
from tests.test_evaluator import population, setup


def test_activations_are_those_of_onnx():
    """The library's own quantisation, to bytes and back, rounds alike."""
    x = torch.randn(3, 4, 5, 5)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255
    known = Quantisation(scale, round(-low / scale))
    assert torch.allclose(activations(x), known.dequantise(known.quantise(x)), atol=1e-6)
    assert len(activations(x).unique()) <= 256
    assert torch.equal(activations(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert activations(x.abs() + 1).min() >= 0.9  # 0 is a value, though the least is 1


@pytest.mark.parametrize("size", [(6, 3, 3, 3), (6, 5)])
def test_weights_have_steps_of_their_channel(size):
    w = torch.randn(size) * torch.logspace(-3, 3, 6).reshape(6, *([1] * (len(size) - 1)))
    rounded = weights(w)
    for own, whole in zip(rounded, w, strict=True):
        step = whole.abs().max() / 127
        assert torch.allclose(own / step, (own / step).round(), atol=1e-3)
        assert (own - whole).abs().max() <= 0.501 * step


def test_a_whole_channel_rounds_alike_with_bn_folded_in():
    w, gain = torch.randn(4, 3, 3, 3), torch.rand(4, 1, 1, 1) + 0.5
    assert torch.allclose(weights(w * gain), weights(w) * gain, rtol=1e-5)


def test_gradients_pass_the_rounding():
    x, w = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    with FakeInt8():
        y = F.conv2d(x, w)
    got = torch.autograd.grad(y.sum(), (x, w))
    rounded = [activations(x.detach()).requires_grad_(), weights(w.detach()).requires_grad_()]
    want = torch.autograd.grad(F.conv2d(*rounded).sum(), rounded)
    assert torch.equal(y, F.conv2d(*rounded))
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize("scale", [1, 50])
def test_a_network_is_off_by_as_much_as_on_8_bit_values(scale):
    """The file that onnxruntime's quantisation makes is off by about as much, and in the same direction."""
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    from supernet.export import formats, int8_onnx

    network = Network(tiny_space(), (0, 2, 3), kernels="eager")
    recalibrate_bn(network, [torch.randn(64, 1, 14, 14)])
    network.layers[1].separable.pointwise.bn.bias.data[0] = scale
    network.eval()
    x = torch.randn(32, 1, 14, 14)
    file = int8_onnx.quantiser(network, (1, 14, 14), [x.numpy()])()
    with torch.inference_mode():
        floats = network(x)
        with FakeInt8():
            fake = network(x) - floats
    real = torch.from_numpy(formats.FORMATS["onnx"].load(file)(x.numpy())) - floats
    assert 0.5 < fake.norm() / real.norm() < 2
    assert (fake * real).sum() / (fake.norm() * real.norm()) > 0.4


def test_scores_are_those_of_extracted_networks():
    space, supernet, recalibration, validation = setup(kernels="eager")
    archs = population(space)
    scores = Evaluator(supernet, recalibration, validation, int8=True)(archs)
    plain = Evaluator(supernet, recalibration, validation)(archs)
    assert scores != plain
    for arch, score in zip(archs, scores, strict=True):
        network = supernet.extract(arch)
        recalibrate_bn(network, recalibration)
        with FakeInt8():
            assert score == pytest.approx(evaluate(network, validation), abs=1e-12)


def test_the_compiled_operators_have_none():
    space, _, recalibration, validation = setup()
    supernet = Supernet(space, kernels="fused")
    assert "expected eager kernels" in refused(Evaluator, supernet, recalibration, validation, int8=True)


def test_a_teacher_computes_with_floats():
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    plain = F.conv2d(x, weight)
    with FakeInt8():
        rounded = F.conv2d(x, weight)
        with exact():
            inside = F.conv2d(x, weight)
        again = F.conv2d(x, weight)
    assert torch.equal(inside, plain)
    assert torch.equal(again, rounded)
    assert not torch.equal(rounded, plain)


def test_the_rule_of_distillation_asks_a_teacher_of_floats():
    student = Network(tiny_space(), (0, 0, 0), kernels="eager")
    teacher = Network(tiny_space(), (1, 1, 1), kernels="eager").eval()
    seen = []
    teacher.register_forward_hook(lambda module, args, out: seen.append(out))
    x, y = torch.randn(4, *student.input_shape), torch.zeros(4, dtype=torch.long)
    with FakeInt8():
        Taught(student, teacher).learn(0, 0, None, x, y)
    with torch.no_grad():
        assert torch.equal(seen[0], teacher(x))
