"""The real command, in this process, on a runtime whose latencies are exact."""

from __future__ import annotations

import json
import os
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import tiny_space

from latency import runtimes
from latency.build import FIT_ARCHS, unique
from latency.table import LatencyTable
from search.spread import calibration_archs, spread
from supernet import spaces
from supernet.errors import UserError
from supernet.families import flops, layout, lower
from supernet.files import write_json
from supernet.model import Network
from supernet.runs import RunFolder

TOOL = Path(__file__).parents[1] / "tools" / "build_lut.py"
SPACE = tiny_space()


class Exact:
    """Takes 1 µs for each parameter, and a whole network 1.2 times as long as its layers."""

    name, kernels = "exact", "eager"
    visits = 0

    def __init__(self, kernels="eager", device="cpu", batch=1, threads=1):
        self.batch, self.threads = batch, threads

    def describe(self):
        return {"name": self.name, "options": {}, "version": "1"}

    def prepare(self, layer):
        return sum(p.numel() for p in layer.module.parameters()) * (1.2 if isinstance(layer.module, Network) else 1.0)

    def timer(self, artefact):
        def timer(n):
            Exact.visits += 1
            return 1e3 * n * artefact, 1e3 * n * artefact

        return timer

    def session(self):
        return nullcontext()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A run that has a space, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TOOL.parent)
    monkeypatch.setitem(runtimes.RUNTIMES, "exact", Exact)
    monkeypatch.setattr(Exact, "visits", 0)
    write_json(tmp_path / "runs/default/space.json", SPACE.to_json())
    return tmp_path / "runs/default"


def command(*flags) -> None:
    """``python tools/build_lut.py --runtime exact ...``"""
    before = sys.argv
    sys.argv = ["build_lut.py", "--runtime", "exact", "--quiet", *map(str, flags)]
    try:
        runpy.run_path(str(TOOL), run_name="__main__")
    finally:
        sys.argv = before


def refused(capsys, *flags) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        command(*flags)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_builds_a_table_that_is_right(folder, capsys):
    command()
    table = LatencyTable.load(folder / "lut.json", SPACE)
    specs = layout(SPACE)
    for spec in (specs.stem, *specs.choices[0], *specs.choices[1], specs.head):
        if spec.runs:
            assert table.layer_ms(spec.key) == pytest.approx(spec.params / 1e3)
    assert not any("identity" in key for key in table.operations)
    assert table.calibration.scale == pytest.approx(1.2)
    assert len(table.calibration.fitted_on) == 5
    assert len(table.calibration.held_out) == 8
    assert table.calibration.held_out_mape == pytest.approx(0, abs=1e-9)
    assert table.calibration.held_out_spearman == pytest.approx(1)
    archs = [c.arch for c in (*table.calibration.fitted_on, *table.calibration.held_out)]
    assert len(set(archs)) == 13
    every = [1.2e-3 * sum(s.params for s in lower(SPACE, arch)) for arch in SPACE.enumerate()]
    assert table.predict(s.key for s in lower(SPACE, archs[0])) in [pytest.approx(ms) for ms in every]
    out = " ".join(capsys.readouterr().out.split())
    assert f"{min(every):.3g} to {max(every):.3g} ms over tiny" in out
    bound = float(out.split("--lat-max ")[1].split()[0])
    assert bound == pytest.approx(min(every) + 0.4 * (max(every) - min(every)), rel=0.01)  # three digits
    assert "next: python tools/evolve.py --lat-max" in out
    assert [path.name for path in folder.iterdir() if "lut" in path.name] == ["lut.json"]


def test_whole_networks_are_spread_from_the_smallest_to_the_largest(folder):
    """One in each of 13 equal intervals of multiply-adds; the scale is fitted on both ends and between."""
    space = spaces.get("mobile-small", 1, 28, 10)
    sizes = {arch: flops(space, arch) for arch in space.enumerate()}
    smallest, step = min(sizes.values()), (max(sizes.values()) - min(sizes.values())) / 13
    archs = calibration_archs(space, FIT_ARCHS, 8, 3)
    assert [min(int((sizes[arch] - smallest) / step), 12) for arch in archs[:5]] == [0, 3, 6, 9, 12]
    assert [int((sizes[arch] - smallest) / step) for arch in archs[5:]] == [1, 2, 4, 5, 7, 8, 10, 11]
    assert archs != calibration_archs(space, FIT_ARCHS, 8, 4)
    new = spread(space, 13, seed=3, known=archs)
    assert len({*archs, *new}) == 26


def test_a_found_network_is_priced_instead_of_searched(folder, capsys):
    arch = SPACE.enumerate()[5]
    write_json(folder / "arch.json", {"arch": list(arch)})
    command()
    ms = 1.2e-3 * sum(spec.params for spec in lower(SPACE, arch))
    out = " ".join(capsys.readouterr().out.split())
    assert f"arch.json: {ms:.3g} ms predicted" in out
    assert "evolve.py" not in out


