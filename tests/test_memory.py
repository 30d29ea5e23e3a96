"""Memory that can be used: the computer's, or what a container or job leaves of it."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image
from typer import Exit

from histomix.cli.session import session
from histomix.common.memory import available_memory, out_of_memory
from histomix.errors import HistomixError
from histomix.slides.readers.flat import _BYTES_A_PIXEL, open_flat
from histomix.slides.resample import on_white

GB = 10**9
UNLIMITED = 9223372036854771712


@pytest.fixture(autouse=True)
def computer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GB))


def _root(folder: Path, groups: str, **files: object) -> Path:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups, encoding="utf-8")
    for name, content in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="utf-8")
    return folder


def _second(place: str, limit: object, used: int, inactive: int = 0) -> dict[str, object]:
    stat = f"anon 5\ninactive_file {inactive}\nactive_file 9"
    return {f"{place}memory.max": limit, f"{place}memory.current": used, f"{place}memory.stat": stat}


def _first(place: str, limit: int, used: int, inactive: int = 0) -> dict[str, object]:
    start = f"memory/{place}memory"
    stat = f"cache 5\ninactive_file 1\ntotal_inactive_file {inactive}"
    return {f"{start}.limit_in_bytes": limit, f"{start}.usage_in_bytes": used, f"{start}.stat": stat}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        # A computer without groups, and groups without limits.
        ("", {}, 8 * GB),
        ("0::/user.slice\n", _second("user.slice/", "max", GB), 8 * GB),
        ("4:memory:/a\n0::/\n", _first("a/", UNLIMITED, GB), 8 * GB),
        # A container of the second version sees itself as the root.
        ("0::/\n", _second("", 4 * GB, 3 * GB), GB),
        # Files that the kernel may drop are room.
        ("0::/\n", _second("", 4 * GB, 3 * GB, 2 * GB), 3 * GB),
        # A Slurm job: its step has no limit, the job has.
        (
            "0::/slurm/job_7/step_0\n",
            _second("slurm/job_7/", 2 * GB, 0) | _second("slurm/job_7/step_0/", "max", 0),
            2 * GB,
        ),
        # The least of several.
        ("0::/a/b\n", _second("a/", 2 * GB, GB) | _second("a/b/", 3 * GB, GB), GB),
        # The first version, of a job; and of a container that does not see the path of its own group.
        ("9:cpu:/x\n4:cpuset,memory:/a/b\n", _first("a/", 3 * GB, GB, GB // 2), 5 * GB // 2),
        ("4:memory:/docker/0a1b\n", _first("", 2 * GB, GB), GB),
        # More used than allowed.
        ("0::/\n", _second("", GB, 2 * GB), 0),
        # A group outside of what the container sees.
        ("0::/../other\n", _second("", 4 * GB, 3 * GB), GB),
        ("0::/\n", _second("", "nonsense", 0), 8 * GB),
    ],
)
def test_the_limit_of_a_container_or_job_counts(
    groups: str, files: dict[str, object], expected: int, tmp_path: Path
) -> None:
    assert available_memory(_root(tmp_path, groups, **files)) == expected


def test_a_system_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory(tmp_path) == 8 * GB

    def hidden() -> None:
        raise PermissionError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", hidden)
    assert available_memory(tmp_path) is None


def test_this_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 0 < (available_memory() or 0) <= psutil.virtual_memory().total


LIMITED = """
import resource, sys
from pathlib import Path
from histomix.common.memory import available_memory
from histomix.slides.readers.flat import open_flat
before = available_memory()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
assert 0 < available_memory() <= 200 << 20 < before
open_flat(Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_own_limit_of_a_process_counts_for_a_flat_image(tmp_path: Path) -> None:
    Image.new("RGBA", (6000, 6000), (200, 10, 10, 90)).save(tmp_path / "a.png")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "a.png")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "takes 0.3 GiB of memory to decode" in found.stderr and "0.2 GiB are free" in found.stderr


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_flat_image_is_decoded_in_bands_as_it_is_whole(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (300, 40, 4), np.uint8)
    image = Image.fromarray(values).convert(mode)
    image.save(tmp_path / "a.png", **({"transparency": 3} if mode in ("P", "L") else {}))
    with Image.open(tmp_path / "a.png") as stored:
        wanted = on_white(np.asarray(stored.convert("RGBA" if stored.has_transparency_data else "RGB")))
    np.testing.assert_array_equal(open_flat(tmp_path / "a.png").decode(), wanted)


def test_the_memory_that_decoding_takes_is_what_is_told(tmp_path: Path) -> None:
    size = 2000
    Image.new("RGBA", (size, size), (200, 10, 10, 90)).save(tmp_path / "a.png")
    tracemalloc.start()
    open_flat(tmp_path / "a.png").decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + 4 * size * size < (_BYTES_A_PIXEL + 2) * size * size  # Pillow's own pixels are not traced


def test_what_would_have_been_enough_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty((1 << 20, 1 << 20, 1 << 10), np.uint8)
    error = out_of_memory(caught.value, "slide.png")
    assert isinstance(error, HistomixError) and isinstance(error, MemoryError)
    assert "1048576.0 GiB were asked for" in str(error)
    assert re.search(r"Give it 10485[789]\d\.\d GiB", str(error))  # with what this process holds already
    assert out_of_memory(error) is error
    with pytest.raises(Exit) as ended, session(False, False):
        raise caught.value
    assert ended.value.exit_code == 1 and "1048576.0 GiB were asked for" in capsys.readouterr().err
