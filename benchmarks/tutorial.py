"""The tutorial by its text alone, from an environment that holds nothing, with a clock.

A clone of the repository's last commit is installed with pip into a new environment, without extras, with a home folder
of its own; then every shell command of ``docs/tutorial.md`` runs in the order of the page, in one folder. Printed are
the seconds of the installation and of each command. A command that fails ends it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of all shell blocks; a plan that is only shown stays one, as a reader would give it."""
    return [line for block in BLOCK.findall(page) for line in block.splitlines() if line.strip()]


def clocked(words: str, command: list[str], **options: object) -> float:
    """Seconds that a command takes; its own words are shown if it fails."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    took = time.perf_counter() - begun
    print(f"{took:8.1f} s  {words}", flush=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nended with {done.returncode}")
    return took


def main() -> None:
    """Install, then follow the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="makes the environment")
    parser.add_argument("--keep", type=Path, help="a new folder to work in, which is kept")
    arguments = parser.parse_args()
    place = arguments.keep or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    home, clone, environment = place / "home", place / "clone", place / "environment"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HISTOMIX", "PYTHON", "VIRTUAL"))}
    variables = kept | {"HOME": str(home), "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        begun = time.perf_counter()
        clocked("an environment", [arguments.python, "-m", "venv", str(environment)], env=variables)
        clocked("pip install .", [str(environment / "bin" / "pip"), "install", str(clone)], env=variables)
        folder = place
        took = 0.0
        for line in commands((clone / "docs" / "tutorial.md").read_text(encoding="utf-8")):
            if line.startswith("cd "):
                folder = folder / line.removeprefix("cd ")
                continue
            took += clocked(line, ["bash", "-c", line], cwd=folder, env=variables)
        user, system = os.times()[2:4]
        print(f"{took:8.1f} s  the commands of the page; with the installation {time.perf_counter() - begun:.0f} s")
        print(f"{user + system:8.1f} s  of processor time, the installation included")
    finally:
        if arguments.keep is None:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
