"""How long work tells how far it is: bars in a terminal or a notebook, lines in a log, a caller's function, or nothing.

However many slides or sections there are, few bars are drawn: one for each work that is not over, and the place of one
that is over goes to the next.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

#: Called as ``progress(task, done, total)``: the name of the work, items done so far, items in all.
Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")
#: A notebook draws its bars anew at most so often, in seconds.
_REDRAW_S = 0.2
#: A log gets its first line after so long, and then one every so often, in seconds.
_FIRST_LINE_S, _LINE_S = 10.0, 30.0
#: Bars at most; those that have been still for longest go.
_MOST_BARS = 8
#: Times between which speed is measured, and their least distance in seconds.
_SAMPLES, _SAMPLE_S = 32, 0.5


def silent(task: str, done: int, total: int) -> None:
    """Say nothing."""


#: Whom the work at hand tells.
_told: ContextVar[Progress] = ContextVar("told", default=silent)


def tell(task: str, done: int, total: int) -> None:
    """Tell whom the work at hand was given to tell (see `progress_bars`): for steps deep inside it."""
    _told.get()(task, done, total)


def told(task: str, items: Collection[Item]) -> Iterator[Item]:
    """Items one after the other, told of (see `tell`) as a loop goes over them."""
    for done, item in enumerate(items):
        tell(task, done, len(items))
        yield item
    tell(task, len(items), len(items))


@contextlib.contextmanager
def progress_bars(asked: Progress | bool = True) -> Iterator[Progress]:
    """Where to tell how far work is, for as long as the block lasts.

    Parameters
    ----------
    asked
        What a public function was given as ``progress``. True: bars on stderr where that is a terminal, or in a
        notebook; elsewhere (a pipe, a batch job) nothing. False: nothing. Or a function to tell.
    """
    with _shown(asked) as report:
        token = _told.set(report)
        try:
            yield report
        finally:
            _told.reset(token)


@contextlib.contextmanager
def _shown(asked: Progress | bool) -> Iterator[Progress]:
    if not isinstance(asked, bool):
        yield asked
    elif asked and in_notebook():
        with NotebookBars() as page:
            yield page
    elif asked and sys.stderr is not None and sys.stderr.isatty():
        with TerminalBars() as bars:
            yield bars
    else:
        yield silent


@contextlib.contextmanager
def part_of(progress: Progress, task: str, total: int) -> Iterator[Callable[[], None]]:
    """Tell of ``total`` parts as one work; what is yielded is called as each is over. One part alone is not told of."""
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        if total > 1:
            progress(task, done, total)

    if total > 1:
        progress(task, 0, total)
    yield one_more


@dataclass
class Task:
    """One work: how far it is, and how fast."""

    name: str
    done: int = 0
    total: int = 0
    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def told(self, done: int, total: int) -> None:
        """Take in how far it is."""
        now = time.monotonic()
        if done < self.done:
            self.seen.clear()
        self.done, self.total = done, total
        if not self.seen or now - self.seen[-1][0] >= _SAMPLE_S:
            self.seen.append((now, done))

    @property
    def over(self) -> bool:
        """Whether it is done."""
        return self.done >= self.total

    @property
    def speed(self) -> float | None:
        """Items a second of late; None where it is not known yet."""
        start, done = self.seen[0]
        seconds = time.monotonic() - start
        return (self.done - done) / seconds if self.done > done and seconds >= _SAMPLE_S else None

    @property
    def words(self) -> tuple[str, str, str]:
        """How far, how fast, and how long it takes yet, the last two empty where not known."""
        speed = self.speed
        left = "" if speed is None or self.over else f"{duration((self.total - self.done) / speed)} left"
        return f"{self.done:,}/{self.total:,}", "" if speed is None else f"{speed:,.3g}/s", left


class Tasks:
    """What is being done now: work that is not over, and the last that was."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._lock = threading.Lock()

    def told(self, name: str, done: int, total: int) -> None:
        """Take in how far a work is; a new one takes the place of one that is over."""
        with self._lock:
            task = self._tasks.get(name)
            if task is None:
                for other in [one for one in self._tasks.values() if one.over]:
                    del self._tasks[other.name]
                while len(self._tasks) >= _MOST_BARS:
                    del self._tasks[min(self._tasks.values(), key=lambda one: one.seen[-1][0]).name]
                task = self._tasks[name] = Task(name)
            task.told(done, total)

    def shown(self) -> list[Task]:
        """The works to show."""
        with self._lock:
            return list(self._tasks.values())


class TerminalBars:
    """Bars on stderr, with rate and time left; they appear when work is first told of."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._live: Live | None = None

    def __enter__(self) -> TerminalBars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Take in how far a task is. They are drawn a few times a second, however often they are told."""
        # The name of a task may be that of a stranger's file: it orders the terminal nothing.
        self._tasks.told("".join(mark if mark.isprintable() else "\ufffd" for mark in task), done, total)
        if self._live is None:
            self._live = _live(self._drawn)
            self._live.start()

    def print(self, text: str) -> None:
        """Print a line above the bars."""
        console = _console() if self._live is None else self._live.console
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _drawn(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        for task in self._tasks.shown():
            far, speed, left = task.words
            bar = ProgressBar(max(task.total, 1), task.done if task.total else 1, width=40)
            grid.add_row(
                Text(task.name),  # no markup
                bar,
                Text(far, style="progress.download"),
                Text(speed, style="progress.data.speed"),
                Text(left, style="progress.remaining"),
            )
        return grid


class NotebookBars:
    """Bars under the cell of a notebook, as plain HTML: they need no widgets."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._handle: Any = None
        self._drawn = 0.0

    def __enter__(self) -> NotebookBars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._draw()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Take in how far a task is; the bars are drawn at most every `_REDRAW_S` seconds, and at the end."""
        self._tasks.told(task, done, total)
        if self._handle is None or time.monotonic() - self._drawn >= _REDRAW_S:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        shown = importlib.import_module("IPython.display")
        page = shown.HTML(self._html())
        if self._handle is None:
            self._handle = shown.display(page, display_id=True)
        else:
            self._handle.update(page)

    def _html(self) -> str:
        rows = []
        for task in self._tasks.shown():
            bar = f'<progress value="{task.done}" max="{max(task.total, 1)}"></progress>'
            rows.append(f"<div>{html.escape(task.name)} {bar} {' '.join(filter(None, task.words))}</div>")
        return "".join(rows)


class Lines:
    """A line every 30 seconds that says how far the work is, for logs; the first, with its estimate, after 10."""

    def __init__(self, say: Callable[[str], None], first_s: float = _FIRST_LINE_S, every_s: float = _LINE_S) -> None:
        self._say, self._first_s, self._every_s = say, first_s, every_s
        self._tasks = Tasks()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Take in how far a task is."""
        self._tasks.told(task, done, total)
        if self._thread is None:
            self._thread = threading.Thread(target=self._lines, name="progress", daemon=True)
            self._thread.start()

    def _lines(self) -> None:
        pause = self._first_s
        while not self._over.wait(pause):
            self._say("; ".join(f"{task.name}: {', '.join(filter(None, task.words))}" for task in self._tasks.shown()))
            pause = self._every_s


def duration(seconds: float) -> str:
    """A time in words: seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _live(drawn: Callable[[], Table]) -> Live:
    from rich.live import Live

    return Live(get_renderable=drawn, console=_console(), refresh_per_second=5)
