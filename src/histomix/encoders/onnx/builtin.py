"""The encoder that needs no model hub: the first stages of EfficientNet-Lite0, run by ONNX Runtime.

Late layers of an ImageNet network name objects; its early and middle ones describe texture, which is what tissue types
differ in. `scripts/convert_builtin.py` makes the graph and `tests/test_encoders_builtin.py` compares it with the
original.

The tile is 112 um wide: wider ones score higher between neighbouring sections of one patient and lower across donors.
Averaging four rotations raises the score across donors by up to 0.02 of Pearson, at four times the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import EncoderError
from ...provenance import digest_bytes, digest_json
from ..catalogue import known_cards
from ..views import check_tiles, check_views, mean_of_views
from .session import OnnxSession

if TYPE_CHECKING:
    from ...slides import TileSpec

CARD = known_cards()["builtin"]
GRAPH = Path(__file__).with_name("builtin.onnx")
GRAPH_DIGEST = "sha256:f6f76e244f55d1e52269829dc5eacca5cc261a1574bcdaafe8b0bcbd7d8e2ba1"
#: Stages kept of the seven; later ones score lower on unseen donors.
STAGES = 5
#: Added to the variance of a feature map, so that rounding cannot show in the standard deviation of a blank tile.
VARIANCE_FLOOR = 1e-6
_BATCH = 16


def read_graph(path: Path = GRAPH) -> bytes:
    """The built-in network, checked against the digest it was released with.

    Raises
    ------
    EncoderError
        The file is missing or has been altered.
    """
    hint = "Install histomix again"
    try:
        graph = path.read_bytes()
    except OSError as error:
        raise EncoderError(
            f"the built-in encoder's weights cannot be read ({error.strerror})", where=path, hint=hint
        ) from error
    if digest_bytes(graph) != GRAPH_DIGEST:
        raise EncoderError("the built-in encoder's weights were altered or are damaged", where=path, hint=hint)
    return graph


class BuiltinEncoder:
    """The built-in encoder; see `histomix.encoders.Encoder`.

    Parameters
    ----------
    threads
        CPU threads; None lets ONNX Runtime take one for each core.
    views
        Flips and rotations to average (1, 4 or 8); None takes the card's.

    Raises
    ------
    EncoderError
        The weights are missing or altered.
    """

    def __init__(self, threads: int | None = None, views: int | None = None) -> None:
        self.card = CARD
        self.dim = CARD.dim
        self.views = check_views(CARD.views if views is None else views)
        self.runtime = "ONNX Runtime on the CPU (float32)"
        self.digest = digest_json({"weights": GRAPH_DIGEST, "mpp": CARD.mpp, "views": self.views})
        self.session = OnnxSession(
            read_graph(), threads, what="the built-in encoder's graph", hint="Install histomix again"
        )

    def tile_spec(self) -> TileSpec:
        """Size and scale of the tiles that `embed` takes."""
        from ...slides import TileSpec

        return TileSpec(size_px=CARD.size_px, mpp=CARD.mpp)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles, uint8 (n, size_px, size_px, 3), as float32 (n, dim).

        Raises
        ------
        EncoderError
            The tiles have another shape or type.
        """
        tiles = check_tiles(tiles, CARD.size_px, CARD.name)
        batches = [tiles[start : start + _BATCH] for start in range(0, len(tiles), _BATCH)]
        embeddings = [mean_of_views(batch, self.views, self._embed_once) for batch in batches]
        return np.concatenate(embeddings) if embeddings else np.empty((0, self.dim), dtype=np.float32)

    def _embed_once(self, tiles: np.ndarray) -> np.ndarray:
        return self.session.run(tiles)
