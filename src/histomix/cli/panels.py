"""Where each verb stands in the help of the program: what to begin with, the steps, what comes out, what is shared."""

from __future__ import annotations

import typer

START, STEPS, RESULTS, SHARING = "Start here", "Step by step", "What came out", "Compare and share"

#: Verbs of each panel; one that is in none stands under "Commands".
PANELS = {
    START: ("init", "run", "demo", "doctor", "encoders", "fetch", "inspect"),
    STEPS: ("label", "embed", "import-features", "evaluate", "train", "predict"),
    RESULTS: ("report", "view", "export", "cohort", "score"),
    SHARING: ("benchmark", "reproduce", "plan", "head"),
}


def arrange(app: typer.Typer) -> None:
    """Put every verb on its panel."""
    panel_of = {verb: panel for panel, verbs in PANELS.items() for verb in verbs}
    for command in app.registered_commands:
        command.rich_help_panel = panel_of.get(str(command.name), command.rich_help_panel)
    for group in app.registered_groups:
        name = None if group.typer_instance is None else str(group.typer_instance.info.name)
        group.rich_help_panel = panel_of.get(str(name), group.rich_help_panel)
