"""What every public cohort is: where its files are had, under which licence, and the rows of its sheet."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..common.geometry.pitch import spot_pitch
from ..common.naming import visible
from ..common.transfer.digests import note_digest
from ..common.transfer.download import RemoteFile
from ..common.transfer.remote_names import local_path
from ..errors import DownloadError, InputError

Row = dict[str, Any]
#: Brings one file: (file, folder) -> path.
Bring = Callable[[RemoteFile, Path], Path]

#: Distance between neighbouring spots of legacy Spatial Transcriptomics (Stahl et al., Science 353:78, 2016).
_LEGACY_PITCH_UM = 200.0
#: More than any of these cohorts has: bytes of a listing, files, and bytes of an archive of Space Ranger's small files.
MOST_LISTING, MOST_FILES, _MOST_UNPACKED = 64 << 20, 5000, 4 << 30


class PublicCohort(Protocol):
    """A public cohort by name."""

    @property
    def name(self) -> str:
        """How it is asked for."""

    @property
    def title(self) -> str:
        """What it is."""

    @property
    def licence(self) -> str:
        """What using it asks for."""

    @property
    def citation(self) -> str:
        """How its authors ask to be named."""

    def bring(self, folder: Path, bring: Bring) -> list[Row]:
        """Bring all files into a folder; the rows of the cohort sheet, paths relative to the folder."""

    def rows(self, folder: Path) -> list[Row]:
        """The rows of the cohort sheet, from what a folder holds; empty where it holds nothing of the cohort."""

    def by_hand(self) -> Sequence[str]:
        """What to download by hand, and where to put it in the folder, one line each."""


def legacy_mpp(xy_px: np.ndarray, array_xy: np.ndarray, where: Path) -> float:
    """Um per px of an image, from spots that are 200 um apart.

    Parameters
    ----------
    xy_px, array_xy
        Places of the spots in the image and on the array, ``(n, 2)``.
    where
        Their file, for messages.

    Raises
    ------
    DownloadError
        They are too few.
    """
    pitch = spot_pitch(xy_px, array_xy)
    if pitch is None:
        raise DownloadError("has too few spots to find the um per px", where=where, hint="Remove it, and fetch again")
    return _LEGACY_PITCH_UM / pitch.px


def unpack(archive: Path, target: Path, name: str = "spatial") -> None:
    """Unpack the folder ``name`` of a tar, whole or not at all: files and folders, no links."""
    partial = target / ".unpacking"
    taken = {"files": 0, "bytes": 0}

    def plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
        if not (member.isfile() or member.isdir()):
            raise tarfile.ReadError(f"{visible(member.name)!r} is a link or a device")
        name = member.name.removeprefix("./").rstrip("/") or "."
        if name != ".":
            local_path(folder, name, where=str(archive))
        taken["files"] += 1
        taken["bytes"] += member.size
        if taken["files"] > MOST_FILES or taken["bytes"] > _MOST_UNPACKED:
            raise tarfile.ReadError("it is larger than any of its kind")
        return tarfile.data_filter(member, folder)

    if partial.is_symlink():  # of somebody who would have the files written elsewhere
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
    try:
        with tarfile.open(archive) as files:
            files.extractall(partial, filter=plain)
    except InputError:
        archive.unlink()
        raise
    except (tarfile.TarError, EOFError, OSError) as error:
        archive.unlink()
        raise DownloadError(
            f"cannot be unpacked ({error})", where=archive, hint="Run the same command again"
        ) from error
    wanted = next((place for place in sorted(partial.rglob(name)) if place.is_dir()), None)
    if wanted is None:
        raise DownloadError(f"holds no folder {name}", where=archive, hint="Check that this is the archive")
    wanted.replace(target / name)
    shutil.rmtree(partial, ignore_errors=True)
    note_digest(target / name)
