"""What is not used is not loaded, and what lies in a folder is not held."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import histomix as hm
from histomix.embedding.features import SectionFeatures, feature_blocks

from .conftest import Job

HEAVY = ("torch", "sklearn", "scipy", "anndata", "pandas", "openslide", "matplotlib")


def loaded(code: str) -> set[str]:
    """Which of the `HEAVY` libraries some code loads."""
    code += f"\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    return set(ran.stdout.split("\n")[-2].split())


def test_a_card_is_shown_without_the_libraries_of_a_fit(job: Job) -> None:
    show = f"from histomix.sharing import head_facts; print(head_facts({str(job.head)!r}).text())"
    assert loaded(show) == set()
    assert loaded("from histomix.heads import load_head") >= {"sklearn", "anndata"}, "what is not loaded can be"


def test_a_name_is_not_hidden_by_the_module_of_its_name() -> None:
    code = (
        "import types, histomix.heads.train as module, histomix, sys\n"
        "from histomix.heads import train\n"
        "assert isinstance(train, types.FunctionType) and isinstance(histomix.train, types.FunctionType)\n"
        "assert train is sys.modules['histomix.heads.train'].train\n"
        "try: histomix.heads.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise SystemExit(1)\n"
    )
    assert loaded(code)
    assert isinstance(hm.train, types.FunctionType)
    import histomix.heads

    assert set(histomix.heads.__all__) <= set(dir(histomix.heads))
    assert all(getattr(histomix.heads, name) is not None for name in histomix.heads.__all__)


def test_features_of_a_folder_are_read_when_asked_for(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "features"
    first = hm.embed(job.sheet, out=out, progress=False)
    again = hm.embed(job.sheet, out=out, progress=False)
    held = hm.read_features(out)
    for found in (first, again):
        assert isinstance(found, SectionFeatures) and list(found) == list(held)
        assert not [value for value in vars(found).values() if hasattr(value, "X")]
        for name, table in found.items():
            assert (table.X == held[name].X).all() and table.shape == found.shapes[name]
    assert "nothing" not in first
    reads: list[str] = []
    monkeypatch.setattr(SectionFeatures, "__getitem__", lambda self, name: reads.append(name) or held[name])
    for source in (first, {"builtin": first}, [first]):
        reads.clear()
        (block,) = feature_blocks(source)
        assert reads == list(held) and list(block) == reads
