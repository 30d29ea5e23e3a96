"""A killed command, given again, ends in the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .killing import VERBS, Killing, differences, moments

pytestmark = [pytest.mark.once, pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")]


def test_moments_are_those_of_the_seed_and_of_every_verb() -> None:
    assert moments(3, 10) == moments(3, 10) != moments(4, 10)
    assert {verb for verb, _ in moments(3, 10)} == set(VERBS)


def test_what_is_left_or_differs_is_found(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, text in ((one, "1"), (two, "2")):
        (folder / "sub").mkdir(parents=True)
        (folder / "same.json").write_text(f'{{"a": 1, "seconds": {text}}}')
        (folder / "sub" / "table.csv").write_text(text)
    assert differences(one, two) == ["sub/table.csv differs"]
    (two / ".lock").touch()
    (two / "sub" / "table.csv").unlink()
    assert differences(one, two) == ["sub/table.csv is missing", ".lock is left", "sub/ is left"]


def test_a_few_kills(tmp_path: Path) -> None:
    killing = Killing(tmp_path, heads=["ridge"], donors=2, size_um=400)
    killing.leave_alone(["label", "embed", "train"])
    for verb, fraction in (("embed", 0.8), ("train", 0.9)):
        kill = killing.kill(verb, fraction, f"kill-{verb}")
        assert not kill.faults, kill.line()


@pytest.mark.slow
def test_fifty_kills(tmp_path: Path) -> None:
    killing = Killing(tmp_path)
    killing.leave_alone()
    kills = [killing.kill(verb, at, f"kill-{number}") for number, (verb, at) in enumerate(moments(0, 50))]
    assert [one.line() for one in kills if one.faults] == []
