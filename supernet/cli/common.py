"""What every tool shares: the command line, one-line errors, the run folder."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import tyro
from rich.console import Console

from supernet import files
from supernet.data import images as data_images
from supernet.data import sets
from supernet.errors import UserError
from supernet.model import Supernet
from supernet.space import Space
from supernet.training import checkpoint

Args = TypeVar("Args")
console = Console()


def main(run: Callable[[Args], None], args: type[Args], description: str | None = None) -> None:
    """Parse ``args`` and run. Bad input ends in one line on stderr and exit code 2; Ctrl-C in 130."""
    keep_memory()
    try:
        run(tyro.cli(args, description=description or sys.modules[run.__module__].__doc__))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def keeps_memory() -> bool:
    """The switch: SUPERNET_KEEP_MEMORY=0 leaves the allocator as it is."""
    return os.environ.get("SUPERNET_KEEP_MEMORY", "1") != "0"


def keep_memory() -> None:
    """Ask glibc to keep freed memory instead of returning it: fresh pages cost more than the kernels that fill them."""
    if not keeps_memory():
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((-1, 2**31 - 1), (-4, 0)):  # M_TRIM_THRESHOLD, M_MMAP_MAX
        mallopt(parameter, value)


def load_space(run: Path) -> Space:
    """The space that the supernet in ``run`` was trained on."""
    path = run / "space.json"
    data = files.read_json(path, "supernet's space", f"run python tools/train_supernet.py --run {run} first")
    return Space.from_json(data, str(path))


def load_supernet(run: Path, space: Space, device: torch.device) -> Supernet:
    """The trained supernet in ``run``."""
    advice = f"run python tools/train_supernet.py{run_flag(run)} first"
    state = checkpoint.load(run / "checkpoint.pt", advice)
    meta = state.get("meta", {})
    if meta.get("kind") != "supernet":
        raise UserError(f"{run / 'checkpoint.pt'} holds no supernet but {meta.get('kind')}; {advice}")
    space.require(meta["space"]["fingerprint"], str(run / "checkpoint.pt"))
    if not state["finished"]:
        raise UserError(f"the supernet in {run} is not trained to the end (step {state['step']}); {advice}")
    options = {"affine": meta["affine"], "eps": meta.get("eps", 1e-5), "kernels": default_kernels(device)}
    supernet = Supernet(space, **options)
    try:
        supernet.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UserError(
            f"{run / 'checkpoint.pt'} does not fit its space ({str(error).split(':')[0]}); {advice}"
        ) from error
    return supernet.to(device)


def load_front(run: Path, space: Space) -> dict:
    """What evolve.py found in ``run``."""
    path = run / "front.json"
    front = files.read_json(path, "front", f"run python tools/evolve.py{run_flag(run)}")
    if not isinstance(front, dict) or front.get("schema") != 1 or not front.get("front"):
        raise UserError(f"{path} is not a front of schema 1: run python tools/evolve.py{run_flag(run)}")
    space.require(front["space"]["fingerprint"], str(path))
    return front


def open_images(run: Path, root: Path | None, limit: int | None = None) -> sets.TrainVal:
    """Train and validation images as the supernet in ``run`` had them: the same split, in the same place by default."""
    config, root = _run_config(run, root)
    return sets.open_train(config["data"], root, seed=config["seed"], resolution=config["resolution"], limit=limit)


def open_test_images(run: Path, root: Path | None) -> data_images.ImageSet:
    """The test images of the data set of ``run``."""
    config, root = _run_config(run, root)
    return sets.open_test(config["data"], root, resolution=config["resolution"])


def _run_config(run: Path, root: Path | None) -> tuple[dict, Path]:
    """The run's configuration; ``root``, else where its supernet's training found the images."""
    advice = f"run python tools/train_supernet.py{run_flag(run)} first"
    config = files.read_json(run / "config.json", "run configuration", advice)
    return config, root or Path(config.get("data_root", "data"))


def default_kernels(device: torch.device) -> str:
    """Our operators on the CPU; plain PyTorch elsewhere, as their CUDA forms have not run on a GPU yet."""
    return "fused" if device.type == "cpu" else "eager"


def default_lr(batch_size: int) -> float:
    """SPOS's 0.5 at batch 1024, by the square root of the batch, as short runs on small batches want it."""
    return min(0.5, 0.2 * (batch_size / 64) ** 0.5)


def default_bound(low: float, high: float) -> float:
    """The latency bound where none is given: 40 % of the way from the fastest to the slowest architecture."""
    return low + 0.4 * (high - low)


def augments(wish: bool | None, epochs: int) -> bool:
    """Whether to augment: crops cost three points after 3 epochs (one architecture of 0.84 MFLOPs, Fashion-MNIST).

    That they pay from 30 epochs on is an assumption.
    """
    return epochs >= 30 if wish is None else wish


def require_run_folder(run: Path) -> None:
    """Refuse to delete a folder that is no run."""
    if any(run.iterdir()) and not (run / "config.json").exists():
        raise UserError(f"{run} is not a run (it has no config.json); refusing to delete it, choose another --run")


def device(name: str | None) -> torch.device:
    """The device to run on: ``name``, else CUDA where there is one."""
    try:
        chosen = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"cannot use the device {name!r}: {str(error).splitlines()[0]}") from error
    return chosen


def run_flag(run: Path) -> str:
    """`` --run X`` for a next command, empty for the default folder."""
    return "" if run == Path("runs/default") else f" --run {run}"


def next_command(text: str) -> None:
    """Print the command that people run next."""
    console.print(f"\nnext: [bold]{text}[/bold]", soft_wrap=True, highlight=False)
