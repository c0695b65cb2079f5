"""A run folder: what it holds, how a run begins, continues and starts over. ``run_files`` has the names of its files.

::

    config.json space.json           what made the run: settings, images, space
    split.json damaged.json          which images train and which validate; those left out (data/split.py, damaged.py)
    checkpoint.pt metrics.jsonl      the supernet (training/folder.py)
    lut.json                         the latency table
    validation-*.npy                 pixels of the validation images, where they come from files (data/stored.py)
    search.json population.jsonl scores.jsonl front.json front.png
    best/ knee/ front-N/ random-N/   networks trained alone, each with config, weights, log and result.json
    arch.json child/                 of methods that end with one network
    candidates/N/ networks/NAME/     what a search trains network by network
    final-N/                         the network that it found, trained for N epochs
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch

from supernet import families, files, lock, plugins, run_code
from supernet.data import sets, stored
from supernet.data.damaged import Damaged, remember
from supernet.data.images import ImageSet
from supernet.data.split import Split
from supernet.errors import CheckpointError, UserError
from supernet.model import Network, Supernet, load_network
from supernet.progress import Progress, silent
from supernet.quantities import several
from supernet.run_files import BEGUN, CONFIG, FOUND, PROBABILITIES, SPACES, SUPERNET, WEIGHTS, WRITTEN
from supernet.run_fronts import Found
from supernet.space import Arch, Space
from supernet.training import checkpoint, defaults, distributed
from supernet.training.measured import Kernels, Wish

Prepared = TypeVar("Prepared", ImageSet, sets.TrainVal)
RECORD = "made_with"  # in config.json, beside the settings: what a later command compares, not what shapes a run


def _larger(new: object, old: object) -> bool:
    return isinstance(new, int) and isinstance(old, int) and new > old


class RunFolder(Found):
    """The folder of a run.

    Args:
        code: ``FILE.py:function`` or ``package.module:function``, for spaces and images of one's own: a file in the
            folder never starts code by itself, so whoever opens the run says that it may be run.
        skip_damaged: leave out images that cannot be read, instead of refusing them.

    >>> RunFolder("runs/default").front_path
    PosixPath('runs/default/front.json')
    """

    def __init__(
        self,
        path: str | Path,
        *,
        space_code: str | None = None,
        data_code: str | None = None,
        skip_damaged: bool = False,
    ):
        super().__init__(path)
        self.space_code, self.data_code, self.skip_damaged = space_code, data_code, skip_damaged

    @property
    def options(self) -> dict[str, Any]:
        """What another folder of the same run is opened with."""
        return {name: getattr(self, name) for name in ("space_code", "data_code", "skip_damaged")}

    # --- folders of networks

    @property
    def child(self) -> RunFolder:
        """DSNAS's child, ready to use."""
        return RunFolder(self.path / "child")

    def network(self, name: str) -> RunFolder:
        """A network that was trained alone, by the name of its folder."""
        return RunFolder(self.path / name)

    def candidate(self, number: int) -> RunFolder:
        """A candidate of a search that trains each one."""
        return RunFolder(self.path / "candidates" / f"{number:03d}")

    def stage_network(self, name: str) -> RunFolder:
        """A network that Stage-Wise NAS trained."""
        return RunFolder(self.path / "networks" / name)

    def seed(self, seed: int) -> RunFolder:
        """The same training again with another seed."""
        return RunFolder(self.path / f"seed-{seed}")

    def final(self, epochs: int, kind: str = "") -> RunFolder:
        """The network that a search found, trained for so many epochs."""
        return RunFolder(self.path / f"final-{epochs}{kind}")

    @property
    def headless(self) -> RunFolder:
        """A face network without the margin head that it was trained with."""
        return RunFolder(self.path / "network")

    # --- beginning and continuing

    def begin(
        self,
        settings: Mapping[str, Any],
        *,
        space: Space | None = None,
        images: sets.TrainVal | None = None,
        restart: bool = False,
        grows: Sequence[str] = (),
        defaults: Mapping[str, Any] | None = None,
        made_with: Mapping | None = None,
    ) -> bool:
        """A new run with these settings, or the one to continue. Returns whether it is new.

        Args:
            settings: all that shapes the run, in plain JSON values; ``data_root`` may change, as images move.
            space, images: of a new run; the images of one to continue are those that it has, if they are the same.
            restart: delete the run that the folder holds.
            grows: numbers that may be larger than they were: the run is extended, and its configuration says so.
            defaults: of settings that the version which began the run did not have.
            made_with: what later commands compare, besides ``TrainVal.identity``.

        Raises:
            UserError: the folder holds a run of other settings or of other images; nothing is changed.
        """
        if restart and self.path.exists():
            self.delete()
        made_with = {**({} if images is None else images.record), **(made_with or {})}
        if self.config_path.exists():
            self._require_run()
            old = self.require_settings(settings, grows, defaults or {})
            recorded = old.get(RECORD, {})
            if space is not None and self.space_path.exists():
                self.space()  # a damaged file is told
            if images is not None and recorded.get("data"):
                images.require_same(recorded["data"], str(self.path))
            larger = {name: settings[name] for name in grows if old[name] != settings[name]}
            if larger:
                extended = [*recorded.get("extended", ()), {name: old[name] for name in larger}]
                files.write_json(self.config_path, {**old, **larger, RECORD: {**recorded, "extended": extended}})
            return False
        if checkpoint.exists(self.checkpoint):
            raise UserError(f"{self.path} holds weights without a config.json that says of what", "another run")
        if space is not None:
            self.write_space(space)
        if images is not None:
            self.write_images(images.split, images.damaged)
        record = {**made_with, **run_code.record(space)}
        files.write_json(self.config_path, {**settings, RECORD: record})  # last: with it the run has begun
        return True

    def require_settings(
        self, settings: Mapping[str, Any], grows: Sequence[str] = (), defaults: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Refuse a run that was started with other settings, naming them. Returns those that it has."""
        old, new = self.config(), files.plain(settings)
        newer = {name: value for name, value in (defaults or {}).items() if name in new and name not in old}
        there = {**files.plain(newer), **old}
        changed = [
            f"{name}: {there.get(name)} → {new.get(name)}"
            for name in sorted({*there, *new} - {"data_root", RECORD})
            if there.get(name) != new.get(name) and not (name in grows and _larger(new.get(name), there.get(name)))
        ]
        if changed:
            raise UserError(f"{self.path} holds a run with other settings ({'; '.join(changed)})", "another run")
        return there

    def delete(self) -> None:
        """Delete what a run has written; a UserError where the folder is no run's.

        Other files stay, and the lock, as it is held. The configuration goes last: what a kill leaves is a run to be
        deleted.
        """
        if entries := [entry for entry in self.path.iterdir() if entry.name != lock.NAME]:
            self._require_run()
        written = [entry for entry in entries if any(fnmatch.fnmatch(entry.name, name) for name in WRITTEN)]
        for entry in sorted(written, key=lambda entry: entry == self.config_path):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _require_run(self) -> None:
        """Refuse a folder of something else."""
        try:
            config = files.read_json(self.config_path, "run configuration", expected=dict)
            begun = BEGUN[0] in config or config.keys() >= set(BEGUN[1:])
        except UserError:  # missing where a kill came at the wrong time, or damaged
            begun = checkpoint.exists(self.checkpoint) or self.space_path.exists()
        if not begun:
            raise UserError(f"{self.path} is not a run, its files are something else's: choose another folder")

    def set_aside(self) -> Path:
        """Rename the folder, so that another training can take its place. Returns the new name."""
        aside = self.path.with_name(f"{self.path.name}-before-{time.strftime('%Y%m%d-%H%M%S')}")
        self.path.rename(aside)
        return aside

    def lock(self, output: Path | None = None) -> AbstractContextManager[None]:
        """Hold the folder against other processes that write in it, as ``supernet.lock.held`` does."""
        return lock.held(self.path, output)

    def unlocked(self) -> AbstractContextManager[None]:
        """Stands in for ``lock`` in the other processes of a run whose first one holds it."""
        return contextlib.nullcontext()

    # --- what the run holds

    def config(self) -> dict[str, Any]:
        """Settings, and under ``made_with`` what made the run."""
        told = {"missing": "supernet", "damaged": "another run"}
        return files.read_json(self.config_path, "run configuration", expected=CONFIG, **told)

    def setting(self, name: str) -> Any:
        """A setting of the run; None where there is no run yet, or it does not say."""
        return self.config().get(name) if self.config_path.exists() else None

    def space(self) -> Space:
        """The space of the run, with its own operations where it has some."""
        read = files.read_json(self.space_path, "space of a run", missing="supernet", damaged="another run")
        space = Space.from_json(read, str(self.space_path))
        recorded = self.config().get(RECORD, {}) if self.config_path.exists() else {}
        if self.space_code is not None:
            return run_code.with_code(space, self.space_code, recorded, self.path)
        made_by = recorded.get("space")
        if made_by and ":" in made_by and not families.knows(space):
            raise UserError(f"the space of {self.path} comes from the code {made_by}, which was not named", "code")
        return space

    def write_space(self, space: Space) -> None:
        """``space.json``."""
        files.write_json(self.space_path, space.to_json())

    def write_lut(self, table: Mapping[str, Any]) -> None:
        """``lut.json``: a latency table in plain JSON."""
        files.write_json(self.lut_path, table)

    def kernels(self, device: torch.device, wish: Wish = "auto", sync_bn: bool = False) -> Kernels:
        """``wish``; ``auto``: what the run was trained with on a device of this kind, else as `defaults.kernels` says.

        Raises:
            UserError: as `defaults.kernels`.
        """
        if wish == "auto" and not sync_bn and self.config_path.exists():
            config = self.config()
            if config.get(RECORD, {}).get("device") == device.type:
                wish = config.get("kernels", wish)
        return defaults.kernels(device, wish, sync_bn)

    def supernet(self, space: Space, device: torch.device, kernels: str) -> Supernet:
        """The trained supernet.

        Raises:
            UserError: there is none, it is not trained to the end, or it is of another space.
        """
        state = self._weights("supernet", SUPERNET)
        meta = state["meta"]
        space.require(meta["space"]["fingerprint"], str(self.checkpoint))
        if not state["finished"]:
            reason = f"is not trained to the end (step {state['step']})"
            raise CheckpointError(f"the supernet in {self.path} {reason}", missing="supernet")
        model = Supernet(space, affine=meta["affine"], eps=meta.get("eps", 1e-5), kernels=kernels)
        try:
            model.load_state_dict(checkpoint.weights(state))
        except RuntimeError as error:
            reason = str(error).split(":")[0]
            raise CheckpointError(f"{self.checkpoint} does not fit its space ({reason})", missing="supernet") from error
        return model.to(device)

    def trained(self, space: Space, kernels: str = "eager") -> Network:
        """The network that was trained to the end in this folder."""
        if not self._weights("network", WEIGHTS)["finished"]:
            raise CheckpointError(f"the network in {self.path} is not trained to the end", missing="network")
        network = load_network(self.path, kernels, space.operations, space.make)
        space.require(network.space.fingerprint, str(self.path))
        return network

    def _weights(self, kind: str, expected: dict) -> dict:
        state = checkpoint.load(self.checkpoint, missing=kind)
        checkpoint.require(state, WEIGHTS, self.checkpoint, missing=kind)
        found = state["meta"]["kind"]
        if found == SPACES:
            raise CheckpointError(
                f"{self.path} is a search of spaces by NSS, whose supernet has no architectures to choose from: train "
                f"one of an elite space, {self.path}/elite-…/space.json, and use that run"
            )
        if found != kind:
            raise CheckpointError(f"{self.checkpoint} holds no {kind} but {found}", missing=kind)
        checkpoint.require(state, expected, self.checkpoint, missing=kind)
        return state

    def images(
        self, root: Path | None = None, limit: int | None = None, workers: int = 0, progress: Progress = silent
    ) -> sets.TrainVal:
        """Train and validation images as the supernet had them: the same split, by default from the same place.

        Files keep their sides, whatever was added, replaced or deleted since; what was, is told.

        Raises:
            UserError: other images than those that the run began with.
        """
        name, root, config = self._data(root)
        options = {"seed": config["seed"], "resolution": config["resolution"], "limit": limit}
        images = sets.open_train(name, root, workers=workers, **options, **self.opening())
        recorded = config.get(RECORD, {}).get("data")
        if recorded:
            images.require_same(recorded, str(self.path))
        classes = self.space().classes if self.space_path.exists() else images.classes
        if classes not in (0, images.classes):  # a run of version 0.1 recorded no more than that
            its = several(classes, "class", "classes")
            raise UserError(f"{self.path} is for {its}, the images have {images.classes}")
        for note in images.notes:
            distributed.tell(note)
        images = dataclasses.replace(images, train=images.train.balanced(config.get("balance", "none")))
        return self.decoded(self.prepared(images), progress)

    def prepared(self, images: Prepared) -> Prepared:
        """The images, or those of training and validation, normalised as the run recorded it."""
        known = self.config().get(RECORD, {}).get("preparation")
        return images if known is None else images.normalised(known["mean"], known["std"])

    def opening(self) -> dict[str, Any]:
        """How ``sets.open_train`` opens the images of this run: by its split, without the damaged ones."""
        split = Split.read(self.split_path)
        return {"split": split, "damaged": Damaged(self.skip_damaged, self.damaged_path), "old": split is None}

    def write_images(self, split: Split | None, damaged: Mapping[str, str]) -> None:
        """``split.json``, and ``damaged.json`` where there are damaged images."""
        if split is not None:
            split.write(self.split_path)
        if damaged:
            remember(self.damaged_path, damaged)

    def decoded(self, images: sets.TrainVal, progress: Progress = silent) -> sets.TrainVal:
        """The images; those for validation are decoded once, into a file of this folder (``stored.in_file``)."""
        with distributed.leader_first():
            return dataclasses.replace(images, val=stored.in_file(images.val, self.path, progress))

    def test_images(self, root: Path | None = None, workers: int = 0) -> ImageSet:
        """The test part of the run's images."""
        name, root, config = self._data(root)
        images = sets.open_test(name, root, resolution=config["resolution"], workers=workers, **self.opening())
        return self.prepared(images)

    def _data(self, root: Path | None) -> tuple[str, Path, dict]:
        config = self.config()
        if lacking := sorted({"data", "seed", "resolution"} - config.keys()):
            raise UserError(f"{self.config_path} has no {', '.join(lacking)}: it is no run of a supernet", "supernet")
        name = config["data"]
        if plugins.is_reference(name):
            name = plugins.require_same(name, self.data_code, f"the images of {self.path}")
        return name, root or Path(config.get("data_root", "data")), config

    def found(self) -> dict[str, Any]:
        """The network that a method ended with: its architecture and what is known of it."""
        return files.read_json(self.arch_path, "found network", expected=FOUND, missing="supernet")

    def write_found(self, space: Space, arch: Arch, **known: Any) -> None:
        """``arch.json``: the network that a method ended with, and what is known of it."""
        of = {"name": space.name, "fingerprint": space.fingerprint}
        files.write_json(self.arch_path, {"schema": 1, "space": of, "arch": list(arch), **known})

    def elite(self, target: float) -> RunFolder:
        """NSS's elite space for a target: ``space.json``, ``probabilities.json`` and a picture."""
        return RunFolder(self.path / f"elite-{target:.9g}")

    def probabilities(self) -> dict[str, Any]:
        """What NSS's elite space was taken from."""
        return files.read_json(
            self.probabilities_path, "result of a search", expected=PROBABILITIES, missing="supernet"
        )

    def origin(self) -> dict[str, Any]:
        """What this run's networks are made from: the supernet's weights, the images' classes, the version."""
        record = self.config().get(RECORD, {}) if self.config_path.exists() else {}
        weights = self.identity if self.checkpoint.exists() else None
        return {"checkpoint": weights, **{name: record[name] for name in ("data", "version") if name in record}}
