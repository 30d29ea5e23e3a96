"""One encoder's features of a cohort: what its folder holds already, what must be made, and its manifest."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._version import __version__
from ..common.naming import safe_file_name
from ..encoders.field_of_view import with_field_of_view
from ..errors import EncoderError, FeatureError, HistomixError, SectionError
from ..provenance import digest_json, fingerprint
from ..slides import TileSpec
from ..slides.files import content_digest
from ..spots import Section
from .by_section import Features
from .features import (
    SectionFeatures,
    build_features,
    feature_manifest,
    read_feature_file,
    read_manifests,
    write_features,
    write_overview,
)
from .identity import (
    encoder_differences,
    encoder_facts,
    encoder_hint,
    encoder_identity,
    features_identity,
    library_versions,
)
from .other_scales import FACTORS
from .other_scales import KEY as SCALES
from .precision import KEY as EXACT
from .precision import precision_shifts
from .restaining import KEY as SHIFTS
from .samples import sample_facts
from .storage import remove_shards

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..encoders import Encoder
    from ..encoders.runtimes import Runtime

_LOG = logging.getLogger(__name__)
#: What the folder's manifest repeats of each section's own.
_OVERVIEW = ("tiles", "identity", "slide", "alignment", "preview")


@dataclass
class Work:
    """A section to embed for one target; ``values`` are its embeddings where they are known already.

    ``shifts`` are those of a sample in other stains (`histomix.embedding.restaining`).
    ``scaled`` is the sample at other scales (`histomix.embedding.other_scales`), ``exact`` that in float32
    (`histomix.embedding.precision`).
    """

    target: Target
    section: Section
    identity: str
    values: np.ndarray | None = None
    scaled: np.ndarray | None = None
    shifts: np.ndarray | None = None
    exact: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class Target:
    """One encoder, the folder of its features (None: memory), and what became of each section."""

    source: EncoderSource
    folder: Path | None
    dtype: str
    verify: bool = False
    features: dict[str, AnnData] = field(default_factory=dict)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
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
            stored = encoder_identity(manifest)
            if differences := encoder_differences(wanted, stored):
                raise FeatureError(
                    f"the folder holds features of another encoder or tile ({name}.h5ad: {differences})",
                    where=self.folder,
                    hint=encoder_hint(wanted, stored, "Choose another --out, or remove the old features first"),
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
        stored = self.stored.get(name, {})
        if stored.get("identity") != work.identity or self.folder is None:
            return False
        # The identity knows a large slide by samples; stores of older versions do not say more.
        digest = (stored.get("slide") or {}).get("digest")
        image = work.section.image
        if digest is not None and image is not None and digest != content_digest(image, verify=self.verify):
            return False
        try:
            table = read_feature_file(self.folder / f"{name}.h5ad")
        except FeatureError as error:
            _LOG.warning("%s Embedding it again", error)
            return False
        if need_alignment and feature_manifest(table)["alignment"] is None:
            work.values = table.X
            work.scaled, work.shifts = table.uns.get(SCALES), table.uns.get(SHIFTS)
            work.exact = precision_shifts(table, feature_manifest(table))
            return False
        remove_shards(self.folder / ".shards" / name)
        self._note(name, table)
        self.kept.append(name)
        return True

    def _note(self, name: str, table: AnnData) -> None:
        """Keep what the overview tells of a section; the features themselves only where they are stored nowhere."""
        self.shapes[name], self.stored[name] = table.shape, feature_manifest(table)
        if self.folder is None:
            self.features[name] = table

    def result(self, sections: Sequence[str]) -> Features | SectionFeatures:
        """Features by section, in their order."""
        if self.folder is None:
            return Features((name, self.features[name]) for name in sections)
        return SectionFeatures(self.folder, {name: self.shapes[name] for name in sections})

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
            SCALES: sample_facts(work.scaled, factors=list(FACTORS)),
            SHIFTS: sample_facts(work.shifts),
            **({EXACT: sample_facts(work.exact[1], at=work.exact[0].tolist())} if work.exact else {}),
        }
        features = build_features(values, tiles, manifest)
        samples = {SCALES: work.scaled, SHIFTS: work.shifts, EXACT: work.exact and work.exact[1]}
        features.uns |= {key: one for key, one in samples.items() if one is not None}
        if self.folder is not None:
            write_features(self.folder / f"{name}.h5ad", features)
            remove_shards(self.folder / ".shards" / name)
        self._note(name, features)

    def write_manifest(self, failed: Mapping[str, HistomixError]) -> None:
        """Write the folder's manifest, before work too: what is ``wanted`` tells outdated files after a failure."""
        if self.folder is None:
            return
        overview = {
            "encoder": self.facts,
            "tile": self.spec.to_dict(),
            "dtype": self.dtype,
            "request": self.source.request,
            "embedded": [name for name in self.shapes if name not in self.kept],
            "kept": self.kept,
            "failed": {name: str(error) for name, error in failed.items()},
            "wanted": self.wanted,
            "sections": {
                name: {key: facts.get(key) for key in _OVERVIEW} for name, facts in sorted(self.stored.items())
            },
            "versions": library_versions(),
        }
        write_overview(self.folder, overview)


