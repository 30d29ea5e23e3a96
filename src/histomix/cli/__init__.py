"""The command line: one thin file per verb, each importing its rooms only when it runs."""

from __future__ import annotations


def main() -> None:
    """Run ``histomix``."""
    from ..common.quiet import settle_libraries
    from .app import app

    settle_libraries()

    app(prog_name="histomix")
