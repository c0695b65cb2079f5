"""Configurations of the authors: there and back, and whatever else a file may hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet import configurations, families, spaces
from supernet.errors import UserError
from supernet.export import formats
from supernet.families import elastic_presets
from tests.conftest import refused, tiny_space
from tests.test_cli import ok
from tests.test_cli import refused as command_refused
from tests.test_elastic import ROWS

ELASTIC = sorted(elastic_presets.PRESETS)
LENGTHS = st.sampled_from([1, 4, 5, 6, 7, 9, 18, 20, 21])
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 6, 7, 0.2, 0.25, 0.35, 16, 224, 192, "min", "max", None, True, "x", 10**30])
VALUES = st.one_of(NUMBERS, LENGTHS.flatmap(lambda n: st.lists(NUMBERS, min_size=n, max_size=n)))
NAMES = st.sampled_from(
    ["ks", "e", "d", "w", "r", "resolution", "width", "depth", "kernel", "expand", "cfg", "arch", "tag"]
)
FILES = st.recursive(
    st.one_of(VALUES, st.floats(), st.text()), lambda inner: st.dictionaries(NAMES, inner), max_leaves=8
)


@pytest.mark.parametrize("name", ELASTIC)
def test_configurations_give_the_architecture_back(name):
    space = spaces.usual(name)
    rng = np.random.default_rng(0)
    for arch in (space.sample(rng) for _ in range(20)):
        written = json.loads(json.dumps(configurations.configuration(space, arch)))
        assert configurations.arch(space, written) == arch
        assert configurations.arch(space, {"arch": list(arch)}) == arch


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ELASTIC), FILES)
def test_any_content_is_an_architecture_or_refused(name, content):
    space = spaces.usual(name)
    try:
        outcome: object = configurations.arch(space, content)
    except UserError as error:
        outcome = str(error)
    assert "\n" not in outcome if isinstance(outcome, str) else outcome in space


def test_one_number_stands_for_all_and_the_images_resolution_is_the_default():
    space = spaces.usual("ofa-mobilenetv3")
    arch = configurations.arch(space, {"ks": 7, "e": 6, "d": 4})
    assert arch == configurations.arch(space, {"cfg": "max", "resolution": 224})
    assert arch == configurations.arch(space, {"ks": [7] * 20, "e": [6] * 20, "d": [4] * 5, "r": [224], "wid": None})


def test_what_authors_write_beside_a_configuration_is_no_part_of_it():
    space, row = spaces.usual("attentive-nas"), ROWS["attentive-nas a0"]
    published = {  # of AttentiveNAS's configs/eval_attentive_nas_models.yml
        "model": "attentive_nas_a0",
        "resolution": 192,
        "width": [16, 16, 24, 32, 64, 112, 192, 216, 1792],
        "kernel_size": [3] * 7,
        "expand_ratio": [1, 4, 4, 4, 4, 6, 6],
        "depth": [1, 3, 3, 3, 3, 3, 1],
    }
    for beside in ({}, {"net_id": "a0"}):
        counts = configurations.counts(space, configurations.arch(space, published | beside))
        assert (counts["macs"], counts["params"]) == (row["macs"], row["params"])


def test_widths_of_the_resnet_are_places():
    space = spaces.usual("ofa-resnet50")
    arch = configurations.arch(space, {"d": [2, 0, 1, 2, 0], "e": 0.25, "w": [1, 0, 0, 1, 2, 0]})
    specs = families.lower(space, arch)
    assert [spec.out_channels for spec in specs[:3]] == [24, 24, 40]  # the stem's middle 24 is 0.65 and 0.8 of 32
    stages = [spec for spec in specs if spec.op.startswith("resnet_d")]
    assert [spec.out_channels for spec in stages] == [168] * 2 + [408] * 3 + [1024] * 6 + [1328] * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "configuration is [], expected an object, min or max"),
        ({"ks": 7, "e": 6}, "has no depth: expected 5 numbers"),
        ({"ks": 9, "e": 6, "d": 4}, "kernel 9, expected one of 3, 5, 7"),
        ({"ks": [7] * 19, "e": 6, "d": 4}, "has 19 numbers for kernel, expected 20"),
        ({"ks": 7, "e": 6, "d": 4, "width": 16}, "has width, but space ofa-mobilenetv3 has resolution, depth"),
        ({"ks": 7, "e": 6, "d": 4, "lr": 1}, "unknown field 'lr'"),
        ({"ks": 7, "kernel": 5, "e": 6, "d": 4}, "two values for kernel"),
        ({"cfg": {"ks": 7, "e": 6, "d": 4, "r": 224}, "resolution": 192}, "two values for resolution"),
        ({"ks": 7, "e": 6, "d": 4, "r": [192, 224]}, "has 2 numbers for resolution, expected 1"),
        ({"arch": [0.5]}, "expected a list of indices"),
        ({"arch": [0]}, "configuration: space ofa-mobilenetv3 has 49 genes"),
    ],
)
def test_what_is_wrong_is_said(content, says):
    assert says in refused(configurations.arch, spaces.usual("ofa-mobilenetv3"), content)


def test_other_spaces_take_indices_only():
    space = tiny_space()
    assert configurations.arch(space, {"arch": [0, 1, 2]}) == (0, 1, 2)
    assert "is not elastic" in refused(configurations.arch, space, {"d": 1})


def test_the_command_counts(tmp_path):
    file = tmp_path / "a0.json"
    row = ROWS["attentive-nas a0"]
    file.write_text(json.dumps(row))
    at = ("--space", "attentive-nas", "--config", file)
    whole = json.loads(ok("count", *at, "--json"))
    assert (whole["macs"], whole["params"]) == (row["macs"], row["params"])
    layers = json.loads(ok("count", *at, "--json", "--layers"))["layers"]
    assert sum(layer["macs"] for layer in layers) == row["macs"]
    assert sum(layer["params"] for layer in layers) == row["params"]
    assert f"{row['macs']:,} multiply-adds" in ok("count", *at, "--layers")
    file.write_text("[")
    assert "is not JSON" in command_refused("count", *at)
    assert "cannot read" in command_refused("count", "--space", "attentive-nas", "--config", tmp_path / "none.json")


def test_a_network_of_ones_own_is_counted_as_it_is(tmp_path):
    """Two convolutions and a layer of the logits, for grey images and three classes, by hand; no data."""
    file = tmp_path / "grey.py"
    file.write_text("""
