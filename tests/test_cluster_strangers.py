"""Clusters and other users of the machine: no port of a run takes anybody's orders but its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from histomix.errors import ClusterError, MissingExtraError
from histomix.prediction import predict_slides
from histomix.prediction.cluster.cluster import running_cluster
from histomix.prediction.cluster.local import local_cluster

from .conftest import Job
from .extras import extra_module, needs_extra

if TYPE_CHECKING:
    from distributed import Client, Security

distributed = extra_module("cluster", "distributed")
pytestmark = needs_extra("cluster", "cryptography")
DOCS = Path(__file__).parent.parent / "docs" / "clusters.md"


def _ports(process: int) -> set[int]:
    """Every port on which a process or one of its children listens."""
    found, first = set(), psutil.Process(process)
    for one in (first, *first.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            found |= {at.laddr.port for at in one.net_connections("all") if at.status == psutil.CONN_LISTEN}
    return found


class _Planted:
    """A pickle that writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


async def _orders(address: str, security: Security | None, folder: Path) -> None:
    """Have a scheduler (``run_function``), a nanny or a worker (``run``) make a folder."""
    import cloudpickle
    from distributed.core import rpc

    keys = security.get_connection_args("client") if security is not None else {}
    for order in ("run", "run_function"):
        with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, AttributeError, TypeError):
            async with rpc(address, connection_args=keys, timeout=3) as remote:
                call = {"args": (str(folder / f"{order}{address[-5:]}"),), "kwargs": {}}
                packed = {name: cloudpickle.dumps(value) for name, value in {"function": os.mkdir, **call}.items()}
                await asyncio.wait_for(getattr(remote, order)(**packed, wait=True), 3)


async def _client(address: str, folder: Path, security: Security | None) -> None:
    how = {} if security is None else {"security": security}
    # A port that speaks HTTP answers nothing, and some versions of Dask then wait beyond their own timeout.
    with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, ValueError, TypeError, RuntimeError):
        client = distributed.Client(address, timeout=1, asynchronous=True, set_as_default=False, **how)
        try:
            await asyncio.wait_for(client, 5)
            await asyncio.wait_for(client.submit(os.mkdir, str(folder / f"client{address[-5:]}"), pure=False), 5)
        finally:
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(client.close(timeout=1), 5)


def _messages(port: int, folder: Path) -> bytes:
    """Say to a port, without Dask, what might make it read a pickle; what it answers."""
    harm = pickle.dumps(_Planted(folder / f"pickled{port}"))
    # A message of Dask: number of frames, their lengths, the frames.
    frames = (1).to_bytes(8, "little") + len(harm).to_bytes(8, "little") + harm
    sized = (len(frames)).to_bytes(8, "little") + frames
    page = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    open_context = ssl.create_default_context()
    open_context.check_hostname, open_context.verify_mode = False, ssl.CERT_NONE
    answers = b""
    for text in (harm, frames, sized, page):
        for context in (None, open_context):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as raw:
                stream = context.wrap_socket(raw) if context is not None else raw
                stream.sendall(text)
                answers += stream.recv(4096)
    return answers


@cache
def _stranger() -> Security:
    """Keys of another user's own."""
    return distributed.Security.temporary()


def _attack_port(port: int, folder: Path) -> bytes:
    for address, security in ((f"tcp://127.0.0.1:{port}", None), (f"tls://127.0.0.1:{port}", _stranger())):
        asyncio.run(_orders(address, security, folder))
        asyncio.run(_client(address, folder, security))
    return _messages(port, folder)


def _attack(ports: set[int], folder: Path) -> bytes:
    """As another user of the machine, try each port in every way, all at once; made folders are the harm done."""
    if not ports:
        return b""
    _stranger()
    with ThreadPoolExecutor(len(ports)) as threads:
        return b"".join(threads.map(partial(_attack_port, folder=folder), ports))


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    """What is attacked is the run, not the slide."""
    return small_job


@pytest.fixture(scope="module")
def before() -> set[int]:
    return _ports(os.getpid())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for temporary files, where another user has made what Dask would use."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("dask-scratch-space", f"dask-scratch-space-{os.getuid()}"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
        (folder / name / "planted_module.py").write_text("raise SystemExit")
    return folder


