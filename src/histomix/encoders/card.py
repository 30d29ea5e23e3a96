"""What is known of an encoder before its weights are there, and what every loaded encoder can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from ..slides import TileSpec

Source = Literal["builtin", "timm", "zoo", "file", "python"]
Pooling = Literal["class", "class+mean", "mean", "stages", "attention", "projection", "model"]
Channels = tuple[float, float, float]
#: Names under which the hub stores weights, the safe format first.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class EncoderCard:
    """The facts of one encoder, as its authors publish them.

    Parameters
    ----------
    name
        How the encoder is asked for.
    title
        Name and kind of network, for people.
    source
        ``"builtin"``: the weights are part of histomix. ``"timm"``: a timm architecture with weights from the hub.
        ``"zoo"``: a model of lazyslide-models. ``"file"``: a TorchScript or ONNX file with a card file.
        ``"python"``: registered by other code.
    hub_id
        Repository on the Hugging Face hub; None where there is none.
    revision
        Full commit that is loaded from the hub; None: not known, whatever ``main`` holds.
    files
        Names of the weights in the repository, the preferred one first; of a ``"file"`` card, the model's path.
    website
        Where weights that no hub repository holds are published.
    architecture, arguments
        Name of the timm model and the arguments it is created with (see `histomix.encoders.torch.architectures`).
    size_px, mpp
        The tile: side in px, and um per px.
    mean, std
        Normalisation of RGB scaled to 0..1.
    pooling
        ``"class"``: class token. ``"class+mean"``: class token, then the mean of the patch tokens (register tokens
        left out). ``"mean"``: global mean of the last feature map. ``"stages"``: pools of several feature maps.
        ``"attention"``: a learned query over all tokens. ``"projection"``: class token, projected to the space shared
        with text. ``"model"``: whatever the model itself gives.
    layers
        Feature maps (stages of a convolutional network, blocks of a transformer, from 0) whose spatial means
        ``"stages"`` joins.
    dim
        Length of the embedding.
    parameters
        Number of weights of the image encoder, in millions.
    licence, commercial_use
        Licence of the weights, and whether it allows commercial use (None: not known).
    gated
        The hub asks for the licence to be accepted first.
    paper
        Address of the publication.
    views
        Flips and rotations that are averaged unless asked otherwise.
    unconfirmed
        Names of fields above that no public model card or code confirmed.
    """

    name: str
    title: str
    source: Source
    architecture: str
    size_px: int
    mpp: float
    mean: Channels
    std: Channels
    pooling: Pooling
    dim: int
    parameters: float
    licence: str
    commercial_use: bool | None
    gated: bool
    paper: str
    hub_id: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = HUB_FILES
    website: str | None = None
    layers: tuple[int, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    views: int = 1
    unconfirmed: tuple[str, ...] = ()

    @property
    def page(self) -> str | None:
        """Where the weights are described and their licence is accepted."""
        return self.website if self.hub_id is None else f"https://huggingface.co/{self.hub_id}"


class Encoder(Protocol):
    """An encoder that is ready: tiles in, embeddings out.

    Attributes
    ----------
    card
        Its facts.
    digest
        Changes when anything changes that embeddings depend on: weights, normalisation, pooling, number of views.
    views
        Flips and rotations that are averaged: 1, 4 or 8.
    dim
        Length of the embedding.
    """

    card: EncoderCard
    digest: str
    views: int
    dim: int

    def tile_spec(self) -> TileSpec:
        """Size and scale of the tiles that `embed` takes."""

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles, uint8 (n, size_px, size_px, 3), as float32 (n, dim)."""
