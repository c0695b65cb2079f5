"""Divergences from a teacher, against their definitions in double precision and against autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from supernet.training.distillation import _alpha_divergence, adaptive_alpha_divergence, kl_divergence


def logits(scale: float = 1.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(6, 5, generator=generator) for _ in range(2)]


def defined(student, teacher, alpha):
    """D_α(p ‖ q) = Σ q ((p/q)^α − 1) / (α (α − 1)), differentiable."""
    p, q = F.softmax(teacher.double(), 1), F.softmax(student.double(), 1)
    if alpha == 1:
        return (p * (p / q).log()).sum(1)
    return (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 1.0, 2.0])
def test_alpha_divergence_is_its_definition(alpha):
    student, teacher = logits()
    student.requires_grad_()
    ours = _alpha_divergence(student, teacher, alpha, clip=torch.inf)
    expected = defined(student, teacher, alpha)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-6)
    weights = torch.linspace(1, 2, len(ours))
    (mine,) = torch.autograd.grad((ours * weights).sum(), student)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), student)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_kl_is_the_divergence_of_alpha_one():
    student, teacher = logits()
    torch.testing.assert_close(kl_divergence(student, teacher).double(), defined(student, teacher, 1.0).mean())


def test_the_larger_divergence_counts_for_each_image():
    sure, unsure = torch.tensor([[8.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.0, 0.0]])
    student, teacher = torch.cat([sure, unsure]), torch.cat([unsure, sure])
    each = torch.stack([defined(student, teacher, alpha) for alpha in (-1.0, 1.0)], 1)
    assert each.argmax(1).tolist() == [1, 0]  # too sure: α = 1; not sure enough: α = −1
    expected = each.amax(1).mean()
    torch.testing.assert_close(
        adaptive_alpha_divergence(student, teacher, clip=torch.inf).double(), expected, rtol=1e-4, atol=1e-6
    )


def test_ratios_are_clipped_in_value_and_gradient():
    student, teacher = torch.tensor([[9.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 9.0]])
    q, p = F.softmax(student.detach().double(), 1)[0], F.softmax(teacher.double(), 1)[0]
    value = _alpha_divergence(student, teacher, -1.0, clip=5.0)
    clipped = torch.clamp(q / p, max=5.0)
    assert clipped[0] == 5
    assert q[0] / p[0] > 5000
    assert float(value.detach()) == pytest.approx(float((q * (clipped - 1)).sum() / 2), rel=1e-4)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    weight = q * clipped / -1.0  # −Σ weight ∇log q, ∇_j log q_i = [i = j] − q_j
    expected = -(weight - weight.sum() * q)
    torch.testing.assert_close(gradient[0].double(), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("diverges", [kl_divergence, adaptive_alpha_divergence])
def test_no_gradient_reaches_the_teacher_and_equal_networks_do_not_diverge(diverges):
    student, teacher = (values.requires_grad_() for values in logits())
    diverges(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert float(diverges(teacher.detach(), teacher)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("diverges", [kl_divergence, adaptive_alpha_divergence])
def test_extreme_logits_stay_finite(diverges):
    student, teacher = (values.requires_grad_() for values in logits(scale=200.0))
    loss = diverges(student.bfloat16(), teacher.bfloat16())
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad.isfinite().all()
