"""Image sets of Hugging Face: ``hf:NAME`` from the hub, ``hf:FOLDER`` of parquet files, images, or a saved set.

Images stay where they are, in files or in Arrow tables that are mapped into memory: a set may be larger than memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from supernet.data import HUB, pictures
from supernet.data.decoding import DecodedImages
from supernet.data.own import Channels, format_of
from supernet.data.words import without
from supernet.errors import UserError
from supernet.plugins import reason
from supernet.size import Size

TESTS = ("test", "validation", "valid", "val")  # parts that may be the test set: the first whose labels are known
PROBES = 16  # images whose bytes tell a set from another of the same labels


class HubImages(DecodedImages):
    """Rows of a ``datasets.Dataset`` whose column ``column`` holds encoded images."""

    def __init__(self, table: Any, column: str, source: str, *settings: Any):
        """settings: those of ``DecodedImages``."""
        self.table, self.column, self.source = table, column, source
        super().__init__(*settings)

    def digest(self) -> str:
        """By the labels, and by the bytes of a few images."""
        probes = np.unique(np.linspace(0, len(self) - 1, PROBES).astype(int)) if len(self) else ()
        content = (self.encoded(int(self.index[i])) for i in probes)
        return hashlib.sha256(b"\0".join((super().digest().encode(), *content))).hexdigest()[:16]

    def encoded(self, index: int) -> bytes:
        """The bytes of an image file."""
        return _encoded(self.table, self.column, index, self.source)

    @contextlib.contextmanager
    def opened(self, index: int) -> Iterator[Image.Image]:
        encoded = self.encoded(index)
        try:
            yield pictures.image_in(io.BytesIO(encoded))
        except UnidentifiedImageError as error:
            raise UserError(f"{self.source}: row {index} is not an image", "damaged") from error
        except Exception as error:  # the decoders raise whatever damaged bytes lead to
            raise UserError(f"{self.source}: the image of row {index} cannot be read ({error})", "damaged") from error


def open_hub(
    name: str, root: Path, part: str, size: Size | None, workers: int, channels: Channels
) -> tuple[HubImages, tuple[str, ...], list[str]]:
    """The ``train`` or the test part of a set; its class names; a line where the test part lacks some.

    The first training image that can be read decides on the size, as for data of one's own. The test part is ``test``;
    where there is none, or its labels are not known, ``validation``.

    Args:
        name: ``hf:`` and a folder, or a name on the hub, of which a copy is kept in ``root/huggingface``.
        channels: decides on the channels.

    Raises:
        UserError: ``datasets`` is not installed; there is no such set; it has no images, labels or test part.
    """
    parts = _load(name, root)
    if "train" not in parts:
        raise UserError(f"{name} has the parts {', '.join(parts)}: expected train, and test or validation")
    image, label = _columns(parts["train"], name)
    known = [test for test in TESTS if test in parts and any(value not in (None, -1) for value in parts[test][label])]
    if not known:
        raise UserError(f"{name} has the parts {', '.join(parts)}: expected train, and test or validation with labels")
    labels = {key: _labels(parts[key][label], f"{name}, part {key}") for key in ("train", known[0])}
    names = getattr(parts["train"].features[label], "names", None) or list(map(str, range(labels["train"].max() + 1)))
    for key, found in labels.items():
        if not len(found) or found.min() < 0 or found.max() >= len(names):
            raise UserError(f"{name}, part {key}: expected labels from 0 to {len(names) - 1}, got others or none")
    key = "train" if part == "train" else known[0]
    tables = {k: _undecoded(parts[k], image) for k in ("train", key)}

    def open_one(index: int) -> Image.Image:
        return pictures.image_in(io.BytesIO(_encoded(tables["train"], image, index, f"{name}, part train")))

    count = len(labels["train"])
    wanted = channels(count, lambda index: pictures.is_grey(open_one(index)))
    mean, std, size, both = format_of(_first(open_one, count, name), parts["train"], size, name, wanted)
    images = HubImages(tables[key], image, f"{name}, part {key}", labels[key], mean, std, size, both, workers)
    return images, tuple(names), without(labels[known[0]], tuple(names), "test")


def _load(name: str, root: Path) -> Any:
    """Datasets by the names of their parts."""
    try:
        import datasets  # here, as it takes seconds
    except ImportError as error:
        raise UserError(f"{name} needs the extra hf: pip install 'supernet[hf]'") from error
    datasets.disable_progress_bars()
    place = name.removeprefix(HUB)
    try:
        if (Path(place) / "dataset_dict.json").exists():
            return datasets.load_from_disk(place)
        return datasets.load_dataset(place, cache_dir=str(root / "huggingface"))
    except Exception as error:  # of the network, of files, of their formats
        raise UserError(f"cannot open {name}: {reason(error, None)}; expected a folder or a name on the hub") from error


def _first(open_one: Callable[[int], Image.Image], count: int, name: str) -> Image.Image:
    """The first picture that can be opened."""
    for index in range(count):
        with contextlib.suppress(Exception):
            return open_one(index)
    raise UserError(f"{name}, part train: expected images, got {count} rows of which none can be read as one")


def _columns(table: Any, name: str) -> tuple[str, str]:
    """The columns of images and of labels: those called so, else the first of their kind."""
    import datasets

    images = [column for column, kind in table.features.items() if isinstance(kind, datasets.Image)]
    labels = [column for column, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    for column in ("label", "labels"):
        if str(getattr(table.features.get(column), "dtype", "")).startswith(("int", "uint")):
            labels.insert(0, column)
    if not images or not labels:
        found = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in table.features.items())
        raise UserError(
            f"{name} has the columns {found}: expected an Image, and a ClassLabel or whole numbers called label"
        )
    return images[0], labels[0]


def _labels(values: Sequence[int | None], source: str) -> np.ndarray:
    """The labels of a part, each of which must be there."""
    if None in values:
        raise UserError(f"{source}: row {list(values).index(None)} has no label")
    return np.array(values, dtype=np.int64)


def _undecoded(table: Any, column: str) -> Any:
    """The same rows, with image files instead of decoded images."""
    import datasets

    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _encoded(table: Any, column: str, index: int, source: str) -> bytes:
    cell = table[index][column]
    if cell is None:
        raise UserError(f"{source}: row {index} has no image", "damaged")
    try:
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    except (OSError, TypeError) as error:
        raise UserError(f"{source}: the image of row {index} cannot be read ({error})", "damaged") from error
