"""Made sections in the layouts in which public cohorts are published, as a mirror would serve them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import tifffile
from PIL import Image

import histomix as hm
from histomix.datasets import catalogue

from .ranger_files import write_factors, write_h5, write_positions

#: Px of a step of the array, of which every other place has a spot: two steps are the 200 um of legacy ST.
STEP_PX = 100


@dataclass(frozen=True)
class Made:
    """One section: an image, places of its spots in px and on the array, and their counts."""

    image: np.ndarray
    xy_px: np.ndarray
    counts: pd.DataFrame
    hexagonal: ad.AnnData
    original: np.ndarray

    @property
    def array(self) -> np.ndarray:
        return np.round((self.xy_px - self.xy_px.min(axis=0)) / STEP_PX).astype(int) + 1

    @property
    def keys(self) -> list[str]:
        return [f"{x}x{y}" for x, y in self.array]


def made_sections(folder: Path, number: int, sources: int = 2) -> tuple[Path, Iterator[Made]]:
    """The reference, and sections of a phantom brought to a square array, some of them turned."""
    sheet = hm.make_phantom(
        folder / "source", seed=21, donors=sources, sections_per_donor=1, size_um=(480.0, 480.0), progress=False
    )
    cohort = hm.read_cohort(sheet)

    def each() -> Iterator[Made]:
        for place in range(number):
            row = cohort.rows[place % sources]
            original = tifffile.imread(str(row.image))
            spots = ad.read_h5ad(row.spots)
            # Two columns of the hexagonal array are a pitch: rows are brought to the distance of columns.
            scale = np.array([1.0, 50 / (100 * np.sqrt(3) / 2)])
            height, width = original.shape[:2]
            size = (round(width * scale[0]), round(height * scale[1]))
            image = np.asarray(Image.fromarray(original).resize(size))
            xy = np.asarray(spots.obsm["spatial"], dtype=float) * scale
            for _ in range(place // sources):  # turned by 90 degrees each time
                image, xy = np.rot90(image), np.column_stack([xy[:, 1], image.shape[1] - xy[:, 0]])
            matrix = spots.X.toarray() if hasattr(spots.X, "toarray") else np.asarray(spots.X)
            yield Made(image, xy, pd.DataFrame(matrix.astype(int), columns=spots.var_names), spots, original)

    return sheet.parent / "reference.csv", each()


def _jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def _counts(one: Made) -> bytes:
    return gzip.compress(one.counts.set_axis(one.keys).to_csv(sep="\t").encode(), mtime=0)


def her2st(sections: Iterator[Made], letters: str = "ABCDEFGH") -> dict[str, bytes]:
    """What the two servers of her2st hold, by ``/<host>/<path>``."""
    files: dict[str, bytes] = {}
    for letter, one in zip(letters, sections, strict=False):
        places = pd.DataFrame(one.array, columns=["x", "y"])
        places[["new_x", "new_y"]] = one.array.astype(float)
        places[["pixel_x", "pixel_y"]] = one.xy_px
        places["selected"] = 1
        files |= {
            f"data/ST-cnts/{letter}1.tsv.gz": _counts(one),
            f"data/ST-spotfiles/{letter}1_selection.tsv": places.to_csv(sep="\t", index=False).encode(),
            f"data/ST-imgs/{letter}/{letter}1/HE_{letter}.jpg": _jpeg(one.image),
        }
    tree = [
        {"path": path, "type": "blob", "sha": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        for path, data in files.items()
    ]
    public = catalogue.Her2st()
    base, listing = (text.partition("://")[2] for text in (public.files, public.listing))
    served = {f"/{base}/{path}": data for path, data in files.items()}
    return served | {f"/{listing}": json.dumps({"tree": tree}).encode()}


def stnet(sections: Iterator[Made], patients: int = 23) -> dict[str, bytes]:
    """What Mendeley's server holds of STNet."""
    files: dict[str, bytes] = {}
    rows = []
    for number, one in zip(range(patients), sections, strict=False):
        patient, told = f"BC{23000 + number}", f"BT{23000 + number}"
        names = [f"HE_{told}_C1.jpg", f"spots_{told}_C1.csv.gz"]
        names += [f"{patient}_C1_stdata.tsv.gz", f"{patient}_C1_Coords.tsv.gz"]
        spots = pd.DataFrame(one.xy_px, index=one.keys, columns=["X", "Y"])
        # Line ends of an old Macintosh, and a name of a column fewer than there are columns.
        coords = ["xcoord\tycoord\tlab\ttumor"]
        coords += [f"C1_{x}_{y}\t{x}.02\t{y}.01\tL1\ttumor" for x, y in one.array]
        contents = [_jpeg(one.image), gzip.compress(spots.to_csv().encode(), mtime=0), _counts(one)]
        contents.append(gzip.compress("\r".join(coords).encode(), mtime=0))
        files |= dict(zip(names, contents, strict=True))
        rows.append(["TNBC", patient, "C1", *names])
    columns = ["type", "patient", "replicate", "histology_image", "spot_coordinates", "count_matrix"]
    table = pd.DataFrame(rows, columns=[*columns, "tumor_annotation"])
    files["metadata.csv"] = table.to_csv(index=False).encode()
    base = "data.mendeley.com/public-files/datasets/29ntw7sh4r/files"
    listing = [
        {
            "filename": name,
            "content_details": {
                "download_url": f"https://{base}/{place}/file_downloaded",
                "sha256_hash": hashlib.sha256(data).hexdigest(),
            },
        }
        for place, (name, data) in enumerate(files.items())
    ]
    served = {f"/{base}/{place}/file_downloaded": data for place, data in enumerate(files.values())}
    return served | {f"/{catalogue.STNet().listing.partition('://')[2]}": json.dumps(listing).encode()}


