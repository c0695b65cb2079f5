"""A latency table that measures a layer when a search first asks for it: its widths are too many to measure all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from latency import runtimes
from latency.measure import Protocol, Samples, host, parse_cores, pin_core
from latency.table import Check, LatencyTable
from supernet import files
from supernet.families import lower
from supernet.progress import Progress
from supernet.space import Arch, Space
from supernet.spec import LayerSpec


class OnDemandTable:
    """Predicted latencies of networks on one core of this machine: plain PyTorch, batch 1, one thread.

    Args:
        path: the table, kept from run to run: a resumed search sees the same latencies.
        fit_on: networks that are measured whole when the table is new; one factor is fitted on them. Where all are of
            one space, the table is that space's.
    """

    def __init__(self, path: Path, fit_on: Sequence[tuple[Space, Arch]], progress: Progress):
        self.path, self.progress, self.protocol = path, progress, Protocol()
        if path.exists():
            self.table = LatencyTable.load(path)
            self.runtime = runtimes.of_table(self.table)
            return
        self.runtime = runtimes.get("torch", kernels="eager", device="cpu", batch=1, threads=1)
        space = fit_on[0][0]
        of = {"name": "plain", "fingerprint": "any depth and width"}
        if len({each.fingerprint for each, _ in fit_on}) == 1:
            of = {"name": space.name, "fingerprint": space.fingerprint}
        with pin_core() as core:
            device = {**host(), "core": core}
        self.table = LatencyTable(
            space=of,
            device=device,
            runtime=self.runtime.describe(),
            batch=1,
            threads=1,
            input=(space.channels, *space.input_size),
            protocol=dataclasses.asdict(self.protocol),
            operations={},
        )
        sums = [self.predict(lower(*network)) for network in fit_on]
        measured = self._time(
            {str(i): (partial(runtimes.whole, *n, "eager"), self.table.input) for i, n in enumerate(fit_on)},
            "networks",
        )
        checks = [
            Check(network[1], len(lower(*network)), total, measured[str(i)].median_ms, measured[str(i)].noisy)
            for i, (network, total) in enumerate(zip(fit_on, sums, strict=True))
        ]
        self.table = self.table.calibrated(checks, [])
        self._save()

    def predict(self, specs: Sequence[LayerSpec]) -> float:
        """Latency of the network that consists of these layers, ms."""
        missing = {spec.key: spec for spec in specs if spec.key not in self.table.operations}
        if missing:
            layers = {key: (partial(spec.measured, "eager"), spec.input_shape) for key, spec in missing.items()}
            operations = {**self.table.operations, **self._time(layers, "layers")}
            self.table = dataclasses.replace(self.table, operations=operations)
            if self.table.calibration is not None:
                self._save()
        return self.table.predict(spec.key for spec in specs)

    def latency(self, space: Space, arch: Arch) -> float:
        """Latency of an architecture, ms."""
        return self.predict(lower(space, arch))

    def _time(
        self, modules: Mapping[str, tuple[Callable[[], nn.Module], runtimes.Shape]], what: str
    ) -> dict[str, Samples]:
        built = ((key, build(), size) for key, (build, size) in modules.items())
        core = self.table.device["core"]
        with pin_core(None if core is None else parse_cores(str(core))):
            return runtimes.time_modules(self.runtime, built, self.protocol, self.progress, f"latency of {what}")

    def _save(self) -> None:
        files.write_json(self.path, self.table.to_json())
