"""Features that others computed: every format gives what our own store holds, and nothing doubtful is let in."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.embedding import feature_manifest
from histomix.embedding.identity import STATED
from histomix.embedding.imports.encoder_names import known_name
from histomix.embedding.imports.files import slide_name
from histomix.embedding.imports.matching import overlapping
from histomix.encoders import cards
from histomix.errors import FeatureError, InputError, MissingFeatureError, UnknownEncoderError

from .conftest import Job
from .extras import extra_module
from .foreign_features import Tiles, clam, hest_bench, places_table, slide2vec, slide2vec_1, trident

Write = Callable[[Path, Tiles], list[Path]]
STATED_ALL = {"encoder": "builtin", "tile_um": 112.0, "origin": "centre", "scale": 1.0}


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    return small_job


@pytest.fixture(scope="module")
def own(job: Job) -> dict[str, ad.AnnData]:
    return hm.read_features(job.features)


@pytest.fixture(scope="module")
def tiles(own: dict[str, ad.AnnData]) -> dict[str, Tiles]:
    """The tiles of our own store, by section, as another program would have them."""
    made = {}
    for name, table in own.items():
        slide = feature_manifest(table)["slide"]
        side, file = 112.0 / slide["mpp"], Path(slide["file"]).stem
        keys, centres = np.asarray(table.obs_names, object), np.asarray(table.obsm["spatial"])
        made[name] = Tiles(file, np.asarray(table.X), centres, side, keys)
    return made


def _parquet(folder: Path, tiles: Tiles) -> list[Path]:
    table = pd.DataFrame(tiles.vectors.astype(np.float32)).add_prefix("f")
    table[["x", "y"]] = tiles.centres
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / f"{tiles.name}.parquet")
    return [folder / f"{tiles.name}.parquet"]


def _csv(folder: Path, tiles: Tiles) -> list[Path]:
    table = pd.DataFrame(tiles.vectors.astype(np.float32)).add_prefix("f")
    table.insert(0, "spot", tiles.keys)
    table[["x_px", "y_px"]] = tiles.centres
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / f"{tiles.name}.csv", index=False)
    return [folder / f"{tiles.name}.csv"]


def _npy(folder: Path, tiles: Tiles) -> list[Path]:
    places_table(folder / f"{tiles.name}_coords.csv", tiles)
    np.save(folder / f"{tiles.name}.npy", tiles.vectors)
    return [folder / f"{tiles.name}.npy", folder / f"{tiles.name}_coords.csv"]


def _npz(folder: Path, tiles: Tiles) -> list[Path]:
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{tiles.name}.npz", features=tiles.vectors, coords=tiles.centres)
    return [folder / f"{tiles.name}.npz"]


def _h5ad(folder: Path, tiles: Tiles) -> list[Path]:
    folder.mkdir(exist_ok=True)
    data = ad.AnnData(tiles.vectors.astype(np.float32), obsm={"spatial": tiles.centres})
    data.obs_names = [f"tile-{number}" for number in range(len(tiles.keys))]
    data.write_h5ad(folder / f"{tiles.name}.h5ad")
    return [folder / f"{tiles.name}.h5ad"]


def _tensors(folder: Path, tiles: Tiles) -> list[Path]:
    folder.mkdir(exist_ok=True)
    held = {"feats": torch.from_numpy(tiles.vectors), "coords": torch.from_numpy(tiles.centres)}
    torch.save(held, folder / f"{tiles.name}.pt")
    return [folder / f"{tiles.name}.pt"]


#: How each format is written, and what must be stated beside the encoder.
FORMATS: dict[str, tuple[Write, dict[str, Any]]] = {
    "TRIDENT": (lambda folder, tiles: [trident(folder / f"{tiles.name}.h5", tiles)], {}),
    "CLAM h5": (lambda folder, tiles: [clam(folder, tiles, pt=False)], {}),
    "CLAM pt": (lambda folder, tiles: [clam(folder, tiles, pt=True)], {}),
    "slide2vec pt": (lambda folder, tiles: [slide2vec(folder, tiles, "builtin", 0.5, format="pt")], {}),
    "slide2vec npz": (lambda folder, tiles: [slide2vec(folder, tiles, "builtin", 0.5, format="npz")], {}),
    "slide2vec 1": (lambda folder, tiles: [slide2vec_1(folder, tiles)], {}),
    "HEST-bench": (lambda folder, tiles: [hest_bench(folder / f"{tiles.name}.h5", tiles)], {"tile_um": 112.0}),
    "npy": (_npy, STATED_ALL),
    "npz": (_npz, STATED_ALL),
    "parquet": (_parquet, STATED_ALL),
    "csv": (_csv, {"tile_um": 112.0}),
    "h5ad": (_h5ad, STATED_ALL),
    "tensors": (_tensors, STATED_ALL),
}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_numbers_of_our_own_store(
    format: str, job: Job, own: dict[str, ad.AnnData], tiles: dict[str, Tiles], tmp_path: Path
) -> None:
    if format == "parquet":
        extra_module("st", "pyarrow")
    write, stated = FORMATS[format]
    paths = list(dict.fromkeys(path for one in tiles.values() for path in write(tmp_path / "theirs", one)))
    found = hm.import_features(paths, job.sheet, tmp_path / "features", **{"encoder": "builtin", **stated})
    assert list(found) == list(own)
    for name, table in hm.read_features(tmp_path / "features").items():
        np.testing.assert_array_equal(np.asarray(table.X, np.float32), np.asarray(own[name].X, np.float32))
        np.testing.assert_array_equal(table.obsm["spatial"], own[name].obsm["spatial"])
        assert table.obs.equals(own[name].obs)
        ours, theirs = feature_manifest(own[name]), feature_manifest(table)
        assert theirs["tile"] == ours["tile"] and theirs["slide"] == ours["slide"]
        assert theirs["encoder"]["name"] == "builtin" and theirs["encoder"]["digest"].startswith(STATED)
        told = theirs["imported"]
        assert told["matched"] == table.n_obs and told["unmatched"] == 0
        assert ("encoder" in told["read"]) == (format in ("slide2vec pt", "slide2vec npz")) and "encoder" in told[
            "stated"
        ]
        assert told["distance_um"] is None or told["distance_um"]["max"] < 1.0


def test_lazyslides_own_store_is_read(
    job: Job, own: dict[str, ad.AnnData], tiles: dict[str, Tiles], tmp_path: Path
) -> None:
    extra_module("zoo", "wsidata")
    extra_module("st", "spatialdata")
    import tifffile
    from wsidata import open_wsi

    from histomix.embedding import add_to_wsidata

    cohort, name = hm.read_cohort(job.sheet), next(iter(own))
    image = next(row.image for row in cohort.rows if row.section == name)
    with hm.open_slide(image) as slide:
        pixels = slide.read(0, 0, slide.width_px, slide.height_px, slide.mpp)
    facts = {"resolution": (1e4 / 0.5, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(256, 256), photometric="rgb", **facts)
    wsi = open_wsi(tmp_path / "slide.tif", store=str(tmp_path / f"{tiles[name].name}.zarr"))
    add_to_wsidata(own[name], wsi)
    wsi.write()
    found = hm.import_features(tmp_path / f"{tiles[name].name}.zarr", cohort.subset([name]))[name]
    np.testing.assert_array_equal(np.asarray(found.X, np.float32), np.asarray(own[name].X, np.float32))
    told = feature_manifest(found)["imported"]
    assert told["format"] == "LazySlide zarr" and told["read"]["encoder"] == "builtin"
    assert told["read"]["mpp"] == 1.0 and not told["stated"]

    # A store that was tiled and not embedded, or only half copied.
    del wsi.tables[f"builtin_{'tiles'}"]
    wsi.delete_element_from_disk("builtin_tiles")
    with pytest.raises(FeatureError, match="no table of features of its tiles"):
        hm.import_features(tmp_path / f"{tiles[name].name}.zarr", cohort.subset([name]))


def test_a_grid_of_tiles_is_averaged_by_the_area_over_each_spot() -> None:
    centres = np.array([[50.0, 50.0], [150.0, 50.0], [50.0, 150.0], [150.0, 150.0]])
    vectors = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    spots = np.array([[50.0, 50.0], [100.0, 100.0], [95.0, 50.0], [199.0, 199.0], [300.0, 300.0]])
    found = overlapping(centres, vectors, 100.0, spots, 20.0, 0.5)
    # The fourth spot has 11 of 20 px in x and in y on a tile, less than half its area.
    assert found.rows.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.vectors.ravel(), [0.0, 1.5, 0.25])
    np.testing.assert_allclose(found.distance_um[0], 0.0)


def test_spots_without_a_tile_are_left_out_and_counted(job: Job, tiles: dict[str, Tiles], tmp_path: Path) -> None:
    name, one = next(iter(tiles.items()))
    moved = one.centres + np.array([12.0, 0.0])
    fewer = one.but(vectors=one.vectors[3:], centres=moved[3:], keys=one.keys[3:])
    path = _npz(tmp_path, fewer)
    cohort = hm.read_cohort(job.sheet).subset([name])
    table = hm.import_features(path, cohort, **STATED_ALL, tolerance_um=10.0)[name]
    told = feature_manifest(table)["imported"]
    assert told["matched"] == len(one.keys) - 3 == table.n_obs and told["unmatched"] == 3
    assert told["distance_um"]["median"] == pytest.approx(6.0) and told["tolerance_um"] == 10.0
    with pytest.raises(FeatureError, match=r"only 0 of .* within 2 um; half of them are 6 um"):
        hm.import_features(path, cohort, **STATED_ALL, tolerance_um=2.0)


def test_clam_leaves_the_same_features_twice(job: Job, tiles: dict[str, Tiles], tmp_path: Path) -> None:
    name, one = next(iter(tiles.items()))
    cohort = hm.read_cohort(job.sheet).subset([name])
    clam(tmp_path, one.but(vectors=one.vectors.astype(np.float32)), pt=True)
    clam(tmp_path, one, pt=False)
    found = hm.import_features(tmp_path, cohort, encoder="builtin")[name]
    np.testing.assert_array_equal(found.X, one.vectors.astype(np.float32))
    torch.save(torch.zeros(one.vectors.shape), tmp_path / "pt_files" / f"{one.name}.pt")
    with pytest.raises(FeatureError, match=r"features of the slide .* twice"):
        hm.import_features(tmp_path, cohort, encoder="builtin")


def _nan(tiles: Tiles) -> Tiles:
    vectors = tiles.vectors.astype(np.float32)
    vectors[2, 5] = np.nan
    return tiles.but(vectors=vectors)


def _stopped(tiles: Tiles) -> Tiles:
    vectors = tiles.vectors.copy()
    vectors[-3:] = 0
    return tiles.but(vectors=vectors)


def _all_the_same(tiles: Tiles) -> Tiles:
    return tiles.but(vectors=np.repeat(tiles.vectors[:1], len(tiles.vectors), axis=0))


def _overflown(tiles: Tiles) -> Tiles:
    vectors = tiles.vectors.astype(np.float32)
    vectors[2, 5] = 1e5
    with np.errstate(over="ignore"):
        return tiles.but(vectors=vectors.astype(np.float16))


def _twice(tiles: Tiles) -> Tiles:
    centres = tiles.centres.copy()
    centres[1] = centres[0]
    return tiles.but(centres=centres)


#: What is wrong with a file of TRIDENT, and what is said of it.
BAD: dict[str, tuple[Callable[[Tiles], Tiles], dict[str, Any], str]] = {
    "another dimension": (
        lambda tiles: tiles.but(vectors=tiles.vectors[:, :384]),
        {},
        r"384 features, and builtin gives 544 \(stages\)",
    ),
    "NaN": (_nan, {}, "features are NaN in 1 row of .*, the first row 2"),
    "a run that stopped": (_stopped, {}, "features are all 0 in 3 rows of .* as a run that stopped leaves them"),
    "no weights": (_all_the_same, {}, "features are the same in all .* rows"),
    "float16 overflow": (_overflown, {}, "infinite in 1 row .* beyond 65,504 were stored as float16"),
    "a place twice": (_twice, {}, r"1 place of .* more than once"),
    "px of a lower level": (
        lambda tiles: tiles.but(centres=tiles.centres / 4 + tiles.side / 2 * 0.75),
        {},
        "a level 4 times smaller, not of level 0. State it with --scaled 4",
    ),
    "centres for corners": (
        lambda tiles: tiles.but(centres=tiles.centres + tiles.side / 2),
        {},
        r"half a tile \(56 um\) off .* taken for the centres .* --origin centre",
    ),
    "another slide": (lambda tiles: tiles.but(name="Elsewhere"), {}, "is of the slide Elsewhere, not of"),
    "fewer places": (lambda tiles: tiles.but(centres=tiles.centres[:-2]), {}, r"features and \d+ places"),
    "another scale": (lambda tiles: tiles, {"patch_size_level0": 448}, "224 um wide on this slide, not the 112 um"),
    "another size of slide": (
        lambda tiles: tiles,
        {"level0_width": 9, "level0_height": 9},
        "is of a slide with 9 x 9 px",
    ),
    "off the slide": (lambda tiles: tiles.but(centres=tiles.centres * 9), {}, "tiles lie off the slide"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_wrong_is_said(fault: str, job: Job, tiles: dict[str, Tiles], tmp_path: Path) -> None:
    change, attributes, words = BAD[fault]
    name, one = next(iter(tiles.items()))
    path = trident(tmp_path / f"{one.name}.h5", change(one), **attributes)
    with pytest.raises(FeatureError, match=words) as caught:
        hm.import_features(path, hm.read_cohort(job.sheet).subset([name]), encoder="builtin")
    assert caught.value.where == str(path) and caught.value.hint


def test_places_in_px_of_a_lower_level_are_taken_once_stated(
    job: Job, own: dict[str, ad.AnnData], tiles: dict[str, Tiles], tmp_path: Path
) -> None:
    name, one = next(iter(tiles.items()))
    np.savez(tmp_path / f"{one.name}.npz", features=one.vectors, coords=one.centres / 4)
    stated = {**STATED_ALL, "scale": 4.0}
    found = hm.import_features(tmp_path, hm.read_cohort(job.sheet).subset([name]), **stated)[name]
    np.testing.assert_array_equal(found.X, own[name].X)
    assert feature_manifest(found)["imported"]["stated"]["scale"] == 4.0


def test_a_grid_whose_places_look_like_centres_is_remarked(
    job: Job, tiles: dict[str, Tiles], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, one = next(iter(tiles.items()))
    steps = one.side / 2 + one.side * np.arange(4)
    grid = np.stack(np.meshgrid(steps, steps), axis=2).reshape(-1, 2)
    np.savez(
        tmp_path / f"{one.name}.npz",
        features=np.random.default_rng(0).random((len(grid), 544), np.float32),
        coords=grid,
    )
    stated = {**STATED_ALL, "origin": "corner"}
    hm.import_features(tmp_path, hm.read_cohort(job.sheet).subset([name]), **stated, tolerance_um=200.0)
    assert "look like the centres of a grid" in caplog.text and "56 um" in caplog.text


def _truncated(path: Path, tiles: Tiles) -> None:
    trident(path, tiles)
    path.write_bytes(path.read_bytes()[:5000])


def _without_coords(path: Path, tiles: Tiles) -> None:
    with h5py.File(path, "w") as store:
        store["features"] = tiles.vectors


def _linked(path: Path, tiles: Tiles) -> None:
    trident(path, tiles)
    with h5py.File(path.with_name("secret.data"), "w") as other:
        other["features"] = tiles.vectors
    with h5py.File(path, "a") as store:
        del store["features"]
        store["features"] = h5py.ExternalLink("secret.data", "features")


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


def _pickled_array(path: Path, tiles: Tiles) -> None:
    np.save(path, np.array([_Attack()], object), allow_pickle=True)


def _pickled_arrays(path: Path, tiles: Tiles) -> None:
    np.savez(path, features=np.array([_Attack()], object), coords=tiles.centres)


def _pickled_tensors(path: Path, tiles: Tiles) -> None:
    torch.save({"features": _Attack()}, path)


def _pickle(path: Path, tiles: Tiles) -> None:
    path.write_bytes(pickle.dumps({"features": _Attack()}))


STRANGE: dict[str, tuple[str, Callable[[Path, Tiles], None], str]] = {
    "truncated": (".h5", _truncated, "damaged, or no HDF5"),
    "without coords": (".h5", _without_coords, r"features, and no places \(coords\)"),
    "external link": (".h5", _linked, "reads features from another file"),
    "pickled npy": (".npy", _pickled_array, "holds a pickled array"),
    "pickled npz": (".npz", _pickled_arrays, "holds a pickled array"),
    "program in pt": (".pt", _pickled_tensors, "holds more than tensors"),
    "pickle": (".pt", _pickle, "holds more than tensors"),
    "text": (".h5", lambda path, _: path.write_text("features"), "no file of features"),
    "empty zarr": (
        ".zarr",
        lambda path, _: (path.mkdir(), (path / "zarr.json").write_text("{}")),
        "no table of features",
    ),
    "half a zarr": (
        ".zarr",
        lambda path, _: (path.mkdir(), (path / "zarr.json").write_text('{"z')),
        "store is damaged",
    ),
}


@pytest.mark.parametrize("fault", STRANGE)
def test_strange_files_are_refused_and_nothing_in_them_runs(
    fault: str, job: Job, tiles: dict[str, Tiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "zarr" in fault:
        extra_module("st", "spatialdata")
    monkeypatch.chdir(tmp_path)
    end, write, words = STRANGE[fault]
    name, one = next(iter(tiles.items()))
    path = tmp_path / f"{one.name}{end}"
    write(path, one)
    with pytest.raises(FeatureError, match=words) as caught:
        hm.import_features(path, hm.read_cohort(job.sheet).subset([name]), **STATED_ALL)
    assert caught.value.where == str(path)
    assert not (tmp_path / "attacked").exists()


def test_what_no_file_tells_must_be_stated(job: Job, tiles: dict[str, Tiles], tmp_path: Path) -> None:
    name, one = next(iter(tiles.items()))
    path, cohort = _npz(tmp_path, one), hm.read_cohort(job.sheet).subset([name])
    for absent, option in (
        ("encoder", "--encoder"),
        ("tile_um", "--tile-um"),
        ("origin", "--origin"),
        ("scale", "--level0"),
    ):
        stated = {key: value for key, value in STATED_ALL.items() if key != absent}
        with pytest.raises(FeatureError, match=option):
            hm.import_features(path, cohort, **stated)
    for name_, value in (("tile_um", -1.0), ("scale", 0.0), ("origin", "middle"), ("mpp", float("nan"))):
        with pytest.raises(InputError):
            hm.import_features(path, cohort, **{**STATED_ALL, name_: value})
    with pytest.raises(UnknownEncoderError):
        hm.import_features(path, cohort, **{**STATED_ALL, "encoder": "univ"})
    with pytest.raises(MissingFeatureError):
        hm.import_features(tmp_path / "nowhere.h5", cohort, **STATED_ALL)


def test_what_is_stated_may_not_contradict_the_file(job: Job, tiles: dict[str, Tiles], tmp_path: Path) -> None:
    name, one = next(iter(tiles.items()))
    cohort = hm.read_cohort(job.sheet).subset([name])
    path = slide2vec(tmp_path, one, "uni", 0.5, format="pt")
    with pytest.raises(FeatureError, match="the encoder: the file says uni, and builtin is stated"):
        hm.import_features(path, cohort, encoder="builtin")
    path = trident(tmp_path / "trident" / f"{one.name}.h5", one)
    with pytest.raises(FeatureError, match="side in um: the file says 112"):
        hm.import_features(path, cohort, encoder="builtin", tile_um=224)
    with pytest.raises(FeatureError, match="um per px of the tiles: the file says 1"):
        hm.import_features(path, cohort, encoder="builtin", mpp=0.5)


def test_imported_and_own_features_are_never_mixed(
    job: Job, own: dict[str, ad.AnnData], tiles: dict[str, Tiles], tmp_path: Path
) -> None:
    cohort, (first, second) = hm.read_cohort(job.sheet), list(tiles)
    hm.embed(cohort.subset([first]), out=tmp_path / "features")
    path = trident(tmp_path / "theirs" / f"{tiles[second].name}.h5", tiles[second])
    with pytest.raises(FeatureError, match=r"another encoder or tile .*digest stated:"):
        hm.import_features(path, cohort.subset([second]), tmp_path / "features", encoder="builtin")
    hm.import_features(path, cohort.subset([second]), tmp_path / "imported", encoder="builtin")
    with pytest.raises(FeatureError, match="another encoder or tile"):
        hm.embed(cohort.subset([first]), out=tmp_path / "imported")
    with pytest.raises(FeatureError, match="features of histomix"):
        hm.import_features(job.features, cohort, tmp_path / "again", encoder="builtin")


def test_one_bad_section_stops_no_other(job: Job, tiles: dict[str, Tiles], tmp_path: Path) -> None:
    first, second = list(tiles)
    trident(tmp_path / "theirs" / f"{tiles[first].name}.h5", tiles[first])
    trident(tmp_path / "theirs" / f"{tiles[second].name}.h5", _nan(tiles[second]))
    with pytest.raises(FeatureError, match=rf"1 of 2 sections .*\n  - {second}: .* NaN"):
        hm.import_features(tmp_path / "theirs", job.sheet, tmp_path / "features", encoder="builtin")
    assert list(hm.read_features(tmp_path / "features")) == [first]
    with pytest.raises(FeatureError, match="none of the files is of a section"):
        hm.import_features([f"Other={tmp_path / 'theirs'}"], job.sheet, encoder="builtin")


def test_the_verb_imports_and_says_what_it_found(
    job: Job, own: dict[str, ad.AnnData], tiles: dict[str, Tiles], tmp_path: Path
) -> None:
    words = ["import-features", "--sheet", str(job.sheet), "--out", str(tmp_path / "features"), "--encoder", "builtin"]
    words += ["--tile-um", "112", "--origin", "centre", "--level0", "--json"]
    for name, one in tiles.items():
        np.savez(tmp_path / f"tiles-of-{name}.npz", features=one.vectors, coords=one.centres)
        words.append(f"{name}={tmp_path / f'tiles-of-{name}.npz'}")
    result = CliRunner().invoke(app, words)
    facts = json.loads(result.stdout)
    assert result.exit_code == 0 and facts["sections"] == list(own) and facts["dim"] == 544
    assert {one["unmatched"] for one in facts["imported"].values()} == {0}
    overview = json.loads((tmp_path / "features" / "manifest.json").read_text())
    assert overview["imported"] is True and overview["embedded"] == list(own)
    refused = CliRunner().invoke(app, [*words, "--scaled", "4"])
    assert refused.exit_code == 2 and "contradict" in refused.stderr


def test_names_of_others_are_known() -> None:
    assert slide_name(Path("A1.coordinates.meta.json")) == "A1" and slide_name(Path("A.1_patches.h5")) == "A.1"
    theirs = {
        **{"uni_v1": "uni", "uni_v2": "uni2-h", "uni2": "uni2-h", "conch_v1": "conch", "conch_v15": "conch-v1.5"},
        **{"hoptimus0": "h-optimus-0", "gigapath": "prov-gigapath", "midnight12k": "midnight-12k"},
        **{"phikon_v2": "phikon-v2", "phikonv2": "phikon-v2", "lunit-vits8": "lunit-s8", "virchow2": "virchow2"},
        **{"lunit-dino-s16": "lunit-s16", "midnight": "midnight-12k", "h0-mini": "h0-mini", "hibou_l": "hibou-l"},
        **{"kaiko-vitb8": "kaiko-b8"},
    }
    assert {name: known_name(name) for name in theirs} == theirs
    assert set(theirs.values()) <= {card.name for card in cards()}


def test_sections_without_their_slides_are_taken_in_and_trained_on(
    job: Job, tiles: dict[str, Tiles], tmp_path: Path
) -> None:
    """Features and labels are enough: the slides may be where nobody can reach them."""
    sheet = pd.read_csv(job.sheet)
    sheet["spots"] = [str(job.sheet.parent / path) for path in sheet["spots"]]
    sheet["image"] = ""
    sheet["mpp"] = 0.5
    sheet.drop(columns=["counts"], errors="ignore").to_csv(tmp_path / "sheet.csv", index=False)
    for name, one in tiles.items():
        trident(tmp_path / "theirs" / f"{name}.h5", one.but(name=name))
    features = hm.import_features(tmp_path / "theirs", tmp_path / "sheet.csv", tmp_path / "features", encoder="builtin")
    slide = feature_manifest(next(iter(features.values())))["slide"]
    assert slide["file"] is None and slide["mpp"] == 0.5
    head = hm.train(tmp_path / "sheet.csv", tmp_path / "features", job.labels, head="ridge")
    assert "the features of builtin" in head.card["limits"].lower()
