"""Labels as other tools write them: recognised by content, or refused with a way out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from packaging.version import Version

import histomix as hm
from histomix.abundance import Abundance, join_spots, read_abundance
from histomix.abundance.vocabulary import Vocabulary
from histomix.errors import LabelError

from .conftest import Job

KEYS = ["10x15", "10x16", "11x2"]
#: anndata from 0.13 on writes no column with a slash, and older files have them.
NK = "B/NK" if Version(anndata.__version__) < Version("0.13") else "B:NK"
Q05 = pd.DataFrame({"T": [1.0, 0.0, 6.0], NK: [3.0, 0.5, 2.0]}, index=KEYS)
SHARES = Q05.div(Q05.sum(axis=1), axis=0)


def spatial(**parts: object) -> anndata.AnnData:
    """Counts of genes, as the file of a tool has them beside its result."""
    return anndata.AnnData(np.ones((3, 600), dtype=np.float32), obs=pd.DataFrame(index=KEYS), **parts)


def frames(form: str, column: str) -> dict[str, pd.DataFrame]:
    factors = {"q05": 1.0, "means": 2.0, "stds": 0.1, "q95": 3.0}
    return {
        form.format(name): (Q05 * factor).rename(columns=lambda kind, name=name: column.format(name) + kind)
        for name, factor in factors.items()
    }


@pytest.mark.parametrize(
    ("form", "column"),
    [
        ("{}_cell_abundance_w_sf", "{}cell_abundance_w_sf_"),
        ("{}_cell_abundance_w_sf", "{}_cell_abundance_w_sf_"),
        ("{}_cell_abundance_w_sf", ""),
        ("{}cell_abundance_w_sf", "{}cell_abundance_w_sf_"),
        ("{}_spot_factors", "{}_spot_factors"),
    ],
)
def test_cell2location_in_obsm(tmp_path: Path, form: str, column: str) -> None:
    spatial(obsm=frames(form, column)).write_h5ad(tmp_path / "c.h5ad")
    table = read_abundance(tmp_path / "c.h5ad")
    assert table.unit == "cells per spot"
    pd.testing.assert_frame_equal(table.values, Q05)
    assert table.sd is not None and table.median is None
    pd.testing.assert_frame_equal(table.sd, Q05 * 0.1)
    assert table.provenance["recognised_as"] == "cell2location h5ad"
    assert table.provenance["summary"] == "q05"


def test_cell2location_with_and_without_quantiles(tmp_path: Path) -> None:
    tables = {f"{name}_cell_abundance_w_sf": Q05 * factor for name, factor in (("q50", 2), ("q05", 1))}
    spatial(obsm=tables).write_h5ad(tmp_path / "c.h5ad")
    table = read_abundance(tmp_path / "c.h5ad")
    assert table.median is not None
    pd.testing.assert_frame_equal(table.median, Q05 * 2)
    for summary in ("q50", "means"):
        spatial(obsm={f"{summary}_cell_abundance_w_sf": Q05 * 2}).write_h5ad(tmp_path / "c.h5ad")
        table = read_abundance(tmp_path / "c.h5ad")
        assert (table.provenance["summary"], table.median) == (summary, None)
        pd.testing.assert_frame_equal(table.values, Q05 * 2)


def test_cell2location_as_arrays_named_in_uns(tmp_path: Path) -> None:
    arrays = {key: table.to_numpy() for key, table in frames("{}_cell_abundance_w_sf", "").items()}
    adata = spatial(obsm=arrays, uns={"mod": {"factor_names": np.array(["T", NK])}})
    adata.write_h5ad(tmp_path / "c.h5ad")
    pd.testing.assert_frame_equal(read_abundance(tmp_path / "c.h5ad").values, Q05)
    spatial(obsm=arrays).write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(LabelError, match=r"array of shape \(3, 2\), with 0 names"):
        read_abundance(tmp_path / "c.h5ad")


def test_cell2location_copied_to_obs_and_to_a_table(tmp_path: Path) -> None:
    adata = spatial()
    adata.obs = pd.concat([Q05.add_prefix("q05_spot_factors"), (Q05 / 9).add_prefix("stds_spot_factors")], axis=1)
    adata.obs["total_counts"] = 5.0
    adata.obs["sample"] = "A"
    adata.obs.to_csv(tmp_path / "W.csv")
    adata.obs.columns = adata.obs.columns.str.replace("/", "_")  # not allowed in the keys of an h5ad
    adata.write_h5ad(tmp_path / "c.h5ad")
    table = read_abundance(tmp_path / "W.csv")
    assert table.unit == "cells per spot"
    assert table.provenance["left_out"] == ["total_counts", "sample"]
    assert table.sd is not None
    pd.testing.assert_frame_equal(table.values, Q05)
    np.testing.assert_allclose(table.sd, Q05 / 9)
    pd.testing.assert_frame_equal(
        read_abundance(tmp_path / "c.h5ad").values, Q05.rename(columns=lambda kind: kind.replace("/", "_"))
    )
    with pytest.raises(LabelError, match='file declares "cells per spot"'):
        read_abundance(tmp_path / "W.csv", "proportion")

    adata = spatial(uns={"mod": {"factor_names": np.array(["T", "B"])}})
    adata.obs = Q05.set_axis(["T", "B"], axis=1).assign(total=1.0)
    adata.write_h5ad(tmp_path / "c.h5ad")
    table = read_abundance(tmp_path / "c.h5ad")
    assert table.provenance["recognised_as"] == "cell2location h5ad, copied to obs"
    pd.testing.assert_frame_equal(table.values, Q05.set_axis(["T", "B"], axis=1))


def test_contradicting_summaries_are_refused(tmp_path: Path) -> None:
    table = {"q05_cell_abundance_w_sf": Q05.add_prefix("meanscell_abundance_w_sf_")}
    spatial(obsm=table).write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(LabelError, match="names another summary"):
        read_abundance(tmp_path / "c.h5ad")


def test_counts_of_genes_are_not_taken_for_labels(tmp_path: Path) -> None:
    spatial(obsm={"X_pca": np.ones((3, 2))}).write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(LabelError, match=r"600 columns in X, which must be genes, .*obsm: X_pca"):
        read_abundance(tmp_path / "c.h5ad", "cells per spot")
    spatial().to_df().to_csv(tmp_path / "c.csv")
    with pytest.raises(LabelError, match=r"600 columns .*no cell types"):
        read_abundance(tmp_path / "c.csv", "cells per spot")


def test_quality_and_clusters_of_spots_are_no_cell_types(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What an ``obs`` holds beside the labels, as scanpy, Seurat, Space Ranger and histomix call it."""
    others = {
        "x": 1.0, "array_row": 3, "in_tissue": 1, "total_counts": 1234.0, "n_genes_by_counts": 600, "log1p_n_counts": 2,
        "total_counts_mt": 7, "pct_counts_mt": 3.5, "nCount_Spatial": 1234, "nFeature_RNA": 88, "percent.mt": 2.0,
        "leiden": 3, "leiden_r0.5": 1, "louvain": 1, "seurat_clusters": 2, "SCT_snn_res.0.8": 1, "doublet_score": 0.1,
        "sample": 1, "novelty": 0.3, "in_scope": 1, "read_ok": 1, "fragment": 2,
    }  # fmt: skip
    Q05.assign(**others).to_csv(tmp_path / "t.csv")
    with caplog.at_level("INFO", logger="histomix"):
        table = read_abundance(tmp_path / "t.csv", "cells per spot")
    pd.testing.assert_frame_equal(table.values, Q05)
    assert table.provenance["left_out"] == list(others) and "total_counts_mt" in caplog.text
    # Cell types that only begin alike.
    types = ["Counts of T", "phased cells", "leidenschaft", "n cells"]
    Q05.assign(**dict.fromkeys(types, 1.0)).to_csv(tmp_path / "t.csv")
    assert read_abundance(tmp_path / "t.csv", "cells per spot").cell_types == [*Q05, *types]


