"""Train architectures of the front alone, beside random ones within the same bounds, and test each once."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from supernet.cli import common, planning, recipe, report, starting
from supernet.metrics import Metric

if TYPE_CHECKING:
    from supernet.executor import Executor
    from supernet.retraining import Settings
    from supernet.runs import RunFolder
    from supernet.space import Arch


@dataclass(frozen=True)
class Args(planning.Planned, common.Devices, recipe.Recipe, common.Alone):
    pick: str = "best"
    """Architecture to train: best, knee, all, or its number in the front."""
    controls: Annotated[int | None, common.UNSET] = None
    """Random architectures within the same bounds to train beside it; defaults to 4, with --qat to 0."""
    arch_config: Annotated[Path | None, common.UNSET] = None
    """Train the network of this JSON file or of this name alone instead, as count.py takes it, in RUN/config."""
    epochs: int = 12
    """Epochs (SPOS on ImageNet: 240); 0 with --inherit tests the weights as they are."""
    clip: float = 0.0
    """Largest gradient norm; 0 turns clipping off."""
    inherit: bool = False
    """Start from the supernet's weights instead of from scratch."""
    qat: bool = False
    """Fine-tune the network in RUN/PICK by fake quantisation, for export.py --int8, into RUN/PICK-int8."""
    teacher: str = "none"
    """What it learns from besides the labels: supernet (its largest network), given (the network of --space as it
    was), timm:NAME or torchvision:NAME with --teacher-weights, or the folder of a trained network."""
    teacher_weights: Annotated[Path | None, common.UNSET] = None
    """State dict of the teacher, .safetensors or .pt."""
    augment: Annotated[bool | None, common.UNSET] = None
    """Random crops and flips; defaults to on from 30 epochs, since short trainings do better without."""
    metric: Annotated[Metric | None, common.UNSET] = None
    """What networks are compared by; defaults to what the search maximised."""
    seed: int = 0
    """Random seed of the weights and the augmentation."""


def run(args: Args) -> None:
    from supernet import configurations, rehearsed
    from supernet.executor import Processes
    from supernet.retraining import CONFIGURED, Settings
    from supernet.training import defaults, distributed, precision, recipes

    device = defaults.device(args.device)
    distributed.start(device)
    number_format = precision.resolve(args.precision, device, exact=args.qat)
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    folder, file = args.folder, args.arch_config
    controls = args.controls if args.controls is not None else 0 if args.qat else 4
    if args.inherit and folder.space().model:
        optimizer = recipes.of(args.recipe, args.optimizer, args.epochs)["optimizer"]
        given["lr"] = defaults.learning_rate(args.batch_size, args.lr, True, optimizer)
    weights = None if args.teacher_weights is None else str(args.teacher_weights)
    settings = Settings(**given | {"precision": number_format, "teacher_weights": weights})
    arch = None if file is None else configurations.read(folder.space(), file)
    if args.plan:
        with planning.planning(args) as making:
            chosen = {CONFIGURED: arch} if arch else rehearsed.picked(making.folder, args.pick, controls)
            making.retrain(making.folder, chosen, settings, args, Processes(args.jobs))
    else:
        rows = train(folder, settings, args.pick, controls, args, args.ray_or(Processes(args.jobs)), arch)
        if distributed.rank() == 0:
            qat = ("export", args, "--pick", next(iter(rows)), "--int8")
            common.next_command(*(qat if settings.qat else ("report", args)))
            common.answer(args, rows)
    distributed.stop()


def train(
    folder: RunFolder,
    settings: Settings,
    pick: str,
    controls: int,
    args: Any,
    executor: Executor,
    arch: Arch | None = None,
) -> dict[str, dict]:
    """Train what ``pick`` names and random controls, and show how they do.

    Args:
        args: with device, kernels, workers, data_root and progress. executor: who trains. arch: to train instead.

    Returns:
        What the ``result.json`` of each network holds, by its folder within the run; the picked ones first.
    """
    from latency import runtimes
    from latency.table import LatencyTable
    from supernet import retraining
    from supernet.report import columns
    from supernet.training import distributed

    space = folder.space()
    lut = LatencyTable.find(folder.lut_path, space)  # a DSNAS run may have none

    def measure(networks: retraining.Networks) -> dict[str, float]:
        samples = runtimes.measure_networks(lut, space, networks, common.tell)
        return {name: sample.median_ms for name, sample in samples.items()}

    rows = retraining.found(
        folder,
        pick,
        controls,
        settings,
        arch=arch,
        metric=args.metric,
        predict=None if lut is None else functools.partial(lut.predict_arch, space),
        measure=measure,
        device=args.device,
        kernels=args.kernels,
        executor=executor,
        workers=args.workers,
        data_root=args.data_root,
        progress=args.progress,
        aside=lambda old, new: common.tell(f"{old} held another training: moved to {new}"),
    )
    if distributed.rank() > 0:
        return rows
    common.show(
        columns.alone(rows, f"{'trained alone' if settings.epochs else 'weights of the supernet'}, tested once")
    )
    for line in columns.told(rows):
        common.tell(line)
    if gain := columns.gain(rows):
        common.say(gain)
    common.tell(f"→ {folder.network(next(iter(rows))).path}")
    return rows


main = starting.entry(run, Args, torchrun=True, after=report.leave_page)
