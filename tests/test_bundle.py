"""The folder for computers without a network, on a package of a few bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .repository_files import ROOT


def _wheel(folder: Path, name: str, version: str, needs: tuple[str, ...] = (), extras: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {need}" for need in needs] + [f"Provides-Extra: {extra}" for extra in extras]
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


def _python(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # No configuration of pip, and nowhere to look but where it is told.
    settings = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", **environment}
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("bundle")
    index = folder / "index"
    wheel = _wheel(folder, "histomix", "0.1.0", ("leaf>=1", "branch; extra == 'more'"), ("more",))
    for version in ("1.0", "2.0"):
        _wheel(index, "leaf", version)
    _wheel(index, "branch", "1.0")
    _wheel(index, "never_asked_for", "1.0")
    (folder / "pins.txt").write_text("leaf==1.0\nnever_asked_for==1.0\n")
    words = ("--out", folder / "out", "--extras", "more", "--wheel", wheel, "--constraints", folder / "pins.txt")
    return folder, index, _python(ROOT / "scripts" / "bundle.py", *words, PIP_FIND_LINKS=str(index))


def test_the_bundle_installs_without_an_index(
    made: tuple[Path, Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _, done = made
    assert done.returncode == 0, done.stderr
    out = folder / "out"
    names = sorted(path.name.split("-py3")[0] for path in (out / "wheels").iterdir())
    assert names == ["branch-1.0", "histomix-0.1.0", "leaf-1.0"]
    command = next(line.strip() for line in (out / "INSTALL.txt").read_text().splitlines() if "--no-index" in line)
    words = command.replace('"', "").split()[1:]
    assert words[:6] == ["-m", "pip", "install", "--no-index", "--find-links", "wheels"]
    words[5] = str(out / "wheels")
    installed = _python(*words, "--target", tmp_path / "site", "--quiet")
    assert installed.returncode == 0, installed.stderr
    seen = _python("-c", "import branch, histomix, leaf; print(leaf.VERSION)", PYTHONPATH=str(tmp_path / "site"))
    assert seen.stdout.strip() == "1.0", seen.stderr


def test_docs_licence_and_checksums_lie_beside_the_wheels(
    made: tuple[Path, Path, subprocess.CompletedProcess[str]],
) -> None:
    out = made[0] / "out"
    assert (out / "docs" / "sharing.md").is_file() and (out / "LICENSE").is_file() and (out / "README.md").is_file()
    sums = dict(reversed(line.split("  ", 1)) for line in (out / "SHA256SUMS").read_text().splitlines())
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    files.pop("SHA256SUMS")
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_a_bundle_is_never_mixed_with_other_files(
    made: tuple[Path, Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("")
    done = _python(ROOT / "scripts" / "bundle.py", "--out", tmp_path)
    assert done.returncode == 1 and "is not empty: remove it or choose another --out" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_wheel_that_cannot_be_had_is_said_by_pip_and_fails(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, "histomix", "0.1.0", ("nowhere_to_be_found",))
    (tmp_path / "pins.txt").write_text("")
    words = ("--out", tmp_path / "out", "--wheel", wheel, "--constraints", tmp_path / "pins.txt")
    done = _python(ROOT / "scripts" / "bundle.py", *words)
    assert done.returncode == 1 and "nowhere" in done.stderr and "could not be had" in done.stderr
