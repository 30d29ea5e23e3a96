"""Files whose names are bytes that are no text, links that lead back to themselves, pipes: met wherever files are."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.common import tables
from histomix.common.anonymity.pseudonyms import Pseudonyms, key_file
from histomix.common.strangers.annotated import obs_columns
from histomix.errors import InputError
from histomix.prediction import predict_slides
from histomix.provenance import fingerprint

from .conftest import Job
from .extras import extra_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
NAME = os.fsdecode(b"s\xff\xfe")


@pytest.fixture(scope="module")
def place(small_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of such a name, with the map of a slide of such a name."""
    folder = tmp_path_factory.mktemp("names") / NAME
    folder.mkdir()
    slide = folder / f"{NAME}{small_job.image.suffix}"
    shutil.copy(small_job.image, slide)
    (result,) = predict_slides([slide], small_job.head, folder / "maps", progress=False)
    assert result.error is None
    return folder


def test_maps_of_such_slides_go_the_whole_way(place: Path, tmp_path: Path) -> None:
    found = hm.cohort_tables([place / "maps"], out=place / "cohort", progress=False)
    (name,) = found.slides["slide"]
    assert name.encode() and not found.failures
    written = [tables.read_table(place / "cohort" / name) for name in ("slides.csv", "cohort.csv")]
    assert all(set(table["slide"]) == {name} for table in written)
    cells = pd.DataFrame({"x_px": [300.0, 600.0], "y_px": [300.0, 600.0], "cell_type": ["T cells", "B cells"]})
    cells.to_csv(place / "cells.csv", index=False)
    (one,) = (path for path in (place / "maps").iterdir() if path.is_dir())
    renamed = one.rename(one.with_name(NAME))
    hm.score_map(renamed, cells=place / "cells.csv", out=place / "scores", spatial=False, progress=False)
    assert len(set(hm.read_evaluation(place / "scores").metrics["section"]) - {""}) == 1
    for to in ("csv", "anndata"):
        assert hm.export_maps([renamed], to, place / to, progress=False)[1] == []


def test_parquet_is_read_and_written_under_any_name(tmp_path: Path) -> None:
    extra_module("st", "pyarrow")
    table = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]}, index=["k", "l"])
    path = tmp_path / f"{NAME}.parquet"
    tables.write_parquet(table, path)
    assert tables.read_values(path, lambda _name: False).equals(table)
    assert tables.read_columns(path, ["b"])["b"].tolist() == ["x", "y"]
    plain = tmp_path / "plain.parquet"
    table.to_parquet(plain)
    assert plain.read_bytes() == path.read_bytes()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_pipe, _device])
@pytest.mark.parametrize(
    ("read", "empty"),
    [(Pseudonyms.open, False), (fingerprint, False), (obs_columns, True)],
    ids=["key", "fingerprint", "columns"],
)
def test_what_has_no_end_is_not_waited_for(
    read: Callable[[Path], Any], empty: bool, make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "file.h5ad"
    make(path)
    if empty:
        assert read(path) == (set(), set())
        return
    with pytest.raises(InputError, match="is a pipe, a socket or a device"):
        read(path)


def test_a_key_that_is_a_link_to_itself_is_made(tmp_path: Path) -> None:
    key = tmp_path / "key.csv"
    key.symlink_to(key.name)
    made = Pseudonyms.open(key_file(tmp_path / "out", key))
    assert Pseudonyms.open(key).key == made.key


def test_features_to_reuse_and_regions_that_are_not_looked_at_are_refused(small_job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        list(predict_slides([small_job.image], small_job.head, tmp_path / "out", reuse=tmp_path / "absent"))
    with pytest.raises(InputError, match="regions are compared with spatial domains"):
        hm.evaluate(
            small_job.sheet,
            small_job.features,
            small_job.labels,
            ["ridge"],
            regions=tmp_path / "absent",
            spatial=False,
            progress=False,
        )
    assert np.array_equal(list(tmp_path.iterdir()), [])
