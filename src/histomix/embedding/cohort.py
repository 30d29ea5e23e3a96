"""A cohort through an encoder: one file of features per section, resumable and verified."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeatureError, HistomixError, MissingExtraError, ScaleWarning, SectionError, StorageError
from ..progress import Progress, silent
from ..slides import TileSpec, tiles_at_spots, tissue_mask
from ..spots import Cohort, Section
from ..spots import check_alignment as alignment_of
from .engine import check_dtype, embed_tiles
from .features import (
    build_features,
    feature_manifest,
    read_feature_file,
    read_manifests,
    read_overview,
    write_features,
    write_overview,
)
from .identity import encoder_differences, encoder_facts, encoder_identity, features_identity
from .manifest import alignment_facts, library_versions, slide_facts, write_preview
from .source import EncoderSource
from .storage import folder_lock, remove_shards

if TYPE_CHECKING:
    from anndata import AnnData

    from ..encoders import Encoder

_LOG = logging.getLogger(__name__)
#: Errors that would meet the next section too.
_FATAL = (StorageError, MissingExtraError)
#: What the folder's manifest repeats of each section's own.
_OVERVIEW = ("tiles", "identity", "slide", "alignment", "preview")


def embed(
    cohort: Cohort,
    encoder: str | Encoder = "builtin",
    weights: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    dtype: str = "float16",
    batch_size: int = 64,
    threads: int | None = None,
    check_alignment: bool = True,
    progress: Progress = silent,
) -> dict[str, AnnData]:
    """Embed the tile at every spot of a cohort with a frozen encoder.

    With ``out``, work is stored as it proceeds: the same call goes on where an earlier one stopped, and keeps
    sections whose slide, spots, encoder and dtype are unchanged without opening a slide or loading weights.
    A spot off the tissue keeps its row; ``obs["tissue"]`` is the share of its tile that is tissue.

    Parameters
    ----------
    cohort
        Sections with their slides.
    encoder
        The name of an encoder (see `histomix.encoders.cards`) or a loaded one.
    weights
        Local weights for a named encoder.
    out
        Folder for ``<section>.h5ad``, ``previews/<section>.jpg`` (about 8 um per pixel) and ``manifest.json``, which
        lists the sections embedded, kept and failed. None keeps everything in memory.
    dtype
        ``"float16"`` or ``"float32"``.
    batch_size
        Tiles encoded at once; it changes speed and memory, not results.
    threads
        CPU threads of a named encoder.
    check_alignment
        Refuse a section whose spots do not lie on the tissue of its slide.
    progress
        Told ``"embed <section>"``, tiles done and tiles in all.

    Returns
    -------
    dict
        Section -> features, in the order of the cohort. See `feature_manifest` for what they carry.

    Raises
    ------
    FeatureError
        Some sections failed; all others are done and stored, and the message names each failure. Or another process
        writes to ``out``, or ``out`` holds features of another encoder.
    EncoderError
        The encoder cannot be loaded.
    StorageError
        Something cannot be written; finished sections and shards are intact.
    """
    check_dtype(dtype)
    if batch_size < 1:
        raise FeatureError(f"a batch of {batch_size} tiles cannot be encoded", mend="Choose a batch size of 1 or more")
    folder = None if out is None else Path(out)
    with contextlib.nullcontext() if folder is None else folder_lock(folder):
        recorded = {} if folder is None else read_overview(folder)
        source = EncoderSource(encoder, weights, threads, recorded)
        run = _Run(source, folder, dtype, batch_size, check_alignment, progress, wanted=recorded.get("wanted", {}))
        return run.embed(cohort)


@dataclass
class _Work:
    """A section to embed; ``values`` are its embeddings where they are known already."""

    section: Section
    identity: str
    values: np.ndarray | None = None


@dataclass
class _Run:
    """One call of `embed`: its settings, and what became of each section."""

    source: EncoderSource
    folder: Path | None
    dtype: str
    batch_size: int
    check_alignment: bool
    progress: Progress
    features: dict[str, AnnData] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    wanted: dict[str, str | None] = field(default_factory=dict)
    failed: dict[str, HistomixError] = field(default_factory=dict)

    def embed(self, cohort: Cohort) -> dict[str, AnnData]:
        facts, spec = self.source.facts(), self.source.tile_spec()
        stored = {} if self.folder is None else _stored(self.folder, facts, spec)
        pending: list[_Work] = []
        for name in cohort.names:
            self.wanted[name] = None
            with self._attempt(name):
                section = cohort.section(name, counts=False)
                work = _Work(section, _identity(section, facts, spec, self.dtype))
                self.wanted[name] = work.identity
                if not self._keep(work, stored):
                    pending.append(work)
        if pending:
            encoder = self.source.load()
            self._write_manifest(facts, spec, stored)
            for work in pending:
                with self._attempt(work.section.name):
                    self.features[work.section.name] = self._embed(work, encoder)
        self._write_manifest(facts, spec, stored)
        if self.failed:
            raise _failure(self.failed, cohort) from next(iter(self.failed.values()))
        _LOG.info("sections embedded: %d; already up to date: %d", len(pending), len(self.kept))
        return {name: self.features[name] for name in cohort.names}

    @contextlib.contextmanager
    def _attempt(self, name: str) -> Iterator[None]:
        """Let one section fail without the others."""
        try:
            yield
        except _FATAL:
            raise
        except HistomixError as error:
            _LOG.warning("section %s failed; the others go on", name)
            self.failed[name] = error

    def _keep(self, work: _Work, stored: Mapping[str, dict[str, Any]]) -> bool:
        """Take over stored features of the same identity, if they are whole and as checked as asked for."""
        name = work.section.name
        if stored.get(name, {}).get("identity") != work.identity or self.folder is None:
            return False
        try:
            found = read_feature_file(self.folder / f"{name}.h5ad")
        except FeatureError as error:
            _LOG.warning("%s Embedding it again", error)
            return False
        if self.check_alignment and feature_manifest(found)["alignment"] is None:
            work.values = found.X
            return False
        remove_shards(self.folder / ".shards" / name)
        self.features[name] = found
        self.kept.append(name)
        self.progress(f"embed {name}", found.n_obs, found.n_obs)
        return True

    def _embed(self, work: _Work, encoder: Encoder) -> AnnData:
        """Embed, store and return one section."""
        section, spec = work.section, encoder.tile_spec()
        name = section.name
        with section.slide() as slide, warnings.catch_warnings():
            # Said once in words by `slide_facts`, instead of once per tile by the reading threads.
            warnings.simplefilter("ignore", ScaleWarning)
            mask = tissue_mask(slide)
            alignment = None
            if self.check_alignment:
                alignment = alignment_facts(alignment_of(section, slide, mask).require())
            tiles = tiles_at_spots(slide, section.spots_px, section.keys, spec, mask)
            facts = slide_facts(slide, spec)
            shards = None if self.folder is None else self.folder / ".shards" / name
            if work.values is None:
                work.values, _ = embed_tiles(
                    slide,
                    tiles,
                    encoder,
                    shard_dir=shards,
                    dtype=self.dtype,
                    batch_size=self.batch_size,
                    progress=self.progress,
                    task=f"embed {name}",
                )
            preview = None if self.folder is None else write_preview(slide, self.folder, name)
        manifest = {
            "section": name,
            "identity": work.identity,
            "tiles": len(tiles),
            "slide": facts,
            "tile": spec.to_dict(),
            "encoder": encoder_facts(encoder),
            "dtype": self.dtype,
            "alignment": alignment,
            "preview": preview,
            "versions": library_versions(),
        }
        features = build_features(work.values, tiles, manifest)
        if self.folder is not None and shards is not None:
            write_features(self.folder / f"{name}.h5ad", features)
            remove_shards(shards)
        return features

    def _write_manifest(self, facts: Mapping[str, Any], spec: TileSpec, stored: Mapping[str, dict[str, Any]]) -> None:
        """Write the folder's manifest, before work too: what is ``wanted`` tells outdated files after a failure."""
        if self.folder is None:
            return
        manifests = {**stored, **{name: feature_manifest(found) for name, found in self.features.items()}}
        overview = {
            "encoder": facts,
            "tile": spec.to_dict(),
            "dtype": self.dtype,
            "request": self.source.request,
            "embedded": [name for name in self.features if name not in self.kept],
            "kept": self.kept,
            "failed": {name: str(error) for name, error in self.failed.items()},
            "wanted": self.wanted,
            "sections": {name: {key: manifests[name].get(key) for key in _OVERVIEW} for name in sorted(manifests)},
            "versions": library_versions(),
        }
        write_overview(self.folder, overview)


