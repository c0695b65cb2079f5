"""What every command shares: options, errors in one line, the run folder, the next command."""

from __future__ import annotations

import dataclasses
import math
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn

import tyro
from rich.markup import escape

from supernet import machine
from supernet.cli.printing import answer as answer
from supernet.cli.printing import say as say
from supernet.cli.printing import show as show
from supernet.cli.printing import tell as tell
from supernet.cli.printing import warn as warn
from supernet.errors import UserError
from supernet.metrics import Metric
from supernet.plugins import is_reference
from supernet.progress import Progress, shown
from supernet.run_files import INT8
from supernet.size import Size
from supernet.training.measured import Wish

if TYPE_CHECKING:
    from supernet.executor import Executor
    from supernet.runs import RunFolder

DEFAULT_RUN = Path("runs/default")
# torchrun takes --run for an abbreviation of its own. Help lists aliases first.
Folder = Annotated[Path, tyro.conf.arg(name="folder", aliases=["--run"])]
UNSET = tyro.conf.arg(help_behavior_hint="")  # the help text says what follows if an option is not given
# The commands by the names of their modules, which are those of the scripts in tools/.
COMMANDS = {
    "train_supernet": "train",
    "build_lut": "lut",
    "evolve": "evolve",
    "specialise": "specialise",
    "retrain": "retrain",
    "export": "export",
    "predict": "predict",
    "report": "report",
    "rank": "rank",
    "pad_nas": "pad-nas",
    "stage_wise": "stage-wise",
    "global_nas": "global-nas",
    "face_nas": "face-nas",
    "count": "count",
    "check_data": "data",
    "doctor": "doctor",
}
# Which command makes what an error says is missing.
MAKERS = {"supernet": "train_supernet", "lut": "build_lut", "front": "evolve", "network": "retrain"}
UNRECORDED = ("run", "device", "workers", "memory", "restart", "quiet", "json", "plan", "damaged")  # shape no run
OPEN_IMAGES = ("evolve", "specialise", "retrain", "rank", "export")  # of a trained run


@dataclass(frozen=True)
class Answering:
    """Option of commands that have a result."""

    json: bool = False
    """Print the result as JSON, as its file holds it; what people read goes to stderr."""


@dataclass(frozen=True)
class Computing(Answering):
    """Options of commands that train or score networks."""

    topic: ClassVar[str] = "machine"
    seed: int = 0
    """Random seed of the split, the weights, the augmentation and whatever else is drawn."""
    device: Annotated[str | None, UNSET] = None
    """Device: cpu, cuda, …; defaults to CUDA if available."""
    quiet: bool = False
    """Show no progress."""

    @property
    def progress(self) -> Progress:
        """Where progress is told."""
        return shown(not self.quiet)


@dataclass(frozen=True)
class Reading:
    """Options of commands that read images from files."""

    topic: ClassVar[str] = "image"
    damaged: Literal["stop", "skip"] = "stop"
    """Stop at images that cannot be read, or leave them out and remember them in RUN/damaged.json."""


@dataclass(frozen=True)
class Decoding(Reading):
    """Options of commands of which processes decode images."""

    topic: ClassVar[str] = "machine"
    workers: int = machine.cores()
    """Processes that decode images of files; 0 decodes in the main process. Defaults to the cores that may be used."""


@dataclass(frozen=True)
class Judged:
    """Option of commands that compare networks by an accuracy."""

    topic: ClassVar[str] = "search"
    metric: Metric = "top1"
    """What networks are judged by: the accuracy, that among the first five answers, or the mean of the classes'."""


@dataclass(frozen=True)
class Workers:
    """Options of commands whose work several workers share."""

    topic: ClassVar[str] = "machine"
    workers_on: Literal["local", "ray"] = "local"
    """Run what is parallel by processes and threads of this machine, or by workers of Ray (needs the extra ray)."""
    ray_address: Annotated[str | None, UNSET] = None
    """Ray cluster that sees the run folder: auto or HOST:PORT; defaults to RAY_ADDRESS, else one started here."""
    gpus_per_worker: float = 0.0
    """GPUs of each worker of Ray; 0.5 lets two share one."""

    def ray_or(self, local: Executor) -> Executor:
        """Workers of Ray if they are wanted, as many as the cluster has room for; else the local ones."""
        from supernet.ray_executor import Ray

        if self.workers_on == "ray":
            return Ray(local.at_once, self.ray_address, self.gpus_per_worker)
        if self.ray_address or self.gpus_per_worker:
            raise UserError("--ray-address and --gpus-per-worker need --workers-on ray")
        return local


