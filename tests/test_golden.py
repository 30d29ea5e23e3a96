"""Golden pairs: weights that are what they claim to be agree, others differ, and what is missing is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.encoders import EncoderCard, card, check_golden, doctor, load_encoder
from histomix.encoders import cards as all_cards
from histomix.errors import InputError

from .encoder_files import random_weights, reduced, smooth_tiles


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> EncoderCard:
    """GigaPath's card with a network of two narrow blocks."""
    one = reduced(card("prov-gigapath"), 2, True)
    named = dataclasses.replace(one, name="prov-gigapath")
    for module in ("golden", "load"):
        monkeypatch.setattr(f"histomix.encoders.{module}.card", lambda name: named)
    return named


@pytest.fixture
def weights(small: EncoderCard, tmp_path: Path) -> Path:
    random_weights(small, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def pair(small: EncoderCard, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pair in the layout of the data: a tile of 128 px, which is brought to 256 and cut to 224."""
    folder = tmp_path / "data" / "gigapath_golden"
    folder.mkdir(parents=True)
    tile = Image.fromarray(smooth_tiles(1, 128)[0])
    tile.save(folder / "tile.png")
    seen = np.asarray(tile.resize((256, 256), Image.Resampling.BICUBIC))[16:240, 16:240]
    np.save(folder / "expected.npy", load_encoder("prov-gigapath", weights, views=1).embed(seen[None])[0])
    monkeypatch.setenv("HISTOMIX_DATA", str(folder.parent))
    return folder


def test_weights_that_are_what_they_claim_to_be_agree(pair: Path, weights: Path) -> None:
    found = check_golden("prov-gigapath", weights)
    assert found.state == "agrees" and found.difference is not None and found.difference < 1e-4
    assert found.licence == "Apache-2.0" and found.tolerance == 1e-2 and not found.hint


def test_other_weights_differ(pair: Path, weights: Path, small: EncoderCard, tmp_path: Path) -> None:
    state = load_file(weights)
    name = next(name for name, value in state.items() if value.ndim == 2)
    save_file({**state, name: state[name] * 1.5}, tmp_path / "other.safetensors")
    found = check_golden("prov-gigapath", tmp_path / "other.safetensors")
    assert found.state == "differs" and found.difference is not None and found.difference > 1e-2 and found.hint
    save_file({**state, name: state[name][:-1].contiguous()}, tmp_path / "cut.safetensors")
    found = check_golden("prov-gigapath", tmp_path / "cut.safetensors")
    assert found.state == "differs" and "cannot be loaded" in found.words


def test_the_command_says_it_and_ends_accordingly(pair: Path, weights: Path, tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, dict[str, str]]:
        done = CliRunner().invoke(app, ["doctor", "--encoder", "prov-gigapath", "--golden", "--json", *words])
        return done.exit_code, json.loads(done.stdout)["golden"]["prov-gigapath"]

    code, found = run("--weights", str(weights))
    assert (code, found["state"]) == (0, "agrees")
    np.save(pair / "expected.npy", -np.load(pair / "expected.npy"))
    code, found = run("--weights", str(weights))
    assert (code, found["state"]) == (1, "differs")


def test_without_weights_or_pair_it_says_what_is_missing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("histomix.encoders.torch.weights.cached_weights", lambda card: None)
    found = doctor("prov-gigapath", golden=True).golden["prov-gigapath"]
    assert found.state == "missing" and "no weights" in found.words and found.hint
    assert found.pair == str(data_dir / "gigapath_golden")
    monkeypatch.setenv("HISTOMIX_DATA", str(tmp_path))
    found = doctor(golden=True).golden["prov-gigapath"]
    assert found.state == "missing" and "its pair is not here" in found.words and "gigapath_golden" in found.hint
    assert "no golden pair is known of uni" in check_golden("uni").words


def test_the_published_pair_fits_its_card(data_dir: Path) -> None:
    expected = np.load(data_dir / "gigapath_golden" / "expected.npy")
    assert expected.shape == (card("prov-gigapath").dim,) and np.isfinite(expected).all()


def test_every_encoder_whose_weights_are_here_agrees_with_its_pair(data_dir: Path) -> None:
    """The contract: it runs where weights are found, and says so where there are none."""
    states = {one.name: check_golden(one.name).state for one in all_cards() if one.name == "prov-gigapath"}
    assert set(states.values()) <= {"agrees", "missing"}
    if set(states.values()) == {"missing"}:
        pytest.skip("needs the weights of an encoder with a published pair")


def test_a_pair_that_is_none_is_refused(pair: Path, weights: Path, tmp_path: Path) -> None:
    np.save(pair / "expected.npy", np.zeros(7, dtype=np.float32))
    with pytest.raises(InputError, match="holds 7 numbers"):
        check_golden("prov-gigapath", weights)
    (pair / "expected.npy").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(InputError, match="cannot be read as numbers"):
        check_golden("prov-gigapath", weights)
    (pair / "tile.png").write_bytes(b"<html>")
    with pytest.raises(InputError, match="cannot be read as a tile"):
        check_golden("prov-gigapath", weights)
    (pair / "pair.json").write_text('{"crop_px": -1}')
    with pytest.raises(InputError, match="does not say how a pair was made"):
        check_golden("prov-gigapath", weights)
    with pytest.raises(InputError, match="of one encoder"):
        doctor(pair=pair)


def test_a_pair_of_ones_own_needs_no_data(tmp_path: Path) -> None:
    tile = smooth_tiles(1, card("builtin").size_px)[0]
    Image.fromarray(tile).save(tmp_path / "tile.png")
    np.save(tmp_path / "expected.npy", load_encoder("builtin", views=1).embed(tile[None])[0])
    assert check_golden("builtin", pair=tmp_path).state == "agrees"
