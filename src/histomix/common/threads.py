"""How many threads a piece of work takes: linear algebra on one, and independent pieces side by side on the cores."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any

from threadpoolctl import ThreadpoolController

#: As Python's ``map`` of one table.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class _Given:
    """Threads that libraries had before they were kept to one: by the beginning of a file's name, and of algebra."""

    by_prefix: dict[str, int]
    algebra: int

    @classmethod
    def of(cls, libraries: ThreadpoolController) -> _Given:
        found, algebra = dict[str, int](), 1
        for one in libraries.info():
            prefix, count = one["prefix"], int(one["num_threads"])
            found[prefix] = max(count, found.get(prefix, 1))
            if one["user_api"] == "blas":
                algebra = max(count, algebra)
        return cls(found, algebra)


#: What was there before the outermost block of `single_thread` around the work at hand.
_given: ContextVar[_Given | None] = ContextVar("threads given", default=None)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def given_threads() -> int:
    """Threads that linear algebra has, or had before it was kept to one; at most those of the cores."""
    given = _given.get() or _Given.of(_libraries(len(sys.modules)))
    return min(cores(), given.algebra)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Keep linear algebra to one thread: how a product is shared out among several decides the last bits of it.

    And products that are small cost twice the processor time on two threads, and more time by the clock.
    """
    libraries = _libraries(len(sys.modules))
    token = _given.set(_Given.of(libraries)) if _given.get() is None else None
    try:
        with libraries.limit(limits=1):
            yield
    finally:
        if token is not None:
            _given.reset(token)


@contextlib.contextmanager
def all_threads() -> Iterator[None]:
    """Give the threads back that there were outside of `single_thread`: for work that knows itself what it needs."""
    given = _given.get()
    if given is None:
        yield
        return
    token = _given.set(None)
    try:
        with _libraries(len(sys.modules)).limit(limits=given.by_prefix):
            yield
    finally:
        _given.reset(token)


@contextlib.contextmanager
def side_by_side(most: int | None = None) -> Iterator[Map]:
    """An ordered ``map`` over the cores, for pieces of work that do not know of each other.

    Each piece has one thread of linear algebra, so that what comes out does not depend on how many are worked on at
    once. Pieces are taken in when a worker is about to be free for them, so that few results wait in memory.

    Parameters
    ----------
    most
        How many at once, at most; there are never more than linear algebra has threads.
    """
    with single_thread():
        count = min(given_threads(), most or cores())
        if count < 2:
            yield map
            return
        with ThreadPoolExecutor(count, thread_name_prefix="histomix") as pool:
            yield partial(_shared_out, pool, count)


def _shared_out(pool: ThreadPoolExecutor, count: int, function: Callable[[Any], Any], items: Iterable[Any]) -> Any:
    def alone(item: Any) -> Any:
        _given.set(_Given({}, 1))  # what it calls shares out no more
        with _libraries(len(sys.modules)).limit(limits=1):  # OpenMP keeps a number of its own for each thread
            return function(item)

    left = iter(items)
    waiting: deque[Future[Any]] = deque()
    try:
        while True:
            for item in islice(left, count + 1 - len(waiting)):
                # Whom to tell, and what of unfinished work is kept, is known by context.
                waiting.append(pool.submit(copy_context().run, alone, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()


@lru_cache(maxsize=1)
def _libraries(_n_modules: int) -> ThreadpoolController:
    """The libraries with threads, looked for again only when something was imported: a search takes milliseconds."""
    return ThreadpoolController()
