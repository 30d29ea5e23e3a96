"""What people do between two commands: edit a sheet, take other spots, export two maps of a name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import histomix as hm
from histomix.common.tables import read_table
from histomix.errors import FeatureError, InputError
from histomix.evaluation.measured.read_regions import read_regions
from histomix.export import export_maps
from histomix.prediction import predict_slides

from .command_line import histomix
from .conftest import Job


def edited(job: Job, folder: Path, change: Callable[[pd.DataFrame], None]) -> Path:
    """The job's sheet with a change, its paths made absolute."""
    table = read_table(job.sheet)
    for column in ("spots", "image", "counts"):
        if column in table:
            table[column] = [str(job.sheet.parent / one) if one else one for one in table[column]]
    change(table)
    path = folder / "edited.csv"
    table.to_csv(path, index=False)
    return path


class TestEditedSheet:
    def test_an_unchanged_sheet_elsewhere_is_taken(self, small_job: Job, tmp_path: Path) -> None:
        sheet = edited(small_job, tmp_path, lambda table: None)
        hm.train(sheet, small_job.features, small_job.labels, head="ridge")

    def test_other_images_scales_and_places_are_refused(self, small_job: Job, tmp_path: Path) -> None:
        place = tmp_path / "moved.h5ad"
        adata = ad.read_h5ad(small_job.spots)
        adata.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
        adata.write_h5ad(place)

        def other_image(table: pd.DataFrame) -> None:
            table.loc[0, "image"] = table.loc[1, "image"]

        def other_scale(table: pd.DataFrame) -> None:
            table["mpp"] = table["mpp"].astype(object)
            table.loc[0, "mpp"] = float(table.loc[0, "mpp"]) * 1.1

        def other_places(table: pd.DataFrame) -> None:
            table.loc[0, "spots"] = str(place)

        def other_spots(table: pd.DataFrame) -> None:
            adata.obs_names = [f"other-{name}" for name in adata.obs_names]
            adata.write_h5ad(tmp_path / "renamed.h5ad")
            table.loc[0, "spots"] = str(tmp_path / "renamed.h5ad")

        changes = {"another image": other_image, "another scale": other_scale, "other places": other_places}
        changes["other spots"] = other_spots
        for what, change in changes.items():
            sheet = edited(small_job, tmp_path, change)
            for use in (hm.train, hm.evaluate):
                with pytest.raises(FeatureError, match=f"row 2.*{what}.*Embed again"):
                    use(sheet, small_job.features, small_job.labels)

    def test_columns_in_another_order_and_sparse_tables_are_refused(self, small_job: Job) -> None:
        sections = hm.read_cohort(small_job.sheet).names
        whole = {name: ad.read_h5ad(small_job.features / f"{name}.h5ad") for name in sections}
        sparse = whole[sections[1]].copy()
        sparse.X = csr_matrix(np.asarray(sparse.X, np.float32))
        changes = {
            "in another order": whole[sections[1]][:, ::-1].copy(),
            "other columns": whole[sections[1]][:, 1:].copy(),
            "not a table of numbers": sparse,
        }
        for what, table in changes.items():
            with pytest.raises(FeatureError, match=f"section {sections[1]} .*{what}"):
                hm.train(small_job.sheet, whole | {sections[1]: table}, small_job.labels, head="ridge")

    def test_the_order_of_rows_moves_nothing(self, small_job: Job, tmp_path: Path) -> None:
        cohort = hm.read_cohort(small_job.sheet)
        turned = cohort.subset(cohort.names[::-1])
        heads = [hm.train(one, small_job.features, small_job.labels, head="mlp") for one in (cohort, turned)]
        arrays = [head.estimator.fitted()[0] for head in heads]
        for name, values in arrays[0].items():
            np.testing.assert_array_equal(values, arrays[1][name])


