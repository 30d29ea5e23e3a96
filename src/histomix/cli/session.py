"""What every verb shares: its common options, progress on stderr, one JSON object on stdout, and exit codes."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import HistomixError, InputError
from .events import events

if TYPE_CHECKING:
    from ..progress import Progress, TerminalBars

FAILED, REFUSED, INTERRUPTED = 1, 2, 130

#: An argument of Python in a message, with a value: a word in capitals or in quotes. What follows # is of a location.
_ARGUMENT = re.compile(r"(?<![#;\w.'-])([a-z][a-z_]+)=(\"[^\"]*\"|[A-Z]+\b)")
#: Work of these names only looks: what is refused after it is refused before anything was done.
_LOOKS = "look "
#: More than any machine has; the libraries take a number of their own choice, or none.
_MOST_THREADS = 4096
#: What numpy and scikit-learn take.
_LARGEST_SEED = 2**32 - 1
_GOES_ON = "the same command goes on where it stopped"
_ANEW = "nothing is left half-written; the same command begins anew"

#: What the system says of a path that no reader has foreseen, and what mends it.
_REFUSED_BY_THE_SYSTEM = {
    errno.ENAMETOOLONG: "Give it a shorter name (255 bytes at most)",
    errno.EACCES: "Check its permissions",
    errno.EPERM: "Check its permissions",
    errno.ELOOP: "It is a link that leads back to itself: name the file itself",
    errno.ENOTDIR: "A file stands where a folder is named: check the path",
}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks; errors still show.")]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", min=0, max=_LARGEST_SEED, help="Seed of everything random: the same command, the same numbers."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=_MOST_THREADS, help="CPU threads to use.", show_default="all", metavar="N"),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Let an encoder run code of its own (TorchScript, some zoo: models): it can do what you can.",
    ),
]
Verify = Annotated[
    bool,
    typer.Option("--verify", help="Read slides whole again, though neither sizes nor times of their files changed."),
]
Anonymise = Annotated[
    bool,
    typer.Option("--anonymise", help="Pseudonyms for slides, patients and regions; no tags, dates or paths in files."),
]
PseudonymKey = Annotated[
    Path | None,
    typer.Option(
        "--pseudonym-key", help="Key file of the pseudonyms; not in --out.", show_default="OUT.key.csv", metavar="FILE"
    ),
]
Sheet = Annotated[Path, typer.Argument(help="The cohort sheet (CSV or YAML).", show_default=False)]


class Session:
    """One run of a verb: where its words go, and whether work has begun."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.started = False
        self.failures: list[str] = []
        self.events = events()
        self._bars: TerminalBars | None = None
        self._tell: Progress | None = None

    def progress(self, task: str, done: int, total: int) -> None:
        """Show how far ``task`` is (see `histomix.progress.Progress`)."""
        self.started = self.started or (done > 0 and not task.startswith(_LOOKS))
        if self._tell is not None:
            self._tell(task, done, total)

    def say(self, text: str) -> None:
        """Print a line of the result for a person."""
        if not (self.as_json or self.quiet):
            self._print(text, err=False)

    def remark(self, text: str) -> None:
        """Print a line on stderr, above the progress bars where there are any."""
        self._print(text, err=True)

    def _print(self, text: str, *, err: bool) -> None:
        if err and self.events is not None:
            self.events.tell("remark", text)
            return
        text = _harmless(text)
        # While bars are live, a plain line would land in the middle of them.
        if self._bars is not None and (err or sys.stdout.isatty()):
            self._bars.print(text)
        else:
            typer.echo(text, err=err)

    def done(self, **facts: Any) -> None:
        """Print the result for a program."""
        if self.as_json:
            typer.echo(json.dumps({"ok": not self.failures, **facts, "failures": self.failures}, default=str))

    def failed(self, error: HistomixError) -> None:
        """Name a failure and go on; the exit code will be 1."""
        self.failures.append(in_options(str(error)))
        self.remark(f"failed: {in_options(str(error))}")


class _Remarks(logging.Handler):
    """The library's remarks, as plain lines on stderr."""

    def __init__(self, current: Session, level: int) -> None:
        super().__init__(level)
        self.current = current
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "note: " if record.levelno < logging.WARNING else "warning: "
        text = prefix + record.getMessage()
        # Several steps of one run meet the same facts; once is enough.
        if text not in self.said:
            self.said.add(text)
            self.current.remark(text)


