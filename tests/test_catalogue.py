"""The catalogue of the papers: complete by their numbering, every command there is, every figure read from its file."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro
from scipy import stats

from experiments import __main__ as door
from experiments import _common, catalogue
from experiments.papers import item as papers_item
from experiments.papers.item import SCALES, Command, Item, mean
from search import pad_nas
from supernet.errors import UserError

ROOT = Path(__file__).parents[1]
# Counted in the papers' texts: numbered tables, numbered figures, and what the figures' numbers begin with.
COUNTS = {
    "global-nas": (7, 2, ""),
    "nss": (1, 4, "s"),  # the supplement
    "pad-nas": (9, 7, ""),
    "stage-wise": (6, 4, ""),
    "dsnas": (5, 3, ""),
}
ITEMS = catalogue.select(catalogue.ALL)
COMMANDS = {
    str(command): command
    for _, item in ITEMS
    for command in (item.tiny, item.gpu, item.paper)
    if isinstance(command, Command)
}
SPENT = ("jobs", "workers")  # settings that no figure depends on
# Results that their experiments are ahead of, and what these lack until they are made again: names, and settings that
# are others now. They leave this list then.
AHEAD: dict[str, tuple[str, ...]] = {}
named = pytest.mark.parametrize(("paper", "item"), [pytest.param(p, i, id=f"{p.name} {i.name}") for p, i in ITEMS])


def options(command: Command) -> type:
    """The dataclass of the options of an experiment or a tool."""
    if command.program.startswith("experiments."):
        return importlib.import_module(command.program).Args
    module = importlib.import_module(f"supernet.cli.{Path(command.program).stem}")
    return module.chosen(command.words[1:]) if hasattr(module, "chosen") else module.Args


def parsed(command: Command):
    """The options that a command has; SystemExit where it does not take its arguments."""
    return tyro.cli(options(command), args=command.words[command.words.index(command.program) + 1 :])


@pytest.mark.parametrize("name", COUNTS)
def test_no_table_and_no_figure_is_left_out(name):
    tables, figures, prefix = COUNTS[name]
    numbered = [item.name for item in catalogue.PAPERS[name].items if not item.name.startswith("text-")]
    expected = [f"table-{i}" for i in range(1, tables + 1)] + [f"figure-{prefix}{i}" for i in range(1, figures + 1)]
    assert sorted(numbered) == sorted(expected)
    assert len(ITEMS) == len({(paper.name, item.name) for paper, item in ITEMS})
    assert catalogue.PAPERS.keys() == COUNTS.keys()


@named
def test_what_is_not_done_says_why(paper, item):
    assert item.name.startswith(("table-", "figure-", "text-"))
    assert item.lacks or item.state == "wholly"
    assert not item.verdict or item.ours, "a verdict needs a figure of ours"
    for text in (item.shows, item.theirs, item.lacks, item.verdict):
        assert "\n" not in text
    for scale in SCALES:
        found = item.at(scale)
        assert isinstance(found, Command) or found


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_is_there_and_takes_its_arguments(command):
    if command.program == "pytest":
        files = [ROOT / word for word in command.words if word.endswith(".py")]
        wanted = command.words[command.words.index("-k") + 1] if "-k" in command.words else ""
        assert files
        assert all(re.search(rf"^def test_\w*{wanted}", path.read_text(), re.MULTILINE) for path in files)
        return
    if command.program.endswith(".py"):
        assert (ROOT / command.program).exists()
    parsed(command)


def test_a_latency_table_is_of_one_space():
    """Layers of another space would be missing in it."""
    spaces: dict[Path, set[str]] = {}
    for command in COMMANDS.values():
        if "--lut" in command.words:
            args = parsed(command)
            tables = args.lut if isinstance(args.lut, tuple) else (args.lut,)
            for table, space in zip(tables, (args.space, getattr(args, "small", "")), strict=False):
                spaces.setdefault(table, set()).add(pad_nas.VARIANTS.get(space, space))
    assert spaces
    assert all(len(of) == 1 for of in spaces.values()), spaces


@named
def test_our_figure_is_read_from_its_results(paper, item):
    if item.ours is None or item.tiny.result() is None:  # an experiment may not have been run yet
        assert item.found() == ""
        assert not item.verdict
        return
    if item.tiny.results.stem in AHEAD and item.older:
        return
    assert re.search(r"\d", item.found())
    assert item.minutes() > 0


@pytest.mark.parametrize(
    "command",
    {str(item.tiny): item.tiny for _, item in ITEMS if item.found()}.values(),
    ids=lambda command: command.program,
)
def test_the_command_has_the_settings_that_the_results_were_made_with(command):
    """What the file itself says; of some, older than the option, not which data. What is left open is settled there."""
    made = command.result()["settings"]
    args = json.loads(json.dumps(vars(parsed(command)), default=str))
    free = {*SPENT, *AHEAD.get(command.results.stem, ()), *(["data"] if made.get("data") is None else [])}
    compared = {key for key in args.keys() & made.keys() if args[key] is not None} - free
    assert len(compared) >= 5
    assert {key: args[key] for key in compared} == {key: made[key] for key in compared}


@pytest.mark.parametrize("stem", AHEAD)
def test_an_experiment_that_is_ahead_of_its_results_is_so(stem):
    """Its results are not there, or lack what it tells now, or have other settings: else they are to leave the list."""
    command = next(item.tiny for _, item in ITEMS if item.tiny and item.tiny.results and item.tiny.results.stem == stem)
    made = command.result()
    assert (made is None) == (not AHEAD[stem])
    if made is not None:
        args = json.loads(json.dumps(vars(parsed(command)), default=str))
        settings, there = made["settings"], set(names(made))
        assert [n for n in AHEAD[stem] if n in there and args.get(n) == settings.get(n)] == []


def names(value) -> Iterator[str]:
    """All keys of a results file, at any depth."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from names(one)


