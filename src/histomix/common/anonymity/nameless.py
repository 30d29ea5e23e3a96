"""What may be said of a slide, a head or an evaluation when nobody is to be named: a list of what is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .pseudonyms import Pseudonyms

#: Facts of a map's manifest; what is not here may hold anything, and goes.
_MANIFEST = (
    *(
        "format",
        "slide",
        "tile",
        "places",
        "cell_px",
        "grid",
        "regions",
        "fragments",
        "tissue_mm2",
        "tissue_areas",
        "unit",
        "head",
        "calibration",
    ),
    *(
        "facts",
        "name",
        "area",
        "scope",
        "anonymised",
        "refers_to",
        "calibrated_on",
        "limits",
        "scale_check",
        "focus",
        "use",
        "answers",
    ),
)
_SLIDE = (*("file", "fingerprint", "digest", "width_px", "height_px", "mpp", "mpp_source", "upsampling", "bounds_px"),)
_HEAD = ("name", "digest", "head", "encoders", "encoder_licences", "tissue", "training")
#: What was trained on, in numbers.
TRAINING_COUNTS = ("n_spots", "n_sections", "n_donors", "spot_diameter_um", "cell_types_without_labels", "this_slide")
#: Keys of spots that platforms give: barcodes, bins, places of a grid, small numbers.
_PLATFORM_KEY = re.compile(r"\d+(\.\d+)?x\d+(\.\d+)?|[ACGT]{8,}(-\d{1,2})?|s_\d+um_\d+_\d+(-\d{1,2})?|\d{1,5}")
#: Names shorter than this, and short numbers, are no use for finding anybody, and are words of any text.
_SHORTEST, _SHORTEST_NUMBER = 2, 4
_EXAMPLE = re.compile(r" \((?:such as|for example) [^()]*(?:\([^()]*\)[^()]*)*\)")
_PATH = re.compile(r"\S*[/\\]\S*")


def nameless_keys(keys: Sequence[str]) -> list[str]:
    """Keys of spots that name nobody: as they are where a platform made them all, else their numbers from 1."""
    if all(_PLATFORM_KEY.fullmatch(key) for key in keys):
        return list(keys)
    return [str(number) for number in range(1, len(keys) + 1)]


def nameless_manifest(manifest: Mapping[str, Any], names: Pseudonyms | None = None) -> dict[str, Any]:
    """The manifest of a map without what names anybody.

    Parameters
    ----------
    manifest
        Of a map.
    names
        Gives the pseudonyms of its slide, patient and regions; None where it has pseudonyms already.
    """
    kept = {name: manifest[name] for name in _MANIFEST if name in manifest}
    for part, allowed in (("slide", _SLIDE), ("head", _HEAD)):
        if isinstance(kept.get(part), Mapping):
            kept[part] = {name: kept[part][name] for name in allowed if name in kept[part]}
    if isinstance(kept.get("head"), dict) and isinstance(kept["head"].get("training"), Mapping):
        training = kept["head"]["training"]
        kept["head"]["training"] = {name: training[name] for name in TRAINING_COUNTS if name in training}
    facts = kept.get("facts")
    patient = patient_fact(facts) if isinstance(facts, Mapping) else ""
    kept["facts"] = {"patient": patient} if patient else {}
    if names is not None:
        kept["name"] = names.slide(kept.get("name") or file_stem(str(kept.get("slide", {}).get("file", ""))))
        kept["regions"] = [names.region(name) for name in kept.get("regions") or []]
        kept["facts"] = {"patient": names.patient(patient)} if patient else {}
        kept["anonymised"] = names.key
        if "slide" in kept:
            kept["slide"]["file"] = kept["name"]
    return kept


#: Columns that name whose slide it is. In tables of TCGA and CPTAC a patient is a barcode or a submitter, beside a
#: case_id that no slide is named after; in those of HTAN a participant.
PATIENT_KEYS = (
    "patient", "patient_id", "bcr_patient_barcode", "case_submitter_id", "submitter_id", "donor", "donor_id", "case",
    "case_id", "subject", "subject_id", "participant", "participant_id",
)  # fmt: skip


def patient_fact(facts: Mapping[str, Any]) -> str:
    """The patient that a sheet names for a slide; "" where it names none."""
    values = {str(key).strip().lower().replace(" ", "_"): str(value) for key, value in facts.items()}
    return next((values[key] for key in PATIENT_KEYS if values.get(key)), "")


def file_stem(name: str) -> str:
    """A file's name without its suffix."""
    return name.rpartition(".")[0] or name


class Renaming:
    """Puts pseudonyms in the place of known names, wherever these stand in plain values.

    Parameters
    ----------
    known
        Name -> pseudonym.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known = {str(name): pseudonym for name, pseudonym in known.items() if str(name)}
        told = sorted(filter(_is_telling, self.known), key=len, reverse=True)
        self._text = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, told))})(?!\w)") if told else None

    def value(self, value: Any) -> Any:
        """A value of JSON with every name replaced, in keys, values and text."""
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(one) for one in value]
        return self.text(value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        """A name, or a sentence with names in it."""
        if text in self.known:
            return self.known[text]
        return text if self._text is None else self._text.sub(lambda match: self.known[match[0]], text)

    def sentence(self, text: str) -> str:
        """As `text`, for words that may name others than those who are known: without examples and paths."""
        return _PATH.sub("…", self.text(_EXAMPLE.sub("", text)))


def strings_in(value: Any) -> Iterable[str]:
    """Every string among plain values, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from strings_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings_in(one)


def _is_telling(name: str) -> bool:
    return len(name) >= (_SHORTEST_NUMBER if name.isdigit() else _SHORTEST)
