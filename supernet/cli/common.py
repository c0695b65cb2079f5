"""What every command shares: parsing, errors in one line, the run folder, the next command."""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib.util
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

import supernet
from supernet import machine
from supernet.cli import example, numbers
from supernet.errors import UserError, dead_loader
from supernet.plugins import is_reference
from supernet.progress import Progress, shown
from supernet.size import Size
from supernet.training.measured import Wish

if TYPE_CHECKING:
    from supernet.executor import Executor
    from supernet.runs import RunFolder
    from supernet.tables import Table

Args = TypeVar("Args")
DEFAULT_RUN = Path("runs/default")
Folder = Annotated[Path, tyro.conf.arg(aliases=["--folder"])]  # torchrun takes --run for an abbreviation of its own
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
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG}
OPEN_IMAGES = ("evolve", "specialise", "retrain", "rank", "export")  # of a trained run
_console = Console()


@dataclass(frozen=True)
class Computing:
    """Options of commands that train or score networks."""

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

    damaged: Literal["stop", "skip"] = "stop"
    """Stop at images that cannot be read, or leave them out and remember them in RUN/damaged.json."""


@dataclass(frozen=True)
class Decoding(Reading):
    """Options of commands of which processes decode images."""

    workers: int = machine.cores()
    """Processes that decode images of files; 0 decodes in the main process. Defaults to the cores that may be used."""


@dataclass(frozen=True)
class Workers:
    """Options of commands whose work several workers share."""

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

    batch_size: int = 64
    """Images per step, over all processes."""
    lr: Annotated[float | None, UNSET] = None
    """Peak learning rate; defaults to 0.2 · sqrt(batch size / 64), at most 0.5; a tenth for given weights."""


@dataclass(frozen=True)
class Devices:
    """Options of trainings that one device, or several under torchrun, compute."""

    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after another, to save memory."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of forward and backward; auto is bf16 on GPUs that have it, else fp32."""
    sync_bn: bool = False
    """Normalise by statistics over the batches of all processes; runs plain PyTorch."""


@dataclass(frozen=True)
class OnRun:
    """Options of commands on a trained run."""

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

    kernels: Wish = "auto"
    """The project's operators or plain PyTorch; auto: as the run was trained on such a device, else what is faster."""


@dataclass(frozen=True)
class Alone(Computing, Training, Decoding, Workers, Kernels, OnRun):
    """Options of commands that train found networks alone."""

    limit: Annotated[int | None, UNSET] = None
    """Train on a stratified subset of this many images."""
    jobs: int = machine.cores()
    """Networks trained in parallel, on the CPU, sharing the --workers; defaults to the usable cores."""


@dataclass(frozen=True)
class Bounds:
    """Options of commands that train candidates one by one."""

    flops_max: float = math.inf
    """Bound on multiply-adds: a candidate beyond it is not trained."""
    params_max: float = math.inf
    """Bound on the parameters of candidates."""


@dataclass(frozen=True)
class Beginning:
    """Options of commands that begin a run, whatever it is trained on."""

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
    left_out = ("run", "device", "workers", "memory", "restart", "quiet", "plan", "damaged", *vars(Workers()), *others)
    return {name: _recorded(value) for name, value in dataclasses.asdict(args).items() if name not in left_out}


def _recorded(value: Any) -> Any:
    value = value.plain if isinstance(value, Size) else value
    return None if value == math.inf else str(value) if isinstance(value, Path) else value


def words(args: Any, *names: str) -> list[str]:
    """The options that are not defaults, as words of a command line; of ``names``, by default of all but --restart."""
    found: list[str] = []
    for field in dataclasses.fields(args):
        value, flag = getattr(args, field.name), field.name.replace("_", "-")
        if value == field.default or field.name == "restart" or (names and field.name not in names):
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


def entry(run: Callable[[Args], None], args: Any, **options: Any) -> Callable[[], None]:
    """What starts a command: ``main`` of its ``run`` and its options."""
    return functools.partial(main, run, args, **options)


