"""The healthy human lung on which Hist2Cell is scored: Visium sections of four donors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..common import tables
from ..common.transfer.download import RemoteFile
from ..common.transfer.remote_names import check_names
from ..errors import DownloadError
from .public import MOST_LISTING, Bring, Row, unpack

_SDRF = "E-MTAB-11640.sdrf.txt"
_IMAGE = (".tif", ".tiff", ".jpg", ".jpeg", ".png")
_MATRIX = "filtered_feature_bc_matrix.h5"


@dataclass(frozen=True)
class Hist2CellLung:
    """Healthy lung of four donors, Visium; the sections behind Hist2Cell's lung data [1]_.

    The sample table (SDRF) of the archive names the donor of each section and its files: of each section those whose
    names end in ``filtered_feature_bc_matrix.h5``, ``spatial.tar.gz`` and that of an image are taken. Hist2Cell's own
    copy is pickled graphs, which are not read. The table's form is that of the archive's specification; it was not read
    from a download here. Its files have no published digest: that of what first arrives is noted, and checked ever
    after.

    References
    ----------
    .. [1] E. Madissoon et al., Nature Genetics 55, 66 (2023); E-MTAB-11640.
    """

    name: str = "hist2cell-lung"
    title: str = "Healthy human lung, Visium: 4 donors; what Hist2Cell is scored on"
    licence: str = (
        "CC BY 4.0 (the archive's terms; see https://www.ebi.ac.uk/biostudies/arrayexpress/studies/E-MTAB-11640)"
    )
    citation: str = "Madissoon et al., Nat Genet 55, 66 (2023), doi:10.1038/s41588-022-01243-4; E-MTAB-11640"
    base: str = "https://www.ebi.ac.uk/biostudies/files/E-MTAB-11640"

    def bring(self, folder: Path, bring: Bring) -> list[Row]:
        """Bring the sample table, and of each section the counts, the ``spatial`` folder and the image."""
        table = bring(RemoteFile(_SDRF, f"{self.base}/{_SDRF}", most_bytes=MOST_LISTING), folder)
        for section, _, files in _samples(table):
            check_names(files, where=str(table))
            for name in files:
                if name.endswith(_MATRIX):
                    bring(self._file(f"{section}/outs/{_MATRIX}", name), folder)
                elif name.endswith("spatial.tar.gz") and not (folder / section / "outs" / "spatial").is_dir():
                    archive = bring(self._file(f"{section}/spatial.tar.gz", name), folder)
                    (folder / section / "outs").mkdir(parents=True, exist_ok=True)
                    unpack(archive, folder / section / "outs")
                elif name.lower().endswith(_IMAGE):
                    bring(self._file(f"{section}/image{Path(name).suffix.lower()}", name), folder)
        return self.rows(folder)

    def _file(self, path: str, name: str) -> RemoteFile:
        return RemoteFile(path, f"{self.base}/{name}")

    def rows(self, folder: Path) -> list[Row]:
        """A row of each section whose ``outs`` are here, with its donor by the sample table."""
        table = folder / _SDRF
        rows = []
        for section, donor, _ in _samples(table) if table.is_file() else []:
            if not (folder / section / "outs" / "spatial").is_dir():
                continue
            images = [path for path in sorted((folder / section).glob("image.*")) if path.suffix.lower() in _IMAGE]
            row = {"section": section, "donor": donor, "spots": f"{section}/outs"}
            image = images[0].relative_to(folder) if images else ""
            rows.append({**row, "image": image, "tissue": "lung", "format": "visium"})
        return rows

    def by_hand(self) -> Sequence[str]:
        """The sample table and the sections."""
        return (
            f"{self.base}/{_SDRF} -> {_SDRF}",
            "of each section that it names, the Space Ranger outs -> SECTION/outs (with spatial/ and "
            f"{_MATRIX}) and the full-resolution image -> SECTION/image.tif",
        )


def _samples(path: Path) -> list[tuple[str, str, list[str]]]:
    """Section, donor and files of each sample of an SDRF; a sample may have several rows."""
    raw = tables.decode(tables.read_bytes(path), path)
    lines = [line.split("\t") for line in raw.splitlines() if line.strip()]
    head = [re.sub(r"\s+", " ", name.strip().strip('"')).lower() for name in lines[0]] if lines else []
    donors = [place for place, name in enumerate(head) if re.fullmatch(r"characteristics ?\[individual\]", name)]
    files = [place for place, name in enumerate(head) if name.endswith("data file")]
    if "source name" not in head or not donors or not files:
        raise DownloadError(
            "is no sample table with the columns Source Name, Characteristics[individual] and a Data File",
            where=path,
            hint="Remove it, and fetch again",
        )
    table = pd.DataFrame([line + [""] * (len(head) - len(line)) for line in lines[1:]])
    samples: dict[str, tuple[str, list[str]]] = {}
    for _, row in table.iterrows():
        section, donor = row[head.index("source name")].strip().strip('"'), row[donors[0]].strip().strip('"')
        names = samples.setdefault(section, (donor, []))[1]
        names += [name for name in (row[place].strip().strip('"') for place in files) if name and name not in names]
    return [(section, donor, names) for section, (donor, names) in samples.items()]