def test_tangram(tmp_path: Path) -> None:
    path = tmp_path / "t.h5ad"
    spatial(obsm={"tangram_ct_pred": Q05}).write_h5ad(path)
    table = read_abundance(path, "proportion")
    pd.testing.assert_frame_equal(table.values, SHARES)
    assert table.provenance["recognised_as"] == "Tangram mapped mass"
    assert table.provenance["normalised"] == {"least_total": 0.5, "largest_total": 8.0}
    with pytest.raises(LabelError, match="not declared"):
        read_abundance(path)
    counts = Q05.round().assign(x=1.0, y=2.0, cell_n=3, centroids="[1 2]")
    counts.to_csv(tmp_path / "t.csv")
    table = read_abundance(tmp_path / "t.csv")
    assert table.unit == "cells per spot"
    assert table.provenance["left_out"] == ["x", "y", "cell_n", "centroids"]
    pd.testing.assert_frame_equal(table.values, Q05.round())


def test_spotlight_and_plain_proportions(tmp_path: Path) -> None:
    SHARES.assign(res_ss=12.5).to_csv(tmp_path / "s.csv")
    table = read_abundance(tmp_path / "s.csv", "proportion")
    assert table.provenance["recognised_as"] == "SPOTlight table"
    pd.testing.assert_frame_equal(table.values, SHARES)
    # As stereoscope and CARD write them.
    SHARES.to_csv(tmp_path / "W.tsv", sep="\t")
    table = read_abundance(tmp_path / "W.tsv", "proportion")
    assert table.provenance["recognised_as"] == "table of spots x cell types"
    pd.testing.assert_frame_equal(table.values, SHARES)


