"""An encoder that sees another field of view than its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..slides import TileSpec

if TYPE_CHECKING:
    import numpy as np

    from . import Encoder


def with_field_of_view(encoder: Encoder, fov_um: float | None) -> Encoder:
    """The same encoder on tiles ``fov_um`` wide, such as the diameter of a spot; None: its own tile.

    A tile keeps the encoder's size in px, so its um per px become ``fov_um / size_px``. Manifests and heads carry both,
    and features of different fields never meet.

    Raises
    ------
    InputError
        The width is not a positive number.
    """
    if fov_um is None:
        return encoder
    return _Field(encoder, field_spec(encoder.tile_spec(), fov_um))


def field_spec(spec: TileSpec, fov_um: float | None) -> TileSpec:
    """A tile of the same px over ``fov_um`` (None: as it is); InputError unless that is a positive number."""
    if fov_um is None:
        return spec
    if not 0 < fov_um < math.inf:
        raise InputError(f"the field of view must be a positive number of um, not {fov_um!r}")
    return TileSpec(spec.size_px, fov_um / spec.size_px, spec.stride_um)


class _Field:
    def __init__(self, encoder: Encoder, spec: TileSpec) -> None:
        self._encoder, self._spec = encoder, spec
        self.card, self.digest = encoder.card, encoder.digest
        self.views, self.dim = encoder.views, encoder.dim

    def __getattr__(self, name: str) -> Any:
        if name == "_encoder":  # a copy in the making has none yet
            raise AttributeError(name)
        return getattr(self._encoder, name)  # what a runtime adds: its name, precision, and work done ahead

    def tile_spec(self) -> TileSpec:
        return self._spec

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        return self._encoder.embed(tiles)
