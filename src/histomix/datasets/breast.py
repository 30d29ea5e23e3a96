"""Public breast cohorts beside her2st: STNet, and the Visium sections of Wu and others."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common import tables
from ..common.transfer.digests import check_digest
from ..common.transfer.download import RemoteFile
from ..common.transfer.remote_names import check_names
from ..errors import DownloadError
from ..provenance import atomic_path, parse_json
from .public import MOST_FILES, MOST_LISTING, Bring, Row, legacy_mpp, unpack

_MENDELEY = "https://data.mendeley.com"
_SPOT = re.compile(r"\s*(\d+)\s*[x_,]\s*(\d+)\s*")
_GZIP = b"\x1f\x8b"
#: Columns of STNet's metadata.csv that name a section's files.
_FILES = ("histology_image", "spot_coordinates", "count_matrix", "tumor_annotation")


@dataclass(frozen=True)
class STNet:
    """Breast tumours of all subtypes, legacy Spatial Transcriptomics: 23 patients, 68 sections [1]_.

    ``metadata.csv`` says which files are of one section. Each file is checked against the sha256 of Mendeley's listing.
    The um per px is taken from the spots, which are 200 um apart.

    References
    ----------
    .. [1] B. He et al., Nature Biomedical Engineering 4, 827 (2020); doi:10.17632/29ntw7sh4r.5.
    """

    name: str = "stnet"
    title: str = "Breast cancer of all subtypes, legacy ST: 23 donors, 68 sections"
    licence: str = "CC BY 4.0"
    citation: str = "He et al., Nat Biomed Eng 4, 827 (2020), doi:10.1038/s41551-020-0578-x; doi:10.17632/29ntw7sh4r.5"
    listing: str = f"{_MENDELEY}/public-api/datasets/29ntw7sh4r/files?folder_id=root&version=5"

    def bring(self, folder: Path, bring: Bring) -> list[Row]:
        """Bring the metadata, and every file that it names."""
        files = self._listed(bring(RemoteFile("files.json", self.listing, most_bytes=MOST_LISTING), folder))
        bring(self._file("metadata.csv", files), folder)
        wanted = [name for row in self._metadata(folder) for name in row["files"]]
        check_names(wanted, where=self.listing)
        for name in wanted:
            bring(self._file(name, files), folder)
        return self.rows(folder)

    def _listed(self, path: Path) -> dict[str, tuple[str, str]]:
        """Address and digest of each file."""
        try:
            entries = {
                str(one["filename"]): (
                    str(one["content_details"]["download_url"]),
                    f"sha256:{one['content_details']['sha256_hash']}",
                )
                for one in parse_json(path.read_text(encoding="utf-8"))
            }
            if not all(url.startswith(f"{_MENDELEY}/") for url, _ in entries.values()):
                raise ValueError("it names files of another server")
        except (ValueError, KeyError, TypeError) as error:
            path.unlink()
            raise DownloadError(
                f"is not a listing of the data set ({error})", where=self.listing, hint="Run the same command again"
            ) from error
        if len(entries) > MOST_FILES:
            raise DownloadError(f"lists {len(entries)} files", where=self.listing, hint="Do not trust this server")
        return entries

    def _file(self, name: str, listed: dict[str, tuple[str, str]]) -> RemoteFile:
        if name not in listed:
            raise DownloadError(f"lists no file {name}", where=self.listing, hint="Run the same command again")
        url, digest = listed[name]
        return RemoteFile(name, url, digest)

    def _metadata(self, folder: Path) -> list[Row]:
        path = folder / "metadata.csv"
        if not path.is_file():
            return []
        table = tables.read_table(path)
        missing = [name for name in ("patient", "replicate", *_FILES) if name not in table]
        if missing:
            raise DownloadError(f"lacks {', '.join(missing)}", where=path, hint="Remove it, and fetch again")
        return [
            {
                "patient": row["patient"],
                "section": f"{row['patient']}_{row['replicate']}",
                "image": row["histology_image"],
                "spots": row["spot_coordinates"],
                "files": [row[name] for name in _FILES],
            }
            for row in table.to_dict("records")
        ]

    def rows(self, folder: Path) -> list[Row]:
        """A row of each section of the metadata whose spots are here."""
        rows = []
        for one in self._metadata(folder):
            spots = folder / one["spots"]
            if not spots.is_file():
                continue
            image = one["image"] if (folder / one["image"]).is_file() else ""
            row = {"section": one["section"], "donor": one["patient"], "spots": one["spots"], "image": image}
            rows.append({**row, "mpp": f"{_mpp(spots):.4f}", "tissue": "breast", "format": self.name})
        return rows

    def by_hand(self) -> Sequence[str]:
        """The data set, as one archive."""
        return (
            f"{_MENDELEY}/datasets/29ntw7sh4r/5 ('Download All'): its files, metadata.csv among them, side by side, "
            f"and {self.listing} saved as files.json",
        )


def _mpp(path: Path) -> float:
    table = tables.read_table(path)
    keys = [_SPOT.fullmatch(key) for key in table.iloc[:, 0]]
    if not {"X", "Y"} <= set(table) or not all(keys):
        raise DownloadError("is no table of spots (XxY, X, Y)", where=path, hint="Remove it, and fetch again")
    array = np.array([[float(key[1]), float(key[2])] for key in keys if key])
    xy_px = np.column_stack([tables.numbers(table, name, path) for name in ("X", "Y")])
    return legacy_mpp(xy_px, array, path)


@dataclass(frozen=True)
class Wu2021Visium:
    """Six primary breast cancers, Visium, with a pathologist's annotation of every spot [1]_.

    The record has no full-resolution images: the sheet names Space Ranger's ``hires`` images, which are coarse (some
    4 um/px). Matrices are named ``.gz`` there and are plain text; they are laid out here as Space Ranger does.

    References
    ----------
    .. [1] S. Z. Wu et al., Nature Genetics 53, 1334 (2021); doi:10.5281/zenodo.4739739.
    """

    name: str = "wu2021-visium"
    title: str = "Primary breast cancers, Visium: 6 donors, 6 sections, with a pathologist's annotation; coarse images"
    licence: str = "CC BY 4.0"
    citation: str = "Wu et al., Nat Genet 53, 1334 (2021), doi:10.1038/s41588-021-00911-1; doi:10.5281/zenodo.4739739"
    base: str = "https://zenodo.org/records/4739739/files"
    #: Archives by the folder in them, with the md5 that Zenodo publishes.
    archives: tuple[tuple[str, str], ...] = (
        ("filtered_count_matrices", "md5:ea1220f0606c4d4e9307468fb2d5427a"),
        ("spatial", "md5:29b02ae433d459d19dc52b75a529e8e9"),
        ("metadata", "md5:1d0b34ead70635c094ac74ac58a88d68"),
    )

    def bring(self, folder: Path, bring: Bring) -> list[Row]:
        """Bring the three archives, and lay their sections out."""
        for name, digest in self.archives:
            if (folder / name).is_dir():
                check_digest(folder / name)
            else:
                file = RemoteFile(f"{name}.tar.gz", f"{self.base}/{name}.tar.gz", digest)
                unpack(bring(file, folder), folder, name)
        return self.rows(folder)

    def rows(self, folder: Path) -> list[Row]:
        """A row of each section; its ``outs`` are made where they are not there."""
        rows = []
        for spatial in sorted((folder / "spatial").glob("*_spatial")):
            section = spatial.name.removesuffix("_spatial")
            outs = folder / "sections" / section
            if not outs.is_dir():
                _lay_out(folder / "filtered_count_matrices" / f"{section}_filtered_count_matrix", spatial, outs)
            image = outs / "spatial" / "tissue_hires_image.png"
            rows.append(
                {
                    "section": section,
                    "donor": section,
                    "spots": outs.relative_to(folder),
                    "image": image.relative_to(folder) if image.is_file() else "",
                    "tissue": "breast",
                    "format": "visium",
                }
            )
        return rows

    def by_hand(self) -> Sequence[str]:
        """The three archives."""
        return tuple(f"{self.base}/{name}.tar.gz -> {name}.tar.gz" for name, _ in self.archives)


def _lay_out(matrix: Path, spatial: Path, outs: Path) -> None:
    """One section as Space Ranger writes it; a file that is named .gz and is none gets its name back."""
    if not matrix.is_dir():
        raise DownloadError("has no counts", where=matrix, hint="Remove the folder, and fetch again")
    with atomic_path(outs) as folder:
        shutil.copytree(spatial, folder / "spatial", symlinks=True)
        (folder / "filtered_feature_bc_matrix").mkdir()
        for path in sorted(matrix.iterdir()):
            with path.open("rb") as stream:
                packed = stream.read(2) == _GZIP
            name = path.name if packed else path.name.removesuffix(".gz")
            shutil.copyfile(path, folder / "filtered_feature_bc_matrix" / name)
