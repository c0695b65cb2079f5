"""Drawn people, to train face networks on and to test them on by every protocol, where no faces can be had.

A person is proportions and colours; a picture of one has its own light, place, expression and noise.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 48


@dataclass(frozen=True)
class Person:
    """What all pictures of a person share."""

    skin: np.ndarray
    hair: np.ndarray
    width: float
    eyes: float
    gap: float
    mouth: float
    brow: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Person:
        """Another one."""
        lows, highs = (14, 13, 4, 3, 1), (20, 20, 8, 9, 4)
        return cls(rng.integers(90, 250, 3), rng.integers(0, 130, 3), *rng.uniform(lows, highs))

    def picture(self, rng: np.random.Generator, side: int = SIDE) -> Image.Image:
        """One of this person; of fewer pixels than ``SIDE`` where ``side`` is."""
        image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(30, 120, 3).tolist()))
        pen, light = ImageDraw.Draw(image), rng.uniform(0.6, 1.1)
        x, y = 24 + int(rng.integers(-3, 4)), 25 + int(rng.integers(-3, 4))
        skin, dark = (tuple((colour * light).astype(int).tolist()) for colour in (self.skin, self.hair))
        pen.ellipse((x - self.width, y - 21, x + self.width, y + 21), fill=skin)
        pen.chord((x - self.width, y - 23, x + self.width, y + 10), 190, 350, fill=dark)
        height = y + self.eyes - 21
        for side_of_face in (-1, 1):
            eye = x + side_of_face * self.gap
            pen.ellipse((eye - 2, height - 1, eye + 2, height + 2), fill=dark)
            pen.line((eye - 3, height - 2 - self.brow, eye + 3, height - 2 - self.brow), fill=dark, width=2)
        smile = int(rng.integers(4))
        pen.arc((x - self.mouth, y + 7, x + self.mouth, y + 12 + smile), 0, 180, fill=(120, 30, 40), width=2)
        noisy = np.asarray(image) + rng.normal(0, 12, (SIDE, SIDE, 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        return image if side == SIDE else image.resize((side, side), Image.Resampling.BOX)


def write(root: Path, people: int, pictures: int = 10) -> tuple[Path, tuple[Path, ...]]:
    """Folders of people to train on, and three benchmarks of others; what is there already is not drawn again.

    Returns:
        The folder to train on; pairs in one file as of LFW, templates as of IJB, a gallery as of TinyFace.
    """
    train, tests = root / "people", (root / "pairs.bin", root / "templates", root / "gallery")
    done = root / "done"
    if not done.exists():
        rng = np.random.default_rng(0)
        for number in range(people):
            person = Person.drawn(rng)
            for i in range(pictures):
                _save(person.picture(rng), train / f"p{number:03d}" / f"{i}.png")
        _pairs(tests[0], [Person.drawn(rng) for _ in range(40)], rng)
        _templates(tests[1], [Person.drawn(rng) for _ in range(40)], rng)
        _gallery(tests[2], [Person.drawn(rng) for _ in range(80)], rng)
        done.touch()
    return train, tests


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _pairs(path: Path, people: list[Person], rng: np.random.Generator) -> None:
    """As many pairs of the same as of different people, in ten folds."""
    pictures, same = list[bytes](), list[bool]()
    for number in range(400):
        first = people[rng.integers(len(people))]
        other = people[rng.integers(len(people))]
        while other is first:
            other = people[rng.integers(len(people))]
        for person in (first, first if number % 2 == 0 else other):
            file = io.BytesIO()
            person.picture(rng).save(file, "png")
            pictures.append(file.getvalue())
        same.append(number % 2 == 0)
    path.write_bytes(pickle.dumps((pictures, same), protocol=4))


def _templates(root: Path, people: list[Person], rng: np.random.Generator) -> None:
    """Two templates of each, of one to three media with one to four frames; all pairs of them."""
    rows, owners = [], []
    for number, person in enumerate(people):
        for _ in range(2):
            template = len(owners)
            owners.append(number)
            for medium in range(int(rng.integers(1, 4))):
                for frame in range(int(rng.integers(1, 5))):
                    name = f"{template}-{medium}-{frame}.png"
                    _save(person.picture(rng), root / "images" / name)
                    rows.append(f"{name} {template} {10 * template + medium}")
    pairs = [f"{a} {b} {int(owners[a] == owners[b])}" for a in range(len(owners)) for b in range(a)]
    (root / "drawn_face_tid_mid.txt").write_text("\n".join(rows) + "\n")
    (root / "drawn_template_pair_label.txt").write_text("\n".join(pairs) + "\n")


def _gallery(root: Path, people: list[Person], rng: np.random.Generator) -> None:
    """Half of the people have probes and gallery images, the others distract; of 16 pixels, enlarged to be read."""
    for number, person in enumerate(people):
        parts = ("Probe", "Probe", "Gallery_Match") if number < len(people) // 2 else ("Gallery_Distractor",) * 3
        for i, part in enumerate(parts):
            _save(person.picture(rng, 16), root / part / f"{number}_{i}.png")
