"""What runs an encoder: torch, ONNX Runtime, or 8-bit integers.

On two quiet cores ONNX Runtime was 4 to 6 times as fast as torch for small convolutional networks and 1.08 times for
ViT-S/16; 8-bit products were 1.7 to 2.9 times as fast for vision transformers. bfloat16 is slower than float32 on CPUs
without AMX, and is never used there. Whatever runs, features stay within a stated tolerance of torch in float32, or the
encoder has another identity.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..common.cache import cache_folder
from ..errors import EncoderError, MissingExtraError, StorageError
from ..provenance import digest_json
from .card import Encoder, EncoderCard
from .onnx.session import OnnxSession
from .views import check_tiles, mean_of_views, view

if TYPE_CHECKING:
    import torch

    from ..slides import TileSpec

Runtime = Literal["auto", "torch", "onnx", "int8"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
#: Largest relative difference of features (L2, per tile) from torch in float32, in float32 and in half precision.
TOLERANCE = 1e-4
HALF_TOLERANCE = 5e-3
#: Least cosine of 8-bit features with those of torch in float32: below it a network is refused, not approximated.
INT8_COSINE = 0.95
#: Larger models gain nothing from ONNX Runtime that is worth a second copy of their weights on disk.
_LARGEST_AUTO = 100e6
#: A graph file holds at most 2 GiB.
_LARGEST_GRAPH = 450e6
_BATCH = 16
#: 8-bit ranges are found over all that is encoded at once: alone, a tile does not depend on its neighbours.
_INT8_BATCH = 1
_LOG = logging.getLogger(__name__)


def optimise(
    encoder: Encoder, runtime: Runtime = "auto", threads: int | None = None, cache: Path | None = None
) -> Encoder:
    """The same encoder on the runtime that suits it and this machine.

    Parameters
    ----------
    encoder
        A loaded encoder. One without a torch model (the built-in one, one of the user's) brings its own runtime.
    runtime
        ``"auto"``: half precision on a GPU where features stay within `HALF_TOLERANCE`; on a CPU ONNX Runtime for
        models of less than 100 million parameters where the library onnx is installed, else torch. ``"torch"``:
        float32 in torch. ``"onnx"``: ONNX Runtime.
        ``"int8"``: ONNX Runtime with 8-bit matrix products; features move, so ``digest`` and ``precision`` do too.
    threads
        CPU threads; None takes one for each core.
    cache
        Folder for exported graphs; None takes ``onnx`` in the cache (see `histomix.common.cache`).

    Returns
    -------
    An encoder with the same card, whose ``runtime`` says in words what runs it.

    Raises
    ------
    EncoderError
        The runtime is unknown, or cannot run this encoder ("auto" falls back to torch, with a note in the log).
    MissingExtraError
        ``"onnx"`` or ``"int8"`` without the library onnx.
    """
    if runtime not in RUNTIMES:
        raise EncoderError(f"there is no runtime {runtime!r}", hint=f"Choose one of {', '.join(RUNTIMES)}")
    if not all(hasattr(encoder, name) for name in ("model", "preprocess", "forward")):
        if runtime in ("onnx", "int8"):
            hint = "Leave the runtime at auto"
            raise EncoderError(f"the encoder {encoder.card.name} brings its own runtime, not {runtime}", hint=hint)
        return encoder
    count = sum(parameter.numel() for parameter in encoder.model.parameters())  # type: ignore[attr-defined]
    on_cpu = str(getattr(encoder, "device", "cpu")).startswith("cpu")
    if runtime == "torch" or (runtime == "auto" and not (on_cpu and count < _LARGEST_AUTO)):
        half = runtime == "auto" and not on_cpu
        on_cuda = str(getattr(encoder, "device", "cpu")).startswith("cuda")
        return (PinnedTorchRuntime if on_cuda else TorchRuntime)(encoder, half=half, threads=threads)
    if not on_cpu:
        raise EncoderError(f"the runtime {runtime} is for CPUs", hint="Load the encoder with device cpu")
    if count > _LARGEST_GRAPH:
        raise EncoderError(
            f"{encoder.card.name} has {count / 1e6:.0f} million parameters, more than a graph file can hold",
            hint="Use the runtime torch",
        )
    try:
        return OnnxRuntime(encoder, int8=runtime == "int8", threads=threads, cache=cache)
    except (EncoderError, MissingExtraError, StorageError) as error:
        if runtime != "auto":
            raise
        _LOG.info("torch runs %s: %s", encoder.card.name, error)
        return TorchRuntime(encoder, half=False, threads=threads)


class _Wrapped:
    """What a runtime keeps of the encoder it runs."""

    def __init__(self, encoder: Encoder) -> None:
        self.card: EncoderCard = encoder.card
        self.digest, self.views, self.dim = encoder.digest, encoder.views, encoder.dim
        self.precision = "float32"
        self.runtime = ""
        self._spec = encoder.tile_spec()

    def tile_spec(self) -> TileSpec:
        """Size and scale of the tiles that `embed` takes."""
        return self._spec


class OnnxRuntime(_Wrapped):
    """A torch encoder run by ONNX Runtime on the CPU; see `optimise`."""

    def __init__(self, encoder: Any, *, int8: bool, threads: int | None, cache: Path | None) -> None:
        from .onnx.graph import FORMAT, export_graph, kept_graph, quantise_graph

        super().__init__(encoder)
        self._batch = _INT8_BATCH if int8 else _BATCH
        folder = cache_folder("onnx") if cache is None else cache
        key = digest_json([encoder.digest, FORMAT]).removeprefix("sha256:")[:24]

        def make(path: Path) -> dict[str, float]:
            export_graph(encoder, path)
            self._session = OnnxSession(path, threads)
            return _verify(self, encoder, TOLERANCE)

        def make_int8(path: Path) -> dict[str, float]:
            float_path = path.with_name("float32.onnx")
            export_graph(encoder, float_path)
            quantise_graph(float_path, path)
            float_path.unlink()
            self._session = OnnxSession(path, threads)
            return _verify(self, encoder, None)

        if int8:
            graph, verified = kept_graph(folder / f"{key}-int8.onnx", make_int8)
            self.precision = "int8"
            self.digest = digest_json({"encoder": encoder.digest, "precision": "int8", "format": FORMAT})
            state = f"8-bit products, cosine {verified['cosine']:.4f} with float32"
        else:
            graph, verified = kept_graph(folder / f"{key}.onnx", make)
            state = f"float32, within {verified['difference']:.1e} of torch"
        self._session = OnnxSession(graph, threads)
        self.runtime = f"ONNX Runtime on the CPU ({state})"

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles, uint8 (n, size_px, size_px, 3), as float32 (n, dim).

        Raises
        ------
        EncoderError
            The tiles have another shape or type.
        """
        tiles = check_tiles(tiles, self.card.size_px, self.card.name)
        batches = [tiles[start : start + self._batch] for start in range(0, len(tiles), self._batch)]
        embeddings = [mean_of_views(batch, self.views, self._embed_once) for batch in batches]
        return np.concatenate(embeddings) if embeddings else np.empty((0, self.dim), dtype=np.float32)

    def _embed_once(self, tiles: np.ndarray) -> np.ndarray:
        return self._session.run(tiles)


class TorchRuntime(_Wrapped):
    """A torch encoder as torch runs it best; see `optimise`.

    Convolutions run on channels-last memory, and half precision is used where it is asked for and features stay within
    `HALF_TOLERANCE` of float32.
    """

    def __init__(self, encoder: Any, *, half: bool, threads: int | None = None) -> None:
        import torch

        super().__init__(encoder)
        self._encoder, self._threads = encoder, threads
        self.device = torch.device(getattr(encoder, "device", "cpu"))
        self._format = torch.channels_last if _is_convolutional(encoder.model) else torch.contiguous_format
        encoder.model.to(memory_format=self._format)
        self._dtype: torch.dtype | None = None
        if half:
            self._dtype = self._half_dtype(encoder)
        precision = "float32" if self._dtype is None else str(self._dtype).removeprefix("torch.")
        self.runtime = f"torch on {self.device.type} ({precision})"

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles, uint8 (n, size_px, size_px, 3), as float32 (n, dim); raises as the encoder itself."""
        tiles = check_tiles(tiles, self.card.size_px, self.card.name)
        if len(tiles) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        return mean_of_views(tiles, self.views, self._embed_once)

    def _embed_once(self, tiles: np.ndarray) -> np.ndarray:
        import torch

        from .torch.base import torch_threads

        half = torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None)
        with torch_threads(self._threads), torch.inference_mode(), half:
            images = self._encoder.preprocess(tiles).contiguous(memory_format=self._format)
            embedding: np.ndarray = self._encoder.forward(images).float().cpu().numpy()
            return embedding

    def _half_dtype(self, encoder: Any) -> torch.dtype | None:
        """The half precision that keeps features within the tolerance, None when neither does."""
        import torch

        for dtype in (torch.float16, torch.bfloat16):
            self._dtype = dtype
            try:
                _verify(self, encoder, HALF_TOLERANCE)
            except EncoderError as error:
                _LOG.info("%s; not used", error.what)
                continue
            return dtype
        return None


class PinnedTorchRuntime(TorchRuntime):
    """The same on a GPU, which copies pinned memory at full speed: the threads that read the tiles pin them."""

    def prepare(self, tiles: np.ndarray) -> list[np.ndarray]:
        """Views of tiles in pinned memory."""
        import torch

        return [torch.from_numpy(view(tiles, number)).pin_memory().numpy() for number in range(self.views)]

    def encode(self, prepared: list[np.ndarray]) -> np.ndarray:
        """Embedding (n, dim), float32, of what `prepare` made."""
        mean: np.ndarray = np.stack([self._embed_once(images) for images in prepared]).mean(axis=0)
        return mean


def _verify(runtime: Any, encoder: Any, tolerance: float | None) -> dict[str, float]:
    """Compare a runtime with the encoder itself.

    Returns
    -------
    ``difference`` (largest relative L2 difference of a tile's features) and ``cosine`` (least of a tile).

    Raises
    ------
    EncoderError
        Features differ by more than ``tolerance``, or where that is None have a cosine below `INT8_COSINE`.
    """
    from .onnx.graph import trial_tiles

    tiles = trial_tiles(encoder.card.size_px)
    a, b = (np.asarray(each.embed(tiles), dtype=np.float64) for each in (runtime, encoder))
    size_a, size_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    difference = float((np.linalg.norm(a - b, axis=1) / size_b).max())
    cosine = float(((a * b).sum(axis=1) / (size_a * size_b)).min())
    if not (difference <= tolerance if tolerance is not None else cosine >= INT8_COSINE):
        raise EncoderError(
            f"the faster runtime moves the features of {encoder.card.name} (difference {difference:.2g}, "
            f"cosine {cosine:.4f})",
            hint="Use the runtime torch",
        )
    return {"difference": difference, "cosine": cosine}


def _is_convolutional(model: torch.nn.Module) -> bool:
    import torch

    weights = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    return sum(weights) > 0.5 * sum(parameter.numel() for parameter in model.parameters())
