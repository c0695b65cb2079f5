"""The moving average of a model's weights, which scores higher than the weights of the last step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from supernet.errors import UserError
from supernet.training.checkpoint import AVERAGE
from supernet.training.loop import Search


class MovingAverage(Search):
    """Exponential moving average: after step t, average ← d · average + (1 − d) · weights, as timm's ``ModelEmaV3``.

    d is ``decay``, less in the first steps: (1 + t) / (10 + t), so that the first weights do not last (TensorFlow's
    ``ExponentialMovingAverage``). BN statistics of a supernet are recalibrated for each path.

    Args:
        decay: in (0, 1), such as .9999 (BigNAS) in long trainings.
        statistics: average BN statistics, too, as those of a network alone need.
    """

    def __init__(self, model: nn.Module, decay: float, statistics: bool = False):
        if not 0 < decay < 1:
            raise UserError(f"a decay of the average of {decay}: expected a number between 0 and 1")
        self.decay = decay
        self.weights: dict[str, Tensor] = dict(model.named_parameters())
        if statistics:
            self.weights |= {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self.averages = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int, scale: float = 1.0) -> None:
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), [w.detach() for w in self.weights.values()], share)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages for its weights within the block."""
        before = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.copy(self.averages)
        try:
            yield
        finally:
            self.copy(before)

    @torch.no_grad()
    def copy(self, values: dict[str, Tensor]) -> None:
        """Give the model these weights."""
        for name, weight in self.weights.items():
            weight.copy_(values[name])

    def state_dict(self) -> dict:
        return {AVERAGE: self.averages}

    def load_state_dict(self, state: dict) -> None:
        averages = state[AVERAGE]
        if averages.keys() != self.averages.keys():
            raise ValueError("other weights are averaged")
        for name, average in self.averages.items():
            average.copy_(averages[name])
