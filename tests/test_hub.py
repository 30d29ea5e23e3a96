"""Sharing heads: what goes out is whole, and nothing that comes in is believed."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.errors import DownloadError, HeadError, InputError
from histomix.heads import head_readme
from histomix.provenance import digest_json
from histomix.sharing import HeadFacts, head_facts, pull_head, push_head

from .conftest import Job
from .fake_hub import Hub, fake_hub

REPO = "someone/a-head"


def yes(facts: HeadFacts) -> bool:
    return True


@pytest.fixture
def hub() -> Iterator[Hub]:
    with fake_hub() as found:
        yield found


@pytest.fixture
def packed(job: Job, tmp_path: Path) -> Path:
    push_head(job.head, tmp_path / "head.zip")
    return tmp_path / "head.zip"


def _same(first: Path, second: Path) -> bool:
    a, b = hm.load_head(first), hm.load_head(second)
    X = np.random.default_rng(0).normal(size=(4, a.estimator.n_features_in_)).astype(np.float32)
    return a.card == b.card and np.array_equal(a.estimator.predict(X), b.estimator.predict(X))


@pytest.mark.parametrize("target", ["head.zip", "shared"])
def test_without_a_network_it_comes_back_the_same(job: Job, tmp_path: Path, target: str) -> None:
    place = push_head(job.head, tmp_path / target)
    pull_head(place, tmp_path / "back", accept=yes)
    assert _same(job.head, tmp_path / "back")
    source = json.loads((tmp_path / "back" / "source.json").read_text())
    assert source["digest"] == hm.load_head(job.head).card["digest"] and source["source"] == place
    pull_head(place, tmp_path / "back", accept=yes)
    push_head(tmp_path / "back", tmp_path / "again.zip")
    assert "source.json" not in zipfile.ZipFile(tmp_path / "again.zip").namelist()


def test_the_same_head_gives_the_same_archive(job: Job, packed: Path, tmp_path: Path) -> None:
    push_head(job.head, tmp_path / "second.zip")
    assert packed.read_bytes() == (tmp_path / "second.zip").read_bytes()


def test_a_repository_takes_and_gives_it(job: Job, hub: Hub, tmp_path: Path) -> None:
    place = push_head(job.head, f"hf://{REPO}", endpoint=hub.endpoint)
    commit = hub.repositories[REPO][-1][0]
    assert place == f"hf://{REPO}@{commit}" and hub.private[REPO]
    assert set(hub.repositories[REPO][-1][1]) == {"card.json", "README.md", *hm.load_head(job.head).card["files"]}
    seen: list[HeadFacts] = []
    pull_head(place, tmp_path / "back", accept=lambda facts: not seen.append(facts), endpoint=hub.endpoint)
    assert _same(job.head, tmp_path / "back")
    assert seen[0].revision == commit and seen[0].licences == [("builtin", "Apache-2.0", True)]
    assert not [line for line in hub.asked if "resolve/main" in line], "every file is of the pinned commit"


def test_an_older_commit_is_pulled_as_it_was(job: Job, hub: Hub, tmp_path: Path) -> None:
    old = push_head(job.head, f"hf://{REPO}", endpoint=hub.endpoint)
    hub.commit(REPO, {"card.json": b"{}"})
    pull_head(old, tmp_path / "back", accept=yes, endpoint=hub.endpoint)
    assert _same(job.head, tmp_path / "back")
    with pytest.raises(HeadError, match="digest differs"):
        pull_head(f"hf://{REPO}", tmp_path / "new", accept=yes, endpoint=hub.endpoint)
    with pytest.raises(InputError, match="no such revision"):
        pull_head(f"hf://{REPO}@{'0' * 40}", tmp_path / "new", accept=yes, endpoint=hub.endpoint)
    with pytest.raises(InputError, match="no such repository"):
        pull_head("hf://someone/nothing", tmp_path / "new", accept=yes, endpoint=hub.endpoint)
    assert not (tmp_path / "new").exists()


def test_before_consent_only_the_card_is_fetched(job: Job, hub: Hub, tmp_path: Path) -> None:
    push_head(job.head, f"hf://{REPO}", endpoint=hub.endpoint)
    hub.asked.clear()
    with pytest.raises(InputError, match="licence was not accepted"):
        pull_head(f"hf://{REPO}", tmp_path / "back", accept=lambda facts: False, endpoint=hub.endpoint)
    assert not [line for line in hub.asked if "safetensors" in line]
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_lies_is_found_out(job: Job, hub: Hub, tmp_path: Path) -> None:
    push_head(job.head, f"hf://{REPO}", endpoint=hub.endpoint)
    hub.lies["weights.safetensors"] = 1 << 40
    with pytest.raises(HeadError, match="MB are allowed"):
        pull_head(f"hf://{REPO}", tmp_path / "a", accept=yes, endpoint=hub.endpoint)
    hub.lies["weights.safetensors"] = 10
    with pytest.raises((HeadError, DownloadError)):
        pull_head(f"hf://{REPO}", tmp_path / "b", accept=yes, endpoint=hub.endpoint)
    hub.lies.clear()
    weights = bytearray(hub.repositories[REPO][-1][1]["weights.safetensors"])
    weights[-1] ^= 1
    hub.swapped["weights.safetensors"] = bytes(weights)
    with pytest.raises(HeadError, match="sha256 differs"):
        pull_head(f"hf://{REPO}", tmp_path / "c", accept=yes, endpoint=hub.endpoint)
    hub.repositories[REPO][-1][1]["model.pkl"] = b"cos\nsystem\n"
    with pytest.raises(HeadError, match=r"model\.pkl"):
        pull_head(f"hf://{REPO}", tmp_path / "d", accept=yes, endpoint=hub.endpoint)
    assert list(tmp_path.iterdir()) == []


def test_without_a_hub_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"FILE\.zip"):
        pull_head(f"hf://{REPO}", tmp_path / "back", accept=yes, endpoint="http://127.0.0.1:9")
    with pytest.raises(InputError, match="hf://someone/a-head"):
        pull_head(REPO, tmp_path / "back", accept=yes)
    with pytest.raises(InputError, match="names no repository"):
        pull_head("hf://only", tmp_path / "back", accept=yes)


def _rewrite(source: Path, out: Path, change: Any) -> Path:
    """Copy an archive; ``change(archive, files)`` writes the entries."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        change(archive, files)
    return out


