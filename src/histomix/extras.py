"""The optional extras: what each is for, where one cannot be had, and what of the core and of them is installed."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

#: What each extra brings, in the order in which they are told.
EXTRAS = {
    "cell2location": "labels by cell2location",
    "st": "SpatialData, Parquet, public cohorts",
    "zoo": "encoders of lazyslide-models; LazySlide",
    "onnx": "8-bit encoders",
    "openvino": "faster encoders on CPUs",
    "baselines": "the head hist2cell",
    "cluster": "many slides on Dask",
    "remote": "slides at s3:// and https://",
}
#: Why an extra cannot be had on a Python, as a clause: ``("cell2location", "3.15"): "numba has no wheel for it"``.
#: `scripts/extras_table.py` resolves every extra on every Python and fails where the answer is not what stands here.
UNAVAILABLE: dict[tuple[str, str], str] = {}


def python_version() -> str:
    """The running Python as ``"3.13"``."""
    return ".".join(platform.python_version_tuple()[:2])


def unavailable(extra: str) -> str | None:
    """Why an extra cannot be had on this Python; None where it can."""
    return UNAVAILABLE.get((extra, python_version()))


def mending(extra: str) -> str:
    """How to get an extra on this Python, as a sentence without a final stop; or why it cannot be had."""
    reason = unavailable(extra)
    if reason is None:
        return f'Install it with: pip install "histomix[{extra}]"'
    where = "Use a Python that has it (docs/install.md lists them)"
    return f"The extra {extra} cannot be had on Python {python_version()}: {reason}. {where}"


def requirements(extra: str | None = None) -> list[Requirement]:
    """What the installed histomix declares that it needs on this Python.

    Parameters
    ----------
    extra
        One of `EXTRAS`, for what it adds; None for the core.

    Returns
    -------
    list of packaging.requirements.Requirement
        Empty where histomix runs from its sources and was never installed.
    """
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires("histomix") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    declared = [Requirement(text) for text in texts]
    core = [one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})]
    if extra is None:
        return core
    return [one for one in declared if one not in core and one.marker and one.marker.evaluate({"extra": extra})]


def shortfalls(needed: list[Requirement]) -> dict[str, str]:
    """Which of some requirements are not met here, found without importing them.

    Returns
    -------
    dict of str to str
        By library: ``"missing"``, or the version that is here and the ones that would do.
    """
    faults = {}
    for one in needed:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            faults[one.name] = "missing"
            continue
        if not one.specifier.contains(version, prereleases=True):
            faults[one.name] = f"{version} is here, needs {one.specifier}"
    return faults
