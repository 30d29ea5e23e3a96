"""The family of errors, from `histomix.errors`."""

from __future__ import annotations

import inspect

from histomix import errors


def error_table() -> str:
    """One row a class: of which of Python's kinds it is too, and what it says."""
    lines = ["| error | also a | what it says |", "|---|---|---|"]
    for name, kind in vars(errors).items():
        if not (isinstance(kind, type) and issubclass(kind, errors.HistomixError)) or kind is errors.HistomixError:
            continue
        theirs = [one for one in kind.__mro__ if one.__module__ == "builtins"]
        known = [
            one
            for one in theirs
            if one not in (Exception, BaseException, object)
            and not any(one is not other and issubclass(other, one) for other in theirs)
        ]
        summary = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
        summary = summary.replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{name}` | {', '.join(f'`{one.__name__}`' for one in known)} | {summary} |")
    return "\n".join(lines)
