"""The MLP head: a committee of small perceptrons on the principal components of the embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import HeadError
from .base import CompositionRegressor, to_unit
from .context import Places
from .inner import inner_splits
from .preprocess import principal_components, rotate

if TYPE_CHECKING:
    from .network import Layers, Loss


class MLPRegressor(CompositionRegressor):
    """A committee of small perceptrons: Linear, LayerNorm, SiLU, dropout per hidden layer, trained with AdamW.

    The embeddings are standardised and rotated to their leading principal components. Proportions are learnt by the
    Kullback-Leibler divergence through a softmax; cells per spot by the squared error on log1p, standardised per type,
    plus a Pearson term, after the loss of Sun, Zhu and Qiu (2025, arXiv 2507.07013).

    One ensemble is trained per inner split, on the rows outside its held-out groups. All stop at the epoch where the
    mean loss on the held-out groups is least, and the predictions of all members are averaged (a cross-validation
    committee, Krogh and Vedelsby 1995). Beside one ensemble trained on all rows for as many epochs, this has the same
    correlation with the labels and a smaller error on unseen sections.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    hidden
        Widths of the hidden layers.
    n_components
        Principal components kept.
    members
        Perceptrons per inner split, trained at once; they differ in initial weights, batches and dropout.
    dropout, learning_rate, weight_decay, batch_size
        Of the optimisation. The weight decay is AdamW's and spares biases and LayerNorm; batches are larger where an
        epoch would have more than 50.
    max_epochs, patience
        Training ends at `max_epochs`, or after `patience` epochs without a lower held-out loss.
    epochs
        A fixed number of epochs: one ensemble is trained on all rows, without inner splits.
    pearson
        Weight of the Pearson term (cells per spot only).
    rings_um, smooth_um
        What the head sees around a tile; see `CompositionRegressor`.
    seed
        Of initial weights, batches and dropout.

    Attributes
    ----------
    n_epochs_ : int
    inner_loss_ : float64 array, (n_epochs_tried,), mean loss on held-out groups after each epoch, with inner splits
    mean_, scale_ : float32 arrays, (n_folds, n_features)
    components_ : float32 array, (n_folds, n_features, n_components): each fold's own projection
    target_ : float64 array, (3, n_present_types): mean, standard deviation and largest value of log1p labels;
        predictions of cells per spot do not exceed the largest label seen
    weight_i_, bias_i_, gain_i_, shift_i_ : float32 arrays, one row per member, fold after fold
    """

    _fitted_numbers = ("n_epochs_",)

    def __init__(
        self,
        unit: str = "proportion",
        hidden: tuple[int, ...] = (128,),
        n_components: int = 128,
        members: int = 5,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.3,
        batch_size: int = 64,
        max_epochs: int = 60,
        patience: int = 10,
        epochs: int | None = None,
        pearson: float = 2.0,
        rings_um: tuple[float, ...] = (),
        smooth_um: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.unit = unit
        self.hidden = hidden
        self.n_components = n_components
        self.members = members
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.epochs = epochs
        self.pearson = pearson
        self.rings_um = rings_um
        self.smooth_um = smooth_um
        self.seed = seed

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, places: Places | None
    ) -> None:
        from .network import one_thread

        self._check_parameters()
        T = self._set_target(Y)
        everything = np.arange(len(X))
        splits = inner_splits(len(X), groups) if self.epochs is None else [(everything, everything[:0])]
        # Each fold's own projection: in one fitted on all rows, the leading axes tell groups apart, and a fold
        # trained on some of the groups would carry its random initial weights along those axes to every new slide.
        bases = [principal_components(X[rows], weight[rows], self.n_components) for rows, _ in splits]
        rank = max(basis[2].shape[1] for basis in bases)
        self.mean_, self.scale_ = (np.stack([basis[i] for basis in bases]) for i in (0, 1))
        self.components_ = np.stack([np.pad(axes, ((0, 0), (0, rank - axes.shape[1]))) for _, _, axes in bases])
        runs = [
            self._train(self._project(X[rows], fold), T[rows], weight[rows], fold)
            for fold, (rows, _) in enumerate(splits)
        ]
        with one_thread():
            if self.epochs is None:
                held_out = [
                    (self._project(X[rows], fold), T[rows], weight[rows]) for fold, (_, rows) in enumerate(splits)
                ]
                layers = self._stop_early(runs, held_out)
            else:
                self.n_epochs_ = self.epochs
                layers = _stacked([*itertools.islice(runs[0], self.epochs)][-1:])
        for name, array in layers.items():
            setattr(self, name, array)

    def _stop_early(
        self, runs: list[Iterator[Layers]], held_out: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Train all folds in step; return the parameters of the epoch with the least held-out loss over all folds."""
        import torch

        from .network import averaged

        unseen = [[torch.from_numpy(array.astype(np.float32)) for array in arrays] for arrays in held_out]
        sizes = [len(arrays[0]) for arrays in held_out]
        loss, proportion = self._loss(), self.unit == "proportion"
        curve: list[float] = []
        best: dict[str, np.ndarray] = {}
        self.n_epochs_ = 0
        while len(curve) < self.max_epochs and len(curve) - self.n_epochs_ <= self.patience:
            live = [next(run) for run in runs]
            losses = [
                float(loss(averaged(layers, z, proportion), t, w))
                for layers, (z, t, w) in zip(live, unseen, strict=True)
            ]
            curve.append(float(np.average(losses, weights=sizes)))
            if not best or curve[-1] < min(curve[:-1]):
                best, self.n_epochs_ = _stacked(live), len(curve)
        self.inner_loss_ = np.array(curve)
        return best

    def _train(self, Z: np.ndarray, T: np.ndarray, weight: np.ndarray, fold: int) -> Iterator[Layers]:
        from .network import Recipe, epochs

        recipe = Recipe(
            members=self.members,
            hidden=tuple(self.hidden),
            dropout=self.dropout,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )
        seed = int(np.random.SeedSequence([self.seed, fold]).generate_state(1)[0])
        return epochs(recipe, Z, T, weight, self._loss(), seed)

    def _loss(self) -> Loss:
        from .network import abundance_loss, kl_loss

        return kl_loss if self.unit == "proportion" else abundance_loss(self.pearson)

    def _set_target(self, Y: np.ndarray) -> np.ndarray:
        """Remember the scale of the labels and return what the network learns, float32."""
        log = np.log1p(Y)
        spread = log.std(axis=0)
        self.target_ = np.stack([log.mean(axis=0), np.where(spread > 0, spread, 1.0), log.max(axis=0)])
        return (Y if self.unit == "proportion" else (log - self.target_[0]) / self.target_[1]).astype(np.float32)

    def _project(self, X: np.ndarray, fold: int) -> np.ndarray:
        return rotate(X, self.mean_[fold], self.scale_[fold], self.components_[fold])

    def _predict(self, X: np.ndarray, places: Places | None) -> np.ndarray:
        import torch

        from .network import averaged

        layers = {name: torch.from_numpy(getattr(self, name)) for name in layer_axes(len(self.hidden))}
        projected = torch.from_numpy(np.stack([self._project(X, fold) for fold in range(len(self.mean_))]))
        members = len(layers["weight_0_"]) // len(projected)
        proportion = self.unit == "proportion"
        output = averaged(layers, projected.repeat_interleave(members, dim=0), proportion).double().numpy()
        if proportion:
            return to_unit(np.exp(output), self.unit)
        mean, spread, largest = self.target_
        return np.expm1(np.clip(output * spread + mean, 0.0, largest))

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {
            "mean_": ("folds", "features"),
            "scale_": ("folds", "features"),
            "components_": ("folds", "features", "components"),
            "target_": ("3", "types"),
            **layer_axes(len(self.hidden)),
        }

    def _check_parameters(self) -> None:
        counts = {name: getattr(self, name) for name in ("n_components", "members", "batch_size", "max_epochs")}
        counts |= {"epochs": 1 if self.epochs is None else self.epochs, "patience": self.patience}
        counts |= {f"hidden[{i}]": width for i, width in enumerate(self.hidden)}
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or value < 1:
                raise HeadError(f"{name} must be a whole number of at least 1; it is {value!r}")
        if not 0 <= self.dropout < 1:
            raise HeadError(f"dropout must be at least 0 and below 1; it is {self.dropout!r}")
        for name in ("learning_rate", "weight_decay", "pearson"):
            if not 0 <= getattr(self, name) < np.inf:
                raise HeadError(f"{name} must be a non-negative number; it is {getattr(self, name)!r}")


def layer_axes(n_hidden: int) -> dict[str, tuple[str, ...]]:
    """Names of the arrays of an ensemble with ``n_hidden`` hidden layers, with the names of their axes."""
    widths = ["components", *(f"hidden {i}" for i in range(n_hidden)), "types"]
    axes: dict[str, tuple[str, ...]] = {}
    for i in range(n_hidden + 1):
        axes[f"weight_{i}_"] = ("members", widths[i], widths[i + 1])
        axes[f"bias_{i}_"] = ("members", widths[i + 1])
        if i < n_hidden:
            axes[f"gain_{i}_"] = axes[f"shift_{i}_"] = ("members", widths[i + 1])
    return axes


def _stacked(parts: list[Layers]) -> dict[str, np.ndarray]:
    """Copy the parameters of several ensembles into one, member after member."""
    return {name: np.concatenate([layers[name].detach().numpy() for layers in parts]) for name in parts[0]}
