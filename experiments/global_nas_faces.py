"""Efficient Global NAS for face recognition: found networks beside AdaFace's ResNet on benchmarks (Tables 6 and 7).

Without --faces the people are drawn here, as faces cannot be had: that shows that everything runs, not what is true of
faces. Hypothesis, written down before the run: the found network is no less accurate than the ResNet with fewer
parameters. Both are trained by AdaFace's recipe, with several seeds. Every finished training is kept in RUN: the same
command continues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import _common, _faces, _plain, _report
from search import face_run
from search.drawing import draw_on
from supernet import families, machine
from supernet.data import benchmarks, faces
from supernet.errors import UserError
from supernet.families import ir_resnet
from supernet.runs import RunFolder
from supernet.space import Arch, Space
from supernet.training import defaults

REFERENCES = {"r-18": (2, 2, 2, 2), "r-50": (3, 4, 14, 3)}  # blocks of each stage
ARMS = ("found", "reference")


@dataclass(frozen=True)
class Args(_common.OnDevice):
    run: Path = Path("runs/experiment-global-nas-faces")
    """Folder of the trainings and of what is drawn."""
    output: Path = Path("docs/results/global_nas_faces.json")
    """Results."""
    faces: Path | None = None
    """Directory with one folder of aligned images for each identity; without one, people are drawn."""
    benchmarks: tuple[Path, ...] = ()
    """What is tested on, as face_nas.py takes it; needed with --faces."""
    people: int = 60
    """People that are drawn to train on, ten pictures of each."""
    resolution: int = 32
    """Height and width in pixels (the paper: 112)."""
    depth: tuple[int, int] = (12, 16)
    """Fewest and most layers, even (the paper: 10 to 100)."""
    width: tuple[int, int] = (4, 8)
    """Fewest and most channels of the first stage (the paper: 16 to 32, for medium networks to 64)."""
    epochs: int = 4
    """Epochs of the first candidate (the paper: 10)."""
    reference: Literal["r-18", "r-50"] = "r-18"
    """AdaFace's network, for the paper's small and medium ones."""
    reference_width: int = 16
    """Channels of its first stage (the paper: 64)."""
    final_epochs: int = 26
    """Epochs of both, as AdaFace."""
    batch_size: int = 32
    """Images per step of the search (the paper: 64)."""
    final_batch_size: int = 32
    """Images per step at last (AdaFace: 512)."""
    final_lr: float = 0.1
    """Peak learning rate at last, as AdaFace's."""
    seeds: int = 3
    """Searches, and trainings of the reference."""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""
    quiet: bool = False
    """No progress."""


def run(args: Args) -> None:
    if args.quick:
        tiny = {"people": 12, "resolution": 16, "depth": (12, 12), "width": (2, 4), "epochs": 1, "final_epochs": 1}
        args = dataclasses.replace(args, **tiny, reference_width=4, seeds=2)
    if (args.faces is None) != (not args.benchmarks):
        raise UserError("expected --faces with --benchmarks, or neither")
    settings = _common.identity(args, "faces", "benchmarks", "seeds", "jobs", "quiet", "quick")
    defaults.device(args.device)
    if args.faces is not None:  # what cannot be is refused before anything is written
        benchmarks.open_all(args.benchmarks, args.resolution)
        faces.open_train(args.faces, None, args.resolution)
    images = "drawn people" if args.faces is None else args.faces.name
    RunFolder(args.run).begin({**settings, "images": images})
    if args.faces is None:
        root, tests = _faces.write(args.run / "drawn", args.people)
        args = dataclasses.replace(args, faces=root, benchmarks=tests)
    clock = _common.Clock(args.run, "global_nas_faces")
    jobs = {f"{arm}-{seed}": (arm, seed) for seed in range(args.seeds) for arm in ARMS}
    found = _plain.all_of(args, one, jobs, "networks")
    rows = {arm: [found[f"{arm}-{seed}"] for seed in range(args.seeds)] for arm in ARMS}
    told = dataclasses.replace(args, benchmarks=())
    write(args, _common.results("global_nas_faces", told, clock, images=images, **rows))


