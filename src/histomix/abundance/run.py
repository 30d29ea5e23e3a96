"""One labelling of a cohort: group by group of sections, kept where nothing changed, failures collected."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..common.words import counted
from ..errors import HistomixError, InputError, LabelError, MissingExtraError, SlideError, StorageError
from ..progress import Progress
from ..provenance import digest_file, digest_json, fingerprint, versions, write_json
from ..spots import CELLS, RELATIVE
from .abundance import Abundance
from .cells import expected_cells, nuclei_at_spots
from .deconvolve.svi import UNFINISHED, Checkpoint
from .methods import PASSES, Labels, label_fast, label_together
from .options import Options
from .sections import MatchedCounts, digest_counts, matched_counts
from .signatures import Signatures
from .tables import MANIFEST, read_abundance, read_manifest, write_abundance
from .totals import check_totals
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from ..spots import Cohort, Section

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """All that decides a label, apart from the counts."""

    method: str
    unit: str
    reference: str
    cells_per_spot: float | str | None
    min_genes: int | None
    cell_type_key: str | None
    seed: int
    options: Options | None = None
    vocabulary: str | None = None
    layer: str | None = None
    genome: str | None = None

    @property
    def fit(self) -> str:
        """Which sections have a part in each other's labels: those of a cohort, of a donor, or none."""
        if self.options is not None:
            return self.options.fit
        return "cohort" if isinstance(self.cells_per_spot, float) else "section"

    @property
    def summary(self) -> str | None:
        """Which summary of the posterior the labels are, where there is one."""
        if self.options is None:
            return None
        return "median" if self.unit == "proportion" else self.options.summary

    def facts(self) -> dict[str, Any]:
        """As they read back from a manifest."""
        facts: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        # Labels of versions that had no such choice are those without one.
        return {name: value for name, value in facts.items() if value is not None or name not in ("layer", "genome")}


