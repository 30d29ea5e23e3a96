"""What people do between two commands: edit a sheet, take other spots, export two maps of a name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.common.tables import read_table
from histomix.errors import FeatureError, InputError
from histomix.evaluation.measured.read_regions import read_regions
from histomix.export import export_maps
from histomix.prediction import predict_slides

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

        changes = {"another image": other_image, "another scale": other_scale, "other places": other_places}
        for what, change in changes.items():
            sheet = edited(small_job, tmp_path, change)
            for use in (hm.train, hm.evaluate):
                with pytest.raises(FeatureError, match=f"row 2.*{what}.*Embed again"):
                    use(sheet, small_job.features, small_job.labels)

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


def test_maps_of_one_name_are_not_written_over_each_other(small_job: Job, tmp_path: Path) -> None:
    mpp = hm.read_cohort(small_job.sheet).rows[0].mpp
    for folder in ("a", "b"):
        predict_slides([small_job.image], small_job.head, tmp_path / folder, mpp=mpp)

    with pytest.raises(InputError, match="two maps are called"):
        export_maps([tmp_path / "a", tmp_path / "b"], "csv", tmp_path / "x")
    assert not (tmp_path / "x").exists()


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