def test_results_of_an_older_form_have_no_figure(monkeypatch):
    """One item falls behind where its results lack a name, and the page says so; the others keep their figures."""
    item = catalogue.select("stage-wise", "text-transfer")[0][1]
    assert not item.older
    whole = item.tiny.result()
    monkeypatch.setattr(Command, "result", lambda self: {k: v for k, v in whole.items() if k != "weight_transfer"})
    assert item.older
    assert item.found() == ""
    assert "the results lack this" in catalogue.cells(item)[catalogue.COLUMNS.index("ours")]
    assert not catalogue.select("stage-wise", "text-hypothesis")[0][1].older


SEED = {"accuracy": 0.8, "search_accuracy": 0.7}


@pytest.mark.parametrize(
    ("paper", "name", "result"),
    [
        ("dsnas", "text-spread", {"seeds": [dict.fromkeys(("direct", "SPOS matched", "SPOS retrained"), SEED)]}),
        (
            "stage-wise",
            "text-carbon",
            {
                "settings": {"chosen": [1]},
                "searches": {"residual": [{"candidates": {"1": {"kg": 1.0}}}]},
                "uniform": {"residual 3": [{"kg": 2.0}] * 2},
            },
        ),
        ("stage-wise", "table-2", {"settings": {"iterations": 1}, "searches": {"pls": [{"candidates": []}]}}),
        ("nss", "figure-s3", {"regimes": [{"target": 1e6, "differences": []}]}),
    ],
)
def test_a_run_that_was_stopped_leaves_the_list_whole(monkeypatch, paper, name, result):
    """After one seed, or between the rows of the second one, there is no figure yet; all could not be listed."""
    item = catalogue.select(paper, name)[0][1]
    monkeypatch.setattr(Command, "result", lambda self: {"machine": {"cpu_minutes": 1}, **result})
    assert item.older
    assert "to its end" in catalogue.cells(item)[catalogue.COLUMNS.index("ours")]


@pytest.mark.parametrize(
    ("name", "lacking", "finish"), [("global_nas", "image", "write"), ("nss", "samples", "finish")]
)
def test_results_of_an_older_form_are_not_drawn(monkeypatch, capsys, tmp_path, name, lacking, finish):
    """One line tells what is lacking, and the command that makes them anew."""
    module = importlib.import_module(f"experiments.{name}")
    made = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    monkeypatch.setattr(papers_item, "RESULTS", tmp_path)
    (tmp_path / f"{name}.json").write_text(json.dumps({k: v for k, v in made.items() if k != lacking}))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--redraw", "--output", str(tmp_path / f"{name}.json")])
    with pytest.raises(SystemExit) as ended:
        _common.main(module.run, module.Args, getattr(module, finish))
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    expected = rf"error: [^\n]*, without '{lacking}': python -m experiments\.{name} makes it anew[^\n]*\n"
    assert re.fullmatch(expected, told.err)


