"""What runs an encoder: torch, ONNX Runtime or OpenVINO, in float32 or in less.

Which is the fastest depends on the model and the machine, so it is measured, once a machine. Those that compute in
float32 give features within `TOLERANCE` of torch's and stand for each other; what moves features further has another
identity, which the features and the heads that are made of them carry.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..common.cache import cache_folder
from ..errors import EncoderError, MissingExtraError, StorageError
from ..provenance import digest_json, versions
from .card import Encoder, EncoderCard
from .onnx import openvino
from .onnx.session import OnnxSession
from .racing import fastest, known_facts
from .views import check_tiles, mean_of_views, view

if TYPE_CHECKING:
    import torch

    from ..slides import TileSpec

Runtime = Literal["auto", "torch", "onnx", "openvino", "bf16", "int8"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
#: Precision of features -> the runtime that computes in it.
PRECISIONS: dict[str, Runtime] = {"float32": "auto", "bfloat16": "bf16", "int8": "int8"}
#: Largest relative difference of features (L2, per tile) from torch in float32, in float32 and in half precision.
TOLERANCE = 1e-4
HALF_TOLERANCE = 5e-3
#: Least cosine of features with those in float32: below it a network is refused, not approximated.
LEAST_COSINE = {"bfloat16": 0.999, "int8": 0.95}
_BATCH = 16
#: 8-bit ranges are found over all that is encoded at once: alone, a tile does not depend on its neighbours.
_INT8_BATCH = 1
_LOG = logging.getLogger(__name__)
#: What one runtime may fail with, so that another is taken.
_UNUSABLE = (EncoderError, MissingExtraError, StorageError)


def optimise(
    encoder: Encoder,
    runtime: Runtime = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    precision: str | None = None,
) -> Encoder:
    """The same encoder on the runtime that suits it and this machine.

    Parameters
    ----------
    encoder
        A loaded encoder. One without a torch model or an ONNX graph brings its own runtime.
    runtime
        ``"auto"``: half precision on a GPU where features stay within `HALF_TOLERANCE`; on a CPU the fastest of those
        below that are installed, by a short race that is kept in the cache. ``"torch"``, ``"onnx"`` (ONNX Runtime),
        ``"openvino"``: that one, in float32. ``"bf16"``: OpenVINO in bfloat16. ``"int8"``: ONNX Runtime with 8-bit
        matrix products. In bfloat16 and 8 bits features move, so ``digest`` and ``precision`` do too, and "auto" takes
        neither unless ``precision`` asks for it. A graph of its own (the built-in encoder) it leaves where it is.
    threads
        CPU threads; None takes one for each core.
    cache
        Folder for exported graphs and what was measured; None takes ``onnx`` in the cache (`histomix.common.cache`).
    precision
        What features must be computed in with "auto", since a head or others' features are: "float32", "bfloat16" or
        "int8". None: as it chooses.

    Returns
    -------
    An encoder with the same card, whose ``runtime`` says in words what runs it. In another precision its ``float32`` is
    the encoder without it.

    Raises
    ------
    EncoderError
        The runtime is unknown, or cannot run this encoder ("auto" falls back to another, with a note in the log).
    MissingExtraError
        A runtime whose libraries are not installed.
    """
    if runtime not in RUNTIMES:
        raise EncoderError(f"there is no runtime {runtime!r}", hint=f"Choose one of {', '.join(RUNTIMES)}")
    if runtime == "auto" and precision is not None:
        runtime = PRECISIONS.get(precision, "auto")
    in_torch = all(hasattr(encoder, name) for name in ("model", "preprocess", "forward"))
    device = str(getattr(encoder, "device", "cpu"))
    if in_torch and (runtime == "torch" or (runtime == "auto" and not device.startswith("cpu"))):
        kind = PinnedTorchRuntime if device.startswith("cuda") else TorchRuntime
        return kind(encoder, half=runtime == "auto", threads=threads)
    if not device.startswith("cpu"):
        raise EncoderError(f"the runtime {runtime} is for CPUs", hint="Load the encoder with device cpu")

    def folder() -> Path:
        return cache_folder("onnx") if cache is None else cache

    make: dict[str, Callable[[], Encoder]]
    if in_torch:
        make = {
            "torch": lambda: TorchRuntime(encoder, half=False, threads=threads),
            "onnx": lambda: OnnxRuntime(encoder, int8=False, threads=threads, cache=folder()),
            "int8": lambda: OnnxRuntime(encoder, int8=True, threads=threads, cache=folder()),
        }
    else:
        make = {"torch": lambda: encoder, "onnx": lambda: encoder}
    if in_torch or hasattr(encoder, "session"):
        make["openvino"] = lambda: on_openvino(encoder, "float32", threads, folder())
        make["bf16"] = lambda: on_openvino(encoder, "bfloat16", threads, folder())
    if runtime != "auto":
        if runtime not in make:
            hint = "Leave the runtime at auto"
            raise EncoderError(f"the encoder {encoder.card.name} brings its own runtime, not {runtime}", hint=hint)
        return make[runtime]()
    if not in_torch:
        return encoder
    for name in ("int8", "bf16", *(() if openvino.is_installed() else ("openvino",))):
        del make[name]
    return fastest(encoder, make, folder, [threads], _UNUSABLE)


def precision_digest(encoder: Encoder, precision: str) -> str:
    """Digest of an encoder in another precision than float32."""
    facts = {"encoder": encoder.digest, "precision": precision}
    if precision == "int8":
        from .onnx.graph import FORMAT

        facts["format"] = FORMAT  # type: ignore[assignment]
    return digest_json(facts)


def in_place_of(encoder: Any, precision: str) -> Encoder:
    """An encoder in float32 that passes for itself in another precision, for heads that are moved little by it."""
    other = copy.copy(encoder)
    other.digest, other.precision = precision_digest(encoder, precision), precision
    other.runtime = f"{getattr(encoder, 'runtime', 'float32')}, in place of {precision}"
    return other  # type: ignore[no-any-return]


def on_openvino(encoder: Any, precision: Literal["float32", "bfloat16"], threads: int | None, folder: Path) -> Encoder:
    """An encoder on OpenVINO; see `optimise`.

    Parameters
    ----------
    encoder
        One with an ONNX graph, or with a torch model that is exported.
    precision, threads
        See `histomix.encoders.onnx.openvino.OpenVinoSession`.
    folder
        Of exported graphs and of what was measured.

    Raises
    ------
    EncoderError
        OpenVINO cannot run it, or its features move by more than is allowed.
    MissingExtraError
        OpenVINO is not installed, or the library that exports torch models is not.
    """
    if hasattr(encoder, "session"):
        fast, graph = copy.copy(encoder), encoder.session.graph
    else:
        fast = OnnxRuntime(encoder, int8=False, threads=threads, cache=folder, open_session=None)
        graph = fast.graph
    fast.session = openvino.OpenVinoSession(graph, threads, precision)
    key = digest_json([encoder.digest, precision, versions("openvino"), openvino.processor()])
    facts = folder / f"{key.removeprefix('sha256:')[:24]}-openvino.json"
    verified = known_facts(facts, lambda: require(compare(fast, encoder), encoder.card.name, precision))
    require(verified, encoder.card.name, precision)
    if precision == "float32":
        fast.runtime = f"OpenVINO on the CPU (float32, within {verified['difference']:.1e} of {_reference(encoder)})"
        return fast  # type: ignore[no-any-return]
    fast.precision, fast.digest = precision, precision_digest(encoder, precision)
    fast.float32 = encoder
    fast.runtime = f"OpenVINO on the CPU ({precision}, cosine {verified['cosine']:.5f} with float32)"
    return fast  # type: ignore[no-any-return]


def _reference(encoder: Any) -> str:
    return "ONNX Runtime" if hasattr(encoder, "session") else "torch"


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
    """A torch encoder run by ONNX Runtime on the CPU; see `optimise`.

    Without ``open_session`` its ``graph`` is made and verified, and whoever asked for it brings the ``session``.
    """

    def __init__(
        self,
        encoder: Any,
        *,
        int8: bool,
        threads: int | None,
        cache: Path,
        open_session: Callable[[Path, int | None], Any] | None = OnnxSession,
    ) -> None:
        from .onnx.graph import FORMAT, export_graph, kept_graph, quantise_graph

        super().__init__(encoder)
        self._batch = _INT8_BATCH if int8 else _BATCH
        key = digest_json([encoder.digest, FORMAT]).removeprefix("sha256:")[:24]

        self.session: Any = None

        def make(path: Path) -> dict[str, float]:
            export_graph(encoder, path)
            self.session = OnnxSession(path, threads)
            return require(compare(self, encoder), self.card.name, "float32")

        def make_int8(path: Path) -> dict[str, float]:
            float_path = path.with_name("float32.onnx")
            export_graph(encoder, float_path)
            quantise_graph(float_path, path)
            float_path.unlink()
            self.session = OnnxSession(path, threads)
            return require(compare(self, encoder), self.card.name, "int8")

        if int8:
            self.graph, verified = kept_graph(cache / f"{key}-int8.onnx", make_int8)
            self.digest, self.precision, self.float32 = precision_digest(encoder, "int8"), "int8", encoder
            state = f"8-bit products, cosine {verified['cosine']:.4f} with float32"
        else:
            self.graph, verified = kept_graph(cache / f"{key}.onnx", make)
            state = f"float32, within {verified['difference']:.1e} of torch"
        self.session = None if open_session is None else open_session(self.graph, threads)
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
        embedding: np.ndarray = self.session.run(tiles)
        return embedding


class TorchRuntime(_Wrapped):
    """A torch encoder as torch runs it best; see `optimise`.

    Convolutions run on channels-last memory, and half precision is used where it is asked for and features stay within
    `HALF_TOLERANCE` of float32. A batch that the GPU's memory does not hold is halved, and so are all later ones.
    """

    def __init__(self, encoder: Any, *, half: bool, threads: int | None = None) -> None:
        import torch

        super().__init__(encoder)
        self._encoder, self._threads = encoder, threads
        self.device = torch.device(getattr(encoder, "device", "cpu"))
        self._format = torch.channels_last if _is_convolutional(encoder.model) else torch.contiguous_format
        encoder.model.to(memory_format=self._format)
        self._dtype: torch.dtype | None = None
        self._largest: int | None = None
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

        found: list[np.ndarray] = []
        start = 0
        while start < len(tiles):
            part = tiles[start : start + (self._largest or len(tiles))]
            try:
                found.append(self._forward(part))
            except torch.cuda.OutOfMemoryError as error:
                if len(part) == 1:
                    raise EncoderError(
                        f"the memory of the {self.device.type} does not hold one tile in {self.card.name}",
                        hint="Free it (other programs may use it), or load the encoder with device cpu",
                    ) from error
                self._largest = len(part) // 2
                _LOG.warning(
                    "the memory of the %s does not hold %d tiles in %s: batches of %d from now on",
                    self.device.type,
                    len(part),
                    self.card.name,
                    self._largest,
                )
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += len(part)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _forward(self, tiles: np.ndarray) -> np.ndarray:
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
                require(compare(self, encoder), self.card.name, "half")
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


def compare(runtime: Any, encoder: Any) -> dict[str, float]:
    """How far a runtime's features of some tiles are from those of the encoder itself.

    Returns
    -------
    dict
        ``difference``: largest relative L2 difference of a tile; ``cosine``: least of a tile; ``moved``: root of the
        mean squared difference of a feature over its standard deviation between tiles, the median of features.
    """
    from .onnx.graph import trial_tiles

    tiles = trial_tiles(encoder.card.size_px)
    a, b = (np.asarray(each.embed(tiles), dtype=np.float64) for each in (runtime, encoder))
    size_a, size_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    varies = b.std(axis=0) > 0
    moved = np.sqrt(np.square(a - b).mean(axis=0))[varies] / b.std(axis=0)[varies]
    return {
        "difference": float((np.linalg.norm(a - b, axis=1) / size_b).max()),
        "cosine": float(((a * b).sum(axis=1) / (size_a * size_b)).min()),
        "moved": float(np.median(moved)) if varies.any() else 0.0,
    }


def require(found: dict[str, float], name: str, precision: str) -> dict[str, float]:
    """What `compare` found; EncoderError where features move by more than a precision allows."""
    if precision in LEAST_COSINE:
        refused = not found["cosine"] >= LEAST_COSINE[precision]
    else:
        refused = not found["difference"] <= (HALF_TOLERANCE if precision == "half" else TOLERANCE)
    if refused:
        raise EncoderError(
            f"the faster runtime moves the features of {name} (difference {found['difference']:.2g}, cosine "
            f"{found['cosine']:.4f}, {found['moved']:.1%} of what they differ between tiles)",
            hint="Use the runtime torch",
        )
    return found


def _is_convolutional(model: torch.nn.Module) -> bool:
    import torch

    weights = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    return sum(weights) > 0.5 * sum(parameter.numel() for parameter in model.parameters())
