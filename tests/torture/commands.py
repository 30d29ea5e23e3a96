"""The cheapest commands of the verbs, and the numbers that they give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from .materials import MPP, Materials


def predict(file: str, *more: str) -> list[str]:
    """Predict one slide."""
    return ["predict", file, "--out", "out", "--json", *more]


def predict_with(materials: Materials, file: str, *more: str) -> list[str]:
    """The same with the head of the materials, at their scale."""
    return predict(file, "--head", str(materials.head), "--mpp", str(MPP), *more)


def map_of(name: str) -> pd.DataFrame:
    """Composition and novelty of each tile of a map that could be read."""
    table = pd.read_csv(Path("out") / name / "composition.csv")
    table.index = table["x_px"].astype(str) + "," + table["y_px"].astype(str)
    values = table.select_dtypes("number").astype(float)
    values.loc[~table["read_ok"].astype(bool)] = np.nan
    return values


def label(*more: str, reference: str = "reference.csv") -> list[str]:
    """Label the sections of a sheet by the fast method."""
    return ["label", "sheet.csv", "--reference", reference, "--out", "out", "--min-genes", "2", "--json", *more]


def labels_of(sheet: str = "sheet.csv") -> pd.DataFrame:
    """Labels of all spots of a sheet's sections, with their places."""
    import histomix as hm

    tables = []
    cohort = hm.read_cohort(sheet)
    for section in (cohort.section(name, counts=False) for name in cohort.names):
        found = pd.read_csv(Path("out") / f"{section.name}.csv", index_col=0, dtype={0: str})
        found[["x_px", "y_px"]] = pd.DataFrame(section.spots_px, index=list(section.keys)).reindex(found.index)
        tables.append(found.set_axis(section.name + ":" + found.index.astype(str)))
    return pd.concat(tables)


def arrays_of(path: Path) -> pd.DataFrame:
    """Every number of a safetensors file."""
    from safetensors.numpy import load_file

    arrays = load_file(path)
    return pd.concat(
        [
            pd.DataFrame({"value": values.ravel().astype(float)}, index=[f"{name}.{n}" for n in range(values.size)])
            for name, values in sorted(arrays.items())
        ]
    )


def table_of(path: str, *keys: str) -> pd.DataFrame:
    """A table of numbers with text keys."""
    table = pd.read_csv(path)
    index = table[list(keys)].astype(str).agg(":".join, axis=1)
    return table.select_dtypes("number").astype(float).set_axis(index)


def nothing_to_compare(_room: Path) -> pd.DataFrame:
    """Of a command whose result has no numbers."""
    return pd.DataFrame({"done": [1.0]}, index=["command"])


def json_of(path: Path, *keys: str) -> pd.DataFrame:
    """Numbers in a JSON answer."""
    answer = json.loads(path.read_text(encoding="utf-8"))
    return pd.DataFrame({"value": [float(answer[key]) for key in keys]}, index=list(keys))
