"""The networks of the cards, made of timm's parts; weights come later."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import EncoderError
from ..card import EncoderCard

if TYPE_CHECKING:
    from collections.abc import Callable


class ConvStem(nn.Module):
    """Patches by convolutions: two halvings with batch norm, then one 1x1 convolution (arXiv 2106.14881).

    CTransPath puts it in front of a Swin transformer (doi 10.1016/j.media.2022.102559); the names of its tensors are
    those of its published weights. Takes what timm gives an ``embed_layer``; the patch is 4 px.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        rows, columns = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size = (rows // patch_size, columns // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        parts: list[nn.Module] = []
        channels, wider = in_chans, embed_dim // 8
        for _halving in range(2):
            parts += [nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
            channels, wider = wider, wider * 2
        self.proj = nn.Sequential(*parts, nn.Conv2d(channels, embed_dim, 1))
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Patches (n, rows, columns, embed_dim) of images (n, channels, height, width)."""
        patches: torch.Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return patches


class MultiheadPool(nn.Module):
    """One learned query attends to all tokens, as in CoCa (arXiv 2205.01917); CONCH's pooler."""

    def __init__(self, width: int, dim: int, heads: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=width, vdim=width, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool (n, dim) of tokens (n, count, width)."""
        tokens = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), -1, -1)
        pooled: torch.Tensor = self.attn(query, tokens, tokens, need_weights=False)[0][:, 0]
        return pooled


class PlainPool(nn.Module):
    """The same with projections that have no bias; CONCH v1.5's pooler."""

    def __init__(self, width: int, dim: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.ln_k = nn.LayerNorm(width)
        self.ln_q = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool (n, dim) of tokens (n, count, width)."""
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)
        key, value = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)]
        pooled = nn.functional.scaled_dot_product_attention(*split)
        embedding: torch.Tensor = self.to_out(pooled.transpose(1, 2).flatten(2))[:, 0]
        return embedding


class AttentionPooled(nn.Module):
    """A vision transformer whose tokens are pooled by a learned query, then normalised."""

    def __init__(self, trunk: nn.Module, pool: type[nn.Module], width: int, dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = pool(width, dim)
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embedding (n, dim) of normalised images (n, 3, height, width)."""
        embedding: torch.Tensor = self.ln_contrast(self.attn_pool_contrast(self.trunk(images)))
        return embedding


#: Poolers of the cards whose pooling is ``"attention"``, by the card's argument ``pooler``.
POOLERS: dict[str, type[nn.Module]] = {"multihead": MultiheadPool, "plain": PlainPool}


def create_model(card: EncoderCard, device: str = "meta") -> nn.Module:
    """The network of a card without a classifier and without weights.

    Besides timm's own arguments a card may give ``norm_eps`` (epsilon of every layer norm) and ``pooler``; layers are
    given by name.

    Parameters
    ----------
    card
        A card whose source is ``"timm"``.
    device
        Where its tensors are; on ``"meta"`` they have shapes, but no values and no memory.

    Raises
    ------
    EncoderError
        The installed timm does not know the architecture.
    """
    import timm
    from timm.layers import SwiGLUPacked

    layers: dict[Any, Any] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU, "ConvStem": ConvStem}
    arguments: dict[str, Any] = {"num_classes": 0}
    for key, value in card.arguments.items():
        arguments[key] = layers.get(value, value) if isinstance(value, str) else value
    if (epsilon := arguments.pop("norm_eps", None)) is not None:
        arguments["norm_layer"] = partial(nn.LayerNorm, eps=epsilon)
    pooler = arguments.pop("pooler", None)
    if pooler is not None:
        arguments["global_pool"] = ""
    if not timm.is_model(card.architecture):
        raise EncoderError(
            f"the installed timm {timm.__version__} does not know the architecture {card.architecture} of {card.name}",
            hint="Upgrade it with: pip install -U timm",
        )
    with torch.device(device):
        model: Any = timm.create_model(card.architecture, pretrained=False, **arguments)
        if pooler is None:
            network: nn.Module = model
            return network
        return AttentionPooled(model, POOLERS[pooler], model.num_features, card.dim)
