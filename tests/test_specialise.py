"""One network for each of several devices: the best within its bound of all that was scored, and its file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from latency.table import SAMPLED, LatencyTable
from search import priced
from supernet import families
from supernet.cli import specialise
from supernet.data import sets
from supernet.errors import UserError
from supernet.export import formats
from supernet.export.formats import read_metadata
from supernet.space import Space
from tests import test_cli as command_line
from tests.test_cli import ok, refused
from tests.test_deploy import deployed

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
OLD = Path(__file__).parent / "data" / "v0.1" / "spos"
BUDGET = ("--population", 8, "--iterations", 3, "--recalibration", 2, 64, "--quiet")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run and the tables of two devices: a chip is three times as slow, of half of its layers by prediction."""
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    table = json.loads((OLD / "lut.json").read_text())
    for name, times in (("phone", 1), ("chip", 3)):
        operations = {key: {**op, "median_ms": times * op["median_ms"]} for key, op in table["operations"].items()}
        (tmp_path / f"{name}.json").write_text(json.dumps({**table, "operations": operations}))
    half = {key: operations.pop(key)["median_ms"] for key in sorted(operations)[::2]}
    predictions = {"layers": half, "held_out": {}, "regressors": {}}
    sampled = {**table, "schema": SAMPLED, "operations": operations, "predictions": predictions}
    (tmp_path / "chip.json").write_text(json.dumps(sampled))
    return folder


def limits(run: Path) -> tuple[Space, dict[str, float]]:
    """The space, and of each device the median latency."""
    space = Space.load(run / "space.json")
    found = {}
    for name in ("phone", "chip"):
        table = LatencyTable.load(run.parent / f"{name}.json", space)
        found[name] = priced.median(space, priced.additive(space, table.price))
    return space, found


def test_each_device_has_the_best_network_within_its_bound(run):
    space, middle = limits(run)
    given = [word for name, ms in middle.items() for word in ("--lut", f"{run.parent / name}.json:{ms:g}")]
    printed = ok("specialise", "--run", run, *given, "--export", "pt2", *BUDGET)
    assert "next: " in printed
    assert "phone.json predicts" not in printed
    lines = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    scored = {tuple(row["arch"]): row["accuracy"] for row in lines[1:]}
    rows = {row["name"]: row for row in json.loads((run / "specialised/networks.json").read_text())["networks"]}
    assert list(rows) == ["phone", "chip"]
    test = sets.open_test("digits", Path("data"))
    for name, row in rows.items():
        table = LatencyTable.load(run.parent / f"{name}.json", space)
        within = [arch for arch in scored if table.predict_arch(space, arch) <= middle[name]]
        assert row["latency_ms"] == pytest.approx(table.predict_arch(space, row["arch"]))
        keys = [spec.key for spec in families.lower(space, row["arch"]) if spec.runs]
        if name == "chip":
            guessed = sum(table.layer_ms(key) for key in keys if key in table.predictions.layers)
            share = 100 * guessed / sum(map(table.layer_ms, keys))
            assert f"chip: {share:.2g} % of the latency is of layers that {table.source} predicts" in printed
        assert row["latency_ms"] <= row["bound_ms"] == pytest.approx(middle[name], rel=1e-5)
        assert row["one_shot_accuracy"] == scored[tuple(row["arch"])] == max(scored[arch] for arch in within)
        file = run / "specialised" / row["file"]
        assert read_metadata(file)["latency_ms"] == (row["latency_ms"] if row["runtime"]["name"] == "torch" else None)
        told = read_metadata(file)["accuracy"]
        assert (told["test"], told["validation"]) == (row["test_accuracy"], row["one_shot_accuracy"])
        network = torch.export.load(file).module()
        hits = [int(network(x).argmax(1) == y) for x, y in test.plain_batches(1)]
        assert sum(hits) / len(test) == row["test_accuracy"]
        beside = {"arch.json", "deploy.py", "pictures.py", "README.md", f"{name}.safetensors", f"{file.name}.json"}
        assert {path.name for path in file.parent.iterdir()} == beside | {file.name}
        assert row["file"] == f"{name}/{file.name}"
        for companion in ("deploy.py", "README.md"):
            assert file.name in (file.parent / companion).read_text()
    assert (run / "specialised/networks.png").read_bytes().startswith(b"\x89PNG")
    assert rows["phone"]["bound_ms"] == pytest.approx(rows["chip"]["bound_ms"] / 3, rel=0.2)

    (run / "specialised/phone/README.md").write_text("mine")
    before = (run / "scores.jsonl").read_bytes()
    again = command_line.run("specialise", "--run", run, *given, "--export", "pt2", *BUDGET)
    assert "phone/README.md is somebody's and stays" in again.stderr
    assert (run / "specialised/phone/README.md").read_text() == "mine"
    assert (run / "scores.jsonl").read_bytes() == before  # everything was known


