"""How a command starts and ends: the words of its command line, its errors, its exit code."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import supernet
from supernet.cli import common, example, numbers, parsing, printing
from supernet.errors import UserError, dead_loader

Args = TypeVar("Args")
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG}
UNWRITABLE |= {errno.EEXIST, errno.EISDIR, errno.ENOTDIR}  # a file where a folder is to be, or the other way round


class _Terminated(SystemExit):
    """SIGTERM came."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated(143)


def entry(run: Callable[[Args], None], args: Any, **options: Any) -> Callable[[], None]:
    """What starts a command: ``main`` of its ``run`` and its options."""
    return functools.partial(main, run, args, **options)


def main(
    run: Callable[[Args], None],
    args: Any,
    *,
    torchrun: bool = False,
    after: Callable[[Any], None] | None = None,
    program: str | None = None,
    zero: Collection[str] = (),
) -> None:
    """Parse ``args`` and run. Bad input ends in one line on stderr and exit code 2; Ctrl-C in 130, SIGTERM in 143.

    Args:
        torchrun: whether several processes can share the work.
        after: what the first process does at the end.
        program: how it is started, where it is no script of tools/.
        zero: counts of which there may be none here, as ``numbers.check`` has them.
    """
    require_siblings()
    if not torchrun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if os.environ.get("RANK", "0") != "0":  # the first process says so
            sys.exit(2)
        common.refuse(
            "this command runs in one process: start it without torchrun; the trainings are what several share"
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    given: Any = None
    try:
        given = parsing.parse(args, sys.modules[run.__module__].__doc__, program or common.program())
        numbers.check(given, zero)
        printing.to_people(given)
        if not isinstance(given, common.Beginning) and example.unpack(getattr(given, "run", None) or Path()):
            common.tell(f"the supernet that comes with the package → {example.FOLDER}")
        run(given)
        if after is not None and os.environ.get("RANK", "0") == "0":
            after(given)
    except UserError as error:
        common.refuse(common.with_advice(error, given))
    except BrokenPipeError:  # the reader of our output has left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk under a picture, a folder that may not be written
        if error.errno not in UNWRITABLE:
            raise
        common.refuse(
            f"cannot write {error.filename or 'a file'}: {error.strerror}; free some space or choose another folder"
        )
    except RuntimeError as error:
        if (told := dead_loader(error)) is None:
            raise
        common.refuse(str(told))
    except KeyboardInterrupt:
        print(f"stopped{_again(given)}", file=sys.stderr)
        sys.exit(130)
    except _Terminated:
        print(f"terminated{_again(given)}", file=sys.stderr)
        raise


def _again(args: Any) -> str:
    """That the work goes on, where a run folder keeps what is done of it."""
    return "; the same command continues" if hasattr(args, "run") else ""


def require_siblings() -> None:
    """Refuse to run with somebody else's ``search`` or ``latency``: their names are short, others may have them too."""
    home = Path(supernet.__file__).parents[1]
    for name in ("search", "latency"):
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).parent if spec and spec.origin else None
        if where != home / name:
            found = f"finds {spec.origin if spec else 'nothing'} instead"
            common.refuse(
                f"expected the package {name} of supernet in {home / name}, Python {found}: rename or move that one"
            )
