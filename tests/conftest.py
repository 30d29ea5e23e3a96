from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, or a skip where there is none."""
    folder = os.environ.get("HISTOMIX_DATA")
    if not folder:
        pytest.skip("needs the real data: set HISTOMIX_DATA to its folder")
    if not Path(folder).is_dir():
        pytest.skip(f"needs the real data: HISTOMIX_DATA names {folder}, which is no folder")
    return Path(folder)
