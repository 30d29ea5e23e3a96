"""Public cohorts by name: fetched, checked, and with a sheet that is ready to use."""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.cache import cache_folder
from ..common.naming import spreadsheet_cell
from ..common.transfer.download import RemoteFile, download
from ..errors import DownloadError, MissingDownloadError, RefusedDownloadError
from ..progress import Progress, progress_bars
from ..provenance import atomic_path, write_json
from .catalogue import Hest, public_cohort
from .public import PublicCohort

SHEET = "sheet.csv"
_FIRST = ("section", "donor", "spots", "image")

_log = logging.getLogger(__name__)


def fetch_cohort(
    name: str,
    out: str | os.PathLike[str] | None = None,
    token: str | None = None,
    mirror: str | None = None,
    progress: Progress | bool = True,
) -> Path:
    """Bring a public cohort here and write its cohort sheet.

    Files that are there are kept, a broken transfer goes on where it stopped, and each file is checked against its
    published digest where there is one; else, when it is used again, against the one it arrived with. Files put there
    by hand are taken as well.

    Parameters
    ----------
    name
        ``"her2st"``, ``"stnet"``, ``"wu2021-visium"`` or ``"hist2cell-lung"``; ``"10x:SAMPLE"`` or
        ``"10x:SAMPLE@VERSION"``, a Visium sample of 10x Genomics and the version of Space Ranger in its address; or
        ``"hest:ID"``, a sample of HEST-1k.
    out
        Folder of the cohort; None: ``<name>`` in the cache (see `histomix.common.cache`).
    token
        The user's token of the Hugging Face hub, for HEST-1k; None: ``HF_TOKEN``, or the one of ``hf auth login``.
    mirror
        Address of a server that holds the same paths under ``<mirror>/<host>/``, for networks without the internet.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told the name of the file, bytes here and
        bytes in all.

    Returns
    -------
    Path
        The sheet.

    Raises
    ------
    InputError
        There is no public cohort of that name.
    DownloadError
        Something could not be brought; the message says what to download by hand, and where to put it.
    MissingExtraError
        aiohttp is not installed.
    StorageError
        Something cannot be written, the disk has no room for it, or others may have filled the cache.

    Examples
    --------
    It downloads.

    >>> sheet = hm.fetch_cohort("her2st")  # doctest: +SKIP
    """
    cohort = public_cohort(name)
    folder = Path(out) if out is not None else cache_folder(name.replace(":", "-").replace("@", "-"))
    # The token is for the hub alone: no mirror sees it.
    headers = _authorisation(token) if isinstance(cohort, Hest) and mirror is None else {}

    try:
        with progress_bars(progress) as report:
            rows = cohort.bring(folder, lambda file, target: download(_at(mirror, file), target, headers, report))
    except DownloadError as error:
        hint = error.hint
        if isinstance(error, RefusedDownloadError) and isinstance(cohort, Hest):
            hint = f"Accept the terms at {cohort.page} and give your token with --token"
        elif isinstance(error, MissingDownloadError | RefusedDownloadError):
            hint = "Run the same command again to go on"
        raise DownloadError(f"{error.what}{_instead(cohort, folder)}", where=error.where, hint=hint) from error
    sheet = folder / SHEET
    write_sheet(sheet, rows)
    facts = {key: getattr(cohort, key) for key in ("name", "title", "licence", "citation")}
    write_json(folder / "cohort.json", {**facts, "sections": len(rows)})
    _log.info("%s. Licence: %s. Please cite: %s", cohort.title, cohort.licence, cohort.citation)
    return sheet


def _at(mirror: str | None, file: RemoteFile) -> RemoteFile:
    """Where a file is to be had."""
    if mirror is None:
        return file
    return dataclasses.replace(file, url=f"{mirror.rstrip('/')}/{file.url.partition('://')[2]}")


def _instead(cohort: PublicCohort, folder: Path) -> str:
    lines = "".join(f"\n  - {line}" for line in cohort.by_hand())
    return f".\nThe files can also be downloaded by hand and put into {folder}:{lines}\n"


def write_sheet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the sheet of a cohort from its rows; the same columns stand first in every one."""
    columns = [*_FIRST, *dict.fromkeys(key for row in rows for key in row if key not in _FIRST)]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        for row in rows:
            # Written on Windows, read on a cluster; what a server says of a sample must be no formula.
            plain = {key: value.as_posix() if isinstance(value, Path) else value for key, value in row.items()}
            writer.writerow({key: spreadsheet_cell(value) for key, value in plain.items()})


def _authorisation(token: str | None) -> dict[str, str]:
    from huggingface_hub import get_token

    bearer = token or get_token()
    return {"Authorization": f"Bearer {bearer}"} if bearer else {}
