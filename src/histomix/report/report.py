"""The report: labels, scores and maps on one static page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .._version import __version__
from ..common.anonymity.pseudonyms import Pseudonyms, pseudonym_file
from ..common.paths import as_list, paths_among
from ..common.words import counted
from ..errors import InputError
from ..evaluation import Evaluation
from ..evaluation.statement import protocol_statement
from ..pages.page import Drawer, content_policy, page_environment
from ..pages.statement import statement_html
from ..pl.charts import draw_scores
from ..pl.scores import against, ceiling_of, score_table, score_tiles, shown_head, type_intervals, type_scores
from ..progress import Progress, progress_bars
from ..provenance import atomic_path, require_folder
from .anonymise import private_inputs
from .headline import headline_facts, report_title
from .inputs import ReportInputs, ReportSource, report_inputs
from .measured import orthogonal_view
from .model_card import card_view
from .panels import evaluation_panels
from .run_facts import run_facts
from .sections import Budget, cohort_view, legend, section_view
from .slides import figure_count, slide_view

_OURS = {"index.html", "figures"}
_UNSEEN = {"donor": "donors", "section": "sections of known donors", "random": "spots of known sections"}
#: How each protocol is marked: the kind of badge, and its words.
PROTOCOL_BADGES = {
    "donor": ("honest", "held-out donors"),
    "site": ("honest", "held-out sites"),
    "transfer": ("honest", "another cohort"),
    "section": ("optimistic", "optimistic: held-out sections"),
    "random": ("leaky", "leaky: random spots"),
    "orthogonal": ("honest", "orthogonal truth, one slide"),
}


def write_report(
    results: ReportSource | Sequence[ReportSource],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    lead: str = "",
    anonymise: bool = False,
    pseudonym_key: str | os.PathLike[str] | None = None,
    progress: Progress | bool = True,
) -> Path:
    """Write ``out/index.html`` and its pictures from what the other functions found, or the folders that they wrote.

    Parameters
    ----------
    results
        In any order, one or several: evaluations, heads and maps, or folders of these, of labels, features and viewers.
        Features bring the H&E under the maps of an evaluation; a viewer is linked.
    out
        Folder of the page; an earlier report there is replaced.
    title, lead
        Words at the top of the page; each line of ``lead`` is a paragraph. When left out, the title says which tissue,
        and how many sections, donors or slides.
    anonymise
        Name sections, slides, donors and regions by pseudonyms, and leave out file names, paths and links to viewers.
        The pictures show what they show.
    pseudonym_key
        The key file of the pseudonyms; see `histomix.common.anonymity.pseudonyms.key_file`.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how many figures are done.

    Returns
    -------
    Path
        The page. It opens from disk and loads nothing remote.

    Raises
    ------
    InputError
        A folder is absent, damaged or of no known kind; or ``out`` holds files that no report wrote.
    StorageError
        The page cannot be written.

    Examples
    --------
    >>> hm.write_report(["head"], "report-of-head", progress=False).name
    'index.html'
    """
    _check_folder(Path(out))
    given = as_list(results)
    key = pseudonym_file(anonymise, pseudonym_key, out, paths_among(given))
    sources = report_inputs(given)
    if key is not None:
        names = Pseudonyms.open(key)
        sources = private_inputs(sources, names)
        names.save()
    with atomic_path(out) as folder, progress_bars(progress) as report:
        folder.mkdir()
        draw = Drawer(folder, _count_figures(sources), report)
        evaluations = [_evaluation(one, place, sources, draw) for place, one in enumerate(sources.evaluations)]
        page = (
            page_environment("report")
            .get_template("report.html.j2")
            .render(
                policy=content_policy("report", "_style.html.j2", "_script.html.j2"),
                title=title or report_title(sources),
                lead=lead,
                version=__version__,
                headline_facts=headline_facts(sources),
                evaluations=evaluations,
                maps=[slide_view(one, draw) for one in sources.maps],
                failed=[{"name": name, "reason": reason} for name, reason in sources.failed],
                orthogonals=[orthogonal_view(one, draw) for one in sources.orthogonals],
                viewers=[{"name": path.parent.name, "href": _link(path, Path(out))} for path in sources.viewers],
                statement=statement_html(_statement(sources), 4),
                cards=[card_view(card) for card in sources.heads],
                groups=run_facts(sources),
            )
        )
        (folder / "index.html").write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return Path(out) / "index.html"


def _link(page: Path, out: Path) -> str:
    """From the report to another page on the same disk, so that both can be moved together."""
    from urllib.parse import quote

    try:
        return quote(Path(os.path.relpath(page.resolve(), out.resolve())).as_posix())
    except ValueError:  # on another drive of Windows there is no way from one to the other
        return page.resolve().as_uri()


def _check_folder(out: Path) -> None:
    """Refuse to replace a file, or a folder that holds anything a report did not write."""
    require_folder(out)
    foreign = sorted(path.name for path in out.iterdir() if path.name not in _OURS) if out.is_dir() else []
    if foreign:
        raise InputError(
            f"holds {foreign[0]!r}, which no report wrote and replacing the folder would delete",
            where=out,
            hint="Choose an empty or new folder as --out",
        )


def _statement(sources: ReportInputs) -> str:
    if not sources.evaluations:
        return ""
    names = ["This evaluation"] if len(sources.evaluations) == 1 else map(str, range(1, len(sources.evaluations) + 1))
    return protocol_statement(dict(zip(names, sources.evaluations, strict=True)))


def _count_figures(sources: ReportInputs) -> int:
    total = sum(map(figure_count, sources.maps))
    for one in sources.evaluations:
        drawn = sum(name in sources.canvases for name in one.labels)
        types = Budget(one, drawn).types
        total += 9 + drawn * (2 + len(types))
    return total


def _evaluation(evaluation: Evaluation, place: int, sources: ReportInputs, draw: Drawer) -> dict[str, Any]:
    facts = evaluation.summary
    protocol = facts["protocol"]
    shown = shown_head(evaluation)
    target = "truth" if "truth" in facts["scores"] else "label"
    bounded = ceiling_of(evaluation, target) is not None
    badge, words = PROTOCOL_BADGES.get(protocol, ("honest", protocol))
    means = "" if facts["protocol_means"] in words else f"{facts['protocol_means']}. "
    ids = {name: f"section-{place}-{row}" for row, name in enumerate(facts["sections"])}
    budget = Budget(evaluation, sum(name in sources.canvases for name in facts["sections"]))
    return {
        "unseen": _UNSEEN.get(protocol, f"{protocol}s"),
        "unseen_why": {"donor": ", nor any section of its donor"}.get(protocol, ", but had seen its donor"),
        "protocol_class": badge,
        "protocol_name": words,
        "protocol_text": f"{means}{counted(len(facts['folds']), 'fold')}, {counted(facts['n_donors'], 'donor')}, "
        f"{counted(facts['n_sections'], 'section')}, {facts['n_spots']:,} spots, "
        f"{counted(len(facts['cell_types']), 'cell type')}; "
        f"unit: {facts['unit']}.",
        "legend": legend(facts["cell_types"]),
        "cohort": cohort_view(evaluation, shown, target, ids, sources, draw),
        "tiles": score_tiles(evaluation, shown, target),
        "notes": [note for note in (facts["interval"]["caution"], *facts["notes"]) if note],
        "tables": [score_table(evaluation, name, shown) for name in facts["scores"]],
        "score_figure": draw.chart(_score_figure(evaluation, target), "scores"),
        "score_caption": f"Pearson of each cell type with the {against(target)}: mean over held-out sections."
        + (" Bound: the most that a perfect prediction could reach with these labels." if bounded else ""),
        "panels": [
            {**one, "id": f"{one['key']}-{place + 1}"} for one in evaluation_panels(evaluation, shown, target, draw)
        ],
        "pairs_text": budget.words,
        "sections": [
            section_view(evaluation, name, shown, ids[name], sources, budget, draw) for name in facts["sections"]
        ],
    }


def _score_figure(evaluation: Evaluation, target: str) -> Figure:
    scores, bound = type_scores(evaluation, target)
    figure = Figure(figsize=(6.6, 0.32 * len(scores) + 1.2), layout="constrained")
    metric = f"mean Pearson per section, against the {against(target)}"
    draw_scores(figure.subplots(), scores, intervals=type_intervals(evaluation, target), bound=bound, metric=metric)
    return figure