def lung(folder: Path, sections: Iterator[Made], donors: int = 4) -> dict[str, bytes]:
    """What the archive holds of the lung: a sample table, and of each section counts, ``spatial`` and an image."""
    base = catalogue.Hist2CellLung().base.partition("://")[2]
    files: dict[str, bytes] = {}
    lines = ["Source Name\tCharacteristics[individual]\tDerived Array Data File\tDerived Array Data File\tComment[x]"]
    for number, one in zip(range(donors), sections, strict=False):
        section, where = f"WSA_LngSP{8759311 + number}", folder / str(number)
        (where / "spatial").mkdir(parents=True)
        rng = np.random.default_rng(number)
        barcodes = ["".join(some) + "-1" for some in rng.choice(list("ACGT"), (one.hexagonal.n_obs, 16))]
        xy = np.asarray(one.hexagonal.obsm["spatial"])
        positions = pd.DataFrame(
            {
                "barcode": barcodes,
                "in_tissue": 1,
                "array_row": one.hexagonal.obs["array_row"].to_numpy(int),
                "array_col": one.hexagonal.obs["array_col"].to_numpy(int),
                "pxl_row_in_fullres": xy[:, 1],
                "pxl_col_in_fullres": xy[:, 0],
            }
        )
        write_positions(where / "spatial" / "tissue_positions.csv", positions)
        write_factors(where / "spatial", 0.5)
        genes = one.counts.columns
        features = pd.DataFrame({"id": genes, "symbol": genes, "type": "Gene Expression"})
        write_h5(where / "matrix.h5", barcodes, features, one.counts.to_numpy())
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            archive.add(where / "spatial", arcname="spatial")
        tifffile.imwrite(where / "image.tif", one.original)
        names = [f"{section}_filtered_feature_bc_matrix.h5", f"{section}_spatial.tar.gz", f"{section}.tif"]
        contents = [(where / "matrix.h5").read_bytes(), stream.getvalue(), (where / "image.tif").read_bytes()]
        files |= {f"/{base}/{name}": data for name, data in zip(names, contents, strict=True)}
        lines.append(f"{section}\tA{number + 50}\t{names[0]}\t{names[1]}\tx")
        lines.append(f'"{section}"\tA{number + 50}\t{names[2]}\t\tx')
    return files | {f"/{base}/E-MTAB-11640.sdrf.txt": "\n".join(lines).encode()}
