"""Fits that are kept while the work that needs them goes on: after a kill they are not made again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.storage.unfinished import UnfinishedWork, current_work, digest_array

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from .neighbourhood import Positions

_log = logging.getLogger(__name__)

#: A fit that took less is as fast made again, seconds.
LEAST_S = 0.5
#: Beginning of the names of fits among the parts of unfinished work, and of networks in training among those.
FITS, EPOCHS = "fit-", "fit-epochs-"


def fitted_once(
    estimator: Any,
    fit: Callable[[], None],
    X: np.ndarray,
    Y: np.ndarray,
    groups: Any,
    weight: np.ndarray,
    positions: Positions | None,
) -> None:
    """Call ``fit``, which sets the fitted attributes; or set those that unfinished work has kept of the same fit.

    A head that only joins heads that are kept is not kept itself, nor is one on pixels whose source has no name.
    """
    work = current_work()
    key = None if work is None or estimator.joins_heads else _key(work, estimator, X, Y, groups, weight, positions)
    if work is None or key is None:
        fit()
        _lay_out(estimator)
        return
    part = work.recall(FITS + key)
    if part is not None:
        arrays, facts = part
        for name, value in {**arrays, **facts}.items():
            setattr(estimator, name, value)
        return
    start = time.perf_counter()
    fit()
    _lay_out(estimator)
    if time.perf_counter() - start >= LEAST_S:
        _keep(work, FITS + key, estimator)


def _key(
    work: UnfinishedWork,
    estimator: Any,
    X: np.ndarray,
    Y: np.ndarray,
    groups: Any,
    weight: np.ndarray,
    positions: Positions | None,
) -> str | None:
    """What a fit is known by; None where that cannot be told."""
    pixels = positions.tiles_identity() if estimator.sees_pixels and positions is not None else None
    if estimator.sees_pixels and pixels is None:
        return None
    parameters = {
        name: {part: digest_array(values) for part, values in value.items()} if isinstance(value, Mapping) else value
        for name, value in estimator.get_params().items()
    }
    return work.key(
        head=f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        parameters=repr(sorted(parameters.items())),
        X=[digest_array(X), bool(X.flags.fnc)],
        Y=digest_array(Y),
        groups=digest_array(groups),
        weight=digest_array(weight),
        section=None if positions is None else digest_array(positions.section),
        xy_um=None if positions is None else digest_array(positions.xy_um),
        pixels=pixels,
    )


@dataclass
class KeptEpochs:
    """A network in training, kept after its epochs by unfinished work: after a kill it is trained from there.

    Parameters
    ----------
    work, key
        Where, and as what.
    """

    work: UnfinishedWork
    key: str

    @classmethod
    def of(
        cls, estimator: Any, X: np.ndarray, Y: np.ndarray, weight: np.ndarray, positions: Positions, **also: Any
    ) -> KeptEpochs | None:
        """Of one training, ``also`` being what else decides it; None where nothing is kept."""
        work = current_work()
        key = None if work is None else _key(work, estimator, X, Y, None, weight, positions)
        return None if work is None or key is None else cls(work, EPOCHS + work.key(training=key, **also))

    def recall(self, network: nn.Module, optimiser: Optimizer, schedule: LRScheduler) -> int:
        """Set all three, and torch's random numbers, as they were kept; gives the number of finished epochs."""
        import torch

        part = self.work.recall(self.key)
        if part is None:
            return 0
        arrays, facts = part
        moments: dict[int, dict[str, Any]] = {}
        for name, array in arrays.items():
            kind, _, rest = name.partition("/")
            if kind == "adam":
                number, _, moment = rest.partition("/")
                moments.setdefault(int(number), {})[moment] = torch.from_numpy(array)
        network.load_state_dict(
            {name.partition("/")[2]: torch.from_numpy(a) for name, a in arrays.items() if name.startswith("network/")}
        )
        groups = [
            {**group, "lr": rate}
            for group, rate in zip(optimiser.state_dict()["param_groups"], facts["rates"], strict=True)
        ]
        optimiser.load_state_dict({"state": moments, "param_groups": groups})
        schedule.load_state_dict(facts["schedule"])
        torch.set_rng_state(torch.from_numpy(arrays["random"]))
        epochs: int = facts["epochs"]
        _log.info("trained on from epoch %d of a run that was stopped", epochs)
        return epochs

    def keep(self, network: nn.Module, optimiser: Optimizer, schedule: LRScheduler, epochs: int) -> None:
        """Keep all three, in the place of those of the epoch before."""
        import torch

        state = optimiser.state_dict()
        arrays = {f"network/{name}": part.detach().cpu().numpy() for name, part in network.state_dict().items()}
        arrays["random"] = torch.get_rng_state().numpy()
        for number, moments in state["state"].items():
            arrays.update({f"adam/{number}/{name}": part.detach().cpu().numpy() for name, part in moments.items()})
        rates = [group["lr"] for group in state["param_groups"]]
        self.work.keep(self.key, arrays, {"epochs": epochs, "rates": rates, "schedule": schedule.state_dict()})


def _lay_out(estimator: Any) -> None:
    """Leave no array a part of a larger one: products differ in the last bit with the order in memory."""
    for name, value in list(vars(estimator).items()):
        if isinstance(value, np.ndarray) and not value.flags.forc:
            setattr(estimator, name, np.ascontiguousarray(value))


def _keep(work: UnfinishedWork, key: str, estimator: Any) -> None:
    """Keep the attributes of a fit, unless one of them is neither an array nor JSON."""
    # Names of columns are set before the fit.
    others = {*estimator.get_params(), "feature_names_in_"}
    fitted = {name: value for name, value in vars(estimator).items() if name not in others}
    arrays = {name: value for name, value in fitted.items() if isinstance(value, np.ndarray)}
    facts = {name: value for name, value in fitted.items() if name not in arrays}
    plain = all(array.dtype.kind in "fiub" and array.dtype.isnative for array in arrays.values())
    if plain and all(_is_json(value) for value in facts.values()):
        work.keep(key, arrays, facts)


def _is_json(value: Any) -> bool:
    """Whether a value is the same after it was written as JSON and read."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_json(one) for name, one in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, float, str)
