"""The page for coding agents: each of its blocks is run as it stands, and what it points to is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from histomix.cli.app import app

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.mark.once
def test_every_block_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner, names, codes = CliRunner(), {"__name__": "agent"}, []
    for language, block in BLOCK.findall((DOCS / "agent.md").read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(block, "agent.md", "exec"), names)  # the page is ours
            continue
        assert language == "sh"
        for line in block.splitlines():
            command, _, comment = line.partition("  # exit ")
            program, *words = shlex.split(command)
            assert program == "histomix"
            result = runner.invoke(app, words)
            assert result.exit_code == int(comment or 0), f"{line}\n{result.stderr}"
            told: dict[str, Any] = json.loads(result.stdout)
            assert told["ok"] is (result.exit_code == 0), line
            if result.exit_code == 2:
                assert set(told["error"]) == {"what", "where", "hint"} and told["error"]["hint"]
            codes.append(result.exit_code)
    assert codes.count(0) >= 10 and {1, 2} <= set(codes)
    means = names["means"]
    assert len(means) == len(names["card"]["cell_types"]) and means.notna().all()  # type: ignore[attr-defined,index,arg-type]


def test_each_verb_that_the_page_names_is_one() -> None:
    text = (DOCS / "agent.md").read_text(encoding="utf-8")
    known = {command.name for command in app.registered_commands} | {"head"}
    shell = "\n".join(block for language, block in BLOCK.findall(text) if language == "sh")
    named = set(re.findall(r"^histomix ([a-z-]+)", shell, flags=re.MULTILINE))
    named |= set(re.findall(r"`histomix ([a-z][a-z-]*)", BLOCK.sub("", text)))
    assert {"embed", "predict"} <= named <= known


def test_the_links_of_both_pages_lead_somewhere() -> None:
    for page in ("agent.md", "llms.txt"):
        links = re.findall(r"\]\(([^)]+)\)", (DOCS / page).read_text(encoding="utf-8"))
        assert links
        for link in links:
            assert (DOCS / link).is_file(), f"{page}: {link}"


def test_the_index_for_programs_has_the_form_that_they_expect() -> None:
    """https://llmstxt.org: a title, a summary, then sections of links."""
    lines = (DOCS / "llms.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# histomix" and lines[2].startswith("> ")
    sections = [line for line in lines if line.startswith("## ")]
    assert sections[-1] == "## Optional" and len(sections) >= 3
    assert "agent.md" in "\n".join(lines)
