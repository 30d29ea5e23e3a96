"""Make a release ready: date the changelog, build the packages into dist/, check them, and commit.

    make release                                  # what is released next
    python scripts/release.py --build-only        # build and check what is here: nothing is refused, nothing is changed
    python scripts/release.py --tag v0.1.0        # in the release workflow: build only what was dated and committed

Nothing is installed, tagged, pushed or uploaded; the end says what is left to do. Needs git, and `build` and `twine`
(the dependency group "release").
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG, VERSION = "CHANGELOG.md", "src/histomix/_version.py"
UNRELEASED = "## Unreleased"
#: Makes the source package, and the wheel from it.
BUILD = ("build", "--outdir", "dist", ".")
#: What the source package may hold besides the package itself.
BESIDE = ("docs/", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "pyproject.toml", ".gitignore")


class Refusal(Exception):
    """The release cannot be made; the message says why and what to do."""


def read_version(root: Path) -> str:
    """The version of the package."""
    return re.search(r'__version__ = "(.+)"', (root / VERSION).read_text(encoding="utf-8"))[1]


def dated(changelog: str, version: str, day: datetime.date) -> str:
    """The changelog with its one Unreleased entry headed by the version and the day; as it is where that was done.

    Raises
    ------
    Refusal
        There is no entry for the version, or more than one.
    """
    unreleased = re.findall(rf"^{UNRELEASED} *$", changelog, re.MULTILINE)
    released = re.findall(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changelog, re.MULTILINE)
    if released and unreleased:
        raise Refusal(f"{CHANGELOG} says that {version} has been released: raise the version in {VERSION}")
    if len(released) + len(unreleased) != 1:
        count = len(released) or len(unreleased)
        raise Refusal(f"{CHANGELOG} needs one entry '{UNRELEASED}' for {version}, and has {count}")
    if released:
        return changelog
    head, entry = re.split(rf"^{UNRELEASED} *$", changelog, flags=re.MULTILINE)
    if not entry.split("\n## ")[0].strip():
        raise Refusal(f"the entry '{UNRELEASED}' of {CHANGELOG} is empty: say what a user can do now")
    return f"{head}## {version} ({day.isoformat()}){entry}"


def git(root: Path, *words: str) -> str:
    """What git says."""
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout


def build(root: Path) -> list[Path]:
    """Build the packages into a new ``dist/``."""
    shutil.rmtree(root / "dist", ignore_errors=True)
    subprocess.run([sys.executable, "-m", *BUILD], cwd=root, check=True)
    return sorted((root / "dist").iterdir())


def check(root: Path, packages: list[Path]) -> None:
    """Refuse packages that the index would, or that lack or leak a file.

    Raises
    ------
    Refusal
        The message names the files.
    """
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, packages)], cwd=root, check=True)
    tracked = set(git(root, "ls-files").splitlines())
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    for path in packages:
        if path.suffix == ".whl":
            held = {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
            wanted = package
        else:
            with tarfile.open(path) as archive:
                held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name} - {"PKG-INFO"}
            wanted = {name for name in tracked if name.startswith(("src/", *BESIDE))}
        if faults := sorted(held ^ wanted):
            raise Refusal(f"{path.name} lacks or leaks: {', '.join(faults[:10])}")


def main(root: Path, tag: str | None = None, build_only: bool = False) -> None:
    """Make the release of a repository ready.

    Raises
    ------
    Refusal
        The tree or the changelog is not ready, the packages are faulty, or the tag is not of this version; nothing
        was changed.
    """
    version, changelog = read_version(root), root / CHANGELOG
    before = changelog.read_text(encoding="utf-8")
    after = before if build_only else dated(before, version, datetime.datetime.now(datetime.UTC).date())
    if not build_only and (left := git(root, "status", "--porcelain").strip()):
        raise Refusal(f"there are changes that are not committed:\n{left}")
    if tag is not None and (tag != f"v{version}" or after != before):
        raise Refusal(f"the tag {tag} is not of the version {version} with a dated entry in {CHANGELOG}")
    try:
        changelog.write_text(after, encoding="utf-8")
        packages = build(root)
        check(root, packages)
    except BaseException:
        changelog.write_text(before, encoding="utf-8")
        raise
    for path in packages:
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  dist/{path.name}")
    if after != before:
        git(root, "commit", "--quiet", "--message", f"Release {version}", "--", CHANGELOG)
        print(f"Committed 'Release {version}'. To publish it: git tag v{version} && git push origin HEAD v{version}")


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--tag", help="refuse unless the version of this tag was dated and committed")
    words.add_argument("--build-only", action="store_true", help="build and check, whatever the state of the tree")
    given = words.parse_args()
    try:
        main(ROOT, given.tag, given.build_only)
    except Refusal as as_download_error:
        sys.exit(f"no release: {as_download_error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"no release: {' '.join(map(str, error.cmd))} failed{': ' + error.stderr if error.stderr else ''}")
