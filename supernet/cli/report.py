"""A page about a run, to look at in a browser: architectures, tests, the device, the supernet."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

from supernet.cli import common, starting
from supernet.errors import UserError

if TYPE_CHECKING:
    from supernet.report.load import Run


@dataclass(frozen=True)
class Args(common.Answering, common.OnRun):
    output: Annotated[Path | None, common.UNSET] = None
    """Output page; defaults to RUN/report.html."""
    compare: Annotated[tuple[Path, ...], common.UNSET] = ()
    """Run folders to show beside this one."""
    figures: Annotated[Path | None, common.UNSET] = None
    """Folder to write every plot and coloured table into, as SVG and PNG."""
    tensorboard: Annotated[Path | None, common.UNSET] = None
    """Folder to write the logs into as events for TensorBoard, in place of those that are there."""
    live: int = 0
    """Write the page again every so many seconds, until Ctrl-C; it reloads itself."""


def run(args: Args) -> None:
    import time

    output = args.output or args.folder.report_path
    if output.suffix not in (".html", ".htm"):
        raise UserError(f"--output {output}: expected the name of a page, which ends in .html")
    if args.live < 0:
        raise UserError(f"--live {args.live}: expected seconds, such as 10")
    found = write(args, output, args.compare, args.live or None, args.figures)
    common.tell(f"report → {output}")
    with contextlib.ExitStack() as stack:
        events = None
        if args.tensorboard:
            from supernet.report.tensorboard import Events

            events = stack.enter_context(contextlib.closing(Events(args.folder, args.tensorboard)))
            events.update()
            common.tell(f"events → {args.tensorboard}: tensorboard --logdir {args.tensorboard}")
        try:
            while args.live:
                time.sleep(args.live)
                found = write(args, output, args.compare, args.live, args.figures)
                if events:
                    events.update()
        finally:
            if args.live:
                write(args, output, args.compare)  # which reloads no more
    common.answer(args, {"report": str(output)})
    for name in found.earlier:
        common.warn(f"{name} was trained for an earlier search: it is left out")
    for words in picked(found):
        common.next_command("export", args, *words)


def write(
    args: Any, output: Path, others: Sequence[Path] = (), live: int | None = None, figures: Path | None = None
) -> Run:
    """The page of a run, with all that it holds now.

    Args:
        args: of a command, whose run and code it is. others: folders of runs to compare it with.
        live: seconds after which the page reloads itself. figures: folder of the plots.
    """
    from supernet import files
    from supernet.report import charts, load, page

    # No lock: a run is looked at while others work on it, and the page is written whole.
    stages = sorted(path.parent for path in args.run.glob("supernet-*/front.json"))  # of PAD-NAS, each a run
    opened = [SimpleNamespace(**{**vars(args), "run": path}) for path in (args.run, *stages, *others)]
    runs = [load.Run.load(common.open_run(one)) for one in opened]
    commands = {run.name: of_architecture(one) for run, one in zip(runs, opened, strict=True)}
    more = [common.command("export", args, *words) for words in picked(runs[0])]
    made = page.Page(runs, commands, more, live)
    files.write_bytes(output, made.render().encode())
    if figures:
        charts.figures(figures, {**made.plots, **made.matrices})
    return runs[0]


def leave_page(args: Any) -> None:
    """Write what the run now holds as a page. Where it cannot be read the work is done all the same, and it is told."""
    if getattr(args, "plan", False) or getattr(args, "output", None) or getattr(args, "run", None) is None:
        return  # the run is as it was
    from supernet.report import pieces

    folder = common.open_run(args)
    if not (folder.config_path.exists() and folder.space_path.exists()):
        return
    try:
        write(args, folder.report_path, live=pieces.reloads(folder.report_path))  # another process follows the run
    except UserError as error:
        common.warn(f"no page about the run: {error}")
    else:
        common.tell(f"page: {folder.report_path}")


def picked(found: Run) -> list[tuple[str, str]]:
    """How the first trained network is named to other tools."""
    return [("--pick", name) for name in found.picked][:1]


def of_architecture(args: Any) -> list[str]:
    """How an architecture is trained alone and made a file of; ARCH stands for its indices."""
    return [
        """echo '{"arch": ARCH}' > network.json""",
        common.command("retrain", args, after=("--arch-config", "network.json")),
        common.command("export", args, after=("--pick", "config")),
    ]


main = starting.entry(run, Args)
