"""What a search left in a run folder: its front, and the networks that were trained alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from supernet import files, shape
from supernet.errors import CheckpointError, UserError
from supernet.run_files import FRONT, INT8, RESULT, SEARCHED, RunFiles
from supernet.space import Arch, Space
from supernet.training import checkpoint


class Found(RunFiles):
    """The part of a run folder that a search writes, and what is trained of it."""

    @property
    def identity(self) -> str:
        """16 hex digits that tell these weights of the supernet from others."""
        return hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()[:16]

    def front(self, space: Space) -> dict[str, Any]:
        """What a search found; a UserError where there is nothing, or where it was found on another supernet."""
        front = files.read_json(self.front_path, "front", expected=FRONT, missing="front")
        if max(front["best"], front["knee"]) >= len(front["front"]):
            raise UserError(
                f"{self.front_path} has {len(front['front'])} networks, its best is another", missing="front"
            )
        for found in (*front["front"], *front["random"]):
            space.check(found["arch"])
        self._require_whole(front)
        space.require(front["space"]["fingerprint"], str(self.front_path))
        made_by = front.get("checkpoint")
        if made_by and self.checkpoint.exists() and made_by != self.identity:
            if not checkpoint.intact(self.checkpoint):
                raise CheckpointError(f"{self.checkpoint} is damaged", missing="supernet")
            raise UserError(f"{self.front_path} was found on other weights than {self.checkpoint}", missing="front")
        return front

    def _require_whole(self, front: dict[str, Any]) -> None:
        """Refuse a front with bounds that are no pairs, or of a search that lacks what its page shows."""
        try:
            if any(len(ends) != 2 for ends in front["bounds"].values()):
                raise ValueError("bounds are not the lowest and the highest")
            if "objectives" not in front:  # of a search of another kind, as DSNAS's
                return
            shape.require(front, SEARCHED)
            for name in front["objectives"] or [""]:
                if not all({name, f"{name}_ms"} & found.keys() for found in (*front["front"], *front["random"])):
                    raise ValueError(f"not every network has the objective {name!r}")
        except ValueError as error:
            raise UserError(f"{self.front_path} is not a readable front ({error}): delete it", "front") from error

    def write_front(
        self,
        space: Space,
        front: Sequence[Mapping],
        random: Sequence[Mapping],
        bounds: Mapping[str, tuple[float, float]],
        *,
        best: int = 0,
        knee: int = 0,
        **more: Any,
    ) -> None:
        """``front.json``: architectures with the names of their layers, accuracies and costs.

        Args:
            front, random: ``arch`` with what is known of it; random ones of the same bounds to compare with.
            best, knee: positions in the front.
            more: further plain values, e.g. the device.
        """

        def entry(found: Mapping) -> dict:
            return {"arch": list(found["arch"]), "layers": space.describe(tuple(found["arch"])), **found}

        finite = {name: [x if math.isfinite(x) else None for x in ends] for name, ends in bounds.items()}
        files.write_json(
            self.front_path,
            {
                "schema": 1,
                "space": {"name": space.name, "fingerprint": space.fingerprint},
                "checkpoint": self.identity,
                "bounds": finite,
                **more,
                "best": best,
                "knee": knee,
                "front": [entry(found) for found in front],
                "random": [entry(found) for found in random],
            },
        )

    def picked(self, name: str, front: Mapping[str, Any]) -> dict | None:
        """The entry of the front that the folder ``name`` is for; None of a name that stands for none now."""
        if name in ("best", "knee"):
            return front["front"][front[name]]
        kind, _, number = name.rpartition("-")
        entries = front.get({"front": "front", "random": "random"}.get(kind, ""), [])
        return entries[int(number)] if number.isdecimal() and int(number) < len(entries) else None

    def results(self) -> dict[str, dict[str, Any]]:
        """Of the networks that were trained alone, by folder: the picked ones first, then the random ones."""
        found = {
            path.parent.name: files.read_json(path, "result", expected=RESULT, missing="network")
            for path in sorted(self.path.glob("*/result.json"))
            if "-before-" not in path.parent.name  # set aside by a training of other settings
        }
        return dict(sorted(found.items(), key=lambda item: item[0].startswith("random-")))

    def stale(self, name: str, arch: Arch, front: Mapping[str, Any] | None) -> bool:
        """Whether the network ``name`` was trained for an earlier search: the front now has another one there."""
        name = name.removesuffix(INT8)
        if front is None or not (name in ("best", "knee") or name.startswith(("front-", "random-"))):
            return False
        entry = self.picked(name, front)
        return entry is None or tuple(entry["arch"]) != tuple(arch)
