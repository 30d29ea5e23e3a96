"""Stochastic variational inference of a cell2location module: the climb, its stopping, and going on after a stop.

The models and guides are cell2location's own. The steps are taken here, and not by the trainer of scvi-tools, for what
that does not give: the state of the optimiser and of the random numbers on disk (so that a stopped fit goes on exactly
where it was), no pickles, no files in the working folder, and progress in the caller's hands.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import HistomixError, LabelError, MissingExtraError
from ...progress import Progress
from ...provenance import atomic_path

if TYPE_CHECKING:
    import torch

#: The folder, in one of labels, that keeps the states of unfinished fits.
UNFINISHED = ".unfinished"
#: Epochs between two checkpoints, and between two remarks on the ELBO.
_CHECKPOINT_EVERY = 20
_REMARK_EVERY = 50
_CHATTY = ("cell2location", "scvi", "lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning")
#: Nodes of the Gauss-Hermite quadrature of a moment: more change the sixth digit.
_NODES = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How a fit climbs: Adam at rate ``lr``, until the best loss is ``patience`` epochs old, or ``max_epochs``."""

    lr: float = 0.02
    max_epochs: int = 300
    patience: int = 25


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of a fit is kept, and of which fit: a file of another ``identity`` is not gone on from."""

    path: Path
    identity: str

    def save(self, guide: torch.nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
        """Write parameters, optimiser, random numbers and losses, whole or not at all."""
        import torch
        from safetensors.torch import save_file

        tensors = {f"guide.{name}": tensor.detach() for name, tensor in guide.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["random"] = torch.get_rng_state()
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        # A copy of each: safetensors refuses tensors that share memory.
        whole = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        with atomic_path(self.path) as temporary:
            save_file(whole, temporary, {"identity": self.identity})

    def load(self, guide: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
        """Bring a fit to where it was stopped and return its losses so far; none if nothing usable is stored."""
        import torch
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return []
        try:
            with safe_open(self.path, "pt") as stored:
                if (stored.metadata() or {}).get("identity") != self.identity:
                    return []
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            _log.warning("%s cannot be read (%s): the fit begins anew", self.path, error)
            return []
        guide.load_state_dict(_under(tensors, "guide."))
        moments: dict[int, dict[str, Any]] = {}
        for name, tensor in _under(tensors, "adam.").items():
            index, _, kind = name.partition(".")
            moments.setdefault(int(index), {})[kind] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["random"])
        return [float(loss) for loss in tensors["losses"]]

    def remove(self) -> None:
        """Forget the fit, which is done."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def require_cell2location() -> None:
    """Raise MissingExtraError if cell2location is not installed, without the seconds that importing it takes."""
    if importlib.util.find_spec("cell2location") is None:
        raise _missing("cell2location")