def _with(name: str, data: bytes = b"x", mode: int = 0) -> Any:
    def change(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        for one, content in files.items():
            archive.writestr(one, content)
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, data)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with("../escaped.json"), "lies in one"),
        (_with("/etc/escaped.json"), "lies in one"),
        (_with("..\\escaped.json"), "lies in one"),
        (_with("folder/"), "a folder"),
        (_with("link.json", b"/etc/passwd", stat.S_IFLNK | 0o777), "a link"),
        (_with("run.py"), r"run\.py"),
        (_with("weights.pt"), r"weights\.pt"),
        (_with("a.json\n.md"), "no part of a head"),
        (_with(".json"), "no part of a head"),
        (_with("card.json"), "there twice"),
        (_with("bomb.safetensors", b"\0" * (40 << 20)), "MB are allowed"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_is_refused_whole(packed: Path, tmp_path: Path, change: Any, message: str) -> None:
    hostile = _rewrite(packed, tmp_path / "hostile.zip", change)
    with pytest.raises(HeadError, match=message):
        pull_head(hostile, tmp_path / "a" / "back", accept=yes, max_bytes=30 << 20)
    assert {path.name for path in tmp_path.iterdir()} == {"head.zip", "hostile.zip"}


def test_an_archive_that_understates_a_size_is_stopped(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        size = archive.getinfo("weights.safetensors").file_size
    old, new = struct.pack("<I", size), struct.pack("<I", 100)
    assert data.count(old) == 2, "once in the entry and once in the directory"
    (tmp_path / "liar.zip").write_bytes(data.replace(old, new))
    with pytest.raises(HeadError, match=r"larger than declared|damaged|sha256 differs"):
        pull_head(tmp_path / "liar.zip", tmp_path / "back", accept=yes)
    assert not (tmp_path / "back").exists()


def test_an_archive_with_holes_is_refused(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    start = data.index(b"weights.safetensors") + 19
    for offset in (0, 40, 500, 3000):
        holed = data[: start + offset] + bytes(200) + data[start + offset + 200 :]
        (tmp_path / "holed.zip").write_bytes(holed)
        with pytest.raises(HeadError, match=r"'weights.safetensors' is damaged"):
            pull_head(tmp_path / "holed.zip", tmp_path / "back", accept=yes)
        assert not (tmp_path / "back").exists()


def test_a_damaged_archive_is_refused(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    for name, content in (("cut.zip", data[: len(data) // 2]), ("text.zip", b"no archive"), ("empty.zip", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HeadError, match="no zip archive"):
            pull_head(tmp_path / name, tmp_path / "back", accept=yes)
    flipped = bytearray(data)
    flipped[data.index(b"weights.safetensors") + 3000] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(HeadError, match=r"damaged|sha256 differs"):
        pull_head(tmp_path / "flipped.zip", tmp_path / "back", accept=yes)
    assert zlib.crc32(data) != zlib.crc32(bytes(flipped))


def test_a_changed_card_and_another_head_are_refused(job: Job, packed: Path, tmp_path: Path) -> None:
    card = hm.load_head(job.head).card
    changed = {**card, "encoder_licences": [{"encoder": "builtin", "licence": "Public domain", "commercial_use": True}]}

    def write(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        for one, content in (files | {"card.json": json.dumps(changed).encode()}).items():
            archive.writestr(one, content)

    with pytest.raises(HeadError, match="digest differs"):
        pull_head(_rewrite(packed, tmp_path / "changed.zip", write), tmp_path / "back", accept=yes)
    resealed = {name: value for name, value in changed.items() if name != "digest"}
    changed = {**resealed, "digest": digest_json(resealed)}
    forged = _rewrite(packed, tmp_path / "forged.zip", write)
    with pytest.raises(HeadError, match="is another head"):
        pull_head(forged, tmp_path / "back", accept=yes, digest=card["digest"])
    pull_head(packed, tmp_path / "back", accept=yes, digest=card["digest"])


def test_a_card_cannot_name_files_elsewhere(job: Job, packed: Path, tmp_path: Path) -> None:
    card = {name: value for name, value in hm.load_head(job.head).card.items() if name != "digest"}
    card["files"] = {"../../outside.safetensors": "sha256:0"}
    card["digest"] = digest_json(card)

    def write(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        for one, content in (files | {"card.json": json.dumps(card).encode()}).items():
            archive.writestr(one, content)

    with pytest.raises(HeadError, match="names files that no head has"):
        pull_head(_rewrite(packed, tmp_path / "outside.zip", write), tmp_path / "back", accept=yes)


def test_nothing_of_the_user_is_replaced(job: Job, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.md").write_text("mine")
    for act in (
        lambda: pull_head(packed, tmp_path / "mine", accept=yes),
        lambda: push_head(job.head, tmp_path / "mine"),
    ):
        with pytest.raises(HeadError, match=r"notes\.md"):
            act()
    assert (tmp_path / "mine" / "notes.md").read_text() == "mine"


def test_links_in_a_folder_are_not_followed(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    shutil.copytree(job.head, folder)
    (tmp_path / "secret.md").write_text("secret")
    (folder / "README.md").symlink_to(tmp_path / "secret.md")
    with pytest.raises(HeadError, match="no plain file"):
        pull_head(folder, tmp_path / "back", accept=yes)


def test_the_readme_is_a_model_card(job: Job) -> None:
    card = dict(hm.load_head(job.head).card)
    card["cell_types"] = ["<script>alert(1)</script>", "a|b", "[x](javascript:alert(1))", "# not a heading\n# nor this"]
    text = head_readme(card)
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "apache-2.0" and front["library_name"] == "histomix" and "pathology" in front["tags"]
    body = text.split("---", 2)[2]
    assert "<script" not in body and "[x](" not in body and "\n# nor" not in body
    assert card["digest"] in text and "P1" not in body, "donors are counted, not named"
    card["encoders"] = [{**card["encoders"][0], "licence": 'Owkin "non-commercial"\n---'}]
    front = yaml.safe_load(head_readme(card).split("\n---\n")[0].removeprefix("---"))
    assert front["license"] == "other" and front["license_name"] == "owkin-non-commercial"


def test_the_licence_is_shown_without_marks_that_move_the_cursor(job: Job, packed: Path) -> None:
    facts = head_facts(packed)
    assert "licence of the encoder builtin: Apache-2.0 (commercial use allowed)" in facts.text()
    evil = HeadFacts("x", "", {**facts.card, "limits": "fine\x1b[2K\x1b[1A\u202egnol"}, 1)
    assert "\x1b" not in evil.text() and "\u202e" not in evil.text()


def test_by_its_commands(job: Job, hub: Hub, tmp_path: Path) -> None:
    run = CliRunner()
    place, out = str(tmp_path / "head.zip"), str(tmp_path / "back")
    assert run.invoke(app, ["head", "push", str(job.head), place]).exit_code == 0
    refused = run.invoke(app, ["head", "pull", place, "--out", out])
    assert refused.exit_code == 2 and "licence of the encoder builtin: Apache-2.0" in refused.output
    assert not Path(out).exists()
    taken = run.invoke(app, ["head", "pull", place, "--out", out, "--accept-licence", "--json"])
    assert taken.exit_code == 0 and json.loads(taken.stdout)["digest"] == hm.load_head(job.head).card["digest"]
    shown = json.loads(run.invoke(app, ["head", "show", place, "--json"]).stdout)
    assert shown["licences"][0]["licence"] == "Apache-2.0" and shown["card"]["name"] == "ridge-builtin"
    address = ["head", "push", str(job.head), f"hf://{REPO}", "--endpoint", hub.endpoint]
    unsure = run.invoke(app, address)
    assert unsure.exit_code == 2 and "names 2 donors" in unsure.output and not hub.repositories
    assert run.invoke(app, [*address, "--yes", "--public"]).exit_code == 0
    assert hub.private[REPO] is False
