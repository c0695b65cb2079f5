"""The training loop of every method: resume, step, log, save."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supernet
from supernet.data.images import ImageSet
from supernet.errors import CheckpointError, UserError
from supernet.progress import Progress, Track, silent
from supernet.space import Arch
from supernet.training import checkpoint, distributed
from supernet.training.folder import TrainingFolder
from supernet.training.precision import Precision, whole

Forward = Callable[[int, Tensor, Tensor], Tensor]  # step, images, labels -> logits


@dataclass(frozen=True)
class FitConfig:
    """How weights are trained: SGD with momentum, one schedule from ``lr`` over all steps.

    ``linear`` and ``cosine`` go to 0; ``step`` divides by 10 at a half and again at three quarters of the steps.
    """

    epochs: int
    batch_size: int = 64  # images of a step, over all processes and parts
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
    lr_min: float = 0.0  # what the schedule ends at instead of 0
    accumulate: int = 1  # parts that a process computes its share of a batch in, one after another
    precision: str = "fp32"  # or bf16, fp16: of forward and backward; weights and statistics stay float32
    sync_bn: bool = False  # under torchrun, batch statistics over the batches of all processes


class Search:
    """What a method learns besides the weights; it is in the checkpoint with them. A base class that learns nothing.

    Attributes:
        precision: of the training; set by it.
    """

    precision = Precision("fp32", torch.device("cpu"))

    def before_step(self, step: int) -> None:
        """Called before the weights' step: learn from other images."""

    def update(self, step: int, scale: float = 1.0) -> None:
        """Called after the weights' step; the gradients of this batch still stand, times ``scale``."""

    def after_epoch(self) -> dict:
        """Called after the last step of an epoch. Returns what is logged."""
        return {}

    def state_dict(self) -> dict:
        """Tensors and plain values."""
        return {}

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
    """The rate of ``step`` (from 0): linear warm-up, then the schedule; its end would be one step after the last."""
    scale = 1 - cfg.lr_min / cfg.lr if cfg.lr_min else 1.0
    return cfg.lr_min + scale * _to_zero(cfg, step, steps_per_epoch)


def _to_zero(cfg: FitConfig, step: int, steps_per_epoch: int) -> float:
    warmup, total = cfg.warmup_epochs * steps_per_epoch, cfg.epochs * steps_per_epoch
    if step < warmup:
        return cfg.lr * (step + 1) / warmup
    t = (step - warmup) / max(total - warmup, 1)
    if cfg.schedule == "step":
        return cfg.lr / 10 ** ((t >= 0.5) + (t >= 0.75))
    return cfg.lr * (1 - t if cfg.schedule == "linear" else (1 + math.cos(math.pi * t)) / 2)


def fit(
    model: nn.Module,
    train: ImageSet,
    pick_arch: Callable[[int], Arch | None],
    cfg: FitConfig,
    folder: Path,
    *,
    meta: dict,
    search: Search | None = None,
    validate: Callable[[], dict] = dict,
    label: str = "training",
    progress: Progress = silent,
    forward: Forward | None = None,
    epochs: tuple[int, int] | None = None,
    begin: Path | None = None,
    steps_per_epoch: int | None = None,
) -> list[dict]:
    """Train ``model`` on the path that ``pick_arch(step)`` names at each step; continue where ``folder`` stopped.

    Every random draw is a function of the seed and the step, so N steps, a kill and N more give the weights of
    2N steps bit for bit. Under torchrun all ranks take the same path and average the gradients on it; a batch is
    split over them, so steps, learning rates and images do not depend on their number.

    Args:
        meta: plain values that a reader of the checkpoint needs (space, options).
        search: what else is learnt.
        validate: called after each epoch; its numbers go into the log.
        forward: logits of a step's images and labels; by default ``model(images, pick_arch(step))``.
        epochs: from and to, of ``cfg.epochs`` that the schedule spans; by default all.
        begin: a checkpoint whose weights and momentum a new training starts from.
        steps_per_epoch: fewer than ``train`` has.

    Returns:
        One dict per epoch: loss, accuracy, images/s and what ``validate`` and ``search`` gave.

    Raises:
        UserError: the loss is not finite, or the folder holds something else.
    """
    _advise()
    if forward is None:

        def forward(step: int, x: Tensor, y: Tensor) -> Tensor:
            return model(x, pick_arch(step))

    training = Training(
        model, train, cfg, TrainingFolder(folder), meta, search or Search(), epochs or (0, cfg.epochs), steps_per_epoch
    )
    training.resume(begin)
    model.train()
    with (progress if training.leader else silent)(label, training.end, done=training.step, unit="images") as bar:
        while training.step < training.end:
            training.epoch(forward, validate, bar)
    return training.log.read()


