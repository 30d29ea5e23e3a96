"""The program and its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

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

app = typer.Typer(
    name="histomix",
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
