"""A search with its files: what the log holds, what the bar says, what is scored once."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from search.ces import CES, CESConfig
from search.costs import AdditiveCost
from search.evaluator import Evaluator
from search.run import Scoring, SearchRun
from supernet import families, files
from supernet.cli import evolve
from supernet.data import sets
from supernet.model import Supernet
from supernet.progress import Bar, silent
from supernet.space import Choice
from tests.conftest import refused, tiny_space


def make(folder, metric=None, space=None, **budget):
    torch.manual_seed(0)
    space = space or tiny_space()
    x, y = torch.randn(24, 1, 14, 14), torch.arange(24) % 10
    evaluator = Evaluator(Supernet(space), [x[:12]], [(x, y)], metric=metric or "top1")
    cost = AdditiveCost(*families.layout(space).priced(lambda spec: spec.flops))
    search = CES(space, {"flops": cost}, {}, ["flops"], CESConfig(**{"population": 6, "iterations": 3, **budget}))
    return SearchRun(folder, search, evaluator, {"checkpoint": "random"} | ({"metric": metric} if metric else {}))


def test_scores_by_another_metric_are_refused_and_stay(tmp_path):
    make(tmp_path).run()
    before = (tmp_path / "scores.jsonl").read_bytes()
    assert "scores by the metric top1, not balanced" in refused(make, tmp_path, "balanced")
    assert (tmp_path / "scores.jsonl").read_bytes() == before
    assert make(tmp_path, "top1").search.done  # which was the only one when nothing was recorded


def test_the_front_says_what_was_maximised(tmp_path):
    found = make(tmp_path, "balanced")
    found.run()
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    front, best, _, told = found.write([], {})
    written = files.read_json(tmp_path / "front.json", "front")
    assert written["metric"] == "balanced"
    assert written["front"][best] == {**told, "layers": found.search.space.describe(front[best].arch)}
    assert told["one_shot_images"] == 24


def test_the_log_holds_all_that_was_told(tmp_path):
    found = make(tmp_path)
    found.run()
    told = [(tuple(line.pop("arch")), line) for line in files.JsonLines(tmp_path / "population.jsonl").read()]
    assert told == [
        (record.arch, {"accuracy": record.accuracy, "costs": record.costs, "generation": record.generation})
        for record in found.search.records()
    ]


def test_the_bar_says_how_the_search_stands(tmp_path):
    texts = []

    class Spy(Bar):
        def advance(self, n=1, work=None, text=None):
            super().advance(n, work, text)
            texts.append(self.text)

    found = make(tmp_path)
    found.run([(0, 0, 0)], Spy)
    last = found.search.history[-1]
    for part in (f"best {100 * last['best_accuracy']:.2f} %", f"front {last['front']}"):
        assert part in texts[-1]
    assert f"hypervolume {last['hypervolume']:,.0f}" in texts[-1]
    first = texts.index(next(text for text in texts if text))
    assert all("hypervolume" in text for text in texts[first:])  # scoring does not overwrite it


def test_the_bar_counts_the_networks_that_are_written(tmp_path):
    """An identity before a pooling makes the same network as one behind it."""
    tiny, notes = tiny_space(), []
    free = (Choice("identity"), Choice("max_pool", 3))
    genes = (tiny.genes[0], *(dataclasses.replace(gene, choices=free) for gene in tiny.genes[1:]))
    space = dataclasses.replace(tiny, genes=genes, allowed=((0,), (0, 1), (0, 1)))

    class Spy(silent):
        def advance(self, n=1, work=None, text=None):
            notes.extend([text] if text else [])

    found = make(tmp_path, space=space, population=4, iterations=1)
    found.run((), Spy)
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    front = found.write([], {})[0]
    assert len(front) < found.search.history[-1]["front"]
    assert f"front {len(front)}, " in notes[-1]


def test_scores_outlive_a_search_and_cost_nothing_again(tmp_path):
    first = make(tmp_path)
    first.run()
    assert "times fewer layer runs" in first.evaluator.summary
    again = make(tmp_path)
    again.run()
    count = len(first.evaluator.scores)
    assert again.evaluator.summary == f"{count} architectures, BN recalibrated; all of them were known"
    other = make(tmp_path, seed=1)
    assert "seed = 0, this search has 1" in other.note
    assert other.evaluator.scores == pytest.approx(first.evaluator.scores)


def test_memory_and_threads_are_no_part_of_what_a_score_depends_on(tmp_path):
    supernet, images = Supernet(tiny_space()), sets.open_train("digits", tmp_path).val
    plain, other = Scoring(), evolve.Args(memory="1M", workers=3).scoring
    assert other.memory == 2**20
    assert other.identity("weights") == plain.identity("weights")
    assert len(other.batches(supernet, images)) > len(Scoring(memory=2**40).batches(supernet, images)) == 1
    whole = Scoring("batch", memory=1).batches(supernet, images)  # the batch is part of the score
    assert whole.size == Scoring("batch").batches(supernet, images).size
