"""Pseudonyms: the same key, the same names; no key, no way back."""

from __future__ import annotations

import csv
import multiprocessing
import os
import pickle
import stat
from pathlib import Path

import pytest

from histomix.common.anonymity.marked_output import mark_output, refuse_marked
from histomix.common.anonymity.nameless import Renaming, nameless_keys
from histomix.common.anonymity.pseudonyms import Pseudonyms, key_file
from histomix.errors import InputError, StorageError

NAMES = ["DOE^JANE", "=cmd|' /C calc'!A0", "'quoted", "Zoë, née Müller", "a\nb", '"', "-1", "  spaced  ", "\udcff", " "]


def test_the_same_key_gives_the_same_pseudonyms(tmp_path: Path) -> None:
    first = Pseudonyms.open(tmp_path / "key.csv")
    made = [first.slide(name) for name in NAMES]
    assert len(set(made)) == len(made)
    first.save()
    second = Pseudonyms.open(tmp_path / "key.csv")
    assert [second.original(one) for one in made] == NAMES
    assert [second.slide(name) for name in NAMES] == made and second.key == first.key
    assert second.slide(made[0]) == made[0], "a pseudonym is none of a pseudonym"
    assert second.patient("DOE^JANE") != first.slide("DOE^JANE"), "a slide named like its patient is not told by it"
    assert second.slide("Zoe\u0308, ne\u0301e Mu\u0308ller ") == made[3], "however the letters are composed"
    assert first.slide("") == "" and first.original("slide-unknown") == "slide-unknown"
    assert Pseudonyms.open(tmp_path / "other.csv").slide("DOE^JANE") != made[0] != Pseudonyms.once().slide("DOE^JANE")
    assert all(name.startswith("slide-") for name in made)


def test_a_key_is_for_its_owner_and_no_spreadsheet_runs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = Pseudonyms.open(tmp_path / "key.csv")
    for name in NAMES[:-1]:
        names.patient(name)
    names.save()
    with (tmp_path / "key.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["kind", "pseudonym", "original"] and rows[1][0] == "key"
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert [path.name for path in tmp_path.iterdir()] == ["key.csv"]
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "key.csv").stat().st_mode) == 0o600
        (tmp_path / "key.csv").chmod(0o644)
        Pseudonyms.open(tmp_path / "key.csv")
        assert stat.S_IMODE((tmp_path / "key.csv").stat().st_mode) == 0o600


def test_a_seal_marks_and_does_not_tell() -> None:
    names = Pseudonyms.once()
    assert names.seal.mark(["a", 1]) == names.seal.mark(["a", 1]) != names.seal.mark(["a", 2])
    assert names.seal.mark(["a", 1]) != Pseudonyms.once().seal.mark(["a", 1])
    assert names._secret not in pickle.dumps(names.seal), "what travels to workers makes no pseudonyms"
    assert names.seal.secret.hex() not in repr(names.seal)


@pytest.mark.parametrize("text", ["", "kind,pseudonym,original\n", "a,b\n1,2\n", "kind,pseudonym,original\nkey,x,zz\n"])
def test_what_is_no_key_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "patients.csv").write_text(text)
    with pytest.raises(InputError, match="no key of pseudonyms"):
        Pseudonyms.open(tmp_path / "patients.csv")
    assert (tmp_path / "patients.csv").read_text() == text


def test_the_key_is_never_in_what_is_handed_on(tmp_path: Path) -> None:
    out, maps = tmp_path / "out", tmp_path / "maps"
    assert key_file(out) == tmp_path / "out.key.csv"
    assert key_file(out, None, [maps]) == tmp_path / "out.key.csv"
    Pseudonyms.open(tmp_path / "maps.key.csv")
    assert key_file(out, None, [maps]) == key_file(out, None, [maps / "slide-x"]) == tmp_path / "maps.key.csv"
    Pseudonyms.open(tmp_path / "out.key.csv")
    assert key_file(out, None, [maps]) == tmp_path / "out.key.csv"
    for place in (out / "key.csv", out / "deeper" / "key.csv", maps / "key.csv", tmp_path / "x" / ".." / "out" / "k"):
        with pytest.raises(InputError, match="handed on"):
            key_file(out, place, [maps])
    with pytest.raises(InputError, match="handed on"):
        key_file(tmp_path / "others" / "report", None, [tmp_path / "others"])
    if os.name == "posix":
        (tmp_path / "link").symlink_to(out)
        with pytest.raises(InputError, match="handed on"):
            key_file(out, tmp_path / "link" / "key.csv")


def _name(file: Path, number: int) -> None:
    names = Pseudonyms.open(file)
    names.slide(f"slide {number}")
    names.save()


def test_runs_at_once_share_a_key_and_lose_no_name(tmp_path: Path) -> None:
    file = tmp_path / "key.csv"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_name, args=(file, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    names = Pseudonyms.open(file)
    assert {names.original(names.slide(f"slide {number}")) for number in range(3)} == {f"slide {n}" for n in range(3)}
    assert len(file.read_text().splitlines()) == 5


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that cannot be written")
def test_a_key_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StorageError):
        Pseudonyms.open(tmp_path / "closed" / "key.csv")


def test_a_folder_says_whether_it_names_anybody(tmp_path: Path) -> None:
    out = tmp_path / "out"
    mark_output(out, "k1", lambda path: False)
    mark_output(out, "k1", lambda path: False)
    with pytest.raises(InputError, match="another key"):
        mark_output(out, "k2", lambda path: False)
    with pytest.raises(InputError, match="--anonymise"):
        refuse_marked(out)
    refuse_marked(tmp_path / "none")


def test_names_are_replaced_wherever_they_stand() -> None:
    renaming = Renaming({"P1": "patient-a", "A": "slide-b", "12": "patient-c", "DOE^JANE": "patient-d"})
    facts = {
        "by_donor": {"P1": 0.5, "12": 0.1},
        "sections": ["A", "B"],
        "n": 12,
        "text": "P1, not P12; A donor; DOE^JANE.",
    }
    assert renaming.value(facts) == {
        "by_donor": {"patient-a": 0.5, "patient-c": 0.1},
        "sections": ["slide-b", "B"],
        "n": 12,
        "text": "patient-a, not P12; A donor; patient-d.",
    }
    assert renaming.sentence("12 spots (such as X with Y (z)): see /home/jane/x.csv") == "12 spots: see …"


def test_keys_of_spots() -> None:
    for keys in (["10x12", "3.5x4"], ["AAACAAGTATCTCCCA-1"], ["s_008um_00012_00034-1"], ["1", "22"]):
        assert nameless_keys(keys) == keys
    assert nameless_keys(["10x12", "Jane Doe"]) == nameless_keys(["8833421", "x"]) == ["1", "2"]
