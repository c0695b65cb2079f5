"""Images as the weights that see them learnt: of a run that begins with published ones, and of teachers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from supernet import spaces, teachers
from supernet.cli import opening
from supernet.data import sets, transforms
from supernet.data.images import MemoryImages
from supernet.data.preparation import timm_config
from supernet.data.sets import TrainVal
from supernet.export import networks
from supernet.families.given import source
from supernet.methods import given
from supernet.model import Network
from supernet.runs import RunFolder
from supernet.training import checkpoint
from tests.conftest import refused, tiny_space, whole

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
VIT = "timm:vit_tiny_patch16_224"  # learnt by these
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


def images(mean=transforms.IMAGENET[0], std=transforms.IMAGENET[1]) -> TrainVal:
    one = MemoryImages(torch.from_numpy(PIXELS), np.arange(20) % 10, mean, std, margin=1, mirror=True)
    names = tuple(map(str, range(10)))
    identity = {"name": "mine", "classes": list(names), "images": {"train": 20, "val": 20}, "digest": "0"}
    return TrainVal(one, one, 10, 3, 8, names, identity)


def by(values, pixels: np.ndarray) -> torch.Tensor:
    """Pixels uint8 [N, H, W, C] normalised, by NumPy."""
    mean, std = map(np.array, values)
    return torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)).float()


def test_published_weights_get_what_they_learnt_by():
    data = images()
    found = given.as_published(data, VIT)
    assert (found.train.mean, found.train.std) == (found.val.mean, found.val.std) == HALF
    torch.testing.assert_close(whole(found.val)[0], by(HALF, PIXELS), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole(data.val)[0], by(transforms.IMAGENET, PIXELS), atol=1e-5, rtol=1e-5)
    order = {"seed": 0, "epoch": 0, "augment": True, "drop_last": False}
    augmented = [next(one.train.batches(20, **order))[0] for one in (data, found)]
    mean, std = (torch.tensor(of)[:, None, None] for of in transforms.IMAGENET)
    torch.testing.assert_close(augmented[1], (augmented[0] * std + mean - 0.5) / 0.5, atol=1e-5, rtol=1e-5)
    assert given.as_published(data, "timm:resnet18") is data
    assert given.as_published(data, "a.py:network") is data
    assert data.normalised(*transforms.IMAGENET).train is data.train
    assert "3 channels are normalised by 1 means" in refused(data.normalised, (0.5,), (0.5,))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 6), ("val", 2)):
        for i in range(2 * count):
            (folder := root / part / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(PIXELS[i]).save(folder / f"{i:02d}.png")
    return root


def test_all_that_opens_a_run_has_its_values(pictures, tmp_path):
    """Training, validation and test, a run that goes on, cards and timm."""
    options = {"data": "folder", "data_root": pictures, "resolution": 8, "quiet": True, "workers": 0}
    args = opening.NewRun(run=tmp_path, **options)
    *_, opened = opening.open_images(args)
    run, settings = RunFolder(tmp_path), {**options, "data_root": str(pictures), "seed": 0}
    run.begin(settings, images=given.as_published(opened, VIT))
    again = run.images()
    *_, continued = opening.open_images(args)
    for one in (again.train, again.val, run.test_images(), continued.train, continued.val):
        assert (one.mean, one.std) == HALF
    raw = sets.open_test("folder", pictures, resolution=8)
    mean, std = (torch.tensor(of)[:, None, None] for of in transforms.IMAGENET)
    expected = (whole(raw)[0] * std + mean - 0.5) / 0.5
    torch.testing.assert_close(whole(run.test_images())[0], expected, atol=1e-5, rtol=1e-5)
    known = networks.images_of(run).preparation
    assert (known.mean, known.std) == HALF
    assert timm_config(known)["mean"] == HALF[0]
    config = json.loads(run.config_path.read_text())
    del config["made_with"]["preparation"]  # as version 0.1 had it
    run.config_path.write_text(json.dumps(config))
    assert (run.images().train.mean, run.test_images().std) == transforms.IMAGENET


def test_a_teacher_of_a_registry_sees_images_as_it_learnt(tmp_path):
    name = "mobilevitv2_050"
    values = source.normalisation(f"timm:{name}")
    assert values == ((0.0,) * 3, (1.0,) * 3)
    torch.manual_seed(0)
    wanted = timm.create_model(name, num_classes=10).eval()
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    run = RunFolder(tmp_path / "run")
    run.write_space(spaces.get("mobile-small", 3, 64, 10))
    pixels = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    one = MemoryImages(torch.from_numpy(pixels), np.arange(4), *transforms.IMAGENET, margin=0, mirror=False)
    data = TrainVal(one, one, 10, 3, 64, tuple(map(str, range(10))))
    found = teachers.opened(run, f"timm:{name}", tmp_path / "w.pt", CPU, "eager", data)
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    with torch.no_grad():
        torch.testing.assert_close(found(whole(one)[0]), wanted(by(values, pixels)), atol=1e-4, rtol=1e-4)
    alike = teachers.opened(run, f"timm:{name}", tmp_path / "w.pt", CPU, "eager", data.normalised(*values))
    assert type(alike) is type(wanted)  # nothing before it


def test_a_teacher_of_another_run_sees_images_as_that_run_has_them(tmp_path):
    space = dataclasses.replace(tiny_space(), channels=3, resolution=8)
    network = Network(space, (0, 0, 0), kernels="eager").eval()
    meta = {"kind": "network", "space": space.to_json(), "arch": list(network.arch), "eps": 1e-5}
    other, run = RunFolder(tmp_path / "other"), RunFolder(tmp_path / "run")
    run.write_space(space)
    other.begin({"seed": 0}, space=space, images=images(*HALF))
    weights = {"model": network.state_dict(), "finished": True, "meta": meta}
    checkpoint.save(other.network("best").checkpoint, weights)
    data = images()
    found = teachers.opened(run, str(other.network("best").path), None, CPU, "eager", data)
    with torch.no_grad():
        expected = network(by(HALF, PIXELS))
        torch.testing.assert_close(found(whole(data.val)[0]), expected, atol=1e-4, rtol=1e-4)
    alike = teachers.opened(run, str(other.network("best").path), None, CPU, "eager", images(*HALF))
    assert isinstance(alike, Network)
