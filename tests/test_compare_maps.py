"""The script that says whether two runs gave the same maps."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from histomix.common.storage.h5ad import write_h5ad

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_maps.py"


def write(folder: Path, change: float = 0.0, unread: int = 0, names: str = "t") -> Path:
    found = ad.AnnData(np.arange(12, dtype=np.float32).reshape(6, 2) / 12)
    found.obs_names = [f"{names}{row}" for row in range(6)]
    found.obs["read_ok"] = np.arange(6) != unread
    found.X[unread] = np.nan
    found.layers["upper"] = found.X + change
    found.obsm["spatial"] = np.ones((6, 2))
    (folder / "slide").mkdir(parents=True)
    write_h5ad(folder / "slide" / "composition.h5ad", found)
    return folder


def compare(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compare_maps.py", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(left.value.code or 0)


def test_what_differs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one")
    assert compare(one, write(tmp_path / "same", change=1e-4)) == 0
    assert "layer upper: 0.0001" in capsys.readouterr().out
    assert compare(one, tmp_path / "same", "--tolerance", 1e-5) == 1
    assert "DIFFERENT: layer upper differs by 0.0001" in capsys.readouterr().out
    assert compare(one, write(tmp_path / "unread", unread=3)) == 1
    assert "DIFFERENT: X differs by inf" in capsys.readouterr().out
    assert compare(one, write(tmp_path / "names", names="u")) == 1
    assert "DIFFERENT: the tiles differ" in capsys.readouterr().out
    write(tmp_path / "unread" / "more")
    assert compare(tmp_path / "unread", one) == 1
    assert compare(one, tmp_path / "nothing") == 2
