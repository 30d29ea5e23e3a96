"""The report: labels, scores and maps on one static page."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from .._version import __version__
from ..errors import InputError
from ..evaluation import Evaluation
from ..progress import Progress, silent
from ..provenance import atomic_path
from .figures import beside_figure, composition_figure, map_figure, score_figure
from .material import Material, SlideMap, gather
from .run_facts import run_facts
from .scores import against, ceiling_of, number, score_table, score_tiles, section_ceiling, shown_head, type_scores

_DPI = 130
_OURS = {"index.html", "figures"}
_UNSEEN = {"donor": "donors", "section": "sections of known donors", "random": "spots of known sections"}
#: How each protocol is marked: the kind of badge, and its words.
PROTOCOL_BADGES = {
    "donor": ("honest", "held-out donors"),
    "section": ("optimistic", "optimistic: held-out sections"),
    "random": ("leaky", "leaky: random spots"),
}


def write_report(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str = "histomix report",
    lead: str = "",
    progress: Progress = silent,
) -> Path:
    """Write ``out/index.html`` and its pictures from folders that the other verbs made.

    Parameters
    ----------
    folders
        Folders of `label`, `embed`, `train`, `evaluate` and `predict`, in any order. Features bring the H&E under the
        maps of an evaluation.
    out
        Folder of the page; an earlier report there is replaced.
    title, lead
        Words at the top of the page.
    progress
        Told how many figures are done.

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
    """
    _check_folder(Path(out))
    material = gather(folders)
    with atomic_path(out) as folder:
        folder.mkdir()
        drawer = _Drawer(folder, _count_figures(material), progress)
        page = (
            page_environment()
            .get_template("report.html.j2")
            .render(
                title=title,
                lead=lead,
                version=__version__,
                evaluations=[
                    _evaluation(one, place, material, drawer) for place, one in enumerate(material.evaluations)
                ],
                maps=[_slide_map(one, place, drawer) for place, one in enumerate(material.maps)],
                facts=run_facts(material),
            )
        )
        (folder / "index.html").write_text(page, encoding="utf-8")
    return Path(out) / "index.html"


def _check_folder(out: Path) -> None:
    """Refuse to replace a folder that holds anything a report did not write."""
    foreign = sorted(path.name for path in out.iterdir() if path.name not in _OURS) if out.is_dir() else []
    if foreign:
        raise InputError(
            f"holds {foreign[0]!r}, which no report wrote and replacing the folder would delete",
            where=out,
            mend="Choose an empty or new folder as --out",
        )


def page_environment() -> Environment:
    """Templates in which every value is escaped and a missing one is an error."""
    return Environment(
        loader=PackageLoader("histomix.outputs"),
        autoescape=select_autoescape(["html", "j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _Drawer:
    """Saves figures beside the page under safe names."""

    def __init__(self, folder: Path, total: int, progress: Progress) -> None:
        self.folder, self.total, self.progress, self.done = folder, total, progress, 0
        (folder / "figures").mkdir()

    def __call__(self, figure: Figure, *names: object) -> str:
        name = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", str(part)).strip("-") for part in names)
        path = f"figures/{self.done:03d}-{name}.png"
        figure.savefig(self.folder / path, dpi=_DPI)
        self.done += 1
        self.progress("report", self.done, self.total)
        return path


def _count_figures(material: Material) -> int:
    drawn = [section for e in material.evaluations for section in e.labels if section in material.canvases]
    types = max((len(e.summary["cell_types"]) for e in material.evaluations), default=0)
    return len(material.evaluations) + len(drawn) * (1 + types) + 2 * sum(m.canvas is not None for m in material.maps)


def _evaluation(evaluation: Evaluation, place: int, material: Material, draw: _Drawer) -> dict[str, Any]:
    facts = evaluation.summary
    protocol = facts["protocol"]
    shown = shown_head(evaluation)
    target = "truth" if "truth" in facts["scores"] else "label"
    bounded = ceiling_of(evaluation, target) is not None
    return {
        "unseen": _UNSEEN[protocol],
        "unseen_why": {"donor": ", nor any section of its donor"}.get(protocol, ", but had seen its donor"),
        "protocol_class": PROTOCOL_BADGES[protocol][0],
        "protocol_name": PROTOCOL_BADGES[protocol][1],
        "protocol_text": f"{facts['protocol_means']}. {len(facts['folds'])} folds, {facts['n_donors']} donors, "
        f"{facts['n_sections']} sections, {facts['n_spots']:,} spots, {len(facts['cell_types'])} cell types; "
        f"unit: {facts['unit']}.",
        "tiles": score_tiles(evaluation, shown, target),
        "notes": [note for note in (facts["interval"]["caution"], *facts["notes"]) if note],
        "tables": [score_table(evaluation, name, shown) for name in facts["scores"]],
        "score_figure": draw(
            score_figure(type_scores(evaluation, target), f"mean Pearson per section, against the {against(target)}"),
            "scores",
        ),
        "score_caption": f"Pearson of each cell type with the {against(target)}: mean over held-out sections."
        + (" Bound: the most that a perfect prediction could reach with these labels." if bounded else ""),
        "sections": [
            _section(evaluation, name, shown, f"{place}-{row}", material, draw)
            for row, name in enumerate(facts["sections"])
        ],
    }


def _section(
    evaluation: Evaluation, name: str, shown: str, place: str, material: Material, draw: _Drawer
) -> dict[str, Any]:
    label, predicted = evaluation.labels[name], evaluation.predictions[shown][name]
    facts: dict[str, Any] = {
        "id": f"section-{place}",
        "name": name,
        "caption": f"{name}, donor {_donor(evaluation, name)}: {len(label)} spots and the most abundant type of each",
        "figure": None,
        "pairs": [],
    }
    canvas = material.canvases.get(name)
    if canvas is None:
        return facts
    maps = {"label": label, f"prediction ({shown})": predicted}
    target = "label"
    if name in evaluation.truth:
        maps = {"truth": evaluation.truth[name].reindex(label.index), **maps}
        target = "truth"
    ceiling = section_ceiling(evaluation, name) if target == "label" else {}
    places = evaluation.positions[name].loc[label.index, ["x_px", "y_px"]].to_numpy(float)
    facts["figure"] = draw(composition_figure(canvas, places, maps), name, "composition")
    for cell_type in label.columns:
        score = number(_section_pearson(evaluation, name, shown, target).get(cell_type, math.nan))
        columns = {title: table[cell_type] for title, table in maps.items()}
        figure = beside_figure(canvas, places, columns, f"Pearson {score}")
        pair = {"name": cell_type, "pearson": score, "figure": draw(figure, name, cell_type)}
        facts["pairs"].append({**pair, "ceiling": number(ceiling.get(cell_type)) if ceiling else ""})
    return facts


def _section_pearson(evaluation: Evaluation, section: str, head: str, target: str) -> pd.Series:
    rows = evaluation.metrics
    rows = rows[(rows["section"] == section) & (rows["head"] == head) & (rows["target"] == target)]
    return rows[rows["metric"] == "pearson"].groupby("cell_type")["value"].mean()


def _donor(evaluation: Evaluation, section: str) -> str:
    rows = evaluation.metrics
    return str(rows.loc[rows["section"] == section, "donor"].iloc[0])


def _slide_map(one: SlideMap, place: int, draw: _Drawer) -> dict[str, Any]:
    composition, manifest = one.composition, one.manifest
    readable = composition.obs["read_ok"].to_numpy(bool)
    scope = composition.obs["in_scope"].to_numpy(bool)
    notes = []
    if one.failure is not None:
        notes.append(f"This map is of an earlier run: the last attempt on this slide failed. {one.failure}")
    if not readable.all():
        notes.append(f"{(~readable).sum()} of {len(readable)} tiles could not be read; they are left blank.")
    if scope[readable].mean() < 0.8:
        notes.append(
            f"Only {scope[readable].mean():.0%} of the tiles look like the training tissue: read this map with care."
        )
    facts: dict[str, Any] = {
        "name": one.name,
        "text": f"{composition.n_obs:,} tiles of {manifest['cell_px'] * manifest['slide']['mpp']:.0f} µm, "
        f"{scope.mean():.0%} in scope, unit: {manifest['unit']}",
        "notes": notes,
        "figure": None,
        "map_figure": None,
    }
    if one.canvas is not None:
        places = np.asarray(composition.obsm["spatial"], dtype=float)
        table = pd.DataFrame(composition.X, columns=composition.var_names)
        figure = composition_figure(one.canvas, places, {"most abundant cell type": table}, 4.6)
        facts["figure"] = draw(figure, one.name, "composition")
        facts["map_figure"] = draw(map_figure(one.canvas, places, table), one.name, "maps")
    return facts
