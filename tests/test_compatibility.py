"""What docs/compatibility.md promises: which heads, features and maps of other versions are opened."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest

import histomix as hm
from histomix.common.formats import MAP_FORMAT
from histomix.common.storage.facts import facts_in, stored_facts
from histomix.embedding import features as stored_features
from histomix.errors import FeatureError, HeadError, InputError
from histomix.heads.cards.card import FORMAT as HEAD_FORMAT
from histomix.prediction import predict_slides
from histomix.provenance import digest_file, digest_json

from .conftest import Job

PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"


def _change_card(folder: Path, **changes: Any) -> Path:
    card = json.loads((folder / "card.json").read_text()) | changes
    card["digest"] = digest_json({name: value for name, value in card.items() if name != "digest"})
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def _change_manifest(path: Path, **changes: Any) -> None:
    with h5py.File(path, "r+") as file:
        manifest = facts_in(file["uns/manifest"]) | changes
        kept = {name: value for name, value in manifest.items() if value is not None}
        ad.io.write_elem(file["uns"], "manifest", stored_facts(kept))


@pytest.fixture
def head(job: Job, tmp_path: Path) -> Path:
    return Path(shutil.copytree(job.head, tmp_path / "head"))


@pytest.fixture
def features(job: Job, tmp_path: Path) -> Path:
    return Path(shutil.copytree(job.features, tmp_path / "features"))


@pytest.fixture(scope="module")
def made_map(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps")
    return predict_slides([job.image], job.head, out, mpp=0.5)[0].folder


@pytest.fixture
def map_folder(made_map: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_map, tmp_path / "map"))


def test_the_page_tells_the_formats_of_this_version() -> None:
    told = dict(re.findall(r"^\| a (\w+)[\w ]* \| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert told == {"head": str(HEAD_FORMAT), "feature": str(stored_features.LAYOUT), "map": str(MAP_FORMAT)}


# heads


def test_a_newer_head_is_refused_with_the_version_that_made_it(head: Path) -> None:
    _change_card(head, format=HEAD_FORMAT + 1, histomix="9.1.0")
    with pytest.raises(HeadError, match=r"newer histomix \(9\.1\.0\).*reads 2\. Upgrade histomix") as caught:
        hm.load_head(head)
    assert caught.value.where == str(head / "card.json")


def test_an_older_head_is_refused_with_what_to_do(head: Path) -> None:
    _change_card(head, format=HEAD_FORMAT - 1)
    with pytest.raises(HeadError, match=r"older histomix.*Train it again with the same command"):
        hm.load_head(head)


def test_a_head_of_the_same_format_and_another_version_is_opened(head: Path) -> None:
    _change_card(head, histomix="0.9.9", something_new={"told": True})
    assert hm.load_head(head).card["histomix"] == "0.9.9"


def test_a_kind_of_head_that_this_version_lacks_is_named(head: Path) -> None:
    card = json.loads((head / "card.json").read_text())
    _change_card(head, head=card["head"] | {"kind": "oracle"})
    with pytest.raises(HeadError, match=r"no head named 'oracle'\. Upgrade histomix"):
        hm.load_head(head)


# features


def test_newer_features_are_refused_and_not_overwritten(job: Job, features: Path) -> None:
    path = min(features.glob("*.h5ad"))
    _change_manifest(path, format=stored_features.LAYOUT + 1, versions={"histomix": "9.1.0"})
    before = path.read_bytes()
    with pytest.raises(FeatureError, match=r"newer histomix \(9\.1\.0\).*Upgrade histomix") as caught:
        stored_features.read_features(features)
    assert caught.value.where == str(path)
    with pytest.raises(FeatureError, match="newer histomix"):
        hm.embed(hm.read_cohort(job.sheet), out=features)
    assert path.read_bytes() == before


@pytest.mark.parametrize("changes", [{"format": None}, {"versions": {"histomix": "0.9.9"}, "something_new": 1}])
def test_features_without_a_format_or_of_another_version_are_opened(
    job: Job, features: Path, changes: dict[str, Any]
) -> None:
    path = min(features.glob("*.h5ad"))
    _change_manifest(path, **changes)
    found = stored_features.read_features(features)[path.stem]
    np.testing.assert_array_equal(found.X, ad.read_h5ad(job.features / path.name).X)


# maps


def _view(folder: Path, job: Job) -> None:
    from histomix.viewer.sources import viewer_slides

    with viewer_slides([folder], slides=[job.image]) as slides:
        assert len(slides) == 1


def _export(folder: Path, job: Job) -> None:
    from histomix.export import export_map

    assert export_map(folder, "csv", folder.parent / "exported").is_file()


def _cohort(folder: Path, job: Job) -> None:
    from histomix.cohort import cohort_tables

    tables = cohort_tables([folder])
    assert not tables.failures and len(tables.slides) == 1


def _report(folder: Path, job: Job) -> None:
    from histomix.report.inputs import report_inputs

    assert len(report_inputs([folder]).maps) == 1


def _score(folder: Path, job: Job) -> None:
    from histomix.evaluation.measured.score_map import score_map

    table = ad.read_h5ad(folder / "composition.h5ad")
    rng = np.random.default_rng(0)
    positions = table.obs[["x_px", "y_px"]].sample(500, replace=True, random_state=0).reset_index(drop=True)
    cells = positions.assign(cell_type=rng.choice(table.var_names, len(positions)))
    cells.to_csv(folder.parent / "cells.csv", index=False)
    assert score_map(folder, cells=folder.parent / "cells.csv").summary["n_spots"] > 1


OPENERS = [_view, _export, _cohort, _report, _score]


@pytest.mark.parametrize("open_map", OPENERS)
def test_a_newer_map_is_refused_by_every_verb_that_opens_maps(
    open_map: Callable[[Path, Job], None], map_folder: Path, job: Job
) -> None:
    _change_manifest(map_folder / "composition.h5ad", format=MAP_FORMAT + 1, versions={"histomix": "9.1.0"})
    with pytest.raises(InputError, match=r"the map was made by a newer histomix .*reads 1\. Upgrade histomix"):
        open_map(map_folder, job)


@pytest.mark.parametrize("open_map", OPENERS)
def test_a_map_without_a_format_is_opened(open_map: Callable[[Path, Job], None], map_folder: Path, job: Job) -> None:
    path, status = map_folder / "composition.h5ad", map_folder / "status.json"
    _change_manifest(path, format=None, something_new=1)
    told = json.loads(status.read_text())  # who wrote it so said so
    told["file_digests"][path.name] = digest_file(path)
    status.write_text(json.dumps(told))
    open_map(map_folder, job)
