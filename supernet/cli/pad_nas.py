"""PAD-NAS: train a supernet, search it, prune the operations that good networks do without, fine-tune, and again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from supernet import machine
from supernet.cli import common, opening, planning, report, retrain, searching, starting
from supernet.errors import UserError
from supernet.quantities import count, several

if TYPE_CHECKING:
    import torch

    from search.pad_nas import Config
    from supernet.data.sets import TrainVal
    from supernet.space import Space

CONTROLS = 4  # random architectures that are trained beside the best at the end


@dataclass(frozen=True)
class Args(planning.Planned, common.Kernels, opening.Balance, opening.Images, searching.SearchArgs):
    run: common.Folder = Path("runs/pad_nas")
    """Run folder; the same command continues a run that was stopped."""
    space: str = "basic"
    """basic, large or v3, the paper's operation sets; or another space: a name, a .json, or FILE.py:function."""
    epochs: tuple[int, ...] = (12, 8, 4)
    """Epochs of the first supernet, then of each fine-tuning (the paper: 120 80 40)."""
    batch_size: int = 64
    """Images per step (the paper: 1024)."""
    lr: Annotated[float | None, common.UNSET] = None
    """Peak learning rate, a fifth of it in fine-tuning; defaults to 0.2 · sqrt(batch size / 64), at most 0.5."""
    threshold: Annotated[float | None, common.UNSET] = None
    """Operations of at most this probability are removed; defaults to the paper's 1 % where 2,560 architectures are
    scored as there, to more where fewer are."""
    sure: float = 0.0
    """Keep what cannot be told apart: an operation goes only if it is rare in this share of the fronts that accuracies
    drawn again give, such as 0.95; 0 is the paper's rule."""
    retrain: int = 0
    """Epochs to train the best network of the last front alone, at the end; 0 leaves that to retrain.py."""
    seed: int = 0
    """Random seed of the split, the weights, the augmentation and the searches."""
    workers: int = machine.cores()
    """Threads that score in parallel, on the CPU, and processes that decode files; defaults to the usable cores."""


