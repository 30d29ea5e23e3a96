"""The label object, its tables on disk, and labels that a sheet names."""

from __future__ import annotations

import errno
import gzip
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from histomix.abundance import (
    Abundance,
    cohort_labels,
    join_spots,
    label,
    read_abundance,
    read_labels,
    write_abundance,
    write_labels,
)
from histomix.errors import LabelError, StorageError
from histomix.maps.composition import PLACE_COLUMNS, STATE_COLUMNS
from histomix.provenance import digest_file
from histomix.spots import Section, read_cohort

CELLS = pd.DataFrame({"T": [1.0, 0.0, 6.0], "B": [3.0, 0.0, 2.0]}, index=["1x1", "1x2", "2x1"])
SHARES = pd.DataFrame({"T": [0.25, 1.0], "B": [0.75, 0.0]}, index=["1x1", "1x2"])


@dataclass
class Sheet:
    """A cohort of sections in memory."""

    sections: dict[str, Section]
    sheet: Path = field(default=Path("sheet.csv"))

    @property
    def names(self) -> list[str]:
        return list(self.sections)

    def section(self, name: str, counts: bool = True) -> Section:
        return self.sections[name]


def make_section(name: str, keys: list[str], labels: Path | None = None, unit: str | None = None) -> Section:
    adata = anndata.AnnData(np.zeros((len(keys), 0), dtype=np.float32), obs=pd.DataFrame(index=keys))
    return Section(name=name, donor="d", adata=adata, labels=labels, label_unit=unit, where=f"sheet.csv, {name}")


def test_proportions_divide_by_the_total_and_drop_empty_spots(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="histomix"):
        shares = Abundance(CELLS, "cells per spot", sd=CELLS).proportions()
    assert shares.unit == "proportion"
    assert shares.sd is None
    expected = pd.DataFrame({"T": [0.25, 0.75], "B": [0.75, 0.25]}, index=["1x1", "2x1"])
    pd.testing.assert_frame_equal(shares.values, expected)
    assert "1 of 3 spots have no cells" in caplog.text
    assert shares.proportions() is shares
    with pytest.raises(LabelError, match="no spot has any cells"):
        Abundance(CELLS * 0, "cells per spot").proportions()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace(3.0, -3.0), "spot '1x1', cell type 'B' is -3.0"),
        (lambda t: t.replace(3.0, np.nan), "spot '1x1', cell type 'B' is nan"),
        (lambda t: t.replace(3.0, np.inf), "is inf"),
        (lambda t: t.set_axis(["1x1", "1x2", "1x1"]), "spot key '1x1' occurs more than once"),
        (lambda t: t.set_axis(["T", "T"], axis=1), "cell type 'T' occurs more than once"),
        (lambda t: t.astype({"B": str}), "column 'B' is not numeric"),
        (lambda t: t.iloc[:0], "is empty"),
        (lambda t: t.iloc[:, :0], "is empty"),
    ],
)
def test_bad_values_are_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        Abundance(change(CELLS), "cells per spot")


def test_the_unit_must_be_declared_and_hold() -> None:
    with pytest.raises(LabelError, match="'cells' is not a unit"):
        Abundance(CELLS, "cells")
    with pytest.raises(LabelError, match="not declared"):
        Abundance(CELLS, None)  # type: ignore[arg-type]
    with pytest.raises(LabelError, match=r"spot '1x1' sum to 4, not 1 \(3 of 3 spots\)"):
        Abundance(CELLS, "proportion")
    assert Abundance(SHARES * 1.0099, "proportion").unit == "proportion"
    for factor in (1.0101, 0.9899):
        with pytest.raises(LabelError, match="not 1"):
            Abundance(SHARES * factor, "proportion")


def test_sd_must_fit_the_labels() -> None:
    for sd in (CELLS.iloc[:2], CELLS.rename(columns={"T": "NK"}), CELLS.iloc[::-1]):
        with pytest.raises(LabelError, match="other spots or cell types"):
            Abundance(CELLS, "cells per spot", sd=sd)
    with pytest.raises(LabelError, match=r"posterior sd of spot '1x1', cell type 'T' is -1\.0"):
        Abundance(CELLS, "cells per spot", sd=CELLS.replace(1.0, -1.0))


