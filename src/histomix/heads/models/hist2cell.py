"""Hist2Cell as a baseline: its graph network on frozen features, and the whole of it trained end to end on tiles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ...errors import HeadError
from ...progress import tell
from ..base import CompositionRegressor, to_unit
from ..inner_folds import inner_splits
from ..kept_fits import KeptEpochs
from ..neighbourhood import Positions, spot_pitch_um
from .preprocess import standardise
from .search import Search, settings_to_try

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .hist2cell_network import SpotGraph, Subgraphs

_PREDICT_CENTRES = 64
#: Learning rates that are tried on frozen features, the authors' first; epochs at most, and without a better one.
_TRIALS = tuple({"learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3, 3e-3))
_MAX_EPOCHS, _PATIENCE = 20, 4
#: Inner splits that trials are judged on, at most: an epoch takes long.
_SPLITS = 1
#: Three edges of the graph, of 1.3 spot pitches at most.
_REACH_PITCHES = 3.9


class Hist2CellRegressor(CompositionRegressor):
    """Hist2Cell (Zhao et al. 2024, bioRxiv 2024.02.17.580852) with frozen features in the place of its ResNet18.

    Published: graph attention (GATv2, 8 heads x 32) over the graph of the spots, a transformer (depth 3, width 256)
    over the spots within two steps, and four heads (spot, local, global, fused) whose mean passes a ReLU; squared
    error, Adam at 1e-4 with weight decay 1e-4, a cosine schedule, 16 centre spots a batch.

    One thing differs. The published network lets all spots of a batch attend to one another, so a prediction depends on
    which spots it is predicted with. Here each spot sees its own neighbourhood of two steps and nothing else, in
    training and in prediction: the same spot on the same slide has one prediction, whatever the batches are.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot". Labels are learnt as they are.
    epochs
        Passes over the training spots; None for as many (20 at most) as held-out spots ask for.
    batch_size
        Centre spots a batch.
    learning_rate
        Of Adam; None to choose it. The authors' 1e-4 is for the whole network on pixels: on frozen features it learns
        too little. So four are tried on an inner split, and epochs are read along each, before the fit on all rows.
    weight_decay
        Of Adam.
    predict_batch
        Centre spots predicted at once; changes nothing but memory.
    seed
        Of initial weights and batches.

    Attributes
    ----------
    pitch_um_ : float, pitch of the training spots: neighbours are the nearest six at most, within 1.3 of it
    mean_, scale_ : float32 arrays, (n_features,)
    *_ : the network's parameters under their own names
    """

    _fitted_numbers = ("pitch_um_",)
    needs_positions = True
    _frozen: ClassVar[bool] = True
    #: What the paper does not give, and was chosen here; a head's card carries it.
    own_choices: ClassVar[dict[str, str]] = {
        "neighbourhood": "each spot's own two steps, not those of its batch",
        "edges": "the nearest six spots at most, within 1.3 spot pitches",
        "features": "frozen embeddings, z-scored, through one linear layer in the place of the ResNet18",
        "initial weights": "torch's; the heads start at the mean labels",
        "last ReLU": "in training with a slope of 0.1 below zero, so that no cell type dies",
        "transformer": "8 attention heads, perceptrons four times as wide",
        "epochs": "as many as held-out spots ask for, 20 at most",
        "learning rate": "chosen on an inner held-out group among the authors' 1e-4, 3e-4, 1e-3 and 3e-3",
    }

    def __init__(
        self,
        unit: str = "proportion",
        epochs: int | None = None,
        batch_size: int = 16,
        learning_rate: float | None = None,
        weight_decay: float = 1e-4,
        predict_batch: int = _PREDICT_CENTRES,
        seed: int = 0,
    ) -> None:
        self.unit = unit
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.predict_batch = predict_batch
        self.seed = seed

    @property
    def reach_um(self) -> float:
        """Two steps of the graph, and what decides which spots are the nearest six of the farthest of them, um."""
        return _REACH_PITCHES * getattr(self, "pitch_um_", 0.0)

    # The two variants differ in these three.

    def _network(self, n_types: int) -> nn.Module:
        from .hist2cell_network import Hist2CellGraph

        return Hist2CellGraph(self.n_features_in_, n_types, project=True)

    def _inputs(self, X: np.ndarray, positions: Positions, rows: np.ndarray) -> np.ndarray:
        return ((np.asarray(X[rows], np.float32) - self.mean_) / self.scale_).astype(np.float32)

    def _outputs(self, network: Any, inputs: np.ndarray, graphs: Subgraphs, row_of: np.ndarray) -> Tensor:
        import torch

        outputs: Tensor = network(torch.from_numpy(inputs), graphs, row_of)
        return outputs

    def _device(self) -> str:
        """A GPU where there is one, for pixels; on features the processor is as fast, and gives the same everywhere."""
        import torch

        return "cuda" if self.sees_pixels and torch.cuda.is_available() else "cpu"

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        self._check_parameters()
        positions = self._checked(positions)
        if (X[0] == X).all() and positions.tiles is None:
            raise HeadError("the features are the same in every training spot", hint="Check the tiles and the encoder")
        chosen = self._searched(X, Y, groups, weight, positions)
        network = self._train(X, Y, weight, positions, chosen["learning_rate"], chosen["epochs"])
        for name, values in _saved(network).items():
            setattr(self, f"{name}_", values.detach().cpu().numpy().copy())

    def _searched(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions
    ) -> dict[str, Any]:
        """Learning rate and number of epochs, those that are given as they are."""
        trials, most = settings_to_try(self, _TRIALS), self.epochs or _MAX_EPOCHS
        splits = inner_splits(len(X), groups)[:_SPLITS]
        if self.learning_rate is not None and self.epochs is not None:
            return {"learning_rate": self.learning_rate, "epochs": self.epochs}
        search = Search(Y, groups, positions)
        for one in trials:
            curves: list[list[np.ndarray]] = []
            for train, test in splits:
                curves.append([])

                def watch(network: Any, test: np.ndarray = test, curve: list[np.ndarray] = curves[-1]) -> bool:
                    curve.append(np.full(Y.shape, np.nan))
                    curve[-1][test] = self._read(network, X[test], positions[test])
                    scores = [search.score(values) for values in curve]
                    return len(scores) - 1 - int(np.argmax(scores)) >= _PATIENCE

                self._train(X[train], Y[train], weight[train], positions[train], one["learning_rate"], most, watch)
            path = [({"epochs": number}, values) for number, values in enumerate(curves[0] if curves else [], start=1)]
            search.trial(one, path if self.epochs is None else path[-1:])
        self.search_ = search.facts(len(splits))
        return {**trials[0], "epochs": most} if not splits else search.settings

    def _train(
        self,
        X: np.ndarray,
        Y: np.ndarray,
        weight: np.ndarray,
        positions: Positions,
        learning_rate: float,
        epochs: int,
        watch: Callable[[nn.Module], bool] | None = None,
    ) -> nn.Module:
        """A network trained on rows; sets how features are put in. ``watch`` ends it after an epoch by saying so."""
        import torch

        from .hist2cell_network import SpotGraph

        self.mean_, self.scale_ = (part.astype(np.float32) for part in standardise(X, weight))
        self.pitch_um_ = spot_pitch_um(positions)
        graph = SpotGraph.of(positions, self.pitch_um_)
        target, importance = (torch.from_numpy(a.astype(np.float32)).to(self._device()) for a in (Y, weight))
        rng = np.random.default_rng(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self._network(Y.shape[1]).to(self._device())
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    if "heads." in name and name.endswith("bias"):
                        parameter.copy_((importance @ target) / importance.sum())
            optimiser = torch.optim.Adam(
                network.parameters(), lr=learning_rate, weight_decay=self.weight_decay, fused=True
            )
            steps = -(-len(X) // self.batch_size) * epochs
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            kept = (
                KeptEpochs.of(self, X, Y, weight, positions, learning_rate=learning_rate, epochs=epochs)
                if self.sees_pixels  # else all of a fit takes as long as an epoch of those
                else None
            )
            done = kept.recall(network, optimiser, schedule) if kept else 0
            for epoch in range(epochs):
                tell("epochs", epoch, epochs)
                network.train()
                order = rng.permutation(len(X))
                if epoch < done:
                    continue
                for start in range(0, len(X), self.batch_size):
                    centres = order[start : start + self.batch_size]
                    optimiser.zero_grad(set_to_none=True)
                    error = (
                        (self._centres(network, X, positions, graph, centres) - target[centres]).square().mean(dim=1)
                    )
                    loss = (error * importance[centres]).mean()
                    if not torch.isfinite(loss):
                        raise HeadError("the training loss of Hist2Cell is not finite", hint="Lower learning_rate")
                    loss.backward()
                    optimiser.step()
                    schedule.step()
                if kept:
                    kept.keep(network, optimiser, schedule, epoch + 1)
                if watch is not None and watch(network):
                    break
        tell("epochs", epochs, epochs)
        return network

    def _centres(
        self, network: nn.Module, X: np.ndarray, positions: Positions, graph: SpotGraph, centres: np.ndarray
    ) -> Any:
        graphs = graph.around(centres)
        rows = np.unique(graphs.nodes[graphs.nodes >= 0])
        row_of = np.zeros(len(positions), np.intp)
        row_of[rows] = np.arange(len(rows))
        return self._outputs(network, self._inputs(X, positions, rows), graphs, row_of)

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        import torch

        network = self._network(int(self.present_.sum()))
        own = {name: torch.from_numpy(np.asarray(getattr(self, f"{name}_"))) for name in _saved(network)}
        network.load_state_dict(own, strict=False)
        return self._read(network.to(self._device()), X, self._checked(positions))

    def _read(self, network: nn.Module, X: np.ndarray, positions: Positions) -> np.ndarray:
        """What a network predicts, in the unit of the head."""
        import torch

        from .hist2cell_network import SpotGraph

        graph = SpotGraph.of(positions, self.pitch_um_)
        network.eval()
        result = np.empty((len(X), int(self.present_.sum())))
        with torch.no_grad():
            for start in range(0, len(X), self.predict_batch):
                centres = np.arange(start, min(start + self.predict_batch, len(X)))
                result[centres] = self._centres(network, X, positions, graph, centres).double().cpu().numpy()
        return to_unit(result, self.unit)

    def _checked(self, positions: Positions | None) -> Positions:
        if positions is None:
            hint = "Give positions=Positions(section, xy_um)"
            raise HeadError("the graph of the spots needs their places", hint=hint)
        return positions

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        import torch

        from .hist2cell_network import Hist2CellGraph, Hist2CellTiles

        with torch.device("meta"):  # names and shapes alone
            network = Hist2CellGraph(1, 1, project=True) if self._frozen else Hist2CellTiles(1)
        axes: dict[str, tuple[str, ...]] = {"mean_": ("own features",), "scale_": ("own features",)}
        for name, part in _saved(network).items():
            names = [str(length) for length in part.shape]
            if name == "project.weight":
                names[1] = "own features"
            if name.removeprefix("rest.").startswith("heads."):
                names[0] = "types"
            axes[f"{name}_"] = tuple(names)
        return axes

    def _torch_arrays(self) -> Collection[str]:
        return [name for name in self._fitted_arrays() if name not in ("mean_", "scale_")]

    def restore(self, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Self:
        """Set what `fitted` returned; raises what `CompositionRegressor.restore` does."""
        super().restore(arrays, numbers)
        if not self.pitch_um_:
            raise HeadError("the fitted number pitch_um_ is 0; a pitch is above 0")
        return self

    def _check_parameters(self) -> None:
        for name in ("epochs", "batch_size", "predict_batch"):
            if name == "epochs" and self.epochs is None:
                continue
            if not isinstance(getattr(self, name), int | np.integer) or getattr(self, name) < 1:
                raise HeadError(f"{name} must be a whole number of at least 1; it is {getattr(self, name)!r}")


def _saved(network: nn.Module) -> dict[str, Tensor]:
    """The network's parameters and running statistics, without counters that prediction does not need."""
    return {name: part for name, part in network.state_dict().items() if not name.endswith("num_batches_tracked")}


