"""The files around the project say what is there: versions, tests, targets."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import supernet

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"


def test_the_workflow_runs_what_is_there():
    jobs = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    tests = re.findall(r"tests/test_\w+\.py", " ".join(commands))
    assert len(tests) >= 5
    assert all((ROOT / test).exists() for test in tests)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert supernet.__version__.split(".dev")[0] == citation["version"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_release_notes_begin_with_this_version():
    version, when = re.search(r"^## ([\d.]+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).groups()
    assert version == supernet.__version__.split(".dev")[0]
    assert (when == "unreleased") == (".dev" in supernet.__version__)
    assert when == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", when)


def test_forms_for_issues_have_what_github_asks_for():
    forms = [yaml.safe_load(path.read_text()) for path in (GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml")]
    assert len(forms) == 2
    for form in forms:
        assert {"name", "description", "body"} <= form.keys()
        assert all({"type", "id", "attributes"} <= field.keys() for field in form["body"])


def test_the_image_has_the_tested_versions():
    pinned = set(re.findall(r"torch(?:vision)?==[\d.]+", (ROOT / "Dockerfile").read_text()))
    tested = set(re.findall(r"^torch(?:vision)?==[\d.]+", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pinned == tested


def test_wheels_are_compiled_by_the_tested_pytorch_and_require_it():
    project = (ROOT / "pyproject.toml").read_text()
    told, pinned = re.search(r"s/(.+?)/(.+?)/' pyproject.toml", project).groups()
    tested = re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    assert pinned.replace("\\", "") == f'"{tested}"'
    assert project.count(told.replace("\\", "")) == 2  # what compiles it, and what it requires


def test_wheels_are_for_every_python_that_is_supported():
    project = (ROOT / "pyproject.toml").read_text()
    built = [int(minor) for minor in re.findall(r"cp3(\d+)-\*", project)]
    least = int(re.search(r'requires-python = ">=3\.(\d+)"', project)[1])
    assert built == list(range(least, least + len(built)))
    assert len(built) >= 4


def test_the_container_for_developers_builds_what_make_builds():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    target = re.search(r"make (\S+)$", container["onCreateCommand"])[1]
    assert target == ".venv/built"
    assert re.search(r"^\$\(VENV\)/built:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("measured", [True, False])
def test_the_quickstart_measures_the_device_once(measured, tmp_path):
    """Another table would be another bound, another search and other networks to train."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "run").mkdir()
    if measured:
        (tmp_path / "run" / "lut.json").touch()
    words = ("make", "--silent", "quickstart", f"BIN={tmp_path}", f"RUN={tmp_path / 'run'}", f"VENV={tmp_path}")
    kept = ("--old-file", f"{tmp_path}/built")  # neither installed nor compiled
    told = subprocess.run((*words, *kept), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("build_lut.py" in told) == (not measured)
    assert "evolve.py" in told