from torch import nn

def network(channels, classes):
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)
    return nn.Sequential(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 1), *ends)
""")
    at = ("--model", f"{file}:network", "--resolution", "8", "--channels", "1", "--classes", "3")
    told = json.loads(ok("count", *at, "--json"))
    assert told["params"] == 32 * (9 + 1) + 16 * (32 + 1) + 3 * (16 + 1)
    assert told["macs"] == 64 * (32 * 9 + 16 * 32) + 3 * 16
    assert {gene["gene"]: gene["counts"] for gene in told["genes"]} == {"width 0": [8, 16, 24, 32], "width 2": [8, 16]}
    assert told["whole"] == {"5": "they are the network's output"}
    assert told["difference"] < 1e-5
    printed = ok("count", *at)
    assert "they are the network's output" in printed
    assert "their logits differ by" in printed
    space = tmp_path / "space.json"
    space.write_text(json.dumps(tiny_space().to_json()))
    message = command_refused("count", "--space", space, "--config", file, "--classes", "999")
    assert "leave out channels and classes" in message


def test_a_configuration_is_exported_and_trained(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parent / "data" / "v0.1" / "spos", run)
    front = json.loads((run / "front.json").read_text())
    file = tmp_path / "arch.json"
    file.write_text(json.dumps({"arch": front["random"][0]["arch"]}))
    at = ("--run", run, "--arch-config", file)
    ok("export", *at, "--output", tmp_path / "net.pt2", "--recalibration", 2, 64)
    metadata = formats.read_metadata(tmp_path / "net.pt2")
    assert metadata["arch"] == front["random"][0]["arch"]
    (run / "front.json").unlink()
    ok("retrain", *at, "--epochs", 1, "--limit", 320, "--batch-size", 32, "--quiet")
    assert json.loads((run / "config" / "result.json").read_text())["arch"] == metadata["arch"]
    file.write_text('{"arch": []}')
    assert "genes, the architecture has 0" in command_refused("retrain", *at)
