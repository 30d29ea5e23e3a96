"""Tables of many maps go to disk map by map, and pairs of types do not grow with the fragments of tissue."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histomix.cohort import cohort_tables, map_rows, tables
from histomix.cohort.stream import TidyFiles
from histomix.errors import InputError

from .extras import extra_module
from .test_cohort_tables import _random, _value


def many(folder: Path, count: int, fragments: int = 1) -> Path:
    for number in range(count):
        one = _random(8, number)
        one.obs["fragment"] = np.arange(one.n_obs) * fragments // one.n_obs + 1
        (folder / f"S{number}").mkdir(parents=True)
        one.write_h5ad(folder / f"S{number}" / "composition.h5ad")
    return folder


def test_pairs_are_measured_in_fragments_where_asked() -> None:
    one = _random(8)
    one.obs["fragment"] = np.arange(one.n_obs) // 16 + 1
    one.obs["region"] = np.where(np.arange(one.n_obs) < 20, "core", "")
    plain, all_pairs = (map_rows(one, pairs_by_fragment=asked) for asked in (False, True))
    assert _value(plain, "joins", "B", "T") == _value(all_pairs, "joins", "B", "T")
    assert [row for row in plain if row["level"] != "fragment"] == [
        row for row in all_pairs if row["level"] != "fragment"
    ]
    assert any(row["other_type"] for row in plain if row["level"] == "region")
    pairs = [row for row in all_pairs if row["level"] == "fragment" and row["other_type"]]
    assert len(pairs) > 4 * 10 and len(all_pairs) - len(plain) == len(pairs)


def test_rows_of_a_map_are_let_go_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra_module("st", "pyarrow")
    maps = many(tmp_path / "maps", 6, fragments=3)
    alive: list[weakref.ref[pd.DataFrame]] = []
    most = 0
    add = TidyFiles.add

    def watched(self: TidyFiles, rows: pd.DataFrame) -> None:
        nonlocal most
        gc.collect()
        most = max(most, sum(one() is not None for one in alive))
        alive.append(weakref.ref(rows))
        add(self, rows)

    monkeypatch.setattr(TidyFiles, "add", watched)
    found = cohort_tables(maps, tmp_path / "out", progress=False)
    assert len(alive) == 6 and most <= 1
    assert found.in_memory is None
    held = cohort_tables(maps, progress=False)
    assert held.rows == found.rows == len(held.tidy)
    pd.testing.assert_frame_equal(found.tidy, held.tidy, check_dtype=False)
    pd.testing.assert_frame_equal(found.slides, held.slides)
    assert not found.tidy.loc[found.tidy["level"] == "fragment", "other_type"].any()
    asked = cohort_tables(maps, progress=False, pairs_by_fragment=True)
    assert asked.rows > held.rows


def test_without_pyarrow_the_rows_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histomix.cohort.stream._has_pyarrow", lambda: False)
    maps = many(tmp_path / "maps", 2)
    found = cohort_tables(maps, tmp_path / "out", progress=False)
    assert found.rows == len(found.tidy) == len(pd.read_csv(tmp_path / "out" / "cohort.csv"))
    assert "cohort (Parquet)" not in found.files


def test_tables_that_cannot_be_made_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, out = many(tmp_path / "maps", 3), tmp_path / "out"
    cohort_tables(maps, out, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {"cohort.csv", "slides.csv", "manifest.json"} <= set(before)
    monkeypatch.setattr(tables, "joined_with", lambda *_: (_ for _ in ()).throw(InputError("fits no slide")))
    with pytest.raises(InputError, match="fits no slide"):
        cohort_tables(maps, out, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_wide_table_is_written_in_stretches_that_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = many(tmp_path / "maps", 5)
    cohort_tables(maps, tmp_path / "whole", progress=False)
    monkeypatch.setattr(tables, "_CELLS", 1)
    told: list[tuple[str, int, int]] = []
    cohort_tables(maps, tmp_path / "parts", progress=lambda *one: told.append(one))
    assert [(done, total) for task, done, total in told if task == "cohort (slides)"] == [(n, 5) for n in range(6)]
    whole, parts = ((tmp_path / name / "slides.csv").read_bytes() for name in ("whole", "parts"))
    assert whole == parts and whole.count(b"\n") == 6


def test_tables_that_will_be_large_say_so_at_the_first_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "histomix")
    maps = many(tmp_path / "maps", 4, fragments=20)
    cohort_tables(maps, tmp_path / "small", progress=False)
    assert "tables of about" not in caplog.text
    monkeypatch.setattr(tables, "_LARGE", 1000)
    told: list[bool] = []
    found = cohort_tables(maps, tmp_path / "large", progress=lambda *one: told.append("tables of about" in caplog.text))
    assert told[0] and caplog.text.count("4 maps: tables of about") == 1
    size = sum(path.stat().st_size for name, path in found.files.items() if name.startswith("cohort"))
    with TidyFiles(tmp_path / "one") as files:
        files.add(found.tidy[found.tidy["slide"] == "S0"])
        assert 4 * files.size_bytes == pytest.approx(size, rel=0.25)
