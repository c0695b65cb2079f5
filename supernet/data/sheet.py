"""A contact sheet: some images of every class as training sees them, upright, cropped and in its channels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from supernet.data.decoding import DecodedImages
from supernet.errors import UserError

TILE, GAP, TEXT = 96, 4, 200  # pixels: height of an image, between them, width of the names
ROWS = 40  # classes at most
COLUMNS = {"training": 8, "test": 4}
INK, PAPER = (30, 30, 30), (255, 255, 255)


def draw(parts: dict[str, tuple[DecodedImages, tuple[str, ...]]]) -> bytes:
    """A PNG file: a row for each class, of more than ``ROWS`` for some, evenly spaced.

    Args:
        parts: training and test images, by the names in ``COLUMNS``, with their classes.
    """
    classes = list(dict.fromkeys(name for _, names in parts.values() for name in names))
    chosen = [classes[i] for i in np.unique(np.linspace(0, len(classes) - 1, min(ROWS, len(classes))).astype(int))]
    size = next(iter(parts.values()))[0].size
    width = max(1, TILE * size.width // size.height)
    head = TILE // 3
    across = TEXT + sum(COLUMNS.values()) * (width + GAP) + (len(COLUMNS) - 1) * GAP * 4
    left_out = len(classes) - len(chosen)
    paper = Image.new("RGB", (across, head + len(chosen) * (TILE + GAP) + (head if left_out else 0)), PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(15)
    x = TEXT
    for title, columns in COLUMNS.items():
        images, names = parts[title]
        pen.text((x, head // 3), title, INK, font)
        for row, name in enumerate(chosen):
            y = head + row * (TILE + GAP)
            if title == "training":
                pen.text((GAP, y + TILE // 3), _fitting(pen, name, font), INK, font)
            label = names.index(name) if name in names else -1
            for column, tile in enumerate(_some(images, label, columns)):
                paper.paste(tile.resize((width, TILE)), (x + column * (width + GAP), y))
        x += columns * (width + GAP) + GAP * 4
    if left_out:
        pen.text((GAP, paper.height - head * 2 // 3), f"and {left_out:,} more classes", INK, font)
    file = io.BytesIO()
    paper.save(file, "png")
    return file.getvalue()


def _some(images: DecodedImages, label: int, count: int) -> list[Image.Image]:
    """Images of a class, evenly spaced; those that cannot be read are left out."""
    members = images.index[images.labels == label]
    tiles = list[Image.Image]()
    for index in members[np.unique(np.linspace(0, len(members) - 1, min(count, len(members))).astype(int))].tolist():
        try:
            tiles.append(_picture(images.pixels(index, images.transforms[0])))
        except UserError as error:
            if error.missing != "damaged":
                raise
    return tiles


def _picture(pixels: Tensor) -> Image.Image:
    """Of uint8 [H, W, C]; or of floats [C, H, W], whose first channels are spread over all shades."""
    if pixels.is_floating_point():
        shown = pixels[: 3 if len(pixels) >= 3 else 1]
        low, high = shown.min(), shown.max()
        pixels = ((shown - low) / (high - low).clamp(min=1e-12) * 255).round().byte().permute(1, 2, 0)
    array = pixels.numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("RGB")


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a name as there is room for."""
    text = text.encode(errors="replace").decode()  # of file systems, names may be no text
    while pen.textlength(text, font) > TEXT - 2 * GAP:
        text = text[:-2] + "…"
    return text