def test_killed_build_continues(folder, monkeypatch, capsys):
    saves = []

    def killing(path, data):
        write_json(path, data)
        saves.append(path)
        if len(saves) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr("supernet.files.write_json", killing)
    with pytest.raises(SystemExit) as stop:
        command()
    assert stop.value.code == 130
    assert not (folder / "lut.json").exists()
    partial = json.loads((folder / "lut.partial.json").read_text())
    (layers,) = partial["layers"]
    assert {len(visits) for visits in layers.values()} == {7}
    marked = {key: [[wall * 1.02, cpu * 1.02] for wall, cpu in visits] for key, visits in layers.items()}
    write_json(folder / "lut.partial.json", {**partial, "layers": [marked]})
    monkeypatch.undo()
    monkeypatch.chdir(folder.parents[1])
    monkeypatch.syspath_prepend(TOOL.parent)
    monkeypatch.setitem(runtimes.RUNTIMES, "exact", Exact)
    command()
    table = LatencyTable.load(folder / "lut.json", SPACE)
    stem = layout(SPACE).stem
    assert table.layer_ms(stem.key) == pytest.approx(1.02 * stem.params / 1e3)  # 7 of 12 visits are old
    assert not (folder / "lut.partial.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"header": {}}', '{"header": 1, "layers": [[1]]}'])
def test_a_damaged_partial_starts_again(folder, text, capsys):
    (folder / "lut.partial.json").write_text(text)
    command()
    assert "starting again" in capsys.readouterr().out
    assert LatencyTable.load(folder / "lut.json", SPACE).calibration.scale == pytest.approx(1.2)


def test_check_repeats_and_writes_nothing(folder, capsys):
    command()
    before = (folder / "lut.json").read_bytes()
    capsys.readouterr()
    command("--check", folder / "lut.json", "--check-archs", 6, "--runtime", "torch")  # the table's own runtime counts
    out = capsys.readouterr().out
    assert "6 architectures: mean error of the prediction 0.0 %, Spearman 1.000" in out
    assert (folder / "lut.json").read_bytes() == before
    assert not (folder / "lut.partial.json").exists()


def test_check_says_where_the_machine_differs(folder, capsys):
    command()
    data = json.loads((folder / "lut.json").read_text())
    write_json(folder / "lut.json", {**data, "device": {**data["device"], "cpu": "abacus"}})
    command("--check", folder / "lut.json")
    assert "was measured on abacus" in " ".join(capsys.readouterr().out.split())


def test_space_by_name_or_file_without_a_run(folder, capsys):
    write_json(folder.parent / "mine.json", SPACE.to_json())
    command("--space", folder.parent / "mine.json", "--run", "runs/other")
    out = " ".join(capsys.readouterr().out.split())
    assert f"next: python tools/build_lut.py --space {folder.parent / 'mine.json'} --check runs/other/lut.json" in out
    LatencyTable.load("runs/other/lut.json", SPACE)


def test_no_run_yet(folder, capsys):
    assert "train_supernet.py" in refused(capsys, "--run", "runs/none")
    assert not Path("runs/none").exists()


def test_check_without_a_table(folder, capsys):
    assert "no latency table" in refused(capsys, "--check", folder / "lut.json")


def test_check_of_another_space(folder, capsys):
    command()
    capsys.readouterr()
    other = tiny_space(layers=4)
    write_json(folder / "space.json", other.to_json())
    line = refused(capsys, "--check", folder / "lut.json")
    assert SPACE.fingerprint in line
    assert other.fingerprint in line


def test_space_that_is_not_the_runs(folder, capsys):
    assert "leave --space away" in refused(capsys, "--space", "mobile-small")
    assert "unknown space" in refused(capsys, "--space", "moblie")


def test_a_network_of_a_registry_is_the_runs_at_its_images(folder, capsys):
    own = spaces.get("timm:mobilenetv3_small_050", 3, 32, 7)
    write_json(folder / "space.json", own.to_json())
    command("--space", own.model)
    assert LatencyTable.load(folder / "lut.json", own).quality
    assert "the run's images have 32² pixels" in refused(capsys, "--space", own.model, "--resolution", "64")
    assert "leave --space away" in refused(capsys, "--space", "timm:mobilenetv3_small_075", "--resolution", "32")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--runtime", "abacus"], "expected one of"),
        (["--runtime", "torch", "--batch", "0"], "at least 1"),
        (["--rounds", "3"], "at least 10"),
        (["--check-archs", "1"], "at least 2"),
    ],
)
def test_bad_flags(folder, capsys, flags, says):
    assert says in refused(capsys, *flags)
    assert not list(folder.glob("lut*"))


def test_fused_without_the_extension(folder, capsys, monkeypatch):
    import supernet

    monkeypatch.delattr(supernet, "ops", raising=False)
    monkeypatch.setitem(sys.modules, "supernet.ops", None)
    assert "or measure eager modules" in refused(capsys, "--runtime", "torch", "--kernels", "fused")


def test_a_folder_at_which_another_works(folder, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere.json"
    with RunFolder(folder).lock():
        assert f"another process is at work in runs/default (pid {os.getpid()})" in refused(capsys)
        command("--output", elsewhere, "--rounds", 10, "--check-archs", 2)
    assert elsewhere.exists()
    assert not (folder / "lut.json").exists()


def test_unwritable_folder_shows_before_measuring(folder, capsys):
    Path("file").write_text("")
    assert "cannot write" in refused(capsys, "--output", "file/lut.json")
    assert Exact.visits == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--layers", 0), "--layers 0: expected at least 1"),
        (("--error", 0), "--error 0: expected a percentage"),
        (("--error", "nan"), "--error nan: expected a number"),
        (("--error", 100), "--error 100: expected a percentage"),
        (("--layers", 4), "4 layers are too few for a table of tiny, which has"),
    ],
)
def test_nonsense_about_the_sample_is_refused(folder, capsys, flags, says):
    assert says in refused(capsys, *flags)
    assert Exact.visits == 0


def test_a_space_of_too_many_layers_is_refused():
    with pytest.raises(UserError, match="over 5000 different layers"):
        unique(spaces.usual("residual"))
