"""The release script, in a repository of its own."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .extras import extra_module
from .repository_files import ROOT, load_script

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "histomix"
dynamic = ["version"]
readme = "README.md"
requires-python = ">=3.11"
[tool.hatch.version]
path = "src/histomix/_version.py"
[tool.hatch.build.targets.wheel]
packages = ["src/histomix"]
[tool.hatch.build.targets.sdist]
only-include = ["src", "docs", "CHANGELOG.md", "CITATION.cff"]
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "README.md": "# Tiny\n",
    "LICENSE": "Anyone may do anything.\n",
    "CITATION.cff": "title: Tiny\n",
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\nYou can do a thing.\n\n## 0.0.9 (2020-02-02)\n\nNothing yet.\n",
    "docs/guide.md": "# Guide\n",
    "tests/test_tiny.py": "",
    "src/histomix/__init__.py": "",
    "src/histomix/_version.py": '__version__ = "0.1.0"\n',
    ".gitignore": "dist/\n",
}
TODAY = datetime.datetime.now(datetime.UTC).date().isoformat()


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("release")
    monkeypatch.setattr(module, "BUILD", (*module.BUILD, "--no-isolation"))
    return module


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    _git(tmp_path, "init", "--quiet")
    for key, value in {"user.name": "Tester", "user.email": "tester@example.org", "commit.gpgsign": "false"}.items():
        _git(tmp_path, "config", key, value)
    _commit(tmp_path)
    return tmp_path


def _git(repository: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=repository, check=True, capture_output=True, text=True).stdout.strip()


def _commit(repository: Path) -> None:
    _git(repository, "add", "--all")
    _git(repository, "commit", "--quiet", "--message", "A step")


def _state(repository: Path) -> tuple[str, str, bool]:
    return (
        _git(repository, "rev-parse", "HEAD"),
        (repository / "CHANGELOG.md").read_text(),
        (repository / "dist").exists(),
    )


def _needs_tools() -> None:
    for name in ("build", "hatchling", "readme_renderer", "twine"):
        extra_module("dev", name)


def test_a_release_builds_checks_dates_and_commits(
    release: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _needs_tools()
    release.main(repository)
    assert f"# Changelog\n\n## 0.1.0 ({TODAY})\n\nYou can do a thing." in (repository / "CHANGELOG.md").read_text()
    assert _git(repository, "log", "-1", "--format=%s") == "Release 0.1.0"
    assert _git(repository, "status", "--porcelain") == "" and _git(repository, "tag") == ""
    built = sorted(path.name for path in (repository / "dist").iterdir())
    assert built == ["histomix-0.1.0-py3-none-any.whl", "histomix-0.1.0.tar.gz"]
    assert "git tag v0.1.0" in capsys.readouterr().out
    commit = _git(repository, "rev-parse", "HEAD")
    release.main(repository, tag="v0.1.0")
    assert _git(repository, "rev-parse", "HEAD") == commit


def test_a_file_that_git_does_not_know_is_found_in_the_packages(release: ModuleType, repository: Path) -> None:
    _needs_tools()
    (repository / "src" / "histomix" / "patients.csv").write_text("name\n")
    with pytest.raises(release.Refusal, match=r"lacks or leaks: histomix/patients\.csv"):
        release.main(repository, build_only=True)


def test_a_file_that_the_packages_lack_is_named(release: ModuleType, repository: Path) -> None:
    _needs_tools()
    leaves_out = '[tool.hatch.build]\nexclude = ["src/histomix/weights.bin"]\n'
    (repository / "pyproject.toml").write_text(PYPROJECT + leaves_out)
    (repository / "src" / "histomix" / "weights.bin").write_text("1")
    _commit(repository)
    with pytest.raises(release.Refusal, match=r"lacks or leaks: .*weights\.bin"):
        release.main(repository)
    assert _state(repository)[1] == FILES["CHANGELOG.md"]


REFUSED = {
    "a changed file": ({"README.md": "# Other\n"}, False, "not committed:\n.*README.md"),
    "a new file": ({"stray.txt": ""}, False, "not committed:\n.*stray.txt"),
    "no entry": ({"CHANGELOG.md": "# Changelog\n"}, True, "needs one entry '## Unreleased' for 0.1.0, and has 0"),
    "an entry of another version": ({"CHANGELOG.md": "## 0.2.0 (2026-01-01)\n\nMore.\n"}, True, "for 0.1.0, and has 0"),
    "two entries": ({"CHANGELOG.md": "## Unreleased\n\nOne.\n\n## Unreleased\n\nTwo.\n"}, True, "and has 2"),
    "an empty entry": ({"CHANGELOG.md": "## Unreleased\n\n## 0.0.9 (2020-02-02)\n\nOld.\n"}, True, "is empty"),
    "a version that is out": (
        {"CHANGELOG.md": "## Unreleased\n\nNew.\n\n## 0.1.0 (2020-02-02)\n\nOld.\n"},
        True,
        "0.1.0 has been released: raise the version in src/histomix/_version.py",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_ready_is_refused_and_nothing_is_changed(
    release: ModuleType, repository: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, committed, reason = REFUSED[case]
    for name, text in files.items():
        (repository / name).write_text(text)
    if committed:
        _commit(repository)
    before = _state(repository)
    monkeypatch.setattr(release, "build", lambda root: pytest.fail("it was built"))
    with pytest.raises(release.Refusal, match=reason):
        release.main(repository)
    assert _state(repository) == before


@pytest.mark.parametrize(("tag", "dated"), [("v0.1.0", False), ("v0.1.1", True), ("0.1.0", True)])
def test_a_tag_must_be_of_this_version_and_its_dated_entry(
    release: ModuleType, repository: Path, tag: str, dated: bool
) -> None:
    if dated:
        text = FILES["CHANGELOG.md"].replace("## Unreleased", "## 0.1.0 (2026-01-01)")
        (repository / "CHANGELOG.md").write_text(text)
        _commit(repository)
    with pytest.raises(release.Refusal, match=f"the tag {tag} is not of the version 0.1.0"):
        release.main(repository, tag=tag)


def test_a_build_that_fails_leaves_the_changelog_as_it_was(release: ModuleType, repository: Path) -> None:
    release.BUILD = ("nothing_of_this_name",)
    before = _state(repository)
    with pytest.raises(subprocess.CalledProcessError):
        release.main(repository)
    assert _state(repository)[:2] == before[:2]


def test_the_changelog_of_histomix_can_be_released(release: ModuleType) -> None:
    version = release.read_version(ROOT)
    text = release.dated((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version, datetime.date(2026, 12, 1))
    assert f"## {version} (20" in text and "## Unreleased" not in text


def test_a_refusal_is_one_line_and_an_exit_code(repository: Path) -> None:
    (repository / "scripts").mkdir()
    (repository / "scripts" / "release.py").write_text((ROOT / "scripts" / "release.py").read_text(encoding="utf-8"))
    done = subprocess.run([sys.executable, "scripts/release.py"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "no release: there are changes that are not committed:\n?? scripts/\n"
