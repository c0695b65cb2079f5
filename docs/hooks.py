"""What MkDocs asks for the site: files that lie beside docs/, and the options of every command.

A link to ``../supernet/space.py#Space`` leads to the file where the repository is read. On the site it leads to a page
that holds that file, at the line where the name is defined, so that the site needs nothing else and no line grows old.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import logging
import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import tyro
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from supernet.cli.app import about
from supernet.cli.common import COMMANDS
from supernet.cli.methods import METHODS

ROOT = Path(__file__).parents[1]
ALWAYS = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
COMMAND_LIST = "<!-- commands -->"
MACHINE = ("jobs", "workers")  # defaults that depend on the machine
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]+)(?:#([^)\s]*))?\)")
AT_LINE = re.compile(r'(data-line="(\d+)" href="[^"#]+)')
REQUEST = re.compile(
    r"<(?:script|img|iframe|link(?! rel=\"(?:canonical|next|prev)))[^>]*?(?:src|href)=\"?(https?://[^\"> ]+)"
)
LOG = logging.getLogger("mkdocs.hooks")  # a warning here fails the build
LANGUAGES = {".py": "python", ".cpp": "cpp", ".h": "cpp", ".cu": "cuda", ".cuh": "cuda", ".json": "json"}
CODE = """---
search: {{exclude: true}}
hide: [navigation, toc]
---
# {path}

~~~~~~ {{ .{language} linenums="1" }}
{text}~~~~~~
"""


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file outside of docs/ that pages link to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + list(ALWAYS)
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            files.append(File.generated(config, place(path), content=content(path)))
        new = set(linked(path)) - seen
        seen |= new
        waiting += sorted(path for path in new if not path.startswith("docs/"))
    return files


def place(path: str) -> str:
    """Where a file of the repository is on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def content(path: str) -> str:
    """A Markdown page as it is, code with the numbers of its lines."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    return CODE.format(path=path, language=LANGUAGES.get(Path(path).suffix, "text"), text=text)


def linked(path: str) -> Iterator[str]:
    """The files of the repository that a page links to."""
    if path.endswith(".md"):
        for target, _ in LINK.findall((ROOT / path).read_text(encoding="utf-8")):
            found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if (ROOT / found).is_file():
                yield found


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links that lead to where the files are on the site, and what the code writes."""
    here = page.file.src_uri
    if here.startswith("source/") and not (ROOT / here.removeprefix("source/")).is_file():
        return markdown  # code, in which nothing is a link
    origin = here.removeprefix("source/") if here.startswith("source/") else f"docs/{here}"

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[1]))
        if not (ROOT / target).is_file():
            return match[0]
        there = posixpath.relpath(place(target), posixpath.dirname(here))
        if match[2] and target.endswith(".py"):
            return f"{there}){{data-line={line(target, match[2])}}}"
        return f"{there}#{match[2]})" if match[2] else f"{there})"

    markdown = LINK.sub(moved, markdown)
    return markdown.replace(COMMAND_LIST, "\n".join(commands())) if COMMAND_LIST in markdown else markdown


def line(path: str, name: str) -> int:
    """Where a name is defined in a file of Python; warns where it is not."""
    defined = re.compile(rf"\s*(?:(?:class|def) {re.escape(name)}\b|{re.escape(name)}(?:: .*)? = )")
    for number, text in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        if defined.match(text):
            return number
    LOG.warning("%s defines no %s", path, name)
    return 1


def on_page_content(html: str, **_: Any) -> str:
    """Links to lines, which are no headings that MkDocs knows."""
    return AT_LINE.sub(r"\1#__codelineno-0-\2", html)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """A page that asks another server for something is a fault."""
    for address in REQUEST.findall(output):
        LOG.warning("%s asks for %s", page.file.src_uri, address)
    return output


def commands() -> Iterator[str]:
    """Every command with its options, from the dataclasses that parse them."""
    for module, name in COMMANDS.items():
        code = importlib.import_module(f"supernet.cli.{module}")
        yield f"\n## {name}\n\n`supernet {name}`, `python tools/{module}.py`. {escaped(about(module))}\n"
        if module != "train_supernet":
            yield from options(code.Args)
            continue
        shared = set.intersection(*({f.name for f in dataclasses.fields(args)} for args in METHODS.values()))
        for method, args in METHODS.items():
            own = {f.name for f in dataclasses.fields(args)} - shared
            yield f"\n### --method {method}\n\n{escaped((args.__doc__ or '').splitlines()[0])}\n"
            yield from options(args, None if method == "spos" else own)


def options(args: type, only: set[str] | None = None) -> Iterator[str]:
    """A table of options."""
    yield "| option | default | meaning |\n|---|---|---|"
    hints, meanings = get_type_hints(args, include_extras=True), documented(args)
    for field in dataclasses.fields(args):
        if field.name == "method" or (only is not None and field.name not in only):
            continue
        marks = getattr(hints[field.name], "__metadata__", ())
        name = field.name.replace("_", "-")
        aliases = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        names = [f"--no-{name}" if field.default is True else f"--{name}", *aliases]
        if tyro.conf.Positional in marks:
            names = [next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), field.name.upper())]
        yield f"| {' '.join(f'`{name}`' for name in names)} | {default(field)} | {escaped(meanings[field.name])} |"


def default(field: dataclasses.Field[Any]) -> str:
    """What an option is where it is not given; nothing where its meaning tells."""
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is not dataclasses.MISSING else "needed"
    if isinstance(field.default, bool) or field.default in (None, math.inf, "", ()) or field.name in MACHINE:
        return ""
    return f"`{' '.join(map(str, field.default)) if isinstance(field.default, tuple) else field.default}`"


def documented(args: type) -> dict[str, str]:
    """The strings below the fields of a dataclass and of those that it is made of."""
    bases = [base for base in args.__mro__ if dataclasses.is_dataclass(base)]
    return {name: text for base in reversed(bases) for name, text in below_fields(base).items()}


@functools.cache  # commands share most of their options
def below_fields(args: type) -> dict[str, str]:
    """The strings below the fields that a dataclass adds."""
    (body,) = ast.parse(inspect.getsource(args)).body
    pairs = itertools.pairwise(body.body)
    return {f.target.id: text.value.value for f, text in pairs if isinstance(f, ast.AnnAssign) and is_text(text)}


def is_text(statement: ast.stmt) -> bool:
    """Whether it is a string and nothing else."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def escaped(text: str) -> str:
    """Plain text in Markdown."""
    return re.sub(r"([*_<\[\]`])", r"\\\1", " ".join(text.split())).replace("|", "&#124;")