@dataclass
class Run:
    """One call of `label`: what it works with, and what became of each section."""

    cohort: Cohort
    signatures: Signatures
    settings: Settings
    folder: Path | None
    threads: int | None = None
    vocabulary: Vocabulary | None = None
    labels: dict[str, Abundance] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, HistomixError] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    told: set[str] = field(default_factory=set)
    nuclei: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def label(self, progress: Progress) -> dict[str, Abundance]:
        """Label every section; raise LabelError at the end if some failed."""
        names = self.cohort.names
        stored = self._stored()
        self.facts = dict(stored)
        progress("label", 0, len(names))
        for group in self._groups():
            try:
                self._label_group(group, stored, progress)
            except (StorageError, MissingExtraError):
                raise
            except HistomixError as error:
                self.failed.update(dict.fromkeys((name for name in group if name not in self.failed), error))
            self._tell(progress, group)
        for name in self.failed:
            self.facts.pop(name, None)
        self._settle_unit()
        self._write_manifest()
        if self.kept:
            new = len(self.labels) - self.kept
            _log.info("%s: %s unchanged and kept, %d labelled", self.folder, counted(self.kept, "section"), new)
        if self.folder is not None and not self.failed:
            # What earlier runs with other settings left unfinished.
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
        rest = "The others are done" if self.folder else "Name a folder with out to keep the others"
        again = "mend these and run again" if len(self.failed) < len(names) else "Mend these and run again"
        refuse_failures(self.failed, len(names), hint=again if len(self.failed) == len(names) else f"{rest}; {again}")
        return {name: self.labels[name] for name in names}

    @property
    def unit(self) -> str:
        """The unit asked for; relative abundance for all where the totals of one section cannot be cells."""
        if self.settings.unit == CELLS and any(self._doubts(name) for name in self.facts):
            return RELATIVE
        return self.settings.unit

    def _doubts(self, name: str) -> list[str]:
        return list((self.facts[name].get("totals") or {}).get("doubts", []))

    def _settle_unit(self) -> None:
        """Bring all labels to `unit`, and say why it is not that asked for."""
        unit = self.unit
        for name, labels in self.labels.items():
            if labels.unit != unit:
                provenance = {**labels.provenance, "unit": unit}
                self.labels[name] = dataclasses.replace(labels, unit=unit, provenance=provenance)
        if unit != self.settings.unit:
            doubted = [name for name in self.facts if self._doubts(name)]
            _log.warning(
                'the totals of %d of %d sections cannot be taken for cells (%s: %s): the unit of all labels is "%s", '
                "of which only what is more and what is less counts; %s",
                len(doubted),
                len(self.facts),
                doubted[0],
                "; ".join(self._doubts(doubted[0])),
                unit,
                'give cells_per_spot="nuclei", summary "median" or a larger panel, or ask for proportions',
            )

    def _groups(self) -> list[list[str]]:
        """Sections that are labelled together, by `Settings.fit`."""
        names = self.cohort.names
        if self.settings.fit == "section":
            return [[name] for name in names]
        if self.settings.fit == "cohort":
            return [names]
        donors = self.cohort.donors
        return [[name for name in names if donors[name] == donor] for donor in dict.fromkeys(donors.values())]

    def _label_group(self, group: list[str], stored: Mapping[str, Any], progress: Progress) -> None:
        ready: dict[str, MatchedCounts] = {}
        for name in group:
            try:
                section = self.cohort.section(name)
                self.digests[name] = self._digest(section)
                matched = matched_counts(section, self.signatures, self.settings.min_genes)
                if matched.filled.any():
                    ready[name] = matched
            except StorageError:
                raise
            except HistomixError as error:
                # What is found in the counts does not know where they came from, or only the row of the sheet.
                row = next((row for row in self.cohort.rows if row.section == name), None)
                if row is not None and error.where in (None, row.where):
                    error.where = str(row.counts or row.spots)
                self.failed[name] = error
        together = list(ready)
        if not together:
            return
        if self.folder is not None and all(self._is_current(name, stored.get(name), together) for name in together):
            for name in together:
                self.labels[name] = read_abundance(self.folder / f"{name}.csv")
            self.kept += len(together)
            return
        # Where sections depend on each other, either nothing is new, or everything is.
        for name, labels in self._derive(ready, progress).items():
            if self.settings.unit == CELLS:
                totals = check_totals(labels.values, ready[name], self.signatures, self._median_nuclei(name))
                labels.facts["totals"] = totals.facts()
            self._store(name, labels, together)
        for checkpoint in map(partial(self._checkpoint, together), PASSES):
            if checkpoint is not None:
                checkpoint.remove()

    def _digest(self, section: Section) -> str:
        """Digest of all of a section that its labels depend on."""
        counts = digest_counts(section)
        if self.settings.cells_per_spot != "nuclei" or section.image is None or not section.image.exists():
            return counts
        return digest_json([counts, fingerprint(section.image), section.mpp, section.spot_diameter_um])

    def _derive(self, ready: dict[str, MatchedCounts], progress: Progress) -> dict[str, Labels]:
        settings = self.settings
        if settings.options is None:
            labels = {}
            for name, matched in ready.items():
                labels[name] = label_fast(
                    settings.method, matched, self.signatures, settings.unit, settings.seed, self.threads, progress
                )
                self._tell(progress, [name])
            return self._scaled(labels)
        estimates = label_together(
            list(ready.values()),
            self.signatures,
            settings.options,
            settings.unit,
            self._cells(list(ready)),
            min_genes=settings.min_genes,
            seed=settings.seed,
            threads=self.threads,
            progress=progress,
            checkpoint=partial(self._checkpoint, list(ready)),
        )
        return dict(zip(ready, estimates, strict=True))

    def _scaled(self, labels: dict[str, Labels]) -> dict[str, Labels]:
        """Weights of a fast method as cells: the median total of these sections becomes the cells of a typical spot."""
        if self.settings.unit != CELLS:
            return labels
        cells = self._cells(list(labels))
        total = pd.concat([table.values.sum(axis=1) for table in labels.values()]).median()
        return {name: table.scaled(cells / total) for name, table in labels.items()}

    def _cells(self, names: list[str]) -> float:
        """Cells of a typical spot of these sections."""
        wish = self.settings.cells_per_spot
        if isinstance(wish, float):
            return wish
        if wish == "nuclei":
            cells = float(np.median(np.concatenate([self._counted(name) for name in names])))
            _log.info("%s: %.3g nuclei under a typical spot", ", ".join(names), cells)
            return cells
        sections = [self.cohort.section(name, counts=False) for name in names]
        cells = float(np.median([expected_cells(section.spot_diameter_um) for section in sections]))
        _log.info(
            "%s: %.3g cells per spot are presumed from the size of the spots; the abundances depend on it: "
            'give cells_per_spot as a number, or as "nuclei" to count them in the image',
            ", ".join(names),
            cells,
        )
        return cells

    def _counted(self, name: str) -> NDArray[np.float64]:
        """Nuclei under the spots of a section, counted once."""
        if name not in self.nuclei:
            self.nuclei[name] = nuclei_at_spots(self.cohort.section(name, counts=False))
        return self.nuclei[name]

    def _median_nuclei(self, name: str) -> float | None:
        """Of a typical spot; None, with a logged word, where they cannot be counted."""
        if self.cohort.section(name, counts=False).image is None:
            return None
        try:
            return float(np.median(self._counted(name)))
        except (LabelError, SlideError) as error:
            _log.info("%s: nuclei cannot be counted under the spots: %s", name, error)
            return None

    def _tell(self, progress: Progress, names: list[str]) -> None:
        """Report sections as done, each once."""
        for name in names:
            if name not in self.told:
                self.told.add(name)
                progress("label", len(self.told), len(self.cohort.names))

    def _identity(self, name: str, together: list[str]) -> str:
        others = {other: self.digests[other] for other in together}
        return digest_json([self.settings.facts(), self.digests[name], others])

    def _checkpoint(self, together: list[str], kind: str) -> Checkpoint | None:
        """Where the fit of some sections goes on from, if it is stopped."""
        if self.folder is None or self.settings.options is None:
            return None
        libraries = versions("cell2location", "pyro-ppl", "torch")
        identity = digest_json([self._identity(together[0], together), kind, libraries])
        name = identity.removeprefix("sha256:")[:16]
        return Checkpoint(self.folder / UNFINISHED / f"{name}.safetensors", identity)

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
        same = manifest.get("settings") == self.settings.facts()
        if others and (self.settings.fit == "cohort" or not same):
            raise LabelError(
                f"holds labels of sections that are not in this cohort ({', '.join(others[:3])}), made in another way",
                where=self.folder,
                hint="Choose another folder with out, or remove this one",
            )
        return sections if same else {}

    def _is_current(self, name: str, stored: Mapping[str, Any] | None, together: list[str]) -> bool:
        if self.folder is None or stored is None or stored.get("identity") != self._identity(name, together):
            return False
        path = self.folder / f"{name}.csv"
        return path.exists() and digest_file(path) == stored.get("digest")

    def _store(self, name: str, labels: Labels, together: list[str]) -> None:
        facts = {**labels.facts, "fitted_with": together}
        provenance = {
            **self.settings.facts(),
            "section": name,
            "fit": self.settings.fit,
            "fitted_with": together,
            "summary": self.settings.summary,
            "reliability_of": facts.get("reliability_of"),
        }
        abundance = Abundance(
            labels.values, self.settings.unit, labels.sd, provenance, labels.median, labels.reliability
        )
        if self.vocabulary is not None:
            abundance = self.vocabulary.apply(abundance)
        self.labels[name] = abundance
        self.facts[name] = facts
        if self.folder is not None:
            path = write_abundance(self.folder, name, abundance)
            self.facts[name] |= {
                "spots": len(abundance.values),
                "identity": self._identity(name, together),
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
                "unit": self.unit,
                "fit": self.settings.fit,
                **({} if self.settings.options is None else {"summary": self.settings.summary}),
                **({} if self.vocabulary is None else {"vocabulary": self.vocabulary.facts()}),
                "reference": self.signatures.facts(),
                "settings": self.settings.facts(),
                "seed": self.settings.seed,
                # The fast methods give the same bits on any number.
                "threads": None if self.settings.options is None else self.threads,
                "versions": versions("numpy", "scipy", "pandas", "torch", "cell2location", "pyro-ppl", "scvi-tools"),
                "sections": {name: facts for name, facts in self.facts.items() if "identity" in facts},
                "failed": {name: str(error) for name, error in self.failed.items()},
            },
        )


def refuse_failures(failed: Mapping[str, HistomixError], total: int, hint: str) -> None:
    """Raise one LabelError that names every failed section, if any did."""
    if failed:
        lines = "".join(f"\n  - {name}: {error}" for name, error in failed.items())
        raise LabelError(f"{len(failed)} of {total} sections failed:{lines}\n", hint=hint)
