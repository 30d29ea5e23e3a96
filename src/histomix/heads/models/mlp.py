"""The MLP head: a committee of small perceptrons on the principal components of the embeddings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...errors import HeadError
from ...progress import told
from ..base import CompositionRegressor
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from ..saved import check_scale
from .gram import components_without
from .preprocess import principal_components, rotate

if TYPE_CHECKING:
    from .network import Loss, Recipe


#: Losses by unit, the default first.
_AMOUNTS = ("log", "huber", "poisson")
LOSSES = {
    "proportion": ("kl", "dirichlet-multinomial"),
    "cells per spot": _AMOUNTS,
    "relative abundance": _AMOUNTS,
}


class MLPRegressor(CompositionRegressor):
    """A committee of small perceptrons: Linear, LayerNorm, SiLU, dropout per hidden layer, trained with AdamW.

    The embeddings are standardised and rotated to their leading principal components. Proportions are learnt by the
    Kullback-Leibler divergence through a softmax; cells per spot by the squared error on log1p, standardised per type,
    plus a Pearson term, after the loss of Sun, Zhu and Qiu (2025, arXiv 2507.07013).

    Where the places of the rows are given, a head looks around: members see a tile alone, or one ring of neighbours
    too, or two; and predictions are smoothed over neighbours as far as held-out labels say. Which of these views are
    averaged, and how far predictions are smoothed, is chosen on held-out groups, so a head on tissue without structure
    at that scale looks at the tile alone. With `slide_scale`, features are put on the scale of their slide, which takes
    stain and scanner out of them (`SlideScale`), and levels with them: on other patients that costs more than it gives.

    One ensemble is trained per inner split, on the rows outside its held-out groups. A view stops at the epoch where
    its mean loss on the held-out groups is least, and the predictions of all members are averaged (a cross-validation
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
        Perceptrons per inner split, shared out among the views and trained at once; those of a view differ in initial
        weights, batches and dropout. Beyond 10,000 training rows there are fewer, at least one a view.
    dropout, learning_rate, weight_decay, batch_size
        Of the optimisation. The weight decay is AdamW's and spares biases and LayerNorm; batches are larger where an
        epoch would have more than 50, up to 160 rows.
    max_epochs, patience
        Training ends at `max_epochs`, or after `patience` epochs without a lower held-out loss.
    epochs
        A fixed number of epochs: one ensemble is trained on all rows, without inner splits.
    loss
        Of proportions "kl" or "dirichlet-multinomial", of cells per spot "log" (the squared error on log1p), "huber"
        (the same, linear beyond one standard deviation) or "poisson"; "auto" is the first of these.
    pearson
        Weight of the Pearson term (cells per spot only).
    rings_um, smooth_um, slide_scale
        What the head sees around a tile; see `CompositionRegressor`. Members see the first ring or the first two, and
        so on.
    seed
        Of initial weights, batches and dropout.

    Attributes
    ----------
    n_epochs_ : int, of the view that trained longest
    views_ : int array, numbers of rings that members of the committee see
    inner_loss_ : float64 array, (n_epochs_tried, n_views), mean loss on held-out groups after each epoch, with inner
        splits
    mean_, scale_ : float32 arrays, (n_folds, n_features)
    components_ : float32 array, (n_folds, n_features, n_components): each fold's own projection
    target_ : float64 array, (3, n_present_types): mean, standard deviation and largest value of log1p labels;
        predictions of cells per spot do not exceed the largest label seen
    weight_i_, bias_i_, gain_i_, shift_i_ : float32 arrays, one row per member, fold after fold and view after view
    """

    _fitted_numbers = _whole_numbers = ("n_epochs_",)
    _whole_arrays = ("views_",)

    def __init__(
        self,
        unit: str = "proportion",
        hidden: tuple[int, ...] = (128,),
        n_components: int = 128,
        members: int = 6,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.3,
        batch_size: int = 64,
        max_epochs: int = 60,
        patience: int = 10,
        epochs: int | None = None,
        loss: str = "auto",
        pearson: float = 2.0,
        rings_um: tuple[float, ...] | str = "auto",
        smooth_um: float | str = "auto",
        slide_scale: bool = False,
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
        self.loss = loss
        self.pearson = pearson
        self.rings_um = rings_um
        self.smooth_um = smooth_um
        self.slide_scale = slide_scale
        self.seed = seed

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        from .ensemble import Ensemble

        self._check_parameters()
        T = self._set_target(Y)
        everything = np.arange(len(X))
        splits = inner_splits(len(X), groups) if self.epochs is None else [(everything, everything[:0])]
        own = X[:, : self.n_features_in_]
        # Each fold's own projection: in one fitted on all rows, the leading axes tell groups apart, and a fold
        # trained on some of the groups would carry its random initial weights along those axes to every new slide.
        if self.epochs is None and len(X) > 2 * self.n_features_in_:
            bases = components_without(own, weight, [rows for _, rows in splits], self.n_components)
        else:
            bases = [principal_components(own[rows], weight[rows], self.n_components) for rows, _ in splits]
        if any(not basis[2].size for basis in bases):
            raise HeadError("the features are the same in every training spot", hint="Check the tiles and the encoder")
        rank = max(basis[2].shape[1] for basis in bases)
        self.mean_, self.scale_ = (np.stack([basis[i] for basis in bases]) for i in (0, 1))
        self.components_ = np.stack([np.pad(axes, ((0, 0), (0, rank - axes.shape[1]))) for _, _, axes in bases])
        ensemble_fit = Ensemble(
            recipe=self._recipe(),
            loss=self._loss(),
            proportion=self.unit == "proportion",
            n_views=X.shape[1] // self.n_features_in_,
            n_components=rank,
            seed=self.seed,
        )
        parts = [
            [(self._project(X[rows], fold), T[rows], weight[rows]) for rows in split]
            for fold, split in enumerate(told("project on components (splits)", splits))
        ]
        if self.epochs is None:
            ensemble_fit.stop_early(parts, self.max_epochs, self.patience)
            names = np.zeros(len(X)) if groups is None else groups
            self.views_ = ensemble_fit.choose_views([rows for _, rows in splits], Y, names, self._to_unit)
            self.held_out_, self.held_out_spread_ = ensemble_fit.held_out, ensemble_fit.held_out_spread
            self.inner_loss_ = ensemble_fit.curve
        else:
            ensemble_fit.run(parts, self.epochs)
            self.views_ = np.arange(ensemble_fit.n_views)
        self.n_epochs_ = int(ensemble_fit.n_epochs[self.views_].max())
        for name, array in ensemble_fit.layers(self.views_).items():
            setattr(self, name, array)

    def _recipe(self) -> Recipe:
        from .network import Recipe

        return Recipe(
            members=self.members,
            hidden=tuple(self.hidden),
            dropout=self.dropout,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )

    def _loss(self) -> Loss:
        from .network import abundance_loss, dirichlet_loss, kl_loss, poisson_loss

        if self.unit == "proportion":
            return dirichlet_loss if self.loss == "dirichlet-multinomial" else kl_loss
        if self.loss == "poisson":
            return poisson_loss(self.pearson, *self.target_[:2])
        return abundance_loss(self.pearson, 1.0 if self.loss == "huber" else np.inf)

    def _set_target(self, Y: np.ndarray) -> np.ndarray:
        """Remember the scale of the labels and return what the network learns, float32."""
        log = np.log1p(Y)
        spread = log.std(axis=0)
        self.target_ = np.stack([log.mean(axis=0), np.where(spread > 0, spread, 1.0), log.max(axis=0)])
        return (Y if self.unit == "proportion" else (log - self.target_[0]) / self.target_[1]).astype(np.float32)

    def _project(self, X: np.ndarray, fold: int) -> np.ndarray:
        """Components of a tile and of each ring about it, side by side."""
        parts = X.reshape(-1, self.n_features_in_)
        width = X.shape[1] // self.n_features_in_ * self.components_.shape[2]
        return rotate(parts, self.mean_[fold], self.scale_[fold], self.components_[fold]).reshape(len(X), width)

    def predict_spread(self, X: Any, positions: Positions | None = None) -> np.ndarray | None:
        """Standard deviation between the members, ``(n, n_types)``, smoothed over neighbours as predictions are."""
        return self._by_chunks(X, positions, lambda rows, _: self._by_members(rows)[1])

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        return self._by_members(X)[0]

    def _by_members(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prediction, and standard deviation between members, of each row."""
        import torch

        from .ensemble import member_outputs
        from .network import one_thread

        layers = {name: torch.from_numpy(getattr(self, name)) for name in layer_axes(len(self.hidden))}
        members, folds = len(layers["weight_0_"]), len(self.mean_)
        total = np.zeros((len(X), self.target_.shape[1]))
        cells, squares = total.copy(), total.copy()
        for fold in range(folds):
            here = slice(fold * members // folds, (fold + 1) * members // folds)
            inputs = torch.from_numpy(self._project(X, fold))
            with one_thread():
                outputs = member_outputs({k: v[here] for k, v in layers.items()}, inputs, self.unit == "proportion")
            total += outputs.sum(axis=0) / members
            each = self._to_unit(outputs)
            cells += each.sum(axis=0) / members
            squares += np.square(each).sum(axis=0) / members
        return self._to_unit(total), np.sqrt(np.maximum(squares - np.square(cells), 0.0))

    def _to_unit(self, outputs: np.ndarray) -> np.ndarray:
        """From outputs of the network to the unit of the head."""
        if self.unit == "proportion":
            return np.asarray(outputs / outputs.sum(axis=-1, keepdims=True))
        mean, spread, largest = self.target_
        cells: np.ndarray = np.expm1(np.clip(outputs * spread + mean, 0.0, largest))
        return cells

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {
            "mean_": ("folds", "own features"),
            "scale_": ("folds", "own features"),
            "components_": ("folds", "own features", "components"),
            "target_": ("3", "types"),
            "views_": ("views",),
            **layer_axes(len(self.hidden), first="inputs"),
        }

    def _torch_arrays(self) -> Collection[str]:
        return layer_axes(len(self.hidden))

    def restore(self, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Self:
        """Set what `fitted` returned; raises what `CompositionRegressor.restore` does."""
        super().restore(arrays, numbers)
        views = 1 + len(self.context.rings_um)
        if self.weight_0_.shape[1] != views * self.components_.shape[2] or self.views_.max() >= views:
            raise HeadError(
                f"the saved arrays weight_0_ or views_ are not for tiles with {views - 1} rings around them"
            )
        if len(self.weight_0_) % (len(self.mean_) * len(self.views_)):
            raise HeadError(f"the saved array weight_0_ has {len(self.weight_0_)} networks for {len(self.mean_)} folds")
        check_scale(self.target_[1], "the second row of the saved array target_")
        return self

    def _check_parameters(self) -> None:
        counts = {name: getattr(self, name) for name in ("n_components", "members", "batch_size", "max_epochs")}
        counts |= {"epochs": 1 if self.epochs is None else self.epochs, "patience": self.patience}
        counts |= {f"hidden[{i}]": width for i, width in enumerate(self.hidden)}
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or value < 1:
                raise HeadError(f"{name} must be a whole number of at least 1; it is {value!r}")
        known = ("auto", *LOSSES[self.unit])
        if self.loss not in known:
            raise HeadError(f"the loss of {self.unit} is {self.loss!r}", hint=f"Choose one of: {', '.join(known)}")
        if not 0 <= self.dropout < 1:
            raise HeadError(f"dropout must be at least 0 and below 1; it is {self.dropout!r}")
        for name in ("learning_rate", "weight_decay", "pearson"):
            if not 0 <= getattr(self, name) < np.inf:
                raise HeadError(f"{name} must be a non-negative number; it is {getattr(self, name)!r}")


def layer_axes(n_hidden: int, norm: bool = True, first: str = "inputs") -> dict[str, tuple[str, ...]]:
    """Names of the arrays of an ensemble with ``n_hidden`` hidden layers, with the names of their axes."""
    widths = [first, *(f"hidden {i}" for i in range(n_hidden)), "types"]
    axes: dict[str, tuple[str, ...]] = {}
    for i in range(n_hidden + 1):
        axes[f"weight_{i}_"] = ("members", widths[i], widths[i + 1])
        axes[f"bias_{i}_"] = ("members", widths[i + 1])
        if norm and i < n_hidden:
            axes[f"gain_{i}_"] = axes[f"shift_{i}_"] = ("members", widths[i + 1])
    return axes
