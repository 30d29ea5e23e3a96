"""Cell types merged, renamed and dropped, in labels and in references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histomix.abundance import Abundance, read_abundance, read_labels, read_reference, write_labels
from histomix.abundance.vocabulary import Vocabulary, read_vocabulary
from histomix.errors import LabelError

CELLS = pd.DataFrame(
    {"Cancer": [1.0, 0.0], "T": [2.0, 5.0], "Normal": [3.0, 4.0], "Plasmablasts": [4.0, 1.0]}, index=["a", "b"]
)
SHARES = CELLS / 10
EPITHELIAL = {"Epithelial": ("Cancer", "Normal")}


def labels(**parts: object) -> Abundance:
    reliability = pd.Series({"Cancer": 0.9, "T": 0.8, "Normal": 0.7, "Plasmablasts": np.nan})
    return Abundance(CELLS, "cells per spot", CELLS * 0.1, {"method": "m"}, CELLS * 1.1, reliability)


def test_merging_adds_up_and_leaves_out_what_does_not_follow() -> None:
    mapped = Vocabulary(EPITHELIAL, {"Plasmablasts": "Plasma Cells"}).apply(labels())
    expected = pd.DataFrame({"Epithelial": [4.0, 4.0], "T": [2.0, 5.0], "Plasma Cells": [4.0, 1.0]}, index=["a", "b"])
    pd.testing.assert_frame_equal(mapped.values, expected)
    assert (mapped.sd, mapped.median) == (None, None)
    assert mapped.reliability is not None
    assert mapped.reliability.isna().to_dict() == {"Epithelial": True, "T": False, "Plasma Cells": True}
    assert mapped.reliability["T"] == 0.8
    assert mapped.provenance["method"] == "m"
    assert mapped.provenance["vocabulary"]["merge"] == {"Epithelial": ["Cancer", "Normal"]}
    independent = Vocabulary(EPITHELIAL, independent_sd=True).apply(labels())
    assert independent.sd is not None and independent.median is None
    np.testing.assert_allclose(independent.sd["Epithelial"], [np.hypot(0.1, 0.3), 0.4])
    np.testing.assert_allclose(independent.sd["T"], [0.2, 0.5])


def test_renaming_and_dropping_keep_everything_else() -> None:
    swapped = Vocabulary(rename={"T": "Cancer", "Cancer": "T"}, drop=("Normal",)).apply(labels())
    assert swapped.cell_types == ["T", "Cancer", "Plasmablasts"]
    assert list(swapped.values["Cancer"]) == [2.0, 5.0]
    assert swapped.sd is not None and swapped.median is not None and swapped.reliability is not None
    np.testing.assert_allclose(swapped.sd["Cancer"], [0.2, 0.5])
    np.testing.assert_allclose(swapped.median["T"], [1.1, 0.0])
    assert swapped.reliability["T"] == 0.9


def test_dropping_from_proportions_must_be_stated() -> None:
    shares = Abundance(SHARES, "proportion", sd=SHARES, reliability=pd.Series(0.5, index=SHARES.columns))
    with pytest.raises(LabelError, match=r"without T .*renormalise: true"):
        Vocabulary(drop=("T",)).apply(shares)
    mapped = Vocabulary(EPITHELIAL, drop=("T",), renormalise=True).apply(shares)
    np.testing.assert_allclose(mapped.values, [[0.5, 0.5], [0.8, 0.2]])
    assert (mapped.sd, mapped.median, mapped.reliability) == (None, None, None)
    merged = Vocabulary(EPITHELIAL).apply(shares)
    np.testing.assert_allclose(merged.values.sum(axis=1), 1)
    with pytest.raises(LabelError, match="only proportions sum to 1"):
        Vocabulary(drop=("T",), renormalise=True).apply(labels())


def test_a_spot_of_dropped_types_only_has_no_label(caplog: pytest.LogCaptureFixture) -> None:
    shares = Abundance(pd.DataFrame({"A": [1.0, 0.5], "B": [0.0, 0.5]}, index=["a", "b"]), "proportion")
    with caplog.at_level("INFO", logger="histomix"):
        mapped = Vocabulary(drop=("A",), renormalise=True).apply(shares)
    assert list(mapped.values.index) == ["b"]
    assert "1 of 2 spots sum to 0" in caplog.text


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (
            {"rename": {"Plasmablast": "P"}},
            r"'Plasmablast' \(did you mean 'Plasmablasts'\?\) is not among .* Cancer, T,",
        ),
        ({"drop": ("X", "cancer")}, r"'X', 'cancer' \(did you mean 'Cancer'\?\) are not among"),
        ({"rename": {"Cancer": "T"}}, "'T' would be the name of Cancer, T"),
        ({"merge": {"T": ("Cancer", "Normal")}}, "'T' would be the name of Cancer, T, Normal"),
        ({"drop": tuple(CELLS)}, "no cell type would be left"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(vocabulary: dict[str, object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        Vocabulary(**vocabulary).apply(labels())  # type: ignore[arg-type]
    with pytest.raises(LabelError, match=message):
        Vocabulary(**vocabulary).apply_table(CELLS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("merge: {}\n", "maps nothing"),
        ("merge: [A, B]\n", "line 1 must hold a mapping"),
        ("merge: {E: A}\n", "line 1 must hold a list of cell types"),
        ("merge: {E: []}\n", "a group of merge is empty"),
        ("merge:\n  E: [A, [B]]\n", "line 2 must hold the name of a cell type"),
        ("rename: {A: [B]}\n", "line 1 must hold the name"),
        ("renames: {A: B}\n", "has the key 'renames'"),
        ("merge: {E: [A, B]}\nmerge: {F: [C, D]}\n", "line 2 has 'merge' a second time"),
        ("merge: {E: [A, B], F: [B, C]}\n", "'B' is mentioned more than once"),
        ("merge: {E: [A, B]}\ndrop: [A]\n", "'A' is mentioned more than once"),
        ("rename: {A: E}\nmerge: {E: [B, C]}\n", "two entries give the name 'E'"),
        ("drop: [A]\nrenormalise: maybe\n", "line 2 must hold renormalise: true"),
        ("merge: {E: [A, B]\n", "cannot be read as YAML"),
        ("merge: !!python/object:os.system {}\n", "maps nothing"),
        ("just a word\n", "line 1 must hold a mapping"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.yaml"
    path.write_text(text)
    with pytest.raises(LabelError, match=message) as caught:
        read_vocabulary(path)
    assert caught.value.where == str(path)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no such file"):
        read_vocabulary(tmp_path / "v.yaml")
    (tmp_path / "v.yaml").write_bytes(b"\xff\xfe\x00merge")
    with pytest.raises(LabelError, match="cannot be read as YAML"):
        read_vocabulary(tmp_path / "v.yaml")


def test_names_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    path.write_text("merge: {NO: [1, null]}\nrename: {007: true}\ndrop: [1e3]\nrenormalise: True\n")
    found = read_vocabulary(path)
    assert found.merge == {"NO": ("1", "null")}
    assert (found.rename, found.drop) == ({"007": "true"}, ("1e3",))
    assert found.renormalise and not found.independent_sd
    again = tmp_path / "w.yaml"
    again.write_text("drop: [1e3]\nrenormalise: true\nrename: {'007': 'true'}\nmerge:\n  'NO':\n  - 1\n  - null\n")
    assert read_vocabulary(again).digest == found.digest
    assert Vocabulary(drop=("1e3",)).digest != found.digest


def test_a_mapped_table_records_it_and_keeps_the_record(tmp_path: Path) -> None:
    CELLS.to_csv(tmp_path / "cells.csv")
    vocabulary = Vocabulary(EPITHELIAL)
    table = read_abundance(tmp_path / "cells.csv", "cells per spot", vocabulary=vocabulary)
    assert table.cell_types == ["Epithelial", "T", "Plasmablasts"]
    write_labels(tmp_path / "labels", {"A": table}, {"method": "table"})
    found = read_labels(tmp_path / "labels")["A"]
    assert found.provenance["vocabulary"]["digest"] == vocabulary.digest
    with pytest.raises(LabelError, match="mapped already need no vocabulary"):
        vocabulary.apply(found)


def test_wu_on_the_names_of_stereoscope(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "wu.yaml"
    path.write_text(
        "merge: {Epithelial: [Cancer Epithelial, Normal Epithelial]}\nrename: {Plasmablasts: Plasma Cells}\n"
    )
    reference = read_reference(data_dir / "reference" / "wu2021_brca_major_dwls.csv").table
    mapped = read_vocabulary(path).apply_table(reference)
    stereoscope = read_abundance(data_dir / "her2st" / "proportions" / "major" / "A2.tsv.gz", "proportion")
    assert set(mapped.columns) == set(stereoscope.cell_types)
    both = reference[["Cancer Epithelial", "Normal Epithelial"]].to_numpy()
    np.testing.assert_allclose(mapped["Epithelial"], both.sum(axis=1) / 2)
    pd.testing.assert_series_equal(mapped["Plasma Cells"], reference["Plasmablasts"], check_names=False)
    assert mapped.index.equals(reference.index)
