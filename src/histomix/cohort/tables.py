"""Many maps as one table: tidy, and one row a slide with the clinical table beside it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.anonymity.nameless import PATIENT_KEYS
from ..common.anonymity.pseudonyms import Pseudonyms, open_pseudonyms
from ..common.naming import SPREADSHEET_NOTE, spreadsheet_table
from ..common.paths import as_list, paths_among
from ..common.tables import columns_or_none, write_parquet
from ..common.words import RESEARCH_USE, counted
from ..errors import HistomixError, InputError
from ..maps import CompositionMap, MapSource, find_maps
from ..progress import Progress, progress_bars, tell
from ..provenance import atomic_path, digest_file, require_folder, versions, write_json
from .anonymise import clinical_columns, private_facts, private_frame
from .clinical import joined_with, patient_of, read_clinical
from .hotspots import TlsRule
from .levels import WORDS, answer_facts, slide_words, types_not_told, types_told
from .measures import DEFINITIONS, hot_spot_rows, map_rows, tissue_of
from .stream import FLOAT_FORMAT, SlideRows, TidyFiles

logger = logging.getLogger(__name__)
COLUMNS = ("slide", "patient", "level", "part", "measure", "cell_type", "other_type", "value", "unit", "good_for")
_UNITS = {name: unit for name, (unit, _) in DEFINITIONS.items()}
_CELL_SIZE_TOLERANCE = 0.01
#: Tables of more bytes than this are told of before they are written.
_LARGE = 500_000_000
#: Cells of a table that are written between two words about it.
_CELLS = 1 << 18
#: A column that each table has: a sheet of slides may be called slides.csv, too.
_MARKS = {"cohort.csv": "measure", "slides.csv": "tiles", "tls_like.csv": "hot_spot"}
_TABLES = ("cohort.csv", "slides.csv", "tls_like.csv", "cohort.parquet", "slides.parquet")


@dataclass(frozen=True, eq=False)
class CohortTables:
    """The tables of a cohort.

    Parameters
    ----------
    slides
        One row per slide: the clinical columns, then every measure of the slide
        (``measure``, ``measure:type`` or ``measure:type:type``).
    hot_spots
        One row per TLS-like hot spot; empty where no lineages were declared.
    failures
        Maps that could not be used.
    facts
        Definitions, sources, and which ids found no partner.
    files
        What was written, by name; empty for tables in memory.
    rows
        How many rows `tidy` has.
    in_memory
        What `tidy` gives, where it is not read from the files.
    """

    slides: pd.DataFrame
    hot_spots: pd.DataFrame
    failures: list[HistomixError] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    rows: int = 0
    in_memory: pd.DataFrame | None = None

    @property
    def tidy(self) -> pd.DataFrame:
        """One row per slide, level (slide, fragment, region), part, measure and cell type(s).

        Read from the Parquet file where one was written: memory holds no more than a map until it is asked for.
        """
        return pd.read_parquet(self.files["cohort (Parquet)"]) if self.in_memory is None else self.in_memory


def cohort_tables(
    maps: MapSource | Sequence[MapSource],
    out: str | os.PathLike[str] | None = None,
    *,
    clinical: str | os.PathLike[str] | None = None,
    rule: TlsRule | None = None,
    in_scope_only: bool = True,
    all_types: bool = False,
    pairs_by_fragment: bool = False,
    patient_pattern: str | None = None,
    anonymise: bool = False,
    pseudonym_key: str | os.PathLike[str] | None = None,
    keep_columns: Sequence[str] = (),
    progress: Progress | bool = True,
) -> CohortTables:
    """Measure many maps: composition, density, mixing and interface, TLS-like hot spots, novelty, by slide and part.

    Parameters
    ----------
    maps
        Maps, the folders that `histomix.predict_slides` wrote, or folders of them; one or several.
    out
        Folder to write, see `histomix.cohort.write_cohort`. Rows go there map by map; where pyarrow is installed none
        stay in memory.
    clinical
        A table with one row per slide or patient (`read_clinical`).
    rule
        The cell types of the B and T lineage, and what counts as a hot spot; None: hot spots are not looked for.
    in_scope_only
        Use only tiles in scope; otherwise all that are readable. Shares of novelty and scope, and ``proportion_all``,
        are of all readable ones.
    all_types
        Keep the cell types that the head tells neither between slides nor within one.
    pairs_by_fragment
        Measure pairs of cell types in each fragment of tissue too, not only on slides and in regions: their rows grow
        with the types squared times the fragments.
    patient_pattern
        A regular expression that finds the patient in a slide's name; otherwise what the sheet of the prediction said,
        or the patient of the clinical table that the name begins with.
    anonymise
        Name slides, patients and regions by pseudonyms. Of the clinical table only columns of small numbers and of yes
        and no stay (`histomix.cohort.anonymise.clinical_columns`), and ``keep_columns``.
    pseudonym_key
        The key file of the pseudonyms (see `histomix.common.anonymity.pseudonyms.key_file`). With that of
        ``histomix predict --anonymise``, maps of pseudonyms are joined to a clinical table of names; without ``out``
        and without a key file the key is used once and kept nowhere.
    keep_columns
        Columns of the clinical table that name nobody, whatever is in them.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how many maps are done.

    Returns
    -------
    CohortTables

    Raises
    ------
    InputError
        No folder holds a map; the maps are of different heads; the clinical table cannot be used or fits no slide; the
        rule names a type that the head does not predict.
    StorageError
        A file cannot be written.

    Examples
    --------
    >>> tables = hm.cohort_tables("maps", clinical="clinical.csv", progress=False)
    >>> tables.slides["slide"].tolist()
    ['patient-9']
    """
    given = as_list(maps)
    sources = find_maps(given)
    if keep_columns and not anonymise:
        raise InputError("all columns are kept", hint="Name columns to keep only where the tables are anonymised")
    names = open_pseudonyms(anonymise, pseudonym_key, out, paths_among(given))
    table = None if clinical is None else read_clinical(clinical)
    if table is not None and names is not None:
        table = clinical_columns(table, keep_columns)
    pattern = _pattern(patient_pattern)
    patients = table.ids if table is not None and table.by == "patient" else []
    gathered = SlideRows()
    kept: list[pd.DataFrame] = []
    spots: list[dict[str, Any]] = []
    heads: dict[str, str] = {}
    sides: dict[str, float] = {}
    seen: dict[str, str] = {}
    words: dict[str, dict[str, str]] = {}
    good_for: dict[str, str] = {}
    left_out: list[str] = []
    answers: dict[str, Any] = {}
    failures: list[HistomixError] = []
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(progress_bars(progress))
        if out is not None:
            require_folder(out, own="measures")
            _refuse_other_tables(Path(out))
        files = None if out is None else stack.enter_context(TidyFiles(out))
        for number, source in enumerate(sources, start=1):
            try:
                composition, name, facts = _read(source, names)
                rows = pd.DataFrame(map_rows(composition, rule, in_scope_only, pairs_by_fragment))
            except HistomixError as error:
                failures.append(error)
                report("cohort", number, len(sources))
                continue
            heads.setdefault(str(composition.head.get("digest")), name)
            if name in sides:
                where = source if isinstance(source, Path) else None
                raise InputError(f"two maps are called {name}", where=where, hint="Rename one of the folders")
            sides[name] = composition.cell_px * composition.mpp
            twin = seen.setdefault(str(composition.slide.get("fingerprint") or name), name)
            if twin != name:
                logger.warning("%s and %s are maps of one slide, which counts twice here", twin, name)
            words[name] = slide_words(composition, name)
            answers = answers or answer_facts(composition)
            if not good_for:
                good_for = composition.reading.good_for
                left_out = [] if all_types else types_not_told(good_for)
            patient = facts if facts and pattern is None else patient_of(name, patients, pattern)
            tidy = types_told(rows.assign(slide=name, patient=patient), good_for, left_out)
            tidy = tidy.assign(unit=tidy["measure"].map(_UNITS))[list(COLUMNS)]
            gathered.add(tidy)
            if names is not None:
                tidy = private_frame(tidy, names)
            if files is not None:
                files.add(tidy)
                size = files.size_bytes * len(sources)
                if len(sides) == 1 and size > _LARGE:
                    logger.info("%s: tables of about %s MB", counted(len(sources), "map"), f"{size / 1e6:,.0f}")
            if files is None or not files.reads_back:
                kept.append(tidy)
            if rule is not None and not (in_scope_only and composition.reading.statement):
                tissue, _ = tissue_of(composition, rule, in_scope_only)
                spots += [{"slide": name, "patient": patient, **spot} for spot in hot_spot_rows(tissue, rule)]
            report("cohort", number, len(sources))
        if not sides:
            raise failures[0]
        if len(heads) > 1:
            raise InputError(
                f"the maps are of {len(heads)} heads (first seen in {', '.join(heads.values())}), and do not compare",
                hint="Predict all slides with one head, or make one table for each",
            )
        report("cohort (tables)", 0, 1)
        slides, joined = joined_with(table, gathered.table())
        for column in WORDS:
            slides[column] = [words[name][column] for name in slides["slide"]]
        wanted = ["slide", "patient", "hot_spot", "x_px", "y_px", "tiles", "area_mm2", "b_share", "t_share"]
        about = _facts(clinical, rule, in_scope_only, next(iter(heads)), sides) | joined
        about |= {"good_for": good_for, "left_out": left_out, "answers": answers, "use": RESEARCH_USE}
        hot = pd.DataFrame(spots, columns=wanted)
        if names is not None:
            slides, hot = (private_frame(frame, names) for frame in (slides, hot))
            about = private_facts(about, names)
            names.save()
        together = pd.concat(kept, ignore_index=True) if kept else None
        n_rows = files.rows if files is not None else sum(map(len, kept))
        tables = CohortTables(slides, hot, failures, about, rows=n_rows, in_memory=together)
        if files is None:
            return tables
        written = files.written | _write_others(tables, Path(files.place))
        report("cohort (tables)", 1, 1)
    _remove_others(files.place, written)
    return replace(tables, files=written)


def _refuse_other_tables(place: Path) -> None:
    """Refuse to write over tables of the same names that are of somebody else."""
    for name, column in _MARKS.items():
        header = columns_or_none(place / name)
        if header and column not in header:
            what = "is no table of this command, and would be replaced"
            raise InputError(what, where=place / name, hint="Choose another --out")


def write_cohort(tables: CohortTables, out: str | os.PathLike[str]) -> dict[str, Path]:
    """Write ``cohort.csv`` (tidy), ``slides.csv``, ``tls_like.csv`` (where looked for) and ``manifest.json``.

    With pyarrow, ``cohort.parquet`` and ``slides.parquet`` too. In the CSV files an apostrophe keeps a spreadsheet from
    running a name as a formula; the Parquet files have names as they are.

    Raises
    ------
    StorageError
        A file cannot be written.
    """
    with TidyFiles(out) as files:
        files.add(tables.tidy)
        written = files.written | _write_others(tables, files.place)
    _remove_others(files.place, written)
    return written


def _write_others(tables: CohortTables, place: Path) -> dict[str, Path]:
    """Write all but the tidy table."""
    written, named = {}, {"slides": tables.slides}
    if tables.facts.get("tls_like") is not None:
        named["tls_like"] = tables.hot_spots
    for name, table in named.items():
        with atomic_path(place / f"{name}.csv") as temporary:
            _write_csv(spreadsheet_table(table), temporary, f"cohort ({name})")
        written[name] = place / f"{name}.csv"
    try:
        with atomic_path(place / "slides.parquet") as temporary:
            tell("cohort (Parquet)", 0, 1)
            write_parquet(tables.slides, temporary, index=False)
            tell("cohort (Parquet)", 1, 1)
        written["slides (Parquet)"] = place / "slides.parquet"
    except ImportError:
        logger.info('no Parquet: pyarrow is not installed (pip install "histomix[st]")')
    failures = [str(error) for error in tables.failures]
    if tables.facts.get("anonymised"):
        failures = [type(error).__name__ for error in tables.failures]  # their words name folders
    write_json(place / "manifest.json", {**tables.facts, "csv": SPREADSHEET_NOTE, "failures": failures})
    return written


def _write_csv(table: pd.DataFrame, path: Path, task: str) -> None:
    """Write a table without its index, some rows at a time, which are told of: a slide has a thousand columns."""
    at_once = max(1, _CELLS // max(1, table.shape[1]))
    for first in range(0, max(1, len(table)), at_once):
        tell(task, first, len(table))
        table.iloc[first : first + at_once].to_csv(
            path,
            mode="a" if first else "w",
            header=not first,
            index=False,
            float_format=FLOAT_FORMAT,
            lineterminator="\n",
        )
    tell(task, len(table), len(table))


def _remove_others(place: Path, written: Mapping[str, Path]) -> None:
    """Remove what an earlier run wrote, of other maps or under other names."""
    for name in set(_TABLES) - {path.name for path in written.values()}:
        (place / name).unlink(missing_ok=True)


def _read(source: Path | CompositionMap, names: Pseudonyms | None) -> tuple[CompositionMap, str, str]:
    """A map, the name of its slide, and its patient where the prediction was told.

    With the key that a map's pseudonyms were made with, these are the names again.
    """
    composition = CompositionMap.of(source, needs=["head"])
    status = composition.status()
    if status.get("state") not in (None, "done"):
        place = source if isinstance(source, Path) else composition.where
        logger.warning("%s: its map is of an earlier run; the last one is %s", place, status["state"])
    said = status.get("facts")
    facts = {str(key).lower(): str(value) for key, value in said.items()} if isinstance(said, dict) else {}
    patient = next((facts[key] for key in PATIENT_KEYS if facts.get(key)), "")
    name = str(status.get("name") or composition.folder_name or composition.name)
    if names is None:  # a file's name may be bytes that are no text, which no table holds
        name = name.encode("utf-8", "replace").decode()
    if names is not None and composition.anonymised:
        for pseudonym in filter(None, (name, patient)):
            names.adopt(pseudonym)
        name, patient = names.original(name), names.original(patient)
        if "region" in composition.adata.obs:
            for region in filter(None, composition.adata.obs["region"].dropna().unique()):
                names.adopt(str(region))
    return composition, name, patient


def _facts(
    clinical: str | os.PathLike[str] | None,
    rule: TlsRule | None,
    in_scope_only: bool,
    head: str,
    sides: dict[str, float],
) -> dict[str, Any]:
    smallest, largest = min(sides.values()), max(sides.values())
    if largest > smallest * (1 + _CELL_SIZE_TOLERANCE):
        logger.warning(
            "the cells of the maps are %.4g to %.4g um wide: mixing, joins and interface do not compare",
            smallest,
            largest,
        )
    return {
        "measures": {name: {"unit": unit, "what": what} for name, (unit, what) in DEFINITIONS.items()},
        "head": head,
        "slides": len(sides),
        "cell_um": [smallest, largest],
        "in_scope_only": in_scope_only,
        "tls_like": None if rule is None else {name: _plain(value) for name, value in asdict(rule).items()},
        "clinical": None if clinical is None else {"file": Path(clinical).name, "digest": digest_file(clinical)},
        "versions": versions("numpy", "scipy", "pandas"),
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (tuple, list)) else value


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise InputError(
            f"the pattern {text!r} is no regular expression ({error})", hint=r"Write for example '^([A-Z]+-\d+)'"
        ) from error
