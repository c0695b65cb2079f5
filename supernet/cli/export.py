"""Write a found network as a file: .pt2 (torch.export), .onnx, .tflite, .pte (ExecuTorch), .xml (OpenVINO),
.mlpackage (CoreML), or code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from supernet.cli import common, starting
from supernet.errors import UserError
from supernet.metrics import TOP1
from supernet.progress import shown
from supernet.quantities import digits, several
from supernet.run_files import INT8

if TYPE_CHECKING:
    from latency.table import LatencyTable


@dataclass(frozen=True)
class Quantising:
    """Options of files on 8-bit values."""

    topic: ClassVar[str] = "int8"
    int8: bool = False
    """Quantise to 8 bits by the tools of the runtime, and run the file there on the validation images."""
    calibration: int = 256
    """With --int8: training images that the ranges of activations are taken from."""
    max_drop: float = 1.0
    """With --int8: write the file only if it loses at most so many points in validation, of the network's metric."""
    mixed: bool = False
    """With --int8: keep the layers that hurt most as floats, as few as needed."""
    tested: bool = True
    """With --int8: run the file on the test images, too, once it is decided; its card has that accuracy."""


@dataclass(frozen=True)
class Args(Quantising, common.Answering, common.Decoding, common.OnRun):
    output: Annotated[Path | None, common.UNSET] = None
    """Output file; its suffix is the format: .pt2, .onnx, .tflite, .pte, .xml, .mlpackage or .py. Defaults to
    RUN/PICK.onnx."""
    pick: str = "best"
    """Network that retrain.py trained: the name of its folder in RUN."""
    arch: Annotated[tuple[int, ...] | None, common.UNSET] = None
    """An architecture instead, with the supernet's weights; BN is recalibrated as in the search."""
    lut: Annotated[Path | None, common.UNSET] = None
    """Latency table that tells what the file will take; defaults to RUN/lut.json."""
    arch_config: Annotated[Path | None, common.UNSET] = None
    """The same, of the architecture in this JSON file or of this name, as count.py takes it."""
    batch: int = 1
    """Batch size; the file takes no other."""
    dynamic_batch: bool = False
    """The file takes any number of images: .onnx, .xml, .pt2 and .py."""
    with_preprocessing: bool = False
    """The file takes uint8 pixels, channels_last and of its size, and gives probabilities."""
    opset: Annotated[int | None, common.UNSET] = None
    """Opset of an .onnx file, from 13 on; defaults to 18."""
    hub_folder: Annotated[Path | None, common.UNSET] = None
    """Folder for config.json and model.safetensors, which timm loads: by local-dir:DIR, or from the hub."""
    recalibration: tuple[int, int] = (8, 128)
    """With --arch or --arch-config: batches and images per batch for recalibrating BN."""
    timed: bool = True
    """Measure the file where the table's runtime executes it."""
    profile: bool = False
    """Show the slowest operators of the file, by the profiler of its runtime: onnxruntime or executorch."""


