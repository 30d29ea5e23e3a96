"""`CompositionMap`: what a map in a file or in memory says of itself, and what is no map."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.common.formats import MAP_FORMAT
from histomix.common.storage.facts import facts_in
from histomix.errors import InputError, MapError, MissingFileError
from histomix.maps import find_maps
from histomix.prediction import predict_slides
from histomix.viewer import viewer_slides

from .conftest import Job
from .rich_summary import HOSTILE


@pytest.fixture(scope="module")
def made(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predict_slides([job.image], job.head, tmp_path_factory.mktemp("maps"), mpp=0.5)[0].folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "maps" / "one"))


def test_it_says_what_the_file_holds(made: Path, job: Job) -> None:
    found = hm.CompositionMap.open(made)
    with h5py.File(made / "composition.h5ad") as file:
        values, spatial = file["X"][()], file["obsm/spatial"][()]
        keys, types = (group[group.attrs["_index"]].asstr()[()].tolist() for group in (file["obs"], file["var"]))
        columns = {name: file[f"obs/{name}"][()] for name in ("novelty", "in_scope", "read_ok")}
        layers = {name: file[f"layers/{name}"][()] for name in ("lower", "upper") if name in file["layers"]}
        manifest = facts_in(file["uns/manifest"])
    table = found.values()
    np.testing.assert_array_equal(table.to_numpy(), values)
    assert table.index.tolist() == keys and found.cell_types == table.columns.tolist() == types
    np.testing.assert_array_equal(found.xy_px, spatial)
    for name, column in columns.items():
        np.testing.assert_array_equal(getattr(found, name), column)
    for name in ("lower", "upper"):
        bound = getattr(found, name)
        if name in layers:
            np.testing.assert_array_equal(bound.to_numpy(), layers[name])
        else:
            assert bound is None
    assert found.manifest == manifest and found.slide == manifest["slide"] and found.tile == manifest["tile"]
    assert (found.unit, found.cell_px, found.mpp) == (manifest["unit"], manifest["cell_px"], 0.5)
    assert found.head["digest"] == hm.load_head(job.head).card["digest"] and not found.at_spots
    assert (found.fragments, found.regions, len(found)) == (manifest["fragments"], [], len(values))
    assert found.name == found.folder_name == made.name and not found.anonymised
    assert found.status()["state"] == "done"
    for picture, name in ((found.preview(), "preview.jpg"), (found.tissue(), "tissue.png")):
        with Image.open(made / name) as image:
            np.testing.assert_array_equal(picture, np.asarray(image.convert("RGB")))


def test_intervals_and_what_a_map_does_not_say(job: Job) -> None:
    adata = hm.predict(job.image, job.head)
    values = np.asarray(adata.X)
    adata.layers["lower"], adata.layers["upper"] = values - 1, values + 1
    found = hm.CompositionMap(adata)
    assert found.lower is not None and found.upper is not None
    np.testing.assert_array_equal(found.lower.to_numpy(), values - 1)
    np.testing.assert_array_equal(found.upper.to_numpy(), values + 1)
    assert list(found.bounds) == ["lower", "upper"]
    bare = hm.CompositionMap(ad.AnnData(adata.X, uns={"manifest": "{}"}))
    assert bare.lower is None and bare.bounds == {} and bare.name == "" and bare.head == {}
    assert bare.read_ok.all() and bare.in_scope.all() and np.isnan(bare.novelty).all()
    assert bare.preview() is None and bare.tissue() is None and bare.status() == {}


def test_folder_file_table_and_map_are_the_same_map(made: Path, tmp_path: Path) -> None:
    first = hm.CompositionMap.of(made)
    assert hm.CompositionMap.of(first) is first
    other = shutil.copy(made / "composition.h5ad", tmp_path / "mine.h5ad")
    for source in (made / "composition.h5ad", str(other), first.adata):
        found = hm.CompositionMap.of(source)
        np.testing.assert_array_equal(found.values(), first.values())
        assert found.manifest == first.manifest
    assert hm.CompositionMap.of(other).folder_name == "mine" and hm.CompositionMap.of(first.adata).folder_name == ""


def test_the_figures_take_the_folder_too(made: Path) -> None:
    from matplotlib import pyplot as plt

    types = hm.CompositionMap.open(made).cell_types
    assert hm.pl.composition(made, types[0]).get_title() == types[0]
    assert hm.pl.dominant(hm.CompositionMap.open(made)).get_title() == "most abundant cell type"
    plt.close("all")


def test_a_notebook_shows_a_card_in_which_names_stay_text(job: Job) -> None:
    adata = hm.predict(job.image, job.head)
    adata.var_names = [HOSTILE[0], *adata.var_names[1:]]
    found = hm.CompositionMap(adata)
    assert "<script" not in found._repr_html_() and str(adata.var_names[1]) in found._repr_html_()
    assert f"{adata.n_obs:,} tiles x {adata.n_vars} cell types" in repr(found)


def _manifest(text: str | bytes | None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file["uns/manifest"]
            if text is not None:
                file["uns"].create_dataset("manifest", data=text)
                file["uns/manifest"].attrs.update({"encoding-type": "string", "encoding-version": "0.2.0"})

    return change


def _other(job: Job) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(min(job.features.glob("*.h5ad")).read_bytes()) and None


NEWER = json.dumps({"format": MAP_FORMAT + 1, "versions": {"histomix": "9.1.0"}})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b""), "is damaged or no composition map"),
        (lambda path: path.write_bytes(b"not HDF5"), "is damaged or no composition map"),
        (lambda path: path.write_bytes(path.read_bytes()[:6000]), "is damaged or no composition map"),
        (_manifest(None), "is no composition map: it has no manifest"),
        (_manifest('{"slide": {"mpp"'), "is damaged or no composition map .its manifest cannot be read"),
        (_manifest("[1, 2]"), "is no composition map: its manifest is no list of facts"),
        (_manifest('{"unit": "proportion"}'), "its manifest lacks cell_px, places, slide"),
        (_manifest(NEWER), r"the map was made by a newer histomix \(9\.1\.0\).*Upgrade histomix"),
        (_other, "is no composition map: its manifest lacks"),
    ],
    ids=["empty", "foreign", "cut", "no manifest", "half", "list", "few facts", "newer", "features"],
)
def test_what_is_no_map_is_named(spoil: Callable[..., Any], words: str, folder: Path, job: Job) -> None:
    file = folder / "composition.h5ad"
    (spoil(job) if spoil is _other else spoil)(file)
    for path in (folder, file):
        with pytest.raises(MapError, match=words) as caught:
            hm.CompositionMap.open(path)
        assert caught.value.where == str(file) and caught.value.hint and isinstance(caught.value, InputError)


def _spoil(path: Path, change: Callable[[h5py.File], Any]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def _set(place: str, value: float) -> Callable[[h5py.File], Any]:
    def change(file: h5py.File) -> None:
        file[place][:] = value

    return change


def _text(place: str) -> Callable[[h5py.File], Any]:
    """The values of a column as words."""

    def change(file: h5py.File) -> None:
        count, parent, name = len(file[place]), *place.rsplit("/", 1)
        del file[place]
        file[parent][name] = np.array(["many"] * count, object)
        file[place].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})

    return change


def _numbers(place: str, value: float) -> Callable[[h5py.File], Any]:
    """A number in the place of yes or no."""

    def change(file: h5py.File) -> None:
        count, parent, name = len(file[place]), *place.rsplit("/", 1)
        del file[place]
        file[parent][name] = np.full(count, value)
        file[place].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    return change


def _without(place: str) -> Callable[[h5py.File], Any]:
    def change(file: h5py.File) -> None:
        del file[place]
        if place.startswith("obs/"):
            order = file["obs"].attrs["column-order"]
            file["obs"].attrs["column-order"] = [name for name in order if name != place[4:]]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("X", np.inf), "says inf of"),
        (_set("X", 1e30), r"says 1e\+30 of .* such values"),
        (_set("X", -1.0), "says -1 of"),
        (_set("X", np.nan), "has no value at any of its tiles"),
        (_set("obsm/spatial", np.nan), "places of tiles that are on no slide"),
        (_set("obs/x_px", np.nan), "places of tiles that are on no slide"),
        (_set("obsm/spatial", 1e30), "places of tiles that are on no slide"),
        (_without("obsm/spatial"), r"lacks the places of its tiles \(obsm\['spatial'\]\)"),
        (_without("obs/y_px"), r"lacks the places of its tiles \(obs\['y_px'\]\)"),
        (_without("X"), "has no table of numbers"),
        *(
            (_text(f"obs/{name}"), f"something else than numbers as {name}")
            for name in ("tissue", "novelty", "fragment")
        ),
        *((_set("obs/tissue", value), "a tissue beyond 0 to 1") for value in (-5.0, 1e30, np.inf)),
        (_set("obs/novelty", np.inf), "a novelty beyond 0 to 100"),
        (_numbers("obs/fragment", 1e30), "a fragment beyond"),
        *(
            (change(f"obs/{name}"), f"neither yes nor no as {name}")
            for name in ("read_ok", "in_scope", "in_focus")
            for change in (_text, lambda place: _numbers(place, np.nan), lambda place: _numbers(place, 7.0))
        ),
    ],
)
def test_a_map_with_impossible_numbers_is_refused(folder: Path, change: Callable[..., Any], words: str) -> None:
    _spoil(folder / "composition.h5ad", change)
    with pytest.raises(MapError, match=words):
        hm.CompositionMap.open(folder)


@pytest.mark.parametrize("name", ["slide", "head", "tile", "unit", "places", "cell_px", "fragments", "regions", "area"])
@pytest.mark.parametrize("value", [3.5, "text", {}, True])
def test_a_fact_of_another_kind_is_refused(folder: Path, name: str, value: Any) -> None:
    with h5py.File(folder / "composition.h5ad") as file:
        facts = facts_in(file["uns/manifest"])
    if type(value) is type(facts.get(name)) or (name == "cell_px" and value == 3.5) or value == facts.get(name):
        pytest.skip("it may be so")
    _manifest(json.dumps({**facts, name: value}))(folder / "composition.h5ad")
    with pytest.raises(MapError, match=f"its manifest says that {name} is "):
        hm.CompositionMap.open(folder)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_a_picture_that_is_cut_short_is_named(folder: Path, share: float) -> None:
    picture = folder / "preview.jpg"
    content = picture.read_bytes()
    picture.write_bytes(content[: int(len(content) * share)])
    for known, what in ((True, "was changed since it was written"), (False, "cannot be read as a picture")):
        if not known:
            (folder / "status.json").unlink()
        with pytest.raises(MapError, match=what) as caught:
            hm.CompositionMap.open(folder).preview()
        assert caught.value.where == str(picture)


def test_a_folder_whose_name_is_no_text_is_reported_and_exported(folder: Path, tmp_path: Path) -> None:
    """A name of bytes that are no UTF-8, as old servers have them."""
    named = tmp_path / os.fsdecode(b"sl\xff\xe9de")
    try:
        shutil.copytree(folder, named)
    except OSError:
        pytest.skip("the file system has no such names")
    for verb in (["report"], ["export", "--to", "csv"], ["cohort"]):
        found = CliRunner().invoke(app, [*verb, str(named), "--out", str(tmp_path / verb[0])])
        assert found.exit_code == 0, found.output


def test_a_table_in_memory_that_is_no_map_is_named(made: Path) -> None:
    adata = ad.read_h5ad(made / "composition.h5ad")
    adata.uns["manifest"] = NEWER
    with pytest.raises(MapError, match="newer histomix"):
        hm.CompositionMap(adata)
    del adata.uns["manifest"]
    with pytest.raises(MapError, match="it has no manifest"):
        hm.pl.composition(adata)


def test_maps_are_found_in_folders_of_them(folder: Path, tmp_path: Path) -> None:
    assert find_maps([folder, folder.parent]) == [folder, folder]
    assert find_maps([tmp_path]) == [folder], "at any depth where there is none nearer"
    (tmp_path / "empty").mkdir()
    with pytest.raises(MapError, match="holds no composition map"):
        find_maps([tmp_path / "empty"])
    with pytest.raises(MapError, match="there is no such folder"):
        find_maps([tmp_path / "no folder"])
    with pytest.raises(MapError, match="no maps were given"):
        find_maps([])
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.h5ad"):
        with pytest.raises(MissingFileError, match="there is no composition map"):
            hm.CompositionMap.open(path)


def test_who_needs_to_know_the_head_says_so(folder: Path, job: Job) -> None:
    with h5py.File(folder / "composition.h5ad") as file:
        facts = facts_in(file["uns/manifest"])
    del facts["head"]
    _manifest(json.dumps(facts))(folder / "composition.h5ad")
    (folder / "status.json").unlink()  # which knows the map with its head
    assert hm.CompositionMap.open(folder).head == {}
    with pytest.raises(MapError, match="its manifest lacks head"):
        hm.cohort_tables([folder])
    with pytest.raises(MapError, match="its manifest lacks head"), viewer_slides([folder], [job.image]):
        pass


def test_a_damaged_status_is_named(folder: Path) -> None:
    (folder / "status.json").write_text("{")
    with pytest.raises(InputError, match=r"status\.json"):
        hm.CompositionMap.open(folder).status()
