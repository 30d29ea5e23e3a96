"""Features: right values, whole or absent, kept when nothing changed, resumed when something stopped them."""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import histomix as hm
from histomix.abundance import read_abundance
from histomix.common.storage.facts import read_facts
from histomix.common.storage.locks import folder_lock
from histomix.embedding import (
    embed,
    embed_tiles,
    encoder_identity,
    engine,
    feature_manifest,
    features,
    read_features,
    require_same_encoder,
)
from histomix.embedding.cohort import SAMPLED
from histomix.embedding.identity import features_identity
from histomix.embedding.storage import Shards
from histomix.encoders import load_encoder
from histomix.errors import (
    EncoderError,
    FeatureError,
    InputError,
    LabelError,
    ScaleWarning,
    SlideReadError,
    StorageError,
)
from histomix.provenance import digest_bytes
from histomix.slides import TileSpec, open_slide, read_tile, tiles_at_spots
from histomix.spots import Cohort, read_cohort

if TYPE_CHECKING:
    from .conftest import Job

MPP = 2.0
SIZE_PX = 8
SPOTS = 300  # two shards of 256 at most


@pytest.fixture(autouse=True)
def no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tiles of spots are counted here; samples and the estimate have tests of their own."""
    monkeypatch.setattr("histomix.embedding.other_scales.SAMPLE", 0)
    monkeypatch.setattr("histomix.embedding.cohort.embed_stain_shifts", lambda *args: [None] * len(args[2]))
    monkeypatch.setattr("histomix.embedding.cohort._FEW_TILES", 10**6)


class FakeEncoder:
    """Mean colour of the quadrants and range of the whole tile: what each tile gives depends on that tile alone."""

    dim = 15
    views = 1

    def __init__(self, digest: str = "sha256:fake", scale: float = 1.0, fail_after: int | None = None) -> None:
        self.card = SimpleNamespace(name="fake", licence="CC0-1.0", revision="r1")
        self.digest = digest
        self.scale = scale
        self.fail_after = fail_after
        self.batches: list[int] = []
        self.fault: BaseException = RuntimeError("power cut")

    def tile_spec(self) -> TileSpec:
        return TileSpec(size_px=SIZE_PX, mpp=MPP)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        if self.fail_after is not None and len(self.batches) >= self.fail_after:
            raise self.fault
        self.batches.append(len(tiles))
        half = SIZE_PX // 2
        means = tiles.reshape(-1, 2, half, 2, half, 3).mean(axis=(2, 4)).reshape(-1, 12)
        spread = np.ptp(tiles.astype(int), axis=(1, 2))
        return (np.hstack([means, spread]) * self.scale).astype(np.float32)

    @property
    def encoded(self) -> int:
        return sum(self.batches)


def _make_section(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """An image with an asymmetric piece of tissue, and spots 20 um apart on it; the last two lie on glass."""
    rng = np.random.default_rng(seed)
    height, width = 280, 320
    y, x = np.mgrid[:height, :width]
    tissue = ((x - 130) / 100) ** 2 + ((y - 140) / 110) ** 2 < 1
    tissue |= (x > 200) & (x < 290) & (y > 30) & (y < 90)
    image = np.full((height, width, 3), 244, dtype=np.uint8)
    stain = np.stack([200 - 60 * np.sin(x / 37), 110 + 50 * np.cos(y / 53), 160 + 40 * np.sin((x + y) / 71)], axis=-1)
    image[tissue] = np.clip(stain + rng.normal(0, 12, stain.shape), 0, 255)[tissue].astype(np.uint8)
    Image.fromarray(image).save(folder / f"{name}.png")
    grid = [(x, y) for y in range(0, height, 10) for x in range(0, width, 10) if tissue[y, x]]
    positions = np.array(grid, dtype=float)[: SPOTS - 2] + rng.uniform(-2, 2, (SPOTS - 2, 2))
    positions = np.vstack([positions, [[2.0, 3.0], [width - 1.0, height - 1.0]]])
    table = pd.DataFrame(
        positions, columns=["x_px", "y_px"], index=pd.Index([f"s{i}" for i in range(SPOTS)], name="spot")
    )
    table.to_csv(folder / f"{name}.csv")
    return {"section": name, "donor": f"donor-{name}", "spots": f"{name}.csv", "image": f"{name}.png", "mpp": MPP}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    pd.DataFrame([_make_section(folder, name, seed) for seed, name in enumerate(("A", "B"))]).to_csv(
        folder / "sheet.csv", index=False
    )
    return folder


@pytest.fixture
def sheet(material: Path, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may damage."""
    return shutil.copytree(material, tmp_path / "cohort") / "sheet.csv"


