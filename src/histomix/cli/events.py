"""``--progress json``: how far a verb is, as lines of JSON on stderr; stdout keeps its one object."""

from __future__ import annotations

import functools
import inspect
import json
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from enum import StrEnum
from typing import Annotated, Any

import typer

#: A task is told of at most so often, in seconds, but for its beginning and end.
_EVERY_S = 0.25


class Shown(StrEnum):
    """How progress is shown."""

    auto = "auto"
    json = "json"


_asked: ContextVar[Shown] = ContextVar("shown", default=Shown.auto)
_Option = Annotated[
    Shown,
    typer.Option("--progress", help="json: events on stderr, a line of JSON each, for programs.", show_default="bars"),
]


class Events:
    """Lines of JSON on stderr: ``event`` is ``progress`` (task, done, total), ``remark`` or ``error`` (text)."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._told: dict[str, float] = {}

    def __call__(self, task: str, done: int, total: int) -> None:
        """Tell how far a task is (see `histomix.progress.Progress`)."""
        now = time.monotonic()
        if task in self._told and done < total and now - self._told[task] < _EVERY_S:
            return
        self._told[task] = now
        self._write("progress", task=task, done=int(done), total=int(total))

    def tell(self, event: str, text: str) -> None:
        """Tell a remark or an error."""
        self._write(event, text=text)

    def _write(self, event: str, **facts: Any) -> None:
        line = {"event": event, **facts, "seconds": round(time.monotonic() - self._begun, 2)}
        print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201


def events() -> Events | None:
    """Where to tell of events, if the command was asked for them."""
    return Events() if _asked.get() is Shown.json else None


def add_progress(app: typer.Typer) -> None:
    """Give the option to every verb that works for long: those that take threads, and what brings files."""
    for command in app.registered_commands:
        verb = command.callback
        if verb is not None and ("threads" in inspect.signature(verb).parameters or command.name == "fetch"):
            command.callback = _with_progress(verb)


def _with_progress(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The same verb with one more option."""

    @functools.wraps(verb)
    def shown(*given: Any, shown_as: Shown = Shown.auto, **options: Any) -> Any:
        token = _asked.set(shown_as)
        try:
            return verb(*given, **options)
        finally:
            _asked.reset(token)

    signature = inspect.signature(verb, eval_str=True)
    more = inspect.Parameter("shown_as", inspect.Parameter.KEYWORD_ONLY, default=Shown.auto, annotation=_Option)
    shown.__signature__ = signature.replace(parameters=[*signature.parameters.values(), more])  # type: ignore[attr-defined]
    shown.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()} | {"shown_as": _Option}
    return shown
