"""Efficient Global NAS: depth, then width, then operations and kernels, each by greedy steps. No torch.

"Efficient Global Neural Architecture Search", Algorithm 1 and §3.2–3.3, with the thresholds of the authors' code.
Each candidate is trained longer than the one before it (dynamic ranking): by one epoch for every layer added and by two
for every step of width removed; where parameters stay about equal, all are trained for ``micro_epochs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from supernet.errors import UserError
from supernet.files import plain
from supernet.quantities import digits
from supernet.shape import Number, require

SCHEMA = 1
PERCENT = Number(0, 100)
STATE = {"records": [{"candidate": dict, "train_accuracy": PERCENT, "val_accuracy": PERCENT}]}
SEP, CONV = 0, 1  # the operations O
NEWER = ("start_op", "start_kernel", "operations")  # of Config; version 0.1 did not have them


@dataclass(frozen=True)
class Candidate:
    """A network and the number of epochs to train it. ``ops`` and ``kernels`` have one entry per layer."""

    phase: str  # depth | width | operation | kernel
    depth: int  # L, layers
    width: int  # C, channels at full resolution
    ops: tuple[int, ...]  # SEP or CONV
    kernels: tuple[int, ...]  # 3 or 5; 7 where the search starts with it
    epochs: int  # E

    def at(self, layer: int, *, op: int | None = None, kernel: int | None = None) -> Candidate:
        """The same network with another operation or kernel at one layer."""
        ops, kernels = list(self.ops), list(self.kernels)
        if op is not None:
            ops[layer] = op
        if kernel is not None:
            kernels[layer] = kernel
        return replace(self, ops=tuple(ops), kernels=tuple(kernels))

    def describe(self) -> str:
        """One line for people: depth, width, and the layers that are not Sep 3×3."""
        at = {"Conv": [str(i) for i, op in enumerate(self.ops) if op == CONV]}
        at |= {f"{k}×{k}": [str(i) for i, kernel in enumerate(self.kernels) if kernel == k] for k in (5, 7)}
        others = (f"{name} at {','.join(layers)}" for name, layers in at.items() if layers)
        return " ".join([f"L {self.depth}", f"C {self.width}", *others])


@dataclass(frozen=True)
class Config:
    """Bounds and thresholds. Accuracies are in per cent, thresholds in percentage points."""

    depth: tuple[int, int] = (10, 100)  # D_min, D_max
    width: tuple[int, int] = (16, 64)  # W_min, W_max; the mobile setting has 128
    depth_step: int = 1
    width_step: int = 2  # W_res
    epochs: int = 10  # E_min of the macro search
    depth_epochs: int = 1  # added for each step of depth
    width_epochs: int = 2  # added for each step of width
    micro: bool = True
    micro_epochs: int = 2  # E_min of the micro search
    gain: float = 0.10  # L_Acc+
    drop: float = 0.05  # L_Acc-
    patience: int = 3  # failures that end a phase
    slack: int = 10_000  # how many more parameters than its base a micro candidate may have
    train_ceiling: float = 100.0  # no growth where accuracies reach these
    val_ceiling: float = 99.9
    start_op: int = SEP  # of all layers of the macro search (Table 2)
    start_kernel: int = 3  # likewise; 3 or 7
    operations: bool = True  # whether the micro search tries operations (§4.1, ablation)

    def __post_init__(self) -> None:
        if self.start_op not in (SEP, CONV) or self.start_kernel not in (3, 7):
            raise UserError(
                f"start with operation {self.start_op}, kernel {self.start_kernel}: expected 0 or 1, 3 or 7"
            )
        for name, least in (("depth", 3), ("width", 1)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise UserError(f"{name} from {low} to {high}: expected {least} ≤ lowest ≤ highest")
        for name in ("depth_step", "width_step", "epochs", "micro_epochs", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: expected at least 1")

    @property
    def depths(self) -> range:
        """All depths of the space."""
        return range(self.depth[0], self.depth[1] + 1, self.depth_step)

    @property
    def widths(self) -> range:
        """All widths of the space."""
        return range(self.width[0], self.width[1] + 1, self.width_step)

    def networks(self, depth: int | None = None) -> int:
        """How many networks the space has, whose layers have one of two operations and one of two kernels.

        Args:
            depth: every depth is counted as if it had so many layers, which is eq. 1: (O · K)^D_f · D · W.

        >>> f"{Config(depth=(5, 100), width=(16, 128)).networks(25):.2e}"
        '6.16e+18'
        """
        return sum(4 ** (layers if depth is None else depth) for layers in self.depths) * len(self.widths)


PRESETS = {
    "tiny": Config(),
    "mobile": Config(width=(16, 128)),
    "small": Config(depth=(5, 12), width=(6, 16), epochs=2, micro_epochs=2),  # ours, for two cores
}


@dataclass(frozen=True)
class Record:
    """A trained candidate with the accuracies of its best epoch, in per cent."""

    candidate: Candidate
    train_accuracy: float
    val_accuracy: float


Steps = Generator[Candidate, Record, Candidate]


class EfficientGlobal:
    """The search as ask and tell; it never sees how a candidate is trained.

    A candidate beyond a bound is not trained. Each depth is tried at the largest width within the bounds (W_max without
    bounds); the depth phase ends where there is none; a micro candidate beyond a bound is rejected.

    Args:
        params: gives the parameters of a candidate, for the channel compensation of the micro search (§3.3).
        costs: further costs by name.
        bounds: the largest allowed value of costs, by name.

    Raises:
        UserError: the bounds exclude every candidate.

    >>> search = EfficientGlobal(Config(depth=(5, 6), width=(8, 10), micro=False), params=lambda c: 0)
    >>> while (candidate := search.ask()) is not None:
    ...     print(candidate.phase, candidate.depth, candidate.width, candidate.epochs)
    ...     search.tell(candidate, train_accuracy=70.0, val_accuracy=60.0 + candidate.depth)
    depth 5 10 10
    depth 6 10 11
    width 6 8 13
    >>> search.found.describe()
    'L 6 C 8'
    """

    def __init__(
        self,
        config: Config,
        params: Callable[[Candidate], int],
        costs: Mapping[str, Callable[[Candidate], float]] | None = None,
        bounds: Mapping[str, float] | None = None,
    ):
        self.config, self.params = config, params
        self.bounds = {name: float(bound) for name, bound in (bounds or {}).items() if math.isfinite(bound)}
        self.costs = {name: (costs or {})[name] for name in self.bounds}
        self.records: list[Record] = []
        self.skipped: list[Candidate] = []  # beyond a bound, so not trained
        self.accepted: dict[str, Record] = {}  # the best one at the end of each phase
        self.macro: Candidate | None = None  # what the macro search found
        self.found: Candidate | None = None  # the end of the search
        self._steps = self._search()
        self._asked: Candidate | None = next(self._steps)

    def ask(self) -> Candidate | None:
        """The candidate to train next, the same until it is told; None at the end."""
        return self._asked

    def tell(self, candidate: Candidate, train_accuracy: float, val_accuracy: float) -> None:
        """Take the accuracies of the asked candidate's best epoch, in per cent.

        Raises:
            ValueError: another candidate than asked for, or an accuracy outside [0, 100].
        """
        if candidate != self._asked:
            raise ValueError(f"expected the accuracies of {self._asked}, got those of {candidate}")
        if not all(0 <= a <= 100 for a in (train_accuracy, val_accuracy)):
            raise ValueError(f"expected accuracies in [0, 100], got {train_accuracy} and {val_accuracy}")
        record = Record(candidate, float(train_accuracy), float(val_accuracy))
        self.records.append(record)
        try:
            self._asked = self._steps.send(record)
        except StopIteration as end:
            self._asked, self.found = None, end.value

    # --- Algorithm 1. A generator: it yields a candidate and is sent its record. --------------------------------

    def _search(self) -> Steps:
        cfg = self.config
        best = self.accepted["depth"] = yield from self._grow()
        best = self.accepted["width"] = yield from self._prune(best)
        self.macro = best.candidate
        if not cfg.micro:
            return self.macro
        # 1. Retrain the macro architecture for E_min as the new baseline.
        best = yield replace(self.macro, phase="operation", epochs=cfg.micro_epochs)
        # 2. O_i ← Conv, 3. K_i ← 5 × 5: where the validation accuracy improves, fewer channels paying for it.
        if cfg.operations:
            other = CONV if cfg.start_op == SEP else SEP
            best = self.accepted["operations"] = yield from self._micro(
                best, "operation", lambda network, i: network.at(i, op=other)
            )
        best = self.accepted["kernels"] = yield from self._micro(
            best, "kernel", lambda network, i: network.at(i, kernel=5)
        )
        return best.candidate

    def _grow(self) -> Generator[Candidate, Record, Record]:
        """L ← L + 1, E ← E + 1 while the validation accuracy improves. Returns the last accepted one."""
        cfg, first = self.config, self._widest(self.config.depth[0], self.config.epochs)
        if first is None:
            raise self._excluded()
        latest = best = yield first
        failures = 0
        while latest.candidate.depth + cfg.depth_step <= cfg.depth[1]:
            if latest.train_accuracy >= cfg.train_ceiling or latest.val_accuracy >= cfg.val_ceiling:
                break
            last = latest.candidate
            deeper = self._widest(last.depth + cfg.depth_step, last.epochs + cfg.depth_epochs)
            if deeper is None:
                break
            latest = yield deeper
            if latest.val_accuracy >= best.val_accuracy + cfg.gain:
                best, failures = latest, 0
            elif latest.val_accuracy < best.val_accuracy - cfg.drop:
                failures += 1
                if failures == cfg.patience:
                    break
        self._epochs = latest.candidate.epochs
        return best

    def _prune(self, best: Record) -> Generator[Candidate, Record, Record]:
        """C ← C − W_res, E ← E + 2 while the validation accuracy is retained; E goes on from the depth phase."""
        cfg, failures = self.config, 0
        width, epochs = best.candidate.width, self._epochs
        while width - cfg.width_step >= cfg.width[0] and failures < cfg.patience:
            width, epochs = width - cfg.width_step, epochs + cfg.width_epochs
            narrower = replace(best.candidate, phase="width", width=width, epochs=epochs)
            if not self._within(narrower):
                continue
            record = yield narrower
            if record.val_accuracy >= best.val_accuracy:
                best, failures = record, 0
            else:
                failures += 1
        return best

    def _micro(
        self, best: Record, phase: str, change: Callable[[Candidate, int], Candidate]
    ) -> Generator[Candidate, Record, Record]:
        """Change one layer after the other; a change that does not improve the accuracy is undone."""
        base = self.params(best.candidate)
        for layer in range(best.candidate.depth):
            changed = self._compensated(replace(change(best.candidate, layer), phase=phase), base)
            if changed is None or not self._within(changed):
                continue
            record = yield changed
            if record.val_accuracy > best.val_accuracy:
                best = record
        return best

    def _compensated(self, candidate: Candidate, base: int) -> Candidate | None:
        """The same network with the most channels whose parameters stay at about ``base``; None if there are none."""
        for width in range(candidate.width, 0, -1):
            narrower = replace(candidate, width=width)
            if self.params(narrower) <= base + self.config.slack:
                return narrower
        return None

    # --- Bounds. ------------------------------------------------------------------------------------------------

    def _plain(self, depth: int, width: int, epochs: int) -> Candidate:
        """A candidate of the macro search: all layers alike, Sep 3×3 unless the search starts with others."""
        cfg = self.config
        return Candidate("depth", depth, width, (cfg.start_op,) * depth, (cfg.start_kernel,) * depth, epochs)

    def _widest(self, depth: int, epochs: int) -> Candidate | None:
        """The network of this depth with the most channels within the bounds."""
        low, high = self.config.width
        for width in range(high, low - 1, -self.config.width_step):
            candidate = self._plain(depth, width, epochs)
            if self._within(candidate):
                return candidate
        return None

    def _within(self, candidate: Candidate) -> bool:
        inside = all(self.costs[name](candidate) <= bound for name, bound in self.bounds.items())
        if not inside:
            self.skipped.append(candidate)
        return inside

    def _excluded(self) -> UserError:
        low, high = self.config.width
        narrowest = low + (high - low) % self.config.width_step
        smallest = self._plain(self.config.depth[0], narrowest, self.config.epochs)
        broken = [
            f"{name} ≤ {digits(bound, 6)} (it has {digits(self.costs[name](smallest), 6)})"
            for name, bound in self.bounds.items()
            if self.costs[name](smallest) > bound
        ]
        return UserError(
            f"the bounds exclude every candidate: the smallest, {smallest.describe()}, breaks {' and '.join(broken)}; "
            "raise the bound, or allow smaller depths or widths"
        )

    # --- State: what was told. The algorithm has no randomness, so all else follows. ------------------------------

    def state_dict(self) -> dict:
        """All that is needed to continue, as plain JSON."""
        return {
            "schema": SCHEMA,
            "config": plain(asdict(self.config)),
            "bounds": self.bounds,
            "records": [plain(asdict(record)) for record in self.records],
        }

    def load_state_dict(self, state: object) -> None:
        """Continue where another search of the same settings stopped; call it on a new object only.

        Raises:
            UserError: other settings, a damaged state, or accuracies of other candidates than this search asks for.
        """
        if not isinstance(state, dict) or state.get("schema") != SCHEMA:
            raise UserError(f"expected a search state of schema {SCHEMA}; delete it to start again")
        newer = {name: plain(getattr(Config(), name)) for name in NEWER}
        there = {**state, "config": {**newer, **state["config"]}} if isinstance(state.get("config"), dict) else state
        for name, here in (("config", plain(asdict(self.config))), ("bounds", self.bounds)):
            if there.get(name) != here:
                raise UserError(
                    f"the search state has {name} {there.get(name)}, this search {here}; use another folder"
                )
        try:
            require(state, STATE)
            told = [(r["candidate"], float(r["train_accuracy"]), float(r["val_accuracy"])) for r in state["records"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the search state is damaged ({error}); delete it to start again") from error
        for number, (candidate, train_accuracy, val_accuracy) in enumerate(told):
            if self._asked is None or candidate != plain(asdict(self._asked)):
                raise UserError(
                    f"candidate {number} of the search state is not the one that these costs lead to: a latency table "
                    "or the data changed; delete the state to start again"
                )
            try:
                self.tell(self._asked, train_accuracy, val_accuracy)
            except ValueError as error:
                raise UserError(f"the search state is damaged ({error}); delete it to start again") from error


def sample(rng: np.random.Generator, config: Config, epochs: int) -> Candidate:
    """A random network: depth, width, and the operation and kernel of every layer drawn uniformly (§4.1, ablation)."""
    depth, width = int(rng.choice(config.depths)), int(rng.choice(config.widths))
    ops, kernels = rng.integers(2, size=depth), 3 + 2 * rng.integers(2, size=depth)
    return Candidate("random", depth, width, tuple(map(int, ops)), tuple(map(int, kernels)), epochs)


def relative_improvement(found: float, random: list[float]) -> float:
    """RI = 100 · (Acc_found − mean Acc_random) / mean Acc_random (§4.1); a search that works has RI > 0."""
    mean = float(np.mean(random))
    return 100 * (found - mean) / mean
