"""Which sections may be of one donor, by their names: a guess that a person has to confirm."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: A name that says of itself which part of it is the donor: patient3_sectionA, P1S1, case-12.
_SAYS = re.compile(
    r"^((?:patient|donor|subject|case|pat|pt|[pd](?!\d*$))[ _.-]?(?:\d+|[A-Z](?![a-z])))(?=$|[ _.-]|[sS]\d|sec)", re.I
)
#: The part of the bar codes of public collections that is the person: TCGA and GTEx, of CPTAC, of HTAN.
_BARCODE = re.compile(
    r"(?:^|(?<=[ _.-]))"
    r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}|GTEX-[A-Z0-9]{4,5}|C3[LN]-\d{5}|HTA\d{1,2}_\d{1,4})(?![A-Za-z0-9])",
    re.I,
)
#: What numbers the sections of one donor at the end of a name: A1, patientA_1, B_section_2, P1-a.
_NUMBER = re.compile(
    r"^(.*?)[ _.-]*(?:(?<![A-Za-z])(?:section|sec|slice|slide|sample|replicate|rep)[ _.-]*)?"
    r"(?:(?<!\d)\d+|(?<=[\d _.-])[A-Za-z])$",
    re.I,
)
#: An archive's number of a sample before the name that its makers gave it: GSM4284316_P2_ST_rep1.
_ACCESSION = re.compile(r"^(?:GS[EM]|[ESD]R[RSX]|SAM(?:N|EA|D))\d+[ _.-]+(?=.)", re.I)
#: A number that may be of anything: of a case, of a sample, of an archive.
_LONG = re.compile(r"\d{3}$")
#: Words that number things without saying whose they are.
_NOBODY = re.compile(
    r"^(?:|s|st|sec|section|slice|slide|sample|rep|replicate|visium|spots|image|he|h&e|array|area|region)$", re.I
)
_PERSON = re.compile(r"^(?:patient|donor|subject|case|pat|pt)$", re.I)
#: What stands for a person where all names begin with it: P1, P2, P3, but not A1, B1, D1.
_LETTER = re.compile(r"^[pd]$", re.I)
#: A donor of whom no name says anything.
_NONE = "one"
_SHOWN = 4


@dataclass(frozen=True)
class DonorGuess:
    """Donors of sections by name, and the sentence that says how they were guessed."""

    donors: Mapping[str, str]
    words: str


def guess_donors(folders: Mapping[str, str]) -> DonorGuess:
    """Guess the donor of each section.

    Where nothing tells donors apart, all sections are taken to be of one: a score that is then called optimistic is a
    smaller harm than one that is called honest and is not.

    Parameters
    ----------
    folders
        Folder of each section, by the name of the section; empty where sections share one.
    """
    names = list(folders)
    by_name = {name: _by_name(_ACCESSION.sub("", name)) for name in names}
    groups = Counter(by_name.values())
    if _all_say(names):
        return DonorGuess(by_name, f"donors by what the names say ({_listed(by_name)})")
    by_folder = {name: folder for name, folder in folders.items() if folder}
    shared = Counter(by_folder.values())
    if len(by_folder) == len(names) and len(shared) > 1 and (max(shared.values()) > 1 or _all_say(list(shared))):
        return DonorGuess(by_folder, f"donors by the folders of the sections ({_listed(by_folder)})")
    if len(groups) == 1 and _LETTER.match(next(iter(groups))):
        by_name = {name: name for name in names}
        return DonorGuess(by_name, f"donors by what the names say ({_listed(by_name)})")
    if len(names) > 1 and len(groups) == 1:
        (one,) = groups
        words = f"nothing in the names tells donors apart, so all sections are taken to be of one donor, '{one}'"
        return DonorGuess(by_name, words)
    if max(groups.values(), default=0) > 1:
        return DonorGuess(by_name, f"donors by the beginnings of the names ({_listed(by_name)})")
    own = {name: name for name in names}
    if len(names) == 1:
        own = {name: name if start == _NONE or _LONG.search(name) else start for name, start in by_name.items()}
    words = (
        "each section is taken to be of a donor of its own"
        if len(names) > 1
        else f"the donor by the name: '{own[names[0]]}'"
    )
    return DonorGuess(own, words)


def _all_say(names: Sequence[str]) -> bool:
    return all(_SAYS.match(_ACCESSION.sub("", name)) or _BARCODE.search(name) for name in names)


def _by_name(name: str) -> str:
    barcode = _BARCODE.search(name)
    if barcode:
        return barcode[1].upper()
    said = _SAYS.match(name)
    if said:
        return said[1].rstrip(" _.-")
    numbered = _NUMBER.match(name)
    start = numbered[1].strip(" _.-") if numbered else name
    if _PERSON.match(start):  # patient1: the number is the patient's
        return name
    return _NONE if _NOBODY.match(start) else start


def _listed(donors: Mapping[str, str]) -> str:
    groups: dict[str, list[str]] = {}
    for section, donor in donors.items():
        groups.setdefault(donor, []).append(section)
    parts = [
        f"{donor}: {', '.join(sections[:_SHOWN])}{', ...' if len(sections) > _SHOWN else ''}"
        for donor, sections in list(groups.items())[:_SHOWN]
    ]
    return "; ".join(parts) + (f"; and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else "")