def test_join_keeps_the_order_of_the_spots_and_says_what_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    table = Abundance(CELLS, "cells per spot", sd=CELLS * 0.1)
    with caplog.at_level(logging.INFO, logger="histomix"):
        joined = join_spots(table, pd.Index(["2x1", "9x9", "1x1"]), "labels.csv")
    assert list(joined.values.index) == ["2x1", "1x1"]
    assert joined.sd is not None and joined.sd.loc["2x1", "T"] == pytest.approx(0.6)
    assert "1 of 3 labels belong to no spot" in caplog.text
    assert "1 of 3 spots have no label" in caplog.text
    with pytest.raises(LabelError, match=r"none of the 3 labels .*'1x1'.* the 2 spots .*'a'"):
        join_spots(table, pd.Index(["a", "b"]))


TEXTS = {
    "plain": "spot,T,B\n007,1,2\n1x2,8e-10,1e2\n",
    "tabs": "\tT\tB\n007\t1\t2\n1x2\t8e-10\t100\n",
    "r": 'T,B\n"007",1,2\n"1x2",8e-10,100\n',
    "windows": "\ufeffspot;T;B\r\n007;1;2\r\n1x2;8e-10;100\r\n",
    "spaces": "spot,T , B\n007,1,2\n 1x2,8e-10,100\n",
    "positions": "spot,x_px,y_px,T,B\n007,10,20,1,2\n1x2,30,40,8e-10,100\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_tables_in_every_dress(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(TEXTS[name].encode())
    expected = pd.DataFrame({"T": [1.0, 8e-10], "B": [2.0, 100.0]}, index=["007", "1x2"])
    pd.testing.assert_frame_equal(read_abundance(path, "cells per spot").values, expected)
    zipped = tmp_path / "z.tsv.gz"
    zipped.write_bytes(gzip.compress(TEXTS[name].encode()))
    pd.testing.assert_frame_equal(read_abundance(zipped, "cells per spot").values, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a table"),
        (b"spot,T\n", "cannot be read as a table"),
        (b"spot,T,T\na,1,2\n", "column 'T' more than once"),
        (b"spot,T,B\na,1,2\na,1,2\n", "spot key 'a' occurs more than once"),
        (b"spot,T,zone\na,1,tumour\n", "row 2, column 'zone': 'tumour' is not a number"),
        (b"spot,T,B\na,1,2\nb,,2\n", "row 3, column 'T': '' is not a number"),
        (b"spot,T,B\na,1,2\nb,NA,2\n", "row 3, column 'T': 'NA' is not a number"),
        (b"spot,T,B\na,1,-2\n", "cell type 'B' is -2.0"),
        (b"spot,T,B\na,1,2,3,4\n", "column names for 5 columns"),
        (b"spot,T,B\na,1,2\nb,1,2,3\n", "cannot be read as a table"),
        (b"\x1f\x8b\x08\x00\x00", "cannot be read"),
        (b"\x89PNG\xff\xfe", "not a text table"),
        (None, "no such file"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError, match=message) as caught:
        read_abundance(path, "cells per spot")
    assert caught.value.where == str(path)


def test_a_file_without_declared_unit_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.csv"
    SHARES.to_csv(path, index_label="spot")
    with pytest.raises(LabelError, match="not declared") as caught:
        read_abundance(path)
    assert '"cells per spot", "proportion" or "relative abundance"' in str(caught.value)
    assert read_abundance(path, "proportion").unit == "proportion"
    read_abundance(path, "cells per spot")
    assert "every spot sums to 1" in caplog.text


def test_h5ad_labels(tmp_path: Path) -> None:
    path = tmp_path / "t.h5ad"
    adata = anndata.AnnData(CELLS)
    adata.write_h5ad(path)
    with pytest.raises(LabelError, match="not declared"):
        read_abundance(path)
    pd.testing.assert_frame_equal(read_abundance(path, "cells per spot").values, CELLS)
    adata.uns["unit"] = "cells per spot"
    adata.write_h5ad(path)
    assert read_abundance(path).unit == "cells per spot"
    with pytest.raises(LabelError, match='file declares "cells per spot"'):
        read_abundance(path, "proportion")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(LabelError, match="cannot be read as h5ad"):
        read_abundance(path)


def test_a_result_of_cell2location_is_recognised(tmp_path: Path) -> None:
    adata = anndata.AnnData(np.ones((3, 7), dtype=np.float32), obs=pd.DataFrame(index=CELLS.index))
    adata.obsm["q05_cell_abundance_w_sf"] = CELLS.add_prefix("q05cell_abundance_w_sf_")
    adata.obsm["stds_cell_abundance_w_sf"] = (CELLS / 10).add_prefix("stdscell_abundance_w_sf_")
    adata.write_h5ad(tmp_path / "c.h5ad")
    table = read_abundance(tmp_path / "c.h5ad")
    assert table.unit == "cells per spot"
    pd.testing.assert_frame_equal(table.values, CELLS)
    assert table.sd is not None
    pd.testing.assert_frame_equal(table.sd, CELLS / 10)


def test_a_folder_of_labels_reads_back_exactly(tmp_path: Path) -> None:
    values = pd.DataFrame(np.random.default_rng(0).gamma(0.3, size=(4, 2)), index=list("abcd"), columns=["T", "B"])
    labels = {"A": Abundance(values, "cells per spot", sd=values / 7), "B": Abundance(CELLS, "cells per spot")}
    write_labels(tmp_path, labels, {"method": "poisson", "sections": {"A": {"genes": 5}}})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["unit"] == "cells per spot"
    assert manifest["sections"] == {
        "A": {"genes": 5, "spots": 4, "digest": digest_file(tmp_path / "A.csv")},
        "B": {"spots": 3, "digest": digest_file(tmp_path / "B.csv")},
    }
    found = read_labels(tmp_path)
    assert list(found) == ["A", "B"]
    pd.testing.assert_frame_equal(found["A"].values, values, check_exact=True)
    assert found["A"].sd is not None
    pd.testing.assert_frame_equal(found["A"].sd, values / 7, check_exact=True)
    assert found["B"].sd is None
    assert read_abundance(tmp_path / "A.csv").unit == "cells per spot"
    with pytest.raises(LabelError, match="labels of one unit"):
        write_labels(tmp_path, {**labels, "C": Abundance(SHARES, "proportion")}, {})


def test_a_folder_without_unit_or_table_is_refused(tmp_path: Path) -> None:
    write_abundance(tmp_path, "A", Abundance(SHARES, "proportion"))
    with pytest.raises(LabelError, match="unit of the labels is unknown"):
        read_labels(tmp_path)
    (tmp_path / "manifest.json").write_text('{"method": "by hand"}')
    with pytest.raises(LabelError, match="not declared"):
        read_labels(tmp_path)
    (tmp_path / "manifest.json").write_text('{"unit": "proportion"}')
    assert list(read_labels(tmp_path)) == ["A"]
    (tmp_path / "manifest.json").write_text('{"unit": "proportion", "sections": {"A": {}, "B": {}}}')
    with pytest.raises(LabelError, match=r"B\.csv: there is no such file"):
        read_labels(tmp_path)


def test_a_stale_sd_does_not_outlive_its_labels(tmp_path: Path) -> None:
    write_abundance(tmp_path, "A", Abundance(CELLS, "cells per spot", sd=CELLS))
    write_abundance(tmp_path, "A", Abundance(CELLS * 2, "cells per spot"))
    assert read_abundance(tmp_path / "A.csv", "cells per spot").sd is None


def posterior() -> Abundance:
    reliability = pd.Series({"T": 0.8, "B": np.nan})
    provenance = {"method": "cell2location", "fit": "donor", "fitted_with": ["A", "B"], "reliability_of": "poisson"}
    return Abundance(CELLS / 3, "cells per spot", CELLS / 7, provenance, CELLS / 2.9, reliability)


def test_median_reliability_and_facts_read_back(tmp_path: Path) -> None:
    labels = posterior()
    manifest = {
        "method": "cell2location",
        "reference": {"digest": "sha256:1", "genes": 3},
        "settings": {"min_genes": 7},
    }
    write_labels(tmp_path, {"A": labels, "B": Abundance(CELLS, "cells per spot")}, manifest)
    assert {path.name for path in tmp_path.iterdir()} == {
        "A.csv", "A.sd.csv", "A.median.csv", "A.reliability.csv", "B.csv", "manifest.json",
    }  # fmt: skip
    found = read_labels(tmp_path)
    first = found["A"]
    assert first.sd is not None and first.median is not None and first.reliability is not None
    pd.testing.assert_frame_equal(first.values, CELLS / 3, check_exact=True)
    pd.testing.assert_frame_equal(first.median, CELLS / 2.9, check_exact=True)
    pd.testing.assert_frame_equal(first.sd, CELLS / 7, check_exact=True)
    assert labels.reliability is not None
    pd.testing.assert_series_equal(first.reliability, labels.reliability, check_exact=True, check_names=False)
    expected = {"method": "cell2location", "fit": "donor", "fitted_with": ["A", "B"], "reference": "sha256:1"}
    expected |= {"reliability_of": "poisson", "min_genes": 7}
    assert expected.items() <= first.provenance.items()
    assert (found["B"].sd, found["B"].median, found["B"].reliability) == (None, None, None)
    assert "fitted_with" not in found["B"].provenance
    # Another table under the same name is not what the manifest speaks of.
    (CELLS / 5).to_csv(tmp_path / "A.csv")
    assert "fitted_with" not in read_labels(tmp_path)["A"].provenance


def test_a_folder_without_listed_sections_does_not_take_sides_for_sections(tmp_path: Path) -> None:
    write_abundance(tmp_path, "A", posterior())
    (tmp_path / "manifest.json").write_text('{"unit": "cells per spot"}')
    assert list(read_labels(tmp_path)) == ["A"]
    with pytest.raises(LabelError, match="part of another section"):
        write_abundance(tmp_path, "A.median", posterior())
    (tmp_path / "A.reliability.csv").write_text("cell_type,reliability\nT,high\nB,\n")
    with pytest.raises(LabelError, match="not a table of cell_type and reliability"):
        read_labels(tmp_path)
    (tmp_path / "A.reliability.csv").write_text("cell_type,reliability\nT,0.5\n")
    with pytest.raises(LabelError, match="one number from -1 to 1 for each cell type"):
        read_labels(tmp_path)


@pytest.mark.parametrize("step", range(4))
def test_a_table_is_never_seen_with_the_sides_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write_abundance(tmp_path, "A", posterior())
    moved: list[str] = []
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if len(moved) == step:
            raise KeyboardInterrupt
        moved.append(target.name)
        return replace(path, target)

    doubled = Abundance(CELLS * 2, "cells per spot", CELLS, {}, CELLS * 3, pd.Series({"T": 0.1, "B": 0.2}))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_abundance(tmp_path, "A", doubled)
    assert len(moved) == step
    assert not (tmp_path / "A.csv").exists()
    write_abundance(tmp_path, "A", Abundance(CELLS, "cells per spot"))
    assert [path.name for path in tmp_path.iterdir()] == ["A.csv"]


def test_a_full_disk_leaves_the_old_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_abundance(tmp_path, "A", posterior())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    written: list[str] = []
    to_csv = pd.DataFrame.to_csv

    def full(table: pd.DataFrame, path: Path, **options: object) -> None:
        written.append(Path(path).name)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        to_csv(table, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", full)
        with pytest.raises(StorageError, match="disk is full"):
            write_abundance(tmp_path, "A", Abundance(CELLS, "cells per spot", CELLS, {}, CELLS))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_labels_of_a_sheet_name_every_section_that_fails(tmp_path: Path) -> None:
    SHARES.to_csv(tmp_path / "good.csv")
    SHARES.set_axis(["p", "q"]).to_csv(tmp_path / "strange.csv")
    keys = ["1x2", "1x1", "5x5"]
    good = make_section("good", keys, tmp_path / "good.csv", "proportion")
    found = cohort_labels(Sheet({"good": good, "none": make_section("none", keys)}))  # type: ignore[arg-type]
    assert list(found) == ["good"]
    assert list(found["good"].values.index) == ["1x2", "1x1"]
    strange = make_section("strange", keys, tmp_path / "strange.csv", "proportion")
    unitless = make_section("unitless", keys, tmp_path / "good.csv")
    with pytest.raises(LabelError, match="2 of 3 sections failed") as caught:
        cohort_labels(Sheet({"good": good, "strange": strange, "unitless": unitless}))  # type: ignore[arg-type]
    assert "strange: " in str(caught.value) and "none of the 2 labels" in str(caught.value)
    assert "unitless: " in str(caught.value) and "not declared" in str(caught.value)
    with pytest.raises(LabelError, match="no section has labels"):
        cohort_labels(Sheet({"none": make_section("none", keys)}))  # type: ignore[arg-type]


def test_method_table_turns_cells_into_proportions_but_not_back(tmp_path: Path) -> None:
    CELLS.to_csv(tmp_path / "cells.csv")
    SHARES.to_csv(tmp_path / "shares.csv")
    cells = make_section("a", list(CELLS.index), tmp_path / "cells.csv", "cells per spot")
    shares = make_section("b", list(CELLS.index), tmp_path / "shares.csv", "proportion")
    out = tmp_path / "out"
    kept = label(Sheet({"a": cells}), "table", out=out)  # type: ignore[arg-type]
    assert kept["a"].unit == "cells per spot"
    pd.testing.assert_frame_equal(read_labels(out)["a"].values, CELLS)
    both = label(Sheet({"a": cells, "b": shares}), "table", unit="proportion")  # type: ignore[arg-type]
    assert {table.unit for table in both.values()} == {"proportion"}
    assert both["a"].values.loc["2x1", "T"] == 0.75
    with pytest.raises(LabelError, match="cannot be turned into cells per spot"):
        label(Sheet({"b": shares}), "table", unit="cells per spot")  # type: ignore[arg-type]
    with pytest.raises(LabelError, match="labels of one unit"):
        label(Sheet({"a": cells, "b": shares}), "table")  # type: ignore[arg-type]


def test_published_her2st_labels(data_dir: Path, tmp_path: Path) -> None:
    root = data_dir / "her2st"
    rows = ["section,donor,spots,counts,labels,label_unit,image"]
    rows += [
        f"{name},{name[0]},{root}/spots/{name}_selection.tsv,{root}/counts/{name}.tsv.gz,"
        f"{root}/proportions/major/{name}.tsv.gz,proportion,"
        for name in ("A2", "G2")
    ]
    (tmp_path / "sheet.csv").write_text("\n".join(rows))
    labels = cohort_labels(read_cohort(tmp_path / "sheet.csv"))
    assert {name: table.values.shape for name, table in labels.items()} == {"A2": (325, 8), "G2": (467, 8)}
    assert 0 < labels["A2"].values.to_numpy().min() < 1e-9


@pytest.mark.parametrize("name", sorted({*PLACE_COLUMNS, *STATE_COLUMNS, "spot"}))
def test_no_cell_type_is_called_as_a_column_of_ours(name: str) -> None:
    table = pd.DataFrame({name: [0.5, 0.25], "T": [0.5, 0.75]}, index=["a", "b"])
    with pytest.raises(LabelError, match=f"a cell type is called '{name}'.*another name"):
        Abundance(table, "proportion")