@dataclass(frozen=True)
class Training:
    """Options of a training whose learning rate follows from the batch size."""

    topic: ClassVar[str] = "training"
    batch_size: int = 64
    """Images per step, over all processes."""
    lr: Annotated[float | None, UNSET] = None
    """Peak learning rate; defaults to 0.2 · sqrt(batch size / 64), at most 0.5; a tenth for given weights."""


@dataclass(frozen=True)
class Devices:
    """Options of trainings that one device, or several under torchrun, compute."""

    topic: ClassVar[str] = "machine"
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after another, to save memory."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of forward and backward; auto is bf16 on GPUs that have it, else fp32."""
    sync_bn: bool = False
    """Normalise by statistics over the batches of all processes; runs plain PyTorch."""


@dataclass(frozen=True)
class OnRun:
    """Options of commands on a trained run."""

    topic: ClassVar[str] = "run_folder"
    run: Folder = DEFAULT_RUN
    """Run folder."""
    space: Annotated[str | None, UNSET] = None
    """FILE.py:function that made the run's space, if it has operations of your own."""
    data: Annotated[str | None, UNSET] = None
    """FILE.py:function that gives the run's images, if it is yours."""
    data_root: Annotated[Path | None, UNSET] = None
    """Dataset directory; defaults to the one used in training."""

    @property
    def folder(self) -> RunFolder:
        """The run folder, with the code that may be run for it."""
        return open_run(self)


@dataclass(frozen=True)
class Kernels:
    """Option of commands that run a supernet, or train networks of one."""

    topic: ClassVar[str] = "machine"
    kernels: Wish = "auto"
    """The project's operators or plain PyTorch; auto: as the run was trained on such a device, else what is faster."""


@dataclass(frozen=True)
class Alone(Computing, Training, Decoding, Workers, Kernels, OnRun):
    """Options of commands that train found networks alone."""

    topic: ClassVar[str] = "training"
    limit: Annotated[int | None, UNSET] = None
    """Train on a stratified subset of this many images."""
    jobs: int = machine.cores()
    """Networks trained in parallel, on the CPU, sharing the --workers; defaults to the usable cores."""


@dataclass(frozen=True)
class Bounds:
    """Options of commands that train candidates one by one."""

    topic: ClassVar[str] = "bound"
    flops_max: float = math.inf
    """Bound on multiply-adds: a candidate beyond it is not trained."""
    params_max: float = math.inf
    """Bound on the parameters of candidates."""


@dataclass(frozen=True)
class Beginning:
    """Options of commands that begin a run, whatever it is trained on."""

    topic: ClassVar[str] = "run_folder"
    run: Folder = DEFAULT_RUN
    """Run folder; the same command continues a run that was stopped."""
    restart: bool = False
    """Delete the existing run and start over."""


def defaults(args: Any) -> dict[str, Any]:
    """Of every option: what counts as recorded by a version that did not have it."""
    fields = (field for field in dataclasses.fields(args) if field.default is not dataclasses.MISSING)
    return {field.name: _recorded(field.default) for field in fields}


def settings(args: Any, *others: str) -> dict[str, Any]:
    """The options that shape a run, in plain JSON values, which have no infinity: ``config.json`` holds them.

    Args:
        others: names of options that may change when a run is continued, besides those that no command records.
    """
    left_out = (*UNRECORDED, *vars(Workers()), *others)
    return {name: _recorded(value) for name, value in dataclasses.asdict(args).items() if name not in left_out}


def _recorded(value: Any) -> Any:
    value = value.plain if isinstance(value, Size) else value
    return None if value == math.inf else str(value) if isinstance(value, Path) else value


def words(args: Any, *names: str) -> list[str]:
    """The options that are not defaults, as words of a command line; of ``names``, else of all.

    --restart and --json are not passed on.
    """
    found: list[str] = []
    for field in dataclasses.fields(args):
        value, flag = getattr(args, field.name), field.name.replace("_", "-")
        if value == field.default or field.name in ("restart", "json") or (names and field.name not in names):
            continue
        if isinstance(value, bool) and field.default is not None:
            found.append(f"--{'' if value else 'no-'}{flag}")
        elif isinstance(value, Size):
            found += [f"--{flag}", str(value.plain)]
        else:
            found += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return found


