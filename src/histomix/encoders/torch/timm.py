"""Encoders that are a timm architecture with weights from the hub or from a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import EncoderError
from ...provenance import digest_file, digest_json
from ..card import EncoderCard
from .architectures import create_model
from .base import TorchEncoder
from .layouts import rename
from .weights import read_weights, weights_files

if TYPE_CHECKING:
    from torch import nn

#: Fields of a card that an embedding depends on.
_DECISIVE = ("architecture", "arguments", "size_px", "mpp", "mean", "std", "pooling", "layers")


class TimmEncoder(TorchEncoder):
    """A frozen timm model; see `histomix.encoders.Encoder`.

    Parameters
    ----------
    card
        What the encoder is.
    path
        Its weights, see `histomix.encoders.torch.weights.find_weights`.
    threads, views, device
        See `histomix.encoders.torch.base.TorchEncoder`.

    Raises
    ------
    EncoderError
        The weights cannot be read or are of another architecture.
    """

    def __init__(
        self,
        card: EncoderCard,
        path: Path,
        threads: int | None = None,
        views: int | None = None,
        device: str = "auto",
    ) -> None:
        super().__init__(card, load_model(card, path), "", threads, views, device)
        facts = dataclasses.asdict(card)
        self.digest = digest_json(
            {"weights": _digest(path), "views": self.views, **{key: facts[key] for key in _DECISIVE}}
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embedding (n, dim) of images that `preprocess` made, pooled as the card says."""
        return pool(self.model, images, self.card)


def _digest(path: Path) -> str:
    """Of the weights, in one file or in several."""
    files = weights_files(path)
    return digest_file(path) if files == [path] else digest_json([digest_file(file) for file in files])


def pool(model: Any, images: torch.Tensor, card: EncoderCard) -> torch.Tensor:
    """Embedding (n, dim) of normalised images (n, 3, size_px, size_px), pooled as the card says."""
    if card.pooling == "class+mean":
        # Register tokens stand between the class token and the patches and belong to neither.
        tokens = model.forward_features(images)
        return torch.cat([tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(dim=1)], dim=1)
    if card.pooling == "stages":
        # The last layer norm brings the blocks of a transformer to one scale; a convolutional network has none.
        options = {"norm": True} if hasattr(model, "num_prefix_tokens") else {}
        maps = model.forward_intermediates(images, indices=list(card.layers), intermediates_only=True, **options)
        return torch.cat([one.mean(dim=(2, 3)) for one in maps], dim=1)
    embedding: torch.Tensor = model(images)
    return embedding


def load_model(card: EncoderCard, path: Path) -> nn.Module:
    """The network of a card with weights in their publisher's layout, frozen, in float32.

    Raises
    ------
    EncoderError
        The weights cannot be read or are of another architecture.
    """
    published = read_weights(path)
    model = create_model(card)
    if set(dict(model.named_buffers())) - set(model.state_dict()):
        # Some buffers are computed when the network is made, and no weights file holds them.
        model = create_model(card, "cpu")
    expected = model.state_dict()
    state = rename(published, expected)
    classifier = getattr(model, "default_cfg", {}).get("classifier") or "head"
    state = {key: value for key, value in state.items() if key in expected or not key.startswith(f"{classifier}.")}
    faults = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [key for key in state if key in expected and state[key].shape != expected[key].shape],
    }
    descriptions = [f"{len(keys)} {kind} (such as {', '.join(keys[:2])})" for kind, keys in faults.items() if keys]
    if descriptions:
        raise EncoderError(
            f"these weights do not belong to {card.name} ({card.architecture}): tensors {'; '.join(descriptions)}",
            where=path,
            hint=f"Give the weights of {card.hub_id or card.page}, or the name of the encoder that the weights are of",
        )
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False).float()
