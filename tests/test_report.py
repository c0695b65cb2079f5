"""The page of a run: what is on it is escaped and drawn; the tables of networks that were trained alone."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from supernet import families, metrics, spaces
from supernet.answers import Answers
from supernet.cli import report
from supernet.report import charts, columns, explorer, load, page, pieces, taken
from supernet.runs import RunFolder

OLD = Path(__file__).parent / "data" / "v0.1" / "spos"


def test_what_is_shown_is_no_markup():
    table = pieces.table(["<b>"], [["a & b"], ["c"]], picked=["c"])
    assert "&lt;b&gt;" in table
    assert "a &amp; b" in table
    assert '<tr class="picked"><td>c</td></tr>' in table
    assert pieces.section("x", "", "y") == "<h2>x</h2>\ny"
    assert pieces.section("x", "", "") == ""
    whole = pieces.page("<t>", ["", "here"], {"name": "</script><b>"})
    assert "<title>&lt;t&gt;</title>" in whole
    assert "\nhere\n" in whole
    assert "</script><b>" not in whole
    assert json.loads(whole.split('id="data">')[1].split("</script>")[0]) == {"name": "</script><b>"}
    shares = pieces.matrix(charts.Matrix("<m>", ["<r>"], ["<c>", "d"], [[0.5, math.nan]], "{:.1f}"))
    assert all(f"&lt;{name}&gt;" in shares for name in "mrc")
    assert "0.5</td><td></td>" in shares
    assert ">1,230</td>" in pieces.matrix(charts.Matrix("", ["r"], ["c"], [[1234]]))


def test_commands_are_shown_where_there_is_a_network(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    run = load.Run.load(RunFolder(tmp_path / "run"))
    assert run.picked
    assert "do this &lt;next&gt;" in page.Page([run], more=["do this <next>"]).render()


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


def test_the_page_tells_accuracies_by_the_metric_of_the_run(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    result = tmp_path / "run" / "best" / "result.json"
    told = {"metric": "balanced", "test_balanced_accuracy": 0.25, "test_balanced_accuracy_interval": [0.2, 0.3]}
    result.write_text(json.dumps({**json.loads(result.read_text()), **told}))
    row = {"name": "phone", "file": "phone/phone.onnx", "layers": "x", "bound_ms": 1.0, "latency_ms": 0.9}
    row |= {"test_accuracy": 0.75, "test_balanced_accuracy": 0.625}
    (tmp_path / "run" / "specialised").mkdir()
    found = {"metric": "balanced", "networks": [row]}
    (tmp_path / "run" / "specialised" / "networks.json").write_text(json.dumps(found))
    shown = page.Page([load.Run.load(RunFolder(tmp_path / "run"))]).render()
    assert "<h1>best: balanced 25.00 % [20.00, 30.00] of 360 images in the test" in shown
    assert not re.findall(r"\d%", shown.split("<main")[-1].split("<script")[0])  # a space stands before each
    specialised = shown.split("A network for each device")[1]
    assert "balanced test, %" in specialised
    assert "62.50" in specialised
    assert "75.00" not in specialised.split("</table>")[0]


def test_classes_are_on_the_page_the_worst_first(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    labels = np.repeat([0, 1, 2], 10)
    said = labels.copy()
    said[[10, 20, 21, 22]] = 0  # a dog and three owls are taken for cats
    folder = RunFolder(tmp_path / "run").network("best")
    Answers(labels, said[:, None], 3).write(folder.classes_path, folder.confusion_picture, ["<cat>", "dog", "owl"])
    made = page.Page([load.Run.load(RunFolder(tmp_path / "run"))])
    shown = made.render()
    assert made.matrices["confusion"].values[2] == pytest.approx([30, 0, 70])
    assert "&lt;cat&gt;" in shown
    assert shown.index("owl") < shown.index("dog")
    assert "taken for that in the column" in shown
    shares = re.findall(r'<td style="--v:[^"]*">(\d+)</td>', shown)
    assert shares[:9] == ["100", "0", "0", "10", "90", "0", "30", "0", "70"]


def test_of_a_thousand_classes_the_pairs_that_are_mixed_up_most_are_shown(tmp_path):
    """The whole confusion of ImageNet's classes would be a million cells of the page."""
    shutil.copytree(OLD, tmp_path / "run")
    labels = np.repeat(np.arange(1000), 4)
    said = labels.copy()
    said[[28, 29, 30, 2000]] = [9, 9, 9, 3]  # three of four images of class 7 for class 9, one of class 500 for class 3
    folder = RunFolder(tmp_path / "run").network("best")
    names = [f"class {i}" for i in range(1000)]
    Answers(labels, said[:, None], 1000).write(folder.classes_path, folder.confusion_picture, names)
    shown = page.Page([load.Run.load(RunFolder(tmp_path / "run"))]).render()
    pairs = re.findall(r"<tr>(.*?)</tr>", shown.split("of the class, %</th>")[1].split("</table>")[0])
    cells = [re.findall(r"<t[dh][^>]*>([^<]*)<", row) for row in pairs]
    assert [row for row in cells if row] == [["class 7", "class 9", "3", "75.0"], ["class 500", "class 3", "1", "25.0"]]
    assert len(shown) < 1_000_000


