"""An example or two of every verb, below its ``--help``, and where it stands in that of the program."""

from __future__ import annotations

import typer

START, STEPS, RESULTS, SHARING = "Start here", "Step by step", "What came out", "Compare and share"

#: By the words of the verb: its panel, and commands that work as they are on files of these names.
EXAMPLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "init": (START, ("histomix init my-data --out sheet.csv",)),
    "run": (
        START,
        (
            "histomix run sheet.csv --reference cells.h5ad --slides slides --out run",
            "histomix run sheet.csv --reference cells.h5ad --out run --dry-run",
        ),
    ),
    "demo": (START, ("histomix demo --cohort phantom --out demo",)),
    "doctor": (START, ("histomix doctor", "histomix doctor --encoder uni2-h")),
    "encoders": (START, ("histomix encoders", "histomix encoders --json")),
    "fetch": (START, ("histomix fetch her2st",)),
    "inspect": (START, ("histomix inspect S1/outs", "histomix inspect S1.h5ad --out sheet.csv")),
    "label": (
        STEPS,
        (
            "histomix label sheet.csv --reference signatures.csv --out labels",
            "histomix label sheet.csv --method cell2location --reference cells.h5ad --cell-type-key type --out labels",
        ),
    ),
    "embed": (
        STEPS,
        (
            "histomix embed sheet.csv --out features",
            "histomix embed sheet.csv --encoder uni2-h --weights uni2h --out features",
        ),
    ),
    "evaluate": (
        STEPS,
        (
            "histomix evaluate sheet.csv --features features --labels labels --out evaluation",
            "histomix evaluate sheet.csv --features features --heads ridge,mlp --folds donor,section --out evaluation",
        ),
    ),
    "train": (STEPS, ("histomix train sheet.csv --features features --labels labels --out head",)),
    "predict": (
        STEPS,
        (
            "histomix predict slides --head head --out maps",
            "histomix predict scan.jpg --head head --mpp 0.5 --stride-um 56 --out maps",
        ),
    ),
    "report": (RESULTS, ("histomix report evaluation labels features head maps --out report",)),
    "view": (
        RESULTS,
        (
            "histomix view maps --slides slides --out viewer",
            "histomix view evaluation --sheet sheet.csv --out viewer",
        ),
    ),
    "export": (RESULTS, ("histomix export maps --to spatialdata --out exported",)),
    "cohort": (RESULTS, ("histomix cohort maps --clinical clinical.csv --out tables",)),
    "score": (
        RESULTS,
        (
            "histomix score maps/slide --cells cells.csv --out score",
            "histomix score maps/slide --regions regions.geojson --out score",
        ),
    ),
    "benchmark": (
        SHARING,
        ("histomix benchmark sheet.csv --labels labels --encoder builtin --encoder uni --heads ridge --out bench",),
    ),
    "head": (SHARING, ("histomix head show head.zip", "histomix head pull head.zip --out head")),
    "head show": ("", ("histomix head show head.zip",)),
    "head pull": ("", ("histomix head pull hf://OWNER/NAME --out head",)),
    "head push": ("", ("histomix head push head head.zip",)),
}


def add_examples(app: typer.Typer, *before: str) -> None:
    """Put the examples below the help of every verb that has some, and each verb on its panel."""
    for command in app.registered_commands:
        panel, lines = EXAMPLES.get(" ".join((*before, str(command.name))), ("", ()))
        command.epilog = _epilog(lines) or command.epilog
        command.rich_help_panel = panel or command.rich_help_panel
    for group in app.registered_groups:
        inner = group.typer_instance
        if inner is None:
            continue
        name = str(inner.info.name)
        panel, lines = EXAMPLES.get(name, ("", ()))
        inner.info.epilog = _epilog(lines) or inner.info.epilog
        group.rich_help_panel = panel or group.rich_help_panel
        add_examples(inner, *before, name)


def _epilog(lines: tuple[str, ...]) -> str:
    return "\n\n".join((f"Example{'s' * (len(lines) > 1)}:", *lines)) if lines else ""
