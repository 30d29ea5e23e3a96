"""The script of the checks: which Python it takes, and what it does with a step that is too slow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the checks run on Linux")


def steps(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run some bash after the functions of the checks."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f". .ci/steps.sh\n{code}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def program(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    place.chmod(0o755)


def test_a_python_is_taken_only_if_it_runs(tmp_path: Path) -> None:
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    program(tmp_path / "bin" / "pyenv", f"echo {tmp_path / 'pyenv'}")
    program(tmp_path / "bin" / "python3.99", "echo 'pyenv: python3.99: command not found' >&2; exit 127")
    assert steps("python_of 99 98", PATH=path).returncode == 1

    there = tmp_path / "pyenv" / "versions" / "3.98.1" / "bin" / "python3.98"
    program(there, f'exec "{sys.executable}" "$@"')
    assert steps("python_of 99 98", PATH=path).stdout == f"{there}\n"
    program(tmp_path / "bin" / "python3.98", f'exec "{sys.executable}" "$@"')
    assert steps("python_of 99 98", PATH=path).stdout == "python3.98\n"


def test_a_step_over_its_budget_is_named_and_ends_the_checks() -> None:
    found = steps("LEFT[demo]=1\nwithin install quick echo done\nwithin demo slow sleep 60\necho never")
    assert found.returncode == 1 and "slow OVERRAN" in found.stderr and "'demo'" in found.stderr
    assert "quick took 0 s" in found.stdout and "never" not in found.stdout


def test_steps_of_one_budget_share_it_and_a_failed_one_keeps_its_code() -> None:
    found = steps("LEFT[demo]=60\nwithin demo one sleep 1.2\necho ${LEFT[demo]}\nwithin demo two bash -c 'exit 5'")
    assert int(found.stdout.split("== one\n")[1].split()[0]) in range(50, 60)
    assert found.returncode == 5 and "two FAILED" in found.stderr


def test_the_last_step_has_the_last_line() -> None:
    """The summary of the tests closes the run."""
    assert steps("within pinned first true\nwithin pinned last echo '3 passed'").stdout.endswith("\n3 passed\n")
