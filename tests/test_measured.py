"""The files that say which kernels are the faster on which GPU."""

from __future__ import annotations

import json

import pytest
from conftest import refused

from supernet.training import measured


def test_what_was_measured_here_comes_before_what_is_shipped(tmp_path):
    shipped, here = tmp_path / "shipped.json", tmp_path / "here.json"
    shipped.write_text('{"A": {"kernels": "fused"}, "B": {"kernels": "eager"}}')
    assert [measured.kernels(gpu, (shipped, here)) for gpu in "ABC"] == ["fused", "eager", "eager"]
    here.write_text('{"B": {"kernels": "fused", "step_ratio": {"float32": 1.5}}, "C": {"kernels": "fused"}}')
    assert [measured.kernels(gpu, (shipped, here)) for gpu in "ABC"] == ["fused", "fused", "fused"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not a readable table of GPUs and kernels"),
        ('{"A": {"kernels": "fus', "is not a readable table of GPUs and kernels"),
        ("[]", "expected an object"),
        ('{"A": "fused"}', "A is 'fused', expected an object"),
        ('{"A": {}}', "A has no 'kernels'"),
        ('{"A": {"kernels": "fussed"}}', "A.kernels is 'fussed', expected 'fused' or 'eager'"),
    ],
)
def test_a_damaged_file_is_refused(text, told, tmp_path):
    (tmp_path / "here.json").write_text(text)
    assert told in refused(measured.kernels, "B", (tmp_path / "here.json",))


def test_what_is_shipped_can_be_read():
    shipped = json.loads(measured.SHIPPED.read_text())
    assert {gpu: measured.kernels(gpu, (measured.SHIPPED,)) for gpu in shipped} == {
        gpu: entry["kernels"] for gpu, entry in shipped.items()
    }
