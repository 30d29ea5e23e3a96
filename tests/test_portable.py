"""What people who are not on Linux meet, as far as Linux can show it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from histomix.common.naming import file_key, file_name_fault
from histomix.slides import is_remote

pytestmark = pytest.mark.once

_TEXT = (".csv", ".json", ".geojson", ".html", ".js", ".svg", ".txt")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems are played on Linux")
def test_the_road_without_posix(tmp_path: Path) -> None:
    script = Path(__file__).parent / "foreign_system.py"
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "ignore", str(script), str(tmp_path)]
    # Threads that wait for each other take most of the time on a busy machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    refused = json.loads((tmp_path / "refused.json").read_text(encoding="utf-8"))
    assert not refused, "\n".join(f"{what}\n{where}" for what, where in refused)
    made = list(tmp_path.rglob("*"))
    assert {"maps", "viewer", "report"} <= {path.name for path in made} and len(made) > 100
    assert not [path for path in made if path.name.startswith(".")]
    assert not [path for path in made if file_name_fault(path.name)]
    twins = Counter((path.parent, file_key(path.name)) for path in made)
    assert max(twins.values()) == 1
    for path in made:
        if path.suffix in _TEXT:
            assert b"\r" not in path.read_bytes(), f"{path} has other ends of lines than elsewhere"


@pytest.mark.parametrize("path", [r"C:\slides\a.svs", "C:/slides/a.svs", r"\\server\share\a.svs", "d:a.svs"])
def test_a_path_of_windows_is_no_address(path: str) -> None:
    assert not is_remote(path)


def test_names_that_a_code_page_lacks_are_printed_all_the_same(tmp_path: Path) -> None:
    table = tmp_path / "切片.csv"
    table.write_text("spot,x_px,y_px\na,1,2\n", encoding="utf-8")
    command = [sys.executable, "-c", "from histomix.cli import main; main()", "inspect", str(table)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    run = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert run.returncode == 0 and rb"\u5207\u7247.csv: a table of spots" in run.stdout
