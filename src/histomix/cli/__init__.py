"""The command line: one thin file per verb, each importing its rooms only when it runs."""

from __future__ import annotations


def main() -> None:
    """Run ``histomix``."""
    from .app import app

    app(prog_name="histomix")