@contextlib.contextmanager
def isolated_torch(seed: int, threads: int | None = None) -> Iterator[None]:
    """Import cell2location, seed torch, and leave the process as it was: threads, random numbers, loggers, filters.

    Raises
    ------
    MissingExtraError
        cell2location, or a library that it needs, is not installed.
    HistomixError
        It is installed, but cannot be imported.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            import cell2location.models  # noqa: F401
            import pyro
            import torch
        except ModuleNotFoundError as error:
            raise _missing(error.name or "cell2location") from error
        except ImportError as error:
            raise HistomixError(
                f"cell2location is installed, but cannot be imported ({error})",
                hint='Install the versions that fit together with: pip install "histomix[cell2location]"',
            ) from error
        for name in _CHATTY:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        if threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        # This generator alone: torch.manual_seed would reseed devices that are not put back.
        torch.default_generator.manual_seed(seed)
        # A model of cell2location clears the store of pyro, in which others may have theirs.
        stack.enter_context(pyro.get_param_store().scope())
        stack.enter_context(pyro.validation_enabled(False))
        yield


def fit_guide(
    module: Any,
    batches: Callable[[], Iterable[tuple[torch.Tensor, ...]]],
    plan: Plan,
    progress: Progress,
    task: str,
    checkpoint: Checkpoint | None = None,
) -> list[float]:
    """Fit the guide of a module; to be called inside `isolated_torch`.

    Parameters
    ----------
    module
        A base module of cell2location: ``model`` and ``guide``.
    batches
        Gives the arguments of model and guide, batch by batch, for one epoch.
    plan
        Rate and stopping.
    progress, task
        Told ``task``, epochs done and ``plan.max_epochs``; every 50 epochs the ELBO and the time left are logged.
    checkpoint
        Gone on from if there is one of the same fit; written every 20 epochs and at the end.

    Returns
    -------
    list of float
        The loss (minus the ELBO) of every epoch.

    Raises
    ------
    LabelError
        The loss is no longer finite.
    """
    import pyro
    import torch

    loss_of: Callable[..., torch.Tensor] = pyro.infer.Trace_ELBO().differentiable_loss
    # The parameters of a guide come to be when it is first called.
    module.guide(*next(iter(batches())))
    optimizer = torch.optim.Adam(module.guide.parameters(), lr=plan.lr)
    losses = checkpoint.load(module.guide, optimizer) if checkpoint else []
    if losses:
        _log.info("%s: goes on after epoch %d", task, len(losses))
    before, begun = len(losses), time.monotonic()
    while not settled(losses, plan):
        epoch = []
        for arguments in batches():
            optimizer.zero_grad()
            loss = loss_of(module.model, module.guide, *arguments)
            loss.backward()
            optimizer.step()
            epoch.append(loss.item())
        losses.append(float(np.mean(epoch)))
        if not math.isfinite(losses[-1]):
            raise LabelError(
                f"{task}: the ELBO was lost in epoch {len(losses)} (it is {-losses[-1]})",
                hint="Check that counts and signatures are raw counts; leave out genes or types of extreme values",
            )
        progress(task, len(losses), plan.max_epochs)
        if len(losses) % _REMARK_EVERY == 0:
            left = (time.monotonic() - begun) / (len(losses) - before) * (plan.max_epochs - len(losses))
            remark = "%s: epoch %d, ELBO %.6g, at most %d epochs (%.0f s) to go"
            _log.info(remark, task, len(losses), -losses[-1], plan.max_epochs - len(losses), left)
        if checkpoint and len(losses) % _CHECKPOINT_EVERY == 0:
            checkpoint.save(module.guide, optimizer, losses)
    if checkpoint:
        checkpoint.save(module.guide, optimizer, losses)
    progress(task, plan.max_epochs, plan.max_epochs)
    return losses


def settled(losses: list[float], plan: Plan) -> bool:
    """Whether a fit with these losses is over."""
    if len(losses) >= plan.max_epochs:
        return True
    return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= plan.patience


def moments(guide: Any, site: str) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation of a positive site of an AutoNormal guide, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    mean, square = 0.0, 0.0
    for node, weight in zip(nodes, weights, strict=True):
        value = at_deviate(guide, site, node).astype(np.float64)
        mean, square = mean + weight * value, square + weight * value**2
    return np.asarray(mean), np.sqrt(np.maximum(square - np.square(mean), 0))


def at_deviate(guide: Any, site: str, deviate: float | np.ndarray) -> np.ndarray:
    """Values of a positive site where its normal variable is ``deviate`` standard deviations from its mean."""
    import torch
    from torch.distributions import biject_to

    with torch.no_grad():
        location, scale = getattr(guide.locs, site), getattr(guide.scales, site)
        value = location + scale * torch.as_tensor(deviate, dtype=location.dtype)
        # From the site itself: which transform is meant for positive numbers differs between versions of the libraries.
        return np.asarray(biject_to(guide.prototype_trace.nodes[site]["fn"].support)(value).numpy())


def _missing(library: str) -> MissingExtraError:
    return MissingExtraError(library, "cell2location", "the method cell2location")


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
