"""``histomix doctor``: what is installed, what can load, and what mends the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from .session import Json, Quiet, session

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "huggingface_hub",
    "onnxruntime",
    "openslide-python",
    "openslide-bin",
    "tifffile",
    "anndata",
    "scikit-learn",
)
#: Libraries that some encoders need, and the extra that brings each.
EXTRAS = {"lazyslide-models": "zoo"}


def _gpu() -> str:
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return "not known without torch"
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that torch can use"


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
        from ..provenance import versions

        installed = versions(*LIBRARIES)
        missing = [library for library in LIBRARIES if library not in installed]
        states = {name: availability(name) for name in ([encoder] if encoder else [one.name for one in cards()])}
        for library, version in installed.items():
            run.say(f"  {library:18} {version}")
        for library in missing:
            run.say(f"  {library:18} missing: pip install {library}")
        for library, extra in EXTRAS.items():
            if library not in versions(library):
                run.say(f'  {library:18} not installed; only zoo: encoders need it: pip install "histomix[{extra}]"')
        run.say(f"  {'CPU threads':18} {os.cpu_count()}")
        run.say(f"  {'GPU':18} {_gpu()}")
        run.say("\nencoders")
        for name, state in states.items():
            run.say(f"  {name:18} {'ready' if state.loadable else state.reason}")
            if not state.loadable:
                run.say(f"  {'':18}   -> {state.mend}")
        run.done(
            installed=installed,
            missing=missing,
            gpu=_gpu(),
            encoders={name: {"loadable": s.loadable, "reason": s.reason, "mend": s.mend} for name, s in states.items()},
        )
        if missing or (encoder and not states[encoder].loadable):
            raise typer.Exit(1)
