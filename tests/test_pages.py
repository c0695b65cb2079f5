"""The pages of the documentation: every command and every block of Python is run, at small size, or says why not."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro

from supernet import spaces
from supernet.cli import numbers
from supernet.cli.common import COMMANDS
from supernet.cli.methods import METHODS
from supernet.data import sources
from tests import pages, untidy
from tests.conftest import tiny_space
from tests.notebooks import NOTEBOOKS
from tests.pages import DOCS, ROOT, Command

# Pages that tests of their own run command by command.
ELSEWHERE = {"deploy.md", "int8.md", *NOTEBOOKS}
# Programs that are not ours, in lines that need what is not here: root, a device, a network, a container, hours.
FOREIGN = {"python3", "adb", "apt-get", "docker", "for", "make", "pip", "sudo", "torchrun", "~/.supernet/venv/bin/pip"}
# Commands of ours whose options are checked but that are not run, and why.
NOT_RUN = {
    r"--device cuda": "no such device; those behind adb and ssh are this machine here",
    r"--workers-on ray": "tests/test_ray_executor.py runs workers of Ray",
    r"report .*--(compare|live|figures|tensorboard)": "tests/test_report.py and its neighbours",
    r"attentive-nas|--space mobile ": "minutes of measuring, or of training",
}
DIGITS = ("--data", "digits", "--limit", "300", "--batch-size", "32", "--quiet")
SHORT = {
    "train_supernet": (*DIGITS, "--epochs", "1"),
    "build_lut": ("--rounds", "10", "--check-archs", "2", "--quiet"),
    "evolve": ("--population", "4", "--iterations", "2", "--random", "2", "--val-limit", "60", "--quiet"),
    "specialise": ("--population", "4", "--iterations", "1", "--val-limit", "60", "--export", "pt2", "--quiet"),
    "retrain": ("--epochs", "1", "--limit", "300", "--batch-size", "32", "--jobs", "1", "--quiet"),
    "pad_nas": (*DIGITS, "--epochs", "1", "1", "--population", "4", "--iterations", "2", "--random", "2"),
    "stage_wise": (*DIGITS, "--epochs", "1", "--iterations", "1", "--jobs", "1"),
    "global_nas": (*DIGITS, "--depth", "5", "5", "--width", "6", "6", "--micro-epochs", "1", "--final-epochs", "1"),
}
PETS = ("--batch-size", "16", "--workers", "1", "--quiet")
UNTIDY = {
    **SHORT,
    "check_data": ("--resolution", "16", "--workers", "1", "--damaged", "skip", "--quiet"),
    "train_supernet": ("--space", "space.json", "--resolution", "16", "--epochs", "2", "--damaged", "skip", *PETS),
}


def our_commands() -> list[tuple[str, Command]]:
    """Every command of this project in every page."""
    return [(page, command) for page in pages.pages() for command in pages.commands(page) if command.tool in COMMANDS]


def args_of(command: Command) -> type:
    """The dataclass that parses its options."""
    if command.tool != "train_supernet":
        return importlib.import_module(f"supernet.cli.{command.tool}").Args
    return METHODS[dict(itertools.pairwise(command.words)).get("--method", "spos")]


@pytest.mark.parametrize(("page", "command"), our_commands(), ids=lambda value: str(value)[:60])
def test_every_command_has_options_that_there_are(page, command):
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            numbers.check(tyro.cli(args_of(command), args=command.words, config=(tyro.conf.DisallowNone,)))
        except SystemExit:
            pytest.fail(f"{page}: {command}\n{told.getvalue()}")


INLINE = re.compile(r"`(?:(?:python )?(?:tools/)?(\w+)\.py|supernet ([\w-]+)) ([^`]*)`")


def inline() -> list[tuple[str, str, str]]:
    """Page, tool and words of the commands of ours that stand within sentences."""
    paths = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(DOCS / page for page in pages.pages())]
    texts = {path.relative_to(ROOT).as_posix(): pages.FENCE.sub("", path.read_text("utf-8")) for path in paths}
    found = [(page, m) for page, text in texts.items() for m in INLINE.finditer(" ".join(text.split()))]
    told = [(page, m[1] or pages.TOOLS.get(m[2], ""), m[3]) for page, m in found]
    return [(page, tool, words) for page, tool, words in told if tool in COMMANDS]


def test_commands_within_sentences_have_options_that_there_are():
    assert len(inline()) > 80
    for page, tool, words in inline():
        classes = METHODS.values() if tool == "train_supernet" else [args_of(Command(tool, ()))]
        known = {field.name for args in classes for field in dataclasses.fields(args)} | {"folder", "model", "help"}
        given = {name.replace("-", "_") for name in re.findall(r"(?<!\S)--([a-z][\w-]*)", words)}
        assert {name for name in given if name.removeprefix("no_") not in known and name not in known} == set(), page


def test_a_mistyped_option_is_seen():
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit):
        tyro.cli(args_of(Command("evolve", ())), args=("--lat-most", "3"))


def is_run(command: Command) -> bool:
    """Whether it is to be run here."""
    return command.tool not in FOREIGN and not any(re.search(pattern, f"{command} ") for pattern in NOT_RUN)


def test_every_line_of_a_block_is_a_command_or_foreign():
    """Blocks of anything else say their language."""
    for page in pages.pages():
        for command in pages.commands(page):
            known = command.tool in COMMANDS or command.tool in FOREIGN or command.tool in ("python", "tar")
            assert known, f"{page}: {command}"


def test_every_reason_not_to_run_is_needed():
    told = [f"{command} " for _, command in our_commands()]
    assert all(any(re.search(pattern, line) for line in told) for pattern in NOT_RUN)


def pets(folder: Path) -> None:
    """Pictures, and a space small enough for them."""
    untidy.draw(folder / "pets")
    space = dataclasses.replace(tiny_space(), channels=3, resolution=16, classes=3)
    (folder / "space.json").write_text(json.dumps(space.to_json()))


def nothing(folder: Path) -> None:
    """An empty folder."""


def finished(folder: Path) -> None:
    """A run with a front, where commands look for it by default."""
    shutil.copytree(ROOT / "tests" / "data" / "v0.1" / "spos", folder / "runs" / "default")


# How each page is run: what its folder holds at first, and what makes its commands quick.
SCENARIOS: dict[str, tuple[Callable[[Path], None], dict]] = {
    "start/quickstart.md": (nothing, SHORT),
    "methods/spos.md": (nothing, SHORT),
    "methods/dsnas.md": (nothing, SHORT),
    "methods/nss.md": (nothing, SHORT),
    "methods/pad-nas.md": (nothing, SHORT),
    "methods/stage-wise.md": (nothing, SHORT),
    "methods/global-nas.md": (nothing, SHORT),
    "methods/elastic.md": (nothing, SHORT),
    "images.md": (pets, UNTIDY),
    "devices.md": (finished, SHORT),
    "recipes.md": (finished, SHORT),
    "report.md": (finished, {}),
    "start/install.md": (nothing, {}),
}


def elastic(folder: Path) -> None:
    """elastic-small with the depths of its second stage, in place of the whole, whose table has 212 layers."""
    space = spaces.get("elastic-small", 1, 28, 10)
    few = [
        open_ if gene.name == "stage2.depth" else open_[-1:]
        for gene, open_ in zip(space.genes, space.allowed, strict=True)
    ]
    (folder / "elastic.json").write_text(json.dumps(space.restrict(few).to_json()))


def here(command: Command) -> Command:
    """With the scenarios' folders in place of names that stand for yours, and layers timed without a file for each."""
    names = {"DIR": "pets", "elastic-small": "elastic.json"}
    tool, words = pages.local(Command(command.tool, tuple(names.get(word, word) for word in command.words)))
    plain = tool == "build_lut" and not {"--runtime", "--collect", "--check", "--emit"} & set(words)
    return Command(tool, (*words, "--runtime", "torch") if plain else words)


