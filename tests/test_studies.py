"""Published studies made anew: from a mirror to the table, whatever is missing said first, and every step kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.errors import DownloadError, EncoderError, InputError
from histomix.heads import HEADS, head_name
from histomix.sharing import head_facts
from histomix.studies import Reproduction, list_studies, read_study
from histomix.studies.study import COLUMNS
from histomix.studies.table import NOT_AT_HAND, TABLE

from .kills.killing import differences
from .published_layouts import her2st, lung, made_sections, stnet
from .test_fetch import Server, server  # noqa: F401

NAMES = ["hist2cell-lung", "sun2025-ablation", "sun2025-her2st", "sun2025-stnet", "sun2025-transfer"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("histomix.encoders.torch.weights.cached_weights", lambda card: None)
    return tmp_path / "cache"


def _run(name: str, out: Path, **more: Any) -> Reproduction:
    words = {"encoders": ["builtin"], "heads": ["mean", "ridge"], "method": "poisson", "progress": False, **more}
    return hm.reproduce(name, out, **words)


def _random_weights(name: str, path: Path) -> Path:
    import timm
    import torch
    from safetensors.torch import save_file

    from histomix.encoders import card

    torch.manual_seed(0)
    model = timm.create_model(card(name).architecture, num_classes=0, **card(name).arguments)
    save_file(model.state_dict(), path)
    return path


# the facts


def test_the_studies_are_files_of_facts() -> None:
    studies = list_studies()
    assert [one.name for one in studies] == NAMES
    for one in studies:
        assert all(head_name(head) in HEADS for head in one.heads) and "ridge" in one.heads
        assert all(figure.metric in COLUMNS and figure.source for figure in one.published)
        assert all(figure.value is not None or "not at hand" in figure.source for figure in one.published)
        known = {card.name for card in hm.cards()}
        assert all(set(joined.split("+")) <= known for joined in one.encoders)
    donors = {one.name: [cohort.donors for cohort in one.cohorts] for one in studies}
    assert donors["sun2025-her2st"] == [8] and donors["sun2025-stnet"] == [23]
    assert donors["sun2025-transfer"] == [8, 23] and donors["hist2cell-lung"] == [4]


def test_the_published_transfer_figures_are_those_of_the_paper() -> None:
    found = {(one.row, one.cohort, one.metric): one.value for one in read_study("sun2025-transfer").published}
    assert found["sun2025", "her2st to stnet", "pearson_pooled"] == 0.32
    assert found["hist2cell", "stnet to her2st", "mae"] == 0.61


def test_the_list_is_printed() -> None:
    done = CliRunner().invoke(app, ["reproduce", "--list", "--json"])
    assert [one["name"] for one in json.loads(done.stdout)["studies"]] == NAMES
    assert "leave one patient out" in CliRunner().invoke(app, ["reproduce", "--list"]).stdout


# what is missing is said before any work


def test_missing_weights_are_named_with_what_gets_them(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["reproduce", "sun2025-her2st", "--out", str(tmp_path / "out"), "--json"])
    facts = json.loads(done.stdout)["error"]
    assert done.exit_code == 2 and "the weights of conch, uni are missing" in facts["what"]
    assert facts["what"].count("->") == 2 and "--partial" in facts["hint"]
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_an_unknown_study_and_a_reference_that_is_not_prepared_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no study called 'sun2024'"):
        _run("sun2024", tmp_path / "out")
    with pytest.raises(InputError, match=r"has not been prepared.*prepare_reference\.py wu2021-breast"):
        _run("sun2025-her2st", tmp_path / "out")
    with pytest.raises(InputError, match="no reference 'hub:wu'"):
        _run("sun2025-her2st", tmp_path / "out", reference="hub:wu")
    with pytest.raises(InputError, match="holds no cohort her2st"):
        _run("sun2025-her2st", tmp_path / "out", reference=tmp_path / "none.csv", data=tmp_path)
    with pytest.raises(InputError, match="1 folders of labels were given for 2 cohorts"):
        _run("sun2025-transfer", tmp_path / "out", labels=tmp_path)


def test_a_mirror_that_serves_a_page_is_told(server: Server, tmp_path: Path) -> None:  # noqa: F811
    reference, sections = made_sections(tmp_path, 1, sources=1)
    server.files = dict.fromkeys(her2st(sections), b"<html>Please log in</html>")
    with pytest.raises(DownloadError, match="is not a listing of the repository"):
        _run("sun2025-her2st", tmp_path / "out", reference=reference, mirror=server.url)


# from a mirror to the table


def test_her2st_from_a_mirror_to_the_table(server: Server, tmp_path: Path) -> None:  # noqa: F811
    reference, sections = made_sections(tmp_path, 3)
    server.files = her2st(sections, "ABC")
    done = _run("sun2025-her2st", tmp_path / "out", reference=reference, mirror=server.url, publish=True, partial=True)
    assert not done.failures and done.missing == ["her2st: 5 of 8 donors"]
    table = pd.read_csv(tmp_path / "out" / "table.csv", dtype=str, keep_default_na=False)
    assert list(table.columns[: len(TABLE)]) == list(TABLE)
    ours = table[table["head"].eq("ridge") & table["encoder"].eq("builtin")].set_index("metric")
    assert set(ours.index) == set(COLUMNS)
    assert ours.loc["pearson", "protocol"].startswith("leave one donor out, 3 donors, 3 sections")
    assert "encoder builtin instead of conch+uni" in ours.loc["pearson", "protocol"]
    assert -1 < float(ours.loc["pearson", "ours"]) < 1
    assert NOT_AT_HAND in set(table["published"]) and "0.353" in set(table["published"])
    peers = table[table["row"].str.startswith("CUCA")]
    assert len(peers) and (peers["ours"] == "").all()
    page = (tmp_path / "out" / "page" / "index.html").read_text(encoding="utf-8")
    assert "not at hand" in page and "<script" not in page and "Methods, for a paper" in page
    assert "Labels" in (tmp_path / "out" / "methods.md").read_text(encoding="utf-8")
    costs = pd.read_csv(tmp_path / "out" / "costs.csv")
    assert (costs["fit_seconds"].dropna() >= 0).all() and costs["peak_memory_mb"].notna().sum() == 1
    facts = head_facts(done.heads[0])
    assert facts.card["licences"]["data"] == read_study("sun2025-her2st").licence
    assert facts.card["scores"]["protocol"].startswith("donor")
    # Once more: nothing is fetched, labelled, embedded or fitted again, and the table is the same.
    asked = len(server.asked)
    before = (tmp_path / "out" / "table.csv").read_bytes()
    kept = {
        path: path.stat().st_mtime_ns
        for part in ("labels", "bench/features", "bench/evaluations")
        for path in (tmp_path / "out" / part).rglob("*.csv")
    }
    _run("sun2025-her2st", tmp_path / "out", reference=reference, mirror=server.url, partial=True)
    assert len(server.asked) == asked and (tmp_path / "out" / "table.csv").read_bytes() == before
    assert {path for path, time in kept.items() if path.stat().st_mtime_ns != time} == set()


def test_a_cohort_with_a_missing_patient_says_so_in_the_title(server: Server, tmp_path: Path) -> None:  # noqa: F811
    reference, sections = made_sections(tmp_path, 3)
    server.files = her2st(sections, "ABC")
    with pytest.raises(InputError, match="missing are her2st: 5 of 8 donors"):
        _run("sun2025-her2st", tmp_path / "out", reference=reference, mirror=server.url)
    done = _run("sun2025-her2st", tmp_path / "out", reference=reference, mirror=server.url, partial=True)
    assert "<title>her2st, leave one patient out (Sun, Zhu and Qiu 2025) (partial: missing her2st: 5 of 8 donors)" in (
        done.page.read_text(encoding="utf-8")
    )
    assert done.table["protocol"].str.contains("3 of 8 donors").any()
    assert done.table["difference"].isna().all(), "another protocol than the study's"


@pytest.mark.parametrize(
    ("published", "difference", "shown"),
    [("0.334", None, "not comparable"), ("0.334", 0.17, "+0.170"), ("not at hand", None, ""), ("", None, "")],
)
def test_figures_of_unlike_protocols_are_not_compared(published: str, difference: float | None, shown: str) -> None:
    from histomix.studies.page import _row

    facts = {"row": "hist2cell", "published": published, "source": "", "interval": "", "protocol": "sections"}
    assert _row({**facts, "ours": 0.504, "difference": difference})["difference"] == shown


@pytest.mark.slow
def test_her2st_of_8_patients_from_a_mirror_to_the_table(server: Server, tmp_path: Path) -> None:  # noqa: F811
    reference, sections = made_sections(tmp_path, 8, sources=4)
    server.files = her2st(sections)
    done = _run("sun2025-her2st", tmp_path / "out", reference=reference, mirror=server.url, partial=True)
    assert not done.failures and done.missing == ["her2st: 28 of 36 sections"]
    assert done.table["protocol"].str.startswith("leave one donor out, 8 donors").any()


@pytest.mark.slow
def test_the_ablation_of_8_patients_and_joined_encoders_from_a_mirror_to_the_table(
    server: Server,  # noqa: F811
    tmp_path: Path,
) -> None:
    """One small network at random weights stands for those that were not at hand: alone, and joined."""
    weights = _random_weights("lunit-s16", tmp_path / "model.safetensors")
    reference, sections = made_sections(tmp_path, 8, sources=4)
    server.files = her2st(sections)
    encoders = ["builtin", "lunit-s16", "builtin+lunit-s16"]
    words = {"reference": reference, "mirror": server.url, "partial": True, "weights": {"lunit-s16": weights}}
    done = _run("sun2025-ablation", tmp_path / "out", encoders=encoders, **words)
    assert not done.failures
    ours = done.table[done.table["ours"].notna() & done.table["head"].eq("ridge")]
    assert set(ours["encoder"]) == set(encoders)
    assert ours["protocol"].str.startswith("leave one donor out, 8 donors").all()


@pytest.mark.slow
def test_stnet_of_23_patients_from_a_mirror_to_the_table(server: Server, tmp_path: Path) -> None:  # noqa: F811
    reference, sections = made_sections(tmp_path, 23, sources=6)
    server.files = stnet(sections)
    done = _run("sun2025-stnet", tmp_path / "out", reference=reference, mirror=server.url, partial=True)
    assert not done.failures and done.table["protocol"].str.contains("23 donors, 23 sections").any()


@pytest.mark.slow
def test_the_transfer_of_both_cohorts_from_a_mirror_to_the_table(server: Server, tmp_path: Path) -> None:  # noqa: F811
    reference, sections = made_sections(tmp_path, 8, sources=4)
    made = list(sections)
    server.files = her2st(iter(made[:4]), "ABCD") | stnet(iter(made[4:]), 4)
    done = _run("sun2025-transfer", tmp_path / "out", reference=reference, mirror=server.url, partial=True)
    assert not done.failures
    assert {"her2st to stnet", "stnet to her2st"} <= set(done.table.loc[done.table["ours"].notna(), "cohort"])


@pytest.mark.slow
def test_the_lung_of_four_donors_from_a_mirror_to_the_table(server: Server, tmp_path: Path) -> None:  # noqa: F811
    reference, sections = made_sections(tmp_path, 4, sources=4)
    server.files = lung(tmp_path / "lung", sections)
    done = _run("hist2cell-lung", tmp_path / "out", reference=reference, mirror=server.url)
    assert not done.failures and not done.missing
    assert done.table["protocol"].str.startswith("leave one donor out, 4 donors").any()


def test_encoders_of_a_study_that_lack_weights_are_left_out_where_asked(tmp_path: Path) -> None:
    from histomix.studies.data import find_means

    study = read_study("sun2025-ablation")
    means = find_means(study, None, ["ridge"], "poisson", [], False, True)
    assert means.encoders == ("builtin",) and "uni, conch, uni2-h" in means.missing[0]
    means = find_means(study, None, ["ridge"], "poisson", ["uni"], False, True)
    assert means.encoders == ("uni",)
    with pytest.raises(EncoderError, match="the weights of conch are missing"):
        find_means(study, ["uni+conch"], ["ridge"], "poisson", ["uni"], False, False)


#: A file of each step, in their order: fetched, labelled, embedded, evaluated, a head trained and packed, the page.
_STEPS = (
    "cache/**/*.jpg",
    "out/labels/*/*.csv",
    "out/bench/features/*/*/*.h5ad",
    "out/bench/.*.unfinished/*",
    "out/bench/evaluations/*/*/*/metrics.csv",
    "out/heads/*/card.json",
    "out/page/index.html",
)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_killed_in_every_step_the_same_command_ends_in_the_same_table(server: Server, tmp_path: Path) -> None:  # noqa: F811
    reference, sections = made_sections(tmp_path, 3)
    server.files = her2st(sections, "ABC")
    program = "import sys; from histomix.cli import main; sys.argv[0] = 'histomix'; main()"

    def start(place: Path) -> subprocess.Popen[bytes]:
        words = ["reproduce", "sun2025-her2st", "--out", str(place / "out"), "--reference", str(reference)]
        words += ["--encoder", "builtin", "--heads", "mean,ridge,mlp", "--method", "poisson"]
        words += ["--mirror", server.url, "--partial", "--publish", "--quiet"]
        place.mkdir(exist_ok=True)
        told = (place / "told").open("wb")
        environment = {**os.environ, "HISTOMIX_CACHE": str(place / "cache")}
        return subprocess.Popen(
            [sys.executable, "-c", program, *words], env=environment, stdout=told, stderr=told, start_new_session=True
        )

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert start(alone).wait() == 0, (alone / "told").read_text()
    stopped = []
    for step in _STEPS:
        process = start(killed)
        while process.poll() is None and not any(killed.glob(step)):
            time.sleep(0.02)
        stopped.append(process.poll() is None)
        process.kill()
        process.wait()
    assert sum(stopped) >= len(_STEPS) - 2, "most of them have to be stopped while they work"
    assert start(killed).wait() == 0, (killed / "told").read_text()
    for part in ("labels", "bench/features", "bench/evaluations"):
        faults = differences(alone / "out" / part, killed / "out" / part)
        # What a step took is not known of one that was stopped.
        assert [one for one in faults if not one.endswith("cost.json is missing")] == []
    for name in ("table.csv", "methods.md"):
        assert (killed / "out" / name).read_bytes() == (alone / "out" / name).read_bytes()
    (one,), (other,) = ([*(place / "out" / "heads").glob("*.zip")] for place in (alone, killed))
    with zipfile.ZipFile(one) as expected, zipfile.ZipFile(other) as found:
        assert expected.namelist() == found.namelist()
        arrays = [name for name in expected.namelist() if name.endswith(".safetensors")]
        assert arrays and all(expected.read(name) == found.read(name) for name in arrays)
    assert not list((killed / "out").rglob("*.unfinished")) and not list((killed / "out").rglob(".partial-*"))
