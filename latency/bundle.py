"""Bundles, which take converted layers and the agent to a device, and the samples that come back. No torch.

A bundle is a tar of ``agent.py`` with the two modules that it imports, a README, and ``bundle/`` with ``manifest.json``
and the converted files. Samples are the visits of ``measure`` and the header of the table that they become.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latency.agent import SCHEMA
from latency.measure import Protocol, Visit
from supernet import files, shape
from supernet.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
AGENT = {  # name in the bundle: file here
    "agent.py": "latency/agent.py",
    "latency/__init__.py": "latency/__init__.py",
    "latency/measure.py": "latency/measure.py",
    "latency/trtexec.py": "latency/trtexec.py",
    "supernet/__init__.py": "supernet/__init__.py",
    "supernet/errors.py": "supernet/errors.py",
    "supernet/machine.py": "supernet/machine.py",
}
README = """\
On the device (Python 3.8 or newer): python3 -m venv venv && venv/bin/python -m pip install numpy {package}
tar xf this file, then: venv/bin/python agent.py run bundle -o samples.json
(--cores 4 keeps to core 4; a run that was stopped continues by the same command)
Back on the computer that made it: {collect}
"""


def write(file: Any, header: dict, layers: Mapping[str, Path], networks: Mapping[str, Path], readme: str) -> None:
    """Pack a bundle into the open binary ``file``.

    Args:
        header: of the table that the samples become.
        layers, networks: converted files by the key of the layer, and by architecture.
        readme: text of the README.
    """
    paths = {path.name: path for path in (*layers.values(), *networks.values())}
    manifest = {
        "schema": SCHEMA,
        "header": header,
        "layers": {key: path.name for key, path in layers.items()},
        "networks": {key: path.name for key, path in networks.items()},
        "files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()},
    }
    texts = {"README": readme, **{name: (ROOT / path).read_text() for name, path in AGENT.items()}}
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, text in {**texts, "bundle/manifest.json": json.dumps(manifest, indent=1)}.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, path in paths.items():
            tar.add(path, f"bundle/{name}")


@dataclasses.dataclass(frozen=True)
class Collected:
    """Samples: the table's header, and visits by the key of the layer and by architecture."""

    header: dict[str, Any]
    layers: dict[str, list[Visit]]
    networks: dict[str, list[Visit]]

    @property
    def protocol(self) -> Protocol:
        return Protocol(**self.header["protocol"])


VISITS = {str: [[(None, float)]]}
HEADER = {"space": dict, "device": dict, "runtime": dict, "batch": int, "threads": int, "input": list, "protocol": dict}


def read_samples(
    path: Path, fingerprint: str, keys: set[str], covered: Callable[[set[str]], bool] = lambda measured: False
) -> Collected:
    """Read the samples that the agent wrote, and check them, as they come from another machine.

    Args:
        fingerprint: of the space.
        keys: of its layers, all of which must have been measured,
        covered: or as many as this says are a sample of them.

    Raises:
        UserError: no samples, or unfinished ones, or those of another schema, space or set of layers.
    """
    again = "run the agent again on the device; it continues"
    try:
        data = files.parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the samples {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} holds no samples of the agent ({error}): copy them again") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise UserError(f"{path}: expected samples of schema {SCHEMA}, found {found}; emit the bundle again")
    if data.get("finished") is not True:
        raise UserError(f"{path} is unfinished: {again}")
    try:
        shape.require(data, {"header": dict, "layers": VISITS, "networks": VISITS})
        header = {name: data["header"][name] for name in HEADER}
        wrong = [name for name, kind in HEADER.items() if not isinstance(header[name], kind)]
        if wrong or not isinstance(header["device"]["cpu"], str) or not isinstance(header["runtime"]["name"], str):
            raise ValueError(f"header: {', '.join(wrong) or 'device, runtime'}")
        found = header["space"]["fingerprint"]
        if found != fingerprint:
            raise UserError(f"{path} was measured for the space {found}, the space here is {fingerprint}")
        collected = Collected(header, data["layers"], data["networks"])
        _ = collected.protocol
        for key, visits in {**collected.layers, **collected.networks}.items():
            good = all(0 < wall < math.inf and (cpu is None or 0 < cpu < math.inf) for wall, cpu in visits)
            if not good or len(visits) < 2:
                raise ValueError(f"the visits of {key}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {again}") from error
    measured = set(collected.layers)
    if measured != keys and not (measured < keys and covered(measured)):
        odd = sorted(keys ^ measured)
        raise UserError(f"{path} does not hold the layers of this space ({len(odd)} differ, e.g. {odd[0]}): emit again")
    return collected
