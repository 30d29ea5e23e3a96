"""What every encoder that runs in torch shares: normalising, views, threads and the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import EncoderError
from ..card import EncoderCard
from ..views import check_output, check_tiles, check_views, mean_of_views

if TYPE_CHECKING:
    from ...slides import TileSpec

DEVICES = ("auto", "cpu", "cuda", "mps")


def find_device(device: str) -> torch.device:
    """The torch device of a name: ``"auto"`` is the first GPU, or the CPU where there is none.

    Raises
    ------
    EncoderError
        The name is unknown, or this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = device.split(":")[0]
    if kind not in DEVICES:
        raise EncoderError(f"there is no device {device!r}", hint=f"Choose one of {', '.join(DEVICES)}")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[kind]:
        raise EncoderError(f"torch finds no device {device!r} here", hint="Choose cpu, or install torch for your GPU")
    return torch.device(device)


class TorchEncoder:
    """A frozen torch model with its card; see `histomix.encoders.Encoder`.

    Parameters
    ----------
    card
        What the encoder is.
    model
        Takes normalised images (n, 3, size_px, size_px) and gives (n, dim).
    digest
        See `histomix.encoders.Encoder`; the device is no part of it.
    threads
        CPU threads for `embed`; None leaves torch's setting.
    views
        Flips and rotations to average (1, 4 or 8); None takes the card's.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.

    Raises
    ------
    EncoderError
        There is no such device, or no such number of views.
    """

    def __init__(
        self,
        card: EncoderCard,
        model: Any,
        digest: str,
        threads: int | None = None,
        views: int | None = None,
        device: str = "auto",
    ) -> None:
        self.card = card
        self.dim = card.dim
        self.views = check_views(card.views if views is None else views)
        self.digest = digest
        self.device = find_device(device)
        self.model = model.to(self.device)
        self._threads = threads
        mean, std = torch.tensor(card.mean), torch.tensor(card.std)
        self._scale = (1.0 / (255.0 * std)).reshape(1, 3, 1, 1).to(self.device)
        self._offset = (-mean / std).reshape(1, 3, 1, 1).to(self.device)

    def tile_spec(self) -> TileSpec:
        """Size and scale of the tiles that `embed` takes."""
        from ...slides import TileSpec

        return TileSpec(size_px=self.card.size_px, mpp=self.card.mpp)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles, uint8 (n, size_px, size_px, 3), as float32 (n, dim).

        Raises
        ------
        EncoderError
            The tiles have another shape or type, or the model gives something else than (n, dim).
        """
        tiles = check_tiles(tiles, self.card.size_px, self.card.name)
        if len(tiles) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        with torch_threads(self._threads), torch.inference_mode():
            return mean_of_views(tiles, self.views, self._embed_once)

    def preprocess(self, tiles: np.ndarray) -> torch.Tensor:
        """Normalised float images (n, 3, size_px, size_px) of RGB tiles, uint8 (n, size_px, size_px, 3)."""
        images = torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2).float()
        return images.mul_(self._scale).add_(self._offset)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embedding (n, dim) of images that `preprocess` made, pooled as the card says."""
        embedding: torch.Tensor = self.model(images)
        return embedding

    def _embed_once(self, tiles: np.ndarray) -> np.ndarray:
        embeddings = self.forward(self.preprocess(tiles))
        check_output(embeddings, len(tiles), self.card)
        return embeddings.float().cpu().numpy()


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch use ``threads`` CPU threads inside the block only: the setting belongs to the whole process."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
