"""What number format forward and backward compute in; weights, batch statistics and losses stay float32."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor, nn

from supernet.errors import UserError
from supernet.training.fake_int8 import FakeInt8

Name = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Name, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(wanted: Name | Literal["auto"], device: torch.device, exact: bool = False) -> Name:
    """``auto`` is bf16 on GPUs that have it in hardware, else fp32; where numbers are to be exact, always that.

    Raises:
        UserError: an unknown name, or fp16 on the CPU.
    """
    if wanted == "auto":
        fast = not exact and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if fast else "fp32"
    if wanted not in DTYPES:
        raise UserError(f"precision {wanted}: expected auto, {', '.join(DTYPES)}")
    if wanted == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU, this is the CPU: choose bf16 or fp32")
    return wanted


def in_words(name: str, device: torch.device) -> str:
    """The precision, and what PyTorch's switches make of float32 on a GPU."""
    if name != "fp32" or device.type != "cuda":
        return name
    switches = {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}
    return "fp32 (TF32 in " + (" and ".join(kind for kind, on in switches.items() if on) or "nothing") + ")"


def whole(logits: Tensor) -> Tensor:
    """At least float32, for losses."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


class Precision:
    """Autocast for a forward pass and, in fp16, the scale of the loss that keeps small gradients from vanishing.

    Args:
        name: fp32, bf16, fp16; int8: fake quantisation, of plain PyTorch.
    """

    def __init__(self, name: Name | Literal["int8"], device: torch.device):
        self.name, self.device = name, device
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> contextlib.AbstractContextManager:
        """For a forward pass whose loss goes through ``backward``."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        if self.name == "int8":
            return FakeInt8()
        return torch.autocast(self.device.type, DTYPES[self.name])

    def autocast_unscaled(self) -> contextlib.AbstractContextManager:
        """For a forward pass whose loss is not scaled: float32 in place of fp16, whose gradients would vanish."""
        return contextlib.nullcontext() if self.scaler else self.autocast()

    @property
    def scale(self) -> float:
        """What gradients of this step are multiplied by before ``step``."""
        return self.scaler.get_scale() if self.scaler else 1.0

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, scaled."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def clip(self, optimizer: torch.optim.Optimizer, norm: float, value: float) -> None:
        """Bound each component of the gradients and their common norm, where these are above 0."""
        if self.scaler:
            self.scaler.unscale_(optimizer)
        moving = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if value:
            nn.utils.clip_grad_value_(moving, value)
        if norm:
            nn.utils.clip_grad_norm_(moving, norm)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step; in fp16 none where a gradient has overflowed, and a lower scale from then on."""
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()

    def state_dict(self) -> dict:
        """Plain values."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state: dict) -> None:
        """The inverse; nothing for the state of another precision."""
        if self.scaler and state:
            self.scaler.load_state_dict(state)
