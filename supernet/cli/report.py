"""One page about a run, to look at in a browser: the network, its test, the search, the device, the supernet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from supernet.cli import common
from supernet.errors import UserError


@dataclass(frozen=True)
class Args(common.OnRun):
    output: Annotated[Path | None, common.UNSET] = None
    """Output page; defaults to RUN/report.html."""


def run(args: Args) -> None:
    from supernet import files
    from supernet.report import page

    output = args.output or args.folder.report_path
    if output.suffix not in (".html", ".htm"):
        raise UserError(f"--output {output}: expected the name of a page, which ends in .html")
    found = page.Run.load(args.folder)
    # No lock: a run is looked at while others work on it, and the page is written whole.
    export = [("--pick", name) for name in found.picked][:1]
    files.write_bytes(output, page.render(found, [common.command("export", args, *words) for words in export]).encode())
    common.tell(f"report → {output}")
    for name in found.earlier:
        common.warn(f"{name} was trained for an earlier search: it is left out")
    for words in export:
        common.next_command("export", args, *words)


main = common.entry(run, Args)
