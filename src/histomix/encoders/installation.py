"""What is installed, which encoders can load, and what mends the rest."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..extras import EXTRAS, mending, python_version, requirements, shortfalls, unavailable
from ..provenance import versions
from .cards import cards
from .golden import KNOWN, GoldenCheck, check_golden
from .load import Availability, availability

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Extra:
    """One of the extras.

    Attributes
    ----------
    complete
        Whether all of it is here.
    missing
        Its libraries that are not, each with why.
    hint
        How to get it; empty where it is complete.
    """

    complete: bool
    missing: dict[str, str]
    hint: str


@dataclass(frozen=True)
class Installation:
    """What `doctor` found.

    Attributes
    ----------
    installed
        Libraries of the core, with their versions.
    missing
        Those of them that are absent or of a version that will not do, each with why.
    command
        What brings them; empty where nothing is missing.
    torch, gpu
        Which build of torch is here, and the GPU that it can use.
    threads
        CPU threads.
    extras, encoders
        By name. No extras are known where histomix runs from its sources and was never installed.
    golden
        By encoder, where golden pairs were asked for.
    """

    installed: dict[str, str]
    missing: dict[str, str]
    command: str
    torch: str
    gpu: str
    threads: int | None
    extras: dict[str, Extra] = field(default_factory=dict)
    encoders: dict[str, Availability] = field(default_factory=dict)
    golden: dict[str, GoldenCheck] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For a program."""
        return {
            "installed": self.installed,
            "missing": sorted(self.missing),
            "torch": self.torch,
            "gpu": self.gpu,
            "extras": {name: asdict(one) for name, one in self.extras.items()},
            "encoders": {
                name: {"loadable": one.loadable, "reason": one.reason, "hint": one.hint}
                for name, one in self.encoders.items()
            },
            **({"golden": {name: one.to_dict() for name, one in self.golden.items()}} if self.golden else {}),
        }

    def text(self) -> str:
        """For a person: each fact in a line, and under what is amiss the command that mends it."""
        lines = [_line(library, self.missing.get(library, version)) for library, version in self.installed.items()]
        lines += [_line(library, "missing") for library in sorted(set(self.missing) - set(self.installed))]
        if self.command:
            lines.append(_line("", f"  -> {self.command}"))
        if not self.extras:
            lines.append(_line("", "what it needs is not known: it runs from its sources"))
            lines.append(_line("", "  -> pip install -e ."))
        lines += [_line("torch is", self.torch), _line("CPU threads", str(self.threads)), _line("GPU", self.gpu)]
        lines += ["", f"extras on Python {python_version()}", *self._extras(), "", "encoders"]
        for name, state in self.encoders.items():
            lines.append(_line(name, "ready" if state.loadable else state.reason))
            if not state.loadable:
                lines.append(_line("", f"  -> {state.hint}"))
        if self.golden:
            lines += ["", *(one.text() for one in self.golden.values())]
        return "\n".join(lines)

    def _extras(self) -> list[str]:
        """Each extra in a line, and one command for all that can be had."""
        lines, wanted = [], []
        for name, one in self.extras.items():
            absent = ", ".join(
                library if why == "missing" else f"{library} ({why})" for library, why in one.missing.items()
            )
            lines.append(_line(name, f"{'complete' if one.complete else f'missing: {absent}'} ({EXTRAS[name]})"))
            if unavailable(name):
                lines.append(_line("", f"  -> {one.hint}"))
            elif one.missing:
                wanted.append(name)
        return [*lines, *([_line("", f'  -> pip install "histomix[{",".join(wanted)}]"')] if wanted else [])]


def doctor(
    encoder: str | None = None,
    *,
    golden: bool = False,
    weights: str | os.PathLike[str] | None = None,
    pair: str | os.PathLike[str] | None = None,
) -> Installation:
    """Say what is installed, which encoders can load now, and for each that cannot the one step that mends it.

    Parameters
    ----------
    encoder
        Only this encoder: a name, a card file or ``zoo:NAME``; None: all that are known.
    golden
        Run the golden pair of the encoder (of every one that has a published pair): whether the weights on this machine
        are what they claim to be. See `histomix.encoders.golden.check_golden`.
    weights, pair
        Local weights, and a folder with a pair, for ``golden``.

    Raises
    ------
    EncoderError
        There is no encoder of that name.
    InputError
        A pair cannot be read; or weights or a pair were given without naming the encoder.

    Examples
    --------
    >>> found = hm.doctor("builtin")
    """
    if not (golden and encoder) and (weights is not None or pair is not None):
        raise InputError(
            "weights and a pair are of one encoder", hint="Name it: histomix doctor --encoder NAME --golden"
        )
    core = requirements()
    missing = shortfalls(core)
    words = " ".join(f'"{one.name}{one.specifier}"' for one in core if one.name in missing)
    build, gpu = _torch()
    names = [one.name for one in cards()] if encoder is None else [encoder]
    return Installation(
        installed=versions(*(one.name for one in core)),
        missing=missing,
        command=f"pip install {words}" if missing else "",
        torch=build,
        gpu=gpu,
        threads=os.cpu_count(),
        extras={name: _extra(name) for name in EXTRAS} if core else {},
        encoders={name: availability(name) for name in names},
        golden={name: check_golden(name, weights, pair) for name in (names if encoder else KNOWN)} if golden else {},
    )


def _line(name: str, words: str) -> str:
    return f"  {name:18} {words}"


def _extra(name: str) -> Extra:
    missing = shortfalls(requirements(name))
    return Extra(not missing, missing, mending(name) if missing else "")


def _torch() -> tuple[str, str]:
    """Which build of torch is here, and the GPU that it can use."""
    if importlib.util.find_spec("torch") is None:
        return "missing", "not known without torch"
    import torch

    there = torch.cuda.is_available()
    kind = "a CPU build"
    if torch.version.hip:
        kind = f"a build for ROCm {torch.version.hip}"
    elif torch.version.cuda:
        kind = f"a build for CUDA {torch.version.cuda}"
        kind += "" if there else "; without a GPU the CPU build does the same in 5 GB less (docs/install.md)"
    elif torch.backends.mps.is_available():
        kind = "a CPU and Metal build"
    gpu = torch.cuda.get_device_name(0) if there else "none that torch can use"
    return f"{torch.__version__}, {kind}", gpu