def _stored(folder: Path, facts: Mapping[str, Any], spec: TileSpec) -> dict[str, dict[str, Any]]:
    """Manifests of the features in a folder, which must be of this encoder: a folder never mixes two."""
    stored = read_manifests(folder)
    wanted = encoder_identity({"encoder": facts, "tile": spec.to_dict()})
    for name, manifest in stored.items():
        if differences := encoder_differences(wanted, encoder_identity(manifest)):
            raise FeatureError(
                f"the folder holds features of another encoder or tile ({name}.h5ad: {differences})",
                where=folder,
                mend="Choose another --out, or remove the old features first",
            )
    return stored


def _identity(section: Section, facts: Mapping[str, Any], spec: TileSpec, dtype: str) -> str:
    if section.image is None:
        raise SectionError("the section has no image to embed", where=section.where, mend="Fill the column image")
    return features_identity(section.image, section.mpp, section.keys, section.spots_px, spec, facts, dtype)


def _failure(failed: Mapping[str, HistomixError], cohort: Cohort) -> FeatureError:
    count = len(failed)
    rest = "" if count == len(cohort.names) else "; the others are done"
    lines = "".join(f"\n  - {name}: {str(error).rstrip('.')}" for name, error in failed.items())
    return FeatureError(
        f"{count} of {len(cohort.names)} sections could not be embedded{rest}:{lines}",
        where=cohort.sheet,
        mend="What is done is kept: mend these and run the same command again",
    )
