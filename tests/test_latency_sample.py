"""Tables of which a part is measured: the sample, what is learnt from it, and the build, on known latencies."""

from __future__ import annotations

import dataclasses
import functools
import json
from contextlib import nullcontext

import numpy as np
import pytest

from latency import build, regression, sample
from latency.build import Build, Sampling
from latency.measure import Protocol
from latency.table import LatencyTable, Predictions
from search import priced, spread
from supernet import spaces
from supernet.errors import UserError
from supernet.families import lower
from supernet.model import Network
from supernet.spec import LayerSpec

SPACE = spaces.usual("elastic-small")
SPECS = build.unique(SPACE)
LEAST = sample.least(SPECS)


def true_ms(spec: LayerSpec) -> float:
    """A machine that multiplies, moves and calls: never a function that a regressor has."""
    moved = ((c.flops / 4, c.size.pixels * (c.in_channels + c.out_channels)) for c in spec.convs.values())
    return sum(0.004 + (products + values) / 1e6 for products, values in moved)


class Known:
    """Takes the true time, give or take ``noise`` of it, by the layer's key; whole networks 1.1 times as long.

    Layers after the networks take ``later`` times as long: the machine has become slower.
    """

    name, kernels, batch, threads = "known", "eager", 1, 1
    noise, later = 0.0, 1.0

    def __init__(self, stop_after: int | None = None):
        self.prepared: list[str] = []
        self.left = stop_after

    def describe(self):
        return {"name": self.name, "options": {}, "version": "1"}

    def prepare(self, layer):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        slow = self.later if any("," in key for key in self.prepared) else 1.0
        self.prepared.append(layer.key)
        if isinstance(layer.module, Network):
            return 1.1 * sum(map(true_ms, lower(SPACE, tuple(map(int, layer.key.split(","))))))
        rng = np.random.default_rng(list(layer.key.encode()))
        return slow * true_ms(by_key()[layer.key]) * rng.lognormal(0, self.noise)

    def timer(self, ms):
        return lambda n: (1e6 * n * ms, 1e6 * n * ms)

    def session(self):
        return nullcontext()


