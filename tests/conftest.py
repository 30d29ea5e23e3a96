from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker a core: libraries that start a thread for each would fight; a user's own setting stays.

    It is set where the workers are started, before any of them, or a process of theirs, imports such a library.
    """
    if config.getoption("numprocesses", None):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own: they neither read nor fill the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HISTOMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


#: Files whose tests are of the encoders: there every tile is embedded.
_OF_ENCODERS = ("test_encoders_", "test_runtimes")


@dataclass
class _Embedded:
    """What the built-in encoder gave for the tiles of this session, by their bytes."""

    given: dict[bytes, Any]
    used: bool = True


_EMBEDDED = _Embedded({})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Embed each tile anew only where that is what is tested."""
    _EMBEDDED.used = not item.path.name.startswith(_OF_ENCODERS)


@pytest.fixture(scope="session", autouse=True)
def embedded_once() -> Iterator[None]:
    """The same tiles are embedded once: dozens of tests embed the phantom, none of them for the network's sake."""
    import numpy as np

    from histomix.encoders.onnx.builtin import BuiltinEncoder

    embed = BuiltinEncoder._embed_once

    def remembered(self: BuiltinEncoder, tiles: np.ndarray) -> np.ndarray:
        if not _EMBEDDED.used:
            return embed(self, tiles)
        key = (
            hashlib.blake2b(np.ascontiguousarray(tiles)).digest()
            + f"{tiles.shape} {getattr(self, 'precision', None)}".encode()
        )
        if key not in _EMBEDDED.given:
            _EMBEDDED.given[key] = embed(self, tiles)
        return np.array(_EMBEDDED.given[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BuiltinEncoder, "_embed_once", remembered)
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


def manifest_of(table: ad.AnnData) -> dict[str, Any]:
    """What a table says of itself."""
    from histomix.common.storage.facts import read_facts

    facts = read_facts(table.uns["manifest"])
    assert isinstance(facts, dict)
    return facts


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
    return _job(tmp_path_factory.mktemp("job"), 800)


@pytest.fixture(scope="session")
def small_job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The same with some 25 spots a donor, for what takes long for each; enough for every kind of score."""
    return _job(tmp_path_factory.mktemp("small"), 560)


def _job(folder: Path, side_um: float) -> Job:
    import histomix as hm

    sheet = hm.make_phantom(folder / "phantom", seed=3, donors=2, sections_per_donor=1, size_um=(side_um, side_um))
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


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with maps of three cell types of each section, as they are of a large cohort."""
    monkeypatch.setattr("histomix.report.sections._MOST_PAIRS", 1)
