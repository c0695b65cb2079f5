"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.quantities import count, digits, duration, several, size


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0.0 s"), (59.9, "59.9 s"), (60, "1.0 min"), (3596, "59.9 min"), (3600, "1.0 h"), (4.5e6, "1,250.0 h")],
)
def test_durations(seconds, told):
    assert duration(seconds) == told


def test_sizes():
    assert [size(n) for n in (0, 999, 1500, 2 * 10**9)] == ["0 B", "999 B", "1.5 kB", "2 GB"]


@given(st.floats(1e-9, 1e12), st.integers(1, 6))
def test_digits_are_those_that_python_s_g_has_and_never_a_power_of_ten(value, most):
    told = digits(value, most)
    assert float(told.replace(",", "")) == float(f"{value:.{most}g}")
    assert "e" not in told.lower()


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0"), (999_999, "999,999"), (10**6, "1.00 · 10⁶"), (4**20, "1.10 · 10¹²"), (10**31 - 1, "1.00 · 10³¹")],
)
def test_counts_however_large(number, told):
    assert count(number) == told


def test_one_is_no_plural():
    assert [several(n, "image") for n in (0, 1, 2, 1234)] == ["0 images", "1 image", "2 images", "1,234 images"]
    assert [several(n, "class is", "classes are") for n in (1, 2)] == ["1 class is", "2 classes are"]
    assert [several(n, "network", form=count) for n in (1, 10**6)] == ["1 network", "1.00 · 10⁶ networks"]
