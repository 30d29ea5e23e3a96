"""The head of Sun, Zhu and Qiu (2025, arXiv 2507.07013), as far as it is published."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...errors import HeadError
from ..base import CompositionRegressor, to_unit
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from .mlp import layer_axes
from .preprocess import standardise

if TYPE_CHECKING:
    from .network import Layers, Loss


class Sun2025Regressor(CompositionRegressor):
    """Seven fully connected layers with SiLU and a linear output on z-scored embeddings.

    Published: the seven layers, SiLU, the linear output, embeddings z-scored with training statistics (of several
    encoders side by side, where there are several), and the loss ``MSE + l1 * MAE + l2 * (1 - Pearson)``. Widths,
    ``l1``, ``l2``, initial weights, optimiser and number of epochs are not: those here are this library's, and
    `own_choices` lists them. They are those of a fair baseline: labels standardised per type, dropout, a weight decay
    and a learning rate that suit the depth, and as many epochs as held-out groups ask for. Predictions are put back on
    the scale of the labels, clipped at 0 and, for proportions, divided by their sum.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    hidden
        Widths of the hidden layers; six, for seven layers with the output.
    l1, l2
        Weights of the mean absolute error and of one minus the mean Pearson correlation over types, in a batch.
    members
        Networks that differ in initial weights, batches and dropout, and are averaged; the paper has one.
    dropout, learning_rate, weight_decay, batch_size
        Of AdamW; dropout follows every hidden layer.
    max_epochs, patience
        Training on inner splits ends at `max_epochs`, or after `patience` epochs without a lower held-out loss.
    epochs
        A fixed number of epochs, without inner splits; None to take the number with the least mean loss on held-out
        groups.
    seed
        Of initial weights, batches and dropout.

    Attributes
    ----------
    n_epochs_ : int
    inner_loss_ : float64 array, (n_epochs_tried,), mean loss on held-out groups after each epoch, with inner splits
    mean_, scale_ : float32 arrays, (n_features,)
    target_ : float64 array, (2, n_present_types): mean and standard deviation of the labels
    weight_i_, bias_i_ : float32 arrays, with an axis of members before the layer's own
    """

    _fitted_numbers = ("n_epochs_",)
    #: What the paper does not give, and was chosen here; a head's card carries it.
    own_choices: ClassVar[dict[str, str]] = {
        "hidden": "widths of the six hidden layers",
        "l1": "weight of the mean absolute error",
        "l2": "weight of the Pearson term",
        "initial weights": "uniform after He et al. (2015)",
        "labels": "standardised per cell type",
        "optimiser": "AdamW; learning_rate, weight_decay, dropout and batch_size",
        "epochs": "as many as had the least loss on inner held-out groups",
    }

    def __init__(
        self,
        unit: str = "proportion",
        hidden: tuple[int, ...] = (512, 256, 256, 128, 128, 64),
        l1: float = 0.5,
        l2: float = 0.5,
        members: int = 1,
        dropout: float = 0.3,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        batch_size: int = 128,
        max_epochs: int = 60,
        patience: int = 10,
        epochs: int | None = None,
        rings_um: tuple[float, ...] | str = (),
        smooth_um: float | str = 0.0,
        seed: int = 0,
    ) -> None:
        self.unit = unit
        self.hidden = hidden
        self.l1 = l1
        self.l2 = l2
        self.members = members
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.epochs = epochs
        self.rings_um = rings_um
        self.smooth_um = smooth_um
        self.seed = seed

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        from .network import one_thread

        self._check_parameters()
        if (X[0] == X).all():
            raise HeadError("the features are the same in every training spot", hint="Check the tiles and the encoder")
        if self.epochs is None:
            self._choose_epochs(X, Y, groups, weight)
        else:
            self.n_epochs_ = int(self.epochs)
        self.mean_, self.scale_ = basis = _scale(X, weight)
        self.target_ = np.stack(standardise(Y, weight))
        with one_thread():
            run = self._train(_inputs(X, basis), self._scaled(Y, self.target_), weight, fold=0)
            layers = next(itertools.islice(run, self.n_epochs_ - 1, None))
        for name in layer_axes(len(self.hidden), norm=False):
            setattr(self, name, layers[name].detach().numpy().copy())

    def _choose_epochs(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray) -> None:
        """Train on every inner split in step; keep the held-out predictions of the best epoch."""
        import torch

        from .network import forward, in_step, one_thread

        splits, runs, unseen = inner_splits(len(X), groups), [], []
        targets = []
        for fold, (train, test) in enumerate(splits):
            basis = _scale(X[train], weight[train])
            target = np.stack(standardise(Y[train], weight[train]))
            targets.append(target)
            labels = self._scaled(Y[train], target)
            runs.append(self._train(_inputs(X[train], basis), labels, weight[train], fold + 1))
            arrays = (_inputs(X[test], basis), self._scaled(Y[test], target), weight[test])
            unseen.append([torch.from_numpy(array.astype(np.float32)) for array in arrays])
        loss, sizes = self._loss(), [len(test) for _, test in splits]
        curve: list[float] = []
        self.n_epochs_ = 0

        def step(fold: int) -> tuple[torch.Tensor, float]:
            with one_thread(), torch.no_grad():
                x, y, w = unseen[fold]
                with torch.enable_grad():
                    layers = next(runs[fold])
                z = forward(layers, x).mean(0)
                return z, float(loss(z[None], y[None], w[None]))

        with in_step(len(runs), sum(sizes)) as each:
            while len(curve) < self.max_epochs and len(curve) - self.n_epochs_ <= self.patience:
                outputs, losses = zip(*each(step, range(len(runs))), strict=True)
                curve.append(float(np.average(losses, weights=sizes)))
                if curve[-1] == min(curve):
                    self.n_epochs_ = len(curve)
                    held_out = np.full(Y.shape, np.nan)
                    for (_, test), z, target in zip(splits, outputs, targets, strict=True):
                        held_out[test] = to_unit(z.double().numpy() * target[1] + target[0], self.unit)
        self.held_out_, self.inner_loss_ = held_out, np.array(curve)

    def _train(self, Z: np.ndarray, Y: np.ndarray, weight: np.ndarray, fold: int) -> Iterator[Layers]:
        from .network import Recipe, epochs

        optimisation = (self.dropout, self.learning_rate, self.weight_decay, self.batch_size)
        recipe = Recipe(self.members, tuple(self.hidden), *optimisation, norm=False)
        seed = int(np.random.SeedSequence([self.seed, fold]).generate_state(1)[0])
        return epochs(recipe, Z, Y, weight, self._loss(), seed)

    @staticmethod
    def _scaled(Y: np.ndarray, target: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (Y - target[0]) / target[1]
        return scaled

    def _loss(self) -> Loss:
        from .network import sun2025_loss

        return sun2025_loss(self.l1, self.l2)

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        import torch

        from .network import forward

        layers = {name: torch.from_numpy(getattr(self, name)) for name in layer_axes(len(self.hidden), norm=False)}
        with torch.no_grad():
            output = forward(layers, torch.from_numpy(_inputs(X, (self.mean_, self.scale_))))
        return to_unit(output.mean(0).double().numpy() * self.target_[1] + self.target_[0], self.unit)

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        axes = layer_axes(len(self.hidden), norm=False, first="features")
        return {"mean_": ("features",), "scale_": ("features",), "target_": ("2", "types"), **axes}

    def _check_parameters(self) -> None:
        counts = {name: getattr(self, name) for name in ("members", "batch_size", "max_epochs", "patience")}
        counts |= {"epochs": 1 if self.epochs is None else self.epochs}
        counts |= {f"hidden[{i}]": width for i, width in enumerate(self.hidden)}
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or value < 1:
                raise HeadError(f"{name} must be a whole number of at least 1; it is {value!r}")
        if not 0 <= self.dropout < 1:
            raise HeadError(f"dropout must be at least 0 and below 1; it is {self.dropout!r}")
        for name in ("learning_rate", "weight_decay", "l1", "l2"):
            if not 0 <= getattr(self, name) < np.inf:
                raise HeadError(f"{name} must be a non-negative number; it is {getattr(self, name)!r}")


def _scale(X: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = standardise(X, weight)
    return mean.astype(np.float32), scale.astype(np.float32)


def _inputs(X: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Standardised embeddings, float32."""
    return np.asarray((X - scale[0]) / scale[1], dtype=np.float32)
