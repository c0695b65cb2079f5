"""Near-duplicates: copies are found, other pictures are not, and the nearest one is the nearest."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from supernet.data import duplicates
from supernet.data.duplicates import BYTES, DISTANCE, SIDE, fingerprint, nearest


def scene(number, width=320, height=240):
    """Random detail of all sizes, the larger the stronger, as photographs have it."""
    rng, total = np.random.default_rng(number), np.zeros((height, width, 3))
    for across in (4, 8, 16, 32, 64):
        patches = Image.fromarray(rng.integers(0, 256, (across * 3 // 4, across, 3), dtype=np.uint8))
        total += (np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)) - 127.5) * 4 / across
    return Image.fromarray(np.clip(total + 127.5, 0, 255).astype(np.uint8))


def printed(image):
    return fingerprint(np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)))


def encoded(image, quality):
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file)


def bits(a, b):
    return sum(bin(x ^ y).count("1") for x, y in zip(a.tolist(), b.tolist(), strict=True))


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: encoded(image, 40),
        lambda image: image.resize((160, 120)),
        lambda image: encoded(image.resize((213, 160)), 60),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        lambda image: image.convert("L"),
        lambda image: image.crop((1, 1, 319, 239)),
    ],
)
def test_copies_are_near_and_other_pictures_are_not(copy):
    scenes = [scene(i) for i in range(12)]
    ours, others = np.array([printed(copy(s)) for s in scenes]), np.array([printed(s) for s in scenes])
    place, found = nearest(ours, others)
    assert place.tolist() == list(range(12))
    assert max(found) <= DISTANCE
    for i in range(12):
        assert min(bits(ours[i], others[j]) for j in range(12) if j != i) > 2 * DISTANCE


def test_the_nearest_is_the_nearest(monkeypatch):
    rng = np.random.default_rng(0)
    ours, others = (rng.integers(0, 256, (n, BYTES), dtype=np.uint8) for n in (23, 31))
    ours[5], others[7] = 0, 0  # flat ones have nothing in common, not even with each other
    for block in (2**24, 40):
        monkeypatch.setattr(duplicates, "BLOCK", block)
        place, found = nearest(ours, others)
        for i in range(23):
            if i == 5:
                assert found[i] == 8 * BYTES
                continue
            expected = [bits(ours[i], other) if j != 7 else 999 for j, other in enumerate(others)]
            assert found[i] == min(expected) == expected[place[i]]
    assert (nearest(ours, np.zeros((3, BYTES), np.uint8))[1] == 8 * BYTES).all()
    assert [len(part) for part in nearest(ours[:0], others)] == [0, 0]


def test_a_flat_picture_has_no_print():
    assert not printed(Image.new("RGB", (50, 50), (9, 200, 30))).any()
    assert printed(scene(0)).any()
