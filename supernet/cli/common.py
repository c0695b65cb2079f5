"""What every command shares: parsing, errors in one line, the run folder, the next command."""

from __future__ import annotations

import dataclasses
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
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import tyro
from rich.console import Console

import supernet
from supernet import machine
from supernet.data import HUB, NAMES
from supernet.errors import UserError
from supernet.progress import Progress, shown

if TYPE_CHECKING:
    from supernet.data.sets import TrainVal
    from supernet.runs import RunFolder

Args = TypeVar("Args")
DEFAULT_RUN = Path("runs/default")
# The commands by the names of their modules, which are those of the scripts in tools/.
COMMANDS = {
    "train_supernet": "train",
    "build_lut": "lut",
    "evolve": "evolve",
    "retrain": "retrain",
    "export": "export",
    "report": "report",
    "rank": "rank",
    "pad_nas": "pad-nas",
    "stage_wise": "stage-wise",
    "global_nas": "global-nas",
    "face_nas": "face-nas",
}
# Which command makes what an error says is missing.
MAKERS = {"supernet": "train_supernet", "lut": "build_lut", "front": "evolve", "network": "retrain"}
_console = Console()


@dataclass(frozen=True)
class Computing:
    """Options of commands that train or score networks."""

    seed: int = 0
    """Random seed of the split, the weights, the augmentation and whatever else is drawn."""
    device: str | None = None
    """Device: cpu, cuda, …; defaults to CUDA if available."""
    quiet: bool = False
    """Show no progress."""

    @property
    def progress(self) -> Progress:
        """Where progress is told."""
        return shown(not self.quiet)


@dataclass(frozen=True)
class Decoding:
    """Options of commands that read images from files."""

    workers: int = machine.cores()
    """Processes that decode images of files; 0 decodes in the main process. Defaults to the cores that may be used."""


@dataclass(frozen=True)
class Training:
    """Options of a training whose learning rate follows from the batch size."""

    epochs: int = 12
    """Epochs."""
    batch_size: int = 64
    """Images per step."""
    lr: float | None = None
    """Peak learning rate; defaults to 0.2 · sqrt(batch size / 64), at most 0.5."""


@dataclass(frozen=True)
class OnRun:
    """Options of commands on a trained run."""

    run: Path = DEFAULT_RUN
    """Run folder."""
    space: str | None = None
    """Code of the run's space, if it has operations of your own: FILE.py:function."""
    data: str | None = None
    """Code of the run's images, if they come from your own: FILE.py:function."""
    data_root: Path | None = None
    """Dataset directory; defaults to the one used in training."""

    @property
    def folder(self) -> RunFolder:
        """The run folder, with the code that may be run for it."""
        return open_run(self)


@dataclass(frozen=True)
class Alone(Computing, Training, Decoding, OnRun):
    """Options of commands that train found networks alone."""

    limit: int | None = None
    """Train on a stratified subset of this many images."""
    jobs: int = machine.cores()
    """Networks trained in parallel, on the CPU; they share the --workers. Defaults to the cores that may be used."""


@dataclass(frozen=True)
class Images(Decoding):
    """Options of commands that open images for a new run."""

    data: Annotated[
        str | None, tyro.conf.arg(metavar="|".join((*NAMES, "hf:NAME", "hf:FOLDER", "FILE.py:function")))
    ] = None
    """Images; defaults to fashion-mnist if available, else the bundled digits."""
    data_root: Path = Path("data")
    """Dataset directory; for --data folder the one that holds train/ and val/."""
    limit: int | None = None
    """Train on a stratified subset of this many images."""
    resolution: int | None = None
    """Height and width in pixels, for images of any size; defaults to 224."""


@dataclass(frozen=True)
class Beginning:
    """Options of commands that begin a run, whatever it is trained on."""

    run: Path = DEFAULT_RUN
    """Run folder; the same command continues a run that was stopped."""
    restart: bool = False
    """Delete the existing run and start over."""


@dataclass(frozen=True)
class NewRun(Computing, Images, Beginning):
    """Options of commands that begin a run on images. A command adds its own, and may set other defaults."""


