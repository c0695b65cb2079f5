import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.errors import UserError
from supernet.space import Space
from tests.conftest import refused, tiny_space


def test_enumerate_is_every_combination_and_size_counts_them():
    space = tiny_space().restrict([{0, 2}, {1}, {0, 1, 3}])
    expected = list(itertools.product((0, 2), (1,), (0, 1, 3)))
    assert space.enumerate() == expected
    assert space.size == 6


def test_samples_are_uniform():
    space = tiny_space(2)
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(space.enumerate(), 0)
    n = 12_000
    for _ in range(n):
        counts[space.sample(rng)] += 1
    expected = n / space.size
    chi2 = sum((c - expected) ** 2 / expected for c in counts.values())
    assert chi2 < 31.3  # the .999 quantile of chi² with 11 degrees of freedom


def test_restrict_keeps_indices_and_fingerprint():
    space = tiny_space()
    pruned = space.restrict([{1, 2}, {3}, {0, 1, 2, 3}])
    assert pruned.allowed == ((1, 2), (3,), (0, 1, 2, 3))
    assert pruned.decode((1, 3, 0)) == space.decode((1, 3, 0))
    assert pruned.fingerprint == space.fingerprint
    assert (0, 3, 0) not in pruned
    assert (0, 3, 0) in space


def test_restrict_never_empties_a_layer():
    with pytest.raises(UserError, match="layer1"):
        tiny_space().restrict([{0}, set(), {0}])


@given(st.lists(st.integers(-2, 6), max_size=5))
def test_check_takes_members_only(indices):
    space = tiny_space()
    if tuple(indices) in set(space.enumerate()):
        assert space.check(indices) == tuple(indices)
    else:
        with pytest.raises(UserError, match=r"genes|allows"):
            space.check(indices)


def test_json_round_trip_keeps_everything():
    space = tiny_space().restrict([{0, 1}, {2, 3}, {0}])
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_an_edited_file_is_refused(tmp_path):
    data = tiny_space().to_json()
    data["genes"][0]["out_channels"] = 99
    (tmp_path / "space.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="edited or damaged"):
        Space.load(tmp_path / "space.json")


@pytest.mark.parametrize("data", [[], {}, {"schema": 1}, {"schema": 1, "genes": [{}], "allowed": 3}, {"schema": 9}])
def test_something_else_is_refused(data):
    with pytest.raises(UserError):
        Space.from_json(data, "x.json")


def test_another_spaces_file_names_both():
    a, b = tiny_space(2), tiny_space(3)
    with pytest.raises(UserError, match=rf"{a.fingerprint}.*{b.fingerprint}"):
        b.require(a.fingerprint, "lut.json")


def test_sample_where_gives_up():
    assert tiny_space().sample_where(np.random.default_rng(0), lambda arch: False, tries=10) is None


def by_hand(**changed) -> dict:
    """A space file as a person writes it: without what the library adds."""
    data = tiny_space().to_json()
    del data["fingerprint"], data["allowed"]
    return data | changed


def test_a_file_by_hand_needs_no_fingerprint_and_no_allowed(tmp_path):
    space = Space.from_json(by_hand())
    assert space == tiny_space()
    assert space.fingerprint == tiny_space().fingerprint
    pruned = Space.from_json(by_hand(allowed=[[0], [1, 2], [3]]))
    assert pruned == tiny_space().restrict([{0}, {1, 2}, {3}])
    with pytest.raises(UserError, match="says fingerprint None"):
        Space.from_json(by_hand(fingerprint=None))


def gene(**changed) -> dict:
    return {"genes": [by_hand()["genes"][0] | changed, *by_hand()["genes"][1:]]}


def choice(**changed) -> dict:
    return gene(choices=[{"op": "ib", "kernel": 3, "expand": 1} | changed])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": "1"}, "the space has channels '1', expected a whole number"),
        ({"channels": True}, "the space has channels True, expected a whole number"),
        ({"channels": 1.0}, "the space has channels 1.0, expected a whole number"),
        ({"channels": 0}, "space tiny: channels 0: expected at least 1"),
        ({"resolution": -1}, "space tiny: resolution -1: expected at least 1"),
        ({"stem_stride": 0}, "stem_stride 0: expected at least 1"),
        ({"head_channels": -1}, "head_channels -1: expected at least 0"),
        ({"name": 3}, "the space has name 3, expected text"),
        ({"dropout": "no"}, "the space has dropout 'no', expected a number"),
        ({"dropout": 1}, "dropout 1: expected a share in [0, 1)"),
        ({"dropout": math.nan}, "expected a finite number, found NaN"),
        ({"squeeze_excite": 1}, "the space has squeeze_excite 1, expected true or false"),
        ({"init": "zeros"}, "init 'zeros': expected one of kaiming, spos, pytorch"),
        ({"clases": 3}, "the space has the unknown field 'clases', expected name, channels, resolution, classes"),
        ({"operations": []}, "the unknown field 'operations'"),
        ({"genes": {}}, "the space has no list 'genes'"),
        ({"genes": []}, "no genes: expected at least one"),
        ({"genes": [3]}, "gene 0 has no list 'choices'"),
        ({"allowed": 3}, "the space has no list 'allowed'"),
        ({"allowed": [[0], [0], 0]}, "allowed has 0 for gene 2, expected a list of indices"),
        ({"allowed": [[0], [0], ["0"]]}, "allowed has ['0'] for gene 2"),
        ({"allowed": [[0], [0], [0], 3]}, "allowed has 3 for gene 3"),
        ({"allowed": [[0], [0]]}, "3 genes but 2 allowed lists"),
        ({"allowed": [[0], [0], [4]]}, "gene layer2 allows [4]; expected ascending indices below 4, at least one"),
        (gene(name="layer1"), "two genes have the name 'layer1'"),
        (gene(stride=0), "gene layer0 has 8 input, 12 output channels, stride 0: expected at least 1"),
        (gene(in_channels="8"), "gene 0 has in_channels '8', expected a whole number"),
        (gene(choices=[]), "gene layer0 has no choices: expected at least one"),
        (gene(choices=[{"op": "ib", "kernel": 3, "expand": 1}] * 2), "gene layer0 has the choice 'k3_e1' twice"),
        (gene(choices=["ib"]), "a choice of gene 0 is 'ib', expected an object"),
        (gene(choices=[{"kernel": 3}]), "a choice of gene 0 lacks the field 'op'"),
        (choice(kernel=-3), "expected an op, and no number below 0"),
        (choice(op=""), "expected an op, and no number below 0"),
        (choice(kernal=3), "a choice of gene 0 has the unknown field 'kernal', expected op, kernel, expand, count"),
    ],
)
def test_a_wrong_field_is_named_with_the_file(tmp_path, changed, message):
    path = tmp_path / "my space.json"
    path.write_text(json.dumps(by_hand(**changed)))
    found = refused(Space.load, path)
    assert found.startswith(str(path))
    assert message in found


def test_a_missing_field_is_named():
    for name in ("name", "act", "genes"):
        data = by_hand()
        del data[name]
        assert f"{name!r}" in refused(Space.from_json, data, "my.json")
