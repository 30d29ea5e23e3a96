"""Make a folder from which histomix is installed on a computer without a network.

    make bundle                                                     # the core, for this Python and kind of computer
    python scripts/bundle.py --extras st,zoo --out FOLDER
    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make bundle   # torch without the libraries of CUDA

The folder has every wheel, in the versions of constraints-<Python>.txt; the built-in encoder lies in histomix's own.
INSTALL.txt in it says how to go on.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
#: What lies beside the wheels.
BESIDE = ("docs", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff")
INSTALL = """\
histomix {version}, for Python {python} on {platform}

Everything that is needed lies in this folder; no step uses a network. Linux and macOS, in this folder:

    python{python} -m venv ENVIRONMENT
    ENVIRONMENT/bin/python -m pip install --no-index --find-links wheels "{requirement}"
    ENVIRONMENT/bin/histomix doctor
    ENVIRONMENT/bin/histomix demo --cohort phantom      (the whole job on synthetic tissue, a few minutes)

Windows:

    py -{python} -m venv ENVIRONMENT
    ENVIRONMENT\\Scripts\\python -m pip install --no-index --find-links wheels "{requirement}"

That nothing was changed on the way: sha256sum --check SHA256SUMS

The built-in encoder is part of the package. Other encoders read weights that you carry over as files (--weights); with
HF_HUB_OFFLINE=1 in the environment nothing is looked for on the Hugging Face hub. The guide is README.md, and docs/.
"""


def bundle(out: Path, wheel: Path | None, extras: tuple[str, ...], constraints: Path) -> None:
    """Fill a new folder.

    Parameters
    ----------
    out
        The folder; it must not hold anything.
    wheel
        The wheel of histomix; None: it is built.
    extras
        Extras to bring along.
    constraints
        The versions to take.
    """
    if out.exists() and any(out.iterdir()):
        sys.exit(f"{out} is not empty: remove it or choose another --out")
    if not constraints.is_file():
        sys.exit(f"there is no {constraints}: run this with a Python that has one, or name one with --constraints")
    wheels, start = out / "wheels", time.monotonic()
    wheels.mkdir(parents=True, exist_ok=True)
    if wheel is None:
        _pip("wheel", "--no-deps", "--wheel-dir", wheels, ROOT)
        wheel = next(wheels.glob("histomix-*.whl"))
    else:
        wheel = Path(shutil.copy(wheel, wheels))
    listed = f"[{','.join(extras)}]" if extras else ""
    _pip("wheel", "--wheel-dir", wheels, "--constraint", constraints, f"{wheel}{listed}")
    for name in BESIDE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, out / name)
    name, version = wheel.name.split("-")[:2]
    facts = {"version": version, "python": PYTHON, "platform": sysconfig.get_platform()}
    text = INSTALL.format(**facts, requirement=f"{name}{listed}=={version}")
    (out / "INSTALL.txt").write_text(text, encoding="utf-8")
    files = sorted(path for path in out.rglob("*") if path.is_file())
    sums = [f"{_sha256(path)}  {path.relative_to(out).as_posix()}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    size = sum(path.stat().st_size for path in files) / 2**20
    count = len(list(wheels.iterdir()))
    print(f"{out}: {count} wheels, {size:,.0f} MiB, in {time.monotonic() - start:.0f} s; see {out / 'INSTALL.txt'}")


def _pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    if subprocess.run(command).returncode:
        sys.exit("the wheels could not be had: see what pip says above")


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=ROOT / "bundle", help="the folder (default: bundle)")
    words.add_argument("--extras", default="", metavar="A,B", help="extras to bring along")
    words.add_argument("--wheel", type=Path, help="the wheel of histomix, where it has been built")
    words.add_argument("--constraints", type=Path, default=ROOT / f"constraints-{PYTHON}.txt", help="versions to take")
    given = words.parse_args()
    bundle(given.out, given.wheel, tuple(filter(None, re.split(r"[,\s]+", given.extras))), given.constraints)
