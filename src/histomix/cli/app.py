"""The program and its verbs."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from typer.core import TyperGroup

from .._version import __version__
from . import (
    benchmark,
    cohort,
    demo,
    doctor,
    embed,
    encoders,
    evaluate,
    export,
    fetch,
    head,
    import_features,
    init,
    inspect,
    label,
    plan,
    predict,
    report,
    reproduce,
    run,
    score,
    train,
    view,
)
from .events import add_progress
from .examples import examples_of
from .panels import arrange


class _Program(TyperGroup):
    """The verbs; an empty word, as a shell makes of a variable without a value, would be the folder one stands in."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        for before, word in zip(["", *args], args, strict=False):
            if not word.strip() or re.fullmatch(r"--[a-z0-9-]+=\s*", word):
                place = word.rstrip("= ") or (before if before.startswith("--") else "an argument")
                raise typer.BadParameter(f"{place} is empty; does a variable of the shell have no value?")
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="histomix",
    cls=_Program,
    help="Read cell-type composition from H&E slides.\n\n"
    "Train on sections with spatial transcriptomics: label, embed, evaluate, train. Then predict any slide without it.",
    epilog="Look around with: histomix demo\n\nYour own data: histomix init FOLDER --out sheet.csv, then "
    "histomix run sheet.csv --reference REFERENCE --out run",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"histomix {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("run")(run.run)
app.command("doctor")(doctor.doctor)
app.command("encoders")(encoders.encoders)
app.command("fetch")(fetch.fetch)
app.command("inspect")(inspect.inspect)
app.command("label")(label.label)
app.command("embed")(embed.embed)
app.command("import-features")(import_features.import_features)
app.command("evaluate")(evaluate.evaluate)
app.command("benchmark")(benchmark.benchmark)
app.command("reproduce")(reproduce.reproduce)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("predict")(predict.predict)
app.command("cohort")(cohort.cohort)
app.command("score")(score.score)
app.command("report")(report.report)
app.command("view")(view.view)
app.command("export")(export.export)
app.add_typer(head.head)

arrange(app)
for _commands, _group in ((app.registered_commands, ""), (head.head.registered_commands, "head ")):
    for _command in _commands:
        _command.epilog = examples_of(f"{_group}{_command.name}")
add_progress(app)
