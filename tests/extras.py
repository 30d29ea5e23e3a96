"""What a test does where a library of an extra is not installed: it is skipped, and the extra is named."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

import pytest


def _reason(extra: str, libraries: list[str]) -> str:
    return f"needs the extra {extra} ({', '.join(libraries)} is not installed)"


def needs_extra(extra: str, *libraries: str) -> pytest.MarkDecorator:
    """Mark a test, or the tests of a file (``pytestmark``), that need top-level ``libraries`` of an extra."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=_reason(extra, missing))


def extra_module(extra: str, name: str) -> Any:
    """Import a module of an extra, or skip the test; a library that is there and broken is a failure."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        pytest.skip(_reason(extra, [name.partition(".")[0]]), allow_module_level=True)


def heads_here(names: Iterable[str]) -> list[Any]:
    """Names of heads as parameters of a test; those of an extra are skipped where it is not installed."""
    graphs = needs_extra("baselines", "torch_geometric")
    return [pytest.param(name, marks=graphs) if name.startswith("hist2cell") else name for name in names]
