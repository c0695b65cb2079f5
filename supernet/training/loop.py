"""The training loop of every method: resume, step, log, save."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import torch
from torch import Tensor, nn

import supernet
from supernet import files, shape
from supernet.data.images import ImageSet
from supernet.errors import CheckpointError, UserError
from supernet.progress import Progress, Track, silent
from supernet.quantities import several
from supernet.space import Arch
from supernet.training import checkpoint, distributed, faults, mixing, optimizers
from supernet.training.batches import of_epoch
from supernet.training.config import FitConfig, learning_rate
from supernet.training.folder import TrainingFolder
from supernet.training.log import Log
from supernet.training.mixing import Mixing
from supernet.training.precision import Precision
from supernet.training.rules import Forward, Rule

Validate = Callable[[], dict]  # numbers for the log
Drive = Callable[["Training", Validate, Track], None]  # takes the steps of a training that has resumed

# What a resume needs of a checkpoint besides what the model, the optimiser and the search check themselves.
STATE = {
    "step": shape.COUNT,
    "sums": ([float], [[float]]),
    "log?": [{"epoch": shape.POSITIVE}],
    "pending?": (None, {"epoch": shape.POSITIVE}),
    "fit?": dict,
}
LOWER = "lower the batch size or the resolution; the last checkpoint is intact"
FREE = ("epochs", "checkpoint_minutes", "accumulate")  # what a training that goes on may have otherwise


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


def fit(
    model: nn.Module,
    train: ImageSet,
    paths: Rule | Callable[[int], Arch | None],
    cfg: FitConfig,
    folder: Path,
    *,
    meta: dict,
    search: Search | None = None,
    validate: Validate = dict,
    label: str = "training",
    progress: Progress = silent,
    forward: Forward | None = None,
    epochs: tuple[int, int] | None = None,
    begin: Path | None = None,
    steps_per_epoch: int | None = None,
    drive: Drive | None = None,
) -> list[dict]:
    """Train ``model`` on the paths of each step; continue where ``folder`` stopped.

    Every random draw is a function of the seed and the step, so N steps, a kill and N more give the weights of
    2N steps bit for bit. Under torchrun all ranks take the same paths and average the gradients on them; a batch is
    split over them, so steps, learning rates and images do not depend on their number.

    Args:
        paths: the rule of training, or what names the one path of each step.
        meta: plain values that a reader of the checkpoint needs (space, options).
        search: what else is learnt.
        validate: called after each epoch; its numbers go into the log.
        forward: logits of a step's images and labels, in place of those of ``model`` on the one path.
        epochs: from and to, of ``cfg.epochs`` that the schedule spans; by default all.
        begin: a checkpoint whose weights and momentum a new training starts from.
        steps_per_epoch: fewer than ``train`` has.
        drive: who takes the steps; by default ``to_the_end`` does.

    Returns:
        One dict per epoch: loss and accuracy (means over the paths), images/s, what ``validate`` and ``search`` gave.

    Raises:
        UserError: the loss is not finite, or the folder holds something else.
    """
    _advise()
    rule = paths if isinstance(paths, Rule) else Rule(model, paths, cfg.label_smoothing, forward)
    training = Training(
        model,
        train,
        rule,
        cfg,
        TrainingFolder(folder),
        meta,
        search or Search(),
        epochs or (0, cfg.epochs),
        steps_per_epoch,
    )
    training.resume(begin)
    with (progress if training.leader else silent)(label, training.end, done=training.step, unit="images") as bar:
        (drive or to_the_end)(training, validate, bar)
    return training.log.lines


def to_the_end(training: Training, validate: Validate, bar: Track) -> None:
    """Every epoch that is left, each validated."""
    training.validate(validate)
    while training.step < training.end:
        training.epoch(bar)
        training.validate(validate)


@functools.cache  # once
def _advise() -> None:
    """Tell who trains on a busy machine what the order of two imports costs."""
    if supernet.TORCH_CAME_FIRST:
        logging.getLogger("supernet").warning(
            "torch was imported before supernet, so idle threads spin: on a busy machine training is several times "
            "slower; import supernet first, or set OMP_WAIT_POLICY=PASSIVE"
        )


def require_steps(train: ImageSet, cfg: FitConfig) -> int:
    """Steps of an epoch; a UserError where there are none, or a batch cannot be shared or mixed as it is to be."""
    mixing.require(train, cfg, distributed.share(cfg.batch_size, cfg.accumulate))
    if (steps := train.steps(cfg.batch_size, drop_last=True)) == 0:
        few = several(len(train), "training image does", "training images do")
        raise UserError(f"{few} not fill one batch of {cfg.batch_size}: lower the batch size")
    return steps


class Training:
    """A training under way: where it is, and what its checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        train: ImageSet,
        rule: Rule,
        cfg: FitConfig,
        folder: TrainingFolder,
        meta: dict,
        search: Search,
        epochs: tuple[int, int],
        steps_per_epoch: int | None,
    ):
        self.model, self.cfg, self.meta, self.search = model, cfg, meta, search
        self.train = train.with_auto_augment(cfg.auto_augment)
        self.folder, self.path, self.rule = folder, folder.checkpoint, rule
        self.optimizer, self.mixing = optimizers.make(model, cfg), Mixing.of(cfg, model)
        self.device = next(model.parameters()).device
        self.leader, self.world = distributed.rank() == 0, distributed.world()
        self.log = Log(folder, writes=self.leader)
        if (weights := train.class_weights()) is not None:
            rule.weights = weights.to(self.device)
        self.precision = search.precision = Precision("int8" if cfg.qat else cfg.precision, self.device)
        self.reducer = distributed.PathReducer(model)
        for norm in self.reducer.norms:
            norm.sync = cfg.sync_bn
        self.per_epoch = steps_per_epoch or require_steps(train, cfg)
        self.step, self.end = (epoch * self.per_epoch for epoch in epochs)
        self.loss_sum = torch.zeros((), dtype=torch.double, device=self.device)  # within the epoch, as ``hits``
        self.hits = torch.zeros((), dtype=torch.long, device=self.device)
        self.arch: Arch | None = None  # the last path, where there are paths
        self.passes = 1  # paths of a step
        self.losses: list[tuple[Tensor, Arch | None]] = []  # of the steps since they were last checked
        self.classes, self.told_collapse = 0, False
        # A checkpoint of other values is of another training; that of fewer epochs may go on.
        kept = {name: value for name, value in asdict(cfg).items() if name not in FREE}
        self.setup = files.plain({**kept, "steps_per_epoch": self.per_epoch})

    def resume(self, begin: Path | None) -> None:
        """Continue from the checkpoint, if there is one; else start, from the weights in ``begin`` where given."""
        state: dict = {"log": ()}
        if checkpoint.exists(self.path):
            state = checkpoint.load(self.path, missing="another run")
            self._load(state, self.path)
            try:
                shape.require(state, STATE)
                # NSS of version 0.1 had its parts beside the others.
                self.search.load_state_dict(state.get("search", state))
                self.precision.load_state_dict(state.get("scaler", {}))
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise self._another(self.path, error) from error
            self._require_same(state)
            self.step = state["step"]
            self.restore_sums(state["sums"])
        elif begin is not None:
            self._load(checkpoint.load(begin, missing="another run"), begin)
        self.log.resume(state, self.step / self.per_epoch, finished=self.step == self.end)
        if self.leader:
            self.folder.failure.unlink(missing_ok=True)
        if not checkpoint.exists(self.path) and (begin is not None or self.step == self.end):
            self.save()  # others may begin with it, or it is all there is to do

    def _require_same(self, state: dict) -> None:
        """Refuse weights of other settings. Version 0.1 did not keep them with the weights."""
        usual = files.plain(
            {f.name: f.default for f in fields(self.cfg) if f.default is not MISSING}
        )  # before it was one
        there, step = {**usual, **state.get("fit", self.setup)}, state["step"]
        changed = [f"{k}: {there[k]} → {here}" for k, here in self.setup.items() if there.get(k, here) != here]
        if step > self.end:
            changed.append(f"epochs: {step / self.per_epoch:g} → {self.end / self.per_epoch:g}")
        if changed:
            raise CheckpointError(f"{self.path} was trained with other settings ({'; '.join(changed)})", "another run")

    @staticmethod
    def _another(path: Path, error: Exception) -> CheckpointError:
        return CheckpointError(f"{path} is of another training ({str(error).splitlines()[0]})", missing="another run")

    def _load(self, state: dict, path: Path) -> None:
        """Weights and momentum."""
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise self._another(path, error) from error

    def save(self) -> None:
        """Write the checkpoint, on one rank; all call it."""
        sums = distributed.gathered([self.loss_sum.item(), int(self.hits)])
        if self.leader:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
            state |= {"sums": sums, "search": self.search.state_dict(), "scaler": self.precision.state_dict()}
            state |= {"finished": self.step == self.end, "meta": self.meta, "fit": self.setup, **self.log.state_dict()}
            checkpoint.save(self.path, state, keep=True)

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

    def epoch(self, bar: Track) -> None:
        """The rest of the epoch that ``step`` lies in: train, save. SIGTERM saves within it and ends the process."""
        cfg, left, began = self.cfg, self.per_epoch - self.step % self.per_epoch, time.monotonic()
        with faults.held_sigterm() as terminated:
            loss, hits, ended = self.steps(bar, terminated)
            if not ended:
                return
            rate = left * cfg.batch_size / (time.monotonic() - began)
            line = {"epoch": self.step // self.per_epoch, "loss": loss / self.per_epoch}
            line |= {"accuracy": int(hits) / (self.per_epoch * cfg.batch_size * self.passes)}
            line |= {"lr": learning_rate(cfg, self.step - 1, self.per_epoch), **self.search.after_epoch()}
            self.loss_sum.zero_()
            self.hits.zero_()
            self.log.trained(line, {"images_per_second": round(rate, 1)})
            self.save()

    def steps(self, bar: Track, terminated: list[bool]) -> tuple[float, float, bool]:
        """The steps to the end of the epoch, with a checkpoint now and then.

        Returns:
            Sum of the losses and hits over all ranks; whether the epoch is over, or SIGTERM came to one of them.
        """
        cfg, epoch, saved = self.cfg, self.step // self.per_epoch, time.monotonic()
        last = (epoch + 1) * self.per_epoch
        loss = hits = 0.0
        for _ in self._until_damaged(self.single_steps()):
            if self.step % 20 == 0 or self.step == last or (terminated and self.world == 1):
                late = self.leader and time.monotonic() - saved > 60 * cfg.checkpoint_minutes
                sums = self.loss_sum.item(), int(self.hits), late, bool(terminated)
                loss, hits, due, stop = distributed.total(*sums, device=self.device)
                loss /= self.world
                self.require_finite(loss)
                mean = loss / (self.step - epoch * self.per_epoch)
                new, text = self.step - bar.count, f"epoch {epoch + 1}/{cfg.epochs} loss {mean:.3f}"
                bar.advance(new, work=new * cfg.batch_size, text=text)
                if (due or stop) and self.step < last:
                    self.save()
                    saved = time.monotonic()
                    if stop:
                        return loss, hits, False
        return loss, hits, True

    def single_steps(self) -> Iterator[None]:
        """The steps to the end of the epoch, one at a time."""
        epoch, start = divmod(self.step, self.per_epoch)
        batches = of_epoch(self.train, self.cfg, epoch, start)
        for x, y in faults.loaded(itertools.islice(batches, self.per_epoch - start)):
            with faults.memory(lambda: f"step {self.step}{faults.on(self.arch)}", x, LOWER):
                x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
                self.one_step(x, y)
            yield

    def _until_damaged(self, steps: Iterator[None]) -> Iterator[None]:
        """The steps; where an image that cannot be read ends them, what was learnt until then is saved."""
        try:
            yield from steps
        except UserError as error:
            # Of several processes, one alone knows of it: what they saved last stays.
            if error.missing != "damaged" or self.world > 1 or self.step % self.per_epoch == 0:
                raise
            self.require_finite(self.loss_sum.item())
            self.save()
            raise UserError(f"{error}; step {self.step} is saved", error.missing) from error

    def validate(self, validate: Validate) -> None:
        """Validate the last epoch, if it was not, and log it. A fault here costs no weights, as they are saved."""
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        if self.log.pending is not None:
            self.log.validated(validate())
        # What was recalibrated goes: one that resumes after this validation goes on as one that never stopped.
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.model.train()
        if not self.told_collapse and faults.collapsed(self.log.lines, self.classes):
            faults.tell_collapse(self.classes, self.cfg.lr)
            self.told_collapse = True

    def require_finite(self, loss: float) -> None:
        """A UserError where the sum of losses is not finite, with the step since the last call that made it so."""
        if not math.isfinite(loss):
            bad = faults.first_bad([loss for loss, _ in self.losses])
            place = len(self.losses) - 1 if bad is None else bad  # another rank's
            value, arch = self.losses[place]
            step, path = self.step - len(self.losses) + place, self.folder.failure if self.leader else None
            faults.refuse_loss(
                value.item() if bad is not None else loss, step, arch, self.cfg.lr, path, checkpoint.exists(self.path)
            )
        self.losses.clear()

    def one_step(self, x: Tensor, y: Tensor) -> None:
        """One step of the weights, and of what else is learnt."""
        cfg = self.cfg
        self.search.before_step(self.step)
        optimizers.set_rate(self.optimizer, cfg, self.step, self.per_epoch)
        torch.manual_seed(hash((cfg.seed, self.step)) % 2**63)  # dropout
        self.optimizer.zero_grad(set_to_none=True)  # what is not on the path keeps grad None, and its weights
        parts = [self.mixing(self.step, *part) for part in distributed.parts(x, y, cfg.accumulate)]
        with self.precision.autocast():
            paths = self.rule.paths(self.step, parts)
        self.passes, total = len(paths), torch.zeros((), dtype=torch.double, device=self.device)
        for part, place in itertools.product(range(cfg.accumulate), range(self.passes)):
            self.arch = paths[place]
            with self.precision.autocast():
                logits, loss = self.rule.learn(self.step, place, self.arch, *parts[part])
            if (part, place) == (cfg.accumulate - 1, self.passes - 1):
                self.reducer.arm()
            loss = loss / cfg.accumulate
            self.precision.backward(loss)
            total += loss.detach() / self.passes
            self.hits += mixing.hits(logits.detach(), parts[part][1])
        self.reducer.finish()
        scale = self.precision.scale
        if cfg.clip or cfg.clip_value:
            self.precision.clip(self.optimizer, cfg.clip, cfg.clip_value)
        self.precision.step(self.optimizer)
        self.search.update(self.step, scale)
        self.step += 1
        self.classes = logits.shape[1]
        self.losses.append((total, self.arch))
        self.loss_sum += total