@functools.cache
def by_key() -> dict[str, LayerSpec]:
    return {spec.key: spec for spec in SPECS}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Whole networks need no statistics, their time is known."""
    monkeypatch.setattr("latency.runtimes.recalibrate_bn", lambda *_: None)


def job(runtime, layers=120, error=0.03, note=lambda text: None) -> Build:
    archs = spread.calibration_archs(SPACE, build.FIT_ARCHS, 8, 0)
    protocol = Protocol(rounds=2, visit_ms=0.1, chunks=1, warmup_runs=1, warmup_ms=0.1)
    return Build(SPACE, runtime, protocol, archs, note=note, sampling=Sampling(layers, error))


@functools.cache
def table() -> LatencyTable:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("latency.runtimes.recalibrate_bn", lambda *_: None)
        patch.setattr(Known, "noise", 0.02)
        return job(Known(), error=1e-6).here(Path(folder, "lut.json"))


@pytest.mark.parametrize("name", ["elastic-small", "attentive-nas", "residual-small", "mobile"])
@pytest.mark.parametrize("more", [0, 20])
def test_a_sample_covers_the_space(name, more):
    specs = build.unique(spaces.usual(name))
    n = min(sample.least(specs) + more, len(specs))
    chosen = sample.first(specs, n)
    assert len({spec.key for spec in chosen}) == len(chosen) == n
    for of in ("op", "act", "kernel", "stride", "squeeze_excite"):
        assert {getattr(spec, of) for spec in chosen} == {getattr(spec, of) for spec in specs}
    for op in {spec.op for spec in specs}:
        own, drawn = ([spec for spec in group if spec.op == op] for group in (specs, chosen))
        assert len(drawn) >= min(len(own), 12)
        assert {min(s.flops for s in own), max(s.flops for s in own)} <= {s.flops for s in drawn}
    assert len(sample.held_out(specs, n)) <= n // 10
    assert {spec.key for spec in chosen} >= sample.held_out(specs, n)
    assert sample.covered(specs)({spec.key for spec in chosen})
    assert not sample.covered(specs)({spec.key for spec in chosen[1:]})


def test_a_sample_fills_the_space_better_than_chance():
    def widest(keys):
        x = sample.features(SPECS)
        x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
        known = x[[spec.key in keys for spec in SPECS]]
        return max(np.linalg.norm(known - row, axis=1).min() for row in x)

    ours = widest({spec.key for spec in sample.first(SPECS, 90)})
    rng = np.random.default_rng(0)
    assert ours < min(widest({SPECS[i].key for i in rng.choice(len(SPECS), 90, False)}) for _ in range(10))


def test_doubt_decides_what_comes_next():
    chosen = {spec.key for spec in sample.first(SPECS, LEAST)}
    unsure = [spec.key for spec in SPECS if spec.key not in chosen][::9]
    more = sample.further(SPECS, chosen, len(unsure), dict.fromkeys(unsure, 1.0))
    assert {spec.key for spec in more} == set(unsure)
    assert len(sample.further(SPECS, chosen, 10**6)) == len(SPECS) - len(chosen)


def test_predictions_against_the_truth():
    measured = {spec.key: true_ms(spec) for spec in sample.first(SPECS, 100)}
    learnt = regression.predict(SPECS, measured)
    assert learnt.predictions.layers.keys() | measured.keys() == by_key().keys()
    assert learnt.predictions.layers.keys() == learnt.doubt.keys()
    errors = [abs(ms / true_ms(by_key()[key]) - 1) for key, ms in learnt.predictions.layers.items()]
    assert np.mean(errors) < 0.02
    assert learnt == regression.predict(SPECS, measured)


def test_held_out_layers_are_not_learnt_from():
    measured = {spec.key: true_ms(spec) for spec in sample.first(SPECS, 100)}
    out = sample.held_out(SPECS, 100)
    wrong = {key: 9 * ms if key in out else ms for key, ms in measured.items()}
    assert len(out) == 10
    assert regression.predict(SPECS, wrong) == regression.predict(SPECS, measured)


def test_too_few_layers_to_learn_from():
    measured = {spec.key: true_ms(spec) for spec in sample.first(SPECS, 100)[1:]}
    with pytest.raises(UserError, match="do not cover"):
        regression.predict(SPECS, {key: measured[key] for key in list(measured)[:30]})


def test_the_errors_that_a_table_states_are_right():
    found = table()
    assert len(found.operations) == 120
    assert found.operations.keys().isdisjoint(found.predictions.layers)
    assert found.operations.keys() | found.predictions.layers.keys() == by_key().keys()
    out = found.predictions.held_out
    errors = [abs(ms - found.operations[key].median_ms) / found.operations[key].median_ms for key, ms in out.items()]
    assert found.layer_mape == pytest.approx(np.mean(errors))
    assert 0 < found.layer_mape < 0.1
    checks = found.calibration.held_out
    whole = [1.1 * sum(map(true_ms, lower(SPACE, c.arch))) for c in checks]
    off = [abs(found.predict_arch(SPACE, c.arch) / ms - 1) for c, ms in zip(checks, whole, strict=True)]
    assert found.calibration.held_out_mape == pytest.approx(np.mean(off))
    assert f"{100 * np.mean(errors):.1f} % on {len(out)} measured ones held out" in found.describe()["predicted"]


def test_it_stops_when_the_error_is_met_and_says_so_if_not(tmp_path):
    told: list[str] = []
    met = job(Known(), error=0.2, note=told.append).here(tmp_path / "lut.json")
    assert len(met.operations) < 120
    assert met.calibration.held_out_mape <= 0.2
    assert not told
    missed = job(Known(), LEAST, 1e-9, told.append).here(tmp_path / "other.json")
    assert len(missed.operations) == LEAST
    assert f"within {100 * missed.calibration.held_out_mape:.1f} %" in told[0]


def test_layers_of_a_slower_hour_are_as_fast_as_the_first(tmp_path, monkeypatch):
    monkeypatch.delitem(regression.REGRESSORS, "gaussian process")  # the slowest to fit
    monkeypatch.setattr(Known, "later", 1.45)
    found = job(Known(), LEAST + 10, 1e-6).here(tmp_path / "lut.json")
    assert len(found.operations) == LEAST + 10
    for key, samples in found.operations.items():
        assert samples.median_ms == pytest.approx(true_ms(by_key()[key]))


def test_too_small_a_budget_is_refused_before_measuring(tmp_path):
    runtime = Known()
    with pytest.raises(UserError, match=f"expected at least {LEAST}"):
        job(runtime, LEAST - 1).here(tmp_path / "lut.json")
    assert not runtime.prepared


def test_a_budget_for_all_measures_all(tmp_path):
    whole = job(Known(), len(SPECS)).here(tmp_path / "lut.json")
    assert whole.predictions is None
    assert whole.to_json()["schema"] == 2
    assert "predictions" not in whole.to_json()


@pytest.mark.chain
def test_a_killed_build_goes_on_to_the_same_table(tmp_path, monkeypatch):
    monkeypatch.delitem(regression.REGRESSORS, "gaussian process")  # the slowest to fit, six times
    path = tmp_path / "lut.json"
    expected = job(Known(), 70, 1e-6).here(tmp_path / "other.json")
    with pytest.raises(KeyboardInterrupt):
        job(Known(stop_after=60), 70, 1e-6).here(path)
    before = json.loads(build.partial_path(path).read_text())["layers"]
    assert 0 < sum(map(len, before)) < 70
    again = job(Known(), 70, 1e-6).here(path)
    assert dataclasses.replace(again, device=expected.device) == expected
    after = json.loads(build.partial_path(path).read_text())["layers"]
    assert all(after[i][key] == visits for i, part in enumerate(before) for key, visits in part.items())
    assert len(after) > len(before)


def edited(**changes) -> dict:
    data = json.loads(json.dumps(table().to_json()))
    predictions = data["predictions"]
    for name, value in changes.items():
        (data if name in data else predictions)[name] = value
    return data


def test_file_round_trip(tmp_path):
    path = tmp_path / "lut.json"
    path.write_text(json.dumps(edited()))
    assert LatencyTable.load(path, SPACE) == table()
    assert edited()["schema"] == 3


ANY = next(iter(by_key()))


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": {}},
        {"layers": {"x": -1.0}},
        {"layers": {"x": 0}},
        {"layers": {"x": "fast"}},
        {"layers": [1.0]},
        {"held_out": {"never measured": 1.0}},
        {"regressors": {"ib": 3}},
        {"more": 1},
        {"predictions": None},
        {"predictions": 3},
        {"schema": 2},
    ],
)
def test_a_table_that_was_tampered_with_is_refused(changes):
    with pytest.raises(UserError, match="damaged"):
        LatencyTable.from_json(edited(**changes), "lut.json")


def test_what_is_measured_is_not_predicted_too():
    measured = next(iter(table().operations))
    layers = {**table().predictions.layers, measured: 1.0}
    with pytest.raises(UserError, match="damaged"):
        LatencyTable.from_json(edited(layers=layers), "lut.json")


def test_share_that_rests_on_predictions():
    found, rng = table(), np.random.default_rng(0)
    for _ in range(10):
        specs = lower(SPACE, SPACE.sample(rng))
        guessed = sum(found.layer_ms(s.key) for s in specs if s.key in found.predictions.layers)
        assert found.guessed(specs) == pytest.approx(guessed / sum(found.layer_ms(s.key) for s in specs))
    assert dataclasses.replace(found, predictions=None).named().keys() == {"table", "device", "runtime", "threads"}
    assert found.named()["predicted_layers"] == len(SPECS) - 120


def test_every_network_is_priced():
    cost, rng = priced.additive(SPACE, table().price), np.random.default_rng(0)
    for _ in range(20):
        arch = SPACE.sample(rng)
        assert cost(arch) == pytest.approx(table().predict_arch(SPACE, arch))
        assert cost(arch) == pytest.approx(1.1 * sum(map(true_ms, lower(SPACE, arch))), rel=0.1)


def test_samples_of_a_device_make_the_same_table(tmp_path):
    """The agent measures the whole budget at once."""
    chosen = sample.first(SPECS, 100)
    header = {**job(Known()).settings(), "device": {"cpu": "abacus", "cores": 1, "core": 0}}
    visits = {spec.key: [[true_ms(spec), None]] * 2 for spec in chosen}
    archs = job(Known()).archs
    networks = {",".join(map(str, a)): [[sum(map(true_ms, lower(SPACE, a))), None]] * 2 for a in archs}
    samples = {"schema": 1, "finished": True, "layers": visits, "networks": networks}
    samples["header"] = {**header, "runtime": {"name": "known"}}
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(samples))
    found = build.collect(SPACE, path)
    expected = regression.predict(SPECS, {spec.key: true_ms(spec) for spec in chosen}).predictions
    assert found.predictions == expected
    del visits[chosen[0].key]
    path.write_text(json.dumps(samples))
    with pytest.raises(UserError, match="does not hold the layers"):
        build.collect(SPACE, path)


def test_channels_that_do_not_fill_vectors_differ():
    """24 channels run as 32; what fills its vectors is told from what does not, however alike in size."""
    specs = [dataclasses.replace(SPECS[-2], in_channels=n) for n in (16, 24, 32, 48)]
    more = np.exp(sample.features(specs)[:, 3])
    assert more == pytest.approx([1, 32 / 24, 1, 1])


def test_predictions_are_plain():
    assert isinstance(table().predictions, Predictions)
    assert all(type(ms) is float for ms in table().predictions.layers.values())
