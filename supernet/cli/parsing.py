"""The command line by a dataclass: its help in groups, and what is wrong with it in one line."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import math
import os
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import tyro

from supernet.errors import UserError

RULE = re.compile(r"^ *-{5,} *$")
UNREAD = re.compile(
    r"(?:no type matching .*? could be instantiated from|could not (?:parse|find valid parse for) arguments:?|"
    r"invalid literal for int\(\) with base 10:|could not convert string to float:) \[?('[^\[\]]*')\]?.*",
    re.IGNORECASE,
)
WIDE = "10000"  # columns: what tyro says of an error is not broken into lines
CONFIG = (tyro.conf.DisallowNone,)
UNBOUNDED = tyro.conf.arg(help_behavior_hint="(default: no bound)")


def parse(args: Any, description: str | None, program: str) -> Any:
    """An instance of ``args``, a dataclass or a union of some, by the words of the command line.

    Raises:
        UserError: they are not what it takes. SystemExit: they asked for help, which is printed.
    """
    if not {"-h", "--help"}.isdisjoint(sys.argv[1:]):
        return _help(args, description, program)
    told = io.StringIO()
    try:
        with _columns(WIDE), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
            return tyro.cli(args, description=description, prog=program, config=CONFIG)
    except SystemExit:
        raise UserError(f"{in_a_line(told.getvalue())}; {program} --help lists what there is") from None


def _help(args: Any, description: str | None, program: str) -> NoReturn:
    """Print the help; without boxes where there is no terminal, as tyro does where it knows no encoding."""
    topics = grouped(args) if isinstance(args, type) else args
    columns = shutil.get_terminal_size().columns
    parts = inspect.cleandoc(description or "").split("\n\n")
    about = "\n\n".join(textwrap.fill(part, columns, subsequent_indent=" ") for part in parts)  # else tyro joins lines
    plain = io.StringIO()
    try:
        with contextlib.nullcontext() if sys.stdout.isatty() else contextlib.redirect_stdout(plain):
            tyro.cli(topics, description=about, prog=program, config=(*CONFIG, tyro.conf.OmitArgPrefixes))
    finally:
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in plain.getvalue().splitlines())
    raise AssertionError("tyro leaves after its help")


@contextlib.contextmanager
def _columns(wanted: str) -> Iterator[None]:
    """A terminal of that width, for what asks ``shutil``."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = wanted
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def in_a_line(told: str) -> str:
    """What tyro says of an error, in sections: its title, the error, the option that it is about or resembles, advice.

    Texts of help, which are indented, are left out.
    """
    lines = told.splitlines()
    sections = [list(part) for rule, part in itertools.groupby(lines, lambda line: bool(RULE.match(line))) if not rule]
    message = " ".join(line.strip() for line in sections[1] if not line.startswith(" " * 8)).strip(" .")
    message = UNREAD.sub(r"cannot read \1", message.removeprefix("Error parsing "))
    for section in sections[2:-1]:
        about = " ".join(line.strip() for line in section)
        option = next((line.strip() for line in section if line.strip().startswith("--")), None)
        kind = "perhaps" if about.startswith("Perhaps") else "expected"
        message += f"; {kind} {option}" if option else f"; {about}"
    return message[0].lower() + message[1:]


def grouped(args: type) -> type:
    """A dataclass with the options of ``args`` in one of its own for each topic, for the help.

    A class of options that others inherit has its topic as ``topic``; an option belongs to the class that introduces
    it. Those of the command itself stay at the top.
    """
    hints, helps = typing.get_type_hints(args, include_extras=True), dict[str, str]()
    for cls in reversed(args.__mro__[:-1]):
        helps |= _helps(cls)
    groups: dict[str | None, list[tuple[str, Any, Any]]] = {None: []}
    for field in dataclasses.fields(args):
        owner = next(cls for cls in reversed(args.__mro__) if field.name in inspect.get_annotations(cls))
        told = dataclasses.field(
            default=field.default, default_factory=field.default_factory, metadata={"help": helps.get(field.name)}
        )
        hint = Annotated[hints[field.name], UNBOUNDED] if field.default == math.inf else hints[field.name]
        groups.setdefault(vars(owner).get("topic"), []).append((field.name, hint, told))
    top = groups.pop(None)
    for topic, fields in groups.items():
        group = dataclasses.make_dataclass(f"Of{topic}", fields, kw_only=True)
        top.append((str(topic), group, dataclasses.field()))
    return dataclasses.make_dataclass(args.__name__, top, kw_only=True)


def _helps(cls: type) -> dict[str, str]:
    """The text below each field of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
