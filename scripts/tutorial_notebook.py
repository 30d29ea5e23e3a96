"""Write docs/tutorial-python.ipynb: the tutorial in Python, with what its cells print and draw.

The notebook is run in one process, without a kernel, so that nothing of the machine (paths, times, names) is stored.

Usage: python scripts/tutorial_notebook.py WORK            runs every cell in WORK and writes the notebook
       python scripts/tutorial_notebook.py --check         exits 1 where its cells are not those that stand here
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "tutorial-python.ipynb"

#: The notebook as Markdown: each block of Python is a cell, and what stands between them is one.
SOURCE = """\
# The tutorial in Python

The same road as the [tutorial](tutorial.md), as functions on objects: three donors with spatial transcriptomics, a
head, and a slide of somebody else. The tissue is a phantom, whose every cell is known. Nothing is downloaded.

```python
import histomix as hm

sheet = hm.make_phantom("tutorial", donors=3, sections_per_donor=1, size_um=(700, 700), progress=False)
clinic = hm.make_phantom(
    "clinic", seed=7, donors=1, sections_per_donor=1, size_um=(700, 700), counts=False, progress=False
)
cohort = hm.read_cohort(sheet)
cohort.names
```

## Labels

What each spot is made of, from its counts and a reference. Each section has an `Abundance`.

```python
labels = hm.label(cohort, reference="tutorial/reference.csv", progress=False)
labels["P1S1"].values.head().round(2)
```

## Features

What the encoder sees at each spot: an AnnData for each section. What is in `out` and up to date is kept.

```python
features = hm.embed(cohort, out="features", progress=False)
print(features["P1S1"])
```

## Evaluation

Each donor is predicted by heads that were trained on the others. Ridge alone here, to be quick; leave `heads` out for
the default beside it.

```python
evaluation = hm.evaluate(cohort, features, labels, heads=["ridge"], nuclei=False, progress=False)
pearson = evaluation.metrics.query("metric == 'pearson' and target == 'label'")
print(pearson.groupby("head")["value"].mean().round(2))
```

```python
axes = hm.pl.scores(evaluation)
```

## A head

It knows what it was trained on, and what each cell type is good for.

```python
from histomix.heads import levels_of

head = hm.train(cohort, features, labels, head="ridge", scores=evaluation, progress=False)
{name: levels_of(head.card).word(name) for name in head.card["cell_types"]}
```

## A map of a slide that it has not seen

An AnnData: tiles x cell types, with the ends of the interval as layers.

```python
composition = hm.predict("clinic/images/P1S1.tif", head, stride_um=56, progress=False)
print(composition)
```

```python
with hm.open_slide("clinic/images/P1S1.tif") as slide:
    picture = slide.thumbnail(2.0)  # um per px
axes = hm.pl.composition(composition, img=picture)
```

What is pale does not vary beyond its interval; hatched tiles are out of scope. Before you conclude anything: [how to
read a map](reading-a-map.md).

## Was it right?

Of a phantom every cell is known.

```python
score = hm.score_map(composition, cells="clinic/truth/P1S1.cells.csv.gz")
found = score.metrics.query("metric == 'pearson' and head == 'map'")
print(found.groupby("cell_type")["value"].mean().round(2))
```

## On disk

What was made in memory is written where you say so; the command line opens the same files.

```python
head.save("head")
hm.write_composition("map", composition)
hm.load_head("head").card["cell_types"]
```
"""
CELLS = [
    (
        "code" if part.startswith("```python") else "markdown",
        part.removeprefix("```python\n").removesuffix("```").strip(),
    )
    for part in re.split(r"(```python\n.*?```)", SOURCE, flags=re.DOTALL)
    if part.strip()
]


def main(work: Path) -> None:
    """Run the cells and write the notebook."""
    cells: list[dict[str, Any]] = [
        {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
        for number, (kind, text) in enumerate(CELLS)
    ]
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(work):
        for cell, outputs in zip((one for one in cells if one["cell_type"] == "code"), run(), strict=True):
            cell |= {"execution_count": None, "outputs": outputs}
    notebook = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    # Pictures may hold any letters.
    words = re.sub(r'"image/[a-z]+": ?"[^"]*"', "", text)
    for private in (str(work.resolve()), str(Path.home()), os.uname().nodename):
        if re.search(rf"(?<!\w){re.escape(private)}(?!\w)", words):
            raise SystemExit(f"the notebook would hold {private}")
    TARGET.write_text(text, encoding="utf-8")


def run() -> list[list[dict[str, Any]]]:
    """The outputs of each cell of code, in this folder."""
    import ast

    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names: dict[str, Any] = {}
    found = []
    for kind, text in CELLS:
        if kind != "code":
            continue
        tree = ast.parse(text)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        outputs: list[dict[str, Any]] = []
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, "cell", "exec"), names)
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last is not None else None
        if printed.getvalue():
            outputs.append(
                {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
            )
        if value is not None:
            data = {"text/plain": repr(value).splitlines(keepends=True)}
            if hasattr(value, "_repr_html_") and hasattr(value, "columns"):
                data["text/html"] = value._repr_html_().splitlines(keepends=True)
            outputs.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data})
        for number in plt.get_fignums():
            outputs.append(
                {
                    "output_type": "display_data",
                    "metadata": {},
                    "data": {"image/png": _png(plt.figure(number)), "text/plain": ["<Figure>"]},
                }
            )
        plt.close("all")
        found.append(outputs)
    return found


def _png(figure: Any) -> str:
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=90, bbox_inches="tight", facecolor="white")
    Image.open(drawn).convert("RGB").quantize(200).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def stale() -> bool:
    """Whether the cells of the stored notebook are not those that stand here."""
    stored = json.loads(TARGET.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in stored] != CELLS


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(stale())
    main(Path(sys.argv[1]))
