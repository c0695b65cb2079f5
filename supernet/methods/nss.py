"""NSS: Network Space Search (Hong et al. 2022). Searches not a network but a space of good ones for a cost.

A network space is a range of depths and a range of widths for each stage. min_Θ E_{A~P_Θ} E_{α~U(A)} L(α) (eq. S1): a
space is drawn by Gumbel-softmax, in each range an architecture uniformly. Weights are shared by channel masks and by
the depth mixture; the most probable space is the elite one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import files
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.families import layout, residual
from supernet.model import Supernet
from supernet.progress import Progress, silent
from supernet.space import Space
from supernet.spec import Price
from supernet.training import checkpoint, distributed
from supernet.training.loop import FitConfig, learning_rate, require_finite, sgd

SCHEMA = 1
WEIGHTS, THETA = range(2)  # what a step's random stream is for
MAX_SPACES = 2**24


@dataclass(frozen=True)
class Config:
    """The paper takes 50 epochs, batch 64 and DARTS's settings: SGD .025 → .001 (cosine), decay 3e-4, clip 5."""

    fit: FitConfig  # of the weights, on one half of the training images; Θ learns on the other
    targets: tuple[float, ...]  # costs that an elite space shall have on average
    ranges: tuple[int, int] = (4, 32)  # depths and widths in one range
    warmup: float = 0.3  # share of the epochs that train weights only, all channels and blocks enabled at random
    temperature: tuple[float, float] = (5.0, 0.001)  # of Gumbel-softmax, from the first to the last step, linear
    cost_weight: float = 1.0  # λ; doubled after each epoch whose most probable space is off by more than
    tolerance: float = 0.1  # of the target
    lr_min: float = 0.001
    theta_lr: float | None = None  # Adam; None: DARTS's 3e-4, more in short runs
    theta_betas: tuple[float, float] = (0.5, 0.999)
    theta_decay: float = 1e-3
    kernels: Literal["fused", "eager"] = "fused"  # of the stem; masks and mixtures always run our operators


# How far Adam can carry a logit in a whole search, and with it its rate in short ones. With the cost term alone on
# residual-small and 253 steps, 4 (DARTS's rate over the paper's steps) left the most probable space up to 57 % off.
TRAVEL = 16.0

Batch = tuple[Tensor, Tensor]
# Per gene the choices in each range: ranges[gene][b] holds indices of choices, ascending.
Ranges = list[list[tuple[int, ...]]]


def split(space: Space, sizes: tuple[int, int]) -> Ranges:
    """The open choices of every gene in ranges of ``sizes`` depths or widths; the last one may be shorter."""
    residual.require(space)
    if min(sizes) < 1:
        raise UserError(f"ranges of {sizes[0]} depths and {sizes[1]} widths: expected at least 1 of each")
    ranges = [
        [open_[i : i + sizes[gene % 2]] for i in range(0, len(open_), sizes[gene % 2])]
        for gene, open_ in enumerate(space.allowed)
    ]
    if np.prod([float(len(r)) for r in ranges]) > MAX_SPACES:
        raise UserError(
            f"ranges of {sizes[0]} depths and {sizes[1]} widths make over {MAX_SPACES:,} network spaces of "
            f"{space.name}: make them larger"
        )
    return ranges


@dataclass(frozen=True)
class SpaceCost:
    """What the architectures of a network space cost on average: base + Σ over tables of the genes' ranges."""

    base: float
    tables: tuple[np.ndarray, ...]  # an axis over ranges for each of the genes
    genes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, space: Space, ranges: Ranges, price: Price) -> SpaceCost:
        """Average every layer's ``price`` over the choices in each range; genes are drawn independently."""
        tables, base, genes = layout(space).priced(price)
        averaged = []
        for table, own in zip(tables, genes, strict=True):
            for axis, gene in enumerate(own):
                means = [table.take(range_, axis).mean(axis) for range_ in ranges[gene]]
                table = np.stack(means, axis)
            averaged.append(table)
        return cls(base, tuple(averaged), tuple(genes))

    def expected(self, weights: Sequence[Tensor]) -> Tensor:
        """E[cost] where gene i takes range b with probability ``weights[i][b]``: a scalar, float64."""
        total = torch.tensor(self.base, dtype=torch.double, device=weights[0].device)
        for table, genes in zip(self.tables, self.genes, strict=True):
            value = torch.from_numpy(table).to(total)
            for gene in reversed(genes):
                value = value @ weights[gene].double()
            total = total + value
        return total

    def deviation(self, weights: Sequence[Tensor], target: float) -> Tensor:
        """|E[cost] / T − 1|, what the cost term weighs by λ."""
        return (self.expected(weights) / target - 1).abs()

    def all(self) -> np.ndarray:
        """The cost of every network space: an axis per gene."""
        n = 1 + max(gene for genes in self.genes for gene in genes)
        total = np.full((1,) * n, float(self.base))
        for table, genes in zip(self.tables, self.genes, strict=True):
            shape = [1] * n
            for gene, size in zip(genes, table.shape, strict=True):
                shape[gene] = size
            total = total + table.reshape(shape)
        return total


