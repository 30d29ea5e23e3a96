"""``histomix doctor``: what is installed, what can load, and what mends the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .session import Json, Quiet, Session, session

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def doctor(
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Only this encoder: a name, a card file or zoo:NAME.", show_default="all"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is installed, which encoders can load now, and for each that cannot the one step that mends it."""
    with session(as_json, quiet) as run:
        import os

        from ..encoders import availability, cards
        from ..extras import EXTRAS, requirements, shortfalls
        from ..provenance import versions

        core = requirements()
        installed = versions(*(one.name for one in core))
        missing = shortfalls(core)
        for library, version in installed.items():
            run.say(f"  {library:18} {missing.get(library, version)}")
        for library in sorted(set(missing) - set(installed)):
            run.say(f"  {library:18} missing")
        if missing:
            run.say(f"  {'':18}   -> {_command(core, missing)}")
        if not core:
            run.say(f"  {'':18} what it needs is not known: it runs from its sources\n{'':20}   -> pip install -e .")
        torch = _torch()
        run.say(f"  {'torch is':18} {torch['build']}")
        run.say(f"  {'CPU threads':18} {os.cpu_count()}")
        run.say(f"  {'GPU':18} {torch['gpu']}")
        extras = {name: _extra(name, shortfalls(requirements(name))) for name in EXTRAS} if core else {}
        _say_extras(run, extras)
        states = {name: availability(name) for name in ([encoder] if encoder else [one.name for one in cards()])}
        run.say("\nencoders")
        for name, state in states.items():
            run.say(f"  {name:18} {'ready' if state.loadable else state.reason}")
            if not state.loadable:
                run.say(f"  {'':18}   -> {state.hint}")
        run.done(
            installed=installed,
            missing=sorted(missing),
            torch=torch["build"],
            gpu=torch["gpu"],
            extras=extras,
            encoders={name: {"loadable": s.loadable, "reason": s.reason, "hint": s.hint} for name, s in states.items()},
        )
        if missing or (encoder and not states[encoder].loadable):
            raise typer.Exit(1)


def _command(needed: list[Requirement], missing: dict[str, str]) -> str:
    """The one command that brings what is missing of the core."""
    words = " ".join(f'"{one.name}{one.specifier}"' for one in needed if one.name in missing)
    return f"pip install {words}"


def _torch() -> dict[str, str]:
    """Which build of torch is here, and the GPU that it can use."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return {"build": "missing", "gpu": "not known without torch"}
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
    return {"build": f"{torch.__version__}, {kind}", "gpu": gpu}


def _extra(name: str, missing: dict[str, str]) -> dict[str, Any]:
    from ..extras import mending

    return {"complete": not missing, "missing": missing, "hint": mending(name) if missing else ""}


def _say_extras(run: Session, extras: dict[str, dict[str, Any]]) -> None:
    """Each extra in a line, and one command for all that can be had."""
    from ..extras import EXTRAS, UNAVAILABLE, python_version

    run.say(f"\nextras on Python {python_version()}")
    for name, state in extras.items():
        absent = ", ".join(
            f"{library} ({why})" if why != "missing" else library for library, why in state["missing"].items()
        )
        run.say(f"  {name:18} {'complete' if state['complete'] else f'missing: {absent}'} ({EXTRAS[name]})")
        if (name, python_version()) in UNAVAILABLE:
            run.say(f"  {'':18}   -> {state['hint']}")
    wanted = [name for name, one in extras.items() if one["missing"] and (name, python_version()) not in UNAVAILABLE]
    if wanted:
        run.say(f'  {"":18}   -> pip install "histomix[{",".join(wanted)}]"')