@pytest.mark.chain
@pytest.mark.parametrize("page", SCENARIOS)
def test_the_page(page, tmp_path):
    prepare, short = SCENARIOS[page]
    prepare(tmp_path)
    elastic(tmp_path)
    found = [here(command) for command in pages.commands(page) if is_run(command)]
    if any(word == "--emit" or word.endswith(".onnx") for command in found for word in command.words):
        pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    list(pages.run(found, tmp_path, short))


def test_every_page_with_commands_is_run():
    found = {page for page, command in our_commands() if is_run(command)}
    assert set(SCENARIOS) | ELSEWHERE == found


# Python that is not run as it stands, and why; it must compile.
NOT_EXECUTED = {
    "known_faults.md": "it writes beyond its memory, or depends on what was there; tests/test_convolution.py has both",
    "own-network.md": "tests/test_own_network.py",
    "deploy.md": "tests/test_deploy_page.py, in the folder that the page's commands make",
}


def python_blocks() -> list[tuple[str, str]]:
    """Every block of Python of every page."""
    return [(page, block) for page in ("../README.md", *pages.pages()) for block in pages.blocks(page, "python")]


@pytest.mark.parametrize(("page", "code"), python_blocks(), ids=[page for page, _ in python_blocks()])
def test_the_python_of_a_page(page, code, tmp_path, monkeypatch, capsys):
    compiled = compile(code, page, "exec")
    if page in NOT_EXECUTED:
        return
    finished(tmp_path)
    (tmp_path / "runs" / "quickstart").symlink_to("default")  # as the README calls it
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "fashion_mnist", sources.digits)  # a seventh of the pictures, and always here
    exec(compiled, {"__name__": page})


def test_every_variable_of_the_environment_is_told():
    told = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    places = ("setup.py", "supernet/**/*.py", "search/*.py", "latency/*.py", "csrc/**/*.cpp", "csrc/**/*.h")
    text = " ".join(path.read_text("utf-8") for place in places for path in ROOT.glob(place))
    used = set(re.findall(r"(?:environ(?:\.get\(|\[)|getenv\()\"(\w+)\"", text))
    assert len(used) > 10
    assert {name for name in used if f"`{name}`" not in told} == set()


def test_the_page_of_files_has_every_file_of_a_run():
    told = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    code = "".join((ROOT / "supernet" / name).read_text("utf-8") for name in ("run_files.py", "training/folder.py"))
    names = set(re.findall(r'"([\w-]+\.(?:jsonl?|pt|html|safetensors))"', code))
    assert len(names) > 10
    assert {name for name in names if f"{name}`" not in told} == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []
