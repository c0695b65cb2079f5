"""Efficient Global NAS for face verification: depth and width of an IR-ResNet by 1:1 accuracy, then its training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from supernet.cli import common, opening
from supernet.errors import UserError

if TYPE_CHECKING:
    from supernet.data.faces import Faces
    from supernet.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Args(common.Bounds, common.Kernels, common.Computing, common.Decoding, common.Beginning):
    faces: Path
    """Directory with one folder of aligned images for each identity."""
    pairs: Path
    """Pairs file of the test, in LFW's format; identities in it are not trained on."""
    run: common.Folder = Path("runs/face-nas")
    preset: Literal["small", "medium"] = "small"
    """Width up to 32 or up to 64 channels (§4.2)."""
    depth: tuple[int, int] = (12, 100)
    """Fewest and most layers; even, since a block has two."""
    width: Annotated[tuple[int, int] | None, common.UNSET] = None
    """Fewest and most channels of the first stage; defaults to the preset's."""
    epochs: int = 10
    """Epochs of the first candidate; each further block adds 1, each step of width 2."""
    params_max: float = math.inf
    """Bound on the parameters of candidates, without the margin head."""
    final_epochs: int = 26
    """Epochs of the found network; 0 leaves its training out."""
    resolution: int = 112
    """Height and width in pixels that images are scaled to."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 0.025
    """Peak learning rate."""


def run(args: Args) -> None:
    from search import face_run, verification
    from supernet.training import defaults

    device = defaults.device(args.device)
    if args.final_epochs < 0:
        raise UserError(f"--final-epochs {args.final_epochs}: expected at least 0")
    folder = common.open_run(args)
    opened = open_faces(args, folder)
    opened.train.steps(args.batch_size, drop_last=True)
    width = args.width or face_run.WIDTHS[args.preset]
    controller = face_run.controller(
        args.depth, width, args.epochs, args.resolution, flops_max=args.flops_max, params_max=args.params_max
    )
    settings = {**common.settings(args, "kernels", "final_epochs"), "width": width}
    training = face_run.training(args.batch_size, args.lr, args.seed)
    told = args.progress, common.tell
    job = face_run.FaceRun(folder, args.faces, args.pairs, opened, training, device, *told, args.kernels)
    with folder.lock():
        if folder.begin(settings, restart=args.restart, defaults=common.defaults(args)):
            folder.write_images(opened.split, opened.train.damaged.known)
        opened.train.damaged.path = folder.damaged_path
        common.say(
            f"{args.depth[0]} to {args.depth[1]} layers, {width[0]} to {width[1]} channels: {len(opened.train):,} "
            f"training images of {len(opened.identities):,} identities, {len(opened.pairs)} validation pairs of "
            f"others; {common.escape(str(args.run))}"
        )
        found = job.search(controller)
        common.tell(job.describe(controller, found))
        if args.final_epochs:
            tested = verification.describe(job.final(found, args.final_epochs))
            common.tell(f"test: {tested} → {folder.final(args.final_epochs).path}")
    if args.final_epochs:
        network = folder.final(args.final_epochs).headless.path.relative_to(folder.path)
        common.next_command("export", args, after=("--pick", network))
    else:
        common.next_command("build_lut", args, note="its latency; --final-epochs trains it")


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
    paths = {name for pair in (*opened.pairs, *faces.open_test(args.faces, args.pairs)) for name in pair[:2]}
    others = faces.images(args.faces, {"": sorted(paths)}, args.resolution, args.workers)
    errors = opening.found_damaged((opened.train, others), args)
    given["damaged"].known |= errors
    return faces.open_train(args.faces, args.pairs, args.resolution, **given) if errors else opened


main = common.entry(run, Args, page=True)
