"""What the roles are made of: a small phantom, labelled, embedded and trained on, and one map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Um per px of the phantom's images.
MPP = 0.5


@dataclass(frozen=True)
class Materials:
    """Where everything lies that undamaged roles are made of."""

    folder: Path
    url: str = ""

    @property
    def sheet(self) -> Path:
        """Two sections of the phantom, by paths relative to it."""
        return self.folder / "phantom" / "sheet.csv"

    @property
    def reference(self) -> Path:
        """Signatures of the phantom's cell types."""
        return self.folder / "phantom" / "reference.csv"

    @property
    def head(self) -> Path:
        """A ridge head on the built-in encoder."""
        return self.folder / "head"

    @property
    def map(self) -> Path:
        """The map of `pixels`."""
        return self.folder / "maps" / "slide"

    def pixels(self) -> np.ndarray:
        """Tissue for two tiles of the head, uint8 RGB (224, 448, 3)."""
        found: np.ndarray = np.load(self.folder / "pixels.npy")
        return found


def make_materials(folder: Path) -> None:
    """Write the materials; some ten seconds."""
    import tifffile
    from PIL import Image

    import histomix as hm
    from histomix.prediction import predict_slides

    sheet = hm.make_phantom(folder / "phantom", seed=3, donors=2, sections_per_donor=1, size_um=(560, 560))
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=sheet.parent / "reference.csv", out=folder / "labels")
    features = hm.embed(cohort, out=folder / "features")
    hm.train(cohort, features, labels, head="ridge", out=folder / "head")
    image = tifffile.imread(Path(str(cohort.rows[0].image)))
    pixels = np.ascontiguousarray(image[420:644, 340:788])
    np.save(folder / "pixels.npy", pixels)
    Image.fromarray(pixels).save(folder / "slide.png")
    for result in predict_slides([str(folder / "slide.png")], folder / "head", folder / "maps", mpp=MPP):
        if result.error is not None:
            raise result.error
