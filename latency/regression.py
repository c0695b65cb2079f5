"""Latencies of layers that were not measured, learnt from those that were: a regressor for each operation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from latency import sample
from latency.table import Predictions
from supernet.errors import UserError
from supernet.progress import Progress, counted, silent
from supernet.spec import LayerSpec

FOLDS = 4


class Learnt(NamedTuple):
    """Predictions, and of each predicted layer by how many ms the best two regressors disagree."""

    predictions: Predictions
    doubt: dict[str, float]


def predict(specs: Sequence[LayerSpec], measured: Mapping[str, float], progress: Progress = silent) -> Learnt:
    """Predict every layer of ``specs`` that is not ``measured``.

    Each operation takes the regressor with the least mean relative error in a cross-validation. Layers held out
    (``sample.held_out``) have no part in that nor in the fit; what was predicted of them is kept and states the error.

    Args:
        measured: latencies in ms by key.

    Raises:
        UserError: the measured layers do not cover the space (``sample.required``).
    """
    if lacking := sorted(sample.required(specs) - measured.keys()):
        raise UserError(f"{len(measured)} measured layers do not cover this space ({lacking[0]!r}): measure more")
    out = sample.held_out(specs, len(measured)) & set(measured)
    layers, checks, doubt, models = {}, {}, {}, {}
    operations = sorted({spec.op for spec in specs if spec.key not in measured})
    for op in counted(progress, "fitting regressors", operations, "operations"):
        own = [spec for spec in specs if spec.op == op]
        x = sample.features(own)
        x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
        known = np.array([spec.key in measured and spec.key not in out for spec in own])
        y = np.log([measured[spec.key] for spec, learn in zip(own, known, strict=True) if learn])
        errors = {name: _error(make, x[known], y) for name, make in REGRESSORS.items()}
        best, second = sorted(errors, key=lambda name: errors[name])[:2]
        found, other = (_fitted(REGRESSORS[name], x[known], y)(x[~known]) for name in (best, second))
        models[op] = best
        asked = [spec.key for spec, learn in zip(own, known, strict=True) if not learn]
        for key, ms, against in zip(asked, np.exp(found), np.exp(other), strict=True):
            if key in out:
                checks[key] = float(f"{ms:.6g}")
            else:
                layers[key], doubt[key] = float(f"{ms:.6g}"), abs(float(ms - against))
    return Learnt(Predictions(layers, checks, models), doubt)


def _ridge() -> Any:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    return make_pipeline(PolynomialFeatures(2), RidgeCV(np.logspace(-4, 2, 13)))


def _gaussian_process() -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    kernel = DotProduct(1.0, (1e-3, 1e4)) + ConstantKernel(1.0, (1e-4, 1e4)) * Matern(3.0, (0.05, 1e3), nu=2.5)
    return GaussianProcessRegressor(kernel + WhiteKernel(1e-3, (1e-6, 1)), normalize_y=True)


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=300, learning_rate=0.06, max_depth=3, subsample=0.7, random_state=0)


REGRESSORS: dict[str, Callable[[], Any]] = {  # of log ms on standardised features
    "ridge": _ridge,
    "gaussian process": _gaussian_process,
    "gradient boosting": _boosting,
}


def _fitted(make: Callable[[], Any], x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The prediction of a regressor, kept within a factor of 2 around what it learnt from."""
    regressor = make()
    with warnings.catch_warnings():  # a length at its bound only says that a feature does not matter
        warnings.simplefilter("ignore")
        regressor.fit(x, y)
    low, high = y.min() - np.log(2), y.max() + np.log(2)
    return lambda asked: np.clip(regressor.predict(asked), low, high)


def _error(make: Callable[[], Any], x: np.ndarray, y: np.ndarray) -> float:
    """Mean relative error in a cross-validation."""
    fold = np.random.default_rng(0).permutation(len(y)) % FOLDS
    errors = np.empty(len(y))
    for i in range(FOLDS):
        errors[fold == i] = _fitted(make, x[fold != i], y[fold != i])(x[fold == i]) - y[fold == i]
    return float(np.mean(np.abs(np.expm1(errors))))