class TestPlacesOffTheSlide:
    def spots(self, job: Job, n_off: int) -> pd.DataFrame:
        spots = hm.read_cohort(job.sheet).section(hm.read_cohort(job.sheet).names[0], counts=False)
        table = pd.DataFrame(spots.spots_px, index=pd.Index(spots.keys, name="spot"), columns=["x_px", "y_px"])
        table = pd.concat([table] * 4)
        table.index = pd.Index([f"{number}" for number in range(len(table))], name="spot")
        table.iloc[:n_off, 0] += 50_000
        return table

    def test_few_are_unreadable_and_many_are_refused(self, small_job: Job, tmp_path: Path) -> None:
        self.spots(small_job, 1).to_csv(tmp_path / "few.csv")
        self.spots(small_job, 20).to_csv(tmp_path / "many.csv")
        mpp = hm.read_cohort(small_job.sheet).rows[0].mpp
        result = hm.predict(small_job.image, small_job.head, mpp=mpp, at=tmp_path / "few.csv")
        read_ok = result.obs["read_ok"].to_numpy(bool)
        assert not read_ok[0]
        assert read_ok[1:].all()
        assert np.isnan(result.X[0]).all()
        with pytest.raises(InputError, match=r"20 of .* spots .* lie outside the image"):
            hm.predict(small_job.image, small_job.head, mpp=mpp, at=tmp_path / "many.csv")

    def test_spots_in_um_or_of_a_smaller_image_are_told(
        self, job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cohort = hm.read_cohort(job.sheet)
        section, mpp = cohort.section(cohort.names[0], counts=False), cohort.rows[0].mpp
        for scale in (1.0, 0.5):
            places = section.spots_px * scale
            table = pd.DataFrame(places, index=pd.Index(section.keys, name="spot"), columns=["x_px", "y_px"])
            table.to_csv(tmp_path / "at.csv")
            (result,) = predict_slides([job.image], job.head, tmp_path / "out", mpp=mpp, at=tmp_path / "at.csv")
            told = [remark for remark in result.remarks if "the spots that were given do not fit this slide" in remark]
            assert len(told) == (scale != 1.0)
            caplog.clear()
            hm.predict(job.image, job.head, mpp=mpp, at=tmp_path / "at.csv", progress=False)
            assert [record.args[1] for record in caplog.records if record.args] == list(result.remarks)

    def test_places_and_a_stride_are_not_both_asked_for(self, small_job: Job, tmp_path: Path) -> None:
        self.spots(small_job, 0).to_csv(tmp_path / "at.csv")
        asked = {"mpp": 0.5, "at": tmp_path / "at.csv", "stride_um": 28.0}
        for use in (lambda: hm.predict(small_job.image, small_job.head, **asked),
                    lambda: predict_slides([small_job.image], small_job.head, tmp_path / "out", **asked)):  # fmt: skip
            with pytest.raises(InputError, match=r"no stride between them\. Leave out --stride-um"):
                use()
        assert not (tmp_path / "out").exists()


class TestRegions:
    @staticmethod
    def square(name: str | None, kind: str | None, low: float, high: float) -> dict[str, object]:
        ring = [[low, low], [high, low], [high, high], [low, high], [low, low]]
        properties = {"name": name, "classification": {"name": kind} if kind else None}
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}

    @pytest.mark.parametrize("parent_first", [True, False])
    def test_the_smaller_region_counts_in_any_order_and_a_class_stands_for_its_regions(
        self, tmp_path: Path, parent_first: bool
    ) -> None:
        features = [self.square("whole", "Tissue", 0, 100), self.square("inner", "Tumour", 40, 60)]
        path = tmp_path / "regions.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features[:: 1 if parent_first else -1]}))
        regions = read_regions(path)
        xy = np.array([[10.0, 10.0], [50.0, 50.0], [200.0, 200.0]])
        assert regions.at(pd.Index(["a", "b", "c"]), xy).tolist() == ["whole", "inner", None]
        assert regions.classes == {"whole": "Tissue", "inner": "Tumour"}

    def test_a_region_without_a_tile_is_named(
        self, small_job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One lies elsewhere, one under another of its size, and one is smaller than a tile."""
        places = {"whole": (0, 900), "again": (0, 900), "away": (5000, 6000), "dot": (500, 501)}
        features = [self.square(name, None, *ends) for name, ends in places.items()]
        path = tmp_path / "regions.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
        mpp = hm.read_cohort(small_job.sheet).rows[0].mpp
        (result,) = predict_slides([small_job.image], small_job.head, tmp_path / "out", mpp=mpp, regions=path)
        held = set(hm.CompositionMap.open(result.folder).adata.obs["region"])
        assert len(held) == 1
        told = [remark for remark in result.remarks if remark.startswith("no tile lies in 3 regions")]
        assert told and all(name in told[0] for name in set(places) - held)
        assert not any(name in told[0] for name in held)
        score = hm.score_map(result.folder, regions=path, out=tmp_path / "score")
        told = [note for note in score.summary["notes"] if note.startswith("no tile lies in 3 regions")]
        assert told and all(name in told[0] for name in set(places) - held)
        # Of one region of which nothing was expected there is no metric, and the evaluation is read all the same.
        assert hm.read_evaluation(tmp_path / "score").metrics.empty


def test_maps_of_one_name_are_not_written_over_each_other(small_job: Job, tmp_path: Path) -> None:
    mpp = hm.read_cohort(small_job.sheet).rows[0].mpp
    for folder in ("a", "b"):
        predict_slides([small_job.image], small_job.head, tmp_path / folder, mpp=mpp)

    with pytest.raises(InputError, match="two maps are called"):
        export_maps([tmp_path / "a", tmp_path / "b"], "csv", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_map_of_another_slide_of_the_name_is_not_replaced_without_a_word(
    small_job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mpp = hm.read_cohort(small_job.sheet).rows[0].mpp
    for number, row in enumerate(hm.read_cohort(small_job.sheet).rows):
        slide = tmp_path / str(number) / "slide.tif"
        slide.parent.mkdir()
        slide.write_bytes(Path(str(row.image)).read_bytes())
        for again in (False, True):
            caplog.clear()
            predict_slides([slide], small_job.head, tmp_path / "out", mpp=mpp)
            told = f"{tmp_path / 'out' / 'slide'}: the map there is of another slide" in caplog.text
            assert told == (number == 1 and not again)


def test_a_dense_map_is_scored_as_its_tiles(small_job: Job, tmp_path: Path) -> None:
    mpp = hm.read_cohort(small_job.sheet).rows[0].mpp
    root = small_job.sheet.parent
    cells = next(root.rglob("*cells*"))
    scores = {}
    for stride in (None, 56.0):
        composition = hm.predict(small_job.image, small_job.head, mpp=mpp, stride_um=stride)
        result = hm.score_map(composition, cells=cells, spatial=False)
        scores[stride] = result.summary["orthogonal"]["cells"]["counted_in_um"]
    assert scores[None] == scores[56.0] == pytest.approx(112, abs=1)


def test_curves_of_every_part_of_the_default_head(small_job: Job) -> None:
    head = hm.train(small_job.sheet, small_job.features, small_job.labels)
    axes = hm.pl.training(head)
    assert {"mlp", "sun2025"} <= {line.get_label() for line in axes.lines}


class TestAlteredMaps:
    """Whatever file of a finished map was changed, each verb that reads the map says so."""

    VERBS: ClassVar[dict[str, list[str]]] = {
        "cohort": ["maps", "--out"],
        "export": ["maps", "--to", "csv", "--out"],
        "inspect": ["maps/slide"],
        "report": ["maps", "--out"],
        "score": ["maps/slide", "--cells", "cells.csv", "--no-spatial", "--out"],
        "view": ["maps", "--out"],
    }

    @pytest.fixture
    def folder(self, small_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A finished map in the folder where commands run."""
        mpp = hm.read_cohort(small_job.sheet).rows[0].mpp
        (tmp_path / "slide.tif").write_bytes(small_job.image.read_bytes())
        predict_slides([tmp_path / "slide.tif"], small_job.head, tmp_path / "maps", mpp=mpp)
        (tmp_path / "cells.csv").write_bytes(b"x_px,y_px,cell_type\n90,90,T cells\n300,330,B cells\n")
        monkeypatch.chdir(tmp_path)
        return tmp_path / "maps" / "slide"

    @staticmethod
    def change(file: Path) -> None:
        """Another value that is as good as the one that was there, of files that are no tables one byte more."""
        if file.suffix == ".h5ad":
            with h5py.File(file, "r+") as store:
                store["X"][0] = store["X"][0] * 0.9
        elif file.suffix == ".csv":
            text = file.read_bytes()
            file.write_bytes(text[:-2] + (b"1" if text[-2:-1] == b"0" else b"0") + b"\n")
        else:
            file.write_bytes(file.read_bytes() + b"\n")

    def run(self, verb: str) -> tuple[int, str]:
        """Exit code and stderr of a verb on the map."""
        words = self.VERBS[verb]
        code, _, err = histomix(verb, *words, *([f"{verb}-out"] if words[-1] == "--out" else []))
        return code, err

    def test_every_verb_names_the_changed_file(self, folder: Path) -> None:
        told = json.loads((folder / "status.json").read_bytes())["file_digests"]
        assert len(told) == 6
        for name in told:
            whole = (folder / name).read_bytes()
            self.change(folder / name)
            for verb in self.VERBS if name.startswith("composition") else ["score"]:
                code, err = self.run(verb)
                assert code in (1, 2), (verb, name)
                assert f"maps/slide/{name}: was changed since it was written" in err, (verb, name)
            (folder / name).write_bytes(whole)
        for verb in ("inspect", "score"):
            assert self.run(verb)[0] == 0, verb

    def test_a_removed_copy_for_people_and_a_map_alone_are_no_changes(self, folder: Path, tmp_path: Path) -> None:
        (folder / "composition.csv").unlink()
        assert len(hm.CompositionMap.open(folder)) > 0
        alone = tmp_path / "alone" / "composition.h5ad"
        alone.parent.mkdir()
        alone.write_bytes((folder / "composition.h5ad").read_bytes())
        self.change(alone)
        assert len(hm.CompositionMap.open(alone)) > 0

    def test_a_map_that_was_written_anew_is_no_changed_one(self, folder: Path) -> None:
        composition = hm.CompositionMap.open(folder).adata
        composition.X *= np.float32(0.5)
        hm.write_composition(folder, composition)
        np.testing.assert_array_equal(hm.CompositionMap.open(folder).adata.X, composition.X)
