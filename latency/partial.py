"""What an unfinished build of a latency table has measured: beside the table, until that is whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from latency import bundle
from supernet import files
from supernet.errors import UserError
from supernet.spec import LayerSpec

PARTIAL = {"header": dict, "layers": [bundle.VISITS], "networks": bundle.VISITS}
Visits = dict[str, list]  # of each layer or network: wall and CPU time of every visit


def partial_path(output: Path) -> Path:
    """Where the visits of an unfinished build lie."""
    return output.with_suffix(".partial.json")


class Partial:
    """The visits of an unfinished build. Those of other settings or another machine are not continued.

    ``layers`` has those of each pass, of which ``measure.chained`` makes one table.
    """

    def __init__(self, path: Path, header: dict[str, Any], note: Callable[[str], None]):
        self.path, self.header = path, header
        self.layers: list[Visits] = []
        self.networks: Visits = {}
        if path.exists():
            try:
                self._read()
            except (UserError, KeyError, TypeError, ValueError) as error:
                note(f"starting again: {error}")
        self.save()  # an unwritable folder shows before anything is measured

    def _read(self) -> None:
        data = files.read_json(self.path, "unfinished latency table", expected=PARTIAL)
        if data["header"] != {**self.header, "input": list(self.header["input"])}:
            raise UserError(f"{self.path} is of another space, other settings or another machine")
        for visits in (visits for measured in (*data["layers"], data["networks"]) for visits in measured.values()):
            if not all(wall and wall > 0 and (cpu is None or cpu >= 0) for wall, cpu in visits):
                raise ValueError(f"{self.path} is damaged")
        self.layers, self.networks = data["layers"], data["networks"]

    def visits(self, i: int, specs: Sequence[LayerSpec]) -> Visits:
        """Those of pass ``i`` so far; none if it was one of other layers."""
        if self.layers[i:] == [] or self.layers[i].keys() != {spec.key for spec in specs}:
            self.layers[i:] = [{}]
        return self.layers[i]

    def save(self) -> None:
        files.write_json(self.path, {"header": self.header, "layers": self.layers, "networks": self.networks})
