"""Each case in a process of its own, forked from one that has imported histomix, within bounds of time and memory."""

from __future__ import annotations

import io
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from .case import ERROR, RIGHT, TOLD, UNTOLD, Case, Outcome, Role
from .judge import error_fault, told_lines, wrong_numbers
from .materials import Materials

#: Bounds of one case.
SECONDS = 40
BYTES = 3 << 30
_FAILED_HERE = 97
_UNREADABLE = re.compile(r'"unreadable_tiles": [1-9]')


@dataclass(frozen=True)
class Whole:
    """What an undamaged role gave: its numbers, what is kept, and what was said beside."""

    result: pd.DataFrame
    kept: pd.DataFrame | None
    told: frozenset[str]


class Bench:
    """Runs cases; ``folder`` holds their rooms while they run."""

    def __init__(self, materials: Materials, folder: Path, seed: int) -> None:
        self.materials, self.folder, self.seed = materials, folder, seed
        self._whole: dict[str, Whole] = {}
        self._broken: dict[str, str] = {}

    def run(self, cases: Iterable[Case], jobs: int = 1) -> Iterator[Outcome]:
        """The outcome of each case, as they end."""
        waiting = list(cases)[::-1]
        running: dict[int, tuple[Case, float]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                case = waiting.pop()
                broken = self._prepare(case.role)
                if broken:
                    yield Outcome(case, "lost work", f"its whole input is refused: {broken}")
                    continue
                self._place(case.name).mkdir(parents=True)
                running[_forked(partial(self._child, case), self._place(case.name))] = case, time.monotonic()
            time.sleep(0.005)
            for pid, (case, began) in list(running.items()):
                seconds = time.monotonic() - began
                status = _ended(pid, seconds)
                if status is not None:
                    del running[pid]
                    yield self._outcome(case, status, seconds)

    def _prepare(self, role: Role) -> str:
        """Make the whole input of a role, and its result, once; what goes wrong, in words."""
        if role.name in self._whole:
            return ""
        if role.name in self._broken:
            return self._broken[role.name]
        source = self._place(f"{role.name}/role")
        (source / "room").mkdir(parents=True)

        def child() -> None:
            os.chdir(source / "room")
            role.make(source / "room", self.materials)
            shutil.copytree(source / "room", source / "run", symlinks=True)
            os.chdir(source / "run")
            code = _command(role.argv(source / "run", self.materials), source)
            if code:
                raise RuntimeError(f"the whole input of {role.name} is refused")
            role.result(source / "run").to_csv(source / "result.csv")
            if role.kept is not None:
                role.kept(source / "run").to_csv(source / "kept.csv")

        pid = _forked(child, source)
        if os.waitpid(pid, 0)[1]:
            said = "\n".join(_text(source / name) for name in ("trace", "stderr"))
            self._broken[role.name] = said
            return said
        kept = _frame(source / "kept.csv") if role.kept is not None else None
        self._whole[role.name] = Whole(_frame(source / "result.csv"), kept, told_lines(_text(source / "stderr")))
        return ""

    def _child(self, case: Case) -> None:
        place = self._place(case.name)
        room = place / "run"
        shutil.copytree(self._place(f"{case.role.name}/role") / "room", room, symlinks=True)
        os.chdir(room)
        case.damage(room / case.role.file, np.random.default_rng((self.seed, zlib.crc32(case.name.encode()))))
        resource.setrlimit(resource.RLIMIT_AS, (_held_bytes() + BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = _command(case.role.argv(room, self.materials), place)
        (place / "code").write_text(str(code))
        whole = self._whole[case.role.name]
        wrong = ""
        if code == 0 and case.expect not in (ERROR, UNTOLD):
            told = bool(self._told(case)) or bool(_UNREADABLE.search(_text(place / "stdout")))
            if not (told and case.expect == TOLD):
                wrong = wrong_numbers(
                    case.role.result(room), whole.result, case.role.tolerance, told and case.expect != RIGHT
                )
        elif code == 1 and whole.kept is not None and case.role.kept is not None:
            wrong = wrong_numbers(case.role.kept(room), whole.kept, case.role.tolerance, False)
        (place / "wrong").write_text(wrong)

    def _told(self, case: Case) -> frozenset[str]:
        return told_lines(_text(self._place(case.name) / "stderr")) - self._whole[case.role.name].told

    def _outcome(self, case: Case, status: int, seconds: float) -> Outcome:
        place = self._place(case.name)
        kind, detail = self._judged(case, status, place)
        told = self._told(case)
        if kind in ("right", "right error"):
            shutil.rmtree(place, ignore_errors=True)
        return Outcome(case, kind, detail, seconds, told)

    def _judged(self, case: Case, status: int, place: Path) -> tuple[str, str]:
        said, trace = _text(place / "stderr"), _text(place / "trace")
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            late = number in (signal.SIGKILL, signal.SIGXCPU)
            return ("hang", f"over {SECONDS} s") if late else ("crash", signal.Signals(number).name)
        if not (place / "code").exists():
            # It is the command that ended the process, or the damage that could not be done.
            return ("traceback", trace[-2000:]) if trace else ("crash", f"exit status {os.WEXITSTATUS(status)}")
        code, wrong = int((place / "code").read_text()), _text(place / "wrong")
        if "Traceback (most recent call last)" in said or trace:
            return "traceback", (said + trace)[-2000:]
        if code == 0:
            if case.expect == ERROR:
                return "silent wrong", "accepted: " + said[-300:]
            return ("silent wrong", wrong) if wrong else ("right", "")
        if wrong:
            return "lost work", wrong
        fault = error_fault(said, _text(place / "stdout"), (case.role.file, *case.role.names))
        if case.expect == RIGHT:
            return "lost work", "refused: " + said[-600:]
        return ("unclear", f"{fault}: {said[-600:]}") if fault else ("right error", "")

    def _place(self, name: str) -> Path:
        return self.folder / name


def _forked(child: Callable[[], object], place: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    code = _FAILED_HERE
    try:
        child()
        code = 0
    except BaseException:  # noqa: BLE001 - the process ends here, and its parent reads what happened
        (place / "trace").write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(code)


def _command(argv: list[str], place: Path) -> int:
    """Run the program as the shell would; its exit code. What it says lies in ``place``."""
    from histomix.cli import main

    for number, name in ((0, os.devnull), (1, place / "stdout"), (2, place / "stderr")):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (_stream(number) for number in (1, 2))
    sys.argv = ["histomix", *argv]
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does: a traceback and 1
        traceback.print_exc()
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _stream(number: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), encoding="utf-8")


def _ended(pid: int, seconds: float) -> int | None:
    """The status of a child that has ended; one that is over its time is ended, with all that it started."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        return status
    if seconds > SECONDS:
        os.killpg(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    return None


def _held_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, index_col=0, float_precision="round_trip", dtype={0: str}, keep_default_na=True)
