"""How long work tells how far it is: bars in a terminal or a notebook, a function of the caller, or nothing."""

from __future__ import annotations

import contextlib
import html
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

#: Called as ``progress(task, done, total)``: the name of the work, items done so far, items in all.
Progress = Callable[[str, int, int], None]
#: A notebook draws its bars anew at most so often, in seconds.
_REDRAW_S = 0.2


def silent(task: str, done: int, total: int) -> None:
    """Say nothing."""


@contextlib.contextmanager
def progress_bars(asked: Progress | bool = True) -> Iterator[Progress]:
    """Where to tell how far work is, for as long as the block lasts.

    Parameters
    ----------
    asked
        What a public function was given as ``progress``. True: bars on stderr where that is a terminal, or in a
        notebook; elsewhere (a pipe, a batch job) nothing. False: nothing. Or a function to tell.
    """
    if not isinstance(asked, bool):
        yield asked
    elif asked and in_notebook():
        yield NotebookBars()
    elif asked and sys.stderr is not None and sys.stderr.isatty():
        with TerminalBars() as bars:
            yield bars
    else:
        yield silent


class TerminalBars:
    """Bars on stderr, one for each task, with rate and time left; they appear when work is first told of."""

    def __init__(self) -> None:
        self._bars = _rich_bars()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> TerminalBars:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Draw the bar of a task, which is added when it is first told of."""
        if task not in self._tasks:
            self._bars.start()
            # The name of a task may be that of a stranger's file: it orders the terminal nothing.
            name = "".join(mark if mark.isprintable() else "\ufffd" for mark in task)
            self._tasks[task] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[task], completed=done, total=total)

    def print(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


class NotebookBars:
    """Bars under the cell of a notebook, as plain HTML: they need no widgets."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[int, int]] = {}
        self._handle: Any = None
        self._drawn = 0.0

    def __call__(self, task: str, done: int, total: int) -> None:
        """Draw the bars anew, at most every `_REDRAW_S` seconds but for the end of a task."""
        self._tasks[task] = (done, total)
        if done < total and self._handle is not None and time.monotonic() - self._drawn < _REDRAW_S:
            return
        self._drawn = time.monotonic()
        shown = importlib.import_module("IPython.display")
        page = shown.HTML(self._html())
        if self._handle is None:
            self._handle = shown.display(page, display_id=True)
        else:
            self._handle.update(page)

    def _html(self) -> str:
        bar = '<progress value="{done}" max="{most}"></progress>'
        rows = (
            (html.escape(task), bar.format(done=done, most=max(total, 1)), done, total)
            for task, (done, total) in self._tasks.items()
        )
        return "".join(f"<div>{name} {drawn} {done:,}/{total:,}</div>" for name, drawn, done, total in rows)


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _rich_bars() -> RichBars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")

    # The name of a task is no markup.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
