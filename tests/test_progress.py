"""Long work shows how far it is where somebody looks, and is silent elsewhere."""

from __future__ import annotations

import contextlib
import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import histomix as hm
from histomix.progress import NotebookBars, progress_bars, silent

from .conftest import Job


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A kernel that keeps what it was told to display."""
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)

    def display(page: str, display_id: bool) -> Any:
        assert display_id
        shown.append(page)
        return handle

    module, inner = ModuleType("IPython"), ModuleType("IPython.display")
    module.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    inner.HTML, inner.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    return shown


def test_a_pipe_is_told_nothing(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as report:
        assert report is silent
    hm.label(job.sheet, reference=job.reference)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_bars(job: Job) -> None:
    with contextlib.redirect_stderr(Terminal()) as terminal:
        hm.label(job.sheet, reference=job.reference)
    assert "label" in terminal.getvalue() and "2/2" in terminal.getvalue()


def test_false_and_a_function_show_none(job: Job) -> None:
    told: list[tuple[str, int, int]] = []
    with contextlib.redirect_stderr(Terminal()) as terminal:
        hm.label(job.sheet, reference=job.reference, progress=False)
        hm.label(job.sheet, reference=job.reference, progress=lambda *step: told.append(step))
    assert terminal.getvalue() == "" and told[-1] == ("label", 2, 2)


def test_the_bars_end_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")

    def work() -> None:
        with progress_bars() as report:
            report("[red]work[/]", 1, 2)
            raise ZeroDivisionError

    with contextlib.redirect_stderr(Terminal()) as terminal, pytest.raises(ZeroDivisionError):
        work()
    written = terminal.getvalue()
    assert "[red]work[/]" in written, "a name is no markup"
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l"), "the cursor is back"


def test_a_notebook_shows_html_in_which_names_stay_text(notebook: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histomix.progress._REDRAW_S", 3600.0)
    with progress_bars() as report:
        assert isinstance(report, NotebookBars)
        report("<script>", 0, 3)
        report("<script>", 1, 3)
        report("<script>", 3, 3)
        report("second", 1, 1)
    assert "<script>" not in notebook[-1] and "&lt;script&gt;" in notebook[-1]
    assert 'value="3" max="3"' in notebook[-1] and "second" in notebook[-1]
    assert len(notebook) == 3, "what is drawn too soon after the last is left out, and the end never"


def test_a_notebook_is_not_written_to_in_vain(notebook: list[str]) -> None:
    with progress_bars(False):
        pass
    with progress_bars():
        pass
    assert notebook == []