def require_attainable(cost: SpaceCost, targets: Sequence[float], tolerance: float, space: Space) -> None:
    """Refuse targets that no network space meets, naming what there is."""
    if not targets or min(targets) <= 0:
        raise UserError(f"targets {list(targets)}: expected one or more costs above 0")
    costs = cost.all()
    for target in targets:
        nearest = float(costs.flat[np.abs(costs - target).argmin()])
        if abs(nearest / target - 1) > tolerance:
            raise UserError(
                f"no network space of {space.name} costs {target:.4g} ± {tolerance:.0%} on average: they cost "
                f"{costs.min():.4g} to {costs.max():.4g}, the nearest {nearest:.4g}; set another target"
            )


@dataclass(frozen=True)
class Sample:
    """A soft network space, and one architecture in each of its ranges.

    ``weights[gene]`` ``[ranges]`` are Gumbel-softmax weights g_b, ``sizes[gene][b]`` the depth or width d_b, w_b.
    """

    weights: tuple[Tensor, ...]
    sizes: tuple[tuple[int, ...], ...]


def draw(space: Space, ranges: Ranges, theta: Sequence[Tensor], temperature: float, key: Sequence[int]) -> Sample:
    """A ~ P_Θ by Gumbel-softmax, α ~ U(A); a function of ``key``."""
    rng = np.random.default_rng(key)
    weights, sizes = [], []
    for gene, options, logits in zip(space.genes, ranges, theta, strict=True):
        gumbel = torch.from_numpy(rng.gumbel(size=len(options))).to(logits)
        weights.append(F.softmax((logits + gumbel) / temperature, 0))
        sizes.append(tuple(gene.choices[int(rng.choice(range_))].count for range_ in options))
    return Sample(tuple(weights), tuple(sizes))


def enable(sample: Sample, space: Space, probability: float, key: Sequence[int]) -> Sample:
    """Filter and block warm-up (supplementary C): with ``probability`` all channels, or all blocks, of a stage."""
    full = np.random.default_rng(key).random(len(sample.sizes)) < probability
    weights, sizes = list(sample.weights), list(sample.sizes)
    for gene in np.flatnonzero(full):
        largest = space.genes[gene].choices[space.allowed[gene][-1]].count
        weights[gene], sizes[gene] = torch.ones_like(weights[gene][:1]), (largest,)
    return Sample(tuple(weights), tuple(sizes))


def forward(model: Supernet, x: Tensor, sample: Sample) -> Tensor:
    """Logits of the soft network: channel masks Σ_b g_b·m_{w_b} after BN and ReLU, stage outputs Σ_b g_b·out_{d_b}.

    What has weight 0 does not run: near the temperature's end that is all but one architecture.

    Args:
        x: ``[B, C, H, W]``.
    """
    from supernet import ops  # of the methods only this one needs the extension

    x = model.stem(x.contiguous(memory_format=torch.channels_last))
    for stage, blocks in enumerate(model.layers):
        (p, g), (depths, widths) = (pair[2 * stage : 2 * stage + 2] for pair in (sample.weights, sample.sizes))
        depth, width = _largest(depths, p), _largest(widths, g)
        channel = torch.arange(width, device=x.device)
        mask = g @ (channel < torch.tensor(widths, device=x.device)[:, None]).to(g)
        outputs = []
        for d, block in enumerate(blocks[:depth], 1):
            x = block.narrow(x, width, mask)
            if d in depths:
                outputs.append(x)
        x = ops.depth_mix(outputs, p[: len(outputs)])
    return model.head(x)


