"""The command line, run in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from histomix.cli.app import app


def histomix(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; an error that the program does not handle is raised."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
