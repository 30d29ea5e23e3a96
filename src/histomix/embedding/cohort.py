"""A cohort through encoders: one file of features per section and encoder, resumable and verified."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..common.storage.locks import folder_lock
from ..common.words import counted
from ..encoders.racing import seconds_a_tile
from ..errors import EncoderError, FeatureError, HistomixError, MissingExtraError, ScaleWarning, StorageError
from ..progress import Progress, duration, part_of, progress_bars
from ..provenance import atomic_path, require_folder
from ..slides import Slide, TissueMask, tiles_at_spots, tissue_mask
from ..spots import Cohort, Section, render_overlay
from ..spots import check_alignment as alignment_of
from .engine import check_batch_size, check_dtype, embed_tiles_together
from .features import OVERVIEW_OWN, read_overview
from .identity import alignment_facts, slide_facts, write_preview
from .other_scales import FACTORS, SAMPLE, embed_other_scales
from .precision import embed_precision_shifts
from .restaining import MOST, VERSIONS, embed_stain_shifts
from .target import EncoderSource, Target, Work

if TYPE_CHECKING:
    from ..encoders import Encoder
    from ..encoders.runtimes import Runtime
    from .by_section import Features
    from .features import SectionFeatures

_LOG = logging.getLogger(__name__)
#: Errors that would meet the next section too.
_FATAL = (StorageError, MissingExtraError)
#: A job of fewer tiles, or one that takes less, begins without an estimate.
_FEW_TILES, _SOON_S = 500, 10.0
#: Tiles of a section that are embedded besides: other scales, other stains.
SAMPLED = SAMPLE * len(FACTORS) + MOST * (1 + VERSIONS)
_Path = str | os.PathLike[str]
_Weights = _Path | Sequence[_Path] | Mapping[str, _Path] | None


@overload
def embed(  # type: ignore[overload-overlap]  # a str is a sequence of str too
    cohort: Cohort | str | os.PathLike[str],
    encoder: str | Encoder = "builtin",
    weights: _Weights = None,
    out: _Path | None = None,
    dtype: str = "float16",
    batch_size: int | None = None,
    threads: int | None = None,
    check_alignment: bool = True,
    progress: Progress | bool = True,
    *,
    fov_um: float | None = None,
    runtime: Runtime = "auto",
    trust_code: bool = False,
    verify: bool = False,
) -> Features | SectionFeatures: ...
@overload
def embed(
    cohort: Cohort | str | os.PathLike[str],
    encoder: Sequence[str | Encoder],
    weights: _Weights = None,
    out: _Path | None = None,
    dtype: str = "float16",
    batch_size: int | None = None,
    threads: int | None = None,
    check_alignment: bool = True,
    progress: Progress | bool = True,
    *,
    fov_um: float | None = None,
    runtime: Runtime = "auto",
    trust_code: bool = False,
    verify: bool = False,
) -> dict[str, Features | SectionFeatures]: ...
def embed(
    cohort: Cohort | str | os.PathLike[str],
    encoder: str | Encoder | Sequence[str | Encoder] = "builtin",
    weights: _Weights = None,
    out: _Path | None = None,
    dtype: str = "float16",
    batch_size: int | None = None,
    threads: int | None = None,
    check_alignment: bool = True,
    progress: Progress | bool = True,
    *,
    fov_um: float | None = None,
    runtime: Runtime = "auto",
    trust_code: bool = False,
    verify: bool = False,
) -> Features | SectionFeatures | dict[str, Features | SectionFeatures]:
    """Embed the tile at every spot of a cohort with one or several frozen encoders.

    With ``out``, work is stored as it proceeds: the same call goes on where an earlier one stopped, and keeps
    sections whose slide, spots, encoder and dtype are unchanged without opening a slide or loading weights.
    Several encoders share one pass over each slide: every place is read once.
    A spot off the tissue keeps its row; ``obs["tissue"]`` is the share of its tile that is tissue.

    Parameters
    ----------
    cohort
        Sections with their slides, or their sheet.
    encoder
        The name of an encoder (see `histomix.encoders.cards`) or a loaded one; or a list of them.
    weights
        Local weights for a named encoder. For a list of encoders: one for each that does not bring its own, in their
        order, or name -> weights.
    out
        Folder for ``<section>.h5ad``, ``previews/<section>.jpg`` (about 8 um per pixel) and ``manifest.json``, which
        lists the sections embedded, kept and failed; for a list of encoders, one such folder ``<encoder>/`` each.
        None keeps everything in memory.
    dtype
        ``"float16"`` or ``"float32"``.
    batch_size
        Tiles encoded at once; it changes speed and memory, not results. None finds it from the free memory.
    threads
        CPU threads of a named encoder.
    check_alignment
        Refuse a section whose spots do not lie on the tissue of its slide.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told ``"embed <section>"``, tiles done and
        tiles in all, and, of several sections, ``"embed (sections)"``.
    fov_um
        Width of the tile around each spot, such as the spot's diameter; None takes each encoder's own (px x mpp).
        The encoder gets the same px at another um per px.
    runtime
        What runs the encoders, see `histomix.encoders.runtimes.optimise`.
    trust_code
        Let an encoder run code of its own, see `histomix.encoders.load_encoder`.
    verify
        Read slides whole to see whether they are still the same, though neither their sizes nor their times have
        changed.

    Returns
    -------
    mapping
        Section -> features, in the order of the cohort; for a list of encoders, encoder -> section -> features.
        See `feature_manifest` for what they carry. Those of a folder ``out`` are read when they are asked for.

    Raises
    ------
    SheetError
        The sheet has faults; all are named.
    FeatureError
        Some sections failed; all others are done and stored, and the message names each failure. Or another process
        writes to ``out``, or ``out`` holds features of another encoder.
    EncoderError
        An encoder cannot be loaded, or is listed twice.
    InputError
        ``fov_um`` is not a positive number.
    StorageError
        Something cannot be written; finished sections and shards are intact.

    Examples
    --------
    >>> features = hm.embed("sheet.csv", out="features", progress=False)  # what is up to date is kept
    >>> features["P1S1"].n_vars == hm.cards()[0].dim
    True
    """
    check_dtype(dtype)
    check_batch_size(batch_size)
    sections = Cohort.of(cohort)
    several = isinstance(encoder, Sequence) and not isinstance(encoder, str)
    encoders: list[str | Encoder] = list(encoder) if several else [encoder]  # type: ignore[arg-type,list-item]
    given = _weights(encoders, weights)
    with contextlib.ExitStack() as stack:
        targets: dict[str, Target] = {}
        for one, local in zip(encoders, given, strict=True):
            source = EncoderSource(one, local, threads, fov_um=fov_um, runtime=runtime, trust_code=trust_code)
            name = source.name if several else ""
            if name in targets:
                raise EncoderError(f"the encoder {name} is listed twice", hint="List each encoder once")
            folder = None if out is None else Path(out) / name
            recorded = {}
            if folder is not None:
                require_folder(folder, own=OVERVIEW_OWN)
                sections.refuse_replacing(folder, ".h5ad")
                stack.enter_context(folder_lock(folder))
                recorded = read_overview(folder)
            source.recognise(recorded)
            targets[name] = Target(source, folder, dtype, verify, wanted=recorded.get("wanted", {}))
        if not targets:
            raise EncoderError("no encoder was named", hint="Name one, such as builtin")
        report = stack.enter_context(progress_bars(progress))
        _Run(list(targets.values()), batch_size, check_alignment, report).embed(sections)
    names = sections.names
    features = {name: target.result(names) for name, target in targets.items()}
    return features if several else next(iter(features.values()))


def _weights(encoders: Sequence[str | Encoder], weights: _Weights) -> list[_Path | None]:
    """Weights of each encoder."""
    from ..encoders import card

    names = [one if isinstance(one, str) else one.card.name for one in encoders]
    if isinstance(weights, Mapping):
        if unknown := sorted(set(weights) - set(names)):
            raise EncoderError(f"weights were given for {', '.join(unknown)}, which is not listed", hint="Name it too")
        return [weights.get(name) for name in names]
    files = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights or [])
    if not files:
        return [None] * len(names)
    # Whether a single encoder takes weights, its loader says.
    taking = [one for one in encoders if len(names) == 1 or (isinstance(one, str) and card(one).source != "builtin")]
    if len(files) != len(taking):
        raise EncoderError(
            f"{len(files)} weights were given for {len(taking)} encoders that take any",
            hint="Give them once for each encoder that does not bring its own, in their order",
        )
    order = iter(files)
    return [next(order) if one in taking else None for one in encoders]


@dataclass
class _Run:
    """One call of `embed`: its targets and settings, and which sections failed."""

    targets: list[Target]
    batch_size: int | None
    check_alignment: bool
    progress: Progress
    failed: dict[str, HistomixError] = field(default_factory=dict)

    def embed(self, cohort: Cohort) -> None:
        for target in self.targets:
            target.open()
        pending: dict[str, list[Work]] = {}
        for name in cohort.names:
            for target in self.targets:
                target.wanted[name] = None
            with self._attempt(name):
                section = cohort.section(name, counts=False)
                candidates = [target.work(section, self.check_alignment) for target in self.targets]
                if works := [work for work in candidates if work is not None]:
                    pending[name] = works
                else:
                    self.progress(f"embed {name}", len(section.keys), len(section.keys))
        busy = [target for target in self.targets if any(work.target is target for w in pending.values() for work in w)]
        for target in busy:
            target.source.load()
        for target in busy:
            target.write_manifest(self.failed)
        _say_estimate(pending)
        with part_of(self.progress, "embed (sections)", len(pending)) as one_more:
            for name, works in pending.items():
                with self._attempt(name):
                    self._embed(works)
                one_more()
        for target in self.targets:
            target.write_manifest(self.failed)
        if self.failed:
            raise _failure(self.failed, cohort) from next(iter(self.failed.values()))
        kept = len(cohort.names) - len(pending)
        _LOG.info("sections embedded: %d; already up to date: %d", len(pending), kept)

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

    def _embed(self, works: Sequence[Work]) -> None:
        """Embed and store one section for every target that needs it."""
        section = works[0].section
        name = section.name
        with section.slide() as slide, warnings.catch_warnings():
            # Said once in words by `slide_facts`, instead of once per tile by the reading threads.
            warnings.simplefilter("ignore", ScaleWarning)
            mask = tissue_mask(slide)
            alignment = None
            if self.check_alignment:
                alignment = self._aligned(section, slide, mask, [work.target.folder for work in works])
            tables = [tiles_at_spots(slide, section.spots_px, section.keys, w.target.spec, mask) for w in works]
            seen = [{"slide": slide_facts(slide, work.target.spec), "alignment": alignment} for work in works]
            todo = [work for work in works if work.values is None]
            folders = [work.target.folder for work in todo]
            encoders = [work.target.encoder for work in todo]
            results = embed_tiles_together(
                slide,
                tables[0],
                encoders,
                shard_dirs=[folder and folder / ".shards" / name for folder in folders],
                dtype=works[0].target.dtype,
                batch_size=self.batch_size,
                progress=self.progress,
                task=f"embed {name}",
            )
            embeddings = [values for values, _ in results]
            scaled = embed_other_scales(slide, tables[0], encoders, works[0].target.dtype, self.batch_size)
            restained = embed_stain_shifts(slide, tables[0], encoders)
            exact = embed_precision_shifts(slide, tables[0], encoders)
            for work, values, larger, shifts, moves in zip(todo, embeddings, scaled, restained, exact, strict=True):
                work.values = values
                work.scaled, work.shifts, work.exact = larger, shifts, moves
            for work, tiles, facts in zip(works, tables, seen, strict=True):
                folder = work.target.folder
                facts["preview"] = None if folder is None else write_preview(slide, folder, name)
                if work.values is not None:
                    work.target.finish(work, tiles, work.values, facts)

    def _aligned(
        self, section: Section, slide: Slide, mask: TissueMask, folders: Sequence[Path | None]
    ) -> dict[str, Any]:
        """Check a section; its overlay is written before it may be refused, so that the fault can be seen."""
        alignment = alignment_of(section, slide, mask)
        drawn = None
        for folder in filter(None, folders):
            (folder / "overlays").mkdir(exist_ok=True)
            path = folder / "overlays" / f"{section.name}.jpg"
            if drawn is None:
                drawn = render_overlay(section, path, slide, mask=mask, alignment=alignment)
            else:
                with atomic_path(path) as temporary:
                    shutil.copyfile(drawn, temporary)
            if not alignment.ok:
                _LOG.warning("the spots of section %s on its image: %s", section.name, path)
        return alignment_facts(alignment.require())


def _say_estimate(pending: Mapping[str, Sequence[Work]]) -> None:
    """How long all of it will take, before it starts; of a job that is soon over nothing."""
    spots = sum(len(works[0].section.keys) for works in pending.values())
    if spots < _FEW_TILES:
        return
    seconds = 0.0
    for target in {id(work.target): work.target for works in pending.values() for work in works}.values():
        todo = [work for works in pending.values() for work in works if work.target is target and work.values is None]
        tiles = sum(len(work.section.keys) + SAMPLED for work in todo)
        seconds += tiles * seconds_a_tile(target.encoder) if tiles else 0.0
    if seconds >= _SOON_S:
        words = f"{counted(spots, 'tile')} of {counted(len(pending), 'section')}"
        _LOG.info("embedding %s will take about %s here", words, duration(seconds))


def _failure(failed: Mapping[str, HistomixError], cohort: Cohort) -> FeatureError:
    count = len(failed)
    rest = "" if count == len(cohort.names) else "; the others are done"
    lines = "".join(f"\n  - {name}: {str(error).rstrip('.')}" for name, error in failed.items())
    return FeatureError(
        f"{count} of {len(cohort.names)} sections could not be embedded{rest}:{lines}",
        where=cohort.sheet,
        hint="What is done is kept: mend these and run the same command again",
    )
