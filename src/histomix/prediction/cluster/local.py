"""A Dask cluster of this machine, for the length of a run and for nobody else."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.quiet import safe_children
from ...errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)
_CONNECT_S = 20


@contextlib.contextmanager
def local_cluster(
    workers: int,
    *,
    resources: Mapping[str, float] | None = None,
    dashboard: str | None = None,
) -> Iterator[Client]:
    """A cluster of processes on this machine for the length of a block; all of them are gone after it.

    Whoever can talk to a scheduler or a worker of Dask can have it run any program, and their ports are open to all
    users of the machine. So they talk TLS, with a key made for this cluster that no file keeps, and open no other port.
    It is Dask all the same, rather than processes that listen to nobody, for what it does: it starts a worker that died
    or takes too much memory again, and gives its work to others, by the same code here and on many machines.

    Parameters
    ----------
    workers
        Processes. Each does one task at a time and may use its share of the memory; one that takes more, or dies, is
        started again, and what it did is done elsewhere.
    resources
        What each worker has (``{"GPU": 1}``).
    dashboard
        Where the dashboard listens (``"127.0.0.1:0"``; port 0: any free one); None for none. Every user of the machine
        can read it, and the names of slides stand on it.

    Raises
    ------
    InputError
        Fewer than one worker.
    MissingExtraError
        Dask, or cryptography, is not installed.
    """
    if workers < 1:
        raise InputError(f"{workers} workers cannot do anything", hint="Ask for 1 or more")
    dask, distributed = import_dask()
    from .nodes import LocalScheduler, LocalWorker

    # Kept in memory; the processes get it through the pipe that starts them.
    security = _passing_keys(distributed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(safe_children())
        private = stack.enter_context(_private_folder(dask.config.get("temporary-directory", None)))
        settings = {
            # Every worker that dies puts blame on all tasks that it held, also on those it had not begun.
            "distributed.scheduler.allowed-failures": 20,
            # A worker that died is started again, which takes longer than Dask waits where the machine is busy.
            "distributed.deploy.lost-worker-timeout": "1 hour",
            "distributed.logging.distributed": "error",
            "temporary-directory": private,
        }
        stack.enter_context(dask.config.set(settings))
        common = {"host": "127.0.0.1", "protocol": "tls://", "security": security}
        scheduler = {"dashboard": dashboard is not None, "dashboard_address": dashboard}
        worker = {
            "nthreads": 1,
            "memory_limit": _memory_share(workers),
            "resources": dict(resources) if resources else None,
            "silence_logs": logging.CRITICAL,
            "preload": [f"{__package__}.ignore_interrupt"],
            "local_directory": private,
            "worker_class": LocalWorker,
        }
        cluster = distributed.SpecCluster(
            scheduler={"cls": LocalScheduler, "options": {**common, **scheduler}},
            workers={number: {"cls": distributed.Nanny, "options": {**common, **worker}} for number in range(workers)},
            security=security,
            silence_logs=logging.CRITICAL,
        )
        stack.callback(_close, cluster)
        client = distributed.Client(cluster, timeout=_CONNECT_S)
        stack.callback(_leave, client)
        if dashboard is not None:
            logger.info("dashboard: %s", client.dashboard_link)
        yield client


@contextlib.contextmanager
def _private_folder(base: str | None) -> Iterator[str]:
    """A folder that nobody else may enter, for the length of a block.

    Dask's own has a name that another user could have taken before, and modules to import are looked for in it.
    """
    if base is not None:
        Path(base).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="histomix-", dir=base, ignore_cleanup_errors=True) as folder:
        try:
            yield folder
        finally:
            sys.path[:] = [place for place in sys.path if not place.startswith(folder)]


def _passing_keys(distributed: Any) -> Any:
    """Keys and a certificate for one run, in memory.

    Raises
    ------
    MissingExtraError
        cryptography is not installed.
    """
    try:
        return distributed.Security.temporary()
    except ImportError as error:
        raise MissingExtraError("cryptography", "cluster", "keeping others from the workers of this machine") from error


def _leave(client: Any) -> None:
    """End the connection; on a busy machine the answer may not come, and the cluster is ended next."""
    try:
        client.close(timeout=_CONNECT_S)
    except (OSError, TimeoutError) as error:
        logger.debug("the connection is left as it is (%r)", error)


def _close(cluster: Any) -> None:
    """End a local cluster. A worker that is slow to go, or is just being started again, must not outlive it."""
    pids = [pid for nanny in cluster.workers.values() if (pid := getattr(nanny, "pid", None))]
    try:
        cluster.close(timeout=_CONNECT_S)
    except (OSError, TimeoutError) as error:
        import psutil

        logger.debug("workers are ended by force (%r)", error)
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()

        async def stop() -> None:
            cluster.scheduler.stop()

        # Its port and its folder go too; it is in this process, which may live on.
        with contextlib.suppress(OSError, TimeoutError):
            cluster.sync(stop, callback_timeout=_CONNECT_S)


def cores_of(workers: int) -> int:
    """CPU threads for the encoder of each of some workers on this machine."""
    import_dask()
    from dask.system import CPU_COUNT

    return max(1, int(CPU_COUNT) // workers)


def _memory_share(workers: int) -> int:
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT // workers)


def import_dask() -> tuple[Any, Any]:
    """``dask`` and ``distributed``.

    Raises
    ------
    MissingExtraError
        They are not installed.
    """
    try:
        import dask
        import distributed
    except ImportError as error:
        raise MissingExtraError("distributed", "cluster", "predicting on several workers") from error
    return dask, distributed
