"""``histomix predict``: composition of slides that have no spatial transcriptomics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..common.words import counted
from .import_features import Level0, Origin, Scaled, TileUm, places_scale
from .session import Anonymise, Json, PseudonymKey, Quiet, Threads, TrustCode, Verify, session

_SHOWN = 5


def predict(
    slides: Annotated[
        list[str],
        typer.Argument(
            help="H&E slides, folders of slides, or sheets (CSV with the column slide, and mpp, name, patient, ...).",
            show_default=False,
            metavar="SLIDE...",
        ),
    ],
    head: Annotated[
        str, typer.Option("--head", help="Folder made by train, or a name that head list shows.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the maps, one folder a slide.", show_default=False)],
    mpp: Annotated[
        float | None,
        typer.Option("--mpp", help="Um per pixel of slides that do not say it.", show_default="from each slide"),
    ] = None,
    force_mpp: Annotated[
        bool, typer.Option("--force-mpp", help="Take --mpp for slides that say another one, too.")
    ] = False,
    at: Annotated[
        Path | None,
        typer.Option("--at", help="A spots file: predict at those places, in its order.", show_default=False),
    ] = None,
    stride_um: Annotated[
        float | None, typer.Option("--stride-um", help="Distance of the grid's tiles.", show_default="tile size")
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            "--regions", help="GeoJSON of regions of interest: only tiles in them are predicted.", show_default=False
        ),
    ] = None,
    keep_features: Annotated[
        bool, typer.Option("--keep-features", help="Keep the features of each slide for another head.")
    ] = False,
    reuse: Annotated[
        Path | None,
        typer.Option("--reuse", help="The --out of an earlier run whose kept features may serve.", show_default=False),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            help="Features of the slides' tiles that others computed, files or folders (SLIDE=FILE where one is called "
            "otherwise); no encoder is loaded.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option("--encoder", help="Which encoder made the --features.", show_default="from the files"),
    ] = None,
    tile_um: TileUm = None,
    origin: Origin = None,
    level0: Level0 = False,
    scaled: Scaled = None,
    gzip: Annotated[bool, typer.Option("--gzip", help="Write tiles.geojson.gz.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run that writes to --out.")] = False,
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            "--weights", help="Local weights of the head's encoder (one for each, if several).", show_default=False
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Tiles encoded at once.", show_default="32")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes of this machine.", show_default="none", metavar="N"),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help="A running Dask cluster: tcp://HOST:PORT or its file.", show_default=False),
    ] = None,
    resources: Annotated[
        str | None,
        typer.Option("--resources", help="What a worker must have (GPU=1).", show_default=False),
    ] = None,
    trust_code: TrustCode = False,
    verify: Verify = False,
    anonymise: Anonymise = False,
    pseudonym_key: PseudonymKey = None,
    as_json: Json = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Predict the composition of slides. All are attempted; each failure is named at the end."""
    with session(as_json, quiet, threads, goes_on=True) as run:
        from ..prediction import passed_over, predict_slides
        from ..sharing import head_folder

        results = predict_slides(
            slides,
            head_folder(head),
            out,
            mpp=mpp,
            at=at,
            stride_um=stride_um,
            regions=regions,
            keep_features=keep_features,
            reuse=reuse,
            features=features or None,
            encoder=encoder or None,
            tile_um=tile_um,
            origin=origin,
            scale=places_scale(level0, scaled),
            gzip=gzip,
            wait=wait,
            weights=weights,
            trust_code=trust_code,
            verify=verify,
            batch_size=batch_size,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            resources=resources,
            anonymise=anonymise,
            pseudonym_key=pseudonym_key,
            force_mpp=force_mpp,
            progress=run.progress,
        )
        others = passed_over(slides)
        for result in results:
            if result.error is not None:
                run.failed(result.error)
                continue
            kept = " (kept: nothing has changed)" if result.kept else ""
            run.say(f"{result.slide}: {counted(result.tiles, 'tile')}{kept}: {result.folder}")
            for remark in result.remarks:
                run.remark(f"warning: {result.slide}: {remark}")
        if others or len(results) > 1:
            run.say(_tally(len(results), len(run.failures), others))
        run.done(
            out=str(out),
            slides=[result.to_dict() for result in results],
            found=len(results),
            failed=len(run.failures),
            passed_over=[{"path": str(path), "why": why} for path, why in others],
        )


def _tally(found: int, failed: int, others: Sequence[tuple[Path, str]]) -> str:
    """How many slides there were, and what became of each file."""
    lines = [f"found {found}, done {found - failed}, failed {failed}, passed over {len(others)}"]
    for reason in dict.fromkeys(why for _, why in others):
        names = [path.name for path, why in others if why == reason]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"  passed over: {', '.join(names[:_SHOWN])}{more} ({reason})")
    return "\n".join(lines)
