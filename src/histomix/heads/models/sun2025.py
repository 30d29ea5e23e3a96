"""The head of Sun, Zhu and Qiu (2025, arXiv 2507.07013), as far as it is published."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ...errors import HeadError
from ...progress import tell
from ..base import CompositionRegressor, to_unit
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from ..saved import check_scale
from .mlp import layer_axes
from .preprocess import standardise, standardise_without
from .search import Search, crossed, settings_to_try

if TYPE_CHECKING:
    from .network import Layers, Loss

#: Steps of the optimiser at most: many rows are learnt in fewer epochs.
_MAX_STEPS = 500
#: Settings that are tried where they are not given; the number of epochs is read along each.
_TRIALS = crossed(learning_rate=(1e-3, 3e-4), dropout=(0.3, 0.1))
#: Held-out rows of a split, at most, that are predicted after every epoch.
_WATCHED = 3000


class Sun2025Regressor(CompositionRegressor):
    """Seven fully connected layers with SiLU and a linear output on z-scored embeddings.

    Published: the seven layers, SiLU, the linear output, embeddings z-scored with training statistics (of several
    encoders side by side, where there are several), and the loss ``MSE + l1 * MAE + l2 * (1 - Pearson)``. Widths,
    ``l1``, ``l2``, initial weights, optimiser and number of epochs are not: those here are this library's, and
    `own_choices` lists them. They are those of a fair baseline: labels standardised per type, dropout, a weight decay
    and a learning rate that suit the depth, and as many epochs as held-out groups ask for. Predictions are put back on
    the scale of the labels, clipped at 0 and, for proportions, divided by their sum.

    One network is trained on all rows, and one without each inner split's held-out groups; a prediction is half the
    first's and half the mean of the others. Networks that saw fewer rows err more, and less alike: together they have
    the correlation of the first and the smaller error of a mean.

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
    dropout, learning_rate
        Dropout after every hidden layer, and the learning rate of AdamW. None to choose them on inner splits: two
        values of each are tried, and the number of epochs read along each of the four. With a fixed number of
        ``epochs`` they are 0.3 and 0.001.
    weight_decay, batch_size
        Of AdamW.
    max_epochs, patience
        Training ends at `max_epochs` (fewer with many rows: 500 steps), or after `patience` epochs without a lower
        loss on held-out groups.
    epochs
        A fixed number of epochs, without inner splits; None to take the number with the least mean loss on held-out
        groups.
    seed
        Of initial weights, batches and dropout.

    Attributes
    ----------
    n_epochs_ : int
    inner_loss_ : float64 array, (n_epochs_tried,), mean loss on held-out groups after each epoch, with inner splits
    mean_, scale_ : float32 arrays, (n_networks, n_features)
    target_ : float64 array, (n_networks, 2, n_present_types): mean and standard deviation of the labels
    weight_i_, bias_i_ : float32 arrays, with an axis of members, network after network, before the layer's own
    """

    _fitted_numbers = _whole_numbers = ("n_epochs_",)
    n_epochs_: int
    inner_loss_: np.ndarray
    #: What the paper does not give, and was chosen here; a head's card carries it.
    own_choices: ClassVar[dict[str, str]] = {
        "hidden": "widths of the six hidden layers",
        "l1": "weight of the mean absolute error",
        "l2": "weight of the Pearson term",
        "initial weights": "uniform after He et al. (2015)",
        "labels": "standardised per cell type",
        "optimiser": "AdamW; weight_decay (PyTorch's own 0.01) and batch_size",
        "learning rate and dropout": "chosen on inner held-out groups among 0.001, 0.0003 and 0.3, 0.1",
        "predictions": "on the scale of the labels, clipped at 0; proportions divided by their sum",
        "networks": "one on all rows, and one without each inner split's held-out groups, averaged",
        "epochs": "as many as had the least loss on inner held-out groups, at most max_epochs and 500 steps",
    }

    def __init__(
        self,
        unit: str = "proportion",
        hidden: tuple[int, ...] = (512, 256, 256, 128, 128, 64),
        l1: float = 0.5,
        l2: float = 0.5,
        members: int = 1,
        dropout: float | None = None,
        learning_rate: float | None = None,
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
        self._check_parameters()
        if (X[0] == X).all():
            raise HeadError("the features are the same in every training spot", hint="Check the tiles and the encoder")
        everything = np.arange(len(X))
        splits = [(everything, everything[:0])]
        if self.epochs is None:
            splits += inner_splits(len(X), groups)
        networks = self._searched(X, Y, groups, weight, positions, splits)
        self.mean_, self.scale_ = (np.stack([network.scale[i] for network in networks]) for i in (0, 1))
        self.target_ = np.stack([network.target for network in networks])
        for name in layer_axes(len(self.hidden), norm=False):
            setattr(self, name, np.concatenate([network.best[name].numpy() for network in networks]))

    def _searched(
        self,
        X: np.ndarray,
        Y: np.ndarray,
        groups: np.ndarray | None,
        weight: np.ndarray,
        positions: Positions | None,
        splits: list[tuple[np.ndarray, np.ndarray]],
    ) -> list[_Network]:
        """The networks of the trial that predicts held-out rows best; sets what was found with them."""
        trials = settings_to_try(self, _TRIALS)
        if len(splits) == 1 or len(trials) == 1:
            return self._train(X, Y, weight, splits, trials[0])
        search, kept = Search(Y, groups, positions), []
        for one in trials:
            networks = self._train(X, Y, weight, splits, one)
            held_out = np.full(Y.shape, np.nan) if self.held_out_ is None else self.held_out_
            if search.trial(one, [({"n_epochs": self.n_epochs_}, held_out)]):
                kept, n_epochs, curve = networks, self.n_epochs_, self.inner_loss_
        self.search_ = search.facts(len(splits) - 1)
        self.n_epochs_, self.inner_loss_, self.held_out_ = n_epochs, curve, search.held_out
        return kept

    def _train(
        self,
        X: np.ndarray,
        Y: np.ndarray,
        weight: np.ndarray,
        splits: list[tuple[np.ndarray, np.ndarray]],
        settings: Mapping[str, Any],
    ) -> list[_Network]:
        """Train on the rows of every split in step; keep the networks and the held-out predictions of the best epoch.

        The first split is all rows, and has none to be judged by.
        """
        from .network import in_step, n_batches

        scales = standardise_without(X, weight, [test for _, test in splits])
        networks = [
            self._network(X, Y, weight, split, fold, settings, scales[fold]) for fold, split in enumerate(splits)
        ]
        sizes = [len(test) for _, test in splits]
        most = self.epochs or min(self.max_epochs, max(1, _MAX_STEPS // n_batches(len(X), self.batch_size)))
        curve: list[float] = []
        self.n_epochs_ = 0
        with in_step(len(networks), len(X)) as each:
            while len(curve) < most and (self.epochs or len(curve) - self.n_epochs_ <= self.patience):
                losses = list(each(_Network.step, networks))
                tell("epochs", len(curve) + 1, most)
                curve.append(float(np.average(losses, weights=sizes)) if any(sizes) else 0.0)
                if self.epochs or curve[-1] == min(curve):
                    self.n_epochs_ = len(curve)
                    for network in networks:
                        network.keep()
        tell("epochs", most, most)
        if self.epochs is None:
            self.inner_loss_ = np.array(curve)
            self.held_out_ = np.full(Y.shape, np.nan)
            for network, (_, test) in zip(networks[1:], splits[1:], strict=True):
                self.held_out_[test] = to_unit(network.predict(X[test]), self.unit)
        return networks

    def _network(
        self,
        X: np.ndarray,
        Y: np.ndarray,
        weight: np.ndarray,
        split: tuple[np.ndarray, np.ndarray],
        fold: int,
        settings: Mapping[str, Any],
        of_features: tuple[np.ndarray, np.ndarray],
    ) -> _Network:
        from .network import Recipe, epochs

        train, test = split
        mean, spread = (part.astype(np.float32) for part in of_features)
        scale = (mean, spread)
        target = np.stack(standardise(Y[train], weight[train]))
        optimisation = (settings["dropout"], settings["learning_rate"], self.weight_decay, self.batch_size)
        recipe = Recipe(self.members, tuple(self.hidden), *optimisation, norm=False)
        seed = int(np.random.SeedSequence([self.seed, fold]).generate_state(1)[0])
        inputs, labels = _inputs(X[train], scale), (Y[train] - target[0]) / target[1]
        watched = np.sort(np.random.default_rng(seed).permutation(test)[:_WATCHED])
        return _Network(
            run=epochs(recipe, inputs, labels, weight[train], self._loss(), seed),
            scale=scale,
            target=target,
            loss=self._loss(),
            watched=(_inputs(X[watched], scale), (Y[watched] - target[0]) / target[1], weight[watched]),
        )

    def _loss(self) -> Loss:
        from .network import sun2025_loss

        return sun2025_loss(self.l1, self.l2)

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        import torch

        members = self.members
        total, count = np.zeros((len(X), self.target_.shape[2])), len(self.mean_)
        for fold in range(count):
            here = slice(fold * members, (fold + 1) * members)
            layers = {
                name: torch.from_numpy(getattr(self, name)[here]) for name in layer_axes(len(self.hidden), norm=False)
            }
            share = 1.0 if count == 1 else 0.5 if fold == 0 else 0.5 / (count - 1)
            total += share * _outputs(layers, _inputs(X, (self.mean_[fold], self.scale_[fold])), self.target_[fold])
        return to_unit(total, self.unit)

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        axes = layer_axes(len(self.hidden), norm=False, first="features")
        of_features, target = ("networks", "features"), ("networks", "2", "types")
        return {"mean_": of_features, "scale_": of_features, "target_": target, **axes}

    def _torch_arrays(self) -> Collection[str]:
        return layer_axes(len(self.hidden), norm=False)

    def restore(self, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Self:
        """Set what `fitted` returned; raises what `CompositionRegressor.restore` does."""
        super().restore(arrays, numbers)
        if (networks := len(self.bias_0_)) != self.members * len(self.mean_):
            raise HeadError(
                f"the saved array bias_0_ has {networks} networks; expected {len(self.mean_)} x members={self.members}"
            )
        check_scale(self.target_[:, 1], "the second row of the saved array target_")
        return self

    def _check_parameters(self) -> None:
        counts = {name: getattr(self, name) for name in ("members", "batch_size", "max_epochs", "patience")}
        counts |= {"epochs": 1 if self.epochs is None else self.epochs}
        counts |= {f"hidden[{i}]": width for i, width in enumerate(self.hidden)}
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or value < 1:
                raise HeadError(f"{name} must be a whole number of at least 1; it is {value!r}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise HeadError(f"dropout must be at least 0 and below 1; it is {self.dropout!r}")
        for name in ("learning_rate", "weight_decay", "l1", "l2"):
            if getattr(self, name) is None and name == "learning_rate":
                continue
            if not 0 <= getattr(self, name) < np.inf:
                raise HeadError(f"{name} must be a non-negative number; it is {getattr(self, name)!r}")


@dataclass
class _Network:
    """The network of one split: as it trains, and as it was at the best epoch."""

    run: Iterator[Layers]
    scale: tuple[np.ndarray, np.ndarray]
    target: np.ndarray
    loss: Loss
    watched: tuple[np.ndarray, np.ndarray, np.ndarray]
    live: Layers = field(init=False)
    best: Layers = field(init=False)

    def step(self) -> float:
        """Train for an epoch; the loss on the held-out rows that are watched, 0 where there are none."""
        import torch

        from .network import forward, one_thread

        with one_thread():
            self.live = next(self.run)
            if not len(self.watched[0]):
                return 0.0
            x, y, w = (torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in self.watched)
            with torch.no_grad():
                return float(self.loss(forward(self.live, x).mean(0)[None], y[None], w[None]))

    def keep(self) -> None:
        """Remember the parameters as they are now."""
        self.best = {name: values.detach().clone() for name, values in self.live.items()}

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Abundances, not yet in the unit of the head, by the parameters that were kept."""
        return _outputs(self.best, _inputs(X, self.scale), self.target)


def _outputs(layers: Layers, inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean of the members, on the scale of the labels."""
    import torch

    from .network import forward, one_thread

    with torch.no_grad(), one_thread():
        mean = forward(layers, torch.from_numpy(inputs)).mean(0).double().numpy()
    return np.asarray(mean * target[1] + target[0])


def _inputs(X: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Standardised embeddings, float32."""
    values: np.ndarray = np.subtract(X, scale[0], dtype=np.float32)
    values /= scale[1]
    return values
