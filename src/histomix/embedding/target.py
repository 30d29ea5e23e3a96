"""One encoder's features of a cohort: what its folder holds already, what must be made, and its manifest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeatureError, HistomixError, SectionError
from ..slides import TileSpec
from ..spots import Section
from .features import (
    build_features,
    feature_manifest,
    read_feature_file,
    read_manifests,
    write_features,
    write_overview,
)
from .identity import encoder_differences, encoder_facts, encoder_identity, features_identity
from .manifest import library_versions
from .source import EncoderSource
from .storage import remove_shards

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..encoders import Encoder

_LOG = logging.getLogger(__name__)
#: What the folder's manifest repeats of each section's own.
_OVERVIEW = ("tiles", "identity", "slide", "alignment", "preview")


@dataclass
class Work:
    """A section to embed for one target; ``values`` are its embeddings where they are known already."""

    target: Target
    section: Section
    identity: str
    values: np.ndarray | None = None


@dataclass
class Target:
    """One encoder, the folder of its features (None: memory), and what became of each section."""

    source: EncoderSource
    folder: Path | None
    dtype: str
    features: dict[str, AnnData] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    wanted: dict[str, str | None] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)

    def open(self) -> None:
        """Find out what the encoder is and what its folder holds.

        Raises
        ------
        FeatureError
            The folder holds features of another encoder: it never mixes two.
        """
        self.facts, self.spec = self.source.facts(), self.source.tile_spec()
        self.stored = {} if self.folder is None else read_manifests(self.folder)
        wanted = encoder_identity({"encoder": self.facts, "tile": self.spec.to_dict()})
        for name, manifest in self.stored.items():
            if differences := encoder_differences(wanted, encoder_identity(manifest)):
                raise FeatureError(
                    f"the folder holds features of another encoder or tile ({name}.h5ad: {differences})",
                    where=self.folder,
                    mend="Choose another --out, or remove the old features first",
                )

    @property
    def encoder(self) -> Encoder:
        """The loaded encoder."""
        return self.source.load()

    def work(self, section: Section, need_alignment: bool) -> Work | None:
        """What is to be done for a section; None when its stored features are whole and as checked as asked for."""
        work = Work(self, section, _identity(section, self.facts, self.spec, self.dtype))
        self.wanted[section.name] = work.identity
        return None if self.keep(work, need_alignment) else work

    def keep(self, work: Work, need_alignment: bool) -> bool:
        """Take over stored features of the same identity."""
        name = work.section.name
        if self.stored.get(name, {}).get("identity") != work.identity or self.folder is None:
            return False
        try:
            found = read_feature_file(self.folder / f"{name}.h5ad")
        except FeatureError as error:
            _LOG.warning("%s Embedding it again", error)
            return False
        if need_alignment and feature_manifest(found)["alignment"] is None:
            work.values = found.X
            return False
        remove_shards(self.folder / ".shards" / name)
        self.features[name] = found
        self.kept.append(name)
        return True

    def finish(self, work: Work, tiles: pd.DataFrame, values: np.ndarray, seen: Mapping[str, Any]) -> None:
        """Build and store the features of a section; ``seen`` is what reading its slide told."""
        name = work.section.name
        manifest = {
            "section": name,
            "identity": work.identity,
            "tiles": len(tiles),
            "tile": self.spec.to_dict(),
            "encoder": encoder_facts(self.encoder),
            "runtime": getattr(self.encoder, "runtime", None),
            "dtype": self.dtype,
            "versions": library_versions(),
            **seen,
        }
        features = build_features(values, tiles, manifest)
        if self.folder is not None:
            write_features(self.folder / f"{name}.h5ad", features)
            remove_shards(self.folder / ".shards" / name)
        self.features[name] = features

    def write_manifest(self, failed: Mapping[str, HistomixError]) -> None:
        """Write the folder's manifest, before work too: what is ``wanted`` tells outdated files after a failure."""
        if self.folder is None:
            return
        manifests = {**self.stored, **{name: feature_manifest(found) for name, found in self.features.items()}}
        overview = {
            "encoder": self.facts,
            "tile": self.spec.to_dict(),
            "dtype": self.dtype,
            "request": self.source.request,
            "embedded": [name for name in self.features if name not in self.kept],
            "kept": self.kept,
            "failed": {name: str(error) for name, error in failed.items()},
            "wanted": self.wanted,
            "sections": {name: {key: manifests[name].get(key) for key in _OVERVIEW} for name in sorted(manifests)},
            "versions": library_versions(),
        }
        write_overview(self.folder, overview)


def _identity(section: Section, facts: Mapping[str, Any], spec: TileSpec, dtype: str) -> str:
    if section.image is None:
        raise SectionError("the section has no image to embed", where=section.where, mend="Fill the column image")
    # An image that does not say its scale is read at that of the spots files.
    mpp = section.spots_mpp if section.mpp is None else section.mpp
    return features_identity(section.image, mpp, section.keys, section.spots_px, spec, facts, dtype)
