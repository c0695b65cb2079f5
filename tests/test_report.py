"""The page of a run: what is on it is escaped and drawn; the tables of networks that were trained alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from supernet.answers import Answers
from supernet.report import columns, page, pieces
from supernet.runs import RunFolder

OLD = Path(__file__).parent / "data" / "v0.1" / "spos"


def test_what_is_shown_is_no_markup():
    table = pieces.table(["<b>"], [["a & b"], ["c"]], picked=["c"])
    assert "&lt;b&gt;" in table
    assert "a &amp; b" in table
    assert '<tr class="picked"><td>c</td></tr>' in table
    assert pieces.section("x", "", "y") == "<h2>x</h2>\ny"
    whole = pieces.page("<t>", ["", "here"])
    assert "<title>&lt;t&gt;</title>" in whole
    assert "here\n</body></html>" in whole


def test_commands_are_shown_where_there_is_a_network(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    run = page.Run.load(RunFolder(tmp_path / "run"))
    assert run.picked
    assert "do this &lt;next&gt;" in page.render(run, ["do this <next>"])
    assert "<img" in page.render(run)


def test_networks_that_were_trained_alone():
    random = {f"random-{i}": {"test_accuracy": a, "flops": 1e6 * i} for i, a in enumerate((0.5, 0.6, 0.7), 1)}
    rows = {"best": {"test_accuracy": 0.8, "flops": 3e6}, **random}
    test = [50, 60, 70]
    table = columns.alone(rows, "title")
    assert list(table.headings) == ["", "test %", "MFLOPs"]
    assert table.rows[0] == ["best", "80.00", "3.00"]
    assert table.rows[1] == ["3 random", f"{np.mean(test):.2f} ± {np.std(test, ddof=1):.2f}", "2.00 ± 1.00"]
    assert columns.gain(rows).startswith("best: +20.00 points")
    assert "+10.00 against the best of them" in columns.gain(rows)
    single = {"best": rows["best"], "random-0": rows["random-1"]}
    assert [row[0] for row in columns.alone(single, "title").rows] == ["best", "random-0"]
    assert columns.gain({"best": rows["best"]}) == ""
    assert columns.gain(random) == ""
    tuned = {"best-int8": {"test_accuracy": 0.9}, "random-1-int8": {"test_accuracy": 0.1}}
    assert columns.gain({**rows, **tuned}) == columns.gain(rows)
    assert columns.gain({**tuned, **rows}).startswith("best-int8: +80.00 points")


def test_networks_are_compared_by_their_metric():
    def row(accuracy: float, balanced: float) -> dict:
        row = {"metric": "balanced", "test_accuracy": accuracy, "test_images": 100}
        return row | {"test_balanced_accuracy": balanced, "test_balanced_accuracy_interval": [0.1, 0.9]}

    rows = {"front-0": {**row(0.9, 0.6), "val_balanced_accuracy": 0.6}, "random-0": row(0.95, 0.5)}
    assert list(columns.alone(rows, "").headings) == ["", "test %", "balanced test %"]
    assert columns.gain(rows).startswith("front-0: +10.00 points of test balanced accuracy")
    assert columns.told(rows) == [
        "front-0: test balanced accuracy 60.00 % [10.00, 90.00] of 100 images, an interval of 95 %"
    ]
    several = {**rows, "front-1": {**row(0.5, 0.55), "val_balanced_accuracy": 0.7}}
    assert columns.told(several)[-1] == "of these front-1 has the highest validation balanced accuracy, 70.00 %"


def test_classes_are_on_the_page_the_worst_first(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    labels = np.repeat([0, 1, 2], 10)
    said = labels.copy()
    said[[10, 20, 21, 22]] = 0  # a dog and three owls are taken for cats
    folder = RunFolder(tmp_path / "run").network("best")
    Answers(labels, said[:, None], 3).write(folder.classes_path, folder.confusion_picture, ["<cat>", "dog", "owl"])
    shown = page.render(page.Run.load(RunFolder(tmp_path / "run")))
    assert "&lt;cat&gt;" in shown
    assert shown.index("owl") < shown.index("dog")
    assert "what each class is taken for" in shown


@pytest.mark.parametrize("lacking", ["lut.json", "population.jsonl", "front.json"])
def test_a_run_that_has_not_come_so_far(tmp_path, lacking):
    shutil.copytree(OLD, tmp_path / "run")
    (tmp_path / "run" / lacking).unlink()
    assert "<h1>" in page.render(page.Run.load(RunFolder(tmp_path / "run")))