def _identity(section: Section, facts: Mapping[str, Any], spec: TileSpec, dtype: str) -> str:
    if section.image is None:
        raise SectionError("the section has no image to embed", where=section.where, hint="Fill the column image")
    # An image that does not say its scale is read at that of the spots files.
    mpp = section.spots_mpp if section.mpp is None else section.mpp
    return features_identity(section.image, mpp, section.keys, section.spots_px, spec, facts, dtype)


#: Sources whose weights only their loaders know.
_UNKNOWN_UNTIL_LOADED = ("python", "file", "zoo")


class EncoderSource:
    """An encoder, loaded only when a tile must be embedded.

    Finding the digest of weights may mean reading gigabytes. An encoder asked for by name therefore has the identity
    that the same request had in the last run on this folder: same card, same local weights, same histomix version.

    Parameters
    ----------
    encoder
        An encoder, or the name of one.
    weights, threads, trust_code
        Passed on to `histomix.encoders.load_encoder` when ``encoder`` is a name.
    fov_um, runtime
        See `histomix.embedding.with_field_of_view` and `histomix.encoders.runtimes.optimise`.

    Raises
    ------
    EncoderError
        The name is unknown, its local weights are absent, or weights were given with an encoder that is loaded.
    """

    def __init__(
        self,
        encoder: str | Encoder,
        weights: str | os.PathLike[str] | None,
        threads: int | None,
        *,
        fov_um: float | None = None,
        runtime: Runtime = "auto",
        trust_code: bool = False,
    ) -> None:
        self._name = encoder if isinstance(encoder, str) else None
        self._encoder = None if isinstance(encoder, str) else encoder
        self._weights, self._threads = weights, threads
        self._fov_um, self._runtime, self._trust_code = fov_um, runtime, trust_code
        self._ready: Encoder | None = None
        self.request: dict[str, Any] | None = None
        self._known: Mapping[str, Any] = {}
        self._precision: str | None = None
        if self._name is not None:
            self.request = _request(self._name, weights)
            if self.request is not None:
                self.request |= {"fov_um": fov_um, "runtime": runtime}
        elif weights is not None:
            hint = "Give the encoder's name with its weights, or an encoder alone"
            raise EncoderError("weights were given with an encoder that is already loaded", hint=hint)

    def recognise(self, recorded: Mapping[str, Any]) -> None:
        """Believe what the last run on a folder wrote to its ``manifest.json``, if it was of the same request.

        The precision of the features that are there is followed, whatever would be chosen for new ones.
        """
        self._precision = (recorded.get("encoder") or {}).get("precision")
        if self.request is not None and recorded.get("request") == self.request:
            self._known = {"encoder": recorded["encoder"], "tile": recorded["tile"]}

    @property
    def name(self) -> str:
        """The encoder's name, fit for a folder."""
        from ..encoders import card

        name = card(str(self._name)).name if self._encoder is None else self._encoder.card.name
        return safe_file_name(re.sub(r"[^\w.+-]+", "_", name))

    def facts(self) -> dict[str, Any]:
        """Facts of the encoder, see `histomix.embedding.identity.encoder_facts`."""
        return dict(self._known["encoder"]) if self._known else encoder_facts(self.load())

    def tile_spec(self) -> TileSpec:
        """The tile that the encoder sees."""
        return TileSpec.from_dict(self._known["tile"]) if self._known else self.load().tile_spec()

    def load(self) -> Encoder:
        """The encoder itself.

        Raises
        ------
        EncoderError
            It cannot be loaded.
        """
        if self._ready is None:
            from ..encoders import load_encoder
            from ..encoders.runtimes import optimise

            encoder = self._encoder
            if encoder is None:
                encoder = load_encoder(
                    self._name or "builtin", self._weights, self._threads, trust_code=self._trust_code
                )
            fast = optimise(encoder, self._runtime, threads=self._threads, precision=self._precision)
            self._ready = with_field_of_view(fast, self._fov_um)
            if self._known and encoder_facts(self._ready) != self._known["encoder"]:
                what = f"the encoder {self._name} is not the one that the folder's manifest.json recorded for it"
                raise EncoderError(what, hint="Choose another --out, or remove the old features and manifest.json")
        return self._ready


def _request(name: str, weights: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """What decides which encoder a name loads, found without loading it; None when its weights are not here yet."""
    from ..encoders import card
    from ..encoders.onnx.builtin import GRAPH
    from ..encoders.torch.weights import cached_weights, find_weights

    encoder_card = card(name)
    if encoder_card.source in _UNKNOWN_UNTIL_LOADED:
        return None
    if weights is not None:
        path: Path | None = find_weights(encoder_card, weights)
    else:
        path = GRAPH if encoder_card.source == "builtin" else cached_weights(encoder_card)
    if path is None or not path.is_file():
        return None
    return {
        "card": digest_json(dataclasses.asdict(encoder_card)),
        "weights": fingerprint(path),
        "histomix": __version__,
    }