class Hist2CellTilesRegressor(Hist2CellRegressor):
    """Hist2Cell trained end to end: a ResNet18 on the tiles of each spot and of its neighbours, and the graph on it.

    Embeddings are not used; ``places.tiles`` gives the pixels, at fit and at prediction. Each training spot costs the
    tiles of its whole neighbourhood in every epoch. Learning rate, weight decay and batches are the authors', and
    nothing is searched; everything else is as in `Hist2CellRegressor`.

    Parameters
    ----------
    weights
        Initial weights of the ResNet18, by parameter name; at random when left out.
    """

    _frozen = False
    sees_pixels = True
    own_choices: ClassVar[dict[str, str]] = {
        **{
            name: words
            for name, words in Hist2CellRegressor.own_choices.items()
            if name not in ("features", "learning rate")
        },
        "epochs": "a fixed number",
        "ResNet18": "from random weights unless some are given",
    }

    def __init__(
        self,
        unit: str = "proportion",
        epochs: int = 20,
        batch_size: int = 16,
        learning_rate: float = 1e-4,
        weight_decay: float = 1e-4,
        predict_batch: int = _PREDICT_CENTRES,
        weights: Mapping[str, np.ndarray] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(unit, epochs, batch_size, learning_rate, weight_decay, predict_batch, seed)
        self.weights = weights

    def _network(self, n_types: int) -> nn.Module:
        import torch

        from .hist2cell_network import Hist2CellTiles

        network = Hist2CellTiles(n_types)
        if self.weights is not None:
            own = {name: torch.from_numpy(np.asarray(values)) for name, values in self.weights.items()}
            try:
                network.backbone.load_state_dict(own)
            except RuntimeError as error:
                raise HeadError(f"the weights are not a ResNet18's without its last layer ({error})") from error
        return network

    def _inputs(self, X: np.ndarray, positions: Positions, rows: np.ndarray) -> np.ndarray:
        if positions.tiles is None:
            raise HeadError(
                "this head is trained on pixels, and no tiles were given",
                hint="Give positions=Positions(section, xy_um, tiles), or use the head hist2cell on features",
            )
        tiles = np.asarray(positions.tiles(rows))
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[0] != len(rows) or tiles.shape[3] != 3:
            raise HeadError(f"tiles must be uint8 (m, px, px, 3); they are {tiles.dtype} of shape {tiles.shape}")
        return tiles

    def _outputs(self, network: Any, inputs: np.ndarray, graphs: Subgraphs, row_of: np.ndarray) -> Tensor:
        outputs: Tensor = network.rest(network.encode(inputs), graphs, row_of)
        return outputs
