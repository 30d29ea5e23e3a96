"""``histomix embed``: what an encoder sees at each spot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .session import Json, Quiet, Sheet, Threads, TrustCode, Verify, session

Encoder = Annotated[
    list[str],
    typer.Option(
        "--encoder",
        help="A name from: histomix encoders. Several share one pass over each slide, each with a folder of its own.",
    ),
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(
        "--weights",
        help="Local weights, a file or a folder, for use without a hub; with several encoders, once for each that "
        "brings none, in their order.",
        show_default=False,
    ),
]


def embed(
    sheet: Sheet,
    out: Annotated[Path, typer.Option("--out", help="Folder for the features.", show_default=False)],
    encoder: Encoder = ["builtin"],  # noqa: B006  (typer copies it)
    weights: Weights = None,
    fov_um: Annotated[
        float | None,
        typer.Option("--fov-um", help="Width of the tile around each spot, um.", show_default="the encoder's"),
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", help="auto, torch, onnx, openvino, or bf16 or int8 (features move).")
    ] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float16 or float32.")] = "float16",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Tiles encoded at once.", show_default="by free memory")
    ] = None,
    force_alignment: Annotated[
        bool, typer.Option("--skip-alignment-check", help="Embed even where the spots do not fit the image.")
    ] = False,
    trust_code: TrustCode = False,
    verify: Verify = False,
    as_json: Json = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Embed the H&E tile at each spot with a frozen encoder. Resumable: run the same command again."""
    with session(as_json, quiet, threads, goes_on=True) as run:
        from ..common.words import counted
        from ..embedding import embed as embed_cohort

        options: dict[str, Any] = {
            "weights": weights,
            "out": out,
            "dtype": dtype,
            "batch_size": batch_size,
            "threads": threads,
            "check_alignment": not force_alignment,
            "progress": run.progress,
            "fov_um": fov_um,
            "runtime": runtime,
            "trust_code": trust_code,
            "verify": verify,
        }
        by_encoder: dict[str, Any]
        if len(encoder) == 1:
            by_encoder = {encoder[0]: embed_cohort(sheet, encoder[0], **options)}
        else:
            by_encoder = embed_cohort(sheet, encoder, **options)
        first = next(iter(by_encoder.values()))
        tiles = sum(shape[0] for shape in first.shapes.values())
        dims = {name: next(iter(features.shapes.values()))[1] for name, features in by_encoder.items()}
        words = ", ".join(f"{dim} features each ({name})" for name, dim in dims.items())
        run.say(f"{counted(tiles, 'tile')} of {counted(len(first), 'section')}, {words}: {out}")
        facts = {"encoder": encoder[0], "dim": dims[encoder[0]]} if len(encoder) == 1 else {"encoders": dims}
        run.done(out=str(out), sections=list(first), tiles=tiles, **facts)
