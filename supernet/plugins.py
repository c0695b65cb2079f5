"""Functions from outside of this library: in a file, in an importable package, or registered by an installed package.

A reference is ``FILE.py:function``, ``package.module:function``, or the name of an entry point. Only people give
references: what a file of a run names is never imported. No torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

from supernet.data import HUB
from supernet.errors import UserError
from supernet.spec import Block

REGISTRIES = ("timm:", "torchvision:")  # of networks, by what their names begin with
SPACES, DATA, RUNTIMES = "supernet.spaces", "supernet.data", "supernet.runtimes"  # groups of entry points


@dataclass(frozen=True)
class Plugin:
    """A function, the module that it stands in, and the reference that messages name it by."""

    function: Callable[..., Any]
    module: ModuleType
    source: str

    @property
    def operations(self) -> tuple[type[Block], ...]:
        """The block classes that its module defines or imports, but for those of this library."""
        classes = [c for c in vars(self.module).values() if isinstance(c, type) and issubclass(c, Block)]
        return tuple(dict.fromkeys(c for c in classes if hasattr(c, "op") and not c.__module__.startswith("supernet.")))

    def __call__(self, **arguments: Any) -> Any:
        """Call the function; a UserError names it and the line where it failed."""
        try:
            with _aside():
                return self.function(**arguments)
        except UserError as error:
            raise error.of(self.source) from error
        except (Exception, SystemExit) as error:  # whatever it does
            raise UserError(f"{self.source} raised {reason(error, self.module.__file__)}") from error

    def offer(self, **arguments: Any) -> Any:
        """Call the function with those of ``arguments`` that its signature takes."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except ValueError:  # some built-in functions have none
            return self(**arguments)
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return self(**arguments)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for p in parameters:
            needed = p.default is p.empty and p.kind is not p.VAR_POSITIONAL
            if needed and (p not in named or p.name not in arguments):
                raise UserError(
                    f"{self.source} needs an argument {p.name!r}: it is called with the keyword arguments "
                    f"{', '.join(arguments)}; give others a default"
                )
        taken = {p.name for p in named}
        return self(**{name: value for name, value in arguments.items() if name in taken})


def is_reference(name: str) -> bool:
    """Whether ``name`` refers to code by its place; else it is the name of something known or installed."""
    return ":" in name and not name.startswith((HUB, *REGISTRIES))


def is_registered(name: str) -> bool:
    """Whether ``name`` refers to a network of timm or torchvision."""
    return name.startswith(REGISTRIES)


def require_same(recorded: str, named: str | None, what: str) -> str:
    """The code that was named now, if it has the file and the function of what is recorded, wherever the file lies.

    Raises:
        UserError: none was named, or other code.
    """
    came = f"{what} come from the code {recorded}"
    if named is None:
        raise UserError(f"{came}, which was not named", missing="code")
    if PurePath(recorded).name != PurePath(named).name:
        raise UserError(f"{came}, not from {named}", missing="code")
    return named


def find(name: str, group: str) -> Plugin | None:
    """What ``name`` refers to; None if it is no reference and no entry point of ``group``.

    Raises:
        UserError: it cannot be imported, or is no function.
    """
    if is_reference(name):
        return resolve(name)
    for entry in entry_points(group=group, name=name):
        return _installed(entry)
    return None


def installed(group: str) -> list[Plugin]:
    """All that installed packages register in ``group``."""
    return [_installed(entry) for entry in entry_points(group=group)]


def names(group: str) -> list[str]:
    """The names of the entry points of ``group``, sorted."""
    return sorted(entry_points(group=group).names)


def resolve(reference: str) -> Plugin:
    """The function that ``FILE.py:function`` or ``package.module:function`` refers to.

    Raises:
        UserError: no such file, module or function, or an error while it is imported.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise UserError(f"expected FILE.py:function or package.module:function, got {reference!r}")
    is_file = place.endswith(".py") or os.sep in place
    return _function(_file(Path(place), reference) if is_file else _package(place, reference), name, reference)


def reason(error: BaseException, file: str | None) -> str:
    """Type, message and the last line in ``file`` that led to it, in one line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines.append(error.lineno)
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    where = f" in line {lines[-1]}" if lines else ""
    return type(error).__name__ + where + (f": {message}" if message else "")


def _file(path: Path, reference: str) -> ModuleType:
    """Import a file by its stem from its folder.

    The folder joins the end of ``sys.path``, which worker processes inherit: they import the module again to unpickle
    what is defined in it.
    """
    if path.suffix != ".py":
        raise UserError(f"{reference}: expected a Python file, FILE.py:function, got {path}")
    if not path.is_file():
        raise UserError(f"{reference}: there is no file {path}; give FILE.py:function")
    if "." in path.stem:
        raise UserError(f"{reference}: Python cannot import a file with a dot in its name; rename {path.name}")
    folder = str(path.absolute().parent)
    new = folder not in sys.path
    if new:
        sys.path.append(folder)
        importlib.invalidate_caches()
    try:
        return _imported(path.stem, _origin(path, reference), reference)
    except UserError:
        if new:
            sys.path.remove(folder)
        raise


def _origin(path: Path, reference: str) -> str:
    """The file that ``import`` finds by the stem of ``path``; a UserError if it is another one."""
    try:
        spec = importlib.util.find_spec(path.stem)
    except ValueError:  # imported already, without a specification: __main__
        spec = None
    origin = (spec and spec.origin) or "without a file"
    if not os.path.exists(origin) or not os.path.samefile(origin, path):
        raise UserError(
            f"{reference}: the name {path.stem!r} already belongs to another module ({origin}); rename {path.name}"
        )
    return origin


def _package(name: str, reference: str) -> ModuleType:
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:  # no such package around it
        spec = None
    except Exception as error:  # the package around it is imported for this
        raise UserError(f"{reference}: cannot import {name}: {reason(error, None)}") from error
    if spec is None:
        raise UserError(f"{reference}: there is no module {name}; install it, or give FILE.py:function")
    return _imported(name, spec.origin, reference)


def _installed(entry: EntryPoint) -> Plugin:
    source = f"{entry.name} ({entry.value})"
    module = _package(entry.module, source)
    return _function(module, entry.attr, source)


def _imported(name: str, file: str | None, reference: str) -> ModuleType:
    try:
        with _aside():
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the code at its top does
        raise UserError(f"{reference}: importing {file or name} raised {reason(error, file)}") from error


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """What code of one's own prints is no result of a command, and paths mean afterwards what they meant before."""
    folder = os.getcwd()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.chdir(folder)


def _function(module: ModuleType, name: str, source: str) -> Plugin:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise UserError(f"{source}: {module.__file__ or module.__name__} has no function {name!r}")
    if not callable(found):
        raise UserError(f"{source}: {name} is of type {type(found).__name__}, expected a function")
    return Plugin(found, module, source)
