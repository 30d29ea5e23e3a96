"""The contract of every card: published weights, loaded through the public path, give what the publisher's code gives.

In the fast tests the networks are narrow and two blocks deep; the slow ones have their true width, and their true depth
up to 310 million weights. The true shape of every network is asserted where it costs no memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histomix.encoders import EncoderCard, cards, load_encoder
from histomix.encoders.torch.architectures import create_model

from .encoder_files import (
    HF_DINOV2,
    HF_REGISTERS,
    HF_VIT,
    fill,
    normalised,
    publish,
    reduced,
    registers,
    relative,
    smooth_tiles,
    transformers_config,
    transformers_model,
)
from .extras import extra_module

HUB = [one for one in cards() if one.source == "timm"]
#: Blocks of a network at its true width whose true depth would need tens of GB.
SHALLOW, LARGE = 3, 310


def _ids(one: EncoderCard) -> str:
    return one.name


def _check_contract(one: EncoderCard, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histomix.encoders.load.card", lambda name: one)
    reference = publish(one, folder)
    encoder = load_encoder(one.name, weights=folder, device="cpu")
    tiles = smooth_tiles(3, one.size_px)
    found = encoder.embed(tiles)
    assert found.shape == (3, one.dim) == (3, encoder.dim) and found.dtype == np.float32
    with torch.inference_mode():
        expected = reference(normalised(one, tiles)).numpy()
    assert relative(found, expected) < 1e-5
    assert found.std(0).max() > 1e-3 * np.abs(found).max(), "all tiles look the same"
    np.testing.assert_array_equal(found, encoder.embed(tiles))
    assert relative(encoder.embed(tiles[1:2]), found[1:2]) < 1e-5


@pytest.mark.parametrize("one", HUB, ids=_ids)
def test_encoder_equals_its_publishers_code(one: EncoderCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _check_contract(reduced(one, 2, narrow=True), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("one", HUB, ids=_ids)
def test_encoder_of_true_width_equals_its_publishers_code(
    one: EncoderCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        _check_contract(reduced(one, SHALLOW, narrow=False) if one.parameters > LARGE else one, tmp_path, monkeypatch)
    finally:
        # Together they take 10 GB.
        shutil.rmtree(tmp_path)


@pytest.mark.parametrize("one", HUB, ids=_ids)
def test_card_agrees_with_its_architecture(one: EncoderCard) -> None:
    model: Any = create_model(one)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(one.parameters, rel=0.003)
    trunk = getattr(model, "trunk", model)
    match one.pooling:
        case "stages":
            found = sum(model.feature_info[layer]["num_chs"] for layer in one.layers)
        case "attention":
            found = model.ln_contrast.normalized_shape[0]
        case "projection":
            found = model.num_classes
        case _:
            found = model.num_features * (2 if one.pooling == "class+mean" else 1)
    assert found == one.dim
    if hasattr(trunk, "num_prefix_tokens"):
        assert trunk.num_prefix_tokens == 1 + registers(one)
        assert one.size_px % trunk.patch_embed.patch_size[0] == 0


@pytest.mark.parametrize("name", [*HF_VIT, *HF_DINOV2, *HF_REGISTERS])
def test_true_shapes_equal_those_of_transformers(name: str) -> None:
    one = next(one for one in HUB if one.name == name)
    with torch.device("meta"):
        theirs = transformers_model(one, transformers_config(one))
    # timm has no mask token, and adds the class token's position to the class token where there are registers.
    width = theirs.config.hidden_size
    spare = (width if name not in HF_VIT else 0) + (width if name in HF_REGISTERS else 0)
    count = sum(p.numel() for p in theirs.parameters()) - spare
    assert sum(p.numel() for p in create_model(one).parameters()) == count


@pytest.mark.slow
def test_uni_equals_that_of_lazyslide(tmp_path: Path) -> None:
    lazyslide = extra_module("zoo", "lazyslide_models")
    one = next(one for one in HUB if one.name == "uni")
    path = tmp_path / "pytorch_model.bin"
    torch.save(fill(create_model(one).state_dict()), path)
    theirs = lazyslide.MODEL_REGISTRY["uni"](model_path=path)
    theirs.model.eval()
    tiles = smooth_tiles(2, 224)
    expected = theirs.encode_image(torch.stack([theirs.get_transform()(tile) for tile in tiles])).numpy()
    assert relative(load_encoder("uni", path, device="cpu").embed(tiles), expected) < 1e-5
    assert relative(load_encoder("zoo:uni", path, device="cpu").embed(tiles), expected) < 1e-5


def test_positions_of_another_grid_are_resampled_as_published(tmp_path: Path) -> None:
    """CONCH v1.5's code resamples with a scale a little too large; were its weights of 224 px, so would ours."""
    from histomix.encoders.torch.layouts import rename

    one = reduced(next(one for one in HUB if one.name == "conch-v1.5"), 1, narrow=True)
    expected = create_model(one).state_dict()
    state = {key: torch.randn(value.shape) for key, value in expected.items()}
    small = torch.randn(1, 1 + 14**2, 96)
    found = rename({**state, "trunk.pos_embed": small}, expected)["trunk.pos_embed"]
    grid = small[:, 1:].reshape(1, 14, 14, 96).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, scale_factor=28.1 / 14, mode="bicubic")
    torch.testing.assert_close(found[:, 1:], grid.permute(0, 2, 3, 1).reshape(1, 784, 96))
    torch.testing.assert_close(found[:, 0], small[:, 0])
    # Patches of another size: another network, so nothing is resampled and the shape is reported.
    other = {**state, "trunk.pos_embed": small, "trunk.patch_embed.proj.weight": torch.zeros(96, 3, 8, 8)}
    assert rename(other, expected)["trunk.pos_embed"].shape == small.shape