@pytest.fixture
def cohort(material: Path) -> Cohort:
    return read_cohort(material / "sheet.csv")


def run(cohort: Cohort, encoder: Any, out: Path | None, **options: Any) -> dict[str, ad.AnnData]:
    return embed(cohort, encoder, out=out, **{"check_alignment": False, **options})


@functools.cache
def _direct(image: Path, spots: Path) -> np.ndarray:
    positions, half, rows = pd.read_csv(spots, index_col=0).to_numpy(), SIZE_PX // 2, []
    with open_slide(image, MPP) as slide:
        for x_px, y_px in positions:
            tile = read_tile(slide, x_px, y_px, TileSpec(size_px=SIZE_PX, mpp=MPP)).astype(float)
            quadrants = [tile[y : y + half, x : x + half].mean(axis=(0, 1)) for y in (0, half) for x in (0, half)]
            rows.append(np.concatenate([*quadrants, tile.max(axis=(0, 1)) - tile.min(axis=(0, 1))]))
    return np.array(rows, dtype=np.float32)


def direct(cohort: Cohort, name: str) -> np.ndarray:
    """Every tile of an undamaged section read and encoded on its own, float32."""
    return _direct(cohort.sheet.parent / f"{name}.png", cohort.sheet.parent / f"{name}.csv")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def _tiles(cohort: Cohort, count: int) -> tuple[Any, pd.DataFrame]:
    section = cohort.section("A", counts=False)
    slide = section.slide()
    return slide, tiles_at_spots(slide, section.spots_px, section.keys, FakeEncoder().tile_spec()).iloc[:count]


# --- values and files ------------------------------------------------------------------------------------------------


