"""Draw the picture of the README from a finished phantom demo.

Usage: histomix demo --cohort phantom --out DEMO && python scripts/readme_picture.py DEMO docs/phantom.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from histomix.common.palette import type_colours
from histomix.evaluation import read_evaluation
from histomix.pl.figures import (
    INK,
    abundance_norm,
    crop_to,
    dominant_colours,
    draw_marks,
    draw_scale_bar,
    draw_slide,
    value_colours,
)
from histomix.pl.scores import shown_head
from histomix.report.inputs import report_inputs

SECTION, SHOWN = "P2S1", ("Cancer epithelial", "T cells", "Adipocytes")


def main(demo: Path, target: Path) -> None:
    """One section of a held-out donor: its H&E, the truth, and what was read from the H&E alone."""
    evaluation = read_evaluation(demo / "evaluation")
    canvas = report_inputs([demo / "features"]).canvases[SECTION]
    predicted = evaluation.predictions[shown_head(evaluation)][SECTION]
    truth = evaluation.truth[SECTION].reindex(predicted.index)
    places = evaluation.positions[SECTION].loc[predicted.index, ["x_px", "y_px"]].to_numpy(float)
    frame = crop_to(canvas, places)
    figure = Figure(figsize=(11, 4.75), layout="constrained")
    axes = figure.subplots(2, 5)
    colours = type_colours(list(predicted.columns))
    for row, (name, table) in enumerate({"true cells": truth, "read from H&E": predicted}.items()):
        draw_slide(axes[row][1], canvas, frame, faded=True)
        draw_marks(axes[row][1], canvas, places, dominant_colours(table, colours))
        axes[row][1].set_ylabel(name, fontsize=11, color=INK)
        axes[row][1].yaxis.label.set_visible(True)
        for column, cell_type in enumerate(SHOWN, start=2):
            draw_slide(axes[row][column], canvas, frame, faded=True)
            values = table[cell_type].to_numpy(float)
            draw_marks(axes[row][column], canvas, places, value_colours(values, abundance_norm(truth[cell_type])))
    for column, title in enumerate(("most abundant type", *SHOWN), start=1):
        axes[0][column].set_title(title, fontsize=10, color=INK)
    draw_slide(axes[0][0], canvas, frame)
    draw_scale_bar(axes[0][0], canvas, frame)
    axes[0][0].set_title("H&E", fontsize=10, color=INK)
    axes[1][0].set_axis_off()
    handles = [axes[1][0].plot([], [], "o", color=colour, label=name)[0] for name, colour in colours.items()]
    axes[1][0].legend(handles=handles, loc="center", frameon=False, fontsize=9, labelcolor=INK)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
