"""Files from anywhere: every parser ends in a valid object or a UserError, whatever is changed in a good file.

SUPERNET_FUZZ=N is the number of cases of each parser; `make test-long` takes 10,000.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency import bundle, measure
from latency.partial import Partial
from latency.table import LatencyTable
from search import efficient_global, stage_wise
from search.ces import CES, CESConfig
from search.run import SearchRun
from supernet import answers, donors, files, mistakes, retraining, shape, timm
from supernet.errors import CheckpointError, UserError
from supernet.report import load, methods, page
from supernet.runs import RunFolder
from supernet.space import Space
from supernet.training import checkpoint
from tests.conftest import refused, tiny_space

OLD = Path(__file__).parent / "data" / "v0.1"
CASES = int(os.environ.get("SUPERNET_FUZZ", 60))
HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [-1, 0, 1, 2, 99, 2**31, 2**61, 10**9, -(2**63), 10**40, 0.5, -0.0, 1e9, 1e308, "", "²", "٣", "-1"]
    ),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
TEXTS = (
    "", "[]", "{}", "null", "1", "[" * 100_000, '{"a":' * 50_000, "9" * 5000, "NaN", "[Infinity]", "1e999", "\ud800",
    '{"schema": 1}', '{"schema": ' + "9" * 5000 + "}", "﻿{}", '"\\ud800"', '{"a": 1',
)  # fmt: skip


def places(data: Any, here: tuple = ()) -> list[tuple]:
    """Every place in JSON data, the whole included."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [here, *(place for key, value in inner for place in places(value, (*here, key)))]


