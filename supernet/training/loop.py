"""The training mechanism that every method shares: ``fit``, ``evaluate``, ``recalibrate_bn``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import files
from supernet.data.images import ImageSet
from supernet.errors import UserError
from supernet.model import Network, Supernet
from supernet.progress import Progress, silent
from supernet.space import Arch
from supernet.training import checkpoint, distributed


@dataclass(frozen=True)
class FitConfig:
    """How weights are trained: SGD with momentum, one schedule from ``lr`` over all steps.

    ``linear`` and ``cosine`` go to 0; ``step`` divides by 10 at a half and again at three quarters of the steps.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 0.1
    schedule: Literal["linear", "cosine", "step"] = "linear"
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 4e-5  # on weights with more than one dimension only
    label_smoothing: float = 0.1
    clip: float = 0.0  # gradient norm; 0 is off
    augment: bool = True
    seed: int = 0
    checkpoint_minutes: float = 10.0  # besides the one after every epoch


class Search(Protocol):
    """What a method learns besides the weights; it is in the checkpoint with them."""

    def update(self, step: int) -> None:
        """Called after the weights' step; the gradients of this batch still stand."""

    def state_dict(self) -> dict:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict) -> None:
        """The inverse."""


def sgd(model: nn.Module, cfg: FitConfig) -> torch.optim.SGD:
    """SGD that decays matrices and kernels, not biases and BN. Parameters without a gradient are left alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.nesterov)


def learning_rate(cfg: FitConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of ``step`` (from 0): linear warm-up, then the schedule; its 0 would be one step after the last."""
    warmup, total = cfg.warmup_epochs * steps_per_epoch, cfg.epochs * steps_per_epoch
    if step < warmup:
        return cfg.lr * (step + 1) / warmup
    t = (step - warmup) / max(total - warmup, 1)
    if cfg.schedule == "step":
        return cfg.lr / 10 ** ((t >= 0.5) + (t >= 0.75))
    return cfg.lr * (1 - t if cfg.schedule == "linear" else (1 + math.cos(math.pi * t)) / 2)


def fit(
    model: Supernet | Network,
    train: ImageSet,
    pick_arch: Callable[[int], Arch | None],
    cfg: FitConfig,
    folder: Path,
    *,
    meta: dict,
    search: Search | None = None,
    validate: Callable[[], dict] | None = None,
    label: str = "training",
    progress: Progress = silent,
    logits_of: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[dict]:
    """Train ``model`` on the path that ``pick_arch(step)`` names at each step; continue where ``folder`` stopped.

    Every random draw is a function of the seed and the step, so N steps, a kill and N more give the weights of
    2N steps bit for bit. Under torchrun all ranks take the same path and average the gradients on it.

    Args:
        meta: plain values that a reader of ``checkpoint.pt`` needs (space, options).
        search: what else is learnt, updated after every step.
        validate: called after each epoch; its numbers go into ``metrics.jsonl``.
        logits_of: logits from images and labels, for a loss with a margin; ``model(images, arch)`` without.

    Returns:
        One dict per epoch: loss, accuracy, images/s and what ``validate`` gave.

    Raises:
        UserError: the loss is not finite, or the folder holds something else.
    """
    optimizer = sgd(model, cfg)
    path, log = folder / "checkpoint.pt", files.JsonLines(folder / "metrics.jsonl")
    per_epoch = train.steps(cfg.batch_size, drop_last=True, world=distributed.world())
    if per_epoch == 0:
        raise UserError(f"{len(train)} training images do not fill one batch of {cfg.batch_size}: lower --batch-size")
    total, step, sums = cfg.epochs * per_epoch, 0, [0.0, 0]  # sums of loss and of hits within the epoch
    device = next(model.parameters()).device
    if path.exists():
        state = checkpoint.load(path, "start again with --restart")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if search is not None:
            search.load_state_dict(state["search"])
        step, sums = state["step"], state["sums"]
    leader = distributed.rank() == 0
    if leader:
        log.keep(lambda line: line["epoch"] * per_epoch <= step)

    def save() -> None:
        if leader:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "sums": sums,
            }
            if search is not None:
                state["search"] = search.state_dict()
            checkpoint.save(path, {**state, "finished": step == total, "meta": meta})

    model.train()
    with (progress if leader else silent)(label, total, done=step, unit="images") as bar:
        while step < total:
            epoch, start = divmod(step, per_epoch)
            batches = train.batches(
                cfg.batch_size,
                seed=cfg.seed,
                epoch=epoch,
                start=start,
                augment=cfg.augment,
                drop_last=True,
                rank=distributed.rank(),
                world=distributed.world(),
            )
            began, last_save = time.monotonic(), time.monotonic()
            loss_sum, hits = torch.tensor(sums[0], dtype=torch.double, device=device), sums[1]
            for x, y in batches:
                x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(cfg, step, per_epoch)
                torch.manual_seed(hash((cfg.seed, step)) % 2**63)  # dropout
                optimizer.zero_grad(set_to_none=True)  # what is not on the path keeps grad None, and its weights
                logits = model(x, pick_arch(step)) if logits_of is None else logits_of(x, y)
                loss = F.cross_entropy(logits, y, label_smoothing=cfg.label_smoothing)
                loss.backward()
                distributed.average_gradients(model)
                if cfg.clip:
                    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], cfg.clip)
                optimizer.step()
                if search is not None:
                    search.update(step)
                step += 1
                loss_sum += loss.detach()
                hits += (logits.detach().argmax(1) == y).sum()
                seen = len(x) * (step - epoch * per_epoch)
                if step % 20 == 0 or step == (epoch + 1) * per_epoch:
                    require_finite(loss_sum, step, cfg)
                    text = f"epoch {epoch + 1}/{cfg.epochs} loss {loss_sum.item() / (step - epoch * per_epoch):.3f}"
                    bar.advance(step - bar.count, work=(step - bar.count) * len(x) * distributed.world(), text=text)
                if time.monotonic() - last_save > 60 * cfg.checkpoint_minutes:
                    require_finite(loss_sum, step, cfg)
                    sums = [loss_sum.item(), int(hits)]
                    save()
                    last_save = time.monotonic()
            line = {"epoch": epoch + 1, "loss": loss_sum.item() / per_epoch, "accuracy": int(hits) / seen}
            rate = (per_epoch - start) * len(x) * distributed.world() / (time.monotonic() - began)
            line |= {"lr": learning_rate(cfg, step - 1, per_epoch), "images_per_second": round(rate, 1)}
            if validate is not None:
                line |= validate()
                model.train()
            sums = [0.0, 0]
            save()
            if leader:
                log.append(line)
    return log.read()


def require_finite(loss: Tensor, step: int, cfg: FitConfig) -> None:
    """Stop before a loss that is not finite gets into a checkpoint."""
    if not torch.isfinite(loss):
        raise UserError(
            f"the loss became {loss.item()} before step {step}: lower the learning rate (--lr, now {cfg.lr:g}) or set "
            "--clip 5; the last checkpoint is intact"
        )
