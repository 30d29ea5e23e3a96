"""Long work shows how far it is where somebody looks, and is silent elsewhere."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import histomix as hm
from histomix.progress import Lines, NotebookBars, Task, Tasks, TerminalBars, duration, part_of, progress_bars, silent

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
        assert "<script>" not in notebook[-1] and "&lt;script&gt;" in notebook[-1] and 'max="3"' in notebook[-1]
        report("<script>", 3, 3)
        report("second", 1, 1)
    assert "second" in notebook[-1] and "script" not in notebook[-1], "the place of what is over goes to the next"
    assert len(notebook) == 2, "what is drawn too soon after the last is left out, and the end never"


def test_a_notebook_is_not_written_to_in_vain(notebook: list[str]) -> None:
    with progress_bars(False):
        pass
    with progress_bars():
        pass
    assert notebook == []


def _seconds(n_items: int) -> float:
    """Of the processor, to tell of items as a run over a cohort that is done already does."""
    with contextlib.redirect_stderr(Terminal()), TerminalBars() as bars:
        bars("label", 0, n_items)
        start = time.process_time()
        for item in range(n_items):
            for done in (0, 3):
                bars(f"label S{item}", done, 3)
            bars("label", item + 1, n_items)
        return time.process_time() - start


def test_bars_cost_in_proportion_to_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TERM", "xterm-256color"), ("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1")):
        monkeypatch.setenv(name, value)
    few = max(min(_seconds(500) for _ in range(3)), 0.005)
    many = min(_seconds(2000) for _ in range(3))
    # Four times the items: 16 times the cost where each draws all that were before.
    assert many < 8 * few and many < 2.0


def test_few_bars_are_drawn_of_many_works() -> None:
    tasks = Tasks()
    tasks.told("label", 0, 2000)
    for item in range(2000):
        tasks.told(f"S{item}", 0, 2)
        assert [one.name for one in tasks.shown()] == ["label", f"S{item}"]
        tasks.told(f"S{item}", 2, 2)
        tasks.told("label", item + 1, 2000)
    assert [(one.name, one.done) for one in tasks.shown()] == [("label", 2000), ("S1999", 2)]
    for item in range(50):  # works that are never over
        tasks.told(f"lost {item}", 1, 2)
    assert len(tasks.shown()) == 8 and tasks.shown()[-1].name == "lost 49"


def test_speed_is_that_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("histomix.progress.time.monotonic", lambda: now)
    task = Task("embed")
    task.told(0, 1000)
    assert task.words == ("0/1,000", "", "")
    for second in range(1, 201):  # 600 that were there already, then one a second
        now = float(second)
        task.told(600 + second, 1000)
    assert task.speed == pytest.approx(1.0)
    assert task.words == ("800/1,000", "1/s", "3 min left")
    task.told(0, 1000)  # begun anew
    assert task.speed is None
    assert [duration(one) for one in (7.2, 61, 5000, 9000)] == ["7 s", "1 min", "83 min", "2.5 h"]


def test_a_log_gets_its_lines_though_nothing_is_told() -> None:
    said: list[str] = []
    with Lines(said.append, 0.05, 0.1) as lines:
        lines("train", 0, 5)
        lines("fit", 1, 1)
        time.sleep(0.5)
    assert 3 <= len(said) <= 7 and said[0] == "train: 0/5; fit: 1/1"
    count = len(said)
    time.sleep(0.15)
    assert len(said) == count
    with Lines(said.append, 0.0, 0.01):
        time.sleep(0.1)
    assert len(said) == count, "work that tells nothing is not spoken of"


def test_parts_are_told_of_where_there_are_several() -> None:
    told: list[tuple[str, int, int]] = []
    for total in (1, 2):
        with part_of(lambda *step: told.append(step), "predict", total) as over:
            for _ in range(total):
                over()
    assert told == [("predict", 0, 2), ("predict", 1, 2), ("predict", 2, 2)]
