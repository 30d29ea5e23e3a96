"""Public cohorts with paired H&E and spatial transcriptomics: where each is, under which licence, and its sheet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common.transfer.digests import check_digest
from ..common.transfer.download import RemoteFile
from ..common.transfer.remote_names import check_names
from ..errors import DownloadError, MissingDownloadError, RefusedDownloadError, UnknownNameError
from ..provenance import parse_json
from .breast import STNet, Wu2021Visium
from .lung import Hist2CellLung
from .public import MOST_FILES, MOST_LISTING, Bring, PublicCohort, Row, legacy_mpp, unpack

_HER2ST_COMMIT = "179d9db111a1da4f02ee2e864f12b55290ac83c1"
_TENX = "https://cf.10xgenomics.com/samples/spatial-exp"
#: What 10x calls the full-resolution image, by version of Space Ranger, the likelier first.
_TENX_IMAGES = ("image.tif", "tissue_image.tif", "tissue_image.btf", "image.btf")
_HEST = "MahmoodLab/hest"


@dataclass(frozen=True)
class Her2st:
    """HER2-positive breast tumours, legacy Spatial Transcriptomics: 8 patients, 36 sections [1]_.

    The files are those of one commit of the authors' repository, each checked against its git blob id. The um per px is
    taken from the spots, which are 200 um apart.

    References
    ----------
    .. [1] A. Andersson et al., Nature Communications 12, 6012 (2021).
    """

    name: str = "her2st"
    title: str = "HER2-positive breast cancer, legacy ST: 8 donors, 36 sections, with stereoscope proportions"
    licence: str = "not stated in the authors' repository; see https://doi.org/10.5281/zenodo.4751624"
    citation: str = "Andersson et al., Nat Commun 12, 6012 (2021), doi:10.1038/s41467-021-26271-2"
    listing: str = f"https://api.github.com/repos/almaan/her2st/git/trees/{_HER2ST_COMMIT}?recursive=1"
    files: str = f"https://raw.githubusercontent.com/almaan/her2st/{_HER2ST_COMMIT}"

    def bring(self, folder: Path, bring: Bring) -> list[Row]:
        """Bring counts, spots, images and major proportions."""
        wanted = re.compile(
            r"data/ST-cnts/\w+\.tsv\.gz|data/ST-spotfiles/\w+_selection\.tsv|data/ST-imgs/\w/\w+/[^/]+\.jpg"
            r"|res/ST-deconv/props/major/\w+/W[^/]*\.tsv\.gz"
        )
        listing = bring(RemoteFile("files.json", self.listing, most_bytes=MOST_LISTING), folder)
        try:
            tree = parse_json(listing.read_text())["tree"]
            blobs = {str(entry["path"]): str(entry["sha"]) for entry in tree if entry["type"] == "blob"}
        except (ValueError, KeyError, TypeError) as error:
            listing.unlink()
            raise DownloadError(
                "is not a listing of the repository", where=self.listing, hint="Run the same command again"
            ) from error
        paths = [path for path in blobs if wanted.fullmatch(path)]
        if len(paths) > MOST_FILES:
            raise DownloadError(f"lists {len(paths)} files", where=self.listing, hint="Do not trust this server")
        check_names(paths, where=self.listing)  # refused here, before any of them is fetched
        for path in paths:
            bring(RemoteFile(path, f"{self.files}/{path}", f"git:{blobs[path]}"), folder)
        return self.rows(folder)

    def rows(self, folder: Path) -> list[Row]:
        """Rows of the sheet, from what the folder holds: as in the repository, or ``spots``, ``counts``, ``images``."""
        rows = []
        flat = (folder / "spots").is_dir()
        for spots in sorted(folder.glob(f"{'spots' if flat else 'data/ST-spotfiles'}/*_selection.tsv")):
            section = spots.name.removesuffix("_selection.tsv")
            images = sorted(
                folder.glob(f"images/{section}.jpg" if flat else f"data/ST-imgs/{section[0]}/{section}/*.jpg")
            )
            labels = sorted(folder.glob(f"res/ST-deconv/props/major/{section}/W*.tsv.gz"))
            row = {
                "section": section,
                "donor": section[0],
                "spots": spots.relative_to(folder),
                "counts": f"counts/{section}.tsv.gz" if flat else f"data/ST-cnts/{section}.tsv.gz",
                "image": images[0].relative_to(folder) if images else "",
                "mpp": f"{_mpp_of_legacy_spots(spots):.4f}",
                "tissue": "breast",
                "format": "st",
            }
            row |= {"labels": labels[0].relative_to(folder), "label_unit": "proportion"} if labels else {}
            rows.append(row)
        return rows

    def by_hand(self) -> Sequence[str]:
        """The repository, as an archive."""
        archive = f"https://github.com/almaan/her2st/archive/{_HER2ST_COMMIT}.zip"
        return (f"{archive} (its folders data/ and res/, and {self.listing} saved as files.json)",)


@dataclass(frozen=True)
class TenX:
    """One public Visium sample of 10x Genomics, as its Space Ranger outs."""

    sample: str
    version: str
    title: str = "Visium sample of 10x Genomics"
    licence: str = "CC BY 4.0"
    base: str = _TENX

    @property
    def name(self) -> str:
        """How it is asked for."""
        return f"10x:{self.sample}@{self.version}"

    @property
    def citation(self) -> str:
        """How 10x asks to be named."""
        return f"{self.sample}, 10x Genomics public dataset, Space Ranger {self.version}"

    def bring(self, folder: Path, bring: Bring) -> list[Row]:
        """Bring positions, scale factors, counts and the full-resolution image."""
        outs = f"{self.sample}/outs"
        if (folder / outs / "spatial").is_dir():
            check_digest(folder / outs / "spatial")
        else:
            unpack(bring(self._file(f"{self.sample}/spatial.tar.gz", "spatial.tar.gz"), folder), folder / outs)
        counts = "filtered_feature_bc_matrix.h5"
        bring(self._file(f"{outs}/{counts}", counts), folder)
        self._image(folder, bring)
        return self.rows(folder)

    def rows(self, folder: Path) -> list[Row]:
        """The row of the sample."""
        outs = f"{self.sample}/outs"
        places = [folder / self.sample / name for name in _TENX_IMAGES]
        image = next((place for place in places if place.is_file()), None)
        if image is None or not (folder / outs / "spatial").is_dir():
            return []
        donor = re.sub(r"_Section_\d+$", "", self.sample)
        row = {"section": self.sample, "donor": donor, "spots": outs, "image": image.relative_to(folder)}
        return [{**row, "format": "visium"}]

    def _image(self, folder: Path, bring: Bring) -> Path:
        refused: DownloadError | None = None
        for name in _TENX_IMAGES:
            try:
                return bring(self._file(f"{self.sample}/{name}", name), folder)
            except (MissingDownloadError, RefusedDownloadError) as error:
                refused = refused or error
        raise refused or DownloadError("has no image", where=self.base)

    def _file(self, path: str, suffix: str) -> RemoteFile:
        return RemoteFile(path, f"{self.base}/{self.version}/{self.sample}/{self.sample}_{suffix}")

    def by_hand(self) -> Sequence[str]:
        """The three files."""
        url, outs = f"{self.base}/{self.version}/{self.sample}/{self.sample}", f"{self.sample}/outs"
        return (
            f"{url}_spatial.tar.gz -> {self.sample}/spatial.tar.gz",
            f"{url}_filtered_feature_bc_matrix.h5 -> {outs}/filtered_feature_bc_matrix.h5",
            f"{url}_image.tif -> {self.sample}/image.tif",
        )


@dataclass(frozen=True)
class Hest:
    """One sample of HEST-1k, with the user's own token."""

    sample: str
    title: str = "HEST-1k sample"
    licence: str = "CC BY-NC-SA 4.0: not for commercial use; the terms must be accepted on the hub"
    citation: str = "Jaume et al., HEST-1k, NeurIPS 2024, arXiv:2406.16192"
    endpoint: str = "https://huggingface.co"
    parts: tuple[str, ...] = field(default=("metadata/{}.json", "st/{}.h5ad", "wsis/{}.tif"))

    @property
    def name(self) -> str:
        """How it is asked for."""
        return f"hest:{self.sample}"

    @property
    def page(self) -> str:
        """Where its terms are accepted."""
        return f"{self.endpoint}/datasets/{_HEST}"

    def bring(self, folder: Path, bring: Bring) -> list[Row]:
        """Bring counts, image and metadata."""
        files = [part.format(self.sample) for part in self.parts]
        for path in files:
            bring(RemoteFile(path, f"{self.page}/resolve/main/{path}"), folder)
        return self.rows(folder)

    def rows(self, folder: Path) -> list[Row]:
        """The row of the sample."""
        files = [part.format(self.sample) for part in self.parts]
        if not all((folder / path).is_file() for path in files):
            return []
        try:
            facts = dict(parse_json((folder / files[0]).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise DownloadError(
                f"is no table of facts ({error})", where=folder / files[0], hint="Remove it, and fetch again"
            ) from error
        donor = str(facts.get("patient") or "").strip()
        if not donor:
            # Which samples share a donor is then unknown: one name for each would claim that they do not.
            donor = f"unknown ({facts.get('dataset_title') or self.sample})"
        row = {"section": self.sample, "donor": donor, "spots": files[1], "image": files[2]}
        row |= {"mpp": facts.get("pixel_size_um_estimated", ""), "tissue": facts.get("organ", ""), "format": "hest"}
        return [row]

    def by_hand(self) -> Sequence[str]:
        """The files, on the hub."""
        page = f"{self.endpoint}/datasets/{_HEST}"
        return tuple(
            f"{page}/resolve/main/{part.format(self.sample)} -> {part.format(self.sample)}" for part in self.parts
        )


#: Cohorts that need no further detail.
COHORTS: dict[str, PublicCohort] = {one.name: one for one in (Her2st(), STNet(), Wu2021Visium(), Hist2CellLung())}
#: Patterns of the other names, for a message.
PATTERNS = ("10x:SAMPLE[@VERSION] (such as 10x:V1_Breast_Cancer_Block_A_Section_1)", "hest:ID (such as hest:TENX95)")


def public_cohort(name: str) -> PublicCohort:
    """The public cohort of a name.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if name in COHORTS:
        return COHORTS[name]
    if match := re.fullmatch(r"10x:(\w+)(?:@(\d+\.\d+\.\d+))?", name):
        sample, version = match.groups()
        return TenX(sample, version or ("1.1.0" if sample.startswith("V1_") else "1.2.0"))
    if match := re.fullmatch(r"hest:(\w+)", name, flags=re.IGNORECASE):
        return Hest(match[1])
    raise UnknownNameError(
        f"there is no public cohort '{name}'", hint=f"Choose {', '.join(COHORTS)}, {', or '.join(PATTERNS)}"
    )


def _mpp_of_legacy_spots(path: Path) -> float:
    import pandas as pd

    table = pd.read_csv(path, sep="\t")
    places = [table[list(names)].to_numpy(float) for names in (("pixel_x", "pixel_y"), ("new_x", "new_y"))]
    return legacy_mpp(places[0], places[1], path)
