"""Every verb with its help, its examples and its options, from the program itself."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from histomix.cli.app import app
from histomix.cli.examples import EXAMPLES

_VALUES = {Path: "PATH", float: "NUMBER", int: "N", str: "TEXT"}


def verbs(group: typer.Typer = app, before: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Each verb with its function, those of a group by both their words, in the order of ``histomix --help``."""
    for command in group.registered_commands:
        if command.callback is not None and not command.hidden:
            yield f"{before}{command.name or command.callback.__name__}", command.callback
    for below in group.registered_groups:
        if below.typer_instance is not None:
            yield from verbs(below.typer_instance, f"{before}{below.name or below.typer_instance.info.name} ")


def verb_pages() -> str:
    """A section for each verb."""
    return "\n\n".join(_section(verb, function) for verb, function in verbs())


def _section(verb: str, function: Callable[..., Any]) -> str:
    parts = [f"## histomix {verb}", " ".join((inspect.getdoc(function) or "").partition("\n\nExample")[0].split())]
    shown = [line for one in EXAMPLES.get(verb, ()) for line in ([f"# {one.why}"] if one.why else []) + [one.line]]
    if shown:
        parts.append("```sh\n" + "\n".join(shown) + "\n```")
    hints = get_type_hints(function, include_extras=True)
    rows = [_row(name, hints[name], one.default) for name, one in inspect.signature(function).parameters.items()]
    parts.append("| | what it is | unless given |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _row(name: str, hint: Any, default: Any) -> str:
    kind, *notes = get_args(hint)
    info = next(one for one in notes if isinstance(one, ArgumentInfo | OptionInfo))
    kind, several = _value(kind)
    value = info.metavar or _VALUES.get(kind, "TEXT")
    if isinstance(info, ArgumentInfo):
        value = info.metavar or name.upper()
        return f"| `{value}` | {_cell(info.help)} | {'needed' if default is inspect.Parameter.empty else ''} |"
    named = (*([info.default] if isinstance(info.default, str) else []), *(info.param_decls or ()))
    words = ", ".join(f"`{word}`" for word in named or (f"--{name.replace('_', '-')}",))
    words += "" if kind is bool else f" `{value}`"
    return f"| {words}{' (repeat)' * several} | {_cell(info.help)} | {_unless(info, default)} |"


def _value(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether several may be given."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    return (get_args(hint)[0], True) if get_origin(hint) is list else (hint, False)


def _unless(info: OptionInfo, default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "needed"
    if isinstance(info.show_default, str):
        return _cell(info.show_default)
    if not info.show_default or default in (None, False, "", []):
        return ""
    if default is True:
        return "yes"
    return "`" + (", ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)) + "`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
