"""The workflows of GitHub: valid, for every Python, with no more rights than they need."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from .repository_files import PYTHONS, ROOT, check_schema

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))


def _read(path: Path) -> dict[str, Any]:
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML 1.1 takes the key `on` for true.
    return {("on" if key is True else key): value for key, value in workflow.items()}


def _steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_is_valid(path: Path) -> None:
    check_schema(path, "vendor.github-workflows", "custom.github-workflows-require-timeout")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_may_do_only_what_it_needs(path: Path) -> None:
    workflow = _read(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    rights = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert rights in ({}, {"build": {"contents": "read"}, "publish": {"id-token": "write"}})
    assert "secrets." not in path.read_text(encoding="utf-8")
    for step in _steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@(release/)?v\d+", step["uses"]), step["uses"]
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        # What comes from outside reaches a shell as a variable, never as text of the script.
        assert "${{" not in step.get("run", ""), step


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_a_workflow_runs_is_there(path: Path) -> None:
    for step in _steps(_read(path)):
        for name in re.findall(r"(?:scripts|\.ci)/[\w./]+", step.get("run", "")):
            assert (ROOT / name).is_file(), name
        for group in re.findall(r"--group (\S+)", step.get("run", "")):
            assert re.search(rf"^{group} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), group


def test_every_system_and_python_is_tested_and_once_a_week_on_the_newest_of_everything() -> None:
    workflow = _read(FOLDER / "ci.yml")
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert [name.split("-")[0] for name in matrix["system"]] == ["ubuntu", "macos", "windows"]
    (weekly,) = workflow["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", weekly["cron"])
    (pins,) = [
        step["env"]["PIP_CONSTRAINT"]
        for step in workflow["jobs"]["tests"]["steps"]
        if "PIP_CONSTRAINT" in step.get("env", {})
    ]
    assert "github.event_name != 'schedule'" in pins and "constraints-{0}.txt" in pins


def test_only_a_tag_publishes_and_only_what_the_release_script_let_through() -> None:
    workflow = _read(FOLDER / "release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert publish["needs"] == "build" and publish["environment"]["name"] == "pypi"
    assert any('scripts/release.py --tag "$GITHUB_REF_NAME"' in step.get("run", "") for step in build["steps"])
    assert not any("run" in step for step in publish["steps"])
