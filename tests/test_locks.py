"""Locks: one at a time, several readers, and nothing left by those who were killed."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from histomix.common.storage import locks
from histomix.common.storage.locks import FolderBusyError, Lock, SharedLock, folder_lock
from histomix.errors import FeatureError, StorageError


def _process(code: str, folder: Path) -> subprocess.Popen[str]:
    """A process that runs ``code`` (with ``folder``), says a line, and waits for one."""
    head = "import sys\nfrom pathlib import Path\nfrom histomix.common.storage.locks import *\n"
    text = f"{head}folder = Path(sys.argv[1])\n{code}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    running = subprocess.Popen([sys.executable, "-c", text, str(folder)], text=True, **pipes)
    assert running.stdout is not None and running.stdout.readline() == "held\n"
    return running


@pytest.fixture(params=["kernel", "none", "no service"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks, and two without."""

    def refuse(_file: int, **_: object) -> bool:
        raise OSError(errno.ENOSYS if request.param == "none" else errno.ENOLCK, "no locks here")

    if request.param != "kernel":
        monkeypatch.setattr(locks, "lock_descriptor", refuse)
    return str(request.param)


def test_one_at_a_time_and_the_file_goes(system: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.lock"
    with Lock(path):
        assert not Lock(path).acquire(wait=False)
        with Lock(path.with_name("b.lock")):
            pass
    again = Lock(path)
    assert again.acquire(wait=False)
    again.release()
    assert not list(path.parent.iterdir())


def test_threads_never_meet_while_the_file_comes_and_goes(system: str, tmp_path: Path) -> None:
    inside, met = [], []

    def work() -> None:
        for _ in range(30):
            with Lock(tmp_path / "a.lock"):
                inside.append(1)
                met.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [1] * 120 and not list(tmp_path.iterdir())


def test_a_file_that_was_removed_before_it_was_locked_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (Lock(tmp_path / "a.lock") for _ in range(3))
    first.acquire()

    def late(file: int, **options: bool) -> bool:
        monkeypatch.undo()
        first.release()
        assert second.acquire(wait=False)
        return locks.lock_descriptor(file, **options)

    monkeypatch.setattr(locks, "lock_descriptor", late)
    assert not third.acquire(wait=False)


def test_a_killed_process_leaves_a_free_lock(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "with folder_lock(folder, 'maps'), SharedLock(folder / 'x') as x:\n"
    code += "    x.shared(); print('held', flush=True); input()"
    other = _process(code, out)
    with pytest.raises(FolderBusyError) as raised, folder_lock(out):
        pass
    assert f"process {other.pid} on {socket.gethostname()} is writing features" in str(raised.value)
    with SharedLock(out / "x") as x:
        assert not x.alone()
    (out / ".partial-x").mkdir()
    (out / "pictures" / ".partial-x").mkdir(parents=True)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (out / ".lock").exists()
    with folder_lock(out), SharedLock(out / "x") as x:
        assert x.alone() and not list(out.rglob(".partial-*"))
    assert [path.name for path in out.iterdir()] == ["pictures"]


def test_a_file_of_any_content_locks_nobody_out(tmp_path: Path) -> None:
    for content in ("", '{"host": "elsewhere", "pid": 1, "started": "1"}', "{"):
        (tmp_path / ".lock").write_text(content, encoding="utf-8")
        with folder_lock(tmp_path):
            pass
        assert not (tmp_path / ".lock").exists()


def test_a_holder_that_could_not_write_its_name_is_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    busy = f"another process is .*remove {re.escape(str(tmp_path / '.lock'))}"
    with folder_lock(tmp_path), pytest.raises(FeatureError, match=busy), folder_lock(tmp_path):
        pass


def test_a_folder_is_waited_for(system: str, tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with folder_lock(tmp_path, wait=True):
            order.append("second")

    with folder_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_without_locks_the_holder_is_still_named_and_work_that_may_be_done_twice_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_file: int, **_: object) -> bool:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(locks, "lock_descriptor", refuse)
    busy = f"process {os.getpid()} on"
    with folder_lock(tmp_path), pytest.raises(FolderBusyError, match=busy), folder_lock(tmp_path):
        pass
    with Lock(tmp_path / "a", soft=False), Lock(tmp_path / "a", soft=False):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="a system without links that can be told")
def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine", encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(precious)
    with pytest.raises(StorageError, match=r"\.lock: cannot be locked"), folder_lock(tmp_path / "out"):
        pass
    assert precious.read_text(encoding="utf-8") == "mine"


def test_readers_share_and_a_writer_is_alone(system: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.lock"
    with SharedLock(path) as one, SharedLock(path) as two, SharedLock(path) as three:
        one.shared()
        two.shared()
        assert not three.alone() and not one.alone() and two.alone()
        assert not one.alone()
    assert not list(tmp_path.iterdir())


def test_a_writer_waits_for_readers_and_readers_for_a_writer(system: str, tmp_path: Path) -> None:
    path, order = tmp_path / "slide.lock", []

    def write() -> None:
        with SharedLock(path) as lock:
            lock.shared()
            lock.exclusive()  # two that share it may both want it alone
            order.append("in")
            time.sleep(0.02)
            order.append("out")
            lock.shared()

    with SharedLock(path) as reader:
        reader.shared()
        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.15)
        assert not order
    for thread in threads:
        thread.join()
    assert order == ["in", "out", "in", "out"] and not list(tmp_path.iterdir())


def test_of_readers_that_leave_together_the_last_one_knows_it(tmp_path: Path) -> None:
    last: list[int] = []
    start = threading.Barrier(3)

    def read(number: int) -> None:
        with SharedLock(tmp_path / f"{number}.lock") as lock:
            lock.shared()
            start.wait()
            if lock.alone():
                last.append(number)

    for number in range(25):
        threads = [threading.Thread(target=read, args=(number,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert last == list(range(25)) and not list(tmp_path.iterdir())
