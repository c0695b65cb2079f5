"""What lies beside an exported file for whoever deploys it: a script with what prepares pictures, a model card."""

from __future__ import annotations

from pathlib import Path

from supernet import files
from supernet.data import pictures
from supernet.export import formats
from supernet.export.card import LOGITS, Card
from supernet.quantities import digits, several
from supernet.size import Size

SCRIPT = '''"""{begin} {name}: python deploy.py PICTURE or FOLDER …

It needs {package}, NumPy and Pillow. Of a folder with a folder for each class it tells the accuracy.
"""

import json
import sys
from pathlib import Path

import numpy as np
{imports}

import pictures  # beside this file: pixels as they were in training and in its test

FILE = Path(__file__).with_name({name!r})
card = json.loads(Path(f"{{FILE}}.json").read_text(encoding="utf-8"))
{open}
hits = []
for path, folder, pixels in pictures.Fit(**card["preparation"]["fit"]).each(sys.argv[1:] or sys.exit(__doc__)):
    {body}
    hits += [folder == name] if folder in card["classes"] else []
    print(f"{{path}}".encode(errors="replace").decode(), name, f"{{p.max():.4f}}", sep="\\t")
if hits:
    print(f"accuracy {{100 * np.mean(hits):.2f}} %, {{sum(hits)}} of {{len(hits)}}")
'''
README = """\
---
library_name: {library}
pipeline_tag: image-classification
---
<!-- {begin}, and written anew with the next file here -->

# {name}

{about}

| | |
|---|---|
{rows}

{use}

It knows these classes only: whatever a picture shows, it names one of them. The accuracy holds for pictures of the
kind that it was tested on.
"""
BEGINS = {
    "deploy.py": "Classifies pictures by",
    "pictures.py": "Pictures as they come",
    "README.md": "Written by supernet",
}
SHOWN = 20  # classes in a card


def write(path: Path, card: Card) -> list[Path]:
    """The companions of an exported file; those of an earlier file in its folder are written over.

    Returns:
        Files of the same names that are somebody's, and stay as they are.
    """
    texts = {"README.md": readme(path, card)}
    if runs_alone(card):
        texts |= {"deploy.py": script(path, card), "pictures.py": Path(pictures.__file__).read_text(encoding="utf-8")}
    theirs = []
    for name, text in texts.items():
        place = path.with_name(name)
        if place.exists() and BEGINS[name] not in place.read_text(encoding="utf-8", errors="replace")[:200]:
            theirs.append(place)
        else:
            files.write_bytes(place, text.encode())
    return theirs


def runs_alone(card: Card) -> bool:
    """Whether a script can run the file: it is known how pictures are prepared for it."""
    return card.preparation is not None and card.preparation.fit is not None


def script(path: Path, card: Card) -> str:
    """``deploy.py``: for this file, its runtime and its input alone."""
    form = formats.of(path).script
    opened, lines = form.open, ["x = pixels[None]"]
    if not card.pixels:
        opened = 'mean, std = (np.array(card["preparation"][of], np.float32) for of in ("mean", "std"))\n' + opened
        values = "(pixels[None].astype(np.float32) / 255 - mean) / std"
        lines = [f"x = ({values}).transpose(0, 3, 1, 2)" if card.layout == "NCHW" else f"x = {values}"]
    if (card.batch or 1) > 1:
        lines.append(f"x = x.repeat({card.batch}, 0)  # the file takes no other number")
    lines += [*form.run.splitlines(), "p = y[0]" if card.pixels else "p = np.exp(y[0] - y[0].max())"]
    lines += [*([] if card.pixels else ["p /= p.sum()"]), 'name = card["classes"][p.argmax()]']
    known = {"begin": BEGINS["deploy.py"], "name": path.name, "package": form.package, "imports": form.imports}
    return SCRIPT.format(**known, open=opened, body="\n    ".join(lines))


def readme(path: Path, card: Card, library: str = "supernet", use: str | None = None) -> str:
    """``README.md``: a model card.

    Args:
        library: that loads the file. use: how, if not by ``deploy.py``.
    """
    form = formats.of(path).script if use is None else None
    if form is not None:
        use = f"`pip install {form.package} numpy pillow`, then `python deploy.py PICTURE` or a folder of pictures."
        if not runs_alone(card):
            use = f"It runs in {form.package}. How its images were prepared is not known here."
    data = card.made_from.get("data") or {}
    classes = several(len(card.classes), "class", "classes")
    about = f"Classifies images into {classes}; found by neural architecture search for a device."
    rows = "\n".join(f"| {name} | {value} |" for name, value in described(card, data).items())
    return README.format(library=library, begin=BEGINS["README.md"], name=path.name, about=about, rows=rows, use=use)


def described(card: Card, data: dict) -> dict[str, str]:
    """What a card says, in words, by what it is about."""
    shape = "×".join("any" if n is None else str(n) for n in card.input)
    known = {
        "classes": ", ".join(name.replace("|", "/") for name in card.classes[:SHOWN]),
        "test accuracy": card.accuracy.told,
        "precision": card.precision,
        "input": f"{shape}, {card.layout}, {'uint8 pixels' if card.pixels else 'float32, normalised'}",
    }
    if len(card.classes) > SHOWN:
        known["classes"] += f" and {len(card.classes) - SHOWN} more"
    if card.preparation is not None and (fit := card.preparation.fit) is not None:
        how = "squeezed" if fit.cover is None else f"resized to just cover {Size(*fit.cover)}, then the middle,"
        known["pictures"] = (
            f"upright, {'grey' if fit.mode == 'L' else 'RGB'}, {how} {Size(*fit.size)}, {fit.interpolation}"
        )
    if card.preparation is not None:
        numbers = (", ".join(f"{v:.4g}" for v in values) for values in (card.preparation.mean, card.preparation.std))
        done = " (in the file)" if card.pixels else " of pixels in 0 to 1"
        known["mean, deviation"] = "; ".join(numbers) + done
    known["output"] = "probabilities" if card.pixels else f"{LOGITS}, one for each class"
    if card.latency_ms is not None and card.lut is not None:
        device, runtime = card.lut["device"], card.lut["runtime"]
        by = f"{runtime.get('name')} {runtime.get('version', '')}, {several(card.lut['threads'], 'thread')}"
        known["latency"] = (
            f"{digits(card.latency_ms, 4)} ms predicted on {device.get('cpu')} by {by} (table {card.lut['table']})"
        )
    images = f", images {data['name']}" if data.get("name") else ""
    known["made from"] = f"space {card.space['name']}, architecture {' '.join(map(str, card.arch))}{images}"
    return known
