"""The surest mistakes of a classifier."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from supernet import mistakes
from supernet.data.images import MemoryImages
from supernet.errors import UserError

NAMES = ("dark", "light", "other")


class Brightness(nn.Module):
    """Says light with the logit of the mean value, dark with its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([-mean, mean, torch.full_like(mean, -9.0)], 1) + self.weight


def images(values: list[int], labels: list[int]) -> MemoryImages:
    pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 6, 6, 1)
    return MemoryImages(pixels, np.array(labels), (0.5,), (0.25,), margin=0, mirror=False)


def test_the_surest_mistakes_come_first_with_their_pictures(tmp_path):
    # Dark and light ones as they are called, then three that are called otherwise.
    some = images([0, 255, 200, 255, 20], [0, 1, 0, 0, 1])
    mistakes.write(tmp_path / "m.json", Brightness(), some, NAMES)
    found = mistakes.read(tmp_path / "m.json")
    assert found["of"] == 5
    assert [(one["class"], one["taken_for"]) for one in found["images"]] == [
        ("dark", "light"),
        ("light", "dark"),
        ("dark", "light"),
    ]
    logit = (255 / 255 - 0.5) / 0.25
    assert found["images"][0]["sure"] == pytest.approx(1 / (1 + np.exp(-2 * logit)), abs=1e-3)
    values = [np.array(Image.open(io.BytesIO(base64.b64decode(one["png"])))).mean() for one in found["images"]]
    assert values == pytest.approx([255, 20, 200], abs=1)


def test_few_are_kept_and_a_damaged_file_is_refused(tmp_path):
    many = images([255] * 50, [0] * 50)
    found = mistakes.find(Brightness(), many, NAMES)
    assert len(found["images"]) == mistakes.KEPT
    assert mistakes.find(Brightness(), images([255], [1]), NAMES)["images"] == []
    (tmp_path / "m.json").write_text('{"schema": 1, "of": 3, "images": [{"class": "a"}]}')
    with pytest.raises(UserError, match="delete it"):
        mistakes.read(tmp_path / "m.json")
