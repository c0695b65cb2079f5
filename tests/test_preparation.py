"""How images are prepared, as plain values and as timm has it; what a card makes of them."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from supernet.data.pictures import Fit
from supernet.data.preparation import Preparation, timm_config
from supernet.export import companions
from supernet.export.card import Accuracy, Card

PHOTOGRAPH = Preparation(Fit((64, 96), (73, 109)), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
SQUEEZED = Fit((64, 64), interpolation="bilinear")
CARD = Card({"name": "tiny", "fingerprint": "0"}, (0, 1), "k3 k5", ("cat", "dog"), PHOTOGRAPH, (3, 64, 96))


@pytest.mark.parametrize("prepared", [PHOTOGRAPH, Preparation(None, (0.0,), (1.0,)), Preparation(SQUEEZED, (0,), (1,))])
def test_plain_values_and_back(prepared):
    assert Preparation.from_json(json.loads(json.dumps(prepared.to_json()))) == prepared


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mean": [0.5]}, "as many means as deviations"),
        ({"fit": {**PHOTOGRAPH.to_json()["fit"], "size": [64]}}, "fit.size is .* expected a list of 2"),
        ({"fit": {**PHOTOGRAPH.to_json()["fit"], "mode": "CMYK"}}, "fit.mode is 'CMYK', expected 'L' or 'RGB'"),
    ],
)
def test_other_values_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        Preparation.from_json({**PHOTOGRAPH.to_json(), **change})


def test_for_another_size():
    """The share that is cropped stays; what fits already is the same."""
    assert PHOTOGRAPH.at((64, 96)) is PHOTOGRAPH
    assert PHOTOGRAPH.at((32, 48)).fit == Fit((32, 48), (36, 54))
    whole = Preparation(Fit((28, 28), (28, 28), "L"), (0.3,), (0.3,))
    assert whole.at((20, 20)).fit == Fit((20, 20), (20, 20), "L")


@pytest.mark.parametrize("size", [(500, 375), (131, 130), (64, 64), (90, 200)])
@pytest.mark.parametrize("fit", [Fit((64, 64), (73, 73)), Fit((28, 28), (28, 28)), Fit((60, 60), (77, 77)), SQUEEZED])
def test_timm_does_the_same(fit, size):
    """To the bit of a pixel: its own transform with our configuration."""
    coarse = np.random.default_rng(0).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    config = timm_config(Preparation(fit, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    theirs = create_transform((3, *fit.size), **config)(image).numpy() * 255
    assert np.array_equal(theirs.transpose(1, 2, 0).round(), np.asarray(fit(image)))


def test_only_files_of_pictures_come_with_a_script(tmp_path):
    """Images as floats are prepared by code that is not here."""
    companions.write(tmp_path / "a.onnx", CARD)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "deploy.py", "pictures.py"}
    floats = dataclasses.replace(CARD, preparation=Preparation(None, (0.0,) * 3, (1.0,) * 3))
    assert companions.runs_alone(CARD)
    assert not companions.runs_alone(floats)
    companions.write(tmp_path / "floats" / "a.onnx", floats)
    assert [path.name for path in (tmp_path / "floats").iterdir()] == ["README.md"]
    assert "How its images were prepared is not known here" in (tmp_path / "floats/README.md").read_text()


def test_a_card_and_back():
    card = Card(**{**vars(CARD), "accuracy": Accuracy(0.9, 0.8, 1000), "batch": None, "pixels": True, "layout": "NHWC"})
    told = json.loads(json.dumps(card.to_json()))
    assert (told["input"], told["type"], told["output"]) == ([None, 64, 96, 3], "uint8", "probabilities")
    assert Card.from_json(told).to_json() == told
    z, n, p = 1.959963984540054, 1000, 0.9  # Wilson's interval by its formula
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    expected = [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert told["accuracy"]["interval"] == pytest.approx(expected)
    assert CARD.to_json()["input"] == [1, 3, 64, 96]
    assert CARD.accuracy.told == "not tested"
    assert Accuracy(validation=0.5).told == "not tested, 50.00 % in validation"
    judged = Accuracy(validation=0.5, images=20)  # Wilson's interval, by its formula
    assert judged.told == "not tested, 50.00 % [29.93, 70.07] of 20 images in validation"
    assert judged.interval == pytest.approx((0.2993, 0.7007), abs=1e-4)
    resized = Accuracy(0.9, images=10, size=(28, 28)).told
    assert resized.endswith("of 10 images of 28² pixels, which the network resized itself")