def test_rctd(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    Q05.to_csv(path)
    with pytest.raises(LabelError, match=r"sum to 4, not 1.*renormalise: true"):
        read_abundance(path, "proportion")
    table = read_abundance(path, "proportion", vocabulary=Vocabulary(renormalise=True))
    pd.testing.assert_frame_equal(table.values, SHARES)
    assert table.provenance["normalised"] == {"least_total": 0.5, "largest_total": 8.0}
    (Q05 * 0).to_csv(path)
    with pytest.raises(LabelError, match="every spot sums to 0"):
        read_abundance(path, "proportion", vocabulary=Vocabulary(renormalise=True))
    path.write_text("spot,spot_class,first_type,second_type\n1x1,singlet,T,B\n1x2,reject,T,B\n")
    with pytest.raises(LabelError, match=r"results_df of RCTD.*normalize_weights"):
        read_abundance(path, "proportion")


def test_a_turned_table_is_turned_back_only_when_its_keys_tell(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    SHARES.T.to_csv(path)
    table = read_abundance(path, "proportion")
    assert table.provenance["transposed"] is True
    pd.testing.assert_frame_equal(table.values, SHARES)
    # As R writes it, with its own idea of column names.
    barcodes = ["AAACAAGTATCTCCCA.1", "AAACACCAATAACTGC.1", "AAACAGAGCGACTCCT.1"]
    SHARES.T.set_axis(barcodes, axis=1).to_csv(path)
    table = read_abundance(path, "proportion")
    keys = pd.Index([name.replace(".", "-") for name in barcodes])
    pd.testing.assert_frame_equal(join_spots(table, keys).values, SHARES.set_axis(keys, axis=0))
    Q05.set_axis(list("abc"), axis=0).T.to_csv(path)
    turned = read_abundance(path, "cells per spot")
    assert list(turned.values.columns) == ["a", "b", "c"]
    with pytest.raises(LabelError, match="Turn the table: rows are spots"):
        join_spots(turned, pd.Index(["a", "b", "c"]))


def test_keys_in_a_column_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for first in (0, 1):
        SHARES.rename_axis("Barcode").reset_index().set_axis(range(first, first + 3), axis=0).to_csv(path)
        table = read_abundance(path, "proportion")
        assert table.provenance["key_column"] == "Barcode"
        pd.testing.assert_frame_equal(table.values, SHARES)


@pytest.mark.parametrize(
    ("spelling", "section"),
    [("X{}", None), ("A_{}", "A"), ("{}-A", "A"), ("A.X{}", "A")],
)
def test_keys_spelled_otherwise_find_their_spots(spelling: str, section: str | None) -> None:
    labels = Abundance(Q05.rename(spelling.format), "cells per spot", Q05.rename(spelling.format))
    keys = pd.Index(KEYS[::-1])
    joined = join_spots(labels, keys, section=section)
    pd.testing.assert_frame_equal(joined.values, Q05.loc[keys])
    assert joined.sd is not None and joined.sd.index.equals(keys)
    assert joined.provenance["keys_respelled"] == [spelling.format("10x15"), "10x15"]
    if section:
        with pytest.raises(LabelError, match="none of the 3 labels"):
            join_spots(labels, keys)


def test_a_table_of_several_sections_gives_each_its_own() -> None:
    both = Abundance(pd.concat([Q05.rename("A_{}".format), (Q05 * 2).rename("B_{}".format)]), "cells per spot")
    keys = pd.Index(KEYS)
    pd.testing.assert_frame_equal(join_spots(both, keys, section="A").values, Q05)
    pd.testing.assert_frame_equal(join_spots(both, keys, section="B").values, Q05 * 2)
    mixed = Abundance(pd.concat([Q05.rename("X{}".format), Q05.rename("A_{}".format)]), "cells per spot")
    pd.testing.assert_frame_equal(join_spots(mixed, keys, section="A").values, Q05)
    barcode = "AAACAAGTATCTCCCA"
    twice = Abundance(Q05.iloc[:2].set_axis([f"{barcode}-1", f"{barcode}-2"], axis=0), "cells per spot")
    with pytest.raises(LabelError, match=f"several labels .* belong to the spot '{barcode}'"):
        join_spots(twice, pd.Index([barcode]))
    assert list(join_spots(twice, pd.Index([f"{barcode}-2"])).values["T"]) == [0.0]


@pytest.mark.parametrize("level", ["major", "minor", "subset"])
def test_stereoscope_of_her2st_reads_as_it_is(data_dir: Path, level: str) -> None:
    paths = sorted((data_dir / "her2st" / "proportions" / level).glob("*.tsv.gz"))
    assert len(paths) == 31
    for path in paths:
        table = read_abundance(path, "proportion")
        plain = pd.read_csv(path, sep="\t", index_col=0)
        assert table.cell_types == list(plain.columns.str.strip())
        assert list(table.values.index) == list(plain.index)
        np.testing.assert_allclose(table.values, plain, rtol=1e-12)
        assert not {"transposed", "left_out", "normalised", "key_column"} & set(table.provenance)


def test_tables_of_breast_block_a(data_dir: Path) -> None:
    folder = data_dir / "visium_layout" / "V1_Breast_Cancer_Block_A_Section_1"
    for name in ("proportions_stlearn.csv", "proportions_stereoscope_by_pixel.tsv"):
        table = read_abundance(folder / name, "proportion")
        assert table.values.shape[1] in (8, 9)
        assert len(table.values) > 3000


@pytest.mark.parametrize("unit", ["cells per spot", "proportion"])
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("total", lambda table: table.sum(axis=1)),
        ("All cells", lambda table: table.sum(axis=1).round(3)),
        ("nuclei", lambda table: table.sum(axis=1) * 1.0005),
        ("index", lambda table: np.arange(len(table))),
        ("No.", lambda table: np.arange(len(table)) + 1.0),
    ],
)
def test_a_column_that_sums_the_others_or_numbers_the_rows_is_no_cell_type(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, column: Callable[[pd.DataFrame], Any], unit: str
) -> None:
    table = pd.DataFrame(np.random.default_rng(0).gamma(1.0, 3.0, (9, 4)), columns=list("ABCD"))
    table.index = pd.Index([f"{i}x1" for i in range(len(table))])
    table = table.div(table.sum(axis=1), axis=0) if unit == "proportion" else table
    for place in (0, 2, 4):
        wide = table.copy()
        wide.insert(place, name, column(table))
        wide.to_csv(tmp_path / "labels.csv")
        found = read_abundance(tmp_path / "labels.csv", unit)
        pd.testing.assert_frame_equal(found.values, table, check_names=False)
        assert found.provenance["left_out"] == [name] and f"the column '{name}' " in caplog.text


