"""Efficient Global NAS for faces: depth and width of an IR-ResNet that tells whether two pictures show one person."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from supernet.cli import common, opening, report, starting
from supernet.errors import UserError
from supernet.quantities import several

if TYPE_CHECKING:
    from supernet.data.faces import Faces
    from supernet.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Options of the faces."""

    topic: ClassVar[str] = "image"
    faces: Path
    """Directory with one folder of aligned images for each identity."""
    pairs: Annotated[Path | None, common.UNSET] = None
    """Pairs file of the test, in LFW's format, of images in the same directory; identities in it are not trained on."""
    benchmarks: Annotated[tuple[Path, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Tests with images of their own: insightface's .bin files, or directories with pairs.txt, templates as of IJB, or
    a gallery as of TinyFace (docs/images.md)."""
    resolution: int = 112
    """Height and width in pixels that images are scaled to."""


@dataclass(frozen=True)
class Search:
    """Options of what is searched."""

    topic: ClassVar[str] = "search"
    depth: tuple[int, int] = (12, 100)
    """Fewest and most layers; even, since a block has two."""
    width: Annotated[tuple[int, int] | None, common.UNSET] = None
    """Fewest and most channels of the first stage; defaults to the preset's."""


@dataclass(frozen=True)
class Training:
    """Options of how candidates are trained."""

    topic: ClassVar[str] = "training"
    epochs: int = 10
    """Epochs of the first candidate; each further block adds 1, each step of width 2."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 0.025
    """Peak learning rate."""
    decay: Annotated[Literal["all", "weights"] | None, common.UNSET] = None
    """What weight decay of candidates is of: all, as on images, by 3e-4; or kernels and matrices, by 5e-4, as version
    0.1 had it; defaults to all, for runs of version 0.1 to what they have."""


@dataclass(frozen=True)
class Final:
    """Options of how the found network is trained."""

    topic: ClassVar[str] = "final_training"
    final_epochs: int = 26
    """Epochs of the found network; 0 leaves its training out."""
    final_recipe: Literal["adaface", "search"] = "adaface"
    """How the found network is trained: as AdaFace trains, or as the candidates."""
    final_batch_size: Annotated[int | None, common.UNSET] = None
    """Images per step of AdaFace's recipe; defaults to its 512, fewer where there are less than 5,120 images."""
    final_lr: Annotated[float | None, common.UNSET] = None
    """Peak learning rate of AdaFace's recipe; defaults to its 0.1 for 512 images, in proportion for others."""
    train_all: bool = False
    """Train the found network on the identities that validate the search, too, as the paper does."""


@dataclass(frozen=True)
class Bounds(common.Bounds):
    """Options of what candidates may cost."""

    topic: ClassVar[str] = "bound"
    params_max: float = math.inf
    """Bound on the parameters of candidates, without the margin head."""
    latency_max: float = math.inf
    """Bound on the predicted latency in ms on this machine: layers are measured as they come up."""


@dataclass(frozen=True, kw_only=True)
class Args(
    Bounds, Final, Training, Search, Pictures, common.Kernels, common.Computing, common.Decoding, common.Beginning
):
    run: common.Folder = Path("runs/face-nas")
    preset: Literal["small", "medium"] = "small"
    """Width up to 32 or up to 64 channels (§4.2)."""


def run(args: Args) -> None:
    from latency.on_demand import OnDemandTable
    from search import face_run, greedy_run, verification
    from supernet.data.benchmarks import open_all
    from supernet.training import defaults

    device = defaults.device(args.device)
    if args.final_epochs < 0:
        raise UserError(f"--final-epochs {args.final_epochs}: expected at least 0")
    if args.final_epochs and args.pairs is None and not args.benchmarks:
        raise UserError("nothing to test the found network on: expected --pairs or --benchmarks, or --final-epochs 0")
    folder = common.open_run(args)
    decay = args.decay or greedy_run.usual_decay(common.begun(args, folder))
    tests = open_all(args.benchmarks, args.resolution, args.workers)
    opened = open_faces(args, folder)
    opened.train.steps(args.batch_size, drop_last=True)
    width = args.width or face_run.WIDTHS[args.preset]
    bounds = args.depth, width, args.epochs, args.resolution, args.flops_max, args.params_max
    controller = face_run.controller(*bounds)  # refuses impossible bounds before anything is written
    free = ("kernels", "benchmarks", "final_epochs", "final_recipe", "final_batch_size", "final_lr", "train_all")
    settings = {**common.settings(args, *free), "width": width, "decay": decay}
    training = face_run.training(args.batch_size, args.lr, args.seed, decay)
    final = training.fit(args.final_epochs)
    if args.final_recipe == "adaface":
        how = args.final_epochs, args.final_batch_size, args.final_lr, len(opened.train), args.seed
        final = face_run.adaface(*how)
    opened.train.steps(final.batch_size, drop_last=True)
    told = args.progress, common.tell
    job = face_run.FaceRun(folder, args.faces, args.pairs, opened, training, device, *told, args.kernels, tests)
    older = {**common.defaults(args), "decay": greedy_run.OLDER_DECAY}
    with folder.lock():
        if folder.begin(settings, restart=args.restart, defaults=older):
            folder.write_images(opened.split, opened.train.damaged.known)
        opened.train.damaged.path = folder.damaged_path
        common.say(
            f"{args.depth[0]} to {args.depth[1]} layers (L), {width[0]} to {width[1]} channels (C): "
            f"{several(len(opened.train), 'training image')} of "
            f"{several(len(opened.identities), 'identity', 'identities')}, "
            f"{several(len(opened.pairs), 'validation pair')} of others; {common.escape(str(args.run))}"
        )
        if math.isfinite(args.latency_max):
            corners = face_run.corners(args.depth[0], width, args.resolution)
            table = OnDemandTable(folder.lut_path, corners, args.progress)
            controller = face_run.controller(*bounds, args.latency_max, table.latency)
        found = job.search(controller)
        common.tell(f"{job.describe(controller, found)} → {folder.arch_path}, {folder.network_picture}")
        kind = {"adaface": "-adaface", "search": ""}[args.final_recipe] + ("-all" if args.train_all else "")
        last = folder.final(args.final_epochs, kind)
        if args.final_epochs:
            of = face_run.network(found, args.resolution)
            result = job.final(*of, final, last, args.final_recipe, args.train_all)
            results = {**({"test": result} if args.pairs else {}), **result["benchmarks"]}
            for name, row in results.items():
                common.tell(f"{name}: {verification.describe(row)} → {last.path}")
    if args.final_epochs:
        common.next_command("export", args, after=("--pick", last.headless.path.relative_to(folder.path)))
    else:
        common.next_command("build_lut", args, note="its latency; --final-epochs trains it")
    common.answer(args, last.result_path if args.final_epochs else folder.arch_path)


def open_faces(args: Args, folder: RunFolder) -> Faces:
    """The faces of a run; a new one reads every file once."""
    from supernet.data import faces
    from supernet.data.damaged import Damaged

    begun = common.begun(args, folder)
    given: dict[str, Any] = {"seed": args.seed, "workers": args.workers, "damaged": Damaged(args.damaged == "skip")}
    given |= {name: value for name, value in folder.opening().items() if name != "old"} if begun else {}
    opened = faces.open_train(args.faces, args.pairs, args.resolution, **given)
    for note in opened.notes:
        common.warn(note)
    if begun:
        return opened
    tested = faces.open_test(args.faces, args.pairs) if args.pairs else ()
    paths = {name for pair in (*opened.pairs, *tested) for name in pair[:2]}
    others = faces.images(args.faces, {"": sorted(paths)}, args.resolution, args.workers)
    errors = opening.found_damaged((opened.train, others), args)
    given["damaged"].known |= errors
    return faces.open_train(args.faces, args.pairs, args.resolution, **given) if errors else opened


main = starting.entry(run, Args, after=report.leave_page)
