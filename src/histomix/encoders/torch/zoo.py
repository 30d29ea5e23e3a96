"""Any image encoder of lazyslide-models (MIT), for those that have no card of their own: ``zoo:NAME``.

Its models download their own weights and know no scale; 0.5 um per px is assumed. A model that needs code from the hub
is refused unless that code is trusted by the caller.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import EncoderError, MissingEncoderError, MissingExtraError, UnknownEncoderError
from ...provenance import digest_file, digest_json
from ..card import EncoderCard
from .base import TorchEncoder
from .weights import ask_hub

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What gives away a model that runs code from the hub.
_REMOTE = ("trust_remote_code=True", "torch.hub.load(")
_IMAGE_TASKS = ("vision", "multimodal")


def zoo_models() -> Mapping[str, Any]:
    """Classes of lazyslide-models by name.

    Raises
    ------
    MissingExtraError
        lazyslide-models is not installed.
    """
    if importlib.util.find_spec("lazyslide_models") is None:
        raise MissingExtraError("lazyslide-models", "zoo", "an encoder of lazyslide-models")
    from lazyslide_models import MODEL_REGISTRY

    return MODEL_REGISTRY


def zoo_card(name: str) -> EncoderCard:
    """The card of a model of lazyslide-models, made from what its registry says.

    Raises
    ------
    EncoderError
        There is no image encoder of that name.
    MissingExtraError
        lazyslide-models is not installed.
    """
    models = zoo_models()
    if name not in models:
        hint = "Print lazyslide_models.list_models() to see the names"
        raise UnknownEncoderError(f"lazyslide-models has no model {name!r}", hint=hint)
    model = models[name]
    tasks = model.task if isinstance(model.task, list) else [model.task]
    if not any(task.value in _IMAGE_TASKS for task in tasks) or not model.encode_dim:
        raise EncoderError(f"{name} of lazyslide-models is no tile encoder", hint="Choose a vision model")
    licence = model.license if isinstance(model.license, str) else ", ".join(model.license or ("not stated",))
    page = model.hf_url or model.github_url
    return EncoderCard(
        name=f"zoo:{name}",
        title=f"{model.__name__} of lazyslide-models",
        source="zoo",
        architecture=model.__name__,
        size_px=model.input_constraint.default_size if model.input_constraint else 224,
        mpp=0.5,
        # The model's own transform normalises.
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        pooling="model",
        dim=model.encode_dim,
        parameters=_millions(model.param_size),
        licence=licence,
        commercial_use=model.commercial,
        gated=bool(model.is_gated),
        paper=model.paper_url or "",
        hub_id=model.hf_url.removeprefix("https://huggingface.co/") if model.hf_url else None,
        website=page,
        unconfirmed=("size_px", "mpp", "mean", "std", "pooling", "dim", "revision"),
    )


def needs_remote_code(name: str) -> bool:
    """Whether a model of lazyslide-models runs code that it downloads, told from the source of its classes."""
    classes = [one for one in zoo_models()[name].__mro__ if one.__module__.partition(".")[0] != "builtins"]
    return any(mark in _source(one) for one in classes for mark in _REMOTE)


class ZooEncoder(TorchEncoder):
    """A model of lazyslide-models; see `histomix.encoders.Encoder`.

    Parameters
    ----------
    card
        See `zoo_card`.
    weights
        Weights file, for the models that take one.
    threads, views, device
        See `histomix.encoders.torch.base.TorchEncoder`.
    trust_code
        Let the model run code that it downloads.

    Raises
    ------
    EncoderError
        The model needs code that is not trusted, takes no local weights, or cannot be loaded.
    """

    def __init__(
        self,
        card: EncoderCard,
        weights: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        views: int | None = None,
        device: str = "auto",
        trust_code: bool = False,
    ) -> None:
        key = card.name.partition(":")[2]
        if needs_remote_code(key) and not trust_code:
            raise EncoderError(
                f"{card.name} runs code that it downloads from {card.page}",
                hint="Read that code, then add --trust-code (in Python trust_code=True) if you trust it",
            )
        self._wrapper = _make(card, zoo_models()[key], weights)
        model = self._wrapper.model
        digest = digest_file(weights) if weights is not None else _state_digest(model)
        super().__init__(card, model, "", threads, views, device)
        self._wrapper.to(self.device)
        model.eval().requires_grad_(False)
        self._transform = self._wrapper.get_transform()
        self.digest = digest_json({"weights": digest, "model": card.name, "size": card.size_px, "views": self.views})

    def preprocess(self, tiles: np.ndarray) -> torch.Tensor:
        """Images of RGB tiles, uint8 (n, size_px, size_px, 3), as the model's own transform makes them.

        A model without a transform takes images as they are: uint8 (n, 3, size_px, size_px).
        """
        if self._transform is None:
            return torch.from_numpy(tiles).permute(0, 3, 1, 2)
        return torch.stack([self._transform(tile) for tile in tiles]).to(self.device)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embedding (n, dim) of images that `preprocess` made."""
        given = images if self._transform is not None else list(images)
        return torch.as_tensor(self._wrapper.encode_image(given))


def _make(card: EncoderCard, model: Any, weights: str | os.PathLike[str] | None) -> Any:
    options: dict[str, Any] = {}
    if weights is not None:
        # Most models have the argument and ignore it: other weights than those given would then be loaded.
        if _source(model.__init__).count("model_path") < 2:
            raise EncoderError(f"{card.name} takes no local weights", where=weights, hint="Leave --weights out")
        if not Path(weights).is_file():
            raise MissingEncoderError(
                "there is no such weights file", where=weights, hint="Check the path given with --weights"
            )
        options["model_path"] = os.fspath(weights)
    else:
        ask_hub(card)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model(**options)
    except ImportError as error:
        raise EncoderError(f"{card.name} needs another library ({error})", hint="Install it, and try again") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise EncoderError(
            f"lazyslide-models cannot load {card.name} ({reason})",
            where=card.page,
            hint="See whether the hub can be reached and has granted access (hf auth login), or choose another encoder",
        ) from error


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""


def _state_digest(model: torch.nn.Module) -> str:
    """Digest of all tensors of a model whose file is not known."""
    import hashlib

    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return "sha256:" + digest.hexdigest()


def _millions(size: int | str | None) -> float:
    """A number of weights such as ``"85.8M"``, in millions; 0 where it is not stated."""
    text = str(size or 0)
    unit = {"K": 1e-3, "M": 1.0, "B": 1e3}.get(text[-1])
    return float(text) / 1e6 if unit is None else round(float(text[:-1]) * unit, 3)
