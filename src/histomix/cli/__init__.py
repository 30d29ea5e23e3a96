"""The command line: one thin file per verb, each importing its rooms only when it runs."""

from __future__ import annotations

import errno
import io
import os
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
    try:
        app(prog_name="histomix")
    except OSError as error:  # of what the verbs write, their sessions have told already
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        sys.stderr.write("error: the output cannot be written: no space is left where it goes. Make room, run again.\n")
        os._exit(1)  # the interpreter would try to write the rest of it
