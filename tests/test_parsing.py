"""The command line: help in groups, wrong words in one line."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys

import pytest
import tyro

from supernet.cli import app, common, parsing
from supernet.cli.methods import METHODS
from supernet.errors import UserError

OTHERS = [name for name in common.COMMANDS if name != "train_supernet"]
OPTIONS = {**METHODS, **{name: importlib.import_module(f"supernet.cli.{name}").Args for name in OTHERS}}


def helped(monkeypatch, capsys, parse) -> str:
    monkeypatch.setattr(sys, "argv", ["tool.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        parse()
    assert stop.value.code == 0
    return capsys.readouterr().out


def words(text: str) -> set[str]:
    """All but the lines around them."""
    return {word for word in text.split() if word.strip("-")}


@pytest.mark.parametrize("name", OPTIONS)
def test_groups_have_the_options_and_texts_that_the_command_has(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "10000")  # no word is broken
    args = OPTIONS[name]
    grouped = helped(monkeypatch, capsys, lambda: parsing.parse(args, "what it does", "tool.py"))
    flat = helped(monkeypatch, capsys, lambda: tyro.cli(args, description="what it does", config=parsing.CONFIG))
    assert words(flat) - words(grouped) <= {"[OPTIONS]", "inf)"}
    assert "inf)" not in grouped
    assert grouped.count("(default: no bound)") == flat.count("(default: inf)")
    assert grouped.count(" --") >= flat.count(" --") > 0


def test_groups_are_by_what_options_are_about(monkeypatch, capsys):
    told = helped(monkeypatch, capsys, lambda: parsing.parse(OPTIONS["evolve"], "search", "tool.py"))
    assert not set(told) & set("│╭╮╰╯─")  # plain text, as this is no terminal
    _, *parts = re.split(r"\n *(.*) ?options\n *-+\n", told)
    boxes = dict(zip(map(str.strip, parts[::2]), parts[1::2], strict=True))
    assert set(boxes) == {"", "run-folder", "machine", "bound", "search", "image"}
    assert "--algorithm" in boxes[""]
    assert "--lat-max" in boxes["bound"]
    assert "--device" in boxes["machine"]
    assert "--population" in boxes["search"]


@pytest.mark.parametrize("name", OPTIONS)
def test_few_options_stand_in_no_group(name):
    top = dataclasses.fields(parsing.grouped(OPTIONS[name]))
    assert sum("help" in field.metadata for field in top) <= 14  # groups have none


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("evolve", ["--population", "x"], ["--population: cannot read 'x'; expected --population INT; tool"]),
        ("evolve", ["--lat-max", "70ms"], ["--lat-max: cannot read '70ms'; expected --lat-max FLOAT; tool"]),
        ("evolve", ["--val-limit", "x"], ["--val-limit: cannot read 'x'; expected --val-limit INT; tool"]),
        ("evolve", ["--recalibration", "8", "x"], ["cannot read '8', 'x'; expected --recalibration INT INT; tool"]),
        ("pad_nas", ["--epochs", "x", "y"], ["--epochs: cannot read 'x', 'y'; expected --epochs"]),
        ("export", ["--arch", "1", "x"], ["--arch: cannot read '1', 'x'; expected --arch"]),
        ("evolve", ["--algorithm", "foo"], ["'foo'", "--algorithm", "ces", "spos", "random"]),
        ("evolve", ["--populatin", "3"], ["--populatin", "perhaps --population INT"]),
        ("evolve", ["--recalibration", "3"], ["--recalibration", "2 values"]),
        ("evolve", ["a", "b"], ["a, b"]),
        ("count", [], ["--space STR"]),
        ("predict", [], ["FILE"]),
        ("face_nas", [], ["--faces PATH"]),
        ("evolve", ["--lut", "a" * 300, "--nothing"], ["--nothing"]),
    ],
)
def test_what_is_wrong_is_one_line(name, given, wanted, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tool.py", *given])
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(UserError) as caught:
        parsing.parse(OPTIONS[name], "what it does", "tool.py")
    message = str(caught.value)
    assert all(part in message for part in [*wanted, "tool.py --help"])
    assert not re.search(r"[\n│╭─]|  ", message)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("columns", [40, 80])
def test_what_a_command_does_is_told_in_lines_that_fit(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    about = "Train what is to be trained, " * 4 + "and stop.\n\n    It is as short as it can be."
    told = helped(monkeypatch, capsys, lambda: parsing.parse(OPTIONS["count"], about, "tool.py"))
    lines = told.partition("options\n")[0].splitlines()[1:]
    assert max(map(len, lines)) <= columns
    assert " ".join(" ".join(lines).split()) == " ".join(about.split())


def test_a_value_that_a_command_refuses_leaves_it_with_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evolve.py", "--algorithm", "foo"])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module("supernet.cli.evolve").main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: invalid choice 'foo'")


@pytest.mark.parametrize("columns", [60, 120])
def test_the_list_of_commands_is_whole_in_lines_that_fit(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    listed = app.usage()
    assert max(map(len, listed.splitlines())) <= columns
    assert "OpenVINO), .mlpackage (CoreML), or code. predict" in " ".join(listed.split())  # of two lines


def test_the_folder_of_a_run_is_first_called_what_pages_call_it(monkeypatch, capsys):
    told = helped(monkeypatch, capsys, lambda: parsing.parse(OPTIONS["evolve"], "search", "tool.py"))
    assert "--run PATH, --folder PATH" in told
