"""Licences of what comes along, and the bill of materials."""

from __future__ import annotations

import sys
from email.message import Message
from types import SimpleNamespace
from typing import Any

import pytest

from .repository_files import load_script

audit = load_script("audit")


def _metadata(*fields: tuple[str, str]) -> Message:
    message = Message()
    for name, value in fields:
        message[name] = value
    return message


BSD_TEXT = "BSD 3-Clause License\n\nCopyright (c) 2026\n" + "All rights reserved. " * 20
GPL_TEXT = "GNU General Public License (GPL)\n" + "Everyone is permitted to copy. " * 20


@pytest.mark.parametrize(
    ("fields", "permissive"),
    [
        ([("License-Expression", "Apache-2.0 OR BSD-2-Clause")], True),
        ([("License-Expression", "BSD-3-Clause AND (MIT OR Zlib)")], True),
        ([("License-Expression", "MIT AND LGPL-2.1-only")], False),
        ([("License-Expression", "LicenseRef-Ours")], False),
        ([("License", "3-Clause BSD License")], True),
        ([("License", "Dual License"), ("Classifier", "License :: OSI Approved :: BSD License")], True),
        ([("License", "MIT"), ("Classifier", "Topic :: Software")], True),
        ([("License", "MPL-2.0 AND MIT")], False),
        ([("License", BSD_TEXT)], True),
        ([("License", GPL_TEXT)], False),
        ([("Classifier", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)")], False),
        ([("Classifier", "License :: Other/Proprietary License")], False),
        ([("License", "as you like")], False),
        ([], False),
    ],
)
def test_a_licence_is_permissive_only_where_it_says_so(fields: list[tuple[str, str]], permissive: bool) -> None:
    assert audit.licence_of(_metadata(*fields))[1] is permissive


def test_what_is_neither_permissive_nor_reviewed_is_named() -> None:
    def package(licence: str) -> SimpleNamespace:
        return SimpleNamespace(version="1.0", metadata=_metadata(("License-Expression", licence)))

    found = {"fine": package("MIT"), "tqdm": package("MPL-2.0"), "viral": package("GPL-3.0-only")}
    assert audit.licence_faults(found) == ["viral 1.0: GPL-3.0-only"]


def test_the_core_of_this_installation_is_permissive() -> None:
    found = audit.installed_needs("histomix") or pytest.skip("histomix is not installed, only on the path")
    assert {"numpy", "torch", "typer"} <= set(found)
    assert audit.licence_faults(found) == []


def test_needs_are_followed_through_extras_and_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {
        "top": ["middle[fast]", "elsewhere; sys_platform == 'nowhere'", "more; extra == 'extra'"],
        "middle": ["leaf", "quick; extra == 'fast'", "slow; extra == 'other'"],
        **{name: [] for name in ("leaf", "quick", "more", "slow", "elsewhere")},
    }
    monkeypatch.setattr(audit.importlib.metadata, "distribution", lambda name: SimpleNamespace(requires=needs[name]))
    assert list(audit.installed_needs("top")) == ["leaf", "middle", "quick", "top"]
    assert "more" in audit.installed_needs("top", ["extra"])


def test_a_bill_of_materials_lists_only_what_histomix_brings() -> None:
    bom: dict[str, Any] = {
        "metadata": {"component": {"bom-ref": "root", "name": "root"}},
        "components": [{"name": name, "bom-ref": f"{name}==1"} for name in ("Jinja2", "pytest", "numpy")],
        "dependencies": [
            {"ref": "root", "dependsOn": ["Jinja2==1", "pytest==1"]},
            {"ref": "pytest==1", "dependsOn": ["numpy==1"]},
            {"ref": "numpy==1"},
        ],
    }
    kept = audit.restricted(bom, {"jinja2", "numpy"})
    assert [part["name"] for part in kept["components"]] == ["Jinja2", "numpy"]
    assert kept["dependencies"] == [{"ref": "root", "dependsOn": ["Jinja2==1"]}, {"ref": "numpy==1", "dependsOn": []}]


@pytest.mark.parametrize("answer", [OSError("no network"), b'{"vulnerabilities": []}', b"<html>a mirror</html>"])
def test_vulnerabilities_are_not_called_checked_where_their_list_cannot_be_had(
    answer: OSError | bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import io

    def urlopen(address: str, timeout: float) -> io.BytesIO:
        if isinstance(answer, OSError):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(audit.urllib.request, "urlopen", urlopen)
    assert audit.known_vulnerabilities({}, tmp_path) is None


def test_a_missing_program_is_said_with_what_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="needs cyclonedx-py: pip install --group release"):
        audit.bill_of_materials({})
