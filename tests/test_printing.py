"""What commands print: tables on terminals of several widths and without one; results for programs."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from supernet.cli import common, count, grids, printing
from supernet.tables import Table

WIDE = Table(
    ("", "against", "shapes", "ratio", "worst", "gate", "of arithmetic", "of copy", ""),
    [
        ("separable inference, bfloat16", "frozen inductor", "12", "1.23", "1.01", "1.6", "30%", "40% ± 1%", "met"),
        ("inverted bottleneck [k 3]", "eager, BN folded", "5", "12.34", "1.05", "2.25", "7%", "100% ± 12%", "missed"),
    ],
    "kernels [one thread]",
    text=2,
)
FRAME = "┏┃│└━"


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_no_width_cuts_a_word_or_a_number(width):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    console.print(grids.drawn(WIDE, console))
    told = file.getvalue()
    assert max(map(cell_len, told.splitlines())) <= width
    parts = {word for row in [WIDE.headings, *WIDE.rows, [WIDE.title]] for cell in row for word in cell.split()}
    assert parts <= {word.rstrip(":") for word in told.split()}
    assert all(cell in told for row in WIDE.rows for cell in row[2:])  # numbers are whole
    assert "…" not in told


def test_the_wider_the_more_like_a_table():
    def form(width: int) -> tuple[bool, int]:
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        console.print(grids.drawn(WIDE, console))
        told = console.file.getvalue()
        return any(mark in told for mark in FRAME), len(told.splitlines())

    framed, lines = zip(*(form(width) for width in (120, 100, 76, 40)), strict=True)
    assert framed == (True, True, False, False)
    assert lines[0] < lines[1]  # text in two lines
    assert lines[2] < lines[3]  # a list has a line for each cell


def test_without_a_terminal_it_is_plain_text(capsys):
    path = "a/" * 200
    common.show(Table(("layer", "ms"), [(path, "1.5"), ("b [1]", "12.25")]))
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["layer", "ms"]
    assert first.split() == [path, "1.5"]
    assert second.split() == ["b", "[1]", "12.25"]
    assert len(heading) == len(first) == len(second)  # numbers end below one another


LONG = "latency ≤ 0.1056 ms (40 % of the way); → /a/path/of/" + "many/" * 12 + "front.json, of 10,000 images"


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_text_breaks_between_words_on_a_terminal(width, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(printing, "_console", Console(file=file, width=width, force_terminal=True, color_system=None))
    common.tell(LONG)
    lines = file.getvalue().splitlines()
    assert [word for line in lines for word in line.split()] == LONG.split()
    assert all(cell_len(line) <= width or " " not in line.strip() for line in lines)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_next_command_can_be_copied(terminal, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(printing, "_console", Console(file=file, width=30, force_terminal=terminal, color_system=None))
    common.next_command("retrain", None, "--run", "runs/" + "long/" * 12, note="why")
    _, line = file.getvalue().splitlines()
    assert line.startswith("next: ")
    assert line.endswith(f"runs/{'long/' * 12}  # why")


def test_without_a_terminal_text_is_one_line(capsys):
    common.tell(LONG)
    assert capsys.readouterr().out == f"{LONG}\n"


def test_with_json_the_result_is_alone_on_stdout(monkeypatch, capsys, tmp_path):
    args = ["count.py", "--space", "ofa-mobilenetv3", "--config", str(tmp_path / "one.json"), "--layers"]
    one = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": [160]}
    (tmp_path / "one.json").write_text(json.dumps(one))
    monkeypatch.setattr(sys, "argv", args)
    count.main()
    words = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*args, "--json"])
    count.main()
    told = capsys.readouterr()
    assert told.err == words
    found = json.loads(told.out)
    assert f"{found['macs']:,} multiply-adds" in words
    monkeypatch.setattr(sys, "argv", args)
    count.main()
    assert capsys.readouterr().out == words  # the next command of the process speaks on stdout again


def test_a_file_is_printed_as_what_it_holds(tmp_path, capsys):
    (tmp_path / "front.json").write_text(json.dumps({"front": [1, 2]}, indent=1))
    printing.answer(common.Answering(json=True), tmp_path / "front.json")
    assert capsys.readouterr().out == '{"front": [1, 2]}\n'
    printing.answer(common.Answering(), tmp_path / "front.json")
    assert capsys.readouterr().out == ""