def main(
    run: Callable[[Args], None], args: Any, *, torchrun: bool = False, after: Callable[[Any], None] | None = None
) -> None:
    """Parse ``args`` and run. Bad input ends in one line on stderr and exit code 2; Ctrl-C in 130, SIGTERM in 143.

    Args:
        torchrun: whether several processes can share the work.
        after: what the first process does at the end.
    """
    require_siblings()
    if not torchrun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if os.environ.get("RANK", "0") != "0":  # the first process says so
            sys.exit(2)
        refuse("this command runs in one process: start it without torchrun; the trainings are what several share")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    given: Any = None
    try:
        given = tyro.cli(
            args, description=sys.modules[run.__module__].__doc__, prog=program(), config=(tyro.conf.DisallowNone,)
        )
        numbers.check(given)
        if not isinstance(given, Beginning) and example.unpack(getattr(given, "run", None) or Path()):
            tell(f"the supernet that comes with the package → {example.FOLDER}")
        run(given)
        if after is not None and os.environ.get("RANK", "0") == "0":
            after(given)
    except UserError as error:
        refuse(with_advice(error, given))
    except BrokenPipeError:  # the reader of our output has left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk under a picture, a folder that may not be written
        if error.errno not in UNWRITABLE:
            raise
        refuse(f"cannot write {error.filename or 'a file'}: {error.strerror}; free some space or choose another folder")
    except RuntimeError as error:
        if (told := dead_loader(error)) is None:
            raise
        refuse(str(told))
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)


def require_siblings() -> None:
    """Refuse to run with somebody else's ``search`` or ``latency``: their names are short, others may have them too."""
    home = Path(supernet.__file__).parents[1]
    for name in ("search", "latency"):
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).parent if spec and spec.origin else None
        if where != home / name:
            found = f"finds {spec.origin if spec else 'nothing'} instead"
            refuse(f"expected the package {name} of supernet in {home / name}, Python {found}: rename or move that one")


def refuse(message: str) -> NoReturn:
    """End in one line on stderr and exit code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _terminated(*_: object) -> None:
    print("terminated; the same command continues", file=sys.stderr)
    sys.exit(143)


def with_advice(error: UserError, args: Any) -> str:
    """The message, and which command makes what is missing."""
    text = str(error).rstrip(".")
    if error.missing in MAKERS:
        then = ", then run" if text.endswith("delete it") else ": run"
        return f"{text}{then} {command(MAKERS[error.missing], args)}"
    if error.missing == "another run":
        replace = "use --restart to replace it, or another --run folder"
        return f"{text}; {replace if hasattr(args, 'restart') else 'delete it, or use another --run folder'}"
    if error.missing == "damaged" and hasattr(args, "damaged"):
        return f"{text}; or leave out what is damaged: --damaged skip"
    if error.missing == "code":
        return f"{text}: add it as --space or --data, if you trust it"
    return text


def program() -> str:
    """How this process was started, for help texts."""
    name = Path(sys.argv[0]).name
    return f"python tools/{name}" if name.endswith(".py") else sys.argv[0] if " " in sys.argv[0] else name


def command(tool: str, args: Any = None, *words: object, after: Sequence[object] = ()) -> str:
    """The command line of another command on the same run, quoted for a shell.

    Args:
        tool: a key of ``COMMANDS``. args: whose run folder, code and dataset directory it takes over.
        words: further ones, before the run folder; ``after`` it.
    """
    script = ["python", f"tools/{tool}.py"] if Path(sys.argv[0]).name.endswith(".py") else ["supernet", COMMANDS[tool]]
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


def next_command(tool: str, args: Any = None, *words: object, after: Sequence[object] = (), note: str = "") -> None:
    """Print the command that people run next."""
    told = f"  # {note}" if note else ""
    say(f"\nnext: [bold]{escape(command(tool, args, *words, after=after))}[/bold]{told}")


def say(*parts: Any, style: str | None = None) -> None:
    """Print text (with rich's markup) or a table."""
    _console.print(*parts, style=style, highlight=False, soft_wrap=all(isinstance(part, str) for part in parts))


def show(table: Table) -> None:
    """Print a table."""
    from rich.table import Table as Grid

    grid = Grid(show_header=bool(table.headings), title=table.title)
    for i in range(len(table.rows[0]) if table.rows else len(table.headings)):
        heading = escape(table.headings[i]) if table.headings else ""
        whole = table.wraps is not None and i != table.wraps
        grid.add_column(heading, justify="left" if i < table.text else "right", no_wrap=whole)
    for row in table.rows:
        grid.add_row(*map(escape, row))
    say(grid)


def tell(text: object, style: str | None = None) -> None:
    """Print text as it is, in which brackets are no markup."""
    say(escape(str(text)), style=style)


def warn(text: str) -> None:
    """What a person should know before relying on something."""
    tell(text, style="yellow")
