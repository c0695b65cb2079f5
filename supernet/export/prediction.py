"""Classifying pictures by an exported file, as whoever deploys it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from supernet.data import pictures
from supernet.errors import UserError
from supernet.export import formats
from supernet.export.base import line

AT_ONCE = 32  # pictures in one run of a file that takes any number


class Predicted(NamedTuple):
    """What a file says of a picture."""

    path: Path
    folder: str | None  # within the folder that was named: its class, where folders are classes
    probabilities: np.ndarray  # float32 [classes]

    def top(self, count: int) -> list[int]:
        """The most probable classes, first the most probable."""
        return np.argsort(-self.probabilities, kind="stable")[:count].tolist()


class Classifier:
    """An exported file in its runtime.

    A ``.py`` file is code, and is run, and ``torch.export.load`` may unpickle a ``.pt2``: whoever names it trusts it.

    Raises:
        UserError: no exported file, one that does not say how pictures are prepared, or its runtime is not installed.
    """

    def __init__(self, file: Path):
        if not file.exists():
            raise UserError(f"no file at {file}: expected one that export.py wrote")
        self.card, form = formats.read_card(file), formats.of(file)
        prepared = self.card.preparation
        if prepared is None or prepared.fit is None:
            raise UserError(f"{file} does not say how pictures become its input: it takes values of your own code")
        self.fit = prepared.fit
        self.mean, self.std = (np.array(values, np.float32) for values in (prepared.mean, prepared.std))
        try:
            self.run = form.load(form.read(file))
            answers = self(np.zeros((1, *self.fit.size, 1 if self.fit.mode == "L" else 3), np.uint8))
            if answers.shape != (1, len(self.card.classes)):
                raise ValueError(f"it has {answers.shape[1:]} outputs, its card {len(self.card.classes)} classes")
        except UserError:
            raise
        except Exception as error:  # each runtime has its own way to say that a file is damaged
            told = f"{form.script.package} cannot run {file} as its card says ({line(error)})"
            raise UserError(f"{told}: export it again") from error

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities float32 [N, classes] of pixels uint8 [N, height, width, channels], N at most ``at_once``."""
        count = len(pixels)
        if self.card.batch is not None:  # the file takes no other number
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], self.card.batch - count, 0)])
        if self.card.pixels:
            return self.run(pixels)[:count]
        x = (pixels.astype(np.float32) / 255 - self.mean) / self.std
        y = self.run(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))[:count]
        e = np.exp(y - y.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    @property
    def at_once(self) -> int:
        """The most pictures in one run."""
        return self.card.batch or AT_ONCE

    def predict(
        self, found: Sequence[tuple[Path, str | None]], skip: Callable[[UserError], object] | None = None
    ) -> Iterator[Predicted]:
        """What ``pictures.found`` gives, classified in order.

        Args:
            skip: told of a picture that cannot be read, which is left out; None: its UserError is raised.
        """
        for i in range(0, len(found), self.at_once):
            some, rows = [], []
            for one in found[i : i + self.at_once]:
                try:
                    rows.append(self._pixels(one[0]))
                    some.append(one)
                except UserError as error:
                    if skip is None:
                        raise
                    skip(error)
            if some:
                yield from (Predicted(*one, row) for one, row in zip(some, self(np.stack(rows)), strict=True))

    def _pixels(self, path: Path) -> np.ndarray:
        try:
            return self.fit.pixels(path)
        except Exception as error:  # the decoders raise whatever damaged bytes lead to
            raise UserError(f"expected a picture in {path}, but it cannot be read ({error})", "damaged") from error


def found(paths: Iterable[Path]) -> list[tuple[Path, str | None]]:
    """As ``pictures.found``; a UserError where there is none, or a path is not there."""
    given = list(paths)
    if not given:
        raise UserError("expected pictures, or folders of them, after the file")
    if missing := [path for path in given if not path.exists()]:
        raise UserError(f"no picture or folder at {missing[0]}")
    listed = list(pictures.found(given))
    if not listed:
        raise UserError(f"expected pictures (.jpg, .png, …) in {', '.join(map(str, given))}, found none")
    return listed
