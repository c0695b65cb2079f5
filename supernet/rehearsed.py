"""What training found networks alone will take, by the first steps of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from supernet import executor as executors
from supernet import retraining
from supernet.executor import Executor, Processes
from supernet.progress import Progress, silent
from supernet.retraining import Job, Settings
from supernet.runs import RunFolder
from supernet.space import Arch
from supernet.training import defaults, distributed
from supernet.training.evaluation import validate
from supernet.training.measured import Wish
from supernet.training.plan import Stage, Work
from supernet.training.rehearsal import Rehearsal, Shadow


def picked(run: RunFolder, pick: str, controls: int) -> dict[str, Arch]:
    """Architectures of the run's front, as ``retraining.picked`` has them."""
    space = run.space()
    entries = retraining.picked(run.front(space), pick, controls)
    return {name: space.check(entry["arch"]) for name, entry in entries.items()}


def rehearse(
    run: Shadow,
    archs: Mapping[str, Arch],
    settings: Settings,
    *,
    device: str | None,
    kernels: Wish,
    executor: Executor,
    workers: int,
    data_root: Path | None,
) -> tuple[list[Stage], int]:
    """Take the first steps of each network, as many at once as there will be. Arguments as in ``retraining.train``.

    Returns:
        What is done once, and the trainings; bytes of the decoded validation images.
    """
    where = defaults.device(device)
    once = Rehearsal(run.images(data_root, settings.limit, workers), where)
    works = retraining.train(
        run,
        archs,
        settings,
        device=device,
        kernels=kernels,
        executor=executor,
        workers=workers,
        data_root=data_root,
        one=rehearse_one,
    )
    executor = executors.for_device(executor, where) if distributed.world() == 1 else Processes()
    at_once, here = min(executor.at_once, len(archs)), once.work()
    trainings = Stage(tuple(works.values()), at_once, here.resident if at_once > 1 else 0)
    return [Stage((here,)), trainings], once.file_bytes


def rehearse_one(job: Job, progress: Progress = silent) -> Work:
    """The parts of one network. Its test counts as a validation more: the images for it are opened by who trains."""
    rehearsal = Rehearsal(job.run.images(job.data_root, job.settings.limit, job.workers), torch.device(job.device))
    network, _ = retraining.train_alone(job, rehearsal.images, drive=rehearsal.training("retraining"))
    passes, batch = 1 if job.settings.epochs else 2, job.settings.fit.validation_batch  # untrained, it is validated
    seconds = rehearsal.seconds(lambda: validate(network, rehearsal.images.val, batch=batch))
    rehearsal.add("testing", passes, "times", seconds)
    return rehearsal.work()
