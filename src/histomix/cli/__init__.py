"""The command line: one thin file per verb, each importing its rooms only when it runs."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run ``histomix``."""
    from ..common.quiet import settle_libraries
    from .app import app

    settle_libraries()
    for stream in (sys.stdout, sys.stderr):
        # Names of slides and cell types may hold marks that a code page of Windows lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="histomix")
