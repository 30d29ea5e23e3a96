"""The committee of the MLP head: one ensemble per inner split, whose members differ in what they see around a tile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...common.metrics import within_sections
from ...progress import tell
from ..neighbourhood import WORTH
from .network import Layers, Loss, Recipe, averaged, epochs, forward, in_step, one_thread

#: Inputs (n, n_inputs), targets (n, n_types) and weights (n,) of the rows on one side of an inner split.
Side = tuple[np.ndarray, np.ndarray, np.ndarray]
#: Rows from which a committee needs fewer members: the more rows, the less they differ.
_FULL_ENSEMBLE_ROWS = 10_000
#: Held-out rows of a split, at most, that are predicted after every epoch.
_WATCHED = 3000


@dataclass
class Ensemble:
    """Ensembles trained in step, one per inner split.

    A member sees a tile (view 0), or also the first ring about it (view 1), or two (view 2), and so on. Every view
    stops at its own best epoch on the held-out rows.

    Parameters
    ----------
    recipe
        Of the members; its ``members`` are shared out among the views, at least one each, fewer where rows are many.
    loss, proportion
        What is minimised, and whether outputs are logits of proportions.
    n_views, n_components
        Number of views, and of inputs that each of them adds.
    seed
        Of everything drawn.

    Attributes
    ----------
    n_epochs : int array, (n_views,)
    curve : float array, (n_epochs_tried, n_views), mean loss on held-out rows
    held_out, held_out_spread : float arrays, (n_rows, n_types), of the chosen views
    """

    recipe: Recipe
    loss: Loss
    proportion: bool
    n_views: int
    n_components: int
    seed: int
    n_epochs: np.ndarray = field(init=False)
    curve: np.ndarray = field(init=False)
    held_out: np.ndarray | None = field(init=False, default=None)
    held_out_spread: np.ndarray | None = field(init=False, default=None)

    def run(self, parts: Sequence[Sequence[Side]], n_epochs: int) -> None:
        """Train for a fixed number of epochs on the first side of each split."""
        self.n_epochs = np.full(self.n_views, n_epochs)
        with one_thread():
            live = [next(itertools.islice(run, n_epochs - 1, None)) for run in self._start(parts)]
        self._best = [[self._of_view(layers, view) for layers in live] for view in range(self.n_views)]

    def stop_early(self, parts: Sequence[Sequence[Side]], max_epochs: int, patience: int) -> None:
        """Train until no view has had a lower loss on the held-out sides for ``patience`` epochs."""
        runs = self._start(parts)
        self._held_out = [
            [torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in side] for _, side in parts
        ]
        sizes = [len(side[0]) for side in self._held_out]
        watched = [_some(side, self.seed) for side in self._held_out]
        self.n_epochs = np.zeros(self.n_views, int)
        self._best = [[] for _ in range(self.n_views)]
        curve: list[list[float]] = []

        def step(fold: int) -> tuple[Layers, list[float]]:
            with one_thread():
                layers = next(runs[fold])
                z, t, w = watched[fold]
                views = (self._of_view(layers, view) for view in range(self.n_views))
                return layers, [float(self.loss(averaged(view, z, self.proportion), t, w)) for view in views]

        with in_step(len(runs), sum(sizes)) as each:
            while len(curve) < max_epochs and len(curve) - self.n_epochs.max() <= patience:
                results = list(each(step, range(len(runs))))
                tell("epochs", len(curve) + 1, max_epochs)
                curve.append(np.average([losses for _, losses in results], axis=0, weights=sizes).tolist())
                for view in range(self.n_views):
                    if curve[-1][view] == min(row[view] for row in curve) and curve[-1][view] < np.inf:
                        self._best[view] = [_copy(self._of_view(layers, view)) for layers, _ in results]
                        self.n_epochs[view] = len(curve)
        tell("epochs", max_epochs, max_epochs)
        self.curve = np.array(curve)

    def choose_views(
        self,
        rows: Sequence[np.ndarray],
        Y: np.ndarray,
        groups: np.ndarray,
        to_unit: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Choose the views whose average correlates best with held-out labels; all of them if about even.

        Half of the score is the correlation within groups, half that over all rows: places and levels.

        Parameters
        ----------
        rows
            Held-out rows of each split, in the order of `stop_early`.
        Y, groups
            Labels ``(n_rows, n_types)`` and groups ``(n_rows,)`` of all rows.
        to_unit
            From outputs to the unit of the labels.
        """
        means = np.full((self.n_views, *Y.shape), np.nan)
        for fold, test in enumerate(rows):
            for view in range(self.n_views):
                means[view, test] = self._outputs(fold, view).mean(axis=0)
        everything = np.arange(self.n_views)
        together = np.full(len(Y), "all")

        def score_of(views: Sequence[Any] | np.ndarray) -> float:
            values = to_unit(means[list(views)].mean(axis=0))
            return (within_sections(Y, values, groups) + within_sections(Y, values, together)) / 2

        chosen, best = everything, score_of(everything) + WORTH
        for size in range(1, self.n_views):
            for subset in itertools.combinations(everything, size):
                score = score_of(subset)
                if score > best:
                    chosen, best = np.array(subset), score
        self.held_out = to_unit(means[chosen].mean(axis=0))
        self.held_out_spread = np.full(Y.shape, np.nan)
        for fold, test in enumerate(rows):
            members = np.concatenate([self._outputs(fold, view) for view in chosen.tolist()])
            self.held_out_spread[test] = np.std([to_unit(member) for member in members], axis=0)
        return chosen

    def layers(self, views: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters of the members of some views, split after split."""
        parts = [self._best[view][fold] for fold in range(len(self._best[0])) for view in views]
        return {name: np.concatenate([part[name].detach().numpy() for part in parts]) for name in parts[0]}

    def _start(self, parts: Sequence[Sequence[Side]]) -> list[Iterator[Layers]]:
        n_rows = len(parts[0][0][0])
        wanted = self.recipe.members * min(1.0, _FULL_ENSEMBLE_ROWS / n_rows)
        self._per_view = max(1, round(wanted / self.n_views))
        members = self._per_view * self.n_views
        sees = np.arange(self.n_views)[:, None] >= np.arange(self.n_views)
        mask = np.repeat(np.repeat(sees, self._per_view, axis=0), self.n_components, axis=1)
        recipe = Recipe(**{**vars(self.recipe), "members": members})
        seeds = [int(np.random.SeedSequence([self.seed, fold]).generate_state(1)[0]) for fold in range(len(parts))]
        return [epochs(recipe, *train, self.loss, seed, mask) for (train, *_), seed in zip(parts, seeds, strict=True)]

    def _of_view(self, layers: Layers, view: int) -> Layers:
        here = slice(view * self._per_view, (view + 1) * self._per_view)
        return {name: values[here] for name, values in layers.items()}

    def _outputs(self, fold: int, view: int) -> np.ndarray:
        """What each member of a view says of the held-out rows: proportions, or the network's outputs."""
        with one_thread():
            return member_outputs(self._best[view][fold], self._held_out[fold][0], self.proportion)


def member_outputs(layers: Layers, x: torch.Tensor, proportion: bool) -> np.ndarray:
    """Outputs of each member, float64 ``(members, rows, types)``: softmaxed where they are proportions."""
    with torch.no_grad():
        z = forward(layers, x)
        return (z.softmax(dim=-1) if proportion else z).double().numpy()


def _some(side: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Rows enough to tell when to stop: all, or `_WATCHED` drawn at random."""
    if len(side[0]) <= _WATCHED:
        return side
    rows = torch.randperm(len(side[0]), generator=torch.Generator().manual_seed(seed))[:_WATCHED]
    return [values[rows] for values in side]


def _copy(layers: Layers) -> Layers:
    return {name: values.detach().clone() for name, values in layers.items()}
