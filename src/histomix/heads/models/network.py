"""The torch side of the MLP head: an ensemble of small perceptrons trained at once."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.adamw import adamw

from ...common.threads import given_threads
from ...errors import HeadError

#: Batches of an epoch at most. Beyond, they grow up to `MAX_BATCH` rows; then an epoch is a random part of the rows,
#: drawn anew each time, so that it stays a unit of early stopping.
MAX_BATCHES = 50
MAX_BATCH = 160
#: Cells of a spot and precision of the Dirichlet-multinomial.
_CELLS, _PRECISION = 20.0, 20.0
#: (outputs, targets, row weights), each (members, rows, types) or (members, rows) -> loss of each member.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Layers = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How the ensemble is built and optimised; the fields are those of `MLPRegressor`.

    Without ``norm``, hidden layers have no LayerNorm and initial weights are He's.
    """

    members: int
    hidden: tuple[int, ...]
    dropout: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    norm: bool = True


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Give torch one thread inside the block.

    The ensemble's operations are too small to share out: a second thread gains nothing on an idle machine and on a busy
    one costs up to fifty times the time. The numbers do not depend on the caller's thread count either.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


#: Rows from which the splits are trained side by side.
_PARALLEL_ROWS = 4000


@contextlib.contextmanager
def in_step(n_runs: int, n_rows: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A ``map`` over runs that are trained in step: side by side where there are rows enough, else one by one.

    Threads of the pool start with torch's own number of threads each: what they run asks for `one_thread`.
    """
    # Not torch's own number, which is 1 inside of a fit that is kept to one thread.
    workers = min(n_runs, given_threads()) if n_rows >= _PARALLEL_ROWS else 1
    with ThreadPoolExecutor(workers) as pool:
        yield pool.map


def new_layers(recipe: Recipe, n_in: int, n_out: int, rng: torch.Generator, mask: Tensor | None = None) -> Layers:
    """Draw the parameters of every member, uniform in +-1/sqrt(fan in) as torch's own Linear.

    Without LayerNorm, weights of hidden layers are larger by sqrt(6), so that deep signals keep their size (He et al.
    2015). With a mask, ``(members, n_in)`` of zeros and ones, a member has weights for the inputs that it sees alone.
    """
    widths = [n_in, *recipe.hidden, n_out]
    layers: Layers = {}
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        bound = 1 / math.sqrt(before)
        wide = bound if recipe.norm or i == len(recipe.hidden) else bound * math.sqrt(6)
        layers[f"weight_{i}_"] = torch.empty(recipe.members, before, after).uniform_(-wide, wide, generator=rng)
        layers[f"bias_{i}_"] = torch.empty(recipe.members, after).uniform_(-bound, bound, generator=rng)
        if recipe.norm and i < len(recipe.hidden):
            layers[f"gain_{i}_"] = torch.ones(recipe.members, after)
            layers[f"shift_{i}_"] = torch.zeros(recipe.members, after)
    if mask is not None:
        layers["weight_0_"] *= (mask * (n_in / mask.sum(dim=1, keepdim=True)).sqrt())[:, :, None]
    return layers


def forward(layers: Layers, x: Tensor, dropout: float = 0.0, rng: torch.Generator | None = None) -> Tensor:
    """Outputs (members, rows, types) of every member; ``x`` is (rows, components) or (members, rows, components).

    Each hidden layer is Linear, LayerNorm where it has a gain, SiLU, and dropout when a generator is given.
    """
    members = layers["weight_0_"].shape[0]
    h = x if x.ndim == 3 else x.expand(members, *x.shape)
    i = 0
    while f"weight_{i + 1}_" in layers:
        h = torch.baddbmm(layers[f"bias_{i}_"][:, None], h, layers[f"weight_{i}_"])
        if f"gain_{i}_" in layers:
            h = functional.layer_norm(h, h.shape[-1:]) * layers[f"gain_{i}_"][:, None] + layers[f"shift_{i}_"][:, None]
        h = functional.silu(h)
        if rng is not None and dropout:
            h = h * _kept(h.shape, dropout, rng)
        i += 1
    return torch.baddbmm(layers[f"bias_{i}_"][:, None], h, layers[f"weight_{i}_"])


def _kept(shape: torch.Size, dropout: float, rng: torch.Generator) -> Tensor:
    """Draw the factors of dropout: 0 with probability ``dropout`` (to 1/256), else the inverse of what is kept.

    One 64-bit draw serves eight factors: torch's own Bernoulli draws took a fifth of the training.
    """
    cut = min(round(dropout * 256), 255)
    draws = torch.empty(-(-shape.numel() // 8), dtype=torch.int64).random_(-(2**63), None, generator=rng)
    bytes_ = draws.view(torch.uint8)[: shape.numel()].view(shape)
    return (bytes_ >= cut).float().mul_(256 / (256 - cut))


def epochs(
    recipe: Recipe,
    X: np.ndarray,
    Y: np.ndarray,
    weight: np.ndarray,
    loss: Loss,
    seed: int,
    mask: np.ndarray | None = None,
) -> Iterator[Layers]:
    """Train without end, yielding the live parameters after each epoch; the caller decides when to stop.

    With a mask, ``(members, n_inputs)`` of zeros and ones, each member sees its part of the inputs.

    Every random draw comes from a generator of its own: the same seed gives the same numbers, and
    torch's global state is neither read nor changed.

    Raises
    ------
    HeadError
        The loss is not finite any more.
    """
    rng = torch.Generator().manual_seed(seed)
    x, y, w = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in (X, Y, weight))
    seen = None if mask is None or mask.all() else torch.from_numpy(mask.astype(np.float32))
    layers = new_layers(recipe, x.shape[1], y.shape[1], rng, seen)
    for parameter in layers.values():
        parameter.requires_grad_()
    decayed = [p for name, p in layers.items() if name.startswith("weight")]
    rest = [p for name, p in layers.items() if not name.startswith("weight")]
    optimisers = [_AdamW(decayed, recipe.learning_rate, recipe.weight_decay), _AdamW(rest, recipe.learning_rate, 0.0)]
    # Equal batches: a last batch of a few rows would be noise to the Pearson term.
    parts = n_batches(len(x), recipe.batch_size)
    n_rows = min(len(x), parts * MAX_BATCH)
    while True:
        order = torch.rand(recipe.members, len(x), generator=rng).argsort(dim=1)  # each member has its own order
        for rows in order[:, :n_rows].tensor_split(parts, dim=1):
            live = layers if seen is None else {**layers, "weight_0_": layers["weight_0_"] * seen[:, :, None]}
            value = loss(forward(live, x[rows], recipe.dropout, rng), y[rows], w[rows]).sum()
            if not torch.isfinite(value):
                raise HeadError(
                    "the training loss of the MLP is not finite",
                    hint="Lower learning_rate, or look for extreme values in the features and labels",
                )
            value.backward()
            for optimiser in optimisers:
                optimiser.step()
        yield layers


class _AdamW:
    """The fused steps of `torch.optim.AdamW`, without loading torch's compiler as that does (1.4 s and 150 MiB)."""

    def __init__(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> None:
        self.parameters, self.learning_rate, self.weight_decay = parameters, learning_rate, weight_decay
        self._means, self._squares = ([torch.zeros_like(one) for one in parameters] for _ in range(2))
        self._steps = [torch.tensor(0.0) for _ in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients, and forget these."""
        gradients = [one.grad for one in self.parameters if one.grad is not None]
        adamw(
            self.parameters,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        for one in self.parameters:
            one.grad = None


def n_batches(n_rows: int, batch_size: int) -> int:
    """Batches of an epoch."""
    return min(max(1, round(n_rows / batch_size)), MAX_BATCHES)


def kl_loss(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Weighted mean Kullback-Leibler divergence of softmax(z) from the proportions y, less y's own entropy."""
    return (-(y * functional.log_softmax(z, dim=-1)).sum(-1) * w).mean(-1)


def dirichlet_loss(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Weighted mean Dirichlet-multinomial negative log-likelihood of the proportions y, of `_CELLS` cells a spot.

    The mean is softmax(z); the precision is fixed, so the spread of spots about it is that of `_PRECISION` cells.
    """
    counts, alpha = _CELLS * y, _PRECISION * z.softmax(dim=-1) + 1e-4
    likelihood = (torch.lgamma(counts + alpha) - torch.lgamma(alpha)).sum(-1)
    return (-likelihood * w).mean(-1) / _CELLS


def abundance_loss(pearson: float, huber: float = math.inf) -> Loss:
    """Make the weighted squared error plus ``pearson * (1 - r)``, r the mean over types of the batch's Pearson.

    Errors beyond ``huber`` count linearly.
    """

    def loss(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        share, error = _shares(w), (z - y).abs()
        near = error.clamp_max(huber)
        return (share * near * (2 * error - near)).sum(-2).mean(-1) + pearson * (1 - _pearson(z, y, share))

    return loss


def poisson_loss(pearson: float, mean: np.ndarray, spread: np.ndarray) -> Loss:
    """Make the weighted Poisson deviance of cells, mean over types in units of their mean, plus the Pearson term.

    Outputs and targets are standardised log1p cells, with this mean and spread.
    """
    m, s = (torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in (mean, spread))

    def loss(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        share = _shares(w)
        rate = torch.expm1((z * s + m).clamp(1e-3, 12.0))
        cells = torch.expm1(y * s + m).clamp_min(0.0)
        deviance = 2 * (torch.xlogy(cells, cells) - cells * rate.log() - cells + rate)
        size = torch.expm1(m).clamp_min(1e-2)
        return (share * deviance / size).sum(-2).mean(-1) + pearson * (1 - _pearson(z, y, share))

    return loss


def sun2025_loss(l1: float, l2: float) -> Loss:
    """Make ``MSE + l1 * MAE + l2 * (1 - r)``, r the mean over types of the batch's Pearson (Sun et al. 2025)."""

    def loss(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        share = _shares(w)
        error = (share * ((z - y).square() + l1 * (z - y).abs())).sum(-2).mean(-1)
        return error + l2 * (1 - _pearson(z, y, share))

    return loss


def _shares(w: Tensor) -> Tensor:
    """Weights of the rows that sum to 1, with an axis for the types."""
    return (w / w.sum(-1, keepdim=True).clamp_min(1e-12))[..., None]


def _pearson(z: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """Weighted Pearson correlation over the rows, mean over types."""
    a, b = z - (share * z).sum(-2, keepdim=True), y - (share * y).sum(-2, keepdim=True)
    # The floor makes r of a type that is constant in this batch 0, with a finite gradient.
    norm = ((share * a.square()).sum(-2) * (share * b.square()).sum(-2)).clamp_min(1e-8).sqrt()
    return ((share * a * b).sum(-2) / norm).mean(-1)


def averaged(layers: Layers, x: Tensor, proportion: bool) -> Tensor:
    """Average the members: the log of the mean softmax for proportions, else the mean output; (rows, types)."""
    with torch.no_grad():
        z = forward(layers, x)
        return functional.log_softmax(z, dim=-1).logsumexp(0) - math.log(len(z)) if proportion else z.mean(0)
