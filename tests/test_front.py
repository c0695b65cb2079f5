import pytest

from search import front
from search.ask_tell import Record


def records(points):
    return [Record((i,), accuracy, {"latency": ms}, 0, 1) for i, (ms, accuracy) in enumerate(points)]


def test_knee_is_farthest_above_the_chord():
    assert front.knee(records([(1, 0.5), (2, 0.9), (5, 1.0)]), "latency") == 1
    assert front.knee(records([(1, 0.5), (2, 0.6), (3, 0.95), (5, 1.0)]), "latency") == 2


def test_knee_of_a_short_front_is_its_most_accurate_point():
    assert front.knee(records([(1, 0.5)]), "latency") == 0
    assert front.knee(records([(1, 0.5), (2, 0.7)]), "latency") == 1


def test_best_is_the_most_accurate():
    assert front.best(records([(1, 0.5), (2, 0.9), (5, 0.8)])) == 1


@pytest.mark.parametrize("bound", [(0.0, 4.0), (1.0, float("inf"))])
def test_plot_writes_a_picture(tmp_path, bound):
    points = records([(1, 0.5), (2, 0.9), (5, 1.0)])
    front.plot(tmp_path / "front.png", points, points, points[:1], bound, "x")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_front_in_a_table():
    given = [(ms, 0.5 + ms / 100) for ms in range(1, 31)]
    points = records(given)
    for record in points:
        record.costs.update(flops=2e6, params=3e3, activations=4e3)
    table = front.table(points, 29, 10, ["latency"])
    assert list(table.headings) == ["", "latency ms", "flops M", "params k", "activations k", "one-shot %"]
    assert table.rows[0] == ["0", "1", "2", "3", "4", "51.00"]
    assert table.rows[-1][0] == "29 best"
    assert "10 knee" in [row[0] for row in table.rows]
    assert len(table.rows) <= 11
    assert table.title == "front: 30 architectures"
    assert front.table(points[:1], 0, 0, ["latency"]).title == "front: 1 architecture"
