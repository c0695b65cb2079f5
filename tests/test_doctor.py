"""The command that says what is built and installed, and the operators' own test."""

from __future__ import annotations

import inspect
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from supernet import ops, quantized, selftest
from supernet.cli import doctor

CPU = torch.device("cpu")


def test_the_self_test_has_every_operator():
    offered = {name for name, function in inspect.getmembers(ops, inspect.isfunction) if not name.startswith("_")}
    offered -= {"build_info"}
    eight = {f"{name}_int8" for name in ("dw_separable", "inverted_bottleneck") if hasattr(quantized, name)}
    outcomes = list(selftest.run([CPU]))
    assert {outcome.name for outcome in outcomes} == offered | eight
    assert all(outcome.fine for outcome in outcomes)


WRONG = [(ops, "depthwise_conv2d"), (ops, "inverted_bottleneck"), (quantized, "dw_separable")]


@pytest.mark.parametrize(("module", "name"), WRONG)
def test_an_operator_that_is_wrong_is_named(module, name, monkeypatch, capsys):
    whole = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **options: whole(*args, **options).roll(1, 1))
    wrong = [outcome.name for outcome in selftest.run([CPU]) if not outcome.fine]
    assert wrong == [name if module is ops else f"{name}_int8"]
    monkeypatch.setattr(sys, "argv", ["doctor.py", "--json"])
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert f"1 of 10 operators differ from PyTorch's: {wrong[0]} on cpu" in told.err
    assert [row["fine"] for row in json.loads(told.out)["operators"]].count(False) == 1


def test_a_gradient_that_is_no_number_is_wrong(monkeypatch):
    whole = ops.depthwise_conv2d
    monkeypatch.setattr(ops, "depthwise_conv2d", lambda x, w, **how: whole(x, w, **how) + (0 * w).sum().sqrt())
    assert [outcome.name for outcome in selftest.run([CPU]) if not outcome.fine] == ["depthwise_conv2d"]


def test_an_operator_that_raises_does_not_hide_the_others(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(ops, "depth_mix", broken)
    found = {outcome.name: outcome for outcome in selftest.run([CPU])}
    assert found["depth_mix"].error == "RuntimeError: no such kernel"
    assert math.isnan(found["depth_mix"].difference)
    assert [name for name, outcome in found.items() if not outcome.fine] == ["depth_mix"]


def test_extras_say_their_version_or_how_to_get_it(monkeypatch):
    required = [
        "numpy>=1",
        "onnx>=1; extra == 'onnx'",
        'no-such-package>=2 ; extra == "other"',
        "pytest; extra == 'test'",
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: required)
    monkeypatch.setattr(doctor, "PYPROJECT", Path("not installed from its sources"))
    rows = {row["package"]: row for row in doctor.extras()}
    assert set(rows) == {"onnx", "no-such-package"}
    assert rows["no-such-package"]["command"] == "pip install 'supernet[other]'"
    assert rows["onnx"]["extra"] == "onnx"


def test_the_extras_are_those_of_the_project():
    told = {row["extra"] for row in doctor.extras()}
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    assert told | set(doctor.FOR_DEVELOPERS) == set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    assert ("openvino", "nncf") in doctor.required()


def test_it_tells_what_is_here(monkeypatch, capsys):
    rows = [{"extra": "other", "package": "none", "version": None, "command": "pip install 'supernet[other]'"}]
    monkeypatch.setattr(doctor, "extras", lambda: rows)
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    doctor.main()
    told = capsys.readouterr().out
    for wanted in (
        torch.__version__,
        ops.build_info()["cpu_capability"],
        "every operator gives what",
        "supernet[other]",
        "free memory, GiB  ",
    ):
        assert wanted in told
    (of_steps,) = (line.split() for line in told.splitlines() if line.startswith("dw_separable_int8 "))
    assert int(of_steps[2]) <= int(of_steps[3]) == 2  # of 255


def test_without_the_operators_it_tells_the_rest_and_what_to_do(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "supernet.selftest", None)
    monkeypatch.delattr("supernet.selftest", raising=False)
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert torch.__version__ in told.out
    assert told.err.startswith("error: ")
    assert len(told.err.splitlines()) == 1
