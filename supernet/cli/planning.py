"""The option --plan: what a command will take, told before it is begun."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from supernet.cli import common
from supernet.errors import UserError
from supernet.training.plan import Plan, Stage

if TYPE_CHECKING:
    import torch

    from supernet.data.sets import TrainVal
    from supernet.executor import Executor
    from supernet.retraining import Settings
    from supernet.space import Arch
    from supernet.training.rehearsal import Rehearsal, Shadow


@dataclass(frozen=True)
class Planned:
    """Options of commands that can say what they will take."""

    topic: ClassVar[str] = "run_folder"
    plan: bool = False
    """Measure a few steps, tell hours, memory, disk and energy of the whole job, and stop; the run stays as it is."""


class Planning:
    """A plan in the making.

    Attributes:
        folder: a copy of the run folder, to try the work in. stages: what was measured.
        file_bytes: of files that the job will write whole and the copy has in part.
    """

    def __init__(self, folder: Shadow):
        self.folder, self.stages, self.file_bytes = folder, list[Stage](), 0

    def rehearsal(self, images: TrainVal, device: torch.device) -> Rehearsal:
        """Measures what this process does."""
        from supernet.training.rehearsal import Rehearsal

        return Rehearsal(self.folder.decoded(images), device)

    def add(self, rehearsal: Rehearsal) -> None:
        """What was measured."""
        self.stages.append(Stage((rehearsal.work(),)))
        self.file_bytes += rehearsal.file_bytes

    def retrain(
        self, folder: Shadow, archs: Mapping[str, Arch], settings: Settings, args: Any, executor: Executor
    ) -> None:
        """Networks to be trained alone, in ``folder``."""
        from supernet import rehearsed

        options = {name: getattr(args, name) for name in ("device", "kernels", "workers", "data_root")}
        stages, file_bytes = rehearsed.rehearse(folder, archs, settings, executor=executor, **options)
        self.stages += stages
        self.file_bytes += file_bytes


@contextlib.contextmanager
def planning(args: Any) -> Iterator[Planning]:
    """Tells what was measured inside."""
    from supernet.training import distributed, energy, rehearsal

    if getattr(args, "workers_on", "local") == "ray":
        raise UserError("--plan measures on this machine alone: leave --workers-on ray out")
    restart, run = getattr(args, "restart", False), common.open_run(args)
    before = 0 if restart else rehearsal.folder_size(run.path)
    with rehearsal.shadow(run, restart) as folder:
        making = Planning(folder)
        with energy.power() as spent:
            yield making
        disk = max(0, rehearsal.folder_size(folder.path) + making.file_bytes - before)
        at_once = max((stage.at_once for stage in making.stages), default=1)
        disk += at_once * rehearsal.largest_checkpoint(folder.path)  # a file is replaced by one that is whole
    if distributed.rank() > 0:
        return
    plan = Plan(tuple(making.stages), disk, spent.get("watts"), distributed.world())
    common.show(plan.table(f"plan of what is left to do in {args.run}"))
    common.answer(args, plan.to_json())
    if plan.watts is None:
        common.tell("energy is told where codecarbon is installed: pip install 'supernet[carbon]'")
