"""A disk that is full ends a command with one sentence and exit code 1, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.common.storage.h5ad import write_h5ad
from histomix.maps.streaming import write_composition

from .conftest import Job

pytestmark = [pytest.mark.once, pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")]

_EXPORT = """
import resource, sys
from histomix.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = ["histomix", *sys.argv[2:]]
main()
"""


def made_table() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"kind": ["a", "b"] * 500}, index=[f"k{number}" for number in range(1000)])
    made = ad.AnnData(rng.normal(size=(1000, 8)).astype(np.float32), obs=obs, uns={"manifest": "text"})
    made.layers["upper"], made.obsm["spatial"] = made.X + 1, rng.normal(size=(1000, 2))
    return made


def test_what_is_written_is_what_anndata_writes(tmp_path: Path) -> None:
    table = made_table()
    write_h5ad(tmp_path / "ours.h5ad", table, compression="gzip")
    table.write_h5ad(tmp_path / "theirs.h5ad")
    ours, theirs = ad.read_h5ad(tmp_path / "ours.h5ad"), ad.read_h5ad(tmp_path / "theirs.h5ad")
    np.testing.assert_array_equal(ours.X, theirs.X)
    pd.testing.assert_frame_equal(ours.obs, theirs.obs)
    np.testing.assert_array_equal(ours.layers["upper"], theirs.layers["upper"])
    assert ours.uns["manifest"] == "text"


@pytest.mark.parametrize("limit", [100, 9_000, 40_000])
def test_a_table_that_does_not_fit_is_an_error_of_the_system(limit: int, tmp_path: Path) -> None:
    script = f"""
import resource
from pathlib import Path
from histomix.common.storage.h5ad import GrowingH5ad, write_h5ad
from tests.test_full_disk import made_table
made = made_table()
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))

def grow():
    with GrowingH5ad(Path({str(tmp_path)!r}) / "grown.h5ad") as growing:
        for _ in range(3):
            growing.append(made)
        growing.finish()

for work in (lambda: write_h5ad(Path({str(tmp_path)!r}) / "whole.h5ad", made), grow):
    try:
        work()
    except OSError as error:
        print(error.strerror)
"""
    root = Path(__file__).parent.parent
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    assert found.returncode == 0 and found.stdout == "File too large\n" * 2, found.stderr
    assert "Traceback" not in found.stderr


def test_an_export_to_a_full_disk_ends_with_its_reason(job: Job, tmp_path: Path) -> None:
    write_composition(tmp_path / "maps" / "slide", hm.predict(job.image, job.head, progress=False))
    command = [sys.executable, "-c", _EXPORT, "9000", "export", "maps", "--to", "anndata", "--out", "x"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 1, found.stderr
    assert found.stderr.count("\n") == 1 and "slide.h5ad: the disk is full" in found.stderr
    assert not any((tmp_path / "x").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_words_that_find_no_space_are_an_error_in_words() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "histomix", "encoders", "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: the output cannot be written: no space is left" in done.stderr
