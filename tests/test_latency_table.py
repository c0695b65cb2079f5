"""The table: what it holds, what it refuses, what it adds up to."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import tiny_space
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from latency.measure import Samples
from latency.table import Calibration, Check, LatencyTable, calibrate, report
from supernet.errors import UserError
from supernet.families import layout, lower

SPACE = tiny_space()


def samples(ms: float, **fields) -> Samples:
    given = {"aa": 0.01, "cpu_wall": 1.0, "source": "wall", "noisy": False, **fields}
    return Samples(median_ms=ms, p10=ms, p90=ms, min=ms, n=12, **given)


def latencies() -> dict[str, float]:
    """A different latency for every layer that runs."""
    specs = layout(SPACE)
    keys = [s.key for s in (specs.stem, *(c for choices in specs.choices for c in choices), specs.head) if s.runs]
    return {key: 0.1 + 0.01 * i**2 for i, key in enumerate(dict.fromkeys(keys))}


def table(**fields) -> LatencyTable:
    return LatencyTable(
        **{
            "space": {"name": SPACE.name, "fingerprint": SPACE.fingerprint},
            "device": {"cpu": "abacus", "cores": 1, "core": None},
            "runtime": {"name": "torch", "options": {}},
            "batch": 1,
            "threads": 1,
            "input": (1, 14, 14),
            "protocol": {"rounds": 12},
            "operations": {key: samples(ms) for key, ms in latencies().items()},
            **fields,
        }
    )


def calibration(scale: float = 1.25) -> Calibration:
    check = Check((0, 1, 2), 5, 1.0, scale, False)
    return Calibration(scale, 0.01, (check,), (check, dataclasses.replace(check, arch=(1, 0, 0))), 0.01, None)


@pytest.mark.parametrize("calibrated", [None, calibration()])
def test_file_round_trip(tmp_path, calibrated):
    path = tmp_path / "lut.json"
    path.write_text(json.dumps(table(calibration=calibrated).to_json()))
    loaded = LatencyTable.load(path, SPACE)
    assert loaded == table(calibration=calibrated)
    assert json.loads(path.read_text())["schema"] == 2


def test_predict_adds_the_layers_that_run():
    truth, rng = latencies(), np.random.default_rng(0)
    for _ in range(20):
        keys = [spec.key for spec in lower(SPACE, SPACE.sample(rng))]
        total = sum(truth[key] for key in keys)
        assert table().predict(keys) == pytest.approx(total)
        assert table(calibration=calibration(1.25)).predict(keys) == pytest.approx(1.25 * (total - 0.01 * len(keys)))


@pytest.mark.parametrize("calibrated", [None, calibration(0.9)])
def test_additive_equals_predict_everywhere(calibrated):
    lut = table(calibration=calibrated)
    added, base, _ = layout(SPACE).priced(lut.price)
    for arch in SPACE.enumerate():
        total = base + sum(ms[i] for ms, i in zip(added, arch, strict=True))
        assert total == pytest.approx(lut.predict(spec.key for spec in lower(SPACE, arch)))
    identity = [(i, j) for i, gene in enumerate(SPACE.genes) for j, c in enumerate(gene.choices) if c.op == "identity"]
    assert identity
    assert all(added[i][j] == 0.0 for i, j in identity)


def test_pruning_keeps_the_table(tmp_path):
    path = tmp_path / "lut.json"
    path.write_text(json.dumps(table().to_json()))
    LatencyTable.load(path, SPACE.restrict([{0}] * len(SPACE.genes)))


def test_a_missing_layer_is_an_error_never_0():
    operations = {key: samples(ms) for key, ms in latencies().items()}
    gone = layout(SPACE).choices[1][1].key
    del operations[gone]
    lut = table(operations=operations, source="runs/mine/lut.json")
    for ask in (lut.layer_ms, lambda key: lut.predict([key]), lambda _: layout(SPACE).priced(lut.price)):
        with pytest.raises(UserError, match=r"runs/mine/lut\.json has no latency") as error:
            ask(gone)
        assert gone in str(error.value)
        assert error.value.missing == "lut"


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no latency table at .*lut\.json") as error:
        LatencyTable.load(tmp_path / "lut.json")
    assert error.value.missing == "lut"
    with pytest.raises(UserError, match="cannot read"):
        LatencyTable.load(tmp_path)


def _edited(**changes):
    return json.dumps({**json.loads(json.dumps(table(calibration=calibration()).to_json())), **changes})


GOOD = dataclasses.asdict(samples(1.0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a readable"),
        (_edited()[:200], "not a readable"),
        ("[1, 2]", "expected a latency table of schema 2, found list"),
        (_edited(schema=1), "schema 2, found 1"),
        (_edited(operations={}), "damaged"),
        (_edited(operations={"stem": {**GOOD, "median_ms": 0.0}}), "damaged"),
        (_edited(operations={"stem": {**GOOD, "median_ms": "fast"}}), "damaged"),
        (_edited(operations={"stem": {"median_ms": 1.0}}), "damaged"),
        (_edited(operations=[1]), "damaged"),
        (_edited(calibration={"scale": 1.0}), "damaged"),
        (_edited(calibration=3), "damaged"),
        (_edited(space={}), "damaged"),
        (_edited(colour="red"), "damaged"),
    ],
)
def test_damaged_or_foreign_files(tmp_path, text, says):
    path = tmp_path / "lut.json"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as error:
        LatencyTable.load(path)
    assert str(path) in str(error.value)
    assert error.value.missing == "lut"


def test_another_space(tmp_path):
    path, other = tmp_path / "lut.json", tiny_space(layers=4)
    path.write_text(json.dumps(table().to_json()))
    with pytest.raises(UserError) as error:
        LatencyTable.load(path, other)
    assert SPACE.fingerprint in str(error.value)
    assert other.fingerprint in str(error.value)


def test_quality():
    operations = {
        "a": samples(1.0, aa=0.0),
        "b": samples(1.0, aa=0.02, source="cpu"),
        "c": samples(1.0, aa=0.2, noisy=True),
        "d": samples(1.0, aa=0.04, noisy=True),
    }
    quality = table(operations=operations).quality
    assert quality == pytest.approx({"share_noisy": 0.5, "share_cpu_clock": 0.25, "median_aa": 0.03})


def checks(sums, layers, measured) -> list[Check]:
    return [Check((i,), *numbers, False) for i, numbers in enumerate(zip(layers, sums, measured, strict=True))]


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=20), st.floats(0.2, 5))
def test_scale_is_found_exactly(sums, scale):
    """Networks of one depth: an overhead would be a scale of its own, or none."""
    found, overhead = calibrate(checks(sums, [0] * len(sums), [scale * s for s in sums]), limit=0.05)
    assert (found, overhead) == (pytest.approx(scale), 0)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.1, 1)), min_size=4, max_size=20),
    st.floats(0.2, 5),
    st.floats(0.005, 0.05),
    st.sampled_from([1, -1]),
)
def test_scale_and_overhead_are_found_exactly(networks, scale, overhead, sign):
    """Layers of .1 to 1 ms on average that take ``overhead`` more alone, or less."""
    overhead *= sign
    layers = [n for n, _ in networks]
    sums = [n * (ms + overhead) for n, ms in networks]
    spread = {round(s / n, 3) for s, n in zip(sums, layers, strict=True)}
    assume(len(spread) > 3)
    measured = [scale * n * ms for n, ms in networks]
    assert calibrate(checks(sums, layers, measured), limit=0.09) == (
        pytest.approx(scale, rel=1e-4),
        pytest.approx(overhead, rel=1e-2),
    )


def test_overhead_is_left_out_where_it_does_not_foresee():
    """Noise of 5 % around sums: two numbers fit it better, but not the network that is left out."""
    rng = np.random.default_rng(1)
    kept = 0
    for _ in range(200):
        sums, layers = rng.uniform(4, 8, 5), rng.integers(10, 14, 5).tolist()
        measured = sums * rng.normal(1, 0.05, 5)
        kept += calibrate(checks(sums, layers, measured), limit=0.3)[1] != 0
    assert kept < 60


def test_overhead_keeps_below_its_limit():
    networks = checks([1.2, 2.5, 3.9, 4.1, 9.0], [10, 20, 30, 20, 30], [0.2, 0.5, 0.9, 2.1, 6.0])  # .1 ms a layer
    assert calibrate(networks, limit=0.2) == (pytest.approx(1), pytest.approx(0.1))
    assert calibrate(networks, limit=0.08)[1] == 0.08


def test_calibration_survives_one_disturbed_network():
    for held_up in range(5):
        measured = [1.1 * (10 if i == held_up else 1) * (i + 1) for i in range(5)]
        scale, overhead = calibrate(checks([1, 2, 3, 4, 5], [9, 11, 10, 12, 10], measured), limit=0.05)
        for i in set(range(5)) - {held_up}:
            assert scale * (i + 1 - overhead * (9, 11, 10, 12, 10)[i]) == pytest.approx(1.1 * (i + 1), rel=0.15)


def test_scale_has_the_least_relative_error():
    rng = np.random.default_rng(0)
    sums, measured = rng.uniform(1, 9, 7), rng.uniform(1, 9, 7)

    def error(scale):
        return np.square(scale * sums / measured - 1).sum()

    best = error(calibrate(checks(sums, [1] * 7, measured), limit=0.0)[0])
    assert all(best <= error(scale) + 1e-12 for scale in np.linspace(0.1, 9, 500))


def test_calibration_on_nothing():
    with pytest.raises(UserError, match="at least one"):
        calibrate([], 0.1)


def test_report_by_hand():
    mape, spearman = report([1.1, 1.8, 3.0], [1.0, 2.0, 3.0])
    assert mape == pytest.approx(0.2 / 3)
    assert spearman == pytest.approx(1.0)
    assert report([3, 2, 1], [1, 2, 3])[1] == pytest.approx(-1)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=12))
def test_spearman_is_pearson_of_average_ranks(pairs):
    """Ties included: the ranks of equal values are averaged."""
    predicted, measured = map(list, zip(*pairs, strict=True))
    _, spearman = report(predicted, measured)
    if len(set(predicted)) < 2 or len(set(measured)) < 2:
        assert spearman is None
    else:
        ranks = [[sum(w < v for w in x) + (x.count(v) + 1) / 2 for v in x] for x in (predicted, measured)]
        assert spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert spearman == pytest.approx(stats.spearmanr(predicted, measured).statistic)


def test_report_of_nothing():
    assert report([], []) == (None, None)
    assert report([1.0], [2.0]) == (0.5, None)


def test_a_calibrated_table_states_the_error_on_the_others():
    fitted = [Check((i,), 4, float(i), 1.5 * i, False) for i in range(1, 6)]
    held_out = [Check((6,), 4, 6.0, 10.0, False), Check((7,), 4, 7.0, 10.5, False)]
    c = table().calibrated(fitted, held_out).calibration
    assert (c.scale, c.overhead_ms) == (pytest.approx(1.5), 0)
    assert c.held_out_mape == pytest.approx((0.1 + 0.0) / 2)
    assert c.held_out_spearman == pytest.approx(1.0)


def test_no_torch():
    """Importing the table must not cost seconds, nor drag torch onto a device."""
    code = "import latency.table, sys; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_doubt_outside_of_what_was_measured():
    whole = checks([1.0] * 3, [5] * 3, [2.0, 3.0, 4.0])
    lut = table().calibrated(whole[:2], whole[2:])
    assert lut.doubt(2.0) is None
    assert lut.doubt(3.9) is None
    assert "1.9 ms lies outside" in lut.doubt(1.9)
    assert "2 to 4 ms" in lut.doubt(4.1)
    assert "never checked" in table().doubt(3.0)


def test_a_table_that_may_be_missing(tmp_path):
    assert LatencyTable.find(tmp_path / "lut.json", SPACE) is None
    (tmp_path / "lut.json").write_text(json.dumps(table().to_json()))
    assert LatencyTable.find(tmp_path / "lut.json", SPACE) == table()
    arch = (0, 1, 0)
    assert table().predict_arch(SPACE, arch) == table().predict(spec.key for spec in lower(SPACE, arch))


def test_a_table_in_words():
    given = {"runtime": {"name": "torch", "version": "9", "options": {}}, "protocol": {"gate": 0.1}}
    assert list(table(**given).describe()) == ["device", "runtime", "layers"]
    words = table(**given, calibration=calibration()).describe()
    assert words["device"] == "abacus, 1 core"
    assert "torch 9" in words["runtime"]
    assert words["layers"].startswith(f"{len(latencies())}, of them 0 noisy")
    assert "on 2 whole networks held out; scale 1.250, 10 µs off each layer, from 1" in words["check"]
