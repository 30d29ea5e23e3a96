"""What tables say of themselves: plain nested data in h5ad and Zarr, and back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histomix.common.storage.facts import facts_in, read_facts, stored_facts
from histomix.common.storage.h5ad import write_h5ad

FACTS: dict[str, Any] = {
    "slide": {"file": "Präparat 7.svs", "mpp": 0.499, "bounds_px": [0, 12], "sizes": [1.5, 2.0]},
    "regions": None,
    "names": ["a", "é", ""],
    "none": [],
    "nothing": {},
    "yes": True,
    "count": 3,
    "whole": 2.0,
    "mixed": [1, 2.5],
    "encoders": [{"name": "uni", "dim": 1024}],
    "mm2": {"T/B cells": 0.25},
    "ended": "a\0b",
    "large": 2**70,
    "odd": {"x.json": 1, "": 2},
}


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _types(part) for name, part in value.items()}
    return [_types(part) for part in value] if isinstance(value, list) else type(value)


def test_facts_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    table = ad.AnnData(np.ones((2, 1), np.float32), uns={"manifest": stored_facts(FACTS)})
    write_h5ad(tmp_path / "t.h5ad", table)
    stored = ad.read_h5ad(tmp_path / "t.h5ad").uns["manifest"]
    with h5py.File(tmp_path / "t.h5ad") as file:
        direct = facts_in(file["uns/manifest"])
    for found in (read_facts(table.uns["manifest"]), read_facts(stored), direct):
        assert found == FACTS and _types(found) == _types(FACTS)
    assert stored["slide"]["file"] == "Präparat 7.svs" and stored["slide"]["mpp"] == 0.499, "plain, for anybody"
    as_json = {name for name in stored if name.endswith(".json")}
    assert as_json == {
        f"{name}.json" for name in ("regions", "none", "mixed", "encoders", "mm2", "ended", "large", "odd")
    }
    assert read_facts(json.dumps(FACTS)) == FACTS, "the text of a JSON is read too"


_TEXT = st.text("aé/.\0 ", max_size=5)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(_TEXT, part, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), _VALUES))
def test_any_json_comes_back(facts: dict[str, Any]) -> None:
    found = read_facts(stored_facts(facts))
    assert found == facts and _types(found) == _types(facts)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({"a": 1, "a.json": "2"}, "twice"),
        ({"a.json": "{"}, "Expecting"),
        ({"a.json": 3}, "no JSON"),
        ({"a": object()}, "no fact"),
        ({"a": [{"b": 1}]}, "no fact"),
        ({"a": np.array([1 + 2j])}, "no fact"),
        (3.5j, "no fact"),
        ("{", "Expecting"),
    ],
)
def test_what_no_fact_is_is_refused(stored: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_facts(stored)
    with pytest.raises(ValueError, match="not JSON compliant"):
        stored_facts({"a": float("inf")})


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="deeply"):
        read_facts(deep)
