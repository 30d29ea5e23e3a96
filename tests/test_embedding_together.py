"""Several encoders in one pass, other fields of view, and features as LazySlide keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.common.naming import safe_file_name
from histomix.embedding import (
    add_to_wsidata,
    embed,
    embed_tiles,
    embed_tiles_together,
    feature_manifest,
    read_features,
    slide_features_together,
    with_field_of_view,
)
from histomix.embedding.reading import find_batch_size
from histomix.errors import EncoderError, FeatureError, InputError
from histomix.slides import Slide, TileSpec, open_slide, read_tile
from histomix.spots import Cohort, read_cohort

from .extras import extra_module
from .slide_files import write_pyramid

MPP = 0.5
SPOTS = 70


class Pixels:
    """Gives three pixels and the mean of each tile, so that a shifted or rescaled tile shows."""

    dim = 12
    views = 1

    def __init__(self, name: str = "a", size_px: int = 16, mpp: float = 0.5) -> None:
        self.card = SimpleNamespace(name=name, licence="CC0-1.0", revision=None)
        self.digest, self.size_px, self.mpp = f"sha256:{name}", size_px, mpp
        self.batches: list[int] = []
        self.fails = False

    def tile_spec(self) -> TileSpec:
        return TileSpec(self.size_px, self.mpp)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        if self.fails and self.batches:
            raise RuntimeError("power cut")
        self.batches.append(len(tiles))
        corner, middle = tiles[:, 0, 0], tiles[:, self.size_px // 2, self.size_px // 2]
        return np.hstack([corner, middle, tiles[:, -1, 1], tiles.mean(axis=(1, 2))]).astype(np.float32)


def direct(slide: Slide, encoder: Pixels, tiles: pd.DataFrame, spec: TileSpec | None = None) -> np.ndarray:
    positions = tiles[["x_px", "y_px"]].to_numpy()
    spec = spec or encoder.tile_spec()
    return Pixels(size_px=spec.size_px).embed(np.stack([read_tile(slide, x, y, spec) for x, y in positions]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    rng = np.random.default_rng(4)
    pixels = np.kron(rng.integers(60, 230, (70, 80, 3)), np.ones((8, 8, 1))) + rng.integers(-20, 20, (560, 640, 3))
    write_pyramid(folder / "slide.tif", pixels.astype(np.uint8), mpp=MPP, factors=(4,), compression="jpeg")
    positions = rng.uniform(0, (640, 560), (SPOTS, 2))
    table = pd.DataFrame(
        positions, columns=["x_px", "y_px"], index=pd.Index([f"s{i}" for i in range(SPOTS)], name="spot")
    )
    table.to_csv(folder / "spots.csv")
    row = {"section": "A", "donor": "d", "spots": "spots.csv", "image": "slide.tif"}
    pd.DataFrame([row]).to_csv(folder / "sheet.csv", index=False)
    return folder


@pytest.fixture
def cohort(folder: Path) -> Cohort:
    return read_cohort(folder / "sheet.csv")


@pytest.fixture
def tiles(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "spots.csv", index_col=0).assign(tissue=1.0)


ENCODERS = [("a", 16, 0.5), ("b", 24, 0.61), ("c", 10, 2.0)]  # level 0 untouched, resampled, and level 1


def test_together_is_what_each_gives_alone(folder: Path, tiles: pd.DataFrame, tmp_path: Path) -> None:
    encoders = [Pixels(*facts) for facts in ENCODERS]
    with open_slide(folder / "slide.tif") as slide:
        reads: list[tuple[int, ...]] = []
        read_level = slide._reader.read_level  # type: ignore[union-attr]

        def counting(*request: int) -> np.ndarray:
            reads.append(request)
            return read_level(*request)

        slide._reader.read_level = counting  # type: ignore[union-attr,method-assign]
        found = embed_tiles_together(slide, tiles, encoders, dtype="float32", batch_size=16, shard_size=32)
        assert len(reads) == 2 * SPOTS  # once for a and b, which share a level, and once for c
        for encoder, (X, read_ok) in zip(encoders, found, strict=True):
            assert read_ok.all()
            np.testing.assert_array_equal(X, direct(slide, encoder, tiles))
            np.testing.assert_array_equal(X, embed_tiles(slide, tiles, encoder, dtype="float32", batch_size=7)[0])


def test_a_shard_that_one_encoder_lacks_is_made_for_it_alone(folder: Path, tiles: pd.DataFrame, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "shard_dirs": [tmp_path / "a", tmp_path / "b"],
        "dtype": "float32",
        "shard_size": 20,
        "batch_size": 8,
    }
    with open_slide(folder / "slide.tif") as slide:
        expected = embed_tiles_together(slide, tiles, [Pixels(*ENCODERS[0]), Pixels(*ENCODERS[1])], **options)
        (tmp_path / "b" / "2.npy").unlink()
        again = [Pixels(*ENCODERS[0]), Pixels(*ENCODERS[1])]
        found = embed_tiles_together(slide, tiles, again, **options)
    assert again[0].batches == [] and sum(again[1].batches) == 20
    for (X, _), (Y, _) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(X, Y)


def test_a_tile_that_only_the_wider_encoder_cannot_read(
    folder: Path, tiles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histomix.errors import SlideReadError

    narrow, wide = Pixels("narrow", 8), Pixels("wide", 40)
    with open_slide(folder / "slide.tif") as slide:
        read_level = slide._reader.read_level  # type: ignore[union-attr]

        def damaged(level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
            if x < 300 < x + width and y < 200 < y + height:
                raise SlideReadError("cannot be decoded", where=slide.path)
            return read_level(level, x, y, width, height)

        monkeypatch.setattr(slide._reader, "read_level", damaged)
        some = pd.DataFrame({"x_px": [310.0, 300, 100], "y_px": [200.0, 200, 100]}, index=["near", "on", "far"])
        found = embed_tiles_together(slide, some, [narrow, wide], on_error="mark", dtype="float32")
        tables = slide_features_together(slide, some.assign(tissue=1.0), [narrow, wide])
    assert found[0][1].tolist() == [True, False, True]
    assert found[1][1].tolist() == [False, False, True]
    for (X, _), table in zip(found, tables, strict=True):
        np.testing.assert_array_equal(X, table.X)


def test_a_cohort_with_several_encoders(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "features"
    encoders = [Pixels(*facts) for facts in ENCODERS[:2]]
    found = embed(cohort, encoders, out=out, check_alignment=False)
    alone = embed(cohort, Pixels(*ENCODERS[1]), check_alignment=False)
    np.testing.assert_array_equal(found["b"]["A"].X, alone["A"].X)
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    for name, features in found.items():
        stored = read_features(out / name)["A"]
        np.testing.assert_array_equal(stored.X, features["A"].X)
        assert feature_manifest(stored)["encoder"]["name"] == name
        assert json.loads((out / name / "manifest.json").read_text())["embedded"] == ["A"]
    # A third encoder joins: the first two are kept, and no tile is encoded again.
    again = [Pixels(*facts) for facts in ENCODERS]
    embed(cohort, again, out=out, check_alignment=False)
    assert [sum(encoder.batches) for encoder in again] == [0, 0, SPOTS]
    assert not list(out.glob("*/.lock")) and not list(out.glob("*/.shards"))


def test_an_encoder_of_any_name_has_a_folder(cohort: Cohort, tmp_path: Path) -> None:
    found = embed(cohort, [Pixels("zoo:b"), Pixels("../c"), Pixels("aux")], out=tmp_path / "f", check_alignment=False)
    assert list(found) == ["zoo_b", safe_file_name(".._c"), safe_file_name("aux")]
    assert {path.name for path in (tmp_path / "f").iterdir()} == set(found)


def test_a_stop_loses_no_encoder_its_shards(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = Pixels(*ENCODERS[0]), Pixels(*ENCODERS[1])
    bad.fails = True
    with pytest.raises(RuntimeError, match="power cut"):
        embed(cohort, [good, bad], out=tmp_path, check_alignment=False, batch_size=64)
    good, bad = Pixels(*ENCODERS[0]), Pixels(*ENCODERS[1])
    embed(cohort, [good, bad], out=tmp_path, check_alignment=False)
    assert (sum(good.batches), sum(bad.batches)) == (0, SPOTS)


def test_wrong_lists_of_encoders_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    for encoders, weights, what in (
        ([Pixels("a"), Pixels("a")], None, "a is listed twice"),
        ([], None, "no encoder"),
        (["builtin", "uni"], ["x", "y"], "2 weights were given for 1 encoders"),
        (["builtin"], {"uni": "x"}, "uni, which is not listed"),
    ):
        with pytest.raises(EncoderError, match=what):
            embed(cohort, encoders, weights, out=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("**/*.h5ad"))


# --- field of view ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::histomix.errors.ScaleWarning")
@pytest.mark.parametrize("slide_mpp", [0.25, 0.2299, 0.5, 0.5021, 0.69])
@pytest.mark.parametrize("fov_um", [None, 100.0, 55.0])
def test_a_tile_covers_its_um_of_tissue(tmp_path: Path, slide_mpp: float, fov_um: float | None) -> None:
    """A black frame of known um on white: the tile that ends at its inner edge is white, a wider one is not."""
    spec = TileSpec(112, 0.75)
    encoder = with_field_of_view(Pixels("a", spec.size_px, spec.mpp), fov_um)
    width_um = fov_um or 84.0
    found = encoder.tile_spec()
    assert found.size_px == 112 and found.size_um == pytest.approx(width_um)
    side = round(140 / slide_mpp)
    pixels = np.zeros((side, side, 3), np.uint8)
    centre = side / 2
    inner = [round(centre + sign * width_um / slide_mpp / 2) for sign in (-1, 1)]
    pixels[inner[0] : inner[1], inner[0] : inner[1]] = 255
    write_pyramid(tmp_path / "frame.tif", pixels, mpp=slide_mpp, factors=())
    with open_slide(tmp_path / "frame.tif") as slide:
        tile = read_tile(slide, centre, centre, found)
        assert tile.shape == (112, 112, 3)
        # The frame was drawn to a whole pixel of the slide, half of one beyond the edge of the tile at most.
        edge = max(1, int(np.ceil(slide_mpp / found.mpp)))
        assert tile[edge:-edge, edge:-edge].min() == 255
        seen_um = (tile.mean() / 255) ** 0.5 * width_um
        assert seen_um == pytest.approx(width_um, abs=2 * slide_mpp)
        wider = read_tile(slide, centre, centre, TileSpec(112, found.mpp * 1.1))
        assert (wider.mean() / 255) ** 0.5 * width_um * 1.1 == pytest.approx(width_um, abs=2 * slide_mpp)
        assert wider[0].max() < 255 and wider[:, -1].max() < 255


def test_the_field_of_view_is_recorded_and_never_mixed(cohort: Cohort, folder: Path, tmp_path: Path) -> None:
    encoder = Pixels(*ENCODERS[1])
    found = embed(cohort, encoder, out=tmp_path, fov_um=30.0, check_alignment=False)["A"]
    assert feature_manifest(found)["tile"] == {"size_px": 24, "mpp": 30 / 24, "stride_um": None}
    tiles = found.obs
    with open_slide(folder / "slide.tif") as slide:
        expected = direct(slide, encoder, tiles, TileSpec(24, 1.25)).astype(np.float16)
    np.testing.assert_array_equal(found.X, expected)
    with pytest.raises(FeatureError, match=r"another encoder or tile .*mpp 1\.25, not 0\.61"):
        embed(cohort, Pixels(*ENCODERS[1]), out=tmp_path, check_alignment=False)
    for wrong in (0.0, -3.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="field of view"):
            embed(cohort, Pixels(*ENCODERS[1]), fov_um=wrong, check_alignment=False)


def test_a_field_passes_on_what_its_encoder_adds() -> None:
    encoder = Pixels()
    encoder.precision = "int8"  # type: ignore[attr-defined]
    seen = with_field_of_view(encoder, 20.0)
    assert getattr(seen, "precision", None) == "int8" and getattr(seen, "prepare", None) is None
    assert with_field_of_view(encoder, None) is encoder


# --- commands, batches, LazySlide ------------------------------------------------------------------------------------


def test_the_command_takes_encoders_and_a_field(folder: Path, tmp_path: Path) -> None:
    pd.read_csv(folder / "spots.csv").head(4).to_csv(tmp_path / "spots.csv", index=False)
    row = {"section": "A", "donor": "d", "spots": "spots.csv", "image": folder / "slide.tif"}
    pd.DataFrame([row]).to_csv(tmp_path / "sheet.csv", index=False)
    words = ["embed", str(tmp_path / "sheet.csv"), "--out", str(tmp_path), "--skip-alignment-check", "--json"]
    result = CliRunner().invoke(app, [*words, "--encoder", "builtin", "--fov-um", "56"])
    assert result.exit_code == 0 and json.loads(result.stdout)["encoder"] == "builtin"
    assert feature_manifest(read_features(tmp_path)["A"])["tile"]["mpp"] == 0.5
    for wrong in (["--fov-um", "-1"], ["--runtime", "magic"], ["--encoder", "builtin", "--encoder", "builtin"]):
        assert CliRunner().invoke(app, [*words, *wrong]).exit_code == 2


def test_batches_follow_the_memory_within_bounds() -> None:
    encoder: Any = Pixels(size_px=224)
    assert find_batch_size([encoder], 1 << 50) == 64
    assert find_batch_size([encoder], 0) == 1
    sizes = [find_batch_size([encoder], free) for free in np.geomspace(1e8, 1e11, 20).astype(int).tolist()]
    assert sizes == sorted(sizes) and {size & (size - 1) for size in sizes} == {0} and len(set(sizes)) > 3
    assert find_batch_size([encoder, Pixels(size_px=16)], 1 << 31) == find_batch_size([encoder], 1 << 31)  # type: ignore[list-item]
    assert 1 <= find_batch_size([encoder]) <= 64


def test_work_done_ahead_is_encoded(folder: Path, tiles: pd.DataFrame) -> None:
    class Ahead(Pixels):
        def prepare(self, images: np.ndarray) -> list[np.ndarray]:
            return [images]

        def encode(self, prepared: list[np.ndarray]) -> np.ndarray:
            return 2 * Pixels.embed(self, prepared[0])

    with open_slide(folder / "slide.tif") as slide:
        X, _ = embed_tiles(slide, tiles, Ahead(), dtype="float32")
        np.testing.assert_array_equal(X, 2 * direct(slide, Pixels(), tiles))


def test_features_stand_where_lazyslide_keeps_its_own(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    wsidata = extra_module("zoo", "wsidata")
    found = embed(cohort, Pixels("b", 24, 1.0), check_alignment=False)["A"]
    wsi = wsidata.open_wsi(folder / "slide.tif", store=None)
    assert add_to_wsidata(found, wsi) == "b_tiles"
    table = wsi.fetch.features_anndata("b", "tiles")
    np.testing.assert_array_equal(np.asarray(table.X), found.X)
    assert list(table.obs["spot"]) == list(found.obs_names)
    bounds = wsi.shapes["tiles"].bounds.to_numpy()
    # 24 px of 1.0 are 48 px of 0.5; the corners stand on the lattice that LazySlide draws, at most half of it away.
    spec = wsi.tile_spec("tiles")
    moved = np.abs(bounds[:, :2] + 24 - found.obsm["spatial"])
    assert 0 < moved.max() <= max(spec.base_stride_width, 1) / 2 + 0.5
    assert (bounds[:, :2] == np.floor(bounds[:, :2])).all()
    assert wsi.tile_spec("tiles").mpp == 1.0
    other = wsidata.open_wsi(write_pyramid(tmp_path / "other.tif", np.zeros((300, 300, 3), np.uint8)), store=None)
    with pytest.raises(FeatureError, match="300 x 300 px"):
        add_to_wsidata(found, other)