def run(args: Args) -> None:
    from latency import build
    from latency.table import LatencyTable
    from search import pad_nas
    from search.ces import CES, CESConfig
    from search.spread import calibration_archs
    from supernet.executor import Processes
    from supernet.retraining import Settings
    from supernet.training import defaults
    from supernet.training.loop import FitConfig

    if args.retrain < 0:
        raise UserError(f"--retrain {args.retrain}: expected a number of epochs, or 0")
    args = dataclasses.replace(args, objectives=args.wanted)  # recorded in full
    device = defaults.device(args.device)
    name, reason, images = opening.open_images(args)
    images.train.steps(args.batch_size, drop_last=True)
    space = pad_nas.space_for(args.space, images)
    lr = defaults.learning_rate(args.batch_size, args.lr)
    ces, threshold = args.budget(CESConfig), args.threshold
    if threshold is None:  # a run of 0.1 goes on with the one that it has
        begun = common.begun(args, common.open_run(args)).get("threshold")
        threshold = pad_nas.usual_threshold(ces.evaluations) if begun is None else begun
        args = dataclasses.replace(args, threshold=threshold)
    augment = defaults.augments(None, max(args.epochs, default=0))
    cfg = pad_nas.Config(
        FitConfig(max(args.epochs, default=1), args.batch_size, lr, seed=args.seed, augment=augment),
        args.epochs,
        lr,
        fine_tune_lr=lr / 5,
        threshold=threshold,
        ces=ces,
        sure=args.sure,
        scoring=args.scoring,
        random=args.random,
        kernels=defaults.kernels(device, args.wish(args.kernels)),
    )
    settings = {
        "data": name,
        "seed": args.seed,
        "resolution": args.resolution and args.resolution.plain,
        "limit": args.limit,
    }
    settings |= {"batch_size": args.batch_size, "lr": lr, "augment": augment, "data_root": str(args.data_root)}
    settings["balance"] = args.balance
    of_stage = {**settings, "kernels": cfg.kernels, "made_with": {"data": images.identity, "device": device.type}}
    args = dataclasses.replace(args, data=name)
    folder, config = common.open_run(args), common.settings(args, "kernels", "retrain") | settings
    config |= {"space": space.name, "fingerprint": space.fingerprint}
    config["lut"] = [LatencyTable.load(path).identity for path in args.lut]
    if folder.config_path.exists():
        folder.require_settings(config, defaults=common.defaults(args))
    if args.plan:
        plan(args, cfg, space, images, device, of_stage)
        return
    with folder.lock():
        # All that can be wrong is found before any training: the table, its layers, the window.
        if "latency" in args.wanted and not args.lut and not folder.lut_path.exists():
            archs = calibration_archs(space, build.FIT_ARCHS, 8, seed=0)
            build.write_default(space, archs, folder.lut_path, args.progress, common.warn)
        problem = searching.problem(args, folder.lut_path, space)
        asked = (problem.costs, problem.bounds, problem.objectives)
        CES(space, *asked, cfg.ces)
        made_with = defaults.record(device)
        folder.begin(config, space=space, images=images, defaults=common.defaults(args), made_with=made_with)
        common.say(
            f"[bold]{common.escape(space.name)}[/bold]: {several(len(args.epochs), 'supernet')}, the first of "
            f"{several(space.size, 'architecture', form=count)}; {opening.in_words(images, name, reason)}; "
            f"{common.escape(str(args.run))}"
        )
        stages = []
        images = folder.decoded(images, args.progress)  # opened once, for all supernets
        for stage in pad_nas.run(space, images, cfg, *asked, folder.path, device, of_stage, args.progress):
            if problem.luts:
                stage.found.folder.write_lut(problem.luts["latency"].to_json())
            sizes = f"{several(stage.space.size, 'architecture', form=count)}, pruned to {count(stage.pruned.size)}"
            common.say(f"[bold]{stage.folder.name}[/bold]: {sizes} → {common.escape(str(stage.picture))}")
            searching.write(stage.found, stage.random, problem.luts)
            stages.append(stage)
    common.show(pad_nas.table(stages))
    last = dataclasses.replace(args, run=stages[-1].folder)
    if args.retrain:
        settings_alone = Settings(args.retrain, args.batch_size, limit=args.limit)
        retrain.train(
            common.open_run(last), settings_alone, "best", CONTROLS, args, args.ray_or(Processes(args.workers))
        )
        common.next_command("report", last)
    else:
        common.next_command("retrain", last, "--pick", "best")
    common.answer(args, [json.loads((stage.folder / "stage.json").read_text()) for stage in stages])


def plan(args: Args, cfg: Config, space: Space, images: TrainVal, device: torch.device, of_stage: dict) -> None:
    """Tell what the whole of it will take."""
    from search import pad_nas_plan
    from supernet import rehearsed
    from supernet.executor import Processes
    from supernet.retraining import Settings

    with planning.planning(args) as making:
        if "latency" in args.wanted and not args.lut and not making.folder.lut_path.exists():
            common.tell("without --lut the job measures a latency table first, which the plan leaves out")
            args = dataclasses.replace(args, objectives=("flops",), lat_max=(), lat_min=())
        problem = searching.problem(args, making.folder.lut_path, space)
        rehearsal = making.rehearsal(images, device)
        asked = (problem.costs, problem.bounds, problem.objectives)
        random = pad_nas_plan.rehearse(space, cfg, *asked, making.folder, device, of_stage, rehearsal, 1 + CONTROLS)
        making.add(rehearsal)
        if args.retrain:
            last = making.folder.within(f"supernet-{len(args.epochs)}")
            names = ["best", *(f"random-{i}" for i in range(CONTROLS))]
            ended = last.front_path.exists()
            archs = rehearsed.picked(last, "best", CONTROLS) if ended else dict(zip(names, random, strict=False))
            settings = Settings(args.retrain, args.batch_size, limit=args.limit)
            making.retrain(last, archs, settings, args, Processes(args.workers))


main = starting.entry(run, Args, after=report.leave_page)
