"""What a network learns from the logits of a larger one, in float32. The teacher gets no gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP = 5.0  # largest importance ratio (AlphaNet's code)


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student), the mean over images: in-place distillation (BigNAS, Yu et al. 2020, §3.1).

    Args:
        student, teacher: logits ``[B, classes]``.
    """
    p, q = F.log_softmax(teacher.detach().float(), 1), F.log_softmax(student.float(), 1)
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


def adaptive_alpha_divergence(
    student: Tensor, teacher: Tensor, alphas: tuple[float, float] = (-1.0, 1.0), clip: float = CLIP
) -> Tensor:
    """The larger one of two α-divergences for each image, their mean (AlphaNet, Wang et al. 2021, eq. 6–8).

    α = −1 is large where the student is less sure than the teacher, α = 1, the KL divergence, where it is surer.

    Args:
        student, teacher: logits ``[B, classes]``.
        clip: the largest (p/q)^α that counts, in the value and in the gradient.
    """
    one, other = (_alpha_divergence(student, teacher, alpha, clip) for alpha in alphas)
    return torch.where(one.detach() > other.detach(), one, other).mean()


def _alpha_divergence(student: Tensor, teacher: Tensor, alpha: float, clip: float) -> Tensor:
    """Σ_i q_i · ((p_i/q_i)^α − 1) / (α (α − 1)) with teacher p and student q, ``[B]``; α ≠ 0; α = 1 is the limit.

    Its gradient is −Σ_i q_i · (p_i/q_i)^α / α · ∇log q_i (eq. 5), in which the clipped ratios are constants.
    """
    log_p, log_q = F.log_softmax(teacher.detach().float(), 1), F.log_softmax(student.float(), 1)
    with torch.no_grad():
        q, log_ratio = log_q.exp(), log_p - log_q
        if alpha == 1:
            weight = log_p.exp()
            value = (weight * log_ratio).sum(1)
        else:
            powers = (alpha * log_ratio).exp().clamp(max=clip)
            weight = q * powers / alpha
            value = (q * (powers - 1)).sum(1) / (alpha * (alpha - 1))
    surrogate = -(weight * log_q).sum(1)
    return value + surrogate - surrogate.detach()
