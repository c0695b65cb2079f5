"""What files say of themselves: the accuracy that chose them, in plain values and in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from supernet.answers import Answers
from supernet.cli import predict
from supernet.export import companions, networks
from supernet.export.card import Accuracy, Card
from supernet.export.prediction import Predicted
from supernet.runs import RunFolder

OLD = Path(__file__).parent / "data" / "v0.1" / "spos"


def answered() -> tuple[np.ndarray, np.ndarray]:
    """Labels of ten classes, few of the first ones, and probabilities that know the frequent ones better."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.full(3 + 5 * label, label) for label in range(10)])
    logits = rng.normal(size=(len(labels), 10))
    logits[np.arange(len(labels)), labels] += labels / 4
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def card_of(folder: Path, **result) -> Card:
    """Of a network that was retrained, with this in its result."""
    shutil.copytree(OLD, folder)
    path = folder / "best" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **result}))
    run = RunFolder(folder)
    return networks.card(run, run.space(), networks.trained(run, run.space(), "best"), networks.images_of(run))


@pytest.mark.parametrize("metric", ["balanced", "top5"])
def test_a_card_has_the_metric_that_chose_the_network(metric, tmp_path):
    labels, shares = answered()
    row = Answers.of(shares, labels).result("test")
    card = card_of(tmp_path / "run", metric=metric, **row)
    expected = balanced_accuracy_score(labels, shares.argmax(1))
    if metric == "top5":
        expected = top_k_accuracy_score(labels, shares, k=5)
    assert (card.accuracy.metric, card.accuracy.by_metric) == (metric, pytest.approx(expected))
    low, high = card.accuracy.by_metric_interval
    assert low < expected < high
    told = json.loads(json.dumps(card.to_json()))
    assert Card.from_json(told).to_json() == card.to_json()
    name = {"balanced": "balanced accuracy", "top5": "top-5 accuracy"}[metric]
    words = f"; {name}, by which it was chosen, {100 * expected:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
    assert card.accuracy.told.startswith(f"top-1 {100 * (shares.argmax(1) == labels).mean():.2f} %")
    assert card.accuracy.told.endswith(words)
    assert f"| test accuracy | {card.accuracy.told} |" in companions.readme(Path("best.onnx"), card)


def test_cards_of_before_have_top1_alone(tmp_path):
    card = card_of(tmp_path / "run")
    told = json.loads(json.dumps(card.to_json()))
    for name in ("metric", "by_metric", "by_metric_interval"):
        del told["accuracy"][name]
    read = Card.from_json(told)
    assert read.to_json() == card.to_json()
    assert "chosen" not in read.accuracy.told


def test_what_was_not_tested_has_the_metric_in_validation():
    labels, shares = answered()
    row = Answers.of(shares, labels).result("val")
    found = Accuracy.of(row, "balanced")
    assert (found.test, found.validation, found.images) == (None, row["val_accuracy"], len(labels))
    assert found.by_metric == row["val_balanced_accuracy"]
    assert found.told.startswith("not tested, ")


def test_pictures_of_a_folder_are_judged_by_the_metric_of_the_file():
    labels, shares = answered()
    names = [f"class {i}" for i in range(10)]
    rows = [Predicted(Path(str(i)), names[y], p) for i, (y, p) in enumerate(zip(labels, shares, strict=True))]
    told = predict.accuracy([*rows, Predicted(Path("x"), "strange", shares[0])], names, "balanced")
    assert told["images"] == len(labels)
    assert told["test"] == pytest.approx((shares.argmax(1) == labels).mean())
    assert told["by_metric"] == pytest.approx(balanced_accuracy_score(labels, shares.argmax(1)))
    assert "balanced accuracy" in told["told"]
    assert predict.accuracy(rows, names)["by_metric"] is None
    assert predict.accuracy(rows, ["other"], "balanced") is None
