from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core: libraries that start a thread for each would fight. Before any of them is imported, and
    # for the processes that tests start as well; a user's own setting stays.
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own: they neither read nor fill the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HISTOMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, or a skip where there is none."""
    folder = os.environ.get("HISTOMIX_DATA")
    if not folder:
        pytest.skip("needs the real data: set HISTOMIX_DATA to its folder")
    if not Path(folder).is_dir():
        pytest.skip(f"needs the real data: HISTOMIX_DATA names {folder}, which is no folder")
    return Path(folder)


@dataclass(frozen=True)
class Job:
    """A small phantom with everything made from it, for tests that only read it."""

    sheet: Path
    reference: Path
    labels: Path
    features: Path
    head: Path
    image: Path
    spots: Path


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Two small donors, labelled and embedded, and a ridge head trained on both."""
    import histomix as hm

    folder = tmp_path_factory.mktemp("job")
    sheet = hm.make_phantom(folder / "phantom", seed=3, donors=2, sections_per_donor=1, size_um=(800, 800))
    root = sheet.parent
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=root / "reference.csv", out=folder / "labels")
    features = hm.embed(cohort, out=folder / "features")
    hm.train(cohort, features, labels, head="ridge", out=folder / "head")
    first = cohort.rows[0]
    return Job(
        sheet,
        root / "reference.csv",
        folder / "labels",
        folder / "features",
        folder / "head",
        Path(str(first.image)),
        first.spots,
    )
