"""Names that a spreadsheet would run: text in the tables that people open, themselves in those that programs read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import histomix as hm
from histomix.abundance import Abundance
from histomix.abundance.tables import write_labels
from histomix.benchmark import Benchmark
from histomix.benchmark.result import write_benchmark
from histomix.cohort import cohort_tables, write_cohort
from histomix.evaluation import read_evaluation
from histomix.maps.composition import composition_table

from .conftest import Job, manifest_of
from .extras import extra_module
from .test_cohort_tables import _map

HOSTILE = ["=cmd|' /C calc'!A0", "@SUM(1+1)*cmd", "-2+3", "+cmd", "\t=1", "＝1+1", "'=quoted", "T & B"]
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def _cells(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return [cell for row in csv.reader(stream) for cell in row]


def _formulas(path: Path) -> list[str]:
    """Cells that a spreadsheet would run: they begin like a formula, and are no number."""
    return [cell for cell in _cells(path) if cell.startswith(FORMULA) and not _is_number(cell)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_labels_read_back_as_they_were(tmp_path: Path) -> None:
    types = [name for name in HOSTILE if name.strip() == name]
    values = pd.DataFrame(np.full((3, len(types)), 1 / len(types)), ["1x1", "=2x2", "-3"], types)
    reliability = pd.Series(np.linspace(0.1, 0.9, len(types)), types)
    write_labels(tmp_path, {"A": Abundance(values, "proportion", values * 0.1, reliability=reliability)}, {})
    found = hm.read_labels(tmp_path)["A"]
    assert found.cell_types == types and list(found.values.index) == ["1x1", "=2x2", "-3"]
    assert found.sd is not None and list(found.sd.columns) == types
    assert found.reliability is not None and list(found.reliability.index) == types


def test_evaluations_read_back_as_they_were(job: Job, tmp_path: Path) -> None:
    cohort, features = hm.read_cohort(job.sheet), hm.read_features(job.features)
    labels = {}
    for name, table in hm.read_labels(job.labels).items():
        types = [*HOSTILE[:4], *table.cell_types][: len(table.cell_types)]
        labels[name] = Abundance(table.values.set_axis(types, axis=1), table.unit)
    made = hm.evaluate(
        cohort, features, labels, heads=("mean",), nuclei=False, spatial=False, out=tmp_path / "evaluation"
    )
    found = read_evaluation(tmp_path / "evaluation")
    assert found.summary["cell_types"] == made.summary["cell_types"] and HOSTILE[0] in found.summary["cell_types"]
    assert set(found.metrics["cell_type"]) == set(made.metrics["cell_type"])


def test_maps_keep_names_for_programs(tmp_path: Path) -> None:
    composition = hm_map(HOSTILE)
    hm.write_composition(tmp_path, composition)
    table = pd.read_csv(tmp_path / "composition.csv")
    assert list(table.columns)[: 2 + len(HOSTILE)] == list(composition_table(composition).columns)[: 2 + len(HOSTILE)]
    assert list(ad.read_h5ad(tmp_path / "composition.h5ad").var_names) == HOSTILE


def hm_map(types: list[str]) -> ad.AnnData:
    """A small map of these types."""
    values = np.random.default_rng(0).dirichlet(np.ones(len(types)), 16)
    found = _map(values[:, : min(4, len(types))], side=4)
    made = ad.AnnData(values.astype(np.float32), obs=found.obs, var=pd.DataFrame(index=types), uns=dict(found.uns))
    made.obsm["spatial"] = found.obsm["spatial"]
    manifest = manifest_of(made)
    manifest["slide"] |= {"bounds_px": [0, 0], "fingerprint": "f"}
    made.uns["manifest"] = json.dumps(manifest)
    return made


def test_cohort_tables_run_no_formula_and_say_so(tmp_path: Path) -> None:
    extra_module("st", "pyarrow")
    for name in ("=slide()", "-1-slide", "plain"):
        folder = tmp_path / "maps" / name
        folder.mkdir(parents=True)
        hm_map(HOSTILE).write_h5ad(folder / "composition.h5ad")
        status = {"state": "done", "name": name, "facts": {"patient": f"@patient {name}"}}
        (folder / "status.json").write_text(json.dumps(status))
    with (tmp_path / "clinical.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ["slide", "=HYPERLINK(1)", "delta"],
                ["=slide()", "+1+cmd|x", -1.5],
                ["plain", "=2", -2],
                ["-1-slide", "x", 1],
            ]
        )
    tables = cohort_tables([tmp_path / "maps"], clinical=tmp_path / "clinical.csv")
    written = write_cohort(tables, tmp_path / "out")
    for name in ("cohort", "slides"):
        assert not _formulas(written[name])
        exact = pd.read_parquet(written[f"{name} (Parquet)"])
        assert "=slide()" in set(exact["slide"]), "Parquet has names as they are"
    slides = pd.read_csv(written["slides"])
    assert sorted(slides["delta"]) == [-2, -1.5, 1], "numbers are numbers"
    assert "'=HYPERLINK(1)" in slides.columns and "'@patient plain" in set(slides["patient"])
    assert "apostrophe" in json.loads((tmp_path / "out" / "manifest.json").read_text())["csv"]


def test_benchmark_tables_run_no_formula(tmp_path: Path) -> None:
    extra_module("st", "pyarrow")
    table = pd.DataFrame({"cohort": ["=a"], "encoder": ["@b"], "cell_type": [HOSTILE[0]], "value": [-0.5]})
    tests = [{"cohort": "=a", "a": "+x", "b": "-y", "difference": -0.1}]
    write_benchmark(Benchmark(table, table, {"a": 1}, "", tests, []), tmp_path)
    for name in ("results.csv", "ranking.csv", "tests.csv"):
        assert not _formulas(tmp_path / name)
    assert pd.read_csv(tmp_path / "ranking.csv")["value"].tolist() == [-0.5]
    assert pd.read_parquet(tmp_path / "results.parquet")["cohort"].tolist() == ["=a"]
    assert "apostrophe" in json.loads((tmp_path / "benchmark.json").read_text())["csv"]
