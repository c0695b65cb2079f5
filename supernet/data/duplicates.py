"""Images that are nearly the same, by a perceptual hash: re-encoded, resized or brightened copies, frames of a burst.

The hash is Zauner's pHash (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010) of 256 bits: the
signs of the lowest frequencies of the grey picture, shrunk to a small square, around their median.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from supernet.progress import Progress, silent

SIDE = 32  # pixels of the square that a picture is shrunk to
FREQUENCIES = 16  # of each direction
BYTES = FREQUENCIES**2 // 8
FLAT = 2.0  # standard deviation in grey levels below which a picture has nothing to be known by
DISTANCE = 24  # most bits in which prints of near-duplicates differ
BLOCK = 2**24  # distances that are computed at once


def fingerprint(pixels: np.ndarray) -> np.ndarray:
    """The print of a picture, uint8 [BYTES]; zeros where it is flat.

    Args:
        pixels: uint8 [SIDE, SIDE, 3].
    """
    from scipy.fft import dctn  # here, since who decodes does not need it

    grey = pixels @ np.array([0.299, 0.587, 0.114])
    if grey.std() < FLAT:
        return np.zeros(BYTES, np.uint8)
    low = dctn(grey, norm="ortho")[:FREQUENCIES, :FREQUENCIES].reshape(-1)
    low[0] = 0.0  # the mean is no feature
    return np.packbits(low > np.median(low))


def nearest(
    ours: np.ndarray, others: np.ndarray, progress: Progress = silent, label: str = "comparing images"
) -> tuple[np.ndarray, np.ndarray]:
    """Of each of our prints the nearest other one.

    Args:
        ours: uint8 [N, BYTES]. others: uint8 [M, BYTES].

    Returns:
        Its place in ``others``, int64 [N], and the bits that differ, int64 [N]; all bits where one of the two is of a
        flat picture.
    """
    place, distance = np.zeros(len(ours), np.int64), np.full(len(ours), 8 * BYTES)
    candidates = np.flatnonzero(others.any(1))
    if not len(candidates):
        return place, distance
    signs = _signs(others[candidates])
    with progress(label, len(ours), unit="images") as bar:
        for block in _blocks(len(ours), max(1, BLOCK // len(candidates))):
            # The product of signs counts the bits that agree less those that do not, exactly so in float32.
            differ = (8 * BYTES - _signs(ours[block]) @ signs.T) / 2
            best = differ.argmin(1)
            place[block] = candidates[best]
            distance[block] = np.where(ours[block].any(1), differ[np.arange(len(best)), best], 8 * BYTES)
            bar.advance(len(best))
    return place, distance


def _signs(prints: np.ndarray) -> np.ndarray:
    return np.unpackbits(prints, axis=1).astype(np.float32) * 2 - 1


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
