"""Examples of every verb: they stand in its help and in the documentation, and a test runs them on the phantom."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One command as a person would type it.

    Parameters
    ----------
    line
        The command.
    why
        What it is for, where the line does not say it.
    not_run
        Why the tests cannot run it on the phantom; empty where they do.
    """

    line: str
    why: str = ""
    not_run: str = ""


_NETWORK = "needs a network"
_WEIGHTS = "needs weights that are not in the package"

#: Verb -> its examples. The names are those of the tutorial (docs/tutorial.md), in whose folder the tests run them.
EXAMPLES: dict[str, tuple[Example, ...]] = {
    "demo": (
        Example("histomix demo --cohort phantom --out demo", not_run="make demo runs it"),
        Example("histomix demo", "her2st where HISTOMIX_DATA has it, else the phantom", "make demo runs it"),
    ),
    "doctor": (
        Example("histomix doctor"),
        Example(
            "histomix doctor --encoder uni2-h",
            "what is missing for one encoder, and what mends it",
            "exit code 1 where its weights are not",
        ),
    ),
    "encoders": (Example("histomix encoders"),),
    "fetch": (
        Example("histomix fetch her2st", "a public cohort, with its sheet", _NETWORK),
        Example("histomix fetch 10x:V1_Breast_Cancer_Block_A_Section_1", "a Visium data set of 10x", _NETWORK),
    ),
    "init": (Example("histomix init clinic --out drafted.csv", "a sheet from a folder of your own data"),),
    "inspect": (
        Example("histomix inspect slides", "what a folder holds, and rows for a sheet"),
        Example("histomix inspect slides/patient-9.tif"),
    ),
    "label": (
        Example("histomix label sheet.csv --reference reference.csv --out labels"),
        Example(
            "histomix label sheet.csv --method cell2location --reference cells.h5ad --out labels-c2l",
            "from single cells, with cell2location",
            "takes minutes",
        ),
    ),
    "embed": (
        Example("histomix embed sheet.csv --out features", "with the built-in encoder"),
        Example(
            "histomix embed sheet.csv --encoder uni2-h --weights uni2-h/ --out features-uni2h",
            "with a foundation model whose weights lie in a folder",
            _WEIGHTS,
        ),
    ),
    "import-features": (
        Example(
            "histomix import-features trident/ --sheet sheet.csv --out features-trident",
            "features that others computed",
            "needs another program's features",
        ),
    ),
    "evaluate": (
        Example("histomix evaluate sheet.csv --features features --labels labels --out evaluation"),
        Example(
            "histomix evaluate sheet.csv --features features --labels labels --heads ridge,knn --out evaluation-two",
            "other heads on the same folds",
            "takes as long as the line above",
        ),
    ),
    "benchmark": (
        Example(
            "histomix benchmark sheet.csv --labels labels --encoder builtin --heads ridge --out benchmark",
            "encoders and heads on the same folds",
            "takes as long as evaluate",
        ),
    ),
    "plan": (
        Example(
            "histomix plan sheet.csv --features features --labels labels --out plan",
            "what one more donor brings",
            "needs four donors",
        ),
    ),
    "train": (
        Example("histomix train sheet.csv --features features --labels labels --scores evaluation --out head"),
        Example(
            "histomix train sheet.csv --features features --labels labels --head ridge --out head-ridge",
            "another head",
        ),
    ),
    "predict": (
        Example("histomix predict slides --head head --out maps", "every slide of a folder"),
        Example("histomix predict slides --head head --stride-um 56 --out fine", "a finer map, whose tiles overlap"),
    ),
    "run": (
        Example(
            "histomix run sheet.csv --reference reference.csv --slides slides --out run",
            not_run="the tutorial has it",
        ),
        Example(
            "histomix run sheet.csv --reference reference.csv --out run --dry-run", "what it would do, and how long"
        ),
    ),
    "cohort": (Example("histomix cohort maps --clinical clinical.csv --out tables"),),
    "score": (Example("histomix score fine/patient-9 --cells cells.csv.gz --out score", "a map against typed cells"),),
    "report": (Example("histomix report evaluation labels features head maps --out report"),),
    "reproduce": (Example("histomix reproduce --list"),),
    "view": (Example("histomix view maps evaluation --slides slides --sheet sheet.csv --out viewer"),),
    "export": (
        Example("histomix export maps --to csv --out exported"),
        Example("histomix export maps --to spatialdata --out stores", "for scverse and napari", "needs an extra"),
    ),
    "head push": (
        Example("histomix head push head head.zip", "a file, for a colleague"),
        Example("histomix head push head hf://OWNER/NAME", "a repository of the hub, private", _NETWORK),
    ),
    "head pull": (
        Example("histomix head pull head.zip --accept-licence --out pulled"),
        Example("histomix head pull hf://OWNER/NAME@COMMIT --out theirs", "asks before it takes it", _NETWORK),
    ),
    "head show": (Example("histomix head show head"),),
    "head list": (Example("histomix head list"),),
}


def examples_of(verb: str) -> str:
    """The examples of a verb, as they stand under its help."""
    lines = [line for one in EXAMPLES.get(verb, ()) for line in ([f"# {one.why}"] if one.why else []) + [one.line]]
    return "\n\n".join(["Examples", *lines]) if lines else ""
