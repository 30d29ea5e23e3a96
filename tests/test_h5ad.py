"""AnnData files: written in stretches, equal to what anndata writes at once, and open to every anndata from 0.11."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histomix.common.storage.h5ad import GrowingH5ad, write_h5ad

#: What the readers of anndata 0.11 know.
KNOWN = {"anndata", "dataframe", "dict", "array", "string-array", "string", "categorical", "csr_matrix", "csc_matrix"}


def table(n: int, types: int = 3, seed: int = 0) -> ad.AnnData:
    random = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "x_px": random.uniform(0, 999, n),
            "read_ok": random.random(n) > 0.1,
            "fragment": random.integers(1, 4, n).astype(np.int32),
            "region": pd.Categorical.from_codes(random.integers(-1, 2, n), ["a", "é b"]),
        },
        index=pd.Index([f"{k}x0" for k in range(n)], name="key"),
    )
    var = pd.DataFrame(index=[f"type {k} é" for k in range(types)])
    found = ad.AnnData(random.random((n, types)).astype(np.float32), obs=obs, var=var)
    found.X[::7] = np.nan
    found.layers["lower"] = found.X / 2
    found.obsm["spatial"] = random.random((n, 2))
    found.uns["manifest"] = "{}"
    return found


def rows_of(whole: ad.AnnData, rows: slice) -> ad.AnnData:
    """Some rows, with all categories (a copied view of anndata drops those that it does not meet)."""
    some = ad.AnnData(whole.X[rows], obs=whole.obs.iloc[rows].copy(), var=whole.var.copy(), uns=dict(whole.uns))
    some.layers["lower"], some.obsm["spatial"] = whole.layers["lower"][rows], whole.obsm["spatial"][rows]
    return some


def write(path: Path, stretches: Iterator[ad.AnnData] | list[ad.AnnData]) -> Path:
    with GrowingH5ad(path) as growing:
        for stretch in stretches:
            growing.append(stretch)
        growing.finish()
    return path


def encodings(path: Path) -> dict[str, str]:
    found = {}
    with h5py.File(path) as store:
        found["/"] = store.attrs["encoding-type"]
        store.visititems(lambda name, node: found.update({name: node.attrs["encoding-type"]}))
    return found


@given(n=st.integers(1, 3000), step=st.integers(1, 1500))
@settings(max_examples=12, deadline=None)
def test_stretches_give_what_the_whole_gives(n: int, step: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("h5ad")
    whole = table(n)
    step = max(step, n // 8)
    path = write(folder / "map.h5ad", [rows_of(whole, slice(start, start + step)) for start in range(0, n, step)])
    back = ad.read_h5ad(path)
    pd.testing.assert_frame_equal(back.obs, whole.obs)
    pd.testing.assert_frame_equal(back.var, whole.var)
    for found, expected in ((back.X, whole.X), (back.layers["lower"], whole.layers["lower"])):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    np.testing.assert_array_equal(back.obsm["spatial"], whole.obsm["spatial"])
    assert dict(back.uns) == {"manifest": "{}"} and back.raw is None
    assert [file.name for file in folder.iterdir()] == ["map.h5ad"]


def test_the_same_stretches_give_the_same_bytes(tmp_path: Path) -> None:
    stretches = [table(1500, types=40, seed=seed) for seed in range(4)]
    for stretch, seed in zip(stretches, range(4), strict=True):
        stretch.obs_names = pd.Index([f"{seed}-{name}" for name in stretch.obs_names], name="key")
    first, second = (write(tmp_path / f"{name}.h5ad", stretches).read_bytes() for name in ("one", "two"))
    assert first == second


def test_every_anndata_from_0_11_knows_what_is_in_the_file(tmp_path: Path) -> None:
    whole = table(20)
    write_h5ad(tmp_path / "one.h5ad", whole, compression="gzip")
    write(tmp_path / "two.h5ad", [whole])
    once, grown = encodings(tmp_path / "one.h5ad"), encodings(tmp_path / "two.h5ad")
    assert once == grown
    assert set(grown.values()) <= KNOWN
    for place in ("obs/key", "var/_index", "obs/region/categories"):
        assert grown[place] == "string-array"


def test_threads_that_write_leave_the_setting_as_it_was(tmp_path: Path) -> None:
    before = ad.settings.allow_write_nullable_strings

    def one(number: int) -> str:
        write_h5ad(tmp_path / f"{number}.h5ad", table(50))
        return encodings(tmp_path / f"{number}.h5ad")["obs/key"]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(12))) == {"string-array"}
    assert ad.settings.allow_write_nullable_strings is before


def test_memory_follows_the_stretch(tmp_path: Path) -> None:
    rows, types, count = 1024, 256, 48
    stretch = ad.AnnData(np.ones((rows, types), np.float32))
    size = stretch.X.nbytes

    def stretches() -> Iterator[ad.AnnData]:
        for number in range(count):
            some = stretch.copy()
            some.obs_names = [f"{number}-{row}" for row in range(rows)]
            yield some

    tracemalloc.start()
    try:
        write(tmp_path / "map.h5ad", stretches())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The names of all rows are held, about 100 bytes each; of the arrays, a stretch or two.
    assert peak < 4 * size + 300 * rows * count < size * count / 2
