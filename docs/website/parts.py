"""Parts of pages that are generated from the program, by name."""

from __future__ import annotations

from collections.abc import Callable

from .encoder_table import encoder_table
from .error_table import error_table
from .measure_table import measure_table
from .verb_pages import verb_pages

#: ``<!-- generated: NAME -->`` in a page -> Markdown.
PARTS: dict[str, Callable[[], str]] = {
    "encoders": encoder_table,
    "errors": error_table,
    "measures": measure_table,
    "verbs": verb_pages,
}
