"""Makes of inline PTX what the runner executes: each asm statement becomes a call of its interpreter (ptx.h)."""

from __future__ import annotations

import re
from collections.abc import Iterator

ASM = re.compile(r"\basm(?: volatile)?\(")
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|.', re.DOTALL)
OPERAND = re.compile(r'\s*"(.+?)"\s*\((.*)\)\s*', re.DOTALL)


def split(text: str, separator: str) -> list[str]:
    """At separators outside of strings and brackets."""
    parts, depth = [""], 0
    for token in TOKEN.findall(text):
        depth += (token in "([{") - (token in ")]}")
        if token == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def end_of(text: str, start: int) -> int:
    """Of the brackets that open right before ``start``."""
    depth = 1
    for token in TOKEN.finditer(text, start):
        depth += (token[0] == "(") - (token[0] == ")")
        if depth == 0:
            return token.start()
    raise ValueError("an asm statement without end")


def call(statement: str) -> str:
    """Of what stands in the brackets of an asm statement: instruction : outputs : inputs : clobbers."""
    text, outputs, inputs, clobbers = (*split(statement.replace("\\\n", "\n"), ":"), "", "", "")[:4]
    given = [OPERAND.fullmatch(each) for each in split(outputs, ",") + split(inputs, ",") if each.strip()]
    operands = ", ".join(f'{{"{constraint}", {value}}}' for constraint, value in (each.groups() for each in given))
    memory = str('"memory"' in clobbers).lower()
    made = f"[&] {{ static const simt::Instruction simt_it({text}); simt_it({memory}, {{{operands}}}); }}()"
    return " ".join(made.split("\n"))


def pieces(source: str) -> Iterator[str]:
    at = 0
    while found := ASM.search(source, at):
        end = end_of(source, found.end())
        statement = source[found.end() : end]
        # Lines stay where they are: the runner tells them.
        lines = ("\\\n" if "\\\n" in statement else "\n") * statement.count("\n")
        yield source[at : found.start()] + call(statement) + lines
        at = end + 1
    yield source[at:]


def translated(source: str) -> str:
    """C++ with its asm statements as calls."""
    return "".join(pieces(source))