def test_columns_that_only_look_like_sums_stay(tmp_path: Path) -> None:
    twins = pd.DataFrame({"A": [7.0, 2, 3, 4, 5], "B": [7.0, 2, 3, 4, 5], "C": 0.0}, index=[f"{i}x1" for i in range(5)])
    nearly = twins.assign(B=[1.0, 2, 3, 4, 6], C=[6.0, 0, 0, 0, 1])  # but for one spot
    for table in (twins, nearly, twins[["A", "B"]]):
        table.to_csv(tmp_path / "labels.csv")
        assert list(read_abundance(tmp_path / "labels.csv", "cells per spot").values.columns) == list(table.columns)


@pytest.mark.parametrize(("times", "unit"), [(1, "proportion"), (10, "cells per spot")])
def test_a_type_that_is_half_of_every_spot_stays(tmp_path: Path, times: float, unit: str) -> None:
    rest = np.random.default_rng(0).dirichlet(np.ones(2), 9) / 2
    table = pd.DataFrame(rest * times, index=[f"{i}x1" for i in range(9)], columns=["T", "B"])
    table.insert(0, "Tumour", 0.5 * times)
    table.to_csv(tmp_path / "labels.csv")
    assert list(read_abundance(tmp_path / "labels.csv", unit).values.columns) == ["Tumour", "T", "B"]


def test_a_table_without_a_header_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    table = pd.DataFrame(values, index=[f"{i}x1" for i in range(6)], columns=["A", "B", "C"])
    table.to_csv(tmp_path / "labels.csv", header=False)
    with pytest.raises(LabelError, match=r"has numbers for names.*header"):
        read_abundance(tmp_path / "labels.csv", "proportion")
    table.set_axis(["0", "1", "2"], axis=1).to_csv(tmp_path / "labels.csv")  # clusters may be called so
    assert list(read_abundance(tmp_path / "labels.csv", "proportion").values.columns) == ["0", "1", "2"]


def test_tables_of_sections_that_were_exchanged_are_refused(small_job: Job, tmp_path: Path) -> None:
    shutil.copytree(small_job.labels, tmp_path / "labels")
    for name in ("csv", "sd.csv", "reliability.csv"):
        one, two = (tmp_path / "labels" / f"{section}.{name}" for section in ("P1S1", "P2S1"))
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
    with pytest.raises(LabelError, match="holds the labels of section P2S1, not of P1S1"):
        hm.read_labels(tmp_path / "labels")