def open_run(args: Any) -> RunFolder:
    """The folder ``args.run`` with the code that the command line allows."""
    from supernet.runs import RunFolder

    codes = {name: getattr(args, name, None) for name in ("space", "data")}
    named = {f"{k}_code": v for k, v in codes.items() if v is not None and is_reference(v)}
    return RunFolder(args.run, **named, skip_damaged=getattr(args, "damaged", "stop") == "skip")


def begun(args: Any, folder: RunFolder) -> dict[str, Any]:
    """The settings of the run that the folder holds, if the command continues it."""
    return {} if getattr(args, "restart", False) or not folder.config_path.exists() else folder.config()


def refuse(message: str) -> NoReturn:
    """End in one line on stderr and exit code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def with_advice(error: UserError, args: Any) -> str:
    """The message, and which command makes what is missing."""
    text = str(error).rstrip(".")
    if error.missing in MAKERS:
        then = ", then run" if text.endswith("delete it") else ": run"
        words = picking(args) if error.missing == "network" else ()
        return f"{text}{then} {command(MAKERS[error.missing], args, *words)}"
    if error.missing == "another run":
        replace = "use --restart to replace it, or another --run folder"
        return f"{text}; {replace if hasattr(args, 'restart') else 'delete it, or use another --run folder'}"
    if error.missing == "damaged" and hasattr(args, "damaged"):
        return f"{text}; or leave out what is damaged: --damaged skip"
    if error.missing == "code":
        return f"{text}: add it as --space or --data, if you trust it"
    return text


def picking(args: Any) -> tuple[str, ...]:
    """Options by which ``retrain.py`` trains what a command was to pick; none for ``best``."""
    pick = getattr(args, "pick", "best")
    name = pick.removesuffix(INT8).removeprefix("front-")
    if name not in ("best", "knee", "all") and not name.isdecimal():
        return ()
    return (*(() if name == "best" else ("--pick", name)), *(("--qat",) if pick.endswith(INT8) else ()))


def program() -> str:
    """How this process was started, for help texts."""
    name = Path(sys.argv[0]).name
    return f"{known_as('python')} tools/{name}" if name.endswith(".py") else sys.argv[0] if " " in sys.argv[0] else name


def known_as(name: str) -> str:
    """What a shell is told for ``name``, python or supernet, of this environment: that if it finds it, else its path.

    The path is the one by which this process was started, such as .venv/bin/python.
    """
    first = shutil.which(name)
    if first and Path(first).parent.resolve() == Path(sys.executable).parent.resolve():
        return name
    return next((word for word in sys.orig_argv[:2] if Path(word).name.startswith(name)), name)


def command(tool: str, args: Any = None, *words: object, after: Sequence[object] = ()) -> str:
    """The command line of another command on the same run, quoted for a shell.

    Args:
        tool: a key of ``COMMANDS``. args: whose run folder, code and dataset directory it takes over.
        words: further ones, before the run folder; ``after`` it.
    """
    tools = Path(sys.argv[0]).name.endswith(".py")
    script = [known_as("python"), f"tools/{tool}.py"] if tools else [known_as("supernet"), COMMANDS[tool]]
    flags: list[object] = []
    for name in ("run", "space", "data", "data_root"):
        value = getattr(args, name, None)
        if name == "run":
            wanted = value not in (None, DEFAULT_RUN)
        elif name == "data_root":  # this command was told another place than the run's
            wanted = isinstance(args, OnRun) and value is not None and tool in OPEN_IMAGES
        else:
            wanted = value is not None and is_reference(value)
        flags += [f"--{name.replace('_', '-')}", value] if wanted else []
    return shlex.join(map(str, [*script, *words, *flags, *after]))


def keeping(folder: RunFolder) -> tuple[str, ...]:
    """Options of ``retrain.py`` that keep the weights of a given network; it teaches where it knows the images."""
    if not folder.space().model:
        return ()
    return ("--inherit", *(("--teacher", "given") if folder.config().get("distil") == "teacher" else ()))


def next_command(tool: str, args: Any = None, *words: object, after: Sequence[object] = (), note: str = "") -> None:
    """Print the command that people run next."""
    told = f"  # {note}" if note else ""
    say(f"\nnext: [bold]{escape(command(tool, args, *words, after=after))}[/bold]{told}", copied=True)
