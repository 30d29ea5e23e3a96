"""Commands that are killed at a seeded moment and given again, beside the same command left alone."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import histomix as hm

VERBS = ("label", "embed", "train", "evaluate", "predict", "run")
#: What tells when and how a result came about, and not what it is.
_CLOCK = frozenset(
    ("cost", "started", "finished", "queued", "seconds", "owner", "kept", "embedded", "remarks", "predict_seconds")
)
_START = "import sys; from histomix.cli import main; sys.argv[0] = 'histomix'; main()"


@dataclass(frozen=True)
class Kill:
    """What became of one killed command.

    Attributes
    ----------
    verb
        The command.
    after_s, whole_s, again_s
        Seconds until it was killed, that it takes when it is left alone, and that the same command took afterwards.
    redone_s
        Seconds of the processor for work that was done twice, starting the program included.
    faults
        In what the result differs from that of the command left alone; empty where it is the same.
    notes
        What the second run said of what it kept.
    """

    verb: str
    after_s: float
    whole_s: float
    again_s: float
    redone_s: float
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line of the table."""
        verdict = "same bytes" if not self.faults else "; ".join(self.faults[:3])
        kept = f" ({'; '.join(self.notes)})" if self.notes else ""
        return (
            f"{self.verb:<9} killed after {self.after_s:5.1f} of {self.whole_s:5.1f} s, again {self.again_s:5.1f} s, "
            f"redone {self.redone_s:5.1f} s: {verdict}{kept}"
        )


@dataclass(frozen=True)
class _Done:
    code: int
    said: str
    wall_s: float
    cpu_s: float


class Killing:
    """A small phantom, the commands on it left alone, and the same commands killed.

    Parameters
    ----------
    folder
        An empty folder; everything is written into it.
    heads
        Of `evaluate`; the last is that of `train`.
    donors, size_um
        Of the phantom.
    """

    def __init__(self, folder: Path, heads: Sequence[str] = ("ridge", "mlp"), donors: int = 3, size_um: float = 700):
        self.folder = folder
        self.sheet = hm.make_phantom(folder / "phantom", seed=11, donors=donors, size_um=(size_um, size_um))
        self.heads = list(heads)
        self.whole_s: dict[str, float] = {}
        self._whole_cpu_s: dict[str, float] = {}

    def command(self, verb: str, out: Path) -> list[str]:
        """Arguments of one command, on what the commands before it have made."""
        made, sheet = self.folder / "alone", str(self.sheet)
        reference = ["--reference", str(self.sheet.parent / "reference.csv")]
        ready = ["--features", str(made / "embed"), "--labels", str(made / "label")]
        words = {
            "label": [sheet, *reference],
            "embed": [sheet],
            "train": [sheet, *ready, "--head", self.heads[-1]],
            "evaluate": [sheet, *ready, "--heads", ",".join(self.heads)],
            "predict": [str(self.sheet.parent / "images"), "--head", str(made / "train"), "--stride-um", "60"],
            "run": [sheet, *reference],
        }
        return [verb, *words[verb], "--out", str(out)]

    def leave_alone(self, verbs: Sequence[str] = VERBS) -> None:
        """Give every command once, without killing it."""
        for verb in verbs:
            done = self._given(verb, self.folder / "alone" / verb)
            self.whole_s[verb], self._whole_cpu_s[verb] = done.wall_s, done.cpu_s
            if done.code:
                raise RuntimeError(f"{verb} failed: {done.said}")

    def kill(self, verb: str, fraction: float, name: str) -> Kill:
        """Kill one command after a fraction of its time, give it again, and compare."""
        out = self.folder / name / verb
        killed = self._given(verb, out, fraction * self.whole_s[verb])
        again = self._given(verb, out)
        faults = [f"exit {again.code}: {again.said.strip()[-300:]}"] if again.code else []
        faults += differences(self.folder / "alone" / verb, out)
        faults += [f"{path.name} is left beside --out" for path in out.parent.iterdir() if path != out]
        lines = again.said.splitlines()
        notes = [line.split(": ", 1)[1] for line in lines if line.startswith("note: ") and "kept" in line]
        redone = max(0.0, killed.cpu_s + again.cpu_s - self._whole_cpu_s[verb])
        return Kill(verb, killed.wall_s, self.whole_s[verb], again.wall_s, redone, faults, notes)

    def _given(self, verb: str, out: Path, most_s: float | None = None) -> _Done:
        """Give a command, and kill it after so many seconds."""
        begun, cpu = time.monotonic(), _children_s()
        process = self._start(verb, out)
        try:
            said = process.communicate(timeout=most_s)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            said = process.communicate()[1]
        return _Done(process.returncode, said, time.monotonic() - begun, _children_s() - cpu)

    def _start(self, verb: str, out: Path) -> subprocess.Popen[str]:
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", _START, *self.command(verb, out)]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        environment = {**os.environ, "HISTOMIX_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(command, text=True, env=environment, start_new_session=True, **streams)  # type: ignore[call-overload,no-any-return]


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def moments(seed: int, count: int, verbs: Sequence[str] = VERBS) -> list[tuple[str, float]]:
    """Verbs in turn, each with the fraction of its time after which it is killed."""
    rng = random.Random(seed)
    return [(verbs[number % len(verbs)], rng.uniform(0.05, 0.99)) for number in range(count)]


def differences(expected: Path, actual: Path) -> list[str]:
    """Files that are missing, too many, or not the same byte by byte but for the clock."""
    theirs, ours = contents(expected), contents(actual)
    faults = [f"{name} is missing" for name in sorted(set(theirs) - set(ours))]
    faults += [f"{name} is left" for name in sorted(set(ours) - set(theirs))]
    return faults + [f"{name} differs" for name in sorted(set(ours) & set(theirs)) if ours[name] != theirs[name]]


def contents(folder: Path) -> dict[str, Any]:
    """Every file by its name, hidden ones too: bytes, or of JSON the facts without those of the clock."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found[name] = _timeless(json.loads(path.read_bytes())) if path.suffix == ".json" else path.read_bytes()
        elif not any(path.iterdir()):
            found[f"{path.relative_to(folder).as_posix()}/"] = None
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in _CLOCK}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
