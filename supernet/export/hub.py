"""A folder as Hugging Face's hub has one for a model of timm: ``config.json``, ``model.safetensors``, ``README.md``.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it once ``supernet.timm`` is imported; uploaded, so
does ``hf-hub:NAME``. ``classes.txt`` is the class map of timm's data sets, which number classes in another order.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import nn

from supernet import families, files
from supernet.data.preparation import timm_config
from supernet.errors import UserError
from supernet.export import companions, pt2
from supernet.export.card import Card
from supernet.model import Network
from supernet.space import Space

ARCHITECTURE = "supernet_network"  # as ``supernet.timm`` registers it, for networks of any space
CONFIG, WEIGHTS, CARD, CLASSES = "config.json", "model.safetensors", "README.md", "classes.txt"
USE = """```python
import timm, supernet.timm  # registers the architecture

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:NAME
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
```

timm's own validation of a folder needs `--class-map classes.txt`: by itself it numbers classes in another order."""


def require(folder: Path, space: Space) -> None:
    """Refuse a folder of something else, and a space with code of one's own, which no configuration can hold."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: expected a new folder for the hub")
    config = folder / CONFIG
    ours = config.exists() and ARCHITECTURE in config.read_text(encoding="utf-8", errors="replace")
    there = [folder / name for name in (CONFIG, WEIGHTS, CARD, CLASSES) if (folder / name).exists()]
    if there and not ours:
        raise UserError(f"{there[0]} is something else's: expected a new folder for the hub")
    families.layout(Space.from_json(space.to_json(), "a folder for the hub"))


def classifier(network: Network) -> str | None:
    """The name of the linear layer that gives the logits; None where another one does."""
    found = [name for name, module in network.head.named_modules() if isinstance(module, nn.Linear)]
    return f"head.{found[-1]}" if found else None


def features(network: Network) -> int:
    """How many numbers the layer of the logits gets; 0 where that is not linear."""
    name = classifier(network)
    return 0 if name is None else network.get_submodule(name).in_features  # type: ignore[return-value]


def write(folder: Path, network: Network, card: Card) -> None:
    """Write the folder; a UserError as of ``require``."""
    require(folder, network.space)
    eps = next((m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)), 1e-5)
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": len(card.classes),
        "num_features": features(network),
        "label_names": card.classes,
        "pretrained_cfg": {"input_size": card.shape, **(timm_config(card.preparation) if card.preparation else {})},
        "model_args": {"space": network.space.to_json(), "arch": network.arch, "bn_eps": eps},
    }
    files.write_json(folder / CONFIG, config)  # first: by it a folder is known as ours
    files.write_bytes(folder / CLASSES, "".join(f"{name}\n" for name in card.classes).encode())
    files.write_bytes(folder / WEIGHTS, pt2.weights(network, {"format": "pt"}))
    # Whatever the file takes beside which it is written, and how long that takes in its runtime.
    card = dataclasses.replace(card, pixels=False, batch=None, latency_ms=None, lut=None)
    text = companions.readme(folder / WEIGHTS, card, library="timm", use=USE)
    files.write_bytes(folder / CARD, text.encode())