def _largest(sizes: tuple[int, ...], weights: Tensor) -> int:
    return max(size for size, weight in zip(sizes, weights.tolist(), strict=True) if weight > 0)


def elite(ranges: Ranges, theta: Sequence[Tensor], cost: SpaceCost, target: float, tolerance: float) -> list[int]:
    """The range of each gene in the most probable space whose cost is within ``tolerance`` of the target.

    Where λ did its work that is the argmax of each stage and variable, as in the paper; else what a λ raised without
    end would leave.
    """
    log_p = np.zeros(())
    for logits in theta:
        log_p = np.add.outer(log_p, F.log_softmax(logits.detach(), 0).double().cpu().numpy())
    meets = np.abs(cost.all() / target - 1) <= tolerance
    return [int(i) for i in np.unravel_index(np.where(meets, log_p, -np.inf).argmax(), log_p.shape)]


def halves(train: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """The images of the weights and those of Θ, stratified."""
    second = train.subset(len(train) // 2, seed)
    return train.take(np.flatnonzero(~np.isin(train.index, second.index))), second


def folder_of(folder: Path, target: float) -> Path:
    """Where the elite space for ``target`` goes."""
    return folder / f"elite-{target:.9g}"


def run(
    space: Space,
    data: TrainVal,
    cfg: Config,
    folder: Path,
    device: torch.device,
    progress: Progress = silent,
    price: Price = lambda spec: spec.flops,
) -> list[Space]:
    """Search the elite space for each target in ``folder/elite-TARGET``, or continue there.

    The warm-up does not depend on the target: it runs once, in ``folder``.

    Args:
        price: what one layer costs, in the unit of the targets; multiply-adds, or a latency table's milliseconds.

    Raises:
        UserError: a space without stages, a target out of reach.
    """
    ranges = split(space, cfg.ranges)
    cost = SpaceCost.of(space, ranges, price)
    require_attainable(cost, cfg.targets, cfg.tolerance, space)
    warmup = warmup_epochs(cfg)
    if not 0 <= warmup < cfg.fit.epochs:
        raise UserError(f"{warmup} of {cfg.fit.epochs} epochs are warm-up: expected 0 or more, and fewer than all")
    search = Search(space, ranges, cost, cfg, halves(data.train, cfg.fit.seed), device, progress)
    search.train(folder, 0, warmup, None, None)
    spaces = []
    for target in cfg.targets:
        own = folder_of(folder, target)
        theta, weight = search.train(own, warmup, cfg.fit.epochs, target, folder / "checkpoint.pt")
        chosen = elite(ranges, theta, cost, target, cfg.tolerance)
        spaces.append(space.restrict([options[i] for options, i in zip(ranges, chosen, strict=True)]))
        if distributed.rank() == 0:
            write_elite(own, search, spaces[-1], target, theta, chosen, weight)
    return spaces


@dataclass(frozen=True)
class Search:
    """All that the phases of one run have in common."""

    space: Space
    ranges: Ranges
    cost: SpaceCost
    cfg: Config
    halves: tuple[ImageSet, ImageSet]
    device: torch.device
    progress: Progress

    def argmax_cost(self, theta: Sequence[Tensor]) -> float:
        """Average cost of the most probable space."""
        return float(self.cost.all()[tuple(int(logits.argmax()) for logits in theta)])

    def theta_loss(self, model: Supernet, sample: Sample, batch: Batch, target: float, weight: float) -> Tensor:
        """CE + λ·|E[cost] / T − 1| of a drawn space."""
        x, y = (tensor.to(self.device) for tensor in batch)
        return F.cross_entropy(forward(model, x, sample), y) + weight * self.cost.deviation(sample.weights, target)

    @torch.no_grad()
    def sample(self, theta: nn.ParameterList, step: int, warmup: int, tau: float) -> Sample:
        """The space that the weights of this step are trained in."""
        key = (self.cfg.fit.seed, step, WEIGHTS)
        sample = draw(self.space, self.ranges, theta, tau, key)
        return enable(sample, self.space, 1 - step / warmup, (*key, 1)) if step < warmup else sample

    def train(
        self, folder: Path, first: int, last: int, target: float | None, begin: Path | None
    ) -> tuple[nn.ParameterList, float]:
        """Epochs ``first`` to ``last`` in ``folder``: weights alone (``target`` None), or alternating with Θ.

        Every draw is a function of the seed and the step: a killed run ends with the same bits.

        Args:
            begin: the checkpoint whose weights a new search starts from.

        Returns:
            Θ, one vector of logits per gene, and the last λ.
        """
        distributed.wait()  # rank 0 writes what all begin with
        cfg, fit, leader = self.cfg, self.cfg.fit, distributed.rank() == 0
        torch.manual_seed(fit.seed)
        model = Supernet(self.space, affine=True, kernels=cfg.kernels).to(self.device)
        theta = nn.ParameterList(torch.zeros(len(options)) for options in self.ranges).to(self.device)
        per_epoch = min(half.steps(fit.batch_size, drop_last=True, world=distributed.world()) for half in self.halves)
        total, warmup, end = (epochs * per_epoch for epochs in (fit.epochs, warmup_epochs(cfg), last))
        sgd_w = sgd(model, fit)
        adam = theta_adam(theta.parameters(), cfg, total - warmup)
        parts = {"model": model, "optimizer": sgd_w, "theta": theta, "adam": adam}
        path, log = folder / "checkpoint.pt", files.JsonLines(folder / "metrics.jsonl")
        step, sums, weight = first * per_epoch, [0.0, 0], cfg.cost_weight  # sums of loss and hits within the epoch
        if path.exists() or begin is not None:
            new = not path.exists()
            state = checkpoint.load(begin if new else path, "start again with --restart")
            for name in ("model", "optimizer") if new else parts:
                parts[name].load_state_dict(state[name])
            if not new:
                step, sums, weight = state["step"], state["sums"], state["cost_weight"]
        if leader:
            log.keep(lambda line: line["epoch"] * per_epoch <= step)

        def save() -> None:
            if leader:
                state = {name: part.state_dict() for name, part in parts.items()}
                state |= {"step": step, "sums": sums, "cost_weight": weight, "finished": step == end}
                meta = {"kind": "network space search", "space": self.space.to_json(), "config": asdict(cfg)}
                checkpoint.save(path, {**state, "meta": meta})

        save()
        model.train()
        label = "warm-up" if target is None else f"search {target:.4g}"
        with (self.progress if leader else silent)(label, end, done=step, unit="images") as bar:
            while step < end:
                epoch, start = divmod(step, per_epoch)
                saved = time.monotonic()
                loss_sum, hits = torch.tensor(sums[0], dtype=torch.double, device=self.device), sums[1]
                for (x, y), others in zip(*(self.batches(half, epoch, start) for half in self.halves), strict=False):
                    tau = np.interp(step, (0, total - 1), cfg.temperature).item()
                    if target is not None:
                        model.requires_grad_(False)
                        adam.zero_grad()
                        sample = draw(self.space, self.ranges, theta, tau, (fit.seed, step, THETA))
                        self.theta_loss(model, sample, others, target, weight).backward()
                        distributed.average_gradients(theta)
                        adam.step()
                        model.requires_grad_(True)
                    for group in sgd_w.param_groups:
                        group["lr"] = cfg.lr_min + (1 - cfg.lr_min / fit.lr) * learning_rate(fit, step, per_epoch)
                    x, y = x.to(self.device), y.to(self.device)
                    sgd_w.zero_grad(set_to_none=True)
                    logits = forward(model, x, self.sample(theta, step, warmup, tau))
                    loss = F.cross_entropy(logits, y, label_smoothing=fit.label_smoothing)
                    loss.backward()
                    distributed.average_gradients(model)
                    if fit.clip:
                        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], fit.clip)
                    sgd_w.step()
                    step += 1
                    loss_sum += loss.detach()
                    hits += (logits.detach().argmax(1) == y).sum()
                    seen = step - epoch * per_epoch
                    if step % 20 == 0 or seen == per_epoch:
                        require_finite(loss_sum, step, fit)
                        text = f"epoch {epoch + 1}/{fit.epochs} loss {loss_sum.item() / seen:.3f}"
                        bar.advance(step - bar.count, work=(step - bar.count) * len(x) * distributed.world(), text=text)
                    if time.monotonic() - saved > 60 * fit.checkpoint_minutes and seen < per_epoch:
                        require_finite(loss_sum, step, fit)
                        sums, saved = [loss_sum.item(), int(hits)], time.monotonic()
                        save()
                line = {"epoch": epoch + 1, "loss": loss_sum.item() / per_epoch}
                line |= {"accuracy": int(hits) / (per_epoch * fit.batch_size), "temperature": tau}
                if target is not None:
                    line |= {"argmax_cost": self.argmax_cost(theta), "cost_weight": weight}
                    line |= {"probabilities": probabilities(theta)}
                    if abs(line["argmax_cost"] / target - 1) > cfg.tolerance:
                        weight *= 2
                sums = [0.0, 0]
                save()
                if leader:
                    log.append(line)
        return theta, weight

    def batches(self, images: ImageSet, epoch: int, start: int) -> Iterator[Batch]:
        """One half's batches of an epoch from its step ``start`` on."""
        fit, rank, world = self.cfg.fit, distributed.rank(), distributed.world()
        options = {"seed": fit.seed, "epoch": epoch, "start": start, "augment": fit.augment}
        return images.batches(fit.batch_size, **options, drop_last=True, rank=rank, world=world)