@st.composite
def changed(draw: Callable, data: Any) -> str:
    """The text of ``data`` with a few values replaced, removed or repeated, or with bytes cut off or changed."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(data)[1:] or [(0,)]))
        inner = data
        for key in way:
            inner = inner[key]
        action = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if action == "replace" or not isinstance(inner, (dict, list)):
            inner[last] = draw(HOSTILE)
        elif action == "remove":
            del inner[last]
        elif isinstance(inner, list):
            inner.append(copy.deepcopy(inner[last]))
        if not places(data)[1:]:
            break
    text = json.dumps(data)
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(["", "9" * 5000, "[" * 3000, "\0", ",", '"', text[place + 1 :]]))
    return text


class Known:
    """An evaluator that was asked nothing yet."""

    def __init__(self) -> None:
        self.scores: dict = {}


def searched(folder: Path) -> None:
    """Open a search with its scores and its log."""
    space = Space.load(OLD / "spos" / "space.json")
    search = CES(space, {"flops": lambda arch: float(sum(arch))}, {}, ["flops"], CESConfig(4, 2))
    evaluator = Known()
    run = SearchRun(folder, search, evaluator, {"checkpoint": "weights"})  # type: ignore[arg-type]
    assert all(arch in space and 0 <= accuracy <= 1 for arch, accuracy in evaluator.scores.items())
    assert run.search.done or run.search.ask()


def global_state() -> tuple[Any, Callable[[Any], Any]]:
    def controller() -> efficient_global.EfficientGlobal:
        config = efficient_global.Config(depth=(3, 4), width=(4, 8), epochs=1)
        return efficient_global.EfficientGlobal(config, lambda c: c.width * c.depth)

    search = controller()
    for _ in range(3):
        asked = search.ask()
        assert asked is not None
        search.tell(asked, 50.0, 50.0)
    return files.plain(search.state_dict()), lambda data: controller().load_state_dict(data)


def stage_state() -> tuple[Any, Callable[[Any], Any]]:
    config = stage_wise.Config(initial=2, step=1, iterations=2)
    search = stage_wise.StageWise(config)
    for alpha in ((0.9, 0.9, 0.9), (0.8, 0.95, 0.91)):
        asked = search.ask()
        assert asked is not None
        search.tell(asked, alpha)
    return files.plain(search.state()), lambda data: stage_wise.StageWise(config).replay(data, "search.json")


def ces_state() -> tuple[Any, Callable[[Any], Any]]:
    def search() -> CES:
        return CES(tiny_space(), {"flops": lambda arch: float(sum(arch))}, {}, ["flops"], CESConfig(4, 3))

    first = search()
    archs = first.ask()
    first.tell(archs, [0.1 * i for i in range(len(archs))])
    return files.plain(first.state_dict()), lambda data: search().load_state_dict(data)


def samples() -> tuple[Any, Callable[[Path], Any]]:
    header = {"space": {"name": "a", "fingerprint": "f"}, "device": {"cpu": "x"}, "runtime": {"name": "onnxruntime"}}
    header |= {"batch": 1, "threads": 1, "input": [1, 28, 28], "protocol": {"rounds": 12}}
    visits = {"layer": [[1.0, 1.0], [1.1, None]]}
    data = {"schema": bundle.SCHEMA, "finished": True, "header": header, "layers": visits, "networks": visits}
    return data, lambda path: bundle.read_samples(path, "f", {"layer"})


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def space() -> Space:
    return Space.load(OLD / "spos" / "space.json")


def of_state(load: Callable[[Any], Any]) -> Callable[[Path], Any]:
    return lambda path: load(files.read_json(path, "state"))


def partial(path: Path) -> None:
    Partial(path, {"input": (1, 2, 3)}, lambda note: None)


STAGE = {"stage": 1, "size": 9, "pruned_size": 3, "best": 0.5, "distribution": [{"a": 0.5, "b": 0.5}, {"a": 1.0}]}
MODULES = {"role": "A", "iteration": 1, "name": "A 1", "modules": [2, 3], "val_accuracy": 0.5}
RANK = {"archs": [[0, 0, 0], [0, 0, 1]], "one_shot": {"recalibrated": [0.5, 0.6]}, "trained_alone": [[0.7], [0.8]]}
RANK |= {"rankings": {"one-shot": {"tau": 1.0}}}
DEVICES = {"networks": [{"name": "a", "file": "a.onnx", "layers": "x", "bound_ms": 1.0, "latency_ms": 0.9}]}


@functools.cache
def whole_run() -> load.Run:
    return load.Run.load(RunFolder(OLD / "spos"))


def page_of(section: Callable[[page.Page], str], up: int = 0) -> Callable[[Path], None]:
    """Draws a section of the page about a run that holds the file, so many folders further down."""

    def draw(path: Path) -> None:
        made = page.Page([dataclasses.replace(whole_run(), folder=RunFolder(path.parents[up]))])
        section(made)
        for plot in made.plots.values():
            plot.to_json()

    return draw


def parsers() -> dict[str, tuple[str, Any, Callable[[Path], Any]]]:
    """By name: the file's name, good data, and what reads it from its path."""
    run = OLD / "spos"
    found = {name: (name, read(run / name)) for name in ("config.json", "space.json", "lut.json", "front.json")}
    return {
        "config": (*found["config.json"], lambda path: RunFolder(path.parent).config()),
        "space": (*found["space.json"], lambda path: Space.load(path)),
        "lut": (*found["lut.json"], lambda path: (LatencyTable.load(path), measure_protocol(path))),
        "front": (*found["front.json"], front),
        "result": ("best/result.json", read(run / "best/result.json"), lambda p: RunFolder(p.parents[1]).results()),
        "classes": (
            "classes.json",
            {"schema": 1, "classes": [{"name": "a", "images": 3, "recall": 1, "precision": 0.5}], "confusion": [[3]]},
            answers.read,
        ),
        "mistakes": (
            "mistakes.json",
            {"schema": 1, "of": 9, "images": [{"class": "a", "taken_for": "b", "sure": 0.5, "png": "iVBO"}]},
            mistakes.read,
        ),
        "stage": ("supernet-1/stage.json", STAGE, page_of(methods.pruning, 1)),
        "ranges": (
            "elite-340000/probabilities.json",
            read(OLD / "nss/elite-340000/probabilities.json"),
            page_of(methods.ranges, 1),
        ),
        "modules": ("networks/T/result.json", MODULES, page_of(methods.depths, 2)),
        "candidates": ("search.json", read(OLD / "global/search.json"), page_of(methods.greedy)),
        "ranking": ("rank/rank.json", RANK, page_of(methods.ranking, 1)),
        "devices": ("specialised/networks.json", DEVICES, page_of(methods.specialised, 1)),
        "found": ("arch.json", read(OLD / "global/arch.json"), lambda path: RunFolder(path.parent).found()),
        "architecture": ("arch.json", read(OLD / "global/arch.json"), timm.read_arch),
        "probabilities": (
            "probabilities.json",
            read(OLD / "nss/elite-340000/probabilities.json"),
            lambda path: RunFolder(path.parent).probabilities(),
        ),
        "search": ("search.json", read(run / "search.json"), lambda path: searched(path.parent)),
        "samples": ("samples.json", samples()[0], samples()[1]),
        "partial": (
            "a.partial.json",
            {"header": {"input": [1, 2, 3]}, "layers": [{"a": [[1, 2]]}], "networks": {}},
            partial,
        ),
        "CES": ("search.json", ces_state()[0], of_state(ces_state()[1])),
        "Global NAS": ("search.json", global_state()[0], of_state(global_state()[1])),
        "Stage-Wise NAS": ("search.json", stage_state()[0], of_state(stage_state()[1])),
    }


