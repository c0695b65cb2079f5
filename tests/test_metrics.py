"""Metrics against scikit-learn's, intervals against how often they hold the truth."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from supernet import answers, files, metrics
from supernet.answers import FILE, Answers
from supernet.training import evaluation
from tests.conftest import refused


class Answering(torch.nn.Linear):
    """A model whose images are its logits."""

    def __init__(self, classes: int):
        super().__init__(1, 1)
        self.space = SimpleNamespace(classes=classes)

    def forward(self, x, arch=None):
        return x


def answered(logits: np.ndarray, labels: np.ndarray) -> Answers:
    """As evaluation has them, in batches."""
    batches = zip(torch.from_numpy(logits).split(64), torch.from_numpy(labels).split(64), strict=True)
    return evaluation.answers(Answering(logits.shape[1]), batches)


def uneven(classes: int = 7, images: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are often right, and labels of classes of different sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, images, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), labels] += rng.random(images) * np.linspace(0, 4, classes)[labels]
    return logits, labels


@pytest.mark.parametrize("classes", [3, 7])
def test_answers_of_a_runtime_are_those_of_evaluation(classes):
    logits, labels = uneven(classes)
    logits[::5] = np.round(logits[::5])  # some are equal
    of, by = Answers.of(logits, labels), answered(logits, labels)
    assert np.array_equal(of.guesses[:, 0], by.guesses[:, 0])
    assert np.array_equal(of.hits(), by.hits())
    assert of.share("balanced") == by.share("balanced")
    clear = np.arange(len(labels)) % 5 > 0
    some = Answers.of(logits[clear], labels[clear]), answered(logits[clear], labels[clear])
    assert some[0].share("top5") == some[1].share("top5")


def test_shares_are_scikit_learns():
    logits, labels = uneven()
    found = answered(logits, labels)
    assert found.share() == pytest.approx(np.mean(logits.argmax(1) == labels), abs=0)
    assert found.share("balanced") == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert found.share("top5") == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert len({found.share(metric) for metric in metrics.METRICS}) == 3


def test_a_class_without_images_has_no_part():
    assert metrics.share([3, 0, 1], [4, 0, 2], "balanced") == (3 / 4 + 1 / 2) / 2
    low, high = metrics.interval([3, 0, 1], [4, 0, 2], "balanced")
    assert 0 < low < 5 / 8 < high < 1


def test_nothing_is_no_accuracy():
    assert "empty" in refused(metrics.share, [0, 0], [0, 0])
    assert "empty" in refused(metrics.interval, [0, 0], [0, 0], "balanced")


def test_wilsons_interval_is_the_published_one():
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    for hits, images, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert metrics.interval([hits], [images]) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_one_class_is_wilsons():
    assert metrics.interval([17], [20], "balanced") == pytest.approx(metrics.interval([17], [20]))


@pytest.mark.parametrize("metric", ["top1", "balanced"])
def test_intervals_hold_the_truth_as_often_as_they_say(metric):
    rng, images, recalls = np.random.default_rng(0), np.array([200, 30, 8]), np.array([0.95, 0.8, 0.6])
    truth = recalls.mean() if metric == "balanced" else (images * recalls).sum() / images.sum()
    held = 0
    for _ in range(300):
        low, high = metrics.interval(rng.binomial(images, recalls), images, metric)
        held += low <= truth <= high
    assert 0.91 <= held / 300 <= 0.99


def test_a_perfect_class_leaves_a_doubt():
    low, high = metrics.interval([5, 5], [5, 5], "balanced")
    assert low < 0.9
    assert high == 1


def test_top5_of_five_classes_is_refused_and_not_told():
    assert "5 classes" in refused(metrics.require, "top5", 5)
    assert "top1, top5, balanced" in refused(metrics.require, "f1", 10)
    metrics.require("top5", 6)
    logits, labels = uneven(classes=5)
    assert sorted(answered(logits, labels).shares("val")) == ["val_accuracy", "val_balanced_accuracy"]


def test_results_name_every_metric_with_its_interval_and_the_images():
    logits, labels = uneven()
    row = answered(logits, labels).result("test")
    assert row["test_images"] == 300
    for metric in metrics.METRICS:
        name = metrics.key("test", metric)
        low, high = row[f"{name}_interval"]
        assert low < row[name] < high
    assert metrics.percent(row, "test").endswith("of 300 images")
    assert metrics.percent({"test_accuracy": 0.5}, "test") == "50.00 %"
    alone = {name: row[name] for name in ("test_accuracy", "test_images")}
    assert metrics.percent(alone, "test") == metrics.percent(row, "test")


def test_the_file_of_the_classes_and_its_picture(tmp_path):
    logits, labels = uneven()
    names = [f"class {i}" for i in range(5)] + ["$a_{", "猫"]
    answered(logits, labels).write(tmp_path / "classes.json", tmp_path / "confusion.png", names)
    read = files.read_json(tmp_path / "classes.json", "classes", expected=FILE)
    assert read["confusion"] == confusion_matrix(labels, logits.argmax(1)).tolist()
    for row, counts in zip(read["classes"], read["confusion"], strict=True):
        place = names.index(row["name"])
        assert row["images"] == sum(counts)
        assert row["recall"] == pytest.approx(counts[place] / sum(counts))
        assert row["precision"] == pytest.approx(counts[place] / sum(line[place] for line in read["confusion"]))
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    classes, confusion = answers.read(tmp_path / "classes.json")
    assert (classes, confusion.tolist()) == (read["classes"], read["confusion"])
    (tmp_path / "classes.json").write_text(json.dumps({**read, "confusion": read["confusion"][:-1]}))
    assert "delete it" in refused(answers.read, tmp_path / "classes.json")


def test_a_picture_of_many_classes_names_none(tmp_path):
    logits, labels = uneven(classes=60, images=200)
    answered(logits, labels).write(tmp_path / "a.json", tmp_path / "a.png", [str(i) for i in range(60)])
    assert (tmp_path / "a.png").stat().st_size > 1000
