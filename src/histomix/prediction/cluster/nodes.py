"""Dask's scheduler and worker with one port each: that of their keys."""

from __future__ import annotations

from typing import Any

from distributed import Scheduler, Worker


class _OnePort:
    def start_http_server(self, routes: Any, dashboard_address: str | None, **options: Any) -> None:
        """Open a port for web pages only where one was asked for: Dask always does, and asks nobody there for a key."""
        if dashboard_address is not None:
            super().start_http_server(routes, dashboard_address, **options)  # type: ignore[misc]


class LocalScheduler(_OnePort, Scheduler):  # type: ignore[misc]
    """A scheduler."""


class LocalWorker(_OnePort, Worker):  # type: ignore[misc]
    """A worker."""
