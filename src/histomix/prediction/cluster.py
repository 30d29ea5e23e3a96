"""Slides on a Dask cluster: one of this machine, or any that runs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError, InputError, MissingExtraError
from ..progress import Progress, silent
from ..slides import is_remote
from .dispatch import predict_on_cluster
from .job import Settings, SlideJob, SlideResult
from .worker import Work

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["cores_of", "local_cluster", "predict_on_cluster", "predict_with_dask", "read_resources", "running_cluster"]
logger = logging.getLogger(__name__)
_CONNECT_S = 20
_PATHS = ("at", "regions", "reuse")


@contextlib.contextmanager
def local_cluster(
    workers: int,
    *,
    resources: Mapping[str, float] | None = None,
    dashboard: str | None = "127.0.0.1:0",
) -> Iterator[Client]:
    """A cluster of processes on this machine for the length of a block; all of them are gone after it.

    Parameters
    ----------
    workers
        Processes. Each does one task at a time and may use its share of the memory; one that takes more, or dies, is
        started again, and what it did is done elsewhere.
    resources
        What each worker has (``{"GPU": 1}``).
    dashboard
        Where the dashboard listens (port 0: any free one); None for none.

    Raises
    ------
    InputError
        Fewer than one worker.
    MissingExtraError
        Dask is not installed.
    """
    if workers < 1:
        raise InputError(f"{workers} workers cannot do anything", mend="Ask for 1 or more")
    dask, distributed = _dask()
    # Every worker that dies puts blame on all tasks that it held, also on those it had not begun.
    settings = {"distributed.scheduler.allowed-failures": 20, "distributed.logging.distributed": "error"}
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=dashboard,
            memory_limit=_memory_share(workers),
            resources=dict(resources) if resources else None,
            silence_logs=logging.CRITICAL,
            preload=[f"{__package__}.deaf"],
        )
        stack.callback(_close, cluster)
        client = stack.enter_context(distributed.Client(cluster, timeout=_CONNECT_S))
        if dashboard is not None:
            logger.info("dashboard: %s", client.dashboard_link)
        yield client


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


@contextlib.contextmanager
def running_cluster(address: str) -> Iterator[Client]:
    """A connection to a scheduler that runs, for the length of a block; the cluster stays as it is.

    Parameters
    ----------
    address
        ``tcp://host:port``, or the scheduler file that Dask writes (``*.json``).

    Raises
    ------
    ClusterError
        No scheduler answers there.
    MissingExtraError
        Dask is not installed.
    """
    _, distributed = _dask()
    by_file = address.endswith(".json")
    if by_file and not Path(address).is_file():
        raise ClusterError(
            "there is no such scheduler file", where=address, mend="Start the scheduler, or check the path"
        )
    where = {"scheduler_file": address} if by_file else {"address": address}
    try:
        client = distributed.Client(**where, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers ({str(error) or type(error).__name__})",
            where=address,
            mend="Check that the scheduler runs and that its address can be reached from here",
        ) from error
    with client:
        logger.info("dashboard: %s", client.dashboard_link)
        yield client


def predict_with_dask(
    jobs: Sequence[SlideJob],
    settings: Settings,
    head: str | os.PathLike[str],
    workers: int | None,
    scheduler: str | None,
    resources: str | None = None,
    *,
    weights: Sequence[str | os.PathLike[str]] | None = None,
    trust_code: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[SlideResult]:
    """`predict_on_cluster` on a cluster of this machine, or on a running one.

    Parameters
    ----------
    workers, scheduler
        Processes of this machine, or the address of a scheduler: one of them.
    threads
        CPU threads of the encoder in each worker; None: on this machine its share of the cores, else all of the
        worker's computer.

    Raises
    ------
    InputError
        Both were given, or the resources are not written ``NAME=NUMBER``.
    ClusterError, MissingExtraError
        As `predict_on_cluster`, `running_cluster`.
    """
    if workers is not None and scheduler is not None:
        raise InputError(
            "workers on this machine and a running scheduler cannot be used together",
            mend="Give --workers N or --scheduler ADDRESS",
        )
    needed = read_resources(resources)
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            threads = threads or cores_of(workers or 1)
            client = stack.enter_context(local_cluster(workers or 1, resources=needed))
        else:
            client = stack.enter_context(running_cluster(scheduler))
        # A worker's current folder is another one.
        paths: dict[str, Any] = {
            name: value and str(Path(value).resolve()) for name, value in vars(settings).items() if name in _PATHS
        }
        there = [
            replace(
                job,
                slide=job.slide if is_remote(job.slide) else str(Path(job.slide).resolve()),
                folder=job.folder.resolve(),
            )
            for job in jobs
        ]
        work = Work(
            head=str(Path(head).resolve()),
            settings=replace(settings, **paths),
            weights=None if weights is None else tuple(str(Path(file).resolve()) for file in weights),
            trust_code=trust_code,
            threads=threads,
        )
        found = predict_on_cluster(there, work, client, resources=needed, progress=progress)
    return [replace(result, folder=job.folder) for result, job in zip(found, jobs, strict=True)]


def read_resources(text: str | None) -> dict[str, float]:
    """``"GPU=1,MEMORY=8"`` as ``{"GPU": 1.0, "MEMORY": 8.0}``.

    Raises
    ------
    InputError
        It is not written so.
    """
    found = {}
    for item in filter(None, (text or "").split(",")):
        name, _, much = item.partition("=")
        try:
            found[name.strip()] = float(much or 1)
        except ValueError as error:
            raise InputError(f"'{item}' is no resource", mend="Write for example GPU=1") from error
    return found


def cores_of(workers: int) -> int:
    """CPU threads for the encoder of each of some workers on this machine."""
    dask, _ = _dask()
    return max(1, int(dask.system.CPU_COUNT) // workers)


def _memory_share(workers: int) -> int:
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT // workers)


def _dask() -> tuple[Any, Any]:
    try:
        import dask
        import dask.system
        import distributed
    except ImportError as error:
        raise MissingExtraError("distributed", "cluster", "predicting on several workers") from error
    return dask, distributed
