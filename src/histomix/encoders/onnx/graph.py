"""Torch encoders as ONNX graphs: exported once, kept in the user's cache, run by ONNX Runtime or OpenVINO.

A graph file holds 2 GiB at most; the weights of larger models lie beside it in one file of data.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import EncoderError, HistomixError, InputError, MissingExtraError
from ...provenance import atomic_path, digest_file, digest_json, read_json, write_json
from ..card import EncoderCard
from .files import model_digests

#: Raised when the same encoder gives another graph, so that older files are made again.
FORMAT = 1
_OPSET = 17
_LOG = logging.getLogger(__name__)


def kept_graph(path: Path, make: Callable[[Path], dict[str, float]]) -> tuple[Path, dict[str, float]]:
    """A graph from the cache if it is whole, else a new one.

    Parameters
    ----------
    path
        Where the graph is kept; ``<path>.json`` beside it holds its digest and what verification measured.
    make
        Writes the graph to the path it is given, and returns the numbers of its verification.

    Returns
    -------
    The path, and those numbers.
    """
    facts = path.with_suffix(".json")
    try:
        known = read_json(facts)
        if known["digest"] == _digest(path):
            return path, known["verified"]
        _LOG.warning("%s is damaged and is made again", path)
    except EncoderError:
        _LOG.warning("%s is damaged and is made again", path)
    except (InputError, OSError, KeyError):
        pass  # not made yet, or only half: both are mended by making it
    with atomic_path(path) as temporary:
        verified = make(temporary)
        digest = _digest(temporary)
        data = _data_of(temporary)
        if data.exists():
            data.replace(_data_of(path))  # first, as the graph is nothing without it
    write_json(facts, {"digest": digest, "verified": verified})
    return path, verified


def _digest(path: Path) -> str:
    """Of a graph, and of its data where it has any."""
    if not _data_of(path).exists():
        return digest_file(path)
    return digest_json(model_digests(path))


def _data_of(path: Path) -> Path:
    return path.with_suffix(".data")


def export_graph(encoder: Any, path: Path) -> None:
    """Write a torch encoder as a graph from uint8 tiles (n, size_px, size_px, 3) to features (n, dim).

    Raises
    ------
    EncoderError
        The model cannot be expressed as a graph.
    MissingExtraError
        The library onnx, which torch writes graphs with, is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtraError("onnx", "onnx", f"running {encoder.card.name} on ONNX Runtime")
    import torch

    card: EncoderCard = encoder.card

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = encoder.model
            mean, std = torch.tensor(card.mean), torch.tensor(card.std)
            self.scale = torch.nn.Buffer((1 / (255 * std)).reshape(1, 3, 1, 1))
            self.offset = torch.nn.Buffer((-mean / std).reshape(1, 3, 1, 1))

        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            embedding: torch.Tensor = encoder.forward(tiles.permute(0, 3, 1, 2).float() * self.scale + self.offset)
            return embedding

    tiles = torch.zeros(2, card.size_px, card.size_px, 3, dtype=torch.uint8)
    try:
        # The model's own warnings, of shapes that are fixed for a card, mean nothing to a user.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Graph().eval(),
                (tiles,),
                str(path),
                input_names=["tiles"],
                output_names=["features"],
                dynamic_axes={"tiles": {0: "n"}, "features": {0: "n"}},
                opset_version=_OPSET,
                dynamo=False,
            )
            if path.stat().st_size > LARGEST_FILE or len(list(path.parent.iterdir())) > 1:
                _gather_data(path)
    except HistomixError:
        raise
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error).strip().splitlines()
        raise EncoderError(
            f"{card.name} cannot be exported to ONNX ({reason[0] if reason else type(error).__name__})",
            hint="Use the runtime torch",
        ) from error


#: Weights of larger graphs lie beside them. Torch writes those of more than 2 GiB into a file for each tensor.
LARGEST_FILE = 1 << 30


def _gather_data(path: Path) -> None:
    """Put all weights of a graph, wherever in its folder they are, into one file beside it."""
    import onnx

    model = onnx.load(path)
    for other in path.parent.iterdir():
        other.unlink()
    onnx.save_model(model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=_data_of(path).name)


def quantise_graph(source: Path, target: Path) -> None:
    """Write a graph whose matrix products run on 8-bit integers, with ranges found for every input.

    Raises
    ------
    MissingExtraError
        The library onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", "the runtime int8") from error
    level = logging.getLogger().level
    try:
        logging.getLogger().setLevel(logging.ERROR)  # it warns on the root logger of a step that is not needed here
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().setLevel(level)


def trial_tiles(size_px: int, count: int = 4) -> np.ndarray:
    """Tiles to compare runtimes on: stain-like blots of several sizes, uint8 (count, size_px, size_px, 3)."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    tiles = np.empty((count, size_px, size_px, 3), np.uint8)
    for tile, blur in zip(tiles, np.geomspace(1, size_px / 8, count), strict=True):
        blots = ndimage.gaussian_filter(rng.normal(size=(size_px, size_px, 2)), (blur, blur, 0))
        blots /= blots.std()
        colour = np.array([215, 150, 195]) + blots @ np.array([[25, 35, 15], [-30, -25, -10]])
        tile[:] = np.clip(colour, 0, 255)
    return tiles