def one(args: Args, name: str, job: tuple[str, int]) -> dict[str, Any]:
    """One search with its final training, or one training of the reference; what the benchmarks say."""
    arm, seed = job
    folder, device = _plain.begun(args, name)
    assert args.faces is not None
    opened = faces.open_train(args.faces, None, args.resolution, workers=args.decoders)
    tests = benchmarks.open_all(args.benchmarks, args.resolution)
    training = face_run.training(args.batch_size, 0.025, seed)
    face = face_run.FaceRun(folder, args.faces, None, opened, training, device, benchmarks=tests)
    search: dict[str, Any] = {}
    if arm == "found":
        controller = face_run.controller(args.depth, args.width, args.epochs, args.resolution)
        space, arch = face_run.network(face.search(controller), args.resolution)
        search = {"trained": len(controller.records)}
    else:
        space, arch = reference(args)
    cfg = face_run.adaface(args.final_epochs, args.final_batch_size, args.final_lr, len(opened.train), seed)
    result = face.final(space, arch, cfg, folder.final(args.final_epochs, "-adaface-all"), train_all=True)
    identities = len(opened.whole().identities)
    return {
        **search,
        "name": space.name,
        "stages": stages(space),
        "width": space.stem_channels,
        "params": families.params(space, arch),
        "classifier": identities * space.head_channels,
        "flops": families.flops(space, arch),
        "benchmarks": result["benchmarks"],
    }


def reference(args: Args) -> tuple[Space, Arch]:
    """AdaFace's ResNet."""
    blocks = REFERENCES[args.reference]
    space = ir_resnet.space(blocks, args.reference_width, 3, args.resolution)
    return space, (0,) * len(space.genes)


def stages(space: Space) -> list[int]:
    """Blocks of each stage."""
    return [sum(gene.name.startswith(f"stage{stage}.") for gene in space.genes) for stage in range(4)]


# --- what came out


def write(args: Args, result: dict[str, Any]) -> None:
    """The results, their tables, and the first found network beside the reference (Figure 2)."""
    rows = {}
    for arm in reversed(ARMS):
        row, settings = result[arm][0], result["settings"]
        space = ir_resnet.space(row["stages"], row["width"], 3, settings["resolution"])
        rows[f"{arm}\n{row['name']}"] = face_run.drawn(space, (0,) * len(space.genes))
    _report.report(args.output, result, tables(result), lambda figure, _: draw_on(figure, rows), (10.0, 4.0))


def tables(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    sizes = {
        arm: {
            "network": ", ".join(dict.fromkeys(row["name"] for row in result[arm])),
            "k parameters": _report.mean_sd([row["params"] for row in result[arm]], 1e-3),
            "with the classifier": _report.mean_sd([row["params"] + row["classifier"] for row in result[arm]], 1e-3),
            "M multiply-adds": _report.mean_sd([row["flops"] for row in result[arm]], 1e-6),
        }
        for arm in ARMS
    }
    compared = {
        name: {
            **{arm: _report.mean_sd(values[arm]) for arm in ARMS},
            "found minus reference": _report.paired(values["found"], values["reference"]),
        }
        for name, values in figures(result).items()
    }
    return {"networks": sizes, "benchmarks, %": compared}


def figures(result: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Every number of every benchmark in per cent: of each arm by seed. Of 1:1 accuracies there is a mean, too."""
    found: dict[str, dict[str, list[float]]] = {}
    for arm in ARMS:
        for row in result[arm]:
            numbers = numbers_of(row["benchmarks"])
            for name, value in numbers.items():
                found.setdefault(name, {}).setdefault(arm, []).append(value)
    return found


def numbers_of(tests: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Table 6's accuracies and their mean; Table 7's TAR and ranks."""
    pairs = {name: 100 * row["accuracy"] for name, row in tests.items() if "accuracy" in row}
    told = {f"{name}, 1:1 accuracy": value for name, value in pairs.items()}
    if len(pairs) > 1:
        told["mean of 1:1 accuracies"] = float(np.mean(list(pairs.values())))
    for name, row in tests.items():
        if "accuracy" not in row:
            told |= {f"{name}, TAR at FAR {float(far):g}": 100 * v for far, v in row.get("tar_at_far", {}).items()}
            told |= {f"{name}, rank-{k}": 100 * share for k, share in row.get("rank", {}).items()}
    return told


if __name__ == "__main__":
    _common.main(run, Args, write)
