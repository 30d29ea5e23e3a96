"""``histomix doctor``: what is installed, what can load, and what mends the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Threads, session

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


def doctor(
    encoder: Annotated[str | None, typer.Option("--encoder", help="Only this encoder.", show_default="all")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Say what is installed, which encoders can load now, and for each that cannot the one step that mends it."""
    with session(as_json, quiet, threads) as run:
        import os

        from ..encoders import availability, card, cards
        from ..provenance import versions

        installed = versions(*LIBRARIES)
        missing = [library for library in LIBRARIES if library not in installed]
        chosen = [card(encoder)] if encoder else cards()
        states = {one.name: availability(one.name) for one in chosen}
        for library, version in installed.items():
            run.say(f"  {library:18} {version}")
        for library in missing:
            run.say(f"  {library:18} missing: pip install {library}")
        run.say(f"  {'CPU threads':18} {threads or os.cpu_count()}")
        run.say("\nencoders")
        for name, state in states.items():
            run.say(f"  {name:18} {'ready' if state.loadable else state.reason}")
            if not state.loadable:
                run.say(f"  {'':18}   -> {state.mend}")
        run.done(
            installed=installed,
            missing=missing,
            encoders={name: {"loadable": s.loadable, "reason": s.reason, "mend": s.mend} for name, s in states.items()},
        )
        if missing or (encoder and not states[encoder].loadable):
            raise typer.Exit(1)
