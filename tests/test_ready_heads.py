"""Ready heads: what the package lists is what it holds, and of a catalogue of others nothing is believed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.embedding import encoder_facts
from histomix.errors import DownloadError, HeadError, InputError, UnknownHeadError
from histomix.heads import card_markdown
from histomix.provenance import digest_file, write_json
from histomix.sharing import ListedHead, list_heads, listing, pull_head, push_head, sharing_fault, with_licences
from histomix.sharing.catalogue import BUNDLED, CATALOGUE, FORMAT

from .conftest import Job
from .repository_files import load_script
from .test_fetch import Server, server  # noqa: F401

MOST_BYTES = 1_500_000


def _bundled() -> ListedHead:
    return next(one for one in list_heads() if one.name == "phantom")


def _run(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [str(word) for word in (*words, "--json", "--quiet")])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def published(job: Job, tmp_path: Path) -> Path:
    """A folder that acts as somebody's hub: one archive and its catalogue."""
    folder = tmp_path / "hub"
    folder.mkdir()
    head = with_licences(hm.load_head(job.head), data="CC BY 4.0", labels="CC BY 4.0", name="two-donors")
    head.save(tmp_path / "named")
    push_head(tmp_path / "named", folder / "two-donors.zip")
    entry = listing(head.card, "two-donors", "Two made donors", "two-donors.zip", folder / "two-donors.zip")
    write_json(folder / CATALOGUE, {"format": FORMAT, "heads": [entry]})
    return folder / CATALOGUE


def _changed(catalogue: Path, **fields: Any) -> Path:
    content = json.loads(catalogue.read_text(encoding="utf-8"))
    content["heads"][0].update(fields)
    write_json(catalogue, content)
    return catalogue


# what the package brings


def test_what_the_package_lists_is_what_it_holds() -> None:
    heads = list_heads()
    assert [one.name for one in heads] == ["phantom"]
    for one in heads:
        archive = BUNDLED / one.source
        assert digest_file(archive) == one.sha256 and archive.stat().st_size == one.bytes < MOST_BYTES
        with zipfile.ZipFile(archive) as files:
            card = json.loads(files.read("card.json"))
        assert (
            listing(card, one.name, one.title, one.source, archive).items()
            <= json.loads(json.dumps({**one.to_dict()})).items()
        )
        assert sharing_fault(one.licences["data"]) is None and "donor folds" in one.scores
    assert {path.name for path in BUNDLED.iterdir()} == {CATALOGUE, *(one.source for one in heads)}


def test_the_encoder_of_the_package_s_head_is_the_built_in_one() -> None:
    """Fails when the built-in encoder changes: python scripts/heads.py --package makes the head again."""
    with zipfile.ZipFile(BUNDLED / _bundled().source) as files:
        card = json.loads(files.read("card.json"))
    (told,) = card["encoders"]
    now = encoder_facts(hm.load_encoder("builtin"))
    assert {key: told[key] for key in ("name", "digest", "dim", "views")} == {
        key: now[key] for key in ("name", "digest", "dim", "views")
    }


