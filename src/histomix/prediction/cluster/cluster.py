"""Slides on a Dask cluster: one of this machine, or any that runs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.transfer.addresses import is_loopback
from ...common.words import reason
from ...errors import ClusterError, InputError
from ...progress import Progress, silent
from ...slides import is_remote
from ..job import Settings, SlideJob, SlideResult
from .dispatch import predict_on_cluster
from .local import cores_of, import_dask, local_cluster
from .worker import Work

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["cores_of", "local_cluster", "predict_on_cluster", "predict_with_dask", "read_resources", "running_cluster"]
logger = logging.getLogger(__name__)
_CONNECT_S = 20
_PATHS = ("at", "regions", "reuse")
_ENCRYPTED = ("tls://", "wss://")
_READS = 10


@contextlib.contextmanager
def running_cluster(address: str) -> Iterator[Client]:
    """A connection to a scheduler that runs, for the length of a block; the cluster stays as it is.

    Keys for ``tls://`` are those of Dask's configuration (``distributed.comm.tls``, or the environment variables of
    that name), as its scheduler and workers have them.

    Parameters
    ----------
    address
        ``tls://host:port`` or ``tcp://host:port``, or the scheduler file that Dask writes (``*.json``).

    Raises
    ------
    ClusterError
        No scheduler answers there; or it asks for keys, and Dask's configuration has none that can be used.
    MissingExtraError
        Dask is not installed.
    """
    dask, distributed = import_dask()
    scheduler = _scheduler_address(address)
    if "://" not in scheduler:
        scheduler = f"{dask.config.get('distributed.comm.default-scheme')}://{scheduler}"
    security = _configured_keys(distributed, scheduler)
    try:
        client = distributed.Client(scheduler, security=security, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers ({str(error) or type(error).__name__})",
            where=address,
            hint="Check that the scheduler runs, that its address can be reached from here, and that its keys are ours",
        ) from error
    if not scheduler.startswith(_ENCRYPTED) and not is_loopback(scheduler.partition("://")[2].rpartition(":")[0]):
        logger.warning(
            "the connection to the scheduler %s is neither encrypted nor authenticated: whoever reaches it can run "
            "programs as you, there and here, and read the addresses of slides with their signatures. Use tls:// "
            "(docs/clusters.md)",
            scheduler,
        )
    with client:
        logger.info("dashboard: %s", client.dashboard_link)
        yield client


def _scheduler_address(text: str) -> str:
    """The address, also of a scheduler file.

    Raises
    ------
    ClusterError
        There is no such file, or it names no address.
    """
    if not text.endswith(".json"):
        return text
    if not Path(text).is_file():
        raise ClusterError("there is no such scheduler file", where=text, hint="Start the scheduler, or check the path")
    for number in range(_READS):
        try:
            return str(json.loads(Path(text).read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if number == _READS - 1:
                raise ClusterError(
                    f"is no scheduler file ({reason(error)})",
                    where=text,
                    hint="Give the file that dask scheduler writes",
                ) from error
            time.sleep(0.1)  # it is just being written
    return text


def _configured_keys(distributed: Any, address: str) -> Any:
    """What Dask's configuration says of TLS.

    Raises
    ------
    ClusterError
        It does not go with the address.
    """
    hint = (
        "Set distributed.comm.tls in Dask's configuration, or DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"
    )
    security = distributed.Security()
    try:
        usable = security.get_connection_args("client")["ssl_context"] is not None
    except (OSError, ValueError) as error:
        raise ClusterError(f"the keys for TLS cannot be read ({error})", where=address, hint=hint) from error
    if address.startswith(_ENCRYPTED) and not usable:
        raise ClusterError("the scheduler talks TLS, and there are no keys for it", where=address, hint=hint)
    if security.require_encryption and not address.startswith(_ENCRYPTED):
        raise ClusterError(
            "Dask's configuration allows encrypted connections only (require-encryption)",
            where=address,
            hint="Give the scheduler's tls:// address, or change the configuration",
        )
    return security


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
            hint="Give --workers N or --scheduler ADDRESS",
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
        results = predict_on_cluster(there, work, client, resources=needed, progress=progress)
    return [replace(result, folder=job.folder) for result, job in zip(results, jobs, strict=True)]


def read_resources(text: str | None) -> dict[str, float]:
    """``"GPU=1,MEMORY=8"`` as ``{"GPU": 1.0, "MEMORY": 8.0}``.

    Raises
    ------
    InputError
        It is not written so.
    """
    resources = {}
    for item in filter(None, (text or "").split(",")):
        name, _, much = item.partition("=")
        try:
            resources[name.strip()] = float(much or 1)
        except ValueError as error:
            raise InputError(f"'{item}' is no resource", hint="Write for example GPU=1") from error
    return resources
