import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.errors import UserError
from supernet.space import Space
from tests.conftest import tiny_space


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
