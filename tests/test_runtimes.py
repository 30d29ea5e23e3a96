"""Whatever runs an encoder, its features are those of torch within the stated tolerance, or it says so."""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histomix.embedding import encoder_facts
from histomix.encoders import EncoderCard, load_encoder, racing
from histomix.encoders.onnx import graph as onnx_graph
from histomix.encoders.onnx import openvino
from histomix.encoders.onnx.graph import trial_tiles
from histomix.encoders.runtimes import (
    HALF_TOLERANCE,
    TOLERANCE,
    OnnxRuntime,
    PinnedTorchRuntime,
    TorchRuntime,
    in_place_of,
    optimise,
)
from histomix.encoders.torch.base import TorchEncoder
from histomix.errors import EncoderError, MissingExtraError
from histomix.slides import TileSpec

from .extras import extra_module, needs_extra

CARD = EncoderCard(
    name="small",
    title="A small network with random weights",
    source="timm",
    architecture="none",
    size_px=32,
    mpp=0.5,
    mean=(0.7, 0.5, 0.6),
    std=(0.2, 0.25, 0.21),
    pooling="mean",
    dim=24,
    parameters=0.01,
    licence="CC0-1.0",
    commercial_use=True,
    gated=False,
    paper="https://example.org",
)


class Attention(torch.nn.Module):
    """One patch embedding and one transformer block, all of it matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 24, 8, 8)
        self.qkv = torch.nn.Linear(24, 72)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(24, 96), torch.nn.GELU(), torch.nn.Linear(96, 24))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        tokens = tokens + torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return (tokens + self.mlp(tokens)).mean(dim=1)


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(3)
    if kind == "attention":
        return Attention().eval().requires_grad_(False)
    layers = [torch.nn.Conv2d(3, 16, 3, 2), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 24, 3, 2)]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval().requires_grad_(False)


def encoder(kind: str = "convolutional", views: int = 1) -> TorchEncoder:
    return TorchEncoder(CARD, network(kind), f"sha256:{kind}", views=views, device="cpu")


def independent(kind: str, tiles: np.ndarray) -> np.ndarray:
    """Normalise and run the network in float64, without any of the code under test."""
    images = (tiles.astype(float) / 255 - np.array(CARD.mean)) / np.array(CARD.std)
    with torch.no_grad():
        return network(kind).double()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


TILES = np.random.default_rng(5).integers(0, 256, (37, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["convolutional", "attention"])
@pytest.mark.parametrize("runtime", ["auto", "torch", "onnx"])
def test_every_float_runtime_gives_the_features_of_the_network(tmp_path: Path, kind: str, runtime: Any) -> None:
    if runtime != "torch":
        extra_module("onnx", "onnx")
    original = encoder(kind)
    fast = optimise(original, runtime, threads=1, cache=tmp_path)
    if runtime != "auto":  # which takes the fastest of this machine
        assert isinstance(fast, TorchRuntime if runtime == "torch" else OnnxRuntime)
        assert ("ONNX Runtime" in fast.runtime) == (runtime == "onnx")
    assert difference(fast.embed(TILES), independent(kind, TILES)) < TOLERANCE
    assert fast.embed(TILES).dtype == np.float32
    assert fast.embed(TILES[:0]).shape == (0, 24)
    # The same identity: features may meet those of torch.
    assert encoder_facts(fast) == encoder_facts(original)
    assert fast.tile_spec() == original.tile_spec()
    with pytest.raises(EncoderError, match="shape"):
        fast.embed(TILES[:, :-1])


@pytest.mark.parametrize("runtime", ["torch", "onnx", "int8"])
def test_the_batch_changes_nothing_beyond_rounding(tmp_path: Path, runtime: Any) -> None:
    if runtime != "torch":
        extra_module("onnx", "onnx")
    fast = optimise(encoder("attention"), runtime, threads=1, cache=tmp_path)
    whole = fast.embed(TILES)
    for size in (1, 5, 16, 37):
        parts = np.concatenate([fast.embed(TILES[start : start + size]) for start in range(0, len(TILES), size)])
        assert difference(parts, whole) < 1e-5


@needs_extra("onnx", "onnx")
def test_views_are_averaged_alike(tmp_path: Path) -> None:
    expected = encoder(views=4).embed(TILES)
    assert difference(optimise(encoder(views=4), "onnx", threads=1, cache=tmp_path).embed(TILES), expected) < TOLERANCE
    assert difference(expected, encoder(views=1).embed(TILES)) > 0.01


def test_int8_has_an_identity_of_its_own(tmp_path: Path) -> None:
    extra_module("onnx", "onnx")
    original = encoder("attention")
    fast = optimise(original, "int8", threads=1, cache=tmp_path)
    facts = encoder_facts(fast)
    assert facts["precision"] == "int8" and facts["digest"] != original.digest
    assert facts == encoder_facts(optimise(encoder("attention"), "int8", threads=1, cache=tmp_path))
    off = difference(fast.embed(TILES), independent("attention", TILES))
    assert 1e-4 < off < 0.2
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".onnx"]


@needs_extra("onnx", "onnx")
def test_a_graph_is_made_once_and_a_damaged_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = []
    export = onnx_graph.export_graph

    def counting(encoder: Any, path: Path) -> None:
        made.append(path)
        export(encoder, path)

    monkeypatch.setattr(onnx_graph, "export_graph", counting)
    expected = optimise(encoder(), "onnx", threads=1, cache=tmp_path).embed(TILES)
    optimise(encoder(), "onnx", threads=1, cache=tmp_path)
    assert len(made) == 1
    (graph,) = tmp_path.glob("*.onnx")
    data = graph.read_bytes()
    for damage in (data[:-50], data[:200] + b"\0" + data[201:], b""):
        made.clear()
        graph.write_bytes(damage)
        with caplog.at_level(logging.WARNING):
            found = optimise(encoder(), "onnx", threads=1, cache=tmp_path).embed(TILES)
        np.testing.assert_array_equal(found, expected)
        assert len(made) == 1 and "damaged" in caplog.text
    made.clear()
    graph.with_suffix(".json").unlink()
    optimise(encoder(), "onnx", threads=1, cache=tmp_path)
    other = TorchEncoder(CARD, network("convolutional"), "sha256:other", device="cpu")
    optimise(other, "onnx", threads=1, cache=tmp_path)
    assert len(made) == 2
    assert not list(tmp_path.glob(".partial-*"))


def test_without_onnx_torch_runs_it_or_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx" else real(name))
    for runtime in ("onnx", "int8"):
        with pytest.raises(MissingExtraError, match=r'library onnx.*pip install "histomix\[onnx\]"'):
            optimise(encoder(), runtime, cache=tmp_path)  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, logger="histomix"):
        assert isinstance(optimise(encoder(), "auto", cache=tmp_path), TorchRuntime)
    assert "onnx does not run small" in caplog.text and "histomix[onnx]" in caplog.text


class Deceitful(TorchEncoder):
    """Normalises otherwise than its card says, so that a graph made from the card is wrong."""

    def preprocess(self, tiles: np.ndarray) -> torch.Tensor:
        return super().preprocess(tiles) * 1.01


@needs_extra("onnx", "onnx")
def test_a_graph_that_moves_features_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = Deceitful(CARD, network("convolutional"), "sha256:wrong", device="cpu")
    with pytest.raises(EncoderError, match="moves the features of small"):
        optimise(wrong, "onnx", threads=1, cache=tmp_path)
    with caplog.at_level(logging.INFO, logger="histomix"):
        fast = optimise(wrong, "auto", threads=1, cache=tmp_path)
    assert isinstance(fast, TorchRuntime) and "onnx does not run small" in caplog.text
    assert difference(fast.embed(TILES), wrong.embed(TILES)) < TOLERANCE
    assert not list(tmp_path.glob("*.onnx"))


class Branching(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network("convolutional")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.linalg.svd(images, full_matrices=False)[2])


@needs_extra("onnx", "onnx")
def test_a_model_that_is_no_graph_falls_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = TorchEncoder(CARD, Branching().eval(), "sha256:odd", device="cpu")
    with pytest.raises(EncoderError, match=r"cannot be exported to ONNX.*runtime torch"):
        optimise(odd, "onnx", threads=1, cache=tmp_path)
    assert isinstance(optimise(odd, "auto", threads=1, cache=tmp_path), TorchRuntime)


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert isinstance(optimise(encoder(), "auto", threads=1, cache=tmp_path / "file" / "cache"), TorchRuntime)


def test_encoders_with_a_runtime_of_their_own(tmp_path: Path) -> None:
    builtin = load_encoder(threads=1)
    assert optimise(builtin, "onnx", cache=tmp_path) is builtin
    with pytest.raises(EncoderError, match="brings its own runtime"):
        optimise(builtin, "int8", cache=tmp_path)
    with pytest.raises(EncoderError, match="no runtime 'magic'"):
        optimise(encoder(), "magic", cache=tmp_path)  # type: ignore[arg-type]


@needs_extra("onnx", "onnx")
def test_weights_of_a_large_graph_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = optimise(encoder("attention"), "onnx", threads=1, cache=tmp_path / "small").embed(TILES)
    monkeypatch.setattr(onnx_graph, "LARGEST_FILE", 1000)
    large = tmp_path / "large"
    for _ in range(2):
        fast = optimise(encoder("attention"), "onnx", threads=1, cache=large)
        np.testing.assert_array_equal(fast.embed(TILES), expected)
        assert sorted(path.suffix for path in large.iterdir()) == [".data", ".json", ".onnx"]
    (data,) = large.glob("*.data")
    data.write_bytes(data.read_bytes()[:-8] + b"\1" * 8)
    np.testing.assert_array_equal(optimise(encoder("attention"), "onnx", threads=1, cache=large).embed(TILES), expected)


class Timed:
    """An encoder that takes its time."""

    card, dim, digest, views = CARD, 24, "sha256:timed", 1

    def __init__(self, name: str, seconds: float) -> None:
        self.runtime, self.seconds, self.tiles = name, seconds, 0

    def tile_spec(self) -> TileSpec:
        return TileSpec(32, 0.5)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        self.tiles += len(tiles)
        time.sleep(self.seconds * len(tiles))
        return np.zeros((len(tiles), 24), np.float32)


def test_the_fastest_runs_and_is_known_afterwards(tmp_path: Path) -> None:
    made = []

    def maker(name: str, seconds: float) -> Any:
        def make() -> Timed:
            made.append(name)
            if name == "broken":
                raise EncoderError("not here")
            return Timed(name, seconds)

        return make

    makers = {name: maker(name, seconds) for name, seconds in (("slow", 0.01), ("fast", 0.002), ("broken", 0.0))}
    once = racing.fastest(Timed("own", 0), makers, lambda: tmp_path, [2], (EncoderError,))
    again = racing.fastest(Timed("own", 0), makers, lambda: tmp_path, [2], (EncoderError,))
    assert (once.runtime, again.runtime) == ("fast", "fast")  # type: ignore[attr-defined]
    assert made == ["slow", "fast", "broken", "fast"] and again.tiles == 0  # type: ignore[attr-defined]
    del makers["fast"]
    left = racing.fastest(Timed("own", 0), makers, lambda: tmp_path, [2], (EncoderError,))
    assert left.runtime == "slow"  # type: ignore[attr-defined]


@needs_extra("openvino", "openvino", "onnx")
@pytest.mark.parametrize("kind", ["convolutional", "attention", "builtin"])
def test_openvino_in_float32_is_the_same_encoder(tmp_path: Path, kind: str) -> None:
    original: Any = load_encoder(threads=1) if kind == "builtin" else encoder(kind)
    fast = optimise(original, "openvino", threads=2, cache=tmp_path)
    tiles = trial_tiles(original.card.size_px, 9)
    assert difference(fast.embed(tiles), original.embed(tiles)) < TOLERANCE
    assert encoder_facts(fast) == encoder_facts(original) and "OpenVINO" in fast.runtime  # type: ignore[attr-defined]
    for size in (1, 4, 5):
        parts = np.concatenate([fast.embed(tiles[start : start + size]) for start in range(0, 9, size)])
        assert difference(parts, fast.embed(tiles)) < 1e-5
    assert fast.embed(tiles[:0]).shape == (0, original.dim)


@needs_extra("openvino", "openvino")
def test_bfloat16_has_an_identity_of_its_own_and_is_followed(tmp_path: Path) -> None:
    original = load_encoder(threads=1)
    if "BF16" not in openvino.processor():
        with pytest.raises(EncoderError, match="does not compute in bfloat16"):
            optimise(original, "bf16", cache=tmp_path)
        pytest.skip("this CPU does not compute in bfloat16")
    fast: Any = optimise(original, "bf16", threads=1, cache=tmp_path)
    followed = optimise(original, "auto", threads=1, cache=tmp_path, precision="bfloat16")
    facts = encoder_facts(fast)
    assert facts["precision"] == "bfloat16" and facts["digest"] != original.digest and fast.float32 is original
    assert facts == encoder_facts(followed) == encoder_facts(in_place_of(original, "bfloat16"))
    tiles = trial_tiles(original.card.size_px)
    assert 1e-4 < difference(fast.embed(tiles), original.embed(tiles)) < 0.1
    # Nobody asked for less.
    assert encoder_facts(optimise(original, "auto", threads=1, cache=tmp_path)) == encoder_facts(original)


def test_without_openvino_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    builtin = load_encoder(threads=1)
    for runtime in ("openvino", "bf16"):
        with pytest.raises(MissingExtraError, match=r"histomix\[openvino\]"):
            optimise(builtin, runtime, cache=tmp_path)  # type: ignore[arg-type]
    assert optimise(builtin, "auto", cache=tmp_path) is builtin
    assert not list(tmp_path.iterdir())


def test_half_precision_only_within_its_tolerance(caplog: pytest.LogCaptureFixture) -> None:
    """On a CPU nobody asks for it; the choice itself needs no GPU."""
    fast = TorchRuntime(encoder(), half=True)
    assert difference(fast.embed(TILES), independent("convolutional", TILES)) < 2 * HALF_TOLERANCE
    assert "float16" in fast.runtime or "bfloat16" in fast.runtime or "float32" in fast.runtime
    scaled = encoder()
    with torch.no_grad():
        for layer in (scaled.model[0], scaled.model[3]):
            layer.weight.mul_(3e4)  # beyond the range of float16
    with caplog.at_level(logging.INFO, logger="histomix"):
        fast = TorchRuntime(scaled, half=True)
    assert difference(fast.embed(TILES), scaled.embed(TILES)) < 2 * HALF_TOLERANCE
    assert "(float16)" not in fast.runtime


def test_a_batch_that_does_not_fit_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    original = encoder("attention")
    forward, room, tried = original.forward, 5, []

    def small(images: torch.Tensor) -> torch.Tensor:
        tried.append(len(images))
        if len(images) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(images)

    original.forward = small  # type: ignore[method-assign]
    fast = TorchRuntime(original, half=False)
    with caplog.at_level(logging.WARNING, logger="histomix"):
        found = fast.embed(TILES)
    assert difference(found, independent("attention", TILES)) < TOLERANCE
    assert tried == [37, 18, 9, *[4] * 9, 1]
    assert "does not hold 9 tiles in small: batches of 4 from now on" in caplog.text
    tried.clear()
    fast.embed(TILES[:8])
    assert tried == [4, 4]
    room = 0
    with pytest.raises(EncoderError, match="does not hold one tile in small"):
        fast.embed(TILES[:1])


def test_pinned_views_encode_as_tiles_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # there may be no GPU here
    fast = PinnedTorchRuntime(encoder(views=4), half=False)
    np.testing.assert_allclose(fast.encode(fast.prepare(TILES)), encoder(views=4).embed(TILES), rtol=1e-4, atol=1e-5)


def test_trial_tiles_are_varied_and_the_same_each_time() -> None:
    tiles = trial_tiles(64)
    assert tiles.shape == (4, 64, 64, 3) and tiles.dtype == np.uint8
    np.testing.assert_array_equal(tiles, trial_tiles(64))
    assert all(tile.std(axis=(0, 1)).min() > 5 for tile in tiles)