def measure_protocol(path: Path) -> measure.Protocol:
    return measure.Protocol(**LatencyTable.load(path).protocol)


def front(path: Path) -> None:
    """As retraining takes it."""
    here = RunFolder(path.parent).front(space())
    for name in ("best", "knee", "all", "0", "²", "9" * 5000):
        try:
            picked = retraining.picked(here, name, 2)
        except UserError:
            continue
        assert all(space().check(entry["arch"]) in space() for entry in picked.values())


PARSERS = parsers()
SETTINGS = settings(
    max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=CASES <= 100, database=None
)


@pytest.mark.parametrize("name", PARSERS)
def test_good_files_are_read(name, tmp_path):
    file, data, parse = PARSERS[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(data))
    parse(path)


@pytest.mark.parametrize("name", PARSERS)
def test_changed_files_are_read_or_refused(name, tmp_path):
    file, data, parse = PARSERS[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True, parents=True)

    def try_text(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(UserError):
            parse(path)

    for text in TEXTS:
        try_text(text)
    SETTINGS(given(changed(data))(try_text))()


@pytest.mark.parametrize("file", ["front.json", "best/result.json", "metrics.jsonl", "population.jsonl"])
def test_a_page_is_made_of_changed_files_or_refused(file, tmp_path):
    run = Path(shutil.copytree(OLD / "spos", tmp_path / "run"))
    lines = [json.loads(line) for line in (run / file).read_text().splitlines()] if file.endswith("l") else None

    def try_page(text: str) -> None:
        (run / file).write_bytes(text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(UserError):
            page.Page([load.Run.load(RunFolder(run))]).render()

    texts = (
        changed(read(run / file))
        if lines is None
        else st.lists(changed(lines[0]), max_size=3).map(lambda texts: "".join(f"{text}\n" for text in texts))
    )
    settings(SETTINGS, max_examples=min(CASES // 3, 100))(given(texts)(try_page))()


@pytest.mark.parametrize("name", ["scores.jsonl", "population.jsonl", "metrics.jsonl"])
def test_changed_logs_are_read_without_what_is_damaged(name, tmp_path):
    good = [json.loads(line) for line in (OLD / "spos" / name).read_text().splitlines()]
    path = tmp_path / name

    def try_text(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass") + b"\n" + json.dumps(good[-1]).encode() + b"\n")
        run = RunFolder(tmp_path)
        log = {"scores.jsonl": run.scores, "population.jsonl": run.population, "metrics.jsonl": run.metrics}[name]
        lines = log.read()
        assert lines[-1] == good[-1]
        if name == "scores.jsonl":
            searched(tmp_path)

    for text in TEXTS:
        try_text(text)
    SETTINGS(given(changed(good[-1]))(try_text))()


# --- checkpoints


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> bytes:
    """A checkpoint of today with the content of one of version 0.1."""
    path = tmp_path_factory.mktemp("weights") / "checkpoint.pt"
    checkpoint.save(path, checkpoint.load(OLD / "spos" / "best" / "checkpoint.pt"))
    return path.read_bytes()


@pytest.mark.parametrize("age", ["new", "0.1"])
def test_a_damaged_checkpoint_is_never_used_with_other_weights(age, weights, tmp_path):
    whole = weights if age == "new" else (OLD / "spos" / "best" / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(whole)
    good = checkpoint.load(path)["model"]

    def try_bytes(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = checkpoint.load(path)["model"]
        except CheckpointError:
            return
        assert found.keys() == good.keys()
        assert all(torch.equal(found[name], good[name]) for name in good)

    @SETTINGS
    @given(st.integers(0, len(whole) - 1), st.integers(0, 7), st.sampled_from(["flip", "cut", "zero", "add"]))
    def damage(place: int, bit: int, kind: str) -> None:
        changed = bytearray(whole)
        if kind == "flip":
            changed[place] ^= 1 << bit
        elif kind == "cut":
            del changed[place:]
        elif kind == "zero":
            changed[place : place + 512] = bytes(len(changed[place : place + 512]))
        else:
            changed[place:place] = b"\0"
        try_bytes(bytes(changed))

    damage()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    shutil.copytree(OLD / "spos", tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    for folder, open_ in (
        (run, lambda: run.supernet(run.space(), torch.device("cpu"), "eager")),
        (run.network("best"), lambda: run.network("best").trained(run.space())),
    ):
        state = checkpoint.load(folder.checkpoint)
        state["model"]["stem.conv.weight"].view(-1)[0] = value
        checkpoint.save(folder.checkpoint, state)
        assert "not finite" in refused(open_)


def test_plain_values_of_other_types_in_a_checkpoint_are_refused(tmp_path):
    shutil.copytree(OLD / "spos", tmp_path / "run")
    run, good = RunFolder(tmp_path / "run"), checkpoint.load(OLD / "spos" / "best" / "checkpoint.pt")
    path = run.network("best").checkpoint

    @SETTINGS
    @given(st.sampled_from(["meta", "finished", "model", "arch", "space", "kind", "eps"]), HOSTILE)
    def replace(name: str, value: object) -> None:
        state = {**good, name: value} if name in good else {**good, "meta": {**good["meta"], name: value}}
        torch.save(state, path)
        with contextlib.suppress(UserError):
            run.network("best").trained(run.space())

    replace()


# --- donors, numbers, shapes


@pytest.mark.parametrize(
    "key", ["layer1.900000000.conv1.weight", f"layer1.{'9' * 5000}.conv1.weight", "layer0.0.bn1.bias"]
)
def test_donors_with_hanging_keys_are_refused(key):
    small = {
        "conv1.weight": torch.zeros(4, 3, 7, 7),
        "fc.weight": torch.zeros(10, 4),
        "layer1.0.conv1.weight": torch.zeros(1),
    }
    refused(donors.from_resnet, {**small, key: torch.zeros(1)}, "donor.pth")


def test_protocols_and_cores_have_bounds():
    refused(lambda: measure.Protocol(rounds=10**9))
    refused(lambda: measure.Protocol(visit_ms=math.nan))
    refused(lambda: measure.Protocol(rounds="12"))  # type: ignore[arg-type]
    refused(measure.parse_cores, "0-99999999999")
    refused(measure.parse_cores, "²")
    assert measure.parse_cores("0,2-3") == {0, 2, 3}


def test_sizes_of_spaces_have_bounds():
    data = tiny_space().to_json()
    del data["fingerprint"]
    data["genes"][0]["stride"] = 2**61
    assert "at most" in refused(Space.from_json, data)


@pytest.mark.parametrize(
    ("expected", "good", "bad"),
    [
        (int, [1, -(10**30)], [1.0, True, "1", None]),
        (float, [1, 0.5], [math.inf, math.nan, True, "1"]),
        (shape.SHARE, [0, 1, 0.5], [-0.1, 1.1, math.nan, False]),
        (shape.COUNT, [0, 7], [-1, 1.0, 2**60]),
        ((None, str), [None, "a"], [1, ["a"]]),
        (("a", "b"), ["a", "b"], ["c", 1, None, ["a"]]),
        ([int], [[], [1, 2]], [[1, "2"], {}, None]),
        ([int, str], [[1, "a"]], [[1], [1, "a", "b"], ["a", 1]]),
        ({"a": int, "b?": str}, [{"a": 1}, {"a": 1, "b": "", "c": None}], [{}, {"a": 1, "b": 1}, {"b": ""}, []]),
        ({str: int}, [{}, {"x": 1}], [{"x": "1"}, [1]]),
        (1, [1], [True, 1.0, 2, "1"]),
    ],
)
def test_shapes(expected, good, bad):
    for data in good:
        shape.require(data, expected)
    for data in bad:
        with pytest.raises(ValueError, match=r"expected|has no"):
            shape.require(data, expected)


def test_a_shape_names_the_place():
    with pytest.raises(ValueError, match=r"front\[1\]\.arch\[0\] is 'x', expected a whole number"):
        shape.require({"front": [{"arch": [1]}, {"arch": ["x"]}]}, {"front": [{"arch": [int]}]})