@contextlib.contextmanager
def session(as_json: bool, quiet: bool, threads: int | None = None, *, goes_on: bool = False) -> Iterator[Session]:
    """Run the body of a verb: known errors become one message and an exit code, never a traceback.

    ``goes_on`` tells whether the verb keeps what it has done when it is interrupted.
    Exit code 2 when input was refused before work began, 1 when something failed after that.
    """
    if threads is not None:
        # Read by the numerical libraries when they are first imported, which the verbs do inside this block.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
    current = Session(as_json, quiet)
    logger = logging.getLogger("histomix")
    handler = _Remarks(current, logging.ERROR if quiet else logging.INFO)
    level = logger.level
    # tifffile tells of a damaged file by the log too; the error says it in words.
    theirs, silence = logging.getLogger("tifffile"), logging.NullHandler()
    theirs.addHandler(silence)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(), _bars(current):
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.showwarning = lambda message, *_args, **_kwargs: logger.warning("%s", message)
            yield current
    except HistomixError as error:
        code = REFUSED if isinstance(error, InputError) and not current.started else FAILED
        _refuse(current, error, code)
    except RecursionError as error:
        foreign: HistomixError = InputError(
            "a file is nested too deeply to be read", hint="Ask whoever made it for one that is not"
        )
        foreign.__cause__ = error
        _refuse(current, foreign, FAILED if current.started else REFUSED)
    except MemoryError as error:
        from ..common.memory import out_of_memory

        _refuse(current, out_of_memory(error), FAILED)
    except (OSError, RuntimeError) as error:
        refused = _refused_by_the_system(error)
        if refused is None:
            raise
        _refuse(current, refused, FAILED if current.started else REFUSED)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {_GOES_ON if goes_on else _ANEW}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        theirs.removeHandler(silence)
    if current.failures:
        raise typer.Exit(FAILED)


def _refused_by_the_system(error: OSError | RuntimeError) -> InputError | None:
    """The error of the family for what the system says of a path; None for anything else."""
    loop = re.match(r"Symlink loop from '(.*)'", str(error))  # what Path.resolve makes of it before Python 3.13
    if loop is not None:
        number, what, where = errno.ELOOP, os.strerror(errno.ELOOP), loop[1]
    elif isinstance(error, OSError) and error.errno in _REFUSED_BY_THE_SYSTEM:
        number, what = error.errno, error.strerror or "refused"
        where = error.filename if isinstance(error.filename, str) else None
    else:
        return None
    refused = InputError(f"cannot be used ({what})", where=where, hint=_REFUSED_BY_THE_SYSTEM[number])
    refused.__cause__ = error
    return refused


@contextlib.contextmanager
def _bars(current: Session) -> Iterator[None]:
    if current.quiet or current.events is not None:
        current._tell = current.events
        yield
        return
    from ..progress import Lines, TerminalBars

    live = sys.stderr.isatty() and not current.as_json
    teller: TerminalBars | Lines = TerminalBars() if live else Lines(current.remark)
    with teller as shown:
        current._tell = shown
        current._bars = shown if isinstance(shown, TerminalBars) else None
        try:
            yield
        finally:
            current._bars = current._tell = None


def _refuse(current: Session, error: HistomixError, code: int) -> None:
    if current.as_json:
        hint = None if error.hint is None else in_options(error.hint)
        facts = {"what": in_options(error.what), "where": error.where, "hint": hint}
        typer.echo(json.dumps({"ok": False, "error": facts, "failures": [*current.failures, in_options(str(error))]}))
    if current.events is not None:
        current.events.tell("error", in_options(str(error)))
    else:
        typer.echo(_harmless(f"error: {in_options(str(error))}"), err=True)
    raise typer.Exit(code)


def in_options(text: str) -> str:
    """A message of the library in the words of the command line: ``unit="relative abundance"`` is an option here."""
    text = re.sub(r" \(in Python [a-z_]+\)", "", text)
    return _ARGUMENT.sub(lambda found: f"--{found[1].replace('_', '-')} {found[2]}", text)


def _harmless(text: str) -> str:
    """Lines that order a terminal nothing: names of files and columns may be a stranger's, with marks that move it."""
    if all(line.isprintable() for line in text.split("\n")):
        return text
    from ..common.naming import visible

    return "\n".join(visible(line.expandtabs(), 1 << 16) for line in text.split("\n"))