def run(args: Args) -> None:
    from latency import agent, profile, runtimes
    from latency.table import LatencyTable
    from supernet import configurations
    from supernet.export import companions, formats, hub, int8, networks
    from supernet.export.base import Options

    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: expected at least 1")
    folder = args.folder
    space = folder.space()
    arch = args.arch if args.arch_config is None else configurations.read(space, args.arch_config)
    path = args.output or args.run / f"{'supernet' if arch else args.pick}.onnx"
    options = Options(args.dynamic_batch, args.opset)
    formats.able(path, options)  # refuses before anything is loaded, as the next ones do
    if args.hub_folder:
        hub.require(args.hub_folder, space)
        if args.hub_folder.resolve() == path.parent.resolve():
            raise UserError(f"{args.hub_folder} is the folder of {path.name}, with its README.md: give another one")
    metric, reference = (TOP1, None) if arch else networks.judged(folder, args.pick.removesuffix(INT8))
    reference = reference if args.pick.endswith(INT8) else None
    settings = int8.Settings(args.calibration, args.max_drop, args.mixed, metric, reference)
    if args.int8:
        int8.of(path)
        if args.dynamic_batch or args.with_preprocessing or args.opset:
            raise UserError("--int8: expected it without --dynamic-batch, --with-preprocessing and --opset")
    elif (args.calibration, args.max_drop, args.mixed) != (Args.calibration, Args.max_drop, Args.mixed):
        raise UserError("--calibration, --max-drop and --mixed are about int8 networks: give them with --int8")
    table = LatencyTable.load(args.lut, space) if args.lut else LatencyTable.find(folder.lut_path, space)
    plain = not (args.dynamic_batch or args.with_preprocessing)
    lut = usable(table, path, args.int8, args.batch, plain)
    able = runtimes.that_execute(path) or [path.name]
    runtime = lut.runtime["name"] if lut and lut.runtime["name"] in able else able[0]
    if args.profile:
        profile.profiler(runtime)
    with folder.lock(path):
        if arch:
            how = (arch, args.recalibration, args.data_root, args.workers)
            found = networks.from_supernet(folder, space, *how)
        else:
            found = networks.trained(folder, space, args.pick)
        promised = lut.predict_arch(space, found.arch) if lut else None
        images = networks.images_of(folder, args.data_root)
        card = networks.card(folder, space, found, images, promised, lut.named() if lut else None)
        card = replace(card, batch=args.batch, pixels=args.with_preprocessing)
        if args.int8:
            data = folder.images(args.data_root, workers=args.workers)
            # Only what was trained and judged by itself is tested, as retrain.py does it.
            test = folder.test_images(args.data_root, args.workers) if args.tested and not arch else None
            told = networks.write_int8(found, path, card, data, settings, shown(True), test).describe()
            told += f"; {formats.read_card(path).accuracy.told}" if test is not None else ""
        else:
            difference = networks.write(found, path, card, options)
            told = f"not compared with PyTorch: {formats.of(path).absent()}"
            if difference is not None:
                told = f"logits within {difference:.1e} of the largest (tolerance {formats.TOLERANCE:g})"
        theirs = companions.write(path, formats.read_card(path))
        if args.hub_folder:
            hub.write(args.hub_folder, found.network, card)
    weights = formats.of(path).weights
    beside = f", {(file := path.with_suffix(weights)).name}: {megabytes(file)}" if weights else ""
    common.tell(f"{path}: {megabytes(path)}{beside}, {told}")
    card = formats.read_card(path)
    known = "what it is, and how pictures are prepared for it: {}; deploy.py runs it"
    common.tell((known if companions.runs_alone(card) else "what it is: {}").format(f"{path.name}.json, README.md"))
    for file in theirs:
        common.warn(f"{file} is somebody's and stays: none was written for {path.name}")
    if args.timed and lut and promised and runtime == lut.runtime["name"] in agent.LOADERS:
        timed(path, lut, promised)
    if args.profile:
        operators = profile.profile(runtime, path.read_bytes(), lut.threads if lut else 1)
        common.show(profile.table(operators, runtime))
    common.answer(args, card.to_json())


def megabytes(path: Path) -> str:
    """The size of a file, or of a folder's files."""
    return f"{sum(part.stat().st_size for part in (path, *path.rglob('*')) if part.is_file()) / 1e6:.1f} MB"


def timed(path: Path, lut: LatencyTable, promised: float) -> None:
    """What the file takes here, beside what was promised; or why that is not known."""
    from latency import runtimes

    try:
        sample = runtimes.measure_file(path, lut)
    except UserError as error:
        common.warn(f"not timed: {error}")
        return
    noisy = " (noisy)" if sample.noisy else ""
    common.say(
        f"{lut.runtime['name']} takes {digits(sample.median_ms, 4)} ms here{noisy}, the table promised "
        f"{digits(promised, 4)} ms on {lut.device['cpu']} ({100 * (promised / sample.median_ms - 1):+.1f} %)"
    )


def usable(lut: LatencyTable | None, path: Path, int8: bool, batch: int, plain: bool = True) -> LatencyTable | None:
    """The table if it is of the file's runtime, precision and batch; else it promises nothing for the file.

    Args:
        plain: images of one number come in as networks take them.
    """
    from latency import runtimes

    precision = "int8" if int8 else "float32"
    if lut is None:
        return None
    if not runtimes.tells_of(lut, path):
        of, file = lut.runtime["name"], " or ".join(runtimes.that_execute(path)) or path.suffix[1:]
    elif lut.precision != precision:
        of, file = f"{lut.precision} layers", precision
    elif lut.batch != batch:
        of, file = (f"{several(number, 'image')} at once" for number in (lut.batch, batch))
    elif not plain:
        of, file = "networks by themselves", "any number of images, or of pixels"
    else:
        return lut
    common.warn(f"{lut.source} is of {of}: no latency is promised for a file of {file}")
    return None


main = starting.entry(run, Args)