@pytest.mark.parametrize(
    ("paper", "item", "figures"),
    [
        ("dsnas", "table-1", ["15.1 ± 0.8", "17.5 ± 0.7", "110.8 ± 2.6"]),
        ("dsnas", "table-4", ["5.96"]),
        ("dsnas", "table-5", ["1.84"]),
        ("dsnas", "table-3", ["85.63 ± 0.88", "+1.25 ± 0.92", "+1.67 ± 1.08"]),
        ("dsnas", "figure-3", ["−0.11 ± 0.65", "+0.21 ± 1.41", "+1.52 ± 1.28", "−0.88 ± 1.09", "+1.53 ± 1.19"]),
        ("dsnas", "text-progressive-stop", ["−0.19 ± 0.33", "−0.44 ± 1.05"]),
        ("nss", "table-1", ["36.6", "16.9", "10.7"]),
        ("nss", "figure-s3", ["+5.74", "+0.54 to +10.94", "+1.32", "+0.36 to +2.28", "+1.96", "+1.57"]),
        ("pad-nas", "table-6", ["79.34", "10.88", "78.34", "11.31", "80.70", "2.27", "80.69", "5.46"]),
        ("pad-nas", "table-7", ["78.81", "77.89", "78.18", "78.19", "78.55", "76.83", "78.92"]),
        ("pad-nas", "table-8", ["0.29", "0.33", "−0.15", "0.34", "0.64", "0.12", "0.10", "0.06"]),
        ("pad-nas", "table-4", ["80.57", "80.28"]),
        ("pad-nas", "figure-7", ["0.0168", "0.0169"]),
        ("stage-wise", "table-1", ["73.92 ± 6.10", "77.92 ± 2.93"]),
        ("stage-wise", "table-2", ["76.57 ± 7.25", "77.15 ± 1.52", "77.41 ± 4.37"]),
        ("stage-wise", "table-5", ["79.02 ± 2.26"]),
        ("stage-wise", "figure-4", ["4.3-4.0-4.0", "3.7-3.7-4.3", "5.0-5.0-4.7"]),
        ("stage-wise", "text-iterations", ["+1.43 ± 6.14"]),
        ("stage-wise", "text-hypothesis", ["+0.08", "+0.32"]),
        ("stage-wise", "text-transfer", ["3.4"]),
        ("global-nas", "table-3", ["84.75", "84.09", "13.2", "26.9"]),
        ("global-nas", "text-relative-improvement", ["+0.78"]),
    ],
)
def test_our_figures_are_those_of_the_argued_page(paper, item, figures):
    """docs/results.md was written by hand from what the experiments print themselves."""
    argued = (ROOT / "docs" / "results.md").read_text()
    item = catalogue.select(paper, item)[0][1]
    found = item.found()
    for figure in figures:
        assert figure in argued
        assert figure in found or item.older


def test_the_interval_is_students():
    values = [0.81, 0.84, 0.86, 0.80]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
    assert mean(values, 100) == f"{50 * (low + high):.2f} ± {50 * (high - low):.2f}"
    assert mean([0.5]) == "0.50"


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "papers.md").read_text() == catalogue.markdown(), (
        "python -m experiments --write docs/papers.md"
    )


def test_a_command_that_tries_several_items_runs_once():
    found = [str(command) for _, command in catalogue.commands(catalogue.ALL, catalogue.ALL, "tiny")]
    assert len(found) == len(set(found))
    assert {str(item.tiny) for _, item in ITEMS if item.tiny} == set(found)


def call(monkeypatch, *words: str, code: int = 0) -> list[list[str]]:
    """What the door starts, which ends with ``code``."""
    started: list[list[str]] = []

    def ended(command):
        started.append(command[1:])
        return code

    monkeypatch.setattr(door, "ended", ended)
    monkeypatch.setattr(sys, "argv", ["experiments", *words])
    door.main()
    return started


def test_an_item_runs_with_what_follows(monkeypatch, capsys):
    started = call(monkeypatch, "pad-nas", "table-3", "--", "--quick", "--jobs", "1")
    given = ["--train", "3000", "--random", "8", "--n", "24", "--probes", "2", "--threshold", "0.07"]
    assert started == [["-m", "experiments.pad_nas", *given, "--quick", "--jobs", "1"]]
    told = capsys.readouterr()
    assert told.out == ""
    assert "missing or other: ImageNet and a Pixel 3 cannot be had here" in told.err


def test_of_all_items_experiments_alone_run_with_what_follows(monkeypatch):
    """pytest would refuse --quick, and nothing after it would run."""
    started = call(monkeypatch, "stage-wise", "all", "--", "--quick")
    assert {words[1] == "pytest" for words in started} == {True, False}
    assert all((words[-1] == "--quick") == words[1].startswith("experiments.") for words in started)