def test_tables_of_int8_layers_have_files_on_8_bit_values(run):
    """What the row and the card have is what the file answers in its runtime."""
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    path = run.parent / "phone.json"
    table = json.loads(path.read_text())
    table["runtime"] = {"name": "onnxruntime", "version": "1", "options": {"precision": "int8"}}
    path.write_text(json.dumps(table))
    told = refused("specialise", "--run", run, "--lut", path, "--export", "pt2", *BUDGET)
    assert "phone.pt2: int8 files end in .onnx" in told
    (run / "scores.jsonl").unlink()  # by top-1
    ok("specialise", "--run", run, "--lut", path, "--max-drop", 10, "--metric", "top5", *BUDGET)
    (row,) = json.loads((run / "specialised/networks.json").read_text())["networks"]
    file = run / "specialised" / row["file"]
    card = formats.read_card(file)
    assert card.precision == "int8"
    assert card.latency_ms == row["latency_ms"]  # a table of onnxruntime, an .onnx file
    assert (card.accuracy.test, card.accuracy.metric) == (row["test_accuracy"], "top5")
    assert card.accuracy.by_metric == row["test_top5_accuracy"]
    assert "top-5 accuracy, by which it was chosen" in (file.parent / "README.md").read_text()
    answers = formats.FORMATS["onnx"].load(file.read_bytes())
    test = sets.open_test("digits", Path("data"))
    hits = [int(answers(x.numpy())[0].argmax() == int(y)) for x, y in test.plain_batches(1)]
    assert sum(hits) / len(test) == card.accuracy.test
    for i, (x, y) in enumerate(test.plain_batches(1)):
        (folder := run.parent / "pictures" / card.classes[int(y)]).mkdir(parents=True, exist_ok=True)
        pixels = (255 * (x[0, 0] * test.std[0] + test.mean[0])).round().to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    told = deployed(file.parent, ("torch", "torchvision"), run.parent / "pictures")[-1]
    assert told == [f"accuracy {100 * card.accuracy.test:.2f} %, {sum(hits)} of {len(test)}"]
    bits = [tensor.data_type for tensor in onnx.load(file).graph.initializer]
    assert onnx.TensorProto.INT8 in bits


def test_several_bounds_of_one_table(run):
    _, middle = limits(run)
    table = f"{run.parent / 'phone.json'}"
    low, high = 0.95 * middle["phone"], 1.1 * middle["phone"]
    ok(
        "specialise",
        "--run",
        run,
        "--lut",
        f"{table}:{low:.4f}",
        "--lut",
        f"{table}:{high:.4f}",
        "--export",
        "pt2",
        *BUDGET,
    )
    made = json.loads((run / "specialised/networks.json").read_text())["networks"]
    assert [row["name"] for row in made] == [f"phone-{float(f'{ms:.4f}'):g}ms" for ms in (low, high)]
    assert made[0]["one_shot_accuracy"] <= made[1]["one_shot_accuracy"]  # what is within the lower is within the higher


def test_bad_bounds_are_refused_before_anything_is_scored(run):
    before = sorted(path.name for path in run.iterdir())
    table = run.parent / "phone.json"

    def told(*luts: object) -> str:
        return refused("specialise", "--run", run, *(word for lut in luts for word in ("--lut", lut)), *BUDGET)

    assert "phone: a latency of 0.01 ms is below" in told(f"{run.parent / 'chip.json'}:3", f"{table}:0.01")
    assert "expected a table and its bound in ms" in told(f"{table}:fast")
    assert "no latency table at" in told("none.json:3")
    content = json.loads(table.read_text())
    gone = content["operations"].popitem()[0]
    (few := run.parent / "few.json").write_text(json.dumps(content))
    message = told(f"{table}:3", f"{few}:3")
    assert f"few.json has no latency of the layer {gone!r}" in message
    assert f"run python tools/build_lut.py --run {run}" in message
    assert "two devices are called phone" in told(table, table)
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a/phone.json:70", "pi.json"], {"phone": (Path("a/phone.json"), 70.0), "pi": (Path("pi.json"), None)}),
        (["a/l.json:8", "b/l.json:4.5"], {"l-8ms": (Path("a/l.json"), 8.0), "l-4.5ms": (Path("b/l.json"), 4.5)}),
    ],
)
def test_devices_have_the_names_of_their_tables(given, expected):
    assert specialise.named(given) == expected


@pytest.mark.parametrize("text", ["a.json:", "a.json:0", "a.json:-3", "a.json:nan", "a.json:inf", "a.json:x"])
def test_a_bound_that_is_no_positive_number(text):
    with pytest.raises(UserError, match="expected a table and its bound in ms"):
        specialise.table_and_bound(text)
