"""The names of the files in a run folder, and what is in them. No torch."""

from __future__ import annotations

from pathlib import Path

from supernet import files, metrics
from supernet.metrics import METRICS
from supernet.shape import COUNT, FINGERPRINT, INTERVAL, POSITIVE, SHARE, Number
from supernet.training.folder import TrainingFolder

# Shapes of JSON files, and of the plain values in checkpoints; a field with ? may be missing.
ARCH = [COUNT]
COST = Number(0)
IDENTITY = {"name": str, "classes": [str], "images": {str: COUNT}, "digest": str}  # TrainVal.identity
MADE_WITH: dict[str, object] = {"version?": str, "torch?": str, "device?": str, "cpu?": str}
MADE_WITH |= {"gpu?": str, "space?": (None, str), "network?": str, "data?": IDENTITY}
MADE_WITH |= {"preparation?": {"mean": [float], "std": [float]}}
CONFIG = {
    "data?": str,
    "data_root?": str,
    "seed?": COUNT,
    "resolution?": (None, str, POSITIVE),
    "epochs?": (COUNT, [COUNT]),
    "method?": str,
    "kernels?": ("fused", "eager"),
    "balance?": ("none", "loss", "sampling"),
    "metric?": METRICS,
    "made_with?": MADE_WITH,
}
COSTS = {"latency_ms?": COST, "flops?": COST, "params?": COST, "activations?": COST}
COSTS |= {"flash?": COST, "ram?": COST}
ONE_SHOT = {"one_shot_accuracy?": SHARE, "one_shot_accuracy_interval?": INTERVAL, "one_shot_images?": POSITIVE}
ENTRY = {"arch": ARCH, "layers?": str, **ONE_SHOT, **COSTS}
FRONT = {
    "schema": 1,
    "space": FINGERPRINT,
    "checkpoint?": (None, str),
    "bounds": {str: [(None, float)]},
    "best": COUNT,
    "knee": COUNT,
    "metric?": METRICS,
    "front": [ENTRY],
    "random": [ENTRY],
    "devices?": [{"cost": str, "table?": str, "device": dict, "runtime": dict}],
}
# Of a search that has told what it minimised: what its page and its picture need.
SCORED = {**ENTRY, "layers": str, "one_shot_accuracy": SHARE}
SEARCHED = {**FRONT, "algorithm": str, "evaluated": COUNT, "objectives": [str], "front": [SCORED], "random": [SCORED]}
SHARES = {metrics.key(part, metric): SHARE for part in ("val", "test") for metric in metrics.METRICS}
ACCURACIES = {f"{name}?": SHARE for name in SHARES} | {f"{name}_interval?": INTERVAL for name in SHARES}
ACCURACIES |= {"val_images?": POSITIVE, "test_images?": POSITIVE}
RESULT = {"arch?": ARCH, "settings?": dict, "measured_latency_ms?": COST, "metric?": METRICS}
RESULT |= {**ONE_SHOT, **ACCURACIES, **COSTS}
FOUND = {"schema?": 1, "space?": FINGERPRINT, "arch": ARCH, "layers?": str, "name?": str, "metric?": METRICS}
FOUND |= {**ACCURACIES, **COSTS}
PROBABILITIES = {"schema": 1, "target": COST, "cost": COST, "argmax_cost": COST, "genes": [dict]}
POPULATION = {"arch": ARCH, "accuracy": SHARE, "costs": {str: float}, "generation": COUNT}
INT8 = "-int8"  # ends the name of a network that was fine-tuned by fake quantisation, after that of the one before
SPACES = "network space search"  # the kind of weights that NSS trains
META = {"kind": str, "space": {"fingerprint": str}}
WEIGHTS = {"finished": bool, "model": dict, "meta": META}
SUPERNET = {**WEIGHTS, "step": COUNT, "meta": {**META, "affine": bool, "eps?": COST}, "search?": {"average?": dict}}


BEGUN = ("made_with", "seed", "batch_size")  # of a configuration: the first since 0.2, the others before
# Everything that a command writes in a run folder, by the patterns of its names.
WRITTEN = (
    *("config.json", "space.json", "checkpoint*.pt", "metrics.jsonl", "failure.json", "validation-*", "lut*.json"),
    *("search.json", "clock.json", "population.jsonl", "scores.jsonl", "front.json", "front.png", "arch.json"),
    *("network.png", "networks.png", "candidate.json", "candidates*", "depths.png", "rank", "specialised"),
    *("report.html", "result.json"),
    *("given*", "split.json", "damaged.json", "probabilities.*", "child", "networks", "network", "final-*", "seed-*"),
    *("elite-*", "supernet*"),
    *("best*", "knee*", "front-*", "random-*", "config", "config-before-*", "config-int8*", "converted", ".*.tmp"),
)


class RunFiles(TrainingFolder):
    """Where everything lies in the folder of a run, whether it is there or not."""

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def split_path(self) -> Path:
        """Which images train and which validate."""
        return self.path / "split.json"

    @property
    def damaged_path(self) -> Path:
        """Images that cannot be read and are left out."""
        return self.path / "damaged.json"

    @property
    def space_path(self) -> Path:
        return self.path / "space.json"

    @property
    def given_path(self) -> Path:
        """The weights that a given network began with."""
        return self.path / "given.safetensors"

    @property
    def lut_path(self) -> Path:
        return self.path / "lut.json"

    @property
    def front_path(self) -> Path:
        return self.path / "front.json"

    @property
    def front_picture(self) -> Path:
        return self.path / "front.png"

    @property
    def search_path(self) -> Path:
        return self.path / "search.json"

    @property
    def clock_path(self) -> Path:
        """Seconds that a search has taken, of all processes that took part in it."""
        return self.path / "clock.json"

    @property
    def population(self) -> files.JsonLines:
        """All that a search was told, in order."""
        return files.JsonLines(self.path / "population.jsonl", POPULATION)

    @property
    def scores(self) -> files.JsonLines:
        """One-shot accuracies, which outlive a search; the first line says what they depend on."""
        return files.JsonLines(self.path / "scores.jsonl", ({"checkpoint": str}, {"arch": ARCH, "accuracy": SHARE}))

    @property
    def arch_path(self) -> Path:
        return self.path / "arch.json"

    @property
    def network_picture(self) -> Path:
        return self.path / "network.png"

    @property
    def candidate_path(self) -> Path:
        """What a candidate of a search that trains each one is."""
        return self.path / "candidate.json"

    @property
    def tested_path(self) -> Path:
        """Test accuracies of Stage-Wise NAS's candidates."""
        return self.path / "candidates.json"

    @property
    def importance_path(self) -> Path:
        """Importance of a candidate's stages, before it is trained further."""
        return self.path / "importance.json"

    @property
    def depths_picture(self) -> Path:
        """How the stages grew."""
        return self.path / "depths.png"

    @property
    def rank_path(self) -> Path:
        """Folder of a study of how well the supernet ranks."""
        return self.path / "rank"

    @property
    def specialised_path(self) -> Path:
        """Folder of the networks that were found for several devices."""
        return self.path / "specialised"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def classes_path(self) -> Path:
        """How a trained network does on each class of the test images, in the shape of ``answers.FILE``."""
        return self.path / "classes.json"

    @property
    def mistakes_path(self) -> Path:
        """Test images that a trained network is surely wrong about, in the shape of ``mistakes.FILE``."""
        return self.path / "mistakes.json"

    @property
    def confusion_picture(self) -> Path:
        return self.path / "confusion.png"

    @property
    def probabilities_path(self) -> Path:
        """What NSS's elite space was taken from."""
        return self.path / "probabilities.json"