def test_a_plan_without_an_item_is_of_all(monkeypatch, capsys):
    assert call(monkeypatch, "nss", "--plan") == call(monkeypatch, "nss", "all", "--plan") == []
    told = capsys.readouterr().out
    assert told.count("nss table-1, tiny: python -m experiments.nss\n") == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_the_door_reaches_what_it_has_started(tmp_path, signum):
    """Ctrl-C goes to the group of the terminal, SIGTERM to the door alone; what was started says the last word."""
    begun = tmp_path / "begun"
    inner = (
        "import pathlib, sys, time\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(1); print('saved'); sys.exit(130)"
    )
    outer = (
        "import signal, sys, experiments.__main__ as door\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background ignores it
        f"sys.exit(door.ended([sys.executable, '-c', {inner!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", outer], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.05)
    if signum == signal.SIGINT:
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == ((130, b"saved\n", b"") if signum == signal.SIGINT else (241, b"", b""))


def test_a_run_for_two_cores_renews_the_page(monkeypatch, tmp_path, capsys):
    page = tmp_path / "papers.md"
    monkeypatch.setattr(door, "PAGE", page)
    monkeypatch.setattr(door, "ROOT", tmp_path)
    call(monkeypatch, "nss", "table-1")  # where there is no page, as in an installed package
    assert not page.exists()
    page.write_text("rows of before")
    for words in (["--plan"], ["--scale", "gpu"]):
        call(monkeypatch, "nss", "table-1", *words)
        assert page.read_text() == "rows of before"
    call(monkeypatch, "nss", "table-1")
    assert page.read_text() == catalogue.markdown()
    assert "→ papers.md" in capsys.readouterr().err


def test_a_failure_is_handed_on(monkeypatch):
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, "dsnas", "all", code=3)
    assert ended.value.code == 3


def test_a_plan_runs_nothing(monkeypatch, capsys):
    assert call(monkeypatch, "dsnas", "table-3", "--scale", "paper", "--plan") == []
    told = capsys.readouterr().out
    assert "python -m experiments.dsnas --device cuda --data folder" in told
    assert "420 GPU-hours" in told
    assert call(monkeypatch, "nss", "table-1", "--plan") == []
    told = capsys.readouterr().out
    assert "python -m experiments.nss\n" in told
    assert "search_epochs 16" in told
    took = json.loads((ROOT / "docs" / "results" / "nss.json").read_text())["machine"]["cpu_minutes"]
    assert f"cost: {took:.0f} minutes" in told
    assert call(monkeypatch, "nss", "figure-s1", "--plan") == []
    assert "cost: a minute or two" in capsys.readouterr().out


@named
def test_a_plan_knows_what_a_run_for_two_cores_costs(paper, item, capsys):
    if item.tiny is not None:
        door.tell(item.name, item.tiny, "tiny")
        assert re.search(r"cost: .*minute", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dsnass", "table-1"], "dsnas"),
        (["dsnass"], "dsnas"),
        (["pad-nas", "tabel-8"], "table-8"),
        (["nss", "figure-1"], "figure-s1"),
        (["dsnas", "figure-1"], "a drawing of the idea"),
        (["--write", "/dev/null/papers.md"], "/dev/null"),
        (["dsnas", "table-1", "table-2"], "unrecognized options: table-2"),
        (["dsnas", "table-1", "--scale", "huge"], "invalid choice 'huge'"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(monkeypatch, capsys, words, expected):
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, *words)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(rf"error: [^\n]*{expected}[^\n]*\n", told.err)


def test_the_list_is_json_or_a_line_each(monkeypatch, capsys):
    call(monkeypatch, "nss", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["item"] for row in rows] == [item.name for item in catalogue.PAPERS["nss"].items]
    assert all(row["commands"].keys() == set(SCALES) for row in rows)
    assert call(monkeypatch, "nss", "table-1", "--json") == []
    assert json.loads(capsys.readouterr().out) == rows[:1]
    call(monkeypatch, "nss")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == [row["item"] for row in rows]


def test_all_stands_for_every_paper_and_item():
    assert len(ITEMS) == sum(len(paper.items) for paper in catalogue.PAPERS.values())
    with pytest.raises(UserError, match="expected table-1"):
        catalogue.select("dsnas", "table-11")
    assert isinstance(ITEMS[0][1], Item)