def test_a_fresh_install_lists_pulls_and_predicts(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    (listed,) = _run("head", "list")["heads"]
    assert listed["name"] == "phantom" and listed["encoders"][0]["licence"] == "Apache-2.0" and not listed["here"]
    shown = CliRunner().invoke(app, ["head", "list"])
    assert all(
        words in shown.stdout
        for words in (listed["sha256"], "encoder builtin: Apache-2.0", "donor folds: pearson", "train")
    )
    out = tmp_path / "maps"
    done = _run("predict", job.image, "--head", "phantom", "--mpp", "0.5", "--stride-um", "224", "--out", out)
    assert done["slides"] and (out / job.image.stem / "composition.csv").is_file()
    assert _run("head", "list")["heads"][0]["here"]
    pulled = _run("head", "pull", "phantom", "--accept-licence", "--out", tmp_path / "mine")
    assert pulled["digest"] == listed["digest"] == hm.load_head(tmp_path / "mine").card["digest"]


def test_a_name_that_nobody_lists_is_told(tmp_path: Path, job: Job) -> None:
    with pytest.raises(UnknownHeadError, match="no catalogue lists a head called 'lung'"):
        pull_head("lung", tmp_path / "head", accept=True)
    done = CliRunner().invoke(app, ["predict", str(job.image), "--head", "lung", "--out", str(tmp_path / "maps")])
    assert done.exit_code == 2 and "histomix head pull lung" in done.stderr


# catalogues of others


def test_a_head_of_another_catalogue_is_pulled_by_name(
    published: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    names = [one["name"] for one in _run("head", "list", "--catalogue", published)["heads"]]
    assert names == ["phantom", "two-donors"]
    with pytest.raises(InputError, match="not accepted"):
        pull_head("two-donors", catalogue=[published])
    _run("head", "pull", "two-donors", "--catalogue", published, "--accept-licence")
    words = ["--mpp", "0.5", "--stride-um", "224", "--out", tmp_path / "maps"]
    assert _run("predict", job.image, "--head", "two-donors", *words)["slides"]


def test_a_catalogue_and_its_archives_are_had_from_a_server(published: Path, server: Server, tmp_path: Path) -> None:  # noqa: F811
    archive = published.with_name("two-donors.zip")
    server.files = {"/heads/catalogue.json": published.read_bytes(), "/heads/two-donors.zip": archive.read_bytes()}
    address = f"{server.url}/heads/catalogue.json"
    assert pull_head("two-donors", tmp_path / "head", accept=True, catalogue=[address]).card["name"] == "two-donors"
    server.files["/heads/two-donors.zip"] = b"<html>Please log in</html>"
    with pytest.raises(DownloadError, match=r"digest|sha256|larger"):
        pull_head("two-donors", tmp_path / "second", accept=True, catalogue=[address])
    asked = len(server.asked)
    _changed(published, source="http://127.0.0.1:9/heads/two-donors.zip")
    server.files["/heads/catalogue.json"] = published.read_bytes()
    with pytest.raises(HeadError, match="another server"):
        pull_head("two-donors", tmp_path / "second", accept=True, catalogue=[address])
    assert len(server.asked) == asked + 1
    server.files["/heads/catalogue.json"] = b"<html>Please log in</html>"
    with pytest.raises(InputError, match="no catalogue of heads"):
        list_heads(address)
    assert not (tmp_path / "second").exists()


def test_another_archive_is_refused(published: Path, job: Job, tmp_path: Path) -> None:
    push_head(job.head, published.with_name("two-donors.zip"))
    with pytest.raises(HeadError, match="its sha256 differs"):
        pull_head("two-donors", tmp_path / "head", accept=True, catalogue=[published])
    _changed(published, sha256=digest_file(published.with_name("two-donors.zip")))
    with pytest.raises(HeadError, match="is another head"):
        pull_head("two-donors", tmp_path / "head", accept=True, catalogue=[published])
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize(
    "encoders",
    [
        [{"name": "builtin", "licence": "MIT", "commercial_use": True}],
        [{"name": "uni", "licence": "Apache-2.0", "commercial_use": True}],
        [],
    ],
)
def test_another_licence_than_that_of_the_card_is_refused(
    published: Path, tmp_path: Path, encoders: list[dict[str, Any]]
) -> None:
    _changed(published, encoders=encoders)
    with pytest.raises(HeadError, match="another encoder or licence"):
        pull_head("two-donors", tmp_path / "head", accept=True, catalogue=[published])


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "../up"},
        {"name": "Name With Spaces"},
        {"sha256": None},
        {"digest": "md5:1"},
        {"encoders": "builtin"},
        {"cell_types": "T cells"},
        {"scores": [1]},
        {"bytes": "many"},
    ],
)
def test_a_catalogue_that_is_none_is_refused(published: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is no catalogue of heads"):
        list_heads(_changed(published, **fields))


def test_an_archive_outside_its_catalogue_s_folder_is_not_read(published: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.zip"
    secret.write_bytes(published.with_name("two-donors.zip").read_bytes())
    for source in ("../secret.zip", str(secret)):
        with pytest.raises(InputError):
            pull_head("two-donors", tmp_path / "head", accept=True, catalogue=[_changed(published, source=source)])
    _changed(published, source=secret.as_uri())
    with pytest.raises(InputError):
        pull_head("two-donors", tmp_path / "head", accept=True, catalogue=[published])


def test_a_name_of_the_package_cannot_be_taken_over(published: Path) -> None:
    with pytest.raises(InputError, match="lists a head called 'phantom', as the catalogue of histomix does"):
        list_heads(_changed(published, name="phantom"))


def test_the_same_head_may_be_listed_twice() -> None:
    """As in what `make heads` writes: the phantom's is in the package too."""
    assert list_heads(BUNDLED / CATALOGUE) == list_heads()


# what may be handed on


@pytest.mark.parametrize(
    ("licence", "fault"),
    [
        ("CC BY 4.0", None),
        ("CC0", None),
        ("BSD-3-Clause (made by histomix)", None),
        ("CC BY-NC-SA 4.0", "no commercial use"),
        ("CC-BY-NC-ND-4.0", "no commercial use"),
        ("CC_BY_ND", "nothing made from the data"),
        ("Owkin non-commercial", "no commercial use"),
        ("not stated in the authors' repository", "does not say"),
        ("", "does not say"),
    ],
)
def test_only_data_that_may_be_shared_make_a_head_to_share(licence: str, fault: str | None) -> None:
    found = sharing_fault(licence)
    assert found is None if fault is None else fault in str(found)


def test_the_script_refuses_what_may_not_be_handed_on() -> None:
    script = load_script("heads")
    kept = {recipe.name: script.refused(recipe) for recipe in script.RECIPES}
    assert kept["phantom"] is None and kept["her2st-c"] is None
    assert "CC BY-NC-SA 4.0" in kept["monusac"]


def test_the_card_says_under_which_licences_it_stands(job: Job, tmp_path: Path) -> None:
    head = with_licences(hm.load_head(job.head), data="CC BY 4.0", labels="made by *us*", name="named")
    head.save(tmp_path / "head")
    assert hm.load_head(tmp_path / "head").card["licences"] == {"data": "CC BY 4.0", "labels": "made by *us*"}
    assert "- Licence of the labels: made by \\*us\\*" in card_markdown(head.card)
    assert "licence of the data: CC BY 4.0" in hm.head_facts(tmp_path / "head").text()
