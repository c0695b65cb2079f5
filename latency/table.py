"""The latency table: layer latencies of one device and runtime, and what they add up to. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency.measure import Protocol, Samples
from supernet import files, shape
from supernet.errors import SpaceMismatch, UserError
from supernet.quantities import digits, several
from supernet.space import Arch, Space

if TYPE_CHECKING:
    from supernet.footprint import Precision
    from supernet.spec import LayerSpec

SCHEMA = 2  # 2: Calibration.overhead_ms
SAMPLED = 3  # of a table with predicted layers, which version 0.1 does not read
CHECK = {"arch": [shape.COUNT], "layers": shape.COUNT, "sum_ms": float, "measured_ms": shape.Number(0), "noisy": bool}
STATISTICS = ("median_ms", "p10", "p90", "min", "aa")
TABLE = {
    "space": shape.FINGERPRINT,
    "device": dict,
    "runtime": {"options?": {"precision?": ("float32", "int8")}},
    "batch": shape.POSITIVE,
    "threads": shape.POSITIVE,
    "input": [shape.POSITIVE],
    "protocol": dict,
    "operations": {str: {"n": shape.COUNT, "source": str, "noisy": bool, **dict.fromkeys(STATISTICS, shape.Number(0))}},
    "calibration": (None, {"scale": float, "overhead_ms": float, "fitted_on": [CHECK], "held_out": [CHECK]}),
    "predictions?": {"layers": {str: shape.Number(0)}, "held_out": {str: shape.Number(0)}, "regressors": {str: str}},
}
OVERHEAD = 0.9  # of the fastest layer at most: every layer adds something


@dataclass(frozen=True)
class Check:
    """One architecture, summed up from the table and measured whole."""

    arch: tuple[int, ...]
    layers: int  # that run
    sum_ms: float  # of these, as they were measured
    measured_ms: float
    noisy: bool


@dataclass(frozen=True)
class Calibration:
    """From layers that run alone to whole networks, and how well that holds: ``scale`` · Σ (layer - ``overhead_ms``).

    A layer alone has warm caches, so its time is short of its part of a network: where weights come from memory, by
    about as much for each layer (an overhead below 0). On the other hand it pays for a call of the runtime and for
    conversions of its input and output that the network has once (above 0). ``held_out`` had no part in either number.
    """

    scale: float
    overhead_ms: float  # of each layer alone; 0 where it does not help to foresee networks that it was not fitted on
    fitted_on: tuple[Check, ...]
    held_out: tuple[Check, ...]
    held_out_mape: float | None
    held_out_spearman: float | None

    def predict(self, check: Check) -> float:
        """Latency of a whole network, ms."""
        return _whole(check, self.scale, self.overhead_ms)

    def describe(self) -> str:
        """Scale and overhead, and how many networks they come from."""
        word = "off" if self.overhead_ms > 0 else "added to"
        overhead = f", {digits(1e3 * abs(self.overhead_ms))} µs {word} each layer" if self.overhead_ms else ""
        return f"scale {self.scale:.3f}{overhead}, from {len(self.fitted_on)}"


@dataclass(frozen=True)
class Predictions:
    """Layers that were not measured, in ms by ``LayerSpec.key``, as a regressor learnt them from those that were."""

    layers: dict[str, float]
    held_out: dict[str, float]  # measured, and predicted without that: they state the error
    regressors: dict[str, str]  # the name of each operation's


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per layer, by ``LayerSpec.key``: ``operations`` are measured, ``predictions`` are not."""

    space: dict[str, str]  # name, fingerprint
    device: dict[str, Any]  # measure.host(), and the core it was pinned to
    runtime: dict[str, Any]  # Runtime.describe()
    batch: int
    threads: int
    input: tuple[int, int, int]  # of the network: channels, height, width
    protocol: dict[str, Any]
    operations: dict[str, Samples]
    calibration: Calibration | None = None
    predictions: Predictions | None = None
    source: str = field(default="the latency table", compare=False)  # for messages

    @property
    def quality(self) -> dict[str, float]:
        """How quiet the machine was: shares in [0, 1] of all operations."""
        samples = list(self.operations.values())
        return {
            "share_noisy": sum(s.noisy for s in samples) / len(samples),
            "share_cpu_clock": sum(s.source == "cpu" for s in samples) / len(samples),
            "median_aa": statistics.median(s.aa for s in samples),
        }

    @property
    def precision(self) -> Precision:
        """Of the layers that it was measured on."""
        return self.runtime.get("options", {}).get("precision", "float32")

    @property
    def identity(self) -> str:
        """16 hex digits of all that it holds: tells it from another table of the same device."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def named(self) -> dict[str, Any]:
        """Which table it is, for the record of what it predicted; ``predicted_layers`` only where there are any."""
        named = {"table": self.identity, "device": self.device, "runtime": self.runtime, "threads": self.threads}
        return {**named, "predicted_layers": len(self.predictions.layers)} if self.predictions else named

    def layer_ms(self, key: str) -> float:
        """Latency of one layer on its own, ms.

        Raises:
            UserError: the table does not have it. No layer ever counts as 0.
        """
        if key in self.operations:
            return self.operations[key].median_ms
        if self.predictions is not None and key in self.predictions.layers:
            return self.predictions.layers[key]
        raise UserError(f"{self.source} has no latency of the layer {key!r}", missing="lut")

    def guessed(self, specs: Iterable[LayerSpec]) -> float:
        """Which share of the latency of a network, in [0, 1], rests on layers that were not measured."""
        keys = [spec.key for spec in specs if spec.runs]
        total = math.fsum(map(self.layer_ms, keys))
        return math.fsum(self.layer_ms(key) for key in keys if key not in self.operations) / total if total else 0.0

    @property
    def layer_mape(self) -> float | None:
        """Mean absolute relative error of predicted layers, on those held out; None where there are none."""
        out = self.predictions.held_out if self.predictions else {}
        return report(list(out.values()), [self.layer_ms(key) for key in out])[0]

    def predict(self, keys: Iterable[str]) -> float:
        """Latency of the network that consists of these layers, ms; their sum as long as no network was measured."""
        scale, overhead = (self.calibration.scale, self.calibration.overhead_ms) if self.calibration else (1.0, 0.0)
        return scale * math.fsum(self.layer_ms(key) - overhead for key in keys)

    def predict_arch(self, space: Space, arch: Arch) -> float:
        """Latency of an architecture, ms."""
        from supernet.families import lower  # loads torch

        return self.predict(spec.key for spec in lower(space, arch))

    def price(self, spec: LayerSpec) -> float:
        """What one layer adds to the latency of a network, ms; 0 for an Identity: nothing runs."""
        return self.predict([spec.key] if spec.runs else [])

    def doubt(self, bound: float) -> str | None:
        """Why a prediction around ``bound`` ms is an extrapolation: no network there was ever measured; else None."""
        if self.calibration is None:
            return f"{self.source} was never checked on whole networks"
        measured = [c.measured_ms for c in (*self.calibration.fitted_on, *self.calibration.held_out)]
        if min(measured) <= bound <= max(measured):
            return None
        return (
            f"{digits(bound, 4)} ms lies outside of what {self.source} was checked on, {digits(min(measured), 4)} to "
            f"{digits(max(measured), 4)} ms"
        )

    def calibrated(self, fitted_on: Sequence[Check], held_out: Sequence[Check]) -> LatencyTable:
        """The table with a calibration on the first, and its error stated on the others."""
        predicted = self.predictions.layers.values() if self.predictions else ()
        limit = OVERHEAD * min([*(s.median_ms for s in self.operations.values()), *predicted])
        fit = calibrate(fitted_on, limit)
        error = report([_whole(c, *fit) for c in held_out], [c.measured_ms for c in held_out])
        return dataclasses.replace(self, calibration=Calibration(*fit, tuple(fitted_on), tuple(held_out), *error))

    def describe(self) -> dict[str, str]:
        """What was measured and how well, in words: device, runtime, layers, and check where there is one."""
        samples, found = self.operations.values(), self.calibration
        preempted = sum(s.source == "cpu" for s in samples)
        core = "" if self.device["core"] is None else f", on core {self.device['core']}"
        options = ", ".join(map(str, self.runtime["options"].values())) or self.runtime.get("delegate", "")
        words = {
            "device": f"{self.device['cpu']}, {several(self.device['cores'], 'core')}{core}",
            "runtime": f"{self.runtime['name']} {self.runtime['version']} ({options}), batch {self.batch}, "
            f"{several(self.threads, 'thread')}",
            "layers": f"{len(samples)}, of them {sum(s.noisy for s in samples)} noisy (halves differ by over "
            f"{100 * self.protocol['gate']:g} %, median {100 * self.quality['median_aa']:.1f} %)"
            + (f", {preempted} timed by the CPU clock: the machine was busy" if preempted else ""),
        }
        if predicted := self.describe_predictions():
            words["predicted"] = predicted
        if found is not None:
            error = error_in_words(found.held_out_mape, found.held_out_spearman)
            unsteady = sum(check.noisy for check in (*found.fitted_on, *found.held_out))
            words["check"] = (
                f"{error} on {several(len(found.held_out), 'whole network')} held out; {found.describe()}"
                + (f"; {unsteady} of them noisy" if unsteady else "")
            )
        return words

    def describe_predictions(self) -> str:
        """How many layers were not measured, and how well they are predicted, in words; empty where all were."""
        if self.predictions is None:
            return ""
        layers, out = len(self.predictions.layers), len(self.predictions.held_out)
        mape = self.layer_mape
        error = "" if mape is None else f", mean error {100 * mape:.1f} % on {out} measured ones held out"
        return f"{several(layers, 'layer that was', 'layers that were')} not measured{error}"

    def to_json(self) -> dict[str, Any]:
        """A plain dict; ``from_json`` is its inverse."""
        fields = dataclasses.asdict(self)
        del fields["source"]
        if self.predictions is None:
            del fields["predictions"]  # as 0.1 reads and names it
        return {"schema": SCHEMA if self.predictions is None else SAMPLED, "quality": self.quality, **fields}

    @classmethod
    def from_json(cls, data: object, source: str) -> LatencyTable:
        """Rebuild a table; a UserError names ``source`` where the data is no table of this schema."""
        if not isinstance(data, dict) or data.get("schema") not in (SCHEMA, SAMPLED):
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise UserError(f"{source}: expected a latency table of schema {SCHEMA}, found {found}", missing="lut")
        fields = {k: v for k, v in data.items() if k not in ("schema", "quality")}
        try:
            if ("predictions" in fields) != (data["schema"] == SAMPLED):
                raise ValueError(f"predictions belong to schema {SAMPLED}")
            shape.require(fields, TABLE)
            Protocol(**fields["protocol"])
            fields["input"] = tuple(fields["input"])
            fields["operations"] = {key: Samples(**samples) for key, samples in fields["operations"].items()}
            if fields["calibration"] is not None:
                fields["calibration"] = _calibration(fields["calibration"])
            if "predictions" in fields:
                fields["predictions"] = _predictions(fields["predictions"], fields["operations"])
            table = cls(**fields, source=source)
            latencies = [s.median_ms for s in table.operations.values()]
            latencies += table.predictions.layers.values() if table.predictions else ()
            found = table.calibration
            if not latencies or not all(0 < ms < math.inf for ms in [*latencies, found.scale if found else 1]):
                raise ValueError("expected latencies above 0")
            if found and not math.isfinite(found.overhead_ms):
                raise ValueError("expected an overhead in ms")
        except (TypeError, KeyError, ValueError, UserError) as error:
            raise UserError(f"{source} is damaged ({error})", missing="lut") from error
        return table

    @classmethod
    def load(cls, path: str | Path, space: Space | None = None) -> LatencyTable:
        """Read a table; with ``space``, only one that was measured for it.

        Raises:
            UserError: no such file, not a table, or of another schema or space. Says how to make one.
        """
        try:
            data = files.parse(Path(path).read_bytes())
        except FileNotFoundError as error:
            raise UserError(f"no latency table at {path}", missing="lut") from error
        except OSError as error:
            raise UserError(f"cannot read the latency table {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path} is not a readable latency table ({error})", missing="lut") from error
        table = cls.from_json(data, str(path))
        if space is not None:
            table.require(space)
        return table

    @classmethod
    def find(cls, path: Path, space: Space) -> LatencyTable | None:
        """The table at ``path``, or None where there is no such file."""
        return cls.load(path, space) if path.exists() else None

    def require(self, space: Space) -> None:
        """Refuse a table that was measured for another space, naming both."""
        if self.space["fingerprint"] != space.fingerprint:
            raise SpaceMismatch(
                f"{self.source} was measured for the space {self.space['name']} "
                f"({self.space['fingerprint']}), the space here is {space.name} ({space.fingerprint})",
                missing="lut",
            )


def _calibration(data: dict[str, Any]) -> Calibration:
    checks = {
        name: tuple(Check(**{**check, "arch": tuple(check["arch"])}) for check in data[name])
        for name in ("fitted_on", "held_out")
    }
    return Calibration(**{**data, **checks})


def _predictions(data: dict[str, Any], measured: Collection[str]) -> Predictions:
    found = Predictions(**data)
    if not found.layers or not found.layers.keys().isdisjoint(measured) or not found.held_out.keys() <= set(measured):
        raise ValueError("expected predictions of layers that were not measured, and held-out ones of those that were")
    return found


def calibrate(checks: Sequence[Check], limit: float) -> tuple[float, float]:
    """Scale and overhead (ms, at most ``limit``) with the least mean square of the relative error.

    Two numbers fit better than one, and may foresee worse. Each network is therefore left out in turn and predicted
    from the others; the overhead stays 0 where it does not make these errors smaller.
    """
    if not checks:
        raise UserError("no networks to fit the scale on: expected at least one")

    def foreseen(limit: float) -> float:
        fits = [_fit([*checks[:i], *checks[i + 1 :]], limit) for i in range(len(checks))]
        return math.fsum((_whole(c, *fit) / c.measured_ms - 1) ** 2 for c, fit in zip(checks, fits, strict=True))

    helps = len(checks) > 3 and foreseen(limit) < foreseen(0.0)
    return _fit(checks, limit if helps else 0.0)


def _whole(check: Check, scale: float, overhead_ms: float) -> float:
    """Latency of a whole network from the sum of its layers, ms."""
    return scale * (check.sum_ms - check.layers * overhead_ms)


def _fit(checks: Sequence[Check], limit: float) -> tuple[float, float]:
    """Least squares of scale · (sum - layers · overhead) / measured = 1 with overhead <= limit, 0 where that is 0."""
    sums = [c.sum_ms / c.measured_ms for c in checks]
    layers = [c.layers / c.measured_ms for c in checks]
    ss, sl, ll = _dot(sums, sums), _dot(sums, layers), _dot(layers, layers)
    s, n = math.fsum(sums), math.fsum(layers)
    overhead = 0.0
    if limit and ss * ll - sl * sl > 1e-9 * ss * ll and s * ll > n * sl:  # else the two cannot be told apart
        overhead = min((s * sl - n * ss) / (s * ll - n * sl), limit)
    left = [a - overhead * b for a, b in zip(sums, layers, strict=True)]
    return math.fsum(left) / _dot(left, left), overhead


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def error_in_words(mape: float | None, spearman: float | None) -> str:
    """What ``report`` found."""
    if mape is None:
        return "no architecture left to check"
    rank = "" if spearman is None else f", Spearman {spearman:.3f}"
    return f"mean error of the prediction {100 * mape:.1f} %{rank}"


def report(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean absolute relative error, and Spearman's rank correlation; None where there is too little."""
    if not predicted:
        return None, None
    mape = statistics.fmean(abs(p - m) / m for p, m in zip(predicted, measured, strict=True))
    if len(set(predicted)) < 2 or len(set(measured)) < 2:
        return mape, None
    from scipy.stats import spearmanr  # takes over a second to import, which a lookup should not pay

    return mape, float(spearmanr(predicted, measured).statistic)