def theta_adam(theta: Iterable[Tensor], cfg: Config, steps: int) -> torch.optim.Adam:
    """What Θ is updated by in a search of so many steps."""
    lr = cfg.theta_lr if cfg.theta_lr is not None else max(3e-4, TRAVEL / steps)
    return torch.optim.Adam(theta, lr, cfg.theta_betas, weight_decay=cfg.theta_decay)


def warmup_epochs(cfg: Config) -> int:
    """Epochs that train weights only."""
    return round(cfg.warmup * cfg.fit.epochs)


def probabilities(theta: Sequence[Tensor]) -> list[list[float]]:
    """P_Θ of each gene's ranges."""
    return [F.softmax(logits.detach(), 0).tolist() for logits in theta]


def write_elite(
    folder: Path, search: Search, found: Space, target: float, theta: Sequence[Tensor], chosen: list[int], weight: float
) -> None:
    """The elite space as ``space.json``, with the probabilities it was taken from as JSON and as a picture."""
    space, cost = search.space, float(search.cost.all()[tuple(chosen)])
    tables = [
        {
            "gene": gene.name,
            "ranges": [[gene.choices[i].count for i in range_] for range_ in options],
            "probabilities": p,
            "elite": i,
        }
        for gene, options, p, i in zip(space.genes, search.ranges, probabilities(theta), chosen, strict=True)
    ]
    report = {"schema": SCHEMA, "space": {"name": space.name, "fingerprint": space.fingerprint}}
    report |= {"target": target, "cost": cost, "argmax_cost": search.argmax_cost(theta), "cost_weight": weight}
    files.write_json(folder / "space.json", found.to_json())
    files.write_json(folder / "probabilities.json", {**report, "genes": tables})
    plot(folder / "probabilities.png", tables, f"{space.name}: {cost:.4g} on average for a target of {target:.4g}")


def plot(path: Path, tables: Sequence[dict], title: str) -> None:
    """A heat map of the probabilities: a row per stage and variable, a column per range."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(table["ranges"]) for table in tables)
    figure = Figure(figsize=(2 + 0.9 * columns, 1.2 + 0.45 * len(tables)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = np.full((len(tables), columns), np.nan)
    for row, table in enumerate(tables):
        image[row, : len(table["ranges"])] = table["probabilities"]
        for column, (range_, p) in enumerate(zip(table["ranges"], table["probabilities"], strict=True)):
            text = f"{range_[0]}–{range_[-1]}\n{p:.2f}"
            style = {"weight": "bold" if column == table["elite"] else "normal", "color": "w" if p > 0.5 else "k"}
            axes.text(column, row, text, ha="center", va="center", fontsize=7, **style)
    axes.imshow(image, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set(yticks=range(len(tables)), yticklabels=[table["gene"] for table in tables], xticks=[], title=title)
    axes.title.set_fontsize(8)
    figure.savefig(path)
