"""What a phantom's folder says about itself: its parameters, its files, and whether they are all there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import InputError
from ...provenance import digest_json, read_json, versions, write_json
from .donors import CELL_TYPES

#: Raised whenever the same parameters would give another phantom.
_GENERATOR = 2


@dataclass(frozen=True)
class Parameters:
    """All that a phantom is made from; see `make_phantom`."""

    seed: int
    donors: int
    sections_per_donor: int
    size_um: tuple[float, float]
    mpp: float
    counts: bool
    genes: int
    generator: int = _GENERATOR

    def check(self) -> None:
        """Refuse values out of range."""
        hint = "See the documentation of make_phantom for the ranges"
        if self.seed < 0 or self.donors < 1 or self.sections_per_donor < 1:
            raise InputError(
                "a phantom needs a seed of 0 or more, one donor or more and one section or more each", hint=hint
            )
        if not 0.2 <= self.mpp <= 2.0:
            raise InputError(f"mpp is {self.mpp}, outside 0.2 to 2 um per pixel", hint=hint)
        if not all(400 <= side <= 6000 for side in self.size_um):
            raise InputError(f"size_um is {self.size_um}; each side must be 400 to 6000 um", hint=hint)
        if self.genes < 400:
            raise InputError(f"genes is {self.genes}; the signatures need 400 or more", hint=hint)


def section_name(donor: int, section: int) -> str:
    """Name of a section by the numbers, from 0, of its donor and of itself."""
    return f"P{donor + 1}S{section + 1}"


def is_there(folder: Path, parameters: Parameters) -> bool:
    """Whether this very phantom is in the folder; refuse a folder that holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    hint = "Choose another folder, or delete this one"
    if not (folder / "manifest.json").is_file():
        raise InputError("the folder is in use and holds no phantom", where=folder, hint=hint)
    manifest = read_json(folder / "manifest.json", hint=hint)
    if manifest.get("digest") != digest_json(asdict(parameters)):
        other = manifest.get("parameters", "unknown parameters")
        raise InputError(f"the folder holds another phantom or another result ({other})", where=folder, hint=hint)
    changed = [
        name
        for name, size in manifest["bytes"].items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]
    if changed:
        raise InputError(
            f"files of the phantom are missing or changed: {', '.join(changed[:3])}",
            where=folder,
            hint="Delete the folder and run again",
        )
    return True


def write_manifest(folder: Path, parameters: Parameters) -> None:
    """Write ``manifest.json``, with the size of every file in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / "manifest.json",
        {
            "kind": "phantom",
            "digest": digest_json(asdict(parameters)),
            "parameters": asdict(parameters),
            "sections": [
                section_name(donor, section)
                for donor in range(parameters.donors)
                for section in range(parameters.sections_per_donor)
            ],
            "cell_types": list(CELL_TYPES),
            "bytes": {path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
            "versions": versions("numpy", "scipy", "pillow", "tifffile"),
        },
    )
