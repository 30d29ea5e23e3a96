"""Memory that can be used: the computer's, or what a container or job leaves of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from histomix.common.memory import available_memory

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