def test_values_equal_the_direct_computation(cohort: Cohort, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    found = run(cohort, encoder, tmp_path / "features", dtype="float32", batch_size=50)
    assert list(found) == ["A", "B"]
    assert encoder.encoded == 2 * SPOTS
    for name, table in found.items():
        expected, section = direct(cohort, name), cohort.section(name, counts=False)
        assert table.X.dtype == np.float32
        np.testing.assert_array_equal(table.X, expected)
        assert list(table.obs_names) == list(section.keys)
        np.testing.assert_array_equal(table.obs[["x_px", "y_px"]], section.spots_px)
        np.testing.assert_array_equal(table.obsm["spatial"], section.spots_px)
        # The two spots outside the tissue keep their rows.
        assert table.obs["tissue"].between(0, 1).all()
        assert table.obs["tissue"].iloc[-1] < 0.2 < 0.9 < table.obs["tissue"].median()
    assert not np.array_equal(found["A"].X, found["B"].X)


def test_the_file_opens_with_anndata_alone_and_reads_back(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "features"
    made = run(cohort, FakeEncoder(), out)["A"]
    raw = ad.read_h5ad(out / "A.h5ad")
    expected = direct(cohort, "A")
    assert raw.X.dtype == np.float16
    np.testing.assert_array_equal(raw.X, expected.astype(np.float16))
    # Half precision keeps 11 significant bits.
    assert (np.abs(raw.X.astype(np.float64) - expected) <= np.abs(expected) * 2.0**-11).all()
    assert read_facts(raw.uns["manifest"]) == feature_manifest(made)
    back = read_features(out)
    assert list(back) == ["A", "B"]
    pd.testing.assert_frame_equal(back["A"].obs, made.obs)
    assert sorted(path.name for path in out.iterdir()) == ["A.h5ad", "B.h5ad", "manifest.json", "previews"]


def test_manifest_and_preview_say_what_was_read(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "features"
    manifest = feature_manifest(run(cohort, FakeEncoder(), out, check_alignment=True)["A"])
    assert manifest["section"] == "A"
    assert manifest["tiles"] == SPOTS
    assert manifest["tile"]["size_px"] == SIZE_PX and manifest["tile"]["mpp"] == MPP
    slide = manifest["slide"]
    assert (slide["file"], slide["width_px"], slide["height_px"]) == ("A.png", 320, 280)
    assert (slide["mpp"], slide["mpp_source"], slide["upsampling"]) == (MPP, "given", 1.0)
    assert slide["fingerprint"].startswith("sample-sha256:")
    assert manifest["encoder"] == {
        "name": "fake",
        "digest": "sha256:fake",
        "dim": 15,
        "views": 1,
        "precision": "float32",
        "licence": "CC0-1.0",
        "revision": "r1",
    }
    assert manifest["alignment"]["ok"] and manifest["alignment"]["on_tissue"] > 0.9
    assert "histomix" in manifest["versions"]
    with Image.open(out / manifest["preview"]["file"]) as preview:
        assert preview.format == "JPEG"
        assert abs(preview.width - 320 * MPP / manifest["preview"]["mpp"]) <= 1
        # Tissue in the middle, glass in the corner.
        assert min(preview.getpixel((preview.width - 2, preview.height - 2))) > 225
        assert min(preview.getpixel((preview.width * 2 // 5, preview.height // 2))) < 215


@pytest.mark.parametrize("batch_size", [1, 37, 64, 1000])
def test_the_batch_size_changes_nothing(cohort: Cohort, batch_size: int) -> None:
    slide, tiles = _tiles(cohort, 130)
    encoder = FakeEncoder()
    calls: list[tuple[str, int, int]] = []
    X, read_ok = embed_tiles(
        slide,
        tiles,
        encoder,
        dtype="float32",
        batch_size=batch_size,
        progress=lambda *call: calls.append(call),
        task="embed A",
    )
    np.testing.assert_array_equal(X, direct(cohort, "A")[:130])
    assert read_ok.all()
    assert max(encoder.batches) <= batch_size
    done = [call[1] for call in calls]
    assert calls[0] == ("embed A", 0, 130) and calls[-1] == ("embed A", 130, 130)
    assert done == sorted(done)


def test_a_coarse_slide_is_said_once_in_words(
    material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    rows = pd.read_csv(material / "sheet.csv").assign(mpp=5.0).iloc[:1]
    for column in ("spots", "image"):
        rows[column] = [str(material / name) for name in rows[column]]
    rows.to_csv(tmp_path / "coarse.csv", index=False)
    with caplog.at_level(logging.WARNING, logger="histomix.embedding"):
        found = run(read_cohort(tmp_path / "coarse.csv"), FakeEncoder(), None)
    assert feature_manifest(found["A"])["slide"]["upsampling"] == pytest.approx(2.5)
    assert len([record for record in caplog.records if "interpolated" in record.getMessage()]) == 1
    assert not [warning for warning in recwarn if issubclass(warning.category, ScaleWarning)]


# --- the same command again ------------------------------------------------------------------------------------------


def test_the_same_command_again_does_nothing_and_says_so(
    cohort: Cohort, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "features"
    first = run(cohort, FakeEncoder(), out, check_alignment=True)
    before = contents(out)

    def no_slide(*_args: Any, **_kwargs: Any) -> None:
        pytest.fail("a slide was opened")

    monkeypatch.setattr("histomix.spots.Section.slide", no_slide)
    again = FakeEncoder(fail_after=0)
    with caplog.at_level(logging.INFO, logger="histomix.embedding"):
        second = run(cohort, again, out, check_alignment=True)
    assert contents(out) == before
    assert again.encoded == 0
    assert "sections embedded: 0; already up to date: 2" in caplog.text
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["kept"], manifest["embedded"], manifest["failed"]) == (["A", "B"], [], {})
    for name in first:
        np.testing.assert_array_equal(first[name].X, second[name].X)


def test_a_named_encoder_is_loaded_only_for_work(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[tuple[str, Any, Any]] = []
    state = {"digest": "sha256:fake", "request": {"weights": "one"}}

    def load(name: str, weights: Any = None, threads: Any = None, trust_code: bool = False) -> FakeEncoder:
        loads.append((name, weights, threads))
        return FakeEncoder(digest=state["digest"])

    monkeypatch.setattr("histomix.encoders.load_encoder", load)
    monkeypatch.setattr("histomix.embedding.target._request", lambda name, weights: state["request"])
    out = tmp_path / "features"
    run(cohort.subset(["A"]), "some-name", out, weights="w.safetensors", threads=2)
    assert loads == [("some-name", "w.safetensors", 2)]
    run(cohort.subset(["A"]), "some-name", out)
    assert len(loads) == 1
    run(cohort, "some-name", out)  # B is new
    assert len(loads) == 2
    for request in (None, {"weights": "two"}):  # not known what the name loads, or known to be another
        state["request"] = request
        before = len(loads)
        run(cohort, "some-name", out)
        assert len(loads) == before + 1
    state["digest"] = "sha256:other"
    monkeypatch.setattr("histomix.embedding.target.Target.keep", lambda *_: False)
    with pytest.raises(EncoderError, match="not the one that the folder"):
        run(cohort, "some-name", out)


def test_the_built_in_encoder_is_embedded_once_and_then_recognised(
    sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spots = pd.read_csv(sheet.parent / "A.csv", index_col=0)
    spots.iloc[140:160].to_csv(sheet.parent / "A.csv")
    out, few = tmp_path / "features", read_cohort(sheet).subset(["A"])
    found = run(few, "builtin", out)["A"]
    encoder = load_encoder("builtin")
    section = few.section("A", counts=False)
    with section.slide() as slide, pytest.warns(ScaleWarning):
        tiles = np.stack([read_tile(slide, x, y, encoder.tile_spec()) for x, y in section.spots_px[[0, 19]]])
    np.testing.assert_allclose(found.X[[0, 19]].astype(float), encoder.embed(tiles), rtol=2e-3, atol=1e-4)
    assert encoder_identity(feature_manifest(found))["digest"] == encoder.digest

    def no_weights(*_args: Any, **_kwargs: Any) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr("histomix.encoders.load_encoder", no_weights)
    np.testing.assert_array_equal(run(few, "builtin", out)["A"].X, found.X)


@pytest.mark.parametrize("change", ["image", "spot", "mpp", "dtype"])
def test_only_the_section_that_changed_is_made_again(sheet: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "features"
    run(read_cohort(sheet), FakeEncoder(), out)
    options = {}
    if change == "image":
        with Image.open(sheet.parent / "B.png") as image:
            pixels = np.array(image)
        pixels[140, 140] = 0
        Image.fromarray(pixels).save(sheet.parent / "B.png")
    elif change == "spot":
        spots = pd.read_csv(sheet.parent / "B.csv", index_col=0)
        spots.iloc[5, 0] += 1
        spots.to_csv(sheet.parent / "B.csv")
    elif change == "mpp":
        rows = pd.read_csv(sheet)
        rows.loc[1, "mpp"] = 2.1
        rows.to_csv(sheet, index=False)
    else:
        options["dtype"] = "float32"
    encoder = FakeEncoder()
    found = run(read_cohort(sheet), encoder, out, **options)
    assert encoder.encoded == (2 if change == "dtype" else 1) * SPOTS
    fresh = run(read_cohort(sheet), FakeEncoder(), None, **options)
    for name in fresh:
        np.testing.assert_array_equal(found[name].X, fresh[name].X)
        np.testing.assert_array_equal(read_features(out)[name].X, fresh[name].X)


def test_the_identity_of_features_follows_all_that_their_values_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, colour in (("a.png", 200), ("b.png", 201)):
        Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(tmp_path / name)
    encoder = {"digest": "sha256:one", "dim": 15, "views": 1, "name": "fake", "licence": "CC0-1.0"}
    xy = np.array([[3.0, 4.0], [5.0, 6.0]])
    base: dict[str, Any] = {
        "image": tmp_path / "a.png",
        "mpp": 0.5,
        "keys": pd.Index(["s0", "s1"]),
        "xy_px": xy,
        "spec": TileSpec(8, 2.0),
        "encoder": encoder,
        "dtype": "float16",
    }
    changes: list[dict[str, Any]] = [
        {},
        {"image": tmp_path / "b.png"},
        {"mpp": 0.25},
        {"mpp": None},
        {"keys": pd.Index(["s1", "s0"])},
        {"xy_px": xy + np.array([[0.0, 0.25], [0.0, 0.0]])},
        {"spec": TileSpec(16, 2.0)},
        {"spec": TileSpec(8, 1.0)},
        {"encoder": encoder | {"digest": "sha256:two"}},
        {"encoder": encoder | {"dim": 16}},
        {"encoder": encoder | {"views": 4}},
        {"dtype": "float32"},
    ]
    found = [features_identity(**(base | change)) for change in changes]
    assert len(set(found)) == len(changes)
    # Names and licences change no value, and neither does the distance of a grid whose places are given.
    for change in ({"encoder": encoder | {"name": "other", "licence": "MIT"}}, {"spec": TileSpec(8, 2.0, 4.0)}):
        assert features_identity(**(base | change)) == found[0]
    monkeypatch.setattr("histomix.embedding.identity.FORMAT", "of another version")
    assert features_identity(**base) not in found


def test_an_alignment_check_that_was_skipped_is_made_up_without_embedding(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "features"
    run(cohort, FakeEncoder(), out, check_alignment=False)
    encoder = FakeEncoder()
    found = run(cohort, encoder, out, check_alignment=True)
    assert encoder.encoded == 0
    assert feature_manifest(found["A"])["alignment"]["ok"]
    assert feature_manifest(read_features(out)["A"])["alignment"]["ok"]
    np.testing.assert_array_equal(found["A"].X, direct(cohort, "A").astype(np.float16))


def test_features_of_another_encoder_are_not_overwritten_or_mixed(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "features"
    run(cohort.subset(["A"]), FakeEncoder(), out)
    before = contents(out)
    other = FakeEncoder(digest="sha256:other")
    with pytest.raises(FeatureError, match=r"another encoder.*A\.h5ad.*sha256:fake, not sha256:other"):
        run(cohort, other, out)
    assert other.encoded == 0
    assert contents(out) == before
    run(cohort.subset(["B"]), FakeEncoder(), out)
    assert list(read_features(out)) == ["A", "B"]
    assert sorted(json.loads((out / "manifest.json").read_text())["sections"]) == ["A", "B"]


# --- interrupted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [RuntimeError("power cut"), KeyboardInterrupt()])
def test_work_goes_on_where_it_stopped(cohort: Cohort, tmp_path: Path, fault: BaseException) -> None:
    out = tmp_path / "features"
    broken = FakeEncoder(fail_after=9)  # A is five batches; B stops after its first shard
    broken.fault = fault
    with pytest.raises(type(fault)):
        run(cohort, broken, out)
    assert [path.name for path in out.glob("*.h5ad")] == ["A.h5ad"]
    assert [path.name for path in (out / ".shards").glob("*/*.npy")] == ["0.npy"]
    assert not (out / ".lock").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("histomix-tiles")]
    encoder = FakeEncoder()
    found = run(cohort, encoder, out)
    assert encoder.encoded == SPOTS - 256
    for name in found:
        np.testing.assert_array_equal(found[name].X, direct(cohort, name).astype(np.float16))
    assert not (out / ".shards").exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 0x20
    path.write_bytes(data)


def _replace(path: Path) -> None:
    np.save(path, np.zeros((3, 4), dtype=np.float16))


def _forget_key(path: Path) -> None:
    path.with_suffix(".json").unlink()


@pytest.mark.parametrize("damage", [_truncate, _flip, _replace, _forget_key, Path.unlink])
def test_a_damaged_shard_is_computed_again(cohort: Cohort, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    slide, tiles = _tiles(cohort, 60)
    options: dict[str, Any] = {"shard_dir": tmp_path / "shards", "shard_size": 20, "batch_size": 8}
    expected, _ = embed_tiles(slide, tiles, FakeEncoder(), **options)
    damage(tmp_path / "shards" / "1.npy")
    encoder = FakeEncoder()
    found, _ = embed_tiles(slide, tiles, encoder, **options)
    assert encoder.encoded == 20
    np.testing.assert_array_equal(found, expected)


def test_a_planted_shard_runs_no_code(tmp_path: Path) -> None:
    """Whoever can write to the folder writes a key that is right as well."""

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    shards = Shards(tmp_path / "shards", "sha256:identity")
    shards.save(0, np.zeros((1, 1), np.float32))
    assert shards.load(0, (1, 1), np.dtype("float32")) is not None
    assert shards.load(0, (1, 2), np.dtype("float32")) is None and shards.load(0, (1, 1), np.dtype("float16")) is None
    path = tmp_path / "shards" / "0.npy"
    np.save(path, np.array([[Attack()]], dtype=object), allow_pickle=True)
    key = {"identity": "sha256:identity", "digest": digest_bytes(path.read_bytes())}
    path.with_suffix(".json").write_text(json.dumps(key))
    assert shards.load(0, (1, 1), np.dtype(object)) is None
    assert not (tmp_path / "ran").exists()


def test_shards_of_something_else_are_not_used(cohort: Cohort, tmp_path: Path) -> None:
    slide, tiles = _tiles(cohort, 60)
    options: dict[str, Any] = {"shard_dir": tmp_path / "shards", "shard_size": 20}
    embed_tiles(slide, tiles, FakeEncoder(), **options)
    for other, rows, more in (
        (FakeEncoder(digest="sha256:other"), tiles, {}),
        (FakeEncoder(), tiles.iloc[::-1], {}),
        (FakeEncoder(), tiles + 1, {}),
        (FakeEncoder(), tiles, {"dtype": "float32"}),
        (FakeEncoder(), tiles, {"shard_size": 30}),
    ):
        embed_tiles(slide, rows, other, **{**options, **more})
        assert other.encoded == 60


# --- what cannot be read or encoded ----------------------------------------------------------------------------------


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(slide: Any, x_px: float, y_px: float, spec: TileSpec) -> np.ndarray:
        if 90 < x_px < 98:
            raise SlideReadError("block 7 cannot be decoded", where=slide.path, hint="Copy the slide again")
        return read_tile(slide, x_px, y_px, spec)

    monkeypatch.setattr(engine, "read_tile", read)


def test_an_unreadable_tile_is_an_error_that_names_the_place(cohort: Cohort, unreadable: None) -> None:
    slide, tiles = _tiles(cohort, 130)
    first = tiles[tiles["x_px"].between(90, 98, inclusive="neither")].iloc[0]
    with pytest.raises(SlideReadError, match=rf"tile {first.name} at x {first.x_px:.0f}, y .*block 7.*Copy the slide"):
        embed_tiles(slide, tiles, FakeEncoder(), batch_size=10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("histomix-tiles")]


def test_an_unreadable_tile_is_marked_where_asked_for(cohort: Cohort, tmp_path: Path, unreadable: None) -> None:
    slide, tiles = _tiles(cohort, 130)
    expected_ok = ~tiles["x_px"].between(90, 98, inclusive="neither").to_numpy()
    assert 0 < (~expected_ok).sum() < 130
    options: dict[str, Any] = {"shard_dir": tmp_path, "shard_size": 50, "dtype": "float32", "batch_size": 7}
    for _ in range(2):  # computed, then from shards
        X, read_ok = embed_tiles(slide, tiles, FakeEncoder(), on_error="mark", **options)
        np.testing.assert_array_equal(read_ok, expected_ok)
        np.testing.assert_array_equal(X[read_ok], direct(cohort, "A")[:130][read_ok])
        assert np.isnan(X[~read_ok]).all()
    # Shards that hold marks do not hide the error from those who want it.
    with pytest.raises(SlideReadError):
        embed_tiles(slide, tiles, FakeEncoder(), on_error="raise", **options)


def test_memory_is_bounded_while_the_encoder_is_slow(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    slide, tiles = _tiles(cohort, 100)
    read: list[float] = []

    def counting(slide: Any, x_px: float, y_px: float, spec: TileSpec) -> np.ndarray:
        read.append(x_px)
        return read_tile(slide, x_px, y_px, spec)

    class Watching(FakeEncoder):
        ahead = 0

        def embed(self, tiles: np.ndarray) -> np.ndarray:
            threading.Event().wait(0.02)  # the readers could run far ahead now
            self.ahead = max(self.ahead, len(read) - self.encoded)
            return super().embed(tiles)

    monkeypatch.setattr(engine, "read_tile", counting)
    encoder = Watching()
    embed_tiles(slide, tiles, encoder, batch_size=5)
    assert len(read) == 100
    assert 5 < encoder.ahead <= 4 * 5  # reading overlaps encoding, by four batches at most


def test_float16_overflow_is_refused(cohort: Cohort) -> None:
    slide, tiles = _tiles(cohort, 20)
    with pytest.raises(FeatureError, match=r"beyond the range of float16.*float32"):
        embed_tiles(slide, tiles, FakeEncoder(scale=1e4), dtype="float16")
    X, _ = embed_tiles(slide, tiles, FakeEncoder(scale=1e4), dtype="float32")
    assert np.isfinite(X).all() and X.max() > 65504


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda X: np.where(np.arange(15) == 3, np.nan, X), "not finite"),
        (lambda X: X[:, :-1], "shape"),
        (lambda X: X[:-1], "shape"),
    ],
)
def test_an_encoder_that_misbehaves_is_named(cohort: Cohort, wrong: Callable[..., np.ndarray], message: str) -> None:
    class Wrong(FakeEncoder):
        def embed(self, tiles: np.ndarray) -> np.ndarray:
            return wrong(super().embed(tiles))

    slide, tiles = _tiles(cohort, 20)
    with pytest.raises(EncoderError, match=f"encoder fake .*{message}"):
        embed_tiles(slide, tiles, Wrong())


def test_one_truncated_image_does_not_cost_the_other_section(sheet: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "features", sheet.parent / "A.png"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeatureError) as caught:
        run(read_cohort(sheet), FakeEncoder(), out)
    message = str(caught.value)
    assert "1 of 2 sections could not be embedded; the others are done" in message
    assert "- A: " in message and str(image) in message and "- B" not in message
    assert [path.name for path in out.glob("*.h5ad")] == ["B.h5ad"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert list(manifest["failed"]) == ["A"] and manifest["embedded"] == ["B"]
    np.testing.assert_array_equal(read_features(out)["B"].X, direct(read_cohort(sheet), "B").astype(np.float16))
    image.write_bytes(whole)
    encoder = FakeEncoder()
    assert list(run(read_cohort(sheet), encoder, out)) == ["A", "B"]
    assert encoder.encoded == SPOTS


def test_spots_beside_the_tissue_are_refused_before_embedding(sheet: Path, tmp_path: Path) -> None:
    spots = pd.read_csv(sheet.parent / "A.csv", index_col=0)
    spots["x_px"] = 300 + spots["x_px"] / 20
    spots.to_csv(sheet.parent / "A.csv")
    encoder = FakeEncoder()
    with pytest.raises(FeatureError, match=r"1 of 2(.|\n)*- A: .*do not fit"):
        run(read_cohort(sheet), encoder, tmp_path / "features", check_alignment=True)
    assert encoder.encoded == SPOTS


def test_outdated_features_are_not_read_after_a_failure(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    run(read_cohort(sheet), FakeEncoder(), out)
    spots = pd.read_csv(sheet.parent / "B.csv", index_col=0)
    (spots + 3).to_csv(sheet.parent / "B.csv")
    with pytest.raises(RuntimeError, match="power cut"):
        run(read_cohort(sheet), FakeEncoder(fail_after=2), out)
    with pytest.raises(FeatureError, match=r"B\.h5ad: the features are outdated"):
        read_features(out)
    run(read_cohort(sheet), FakeEncoder(), out)
    assert list(read_features(out)) == ["A", "B"]


# --- disk and folder -------------------------------------------------------------------------------------------------


def test_a_full_disk_while_writing_leaves_nothing_half_written(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "features"

    def fill(path: Path, _table: ad.AnnData) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("histomix.embedding.features.write_h5ad", fill)
        with pytest.raises(StorageError, match=r"A\.h5ad: the disk.*full.*run the same command again"):
            run(cohort, FakeEncoder(), out)
    assert not list(out.glob("*.h5ad")) and not list(out.rglob(".partial-*"))
    assert len(list((out / ".shards" / "A").glob("*.npy"))) == 2
    encoder = FakeEncoder()
    run(cohort, encoder, out)
    assert encoder.encoded == SPOTS


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import test_embedding as t
from histomix.errors import StorageError

for limit in (4_000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        t.run(t.read_cohort(sys.argv[2]), t.FakeEncoder(), t.Path(sys.argv[3]))
    except StorageError as error:
        print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_file_size_limit_is_a_storage_error(material: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "features", material / "sheet.csv"
    command = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(sheet), str(out)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    shard, table = found.stdout.splitlines() or pytest.fail(found.stderr)
    assert "0.npy: the disk is full" in shard
    assert "A.h5ad: the disk is full" in table
    assert not list(out.glob("*.h5ad")) and not list(out.rglob(".partial-*"))
    encoder = FakeEncoder()
    run(read_cohort(sheet), encoder, out)
    assert encoder.encoded == SPOTS  # the shards of A are intact
    assert list(read_features(out)) == ["A", "B"]


def test_a_folder_that_cannot_be_made_is_named(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be a folder"):
        run(cohort, FakeEncoder(), tmp_path / "file" / "features")


def test_a_second_process_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    out, encoder = tmp_path / "features", FakeEncoder()
    with folder_lock(out), pytest.raises(FeatureError, match=f"process {os.getpid()} on .* is writing features"):
        run(cohort, encoder, out)
    assert encoder.encoded == 0
    # A process that was killed leaves its lock file, and half a file.
    (out / ".lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}), encoding="utf-8")
    (out / ".partial-x").mkdir()
    run(cohort, encoder, out)
    assert not (out / ".lock").exists() and not (out / ".partial-x").exists()


# --- reading back ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored_once(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stored")
    run(read_cohort(material / "sheet.csv"), FakeEncoder(), out)
    return out


@pytest.fixture
def stored(stored_once: Path, tmp_path: Path) -> Path:
    """A copy of the cohort's features that a test may damage."""
    return shutil.copytree(stored_once, tmp_path / "stored")


def _rewrite(path: Path, change: Callable[[ad.AnnData], ad.AnnData | None]) -> None:
    table = ad.read_h5ad(path)
    (change(table) or table).write_h5ad(path)


def _set_manifest(path: Path, **values: Any) -> None:
    def change(table: ad.AnnData) -> None:
        table.uns["manifest"] = json.dumps({**read_facts(table.uns["manifest"]), **values})

    _rewrite(path, change)


def _without_manifest(table: ad.AnnData) -> None:
    del table.uns["manifest"]


def _with_nan(table: ad.AnnData) -> None:
    table.X[3, 3] = np.nan
    manifest = {**read_facts(table.uns["manifest"]), "content_digest": features._digest(table)}
    table.uns["manifest"] = json.dumps(manifest)


def _changed(table: ad.AnnData) -> None:
    table.X[3, 3] += 1


def _without_tissue(table: ad.AnnData) -> None:
    del table.obs["tissue"]


def _unknown_encoding(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["obs/tissue"].attrs["encoding-version"] = "0.9.9"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_unknown_encoding, "does not read"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"not a table"), "damaged"),
        (lambda path: _rewrite(path, _without_manifest), "no manifest"),
        (lambda path: _set_manifest(path, encoder={}), "incomplete"),
        (lambda path: _set_manifest(path, section="Z"), "section Z"),
        (lambda path: _rewrite(path, lambda table: table[:, :10].copy()), "10 columns.*15"),
        (lambda path: _rewrite(path, _with_nan), "not finite"),
        (lambda path: _rewrite(path, _changed), "digest differs"),
        (lambda path: _rewrite(path, _without_tissue), "lacks tissue"),
    ],
)
def test_damaged_features_are_named_and_made_again(
    cohort: Cohort, stored: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(stored / "B.h5ad")
    with pytest.raises(FeatureError, match=rf"B\.h5ad: .*{message}") as caught:
        read_features(stored)
    assert caught.value.hint
    encoder = FakeEncoder()
    run(cohort, encoder, stored)
    assert encoder.encoded == SPOTS
    np.testing.assert_array_equal(read_features(stored)["B"].X, direct(cohort, "B").astype(np.float16))


def test_sections_of_different_encoders_are_not_read_together(cohort: Cohort, stored: Path, tmp_path: Path) -> None:
    run(cohort.subset(["B"]), FakeEncoder(digest="sha256:other"), tmp_path / "other")
    (stored / "B.h5ad").write_bytes((tmp_path / "other" / "B.h5ad").read_bytes())
    (stored / "manifest.json").unlink()
    with pytest.raises(FeatureError, match=r"B\.h5ad: .*A\.h5ad: digest sha256:other, not sha256:fake"):
        read_features(stored)


def test_a_folder_without_features_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="holds no features"):
        read_features(tmp_path)
    with pytest.raises(FeatureError, match="no such folder"):
        read_features(tmp_path / "absent")


def test_labels_and_features_are_told_from_each_other(job: Job, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="holds features of tiles, and no labels"):
        hm.train(job.sheet, job.features, job.features)
    with pytest.raises(FeatureError, match="holds labels of spots, and no features"):
        read_features(job.labels)
    table = next(iter(read_features(job.features).values()))
    pd.DataFrame(np.asarray(table.X, float), index=table.obs_names).to_csv(tmp_path / "a.csv")
    with pytest.raises(LabelError, match="no features of tiles"):
        read_abundance(tmp_path / "a.csv", "proportion")


def test_the_difference_of_two_encoders_is_in_the_message(stored: Path) -> None:
    mine = encoder_identity(feature_manifest(read_features(stored)["A"]))
    assert mine == {
        "encoder": "fake",
        "digest": "sha256:fake",
        "dim": 15,
        "views": 1,
        "precision": "float32",
        "size_px": SIZE_PX,
        "mpp": MPP,
    }
    require_same_encoder(mine, dict(mine), "here")
    with pytest.raises(FeatureError, match=r"here: .*views 8, not 1; mpp 0\.5, not 2\.0") as caught:
        require_same_encoder(mine, {**mine, "views": 8, "mpp": 0.5}, "here")
    assert "digest" not in str(caught.value)


def test_wrong_options_are_refused_before_work(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"int8.*float16, float32"):
        run(cohort, FakeEncoder(), tmp_path / "out", dtype="int8")
    with pytest.raises(FeatureError, match="batch of 0"):
        run(cohort, FakeEncoder(), tmp_path / "out", batch_size=0)
    with pytest.raises(EncoderError, match="already loaded"):
        run(cohort, FakeEncoder(), None, weights="weights.pt")
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_long_job_says_how_long_it_will_take(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("histomix.embedding.cohort._FEW_TILES", 2 * SPOTS)
    with caplog.at_level(logging.INFO, logger="histomix"):
        run(cohort, FakeEncoder(), tmp_path / "soon")
        assert "will take about" not in caplog.text
        monkeypatch.setattr("histomix.embedding.cohort.seconds_a_tile", lambda encoder: 1.0)
        run(cohort, FakeEncoder(), tmp_path / "long")
    said = 2 * (SPOTS + SAMPLED)
    assert f"embedding {2 * SPOTS} tiles of 2 sections will take about {said / 60:.0f} min here" in caplog.text
    caplog.clear()
    run(cohort, FakeEncoder(), tmp_path / "long")
    assert "will take about" not in caplog.text  # nothing is left to do
