"""Encoders that are a timm architecture with weights from the hub or from a file."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EncoderError
from ..provenance import digest_file, digest_json
from .card import EncoderCard
from .views import check_tiles, check_views, mean_of_views
from .weights import read_weights

if TYPE_CHECKING:
    import torch

    from ..slides import TileSpec

#: Fields of a card that an embedding depends on.
_DECISIVE = ("architecture", "arguments", "size_px", "mpp", "mean", "std", "pooling")


def create_model(card: EncoderCard) -> torch.nn.Module:
    """The card's architecture without a classifier and without weights: its tensors are on torch's meta device."""
    import timm
    import torch
    from timm.layers import SwiGLUPacked

    layers = {"SwiGLUPacked": SwiGLUPacked, "SiLU": torch.nn.SiLU}
    arguments: dict[str, Any] = {
        key: layers[value] if isinstance(value, str) and value in layers else value
        for key, value in card.arguments.items()
    }
    with torch.device("meta"):
        return timm.create_model(card.architecture, pretrained=False, num_classes=0, **arguments)


class TimmEncoder:
    """A frozen timm model; see `histomix.encoders.Encoder`.

    Parameters
    ----------
    card
        What the encoder is.
    path
        Its weights, see `histomix.encoders.weights.find_weights`.
    threads
        CPU threads for `embed`; None leaves torch's setting.
    views
        Flips and rotations to average (1, 4 or 8); None takes the card's.

    Raises
    ------
    EncoderError
        The weights cannot be read or are of another architecture.
    """

    def __init__(self, card: EncoderCard, path: Path, threads: int | None = None, views: int | None = None) -> None:
        import torch

        self.card = card
        self.dim = card.dim
        self.views = check_views(card.views if views is None else views)
        self._threads = threads
        self._model = _with_weights(card, path)
        scale = 255.0 * torch.tensor(card.std)
        self._scale = (1.0 / scale).reshape(1, 3, 1, 1)
        self._offset = (-torch.tensor(card.mean) / torch.tensor(card.std)).reshape(1, 3, 1, 1)
        facts = dataclasses.asdict(card)
        self.digest = digest_json(
            {"weights": digest_file(path), "views": self.views, **{key: facts[key] for key in _DECISIVE}}
        )

    def tile_spec(self) -> TileSpec:
        """Size and scale of the tiles that `embed` takes."""
        from ..slides import TileSpec

        return TileSpec(size_px=self.card.size_px, mpp=self.card.mpp)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles, uint8 (n, size_px, size_px, 3), as float32 (n, dim).

        Raises
        ------
        EncoderError
            The tiles have another shape or type.
        """
        import torch

        tiles = check_tiles(tiles, self.card.size_px, self.card.name)
        if len(tiles) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        with _torch_threads(self._threads), torch.inference_mode():
            return mean_of_views(tiles, self.views, self._embed_once)

    def _embed_once(self, tiles: np.ndarray) -> np.ndarray:
        import torch

        images = torch.from_numpy(tiles).permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._offset)
        return pool(self._model, images, self.card).numpy()


def pool(model: Any, images: torch.Tensor, card: EncoderCard) -> torch.Tensor:
    """Embedding (n, dim) of normalised images (n, 3, size_px, size_px), pooled as the card says."""
    import torch

    if card.pooling != "class+mean":
        return model(images)
    # Register tokens stand between the class token and the patches and belong to neither.
    tokens = model.forward_features(images)
    return torch.cat([tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(dim=1)], dim=1)


def _with_weights(card: EncoderCard, path: Path) -> torch.nn.Module:
    state = read_weights(path)
    model = create_model(card)
    classifier = getattr(model, "default_cfg", {}).get("classifier") or "head"
    state = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
    expected = model.state_dict()
    faults = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [key for key in state if key in expected and state[key].shape != expected[key].shape],
    }
    found = [f"{len(keys)} {kind} (such as {', '.join(keys[:2])})" for kind, keys in faults.items() if keys]
    if found:
        raise EncoderError(
            f"these weights do not belong to {card.name} ({card.architecture}): tensors {'; '.join(found)}",
            where=path,
            mend=f"Give the weights of {card.hub_id}, or the name of the encoder that the weights are of",
        )
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False).float()


@contextlib.contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch use ``threads`` CPU threads inside the block only: the setting belongs to the whole process."""
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