def settings(args: Any, *others: str) -> dict[str, Any]:
    """The options that shape a run, in plain JSON values, which have no infinity: ``config.json`` holds them.

    Args:
        others: names of options that may change when a run is continued, besides those that no command records.
    """
    left_out = ("run", "device", "workers", "memory", "restart", "quiet", *others)
    given = {name: value for name, value in dataclasses.asdict(args).items() if name not in left_out}
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return {name: None if value == math.inf else value for name, value in given.items()}


def open_run(args: Any) -> RunFolder:
    """The folder ``args.run`` with the code that the command line allows."""
    from supernet.runs import RunFolder

    codes = {name: getattr(args, name, None) for name in ("space", "data")}
    return RunFolder(args.run, **{f"{k}_code": v for k, v in codes.items() if v is not None and is_code(v)})


def is_code(name: str) -> bool:
    """Whether a name refers to Python code: ``FILE.py:function``, ``package.module:function``."""
    return ":" in name and not name.startswith(HUB)


def main(run: Callable[[Args], None], args: Any) -> None:
    """Parse ``args`` and run. Bad input ends in one line on stderr and exit code 2; Ctrl-C in 130, SIGTERM in 143."""
    require_siblings()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    given: Any = None
    try:
        given = tyro.cli(args, description=sys.modules[run.__module__].__doc__, prog=program())
        run(given)
    except UserError as error:
        refuse(with_advice(error, given))
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        return f"{text}: run {command(MAKERS[error.missing], args)}"
    if error.missing == "another run":
        replace = "use --restart to replace it, or another --run folder"
        return f"{text}; {replace if hasattr(args, 'restart') else 'use another --run folder, or delete this one'}"
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
        code = name in ("space", "data") and value is not None and is_code(value)
        if (
            code
            or (name == "run" and value not in (None, DEFAULT_RUN))
            or (name == "data_root" and passes_on(args, tool))
        ):
            flags += [f"--{name.replace('_', '-')}", value]
    return shlex.join(map(str, [*script, *words, *flags, *after]))


def passes_on(args: Any, tool: str) -> bool:
    """Whether the next command must be told where the images are: this one was told another place than the run's."""
    return isinstance(args, OnRun) and args.data_root is not None and tool in ("evolve", "retrain", "rank", "export")


def next_command(tool: str, args: Any = None, *words: object, after: Sequence[object] = (), note: str = "") -> None:
    """Print the command that people run next."""
    told = f"  # {note}" if note else ""
    _console.print(
        f"\nnext: [bold]{escape(command(tool, args, *words, after=after))}[/bold]{told}",
        soft_wrap=True,
        highlight=False,
    )


def escape(text: str) -> str:
    """Text with brackets as it is, not as markup."""
    from rich.markup import escape

    return escape(text)


def say(*parts: Any, style: str | None = None) -> None:
    """Print text (with rich's markup) or a table."""
    _console.print(*parts, style=style, highlight=False, soft_wrap=all(isinstance(part, str) for part in parts))


def tell(text: object, style: str | None = None) -> None:
    """Print text as it is, in which brackets are no markup."""
    say(escape(str(text)), style=style)


def warn(text: str) -> None:
    """What a person should know before relying on something."""
    tell(text, style="yellow")


def default_bound(low: float, high: float) -> float:
    """The latency bound where none is given: 40 % of the way from the fastest to the slowest architecture."""
    return low + 0.4 * (high - low)


def in_words(images: TrainVal, name: str, reason: str = "") -> str:
    """A data set in one line."""
    return (
        f"[bold]{escape(name)}[/bold]{reason and f' ({escape(reason)})'}: {len(images.train):,} training, "
        f"{len(images.val):,} validation images, {images.channels}×{images.resolution}²"
    )


def open_images(args: Any) -> tuple[str, str, TrainVal]:
    """The images that a new run is asked to take: name, why it was chosen, train and validation."""
    from supernet.data import sets

    name, reason = (args.data, "") if args.data else sets.default_name(args.data_root)
    given = {"seed": args.seed, "resolution": args.resolution, "limit": args.limit, "workers": args.workers}
    return name, reason, sets.open_train(name, args.data_root, **given)