@functools.cache  # once
def _advise() -> None:
    """Tell who trains on a busy machine what the order of two imports costs."""
    if supernet.TORCH_CAME_FIRST:
        logging.getLogger("supernet").warning(
            "torch was imported before supernet, so idle threads spin: on a busy machine training is several times "
            "slower; import supernet first, or set OMP_WAIT_POLICY=PASSIVE"
        )


class Training:
    """A training under way: where it is, and what its checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        train: ImageSet,
        cfg: FitConfig,
        folder: TrainingFolder,
        meta: dict,
        search: Search,
        epochs: tuple[int, int],
        steps_per_epoch: int | None,
    ):
        self.model, self.train, self.cfg, self.meta, self.search = model, train, cfg, meta, search
        self.path, self.log = folder.checkpoint, folder.metrics
        self.optimizer = sgd(model, cfg)
        self.device = next(model.parameters()).device
        self.leader, self.world = distributed.rank() == 0, distributed.world()
        self.mine = distributed.share(cfg.batch_size, cfg.accumulate)
        self.precision = search.precision = Precision(cfg.precision, self.device)
        self.reducer = distributed.PathReducer(model)
        for norm in self.reducer.norms:
            norm.sync = cfg.sync_bn
        self.per_epoch = steps_per_epoch or train.steps(cfg.batch_size, drop_last=True)
        if self.per_epoch == 0:
            raise UserError(
                f"{len(train)} training images do not fill one batch of {cfg.batch_size}: lower the batch size"
            )
        self.step, self.end = (epoch * self.per_epoch for epoch in epochs)
        self.loss_sum = torch.zeros((), dtype=torch.double, device=self.device)  # within the epoch, as ``hits``
        self.hits = torch.zeros((), dtype=torch.long, device=self.device)

    def resume(self, begin: Path | None) -> None:
        """Continue from the checkpoint, if there is one; else start, from the weights in ``begin`` where given."""
        if self.path.exists():
            state = checkpoint.load(self.path, missing="another run")
            self._load(state, self.path)
            # NSS of version 0.1 had its parts beside the others.
            self.search.load_state_dict(state.get("search", state))
            self.precision.load_state_dict(state.get("scaler", {}))
            self.step = state["step"]
            self.restore_sums(state["sums"])
        elif begin is not None:
            self._load(checkpoint.load(begin, missing="another run"), begin)
        if self.leader:
            self.log.keep(lambda line: line["epoch"] * self.per_epoch <= self.step)
        if not self.path.exists() and (begin is not None or self.step == self.end):
            self.save()  # others may begin with it, or it is all there is to do

    def _load(self, state: dict, path: Path) -> None:
        """Weights and momentum."""
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path} is of another training ({reason})", missing="another run") from error

    def save(self) -> None:
        """Write the checkpoint, on one rank; all call it."""
        sums = distributed.gathered([self.loss_sum.item(), int(self.hits)])
        if self.leader:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
            state |= {"sums": sums, "search": self.search.state_dict(), "scaler": self.precision.state_dict()}
            checkpoint.save(self.path, {**state, "finished": self.step == self.end, "meta": self.meta})

    def restore_sums(self, sums: list) -> None:
        """Take this rank's loss and hits of the epoch so far; an equal share where the number of ranks has changed."""
        if not isinstance(sums[0], list):  # version 0.1 kept those of one rank
            sums = [sums]
        if len(sums) == self.world:
            loss, hits = sums[distributed.rank()]
        else:
            loss = sum(loss for loss, _ in sums) / len(sums)
            hits = round(sum(hits for _, hits in sums) / self.world)
        self.loss_sum.fill_(loss)
        self.hits.fill_(hits)

    def epoch(self, forward: Forward, validate: Callable[[], dict], bar: Track) -> None:
        """The rest of the epoch that ``step`` lies in: train, validate, save, log."""
        cfg, (epoch, start) = self.cfg, divmod(self.step, self.per_epoch)
        last, began, saved = (epoch + 1) * self.per_epoch, time.monotonic(), time.monotonic()
        for x, y in itertools.islice(self.batches(epoch, start), self.per_epoch - start):
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            self.one_step(x, y, forward)
            if self.step % 20 == 0 or self.step == last:
                late = self.leader and time.monotonic() - saved > 60 * cfg.checkpoint_minutes
                loss, hits, due = distributed.total(self.loss_sum.item(), int(self.hits), late, device=self.device)
                loss /= self.world
                require_finite(loss, self.step, cfg)
                mean = loss / (self.step - epoch * self.per_epoch)
                new, text = self.step - bar.count, f"epoch {epoch + 1}/{cfg.epochs} loss {mean:.3f}"
                bar.advance(new, work=new * cfg.batch_size, text=text)
                if due and self.step < last:
                    self.save()
                    saved = time.monotonic()
        rate = (self.per_epoch - start) * cfg.batch_size / (time.monotonic() - began)
        line = {"epoch": epoch + 1, "loss": loss / self.per_epoch}
        line |= {"accuracy": int(hits) / (self.per_epoch * cfg.batch_size)}
        line |= {"lr": learning_rate(cfg, self.step - 1, self.per_epoch), "images_per_second": round(rate, 1)}
        line |= validate()
        self.model.train()
        line |= self.search.after_epoch()
        self.loss_sum.zero_()
        self.hits.zero_()
        if self.leader:
            self.log.append(line)  # before the checkpoint: what it does not know of is cut, what it knows is never lost
        self.save()

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches of an epoch from its step ``start`` on."""
        return self.train.batches(
            self.mine,
            seed=self.cfg.seed,
            epoch=epoch,
            start=start,
            augment=self.cfg.augment,
            drop_last=True,
            rank=distributed.rank(),
            world=self.world,
        )

    def one_step(self, x: Tensor, y: Tensor, forward: Forward) -> None:
        """One step of the weights, and of what else is learnt."""
        cfg = self.cfg
        self.search.before_step(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(cfg, self.step, self.per_epoch)
        torch.manual_seed(hash((cfg.seed, self.step)) % 2**63)  # dropout
        self.optimizer.zero_grad(set_to_none=True)  # what is not on the path keeps grad None, and its weights
        for part, (images, labels) in enumerate(distributed.parts(x, y, cfg.accumulate), 1):
            with self.precision.autocast():
                logits = forward(self.step, images, labels)
            loss = F.cross_entropy(whole(logits), labels, label_smoothing=cfg.label_smoothing) / cfg.accumulate
            if part == cfg.accumulate:
                self.reducer.arm()
            self.precision.backward(loss)
            self.loss_sum += loss.detach()
            self.hits += (logits.detach().argmax(1) == labels).sum()
        self.reducer.finish()
        scale = self.precision.scale
        if cfg.clip:
            self.precision.unscale(self.optimizer)
            nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], cfg.clip)
        self.precision.step(self.optimizer)
        self.search.update(self.step, scale)
        self.step += 1


def require_finite(loss: float, step: int, cfg: FitConfig) -> None:
    """Stop before a loss that is not finite gets into a checkpoint."""
    if not math.isfinite(loss):
        raise UserError(
            f"the loss became {loss} before step {step}: lower the learning rate (now {cfg.lr:g}) or "
            "clip gradients, as at a norm of 5; the last checkpoint is intact"
        )