@pytest.fixture(scope="module")
def client(before: set[int], shared: Path) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(shared))
        with local_cluster(2) as connected:
            patch.undo()
            yield connected
    assert sorted(path.name[:18] for path in shared.iterdir()) == ["dask-scratch-space"] * 2, "nothing is left"
    assert not [place for place in sys.path if Path(place).is_relative_to(shared)]


def test_no_stranger_gives_orders_to_a_local_cluster(client: Client, before: set[int], tmp_path: Path) -> None:
    ports = _ports(os.getpid()) - before
    assert len(ports) == 5, "a scheduler, two nannies, two workers, and nothing else"
    answers = _attack(ports, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert b"HTTP" not in answers
    # The attack is one: with the keys of the run, every port obeys.
    for port in ports:
        asyncio.run(_orders(f"tls://127.0.0.1:{port}", client.security, tmp_path))
    assert len(list(tmp_path.iterdir())) == 5
    assert client.submit(sum, [1, 2]).result() == 3


def test_a_module_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    """A folder of slides may come from anybody; processes of Python look into the current folder first."""
    trace = tmp_path / "trace.txt"
    script = tmp_path / "script" / "run.py"
    script.parent.mkdir()
    script.write_text(
        "from histomix.prediction.cluster.local import local_cluster\n"
        "if __name__ == '__main__':\n"
        "    with local_cluster(1) as client:\n"
        "        print(client.submit(sum, [1, 2]).result())\n"
    )
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("multiprocessing", "struct", "distributed", "histomix"):
        (folder / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write(__name__)\nraise SystemExit(1)\n")
    source = Path(__file__).parent.parent / "src"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(source)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert not trace.exists() and done.stdout.split() == ["3"], done.stderr


@pytest.mark.slow
def test_a_worker_that_is_started_again_has_the_same_lock(client: Client, before: set[int], tmp_path: Path) -> None:
    old, pids = _ports(os.getpid()) - before, client.run(os.getpid)
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    deadline = time.monotonic() + 300
    while (len(new := _ports(os.getpid()) - before) < 5 or new == old) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(new) == 5 and len(new - old) == 1
    _attack(new - old, tmp_path)
    assert list(tmp_path.iterdir()) == []
    client.wait_for_workers(2, timeout=300)


def _positions() -> list[str]:
    return list(sys.path)


def test_a_folder_that_another_user_prepared_is_not_used(client: Client, shared: Path) -> None:
    import cloudpickle

    # Workers cannot import the tests.
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    try:
        positions = [*sys.path, *(place for found in client.run(_positions).values() for place in found)]
    finally:
        cloudpickle.unregister_pickle_by_value(here)
    mine = {
        shared / Path(place).relative_to(shared).parts[0] for place in positions if Path(place).is_relative_to(shared)
    }
    (private,) = mine
    assert private.name.startswith("histomix-") and private.stat().st_mode & 0o077 == 0


def test_a_run_of_the_command_takes_no_orders_and_leaves_no_key(job: Job, tmp_path: Path) -> None:
    slides = [shutil.copy(job.image, tmp_path / f"s{number}.tif") for number in range(2)]
    predict_slides(slides, job.head, tmp_path / "alone", mpp=0.5)
    temporary, harm, out = tmp_path / "tmp", tmp_path / "harm", tmp_path / "out"
    temporary.mkdir()
    harm.mkdir()
    command = [sys.executable, "-c", "from histomix.cli import main; main()", "predict", *map(str, slides)]
    command += ["--head", str(job.head), "--out", str(out), "--mpp", "0.5", "--workers", "2"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen: set[int] = set()
    while running.poll() is None:
        new = _ports(running.pid) - seen
        _attack(new, harm)
        seen |= new
        # What Dask writes, and a key while it is read, lies in folders of this user alone.
        assert not [path for path in temporary.iterdir() if path.is_dir() and _mode(path) & 0o077]
        time.sleep(0.02)
    output = running.communicate()[0].decode()
    assert running.returncode == 0, output
    assert len(seen) >= 5 and list(harm.iterdir()) == []
    assert "dashboard" not in output
    left = [path for path in temporary.rglob("*") if path.is_file()]
    assert not list(temporary.glob("histomix-*")) and not [path for path in left if b"PRIVATE" in path.read_bytes()]
    for path in (tmp_path / "alone").rglob("*"):
        if path.is_file() and path.name != "status.json":
            assert (out / path.relative_to(tmp_path / "alone")).read_bytes() == path.read_bytes()


def _mode(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mode
    return 0


def test_without_the_library_of_keys_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"histomix\[cluster\]"), local_cluster(1):
        pass


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's environment after the recipe of docs/clusters.md was followed."""
    home = tmp_path_factory.mktemp("home")
    text = DOCS.read_text(encoding="utf-8")
    script = text.partition("```sh\numask")[2].partition("```")[0]
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    environment = {**os.environ, "HOME": str(home), "DASK_CONFIG": str(home / ".config" / "dask")}
    subprocess.run(["sh", "-ec", f"umask{script}"], env=environment, check=True, capture_output=True)
    assert (home / ".dask-keys" / "key.pem").stat().st_mode & 0o077 == 0
    assert (home / ".config" / "dask" / "tls.yaml").is_file()
    return environment


def test_a_scheduler_with_keys_works_as_the_docs_say(job: Job, keys: dict[str, str], tmp_path: Path) -> None:
    file, harm = tmp_path / "scheduler.json", tmp_path / "harm"
    harm.mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**keys, "TMPDIR": str(tmp_path)}}
    dask = [sys.executable, "-m", "dask"]
    head = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    head += ["--dashboard-address", "127.0.0.1:0"]
    body = [*dask, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    body += ["--local-directory", str(tmp_path / "worker")]
    started = [subprocess.Popen(head, **quiet), subprocess.Popen(body, **quiet)]  # type: ignore[call-overload]
    try:
        command = [sys.executable, "-c", "from histomix.cli import main; main()", "predict", str(job.image)]
        command += ["--head", str(job.head), "--out", str(tmp_path / "out"), "--mpp", "0.5", "--scheduler", str(file)]
        deadline = time.monotonic() + 180
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        done = subprocess.run(command, env=keys, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "neither encrypted" not in done.stderr
        ports = {port for process in started for port in _ports(process.pid)}
        answers = _attack(ports, harm)
        assert len(ports) >= 2 and list(harm.iterdir()) == []
        for port in ports:
            for page in ("info/main/workers.html", "status", "json/counts.json", "metrics", "info/logs.html"):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as raw:
                    raw.sendall(f"GET /{page} HTTP/1.0\r\n\r\n".encode())
                    answers += raw.recv(4096)
        assert b"HTTP/1.1 404" in answers and b"HTTP/1.1 200" not in answers
    finally:
        for process in started:
            process.kill()
            process.wait()
    predict_slides([job.image], job.head, tmp_path / "alone", mpp=0.5)
    for path in (tmp_path / "alone").rglob("*.csv"):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "alone")).read_bytes() == path.read_bytes()


def _set(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    import dask

    for name, value in settings.items():
        monkeypatch.setitem(dask.config.config, "distributed", _with(dask.config.config["distributed"], name, value))


def _with(config: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    first, _, rest = name.partition("__")
    first = first.replace("_", "-")
    return {**config, first: _with(config[first], rest, value) if rest else value}


def test_keys_that_do_not_go_with_the_address_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no keys for it") as raised, running_cluster("tls://127.0.0.1:9"):
        pass
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in str(raised.value)
    _set(monkeypatch, comm__require_encryption=True)
    with pytest.raises(ClusterError, match="encrypted connections only"), running_cluster("tcp://127.0.0.1:9"):
        pass
    none = str(tmp_path / "none.pem")
    _set(monkeypatch, comm__tls__ca_file=none, comm__tls__client__cert=none)
    with pytest.raises(ClusterError, match="cannot be read"), running_cluster("tls://127.0.0.1:9"):
        pass
    (tmp_path / "scheduler.json").write_text("[]")
    monkeypatch.setattr("histomix.prediction.cluster.cluster._READS", 1)
    with pytest.raises(ClusterError, match="no scheduler file"), running_cluster(str(tmp_path / "scheduler.json")):
        pass


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("tcp://10.0.0.5:8786", True),
        ("10.0.0.5:8786", True),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://localhost:8786", False),
        ("tcp://[::1]:8786", False),
        ("tls://10.0.0.5:8786", False),
    ],
)
def test_an_open_connection_to_another_machine_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str, warned: bool
) -> None:
    class Pretend:
        dashboard_link = ""

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> Pretend:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(distributed, "Client", Pretend)
    monkeypatch.setattr("histomix.prediction.cluster.cluster._configured_keys", lambda *_: None)
    with running_cluster(address):
        pass
    assert ("neither encrypted nor authenticated" in caplog.text) == warned
