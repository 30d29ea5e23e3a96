"""One deconvolution of a cohort: section by section, kept where nothing changed, failures collected."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..errors import HistomixError, InputError, LabelError, StorageError
from ..progress import Progress
from ..provenance import digest_bytes, digest_file, digest_json, versions, write_json
from .abundance import Abundance
from .checks import check_counts
from .nnls import nnls_deconvolve
from .poisson import poisson_deconvolve
from .signatures import Signatures, match_section
from .tables import MANIFEST, read_abundance, read_manifest, write_abundance

if TYPE_CHECKING:
    from ..spots import Cohort, Section

#: Methods that fit each spot by itself: counts (spots x genes), signatures (genes x types) -> weights (spots x types).
DECONVOLVE: dict[str, Callable[[Any, Any], NDArray[np.float64]]] = {
    "poisson": poisson_deconvolve,
    "nnls": nnls_deconvolve,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """All that decides a label, apart from the counts."""

    method: str
    unit: str
    reference: str
    cells_per_spot: float | None
    min_genes: int | None
    cell_type_key: str | None

    @property
    def cohort_wide(self) -> bool:
        """Whether the labels of one section depend on the others."""
        return self.unit == "cells per spot"


@dataclass
class Run:
    """One call of `label`: what it works with, and what became of each section."""

    cohort: Cohort
    signatures: Signatures
    settings: Settings
    folder: Path | None
    seed: int
    labels: dict[str, Abundance] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, HistomixError] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def label(self, progress: Progress) -> dict[str, Abundance]:
        """Label every section; raise LabelError at the end if some failed."""
        names = self.cohort.names
        stored = self._stored()
        if self.settings.cohort_wide:
            self._survey()
        # Where sections depend on each other, either nothing is new, or everything is.
        if self.settings.cohort_wide and not all(self._is_current(name, stored.get(name)) for name in self.digests):
            stored = {}
        self.facts = dict(stored)
        weights: dict[str, pd.DataFrame] = {}
        for done, name in enumerate(names, start=1):
            if name not in self.failed:
                try:
                    self._label_section(self.cohort.section(name), stored.get(name), weights)
                except StorageError:
                    raise
                except HistomixError as error:
                    self.failed[name] = error
            progress("label", done, len(names))
        if weights and self.settings.cells_per_spot is not None:
            totals = pd.concat([table.sum(axis=1) for table in weights.values()])
            for name, table in weights.items():
                self._store(name, table * (self.settings.cells_per_spot / totals.median()))
        for name in self.failed:
            self.facts.pop(name, None)
        self._write_manifest()
        if len(self.labels) > len(weights):
            kept = len(self.labels) - len(weights)
            _log.info("%s: %d sections unchanged and kept, %d labelled", self.folder, kept, len(weights))
        rest = "The others are done" if self.folder else "Name a folder with out to keep the others"
        refuse_failures(self.failed, len(names), mend=f"{rest}; mend these and run again")
        return {name: self.labels[name] for name in names}

    def _label_section(self, section: Section, stored: dict[str, Any] | None, weights: dict[str, pd.DataFrame]) -> None:
        name = section.name
        self.digests[name] = _digest(section)
        if self.folder is not None and stored is not None and self._is_current(name, stored):
            self.labels[name] = read_abundance(self.folder / f"{name}.csv", self.settings.unit)
            return
        weights[name] = self._deconvolve(section)
        if self.settings.unit == "proportion":
            self._store(name, weights[name])

    def _deconvolve(self, section: Section) -> pd.DataFrame:
        """Weights (spots with counts x cell types), normalised unless their scale is still to come."""
        match = match_section(section.adata, self.signatures, self.settings.min_genes)
        counts = check_counts(section.adata.X)
        shared = counts[:, match.in_section]
        signature = self.signatures.table.to_numpy()[match.in_reference]
        filled = np.asarray(shared.sum(axis=1)).ravel() > 0
        keys = section.adata.obs_names.astype(str)
        if not filled.any():
            raise LabelError("no spot has counts in the shared genes", mend="Check the counts of this section")
        if not filled.all():
            _log.info("%s: %d spots have no counts in the shared genes: no label", section.name, (~filled).sum())
        weights = DECONVOLVE[self.settings.method](shared[filled], signature)
        self.facts[section.name] = {
            "spots_without_counts": list(keys[~filled]),
            "genes": counts.shape[1],
            "genes_shared": len(match.in_section),
            "genes_shared_same_name": match.exact,
            "share_of_reference_genes": len(match.in_section) / len(self.signatures.table),
            "share_of_counts": float(shared.sum() / counts.sum()),
        }
        table = pd.DataFrame(weights, index=keys[filled], columns=self.signatures.table.columns)
        return table.div(table.sum(axis=1), axis=0) if self.settings.unit == "proportion" else table

    def _survey(self) -> None:
        """Read all sections for what they are, as the labels of each depend on all."""
        for name in self.cohort.names:
            try:
                self.digests[name] = _digest(self.cohort.section(name))
            except HistomixError as error:
                self.failed[name] = error

    def _identity(self, name: str) -> str:
        others = self.digests if self.settings.cohort_wide else None
        return digest_json([dataclasses.asdict(self.settings), self.digests[name], others])

    def _stored(self) -> dict[str, dict[str, Any]]:
        """Facts of the sections that an earlier run with the same settings left in the folder."""
        if self.folder is None:
            return {}
        try:
            manifest = read_manifest(self.folder) or {}
        except InputError as error:
            _log.warning("%s The labels are made anew", error)
            return {}
        sections = dict(manifest.get("sections", {}))
        others = [name for name in sections if name not in self.cohort.names]
        same = manifest.get("settings") == dataclasses.asdict(self.settings)
        if others and (self.settings.cohort_wide or not same):
            raise LabelError(
                f"holds labels of sections that are not in this cohort ({', '.join(others[:3])}), made in another way",
                where=self.folder,
                mend="Choose another folder with out, or remove this one",
            )
        return sections if same else {}

    def _is_current(self, name: str, stored: Mapping[str, Any] | None) -> bool:
        if self.folder is None or stored is None or stored.get("identity") != self._identity(name):
            return False
        path = self.folder / f"{name}.csv"
        return path.exists() and digest_file(path) == stored.get("digest")

    def _store(self, name: str, table: pd.DataFrame) -> None:
        provenance = {**dataclasses.asdict(self.settings), "section": name}
        self.labels[name] = Abundance(table, self.settings.unit, provenance=provenance)
        if self.folder is not None:
            path = write_abundance(self.folder, name, self.labels[name])
            self.facts[name] |= {
                "spots": len(table),
                "identity": self._identity(name),
                "digest": digest_file(path),
            }
            self._write_manifest()

    def _write_manifest(self) -> None:
        if self.folder is None:
            return
        write_json(
            self.folder / MANIFEST,
            {
                "method": self.settings.method,
                "unit": self.settings.unit,
                "reference": self.signatures.facts(),
                "settings": dataclasses.asdict(self.settings),
                "seed": self.seed,
                "versions": versions("numpy", "scipy", "pandas"),
                "sections": {name: facts for name, facts in self.facts.items() if "identity" in facts},
                "failed": {name: str(error) for name, error in self.failed.items()},
            },
        )


def refuse_failures(failed: Mapping[str, HistomixError], total: int, mend: str) -> None:
    """Raise one LabelError that names every failed section, if any did."""
    if failed:
        lines = "".join(f"\n  - {name}: {error}" for name, error in failed.items())
        raise LabelError(f"{len(failed)} of {total} sections failed:{lines}\n", mend=mend)


def _digest(section: Section) -> str:
    """Digest of the keys, genes and counts of a section."""
    adata = section.adata
    if adata.X is None or not adata.n_vars:
        raise LabelError("has no counts", where=section.where, mend="Name its table of counts in the column counts")
    counts = sparse.csr_matrix(adata.X)
    counts.sum_duplicates()
    parts = ["\n".join(adata.obs_names).encode(), "\n".join(adata.var_names).encode()]
    parts += [array.tobytes() for array in (counts.indptr, counts.indices, counts.data)]
    return digest_bytes(b"\0".join(parts))