@pytest.mark.parametrize("lacking", ["lut.json", "population.jsonl", "front.json"])
def test_a_run_that_has_not_come_so_far(tmp_path, lacking):
    shutil.copytree(OLD, tmp_path / "run")
    (tmp_path / "run" / lacking).unlink()
    assert "<h1>" in page.Page([load.Run.load(RunFolder(tmp_path / "run"))]).render()


def test_one_shot_accuracies_are_ranked_against_those_alone(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    run = load.Run.load(RunFolder(tmp_path / "run"))
    row = run.results["best"]
    names, test = ["best", "random-0", "random-1", "random-2"], [0.5, 0.4, 0.2, 0.3]
    rows = [row | {"one_shot_accuracy": i / 10, "test_accuracy": t, "test_images": 100} for i, t in enumerate(test)]
    made = page.Page([dataclasses.replace(run, results=dict(zip(names, rows, strict=True)))])
    assert "τ of these 4 networks: -0.67 [" in page.alone(made)  # one of six pairs is in the other's order
    picked, random = made.plots["alone"].series
    low, high = metrics.interval([50], [100])
    assert picked.error == [pytest.approx(50 * (high - low))]
    assert len(random.error) == 3


def test_an_architecture_is_one_point_with_all_that_is_known(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    run = load.Run.load(RunFolder(tmp_path / "run"))
    points = explorer.priced_points(run)
    assert len({point.arch for point in points}) == len(points)
    best = next(point for point in points if "trained as best" in point.name)
    entry = run.front["front"][run.front["best"]]
    assert best.arch == tuple(entry["arch"])
    assert best.kind == "trained alone"
    assert "front 0" in best.name
    assert best.numbers["one_shot"] == entry["one_shot_accuracy"]
    assert best.numbers["test top1"] == run.results["best"]["test_accuracy"]
    assert best.numbers["measured"] == run.results["best"]["measured_latency_ms"]
    assert best.numbers["flops"] == families.flops(run.space, best.arch)
    assert best.numbers["latency"] == pytest.approx(run.lut.predict_arch(run.space, best.arch))


def test_layers_of_architectures_add_up(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    run = load.Run.load(RunFolder(tmp_path / "run"))
    told = explorer.data([run], {})
    flops = told["axes"].index("multiply-adds, M")
    for point in told["points"]:
        layers = [told["layers"][i] for i in point["layers"]]
        assert sum(layer[4] for layer in layers) / 1e6 == pytest.approx(point["numbers"][flops], rel=1e-5)
    bound = run.front["bounds"]["latency"]
    assert told["windows"][told["x"]] == bound


def test_the_layers_of_all_architectures_are_told_where_there_is_room(monkeypatch):
    """2,000 scored architectures of a space of 22 genes; with less room the latest and the found ones have layers."""
    draw, space = random.Random(0), spaces.usual("mobile", None)
    archs = list({tuple(map(draw.choice, space.allowed)): None for _ in range(explorer.SHOWN)})
    lines = [{"arch": a, "accuracy": 0.5, "costs": {"flops": 1.0}, "generation": 3} for a in archs]
    entry = {"arch": list(archs[0]), "layers": "", "one_shot_accuracy": 0.5}
    old = load.Run.load(RunFolder(OLD))
    run = dataclasses.replace(
        old, space=space, scored=lines, front={"front": [entry], "random": []}, results={}, tables={}
    )
    whole = explorer.data([run], {})
    assert len(whole["points"]) == len(archs) == explorer.SHOWN
    assert all(len(point["layers"]) > 10 for point in whole["points"])
    size = len(json.dumps([whole["points"], whole["layers"]], separators=(",", ":")))
    assert size < explorer.ROOM
    monkeypatch.setattr(explorer, "ROOM", size - 20_000)
    part = explorer.data([run], {})
    there = ["layers" in point for point in part["points"]]
    assert there[-1]
    assert part["points"][-1]["arch"] == archs[0]  # found by the search
    assert there == sorted(there)
    assert 1000 < sum(there) < len(archs)
    assert len(json.dumps([part["points"], part["layers"]], separators=(",", ":"))) < explorer.ROOM + 1000


def test_two_runs_are_compared(tmp_path):
    for name in ("one", "other"):
        shutil.copytree(OLD, tmp_path / name)
    settings = json.loads((tmp_path / "other" / "config.json").read_text()) | {"epochs": 99}
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    runs = [load.Run.load(RunFolder(tmp_path / name)) for name in ("one", "other")]
    shown = page.Page(runs).render()
    assert "The runs" in shown
    assert "<td>epochs</td>" in shown
    assert "<td>99</td>" in shown
    assert "<td>batch_size</td>" not in shown
    assert {point["run"] for point in explorer.data(runs, {})["points"]} == {run.name for run in runs}


def test_points_that_are_no_numbers_are_left_out():
    series = charts.Series("a", [1, 2, math.nan], [1, math.inf, 3], labels=["x", "y", "z"])
    told = charts.Plot("t", "x", "y", [series]).to_json()["series"][0]
    assert told == {"name": "a", "style": "points", "x": [1], "y": [1], "labels": ["x"], "error": []}


def test_figures_are_written_as_svg_and_png(tmp_path):
    from PIL import Image

    plot = charts.Plot("t", "x", "y", [charts.Series("a", [1, 2], [3, 4], error=[0.1, 0.2])], True, (None, 1.5))
    svg, png = charts.figures(tmp_path, {"one": plot})
    assert "<svg" in svg.read_text()
    with Image.open(png) as image:
        assert image.size[0] > 600


def test_a_matrix_is_a_picture_with_its_numbers_the_larger_the_darker(tmp_path):
    from PIL import Image, ImageStat

    values = [[0.25, 1.0], [0.75, math.nan], [0.5, math.nan]]
    svg, png = charts.figures(tmp_path, {"m": charts.Matrix("shares", ["a", "b", "c"], ["0", "1"], values, "{:.2f}")})
    told = svg.read_text()
    assert all(f"<!-- {text} -->" in told for text in ("shares", "a", "b", "c", "0.25", "0.75", "1.00"))
    assert "nan" not in told
    with Image.open(png) as image:
        left, right = (image.convert("L").crop((x, 50, x + 300, 90)) for x in (150, 570))  # of the first row
    assert ImageStat.Stat(left).mean[0] > ImageStat.Stat(right).mean[0] + 50


def test_a_matrix_of_very_many_classes_is_drawn_without_names(tmp_path):
    names = [f"class {i}" for i in range(charts.NAMED + 1)]
    shown = charts.Matrix("m", names, names, [[1.0] * len(names)] * len(names), "")
    assert "<!-- class" not in charts.draw(tmp_path / "m.svg", shown).read_text()
    few = charts.Matrix("m", names[:2], names[:2], [[1.0, 1.0]] * 2, "")
    assert "<!-- class 1 -->" in charts.draw(tmp_path / "few.svg", few).read_text()


def test_the_page_follows_a_run(tmp_path, monkeypatch):
    """--live writes it again and again, and the page reloads itself until Ctrl-C, whatever other commands write."""
    monkeypatch.chdir(shutil.copytree(OLD, tmp_path / "run"))
    written, sleeps, reloads = [], [], []

    def sleep(seconds: float) -> None:
        written.append(Path("report.html").stat().st_mtime_ns)
        sleeps.append(seconds)
        report.leave_page(report.Args(run=Path(".")))
        reloads.append(pieces.reloads(Path("report.html")))
        if len(sleeps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        report.run(report.Args(run=Path("."), live=7))
    assert sleeps == [7, 7, 7]
    assert len(set(written)) == 3
    assert reloads == [7, 7, 7]
    assert '"reload":null' in Path("report.html").read_text()


def test_commands_on_the_page_name_the_run_and_its_code(tmp_path):
    shutil.copytree(OLD, tmp_path / "my run")
    args = report.Args(run=tmp_path / "my run", data="mine.py:images")
    report.write(args, tmp_path / "page.html", figures=tmp_path / "figures")
    data = json.loads((tmp_path / "page.html").read_text().split('id="data">')[1].split("</script>")[0])
    retrain = next(line for line in data["explorer"]["commands"][str(args.run)] if "retrain" in line)
    assert f"--run '{args.run}'" in retrain
    assert "--data mine.py:images" in retrain
    assert {f"{name}.svg" for name in ("loss", "architectures")} <= {f.name for f in (tmp_path / "figures").iterdir()}


def test_the_picture_of_the_architectures_has_the_points_of_the_page(tmp_path):
    for name in ("one", "other"):
        shutil.copytree(OLD, tmp_path / name)
    runs = [load.Run.load(RunFolder(tmp_path / name)) for name in ("one", "other")]
    plot, front = explorer.plot(explorer.data(runs[:1], {})), runs[0].front
    assert plot.window == tuple(front["bounds"]["latency"])
    points = {(x, y) for one in plot.series for x, y in zip(one.x, one.y, strict=True)}
    latencies = [runs[0].lut.predict_arch(runs[0].space, entry["arch"]) for entry in front["front"]]
    for x, entry in zip(latencies, front["front"], strict=True):
        nearest = min(points, key=lambda point: abs(point[0] - x) + abs(point[1] - 100 * entry["one_shot_accuracy"]))
        assert nearest == pytest.approx((x, 100 * entry["one_shot_accuracy"]), rel=1e-5)
    both = explorer.plot(explorer.data(runs, {}))
    assert {one.name.rpartition(": ")[0] for one in both.series} == {run.name for run in runs}
    assert not any("scored" in one.name for one in both.series)


def test_minutes_are_images_over_images_per_second(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    settings = json.loads(folder.config_path.read_text()) | {"limit": 300}
    assert "What it took" not in page.Page([load.Run.load(folder)]).render()  # 0.1 does not say how many images
    images = {"name": "digits", "classes": [], "images": {"train": 900, "val": 100}, "digest": ""}
    settings["made_with"] = {
        "version": "0.2.0",
        "torch": "2.14.1",
        "device": "cpu",
        "cpu": "Some Core 7",
        "data": images,
    }
    folder.config_path.write_text(json.dumps(settings))
    for name, speeds in (("", (10, 30)), ("best", (9, 18))):
        lines = [{"epoch": i, "val_accuracy": i / 4, "images_per_second": speed} for i, speed in enumerate(speeds, 1)]
        folder.network(name).metrics.write(lines)
    result = json.loads(folder.network("best").result_path.read_text())
    result["settings"]["limit"] = None
    folder.network("best").result_path.write_text(json.dumps(result))
    folder.clock_path.write_text('{"seconds": 120}')
    for number, kwh in enumerate((0.25, 0.5)):
        place = folder.stage_network(f"{number}")
        place.path.mkdir(parents=True)
        modules = {"role": "C", "iteration": 1, "name": f"{number}", "modules": [1, 1], "val_accuracy": 0.5}
        place.result_path.write_text(json.dumps(modules | {"energy_kwh": kwh}))
    run = load.Run.load(folder)
    took = dict(taken.parts(run))
    assert took["supernet"] == 300 / 10 + 300 / 30
    assert took["search in supernet"] == 120
    assert took["best, alone"] == 900 / 9 + 900 / 18
    shown = page.Page([run]).render()
    for wanted in ("supernet 0.2.0, torch 2.14.1, device cpu, Some Core 7", "<td>2.0 min</td>", "<td>0.75 kWh</td>"):
        assert wanted in shown
    curves = json.loads(shown.split('id="data">')[1].split("</script>")[0])["plots"]["curves"]["series"]
    assert [(one["name"], one["x"], one["y"]) for one in curves] == [("best", [1, 2], [25, 50])]
