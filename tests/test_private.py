"""With --anonymise, no file that a verb writes holds what was planted in its input."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.common.anonymity.pseudonyms import Pseudonyms
from histomix.common.formats import MAP_FORMAT
from histomix.errors import InputError
from histomix.export import FORMATS, export_map
from histomix.heads import Head, load_head
from histomix.prediction import predict_slides
from histomix.prediction import slides as batch
from histomix.report import sections as section_parts
from histomix.sharing import pull_head

from .conftest import Job, manifest_of
from .extras import extra_module
from .planted import (
    FOLDER,
    NEEDLES,
    STEM,
    leaks,
    named_dicom,
    named_ome,
    named_photo,
    named_tiff,
    pictures,
    shows_label,
)
from .slide_heads import Colours, colour_head

pytestmark = pytest.mark.once

WHOLE = (*NEEDLES, "ROE^RICHARD", "Roe-Richard")
SMALL: dict[str, Any] = {"width": 900, "height": 800}


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    """A name that is left is left whatever the number of spots."""
    return small_job


def run(*words: object, code: int = 0) -> Any:
    """A verb of the program with its answer as JSON."""
    ran = CliRunner().invoke(app, [*map(str, words), "--json"])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert ran.exit_code == code, ran.stderr
    return json.loads(ran.stdout)


@dataclass(frozen=True)
class Ward:
    """Slides of a patient, with all that a hospital has beside them."""

    sheet: Path
    slides: Path
    regions: Path
    clinical: Path
    head: Path


@pytest.fixture(autouse=True)
def operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the program."""
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "zzoperator77")


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> Colours:
    """What the planted head is given for its encoder."""
    found, load = Colours(), batch.load_head_encoders
    own = lambda head, *more: [found] if head.card["name"] == "ridge-colours" else load(head, *more)  # noqa: E731
    monkeypatch.setattr(batch, "load_head_encoders", own)
    return found


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """Slides of every kind with tags of a patient, in a folder of the patient's, under the home of a user."""
    home = tmp_path_factory.mktemp("home") / "zzoperator77"
    slides = home / FOLDER
    slides.mkdir(parents=True)
    named_tiff(slides / f"{STEM}.tif", **SMALL)
    named_ome(slides / "JANEDOE-2.ome.tif", **SMALL, seed=2)
    named_photo(slides / "S61-99871.jpg", **SMALL, seed=3)
    named_photo(slides / "ward-seven-biopsy.png", **SMALL, seed=4)
    named_dicom(slides / "Jane Doe dicom", **SMALL, seed=5)
    (slides / "DOE^JANE broken.tif").write_bytes((slides / f"{STEM}.tif").read_bytes()[:9000])
    sheet = home / "DOE_JANE sheet.csv"
    rows = [("slide", "name", "mpp", "patient", "born", "ordered by")]
    for name in sorted(path.name for path in slides.iterdir()):
        whose = "Jane Doe 8833421" if "99871" not in name else "Doe, Jane (S61-99871)"
        title = "" if "broken" in name or name.startswith(STEM) else f"{Path(name).stem} of Jane Doe"
        rows.append((f"{FOLDER}/{name}", title, "0.5", whose, "1961-03-04", "dr.planted@hospital.example"))
    with sheet.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    square = [[0, 0], [900, 0], [900, 400], [0, 400], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"name": "tumour of Jane Doe", "note": "8833421", "classification": {"name": "DOE_JANE"}},
    }
    (home / "DOE_JANE.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with (home / "clinical 8833421.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(
            ["patient", "name", "age", "mrn", "born", "year of birth", "remark", "stage", "relapse", "score"]
        )
        table.writerow(
            ["Jane Doe 8833421", "DOE^JANE", 57, 8833421, "1961-03-04", 1961, "ward-seven-biopsy", "II", "yes", 3.5]
        )
        table.writerow(["Doe, Jane (S61-99871)", "JANEDOE", 57, 8833421, 19610304, 1961, "SaintPlanted", "IV", "no", 2])
        table.writerow(["Nobody ROE^RICHARD", "x", 40, 1, "", 1980, "", "I", "no", 1])
    donors = {"donors": ["DOE^JANE_MRN-8833421"], "sections": {"DOE_JANE-A": 300}, "n_donors": 1, "n_sections": 1}
    colour_head([Colours()], training={"n_spots": 300, **donors}).save(home / "head of zzoperator77")
    return Ward(sheet, slides, home / "DOE_JANE.geojson", home / "clinical 8833421.csv", home / "head of zzoperator77")


@pytest.fixture(scope="module")
def open_maps(ward: Ward, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same slides predicted under their names."""
    out = tmp_path_factory.mktemp("open") / "maps"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "load_head_encoders", lambda *_: [Colours()])
        results = predict_slides([ward.sheet], ward.head, out, regions=ward.regions, keep_features=True)
    assert [result.error is None for result in results].count(False) == 1
    assert leaks(out), "the search finds what is there"
    return out


def predicted(ward: Ward, out: Path, *more: object) -> Any:
    return run("predict", ward.sheet, "--head", ward.head, "--out", out, "--anonymise", *more, code=1)


def test_predict_names_nobody_and_says_it_again(ward: Ward, tmp_path: Path, encoder: Colours) -> None:
    out = tmp_path / "out" / "maps"
    answer = predicted(ward, out, "--regions", ward.regions, "--keep-features")
    assert [one["state"] for one in answer["slides"]].count("done") == 5
    assert not leaks(out) and not [name for name, pixels in pictures(out) if shows_label(pixels)]
    assert any("broken" in text for text in answer["failures"]), "on the terminal the slide is named"
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert len(folders) == 6 and all(re.fullmatch(r"slide-[a-z2-7]{12}", name) for name in folders)
    for name in folders:
        status = json.loads((out / name / "status.json").read_text())
        assert {"source", "folder", "started", "finished", "queued", "traceback"}.isdisjoint(status)
        if status["state"] == "failed":
            assert status["kind"] == "SlideError" and "same command" in status["reason"]
            continue
        assert status["slide"] == status["name"] == name and set(status["facts"]) == {"patient"}
        manifest = manifest_of(ad.read_h5ad(out / name / "composition.h5ad"))
        assert manifest["slide"]["file"] == name and manifest["anonymised"] == status["anonymised"]
        assert manifest["format"] == MAP_FORMAT, "older versions must know what they cannot read"
        assert manifest["head"]["training"] == {"n_spots": 300, "n_donors": 1, "n_sections": 1}
        assert manifest["regions"][0].startswith("region-")
    key = out.with_name("maps.key.csv")
    assert leaks(key, ["DOE^JANE_MRN-8833421", "tumour of Jane Doe", "Jane Doe 8833421"]), "the key leads back"
    if os.name == "posix":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    tiles = encoder.tiles
    again = predicted(ward, out, "--regions", ward.regions, "--keep-features")
    assert [one["kept"] for one in again["slides"]].count(True) == 5 and encoder.tiles == tiles
    elsewhere = predicted(ward, tmp_path / "second", "--pseudonym-key", key)
    assert {Path(one["folder"]).name for one in elsewhere["slides"]} == set(folders)
    assert not leaks(tmp_path / "second")
    other = predicted(ward, tmp_path / "third")
    assert {Path(one["folder"]).name for one in other["slides"]}.isdisjoint(folders)


def test_an_interrupted_run_has_named_nobody_either(ward: Ward, tmp_path: Path, encoder: Colours) -> None:
    encoder.embed = lambda tiles: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        predict_slides([ward.sheet], ward.head, tmp_path / "maps", regions=ward.regions, anonymise=True)
    assert list((tmp_path / "maps").glob("*/.work/plan.json")) and not leaks(tmp_path / "maps")
    del encoder.embed
    results = predict_slides([ward.sheet], ward.head, tmp_path / "maps", regions=ward.regions, anonymise=True)
    assert [result.error is None for result in results].count(True) == 5 and not leaks(tmp_path / "maps")
    assert not list((tmp_path / "maps").glob("*/.work"))


def test_an_unforeseen_error_is_kept_without_its_words(ward: Ward, tmp_path: Path, encoder: Colours) -> None:
    def failing(tiles: np.ndarray) -> np.ndarray:
        raise RuntimeError("Jane Doe 8833421")

    encoder.embed = failing  # type: ignore[method-assign]
    results = predict_slides([ward.sheet], ward.head, tmp_path / "maps", anonymise=True)
    assert all(result.error is not None for result in results)
    assert "Jane Doe" in str(results[1].error) and not leaks(tmp_path / "maps")


def test_spots_are_numbered_unless_a_platform_named_them(ward: Ward, tmp_path: Path) -> None:
    spots = tmp_path / "spots.csv"
    slide = ward.slides / f"{STEM}.tif"
    for keys, shown in ((["Jane Doe 1", "ward-seven-biopsy"], ["1", "2"]), (["AAACAAGTATCTCCCA-1", "10x12"],) * 2):
        rows = "".join(f'"{key}",{x},300\n' for key, x in zip(keys, (300, 260), strict=True))
        spots.write_text(f"spot,x_px,y_px\n{rows}")
        out = tmp_path / keys[1]
        (result,) = predict_slides([slide], ward.head, out, at=spots, anonymise=True)
        assert pd.read_csv(result.folder / "composition.csv", dtype={"spot": str})["spot"].tolist() == shown
        assert not leaks(out, NEEDLES if shown[0] == "1" else ["Jane"])


def test_remote_slides_leave_no_address(ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    store = extra_module("remote", "fsspec").filesystem("memory")
    store.pipe(f"/DOE^JANE/{STEM}.tif", (ward.slides / f"{STEM}.tif").read_bytes())
    address, out = f"memory://DOE^JANE/{STEM}.tif", tmp_path / "maps"
    for kept in (False, True):
        (result,) = predict_slides([address], ward.head, out, anonymise=True)
        assert result.error is None and result.kept == kept
        assert not leaks(out)
    assert "mark" in json.loads((result.folder / "status.json").read_text())["remote"]


def test_workers_name_nobody_either(job: Job, tmp_path: Path) -> None:
    extra_module("cluster", "distributed")
    folder = tmp_path / FOLDER
    folder.mkdir()
    shutil.copy(job.image, folder / f"{STEM}.tif")
    (folder / "DOE^JANE broken.tif").write_bytes(b"II*\0" + bytes(50))
    results = predict_slides([folder], job.head, tmp_path / "maps", mpp=0.5, workers=1, anonymise=True)
    assert sorted(result.error is None for result in results) == [False, True]
    assert not leaks(tmp_path / "maps")


def test_a_folder_made_with_names_keeps_none_of_them(ward: Ward, open_maps: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    shutil.copytree(open_maps, out)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.txt.*made without --anonymise"):
        predict_slides([ward.sheet], ward.head, out, anonymise=True)
    assert len(list(out.glob("*/composition.h5ad"))) == 5
    (out / "thesis.txt").unlink()
    with pytest.raises(InputError, match="made without --anonymise"):
        predict_slides([ward.slides / f"{STEM}.tif"], ward.head, out, anonymise=True)
    predict_slides([ward.sheet], ward.head, out, anonymise=True)
    assert not leaks(out) and len(list(out.glob("*/composition.h5ad"))) == 5
    with pytest.raises(InputError, match="made with --anonymise"):
        predict_slides([ward.sheet], ward.head, out)
    with pytest.raises(InputError, match="another key"):
        predict_slides([ward.sheet], ward.head, out, anonymise=True, pseudonym_key=tmp_path / "other.csv")


@pytest.mark.parametrize("to", list(FORMATS))
def test_exports_name_nobody(open_maps: Path, tmp_path: Path, to: str) -> None:
    extra_module("st", "spatialdata" if to == "spatialdata" else "pyarrow")
    out = tmp_path / "out" / "files"
    export_map(next(path.parent for path in open_maps.glob("*/composition.h5ad")), to, out)
    assert leaks(out)
    answer = run("export", open_maps, "--to", to, "--out", out, "--anonymise")
    assert len(answer["written"]) == 5 and not leaks(out)
    assert len(list(out.iterdir())) == 6, "what was written under a name is gone"
    run("export", open_maps, "--to", to, "--out", out, code=2)


def test_what_others_put_into_a_map_is_not_exported(open_maps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "DOE^JANE"
    folder.mkdir()
    composition = ad.read_h5ad(next(open_maps.glob("*/composition.h5ad")))
    composition.uns["patient"], composition.obs["mrn"] = "Jane Doe", "8833421"
    manifest = manifest_of(composition)
    manifest["slide"]["label"], manifest["operator"] = "S61-99871", "zzoperator77"
    composition.uns["manifest"] = json.dumps(manifest)
    composition.var["note"] = "1961-03-04"
    composition.layers["JANEDOE"] = np.asarray(composition.X)
    composition.write_h5ad(folder / "composition.h5ad")
    path = export_map(folder, "anndata", tmp_path / "out", anonymise=True)
    assert not leaks(tmp_path / "out")
    assert manifest_of(ad.read_h5ad(path))["format"] == MAP_FORMAT
    assert list(ad.read_h5ad(path).var_names) == list(composition.var_names)


@pytest.mark.parametrize("anonymous", [True, False])
def test_cohort_tables_name_nobody(
    ward: Ward, open_maps: Path, tmp_path: Path, anonymous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    maps, out, more = open_maps, tmp_path / "tables", []
    if anonymous:
        maps = tmp_path / "maps"
        predict_slides([ward.sheet], ward.head, maps, regions=ward.regions, anonymise=True)
    else:
        more = ["--pseudonym-key", tmp_path / "a.key.csv"]
    out.mkdir()
    (out / "tls_like.csv").write_text("slide,hot_spot\nDOE^JANE,1\n")
    words = ["cohort", maps, "--clinical", ward.clinical, "--out", out, "--anonymise", "--keep-column", "stage", *more]
    answer = run(*words)
    assert answer["slides"] == 5 and not leaks(out)
    slides = pd.read_csv(out / "slides.csv")
    assert list(slides.columns[:6]) == ["slide", "patient", "age", "stage", "relapse", "score"]
    assert slides["stage"].notna().all() and slides["age"].tolist() == [57] * 5, "joined by the names behind the key"
    assert slides["patient"].str.fullmatch(r"patient-[a-z2-7]{12}").all() and slides["patient"].nunique() == 2
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["clinical_without_slide"] == 1 and set(manifest["clinical"]) == {"digest"}
    parts = pd.read_csv(out / "cohort.csv", dtype=str).query("level == 'region'")["part"]
    assert parts.str.startswith("region-").all() and len(parts)
    assert "remark" in caplog.text and "mrn" in caplog.text and "year of birth" in caplog.text
    with pytest.raises(InputError, match="no column 'grade'"):
        hm.cohort_tables([maps], clinical=ward.clinical, anonymise=True, keep_columns=["grade"])


@pytest.fixture(scope="module")
def study(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training sections of patients: labels, features, an evaluation and a head, all under names."""
    folder = tmp_path_factory.mktemp("study") / "zzoperator77"
    table = pd.read_csv(job.sheet)
    table["section"], table["donor"] = ["DOE_JANE-8833421", "Roe-Richard"], ["DOE^JANE_MRN-8833421", "ROE^RICHARD"]
    table["site"] = "SaintPlanted"
    sheet = job.sheet.with_name("ward-seven-biopsy.csv")
    table.to_csv(sheet, index=False)
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=job.reference, out=folder / "labels of Jane Doe")
    features = hm.embed(cohort, out=folder / "features")
    hm.train(cohort, features, labels, head="ridge", out=folder / "head of Jane Doe")
    hm.evaluate(
        cohort, features, labels, heads=("ridge",), folds=("donor", "random"), nuclei=False, out=folder / "evaluation"
    )
    (folder / "sheet").write_text(str(sheet))
    return folder


def test_a_report_names_nobody(study: Path, open_maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from .rich_summary import enriched

    rich = tmp_path / "zzoperator77" / "evaluation"
    shutil.copytree(study / "evaluation", rich)
    summary = enriched(json.loads((rich / "summary.json").read_text()), "ridge")
    rule, alike = "donors of like names", ["DOE^JANE_MRN-8833421", "JANEDOE"]
    summary["audit"] += [
        {"rule": rule, "severity": "warning", "message": " and ".join(alike), "numbers": {"names": [alike]}}
    ]
    summary["notes"] += [
        "section Roe-Richard has 3 spots",
        "labels share a fit (such as DOE^JANE with JANEDOE): /home/zzoperator77/x",
    ]
    summary.pop("digest")
    (rich / "summary.json").write_text(json.dumps(summary))
    monkeypatch.setattr(section_parts, "_MOST_PAIRS", 1)  # few pictures
    maps = tmp_path / "zzoperator77" / "maps"
    for name in (STEM, "S61-99871 of Jane Doe"):
        shutil.copytree(open_maps / name, maps / name)
    first = next(maps.glob("*/status.json"))
    first.write_text(json.dumps({**json.loads(first.read_text()), "state": "failed", "reason": f"{first}: Jane Doe"}))
    sources = [rich, study / "labels of Jane Doe", study / "features", study / "head of Jane Doe", maps]
    answer = run("report", *sources, "--out", tmp_path / "report", "--anonymise")
    assert not leaks(tmp_path / "report", WHOLE)
    text = Path(answer["report"]).read_text(encoding="utf-8")
    assert text.count("patient-") > 2 and text.count("slide-") > 6 and "earlier run" in text
    names = Pseudonyms.open(tmp_path / "report.key.csv")
    assert names.slide("DOE_JANE-8833421") in text and names.patient("ROE^RICHARD") in text


def test_a_report_of_a_score_names_neither_slide_nor_region(tmp_path: Path) -> None:
    facts = {
        **{"protocol": "orthogonal", "protocol_means": "measured", "n_spots": 5, "unit": "proportion"},
        **{
            "folds": [{"name": "JANEDOE", "donors": ["DOE^JANE"], "sections": ["JANEDOE"]}],
            "sections": [],
            "scores": {},
        },
        **{"interval": {"caution": "one slide"}, "notes": ["optimistic: the head was trained on donor DOE^JANE"]},
        **{"cell_types": ["T"], "head": {"training": {"donors": ["DOE^JANE"]}}},
        "orthogonal": {
            "regions": {"auroc": {"T": {"ward-seven-biopsy": 0.9, "b": 0.5}}, "auroc_words": "AUROC", "expected": []}
        },
    }
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "summary.json").write_text(json.dumps(facts))
    run("report", tmp_path / "score", "--out", tmp_path / "report", "--anonymise")
    assert not leaks(tmp_path / "report")


def test_a_viewer_names_nobody(study: Path, ward: Ward, open_maps: Path, tmp_path: Path) -> None:
    sheet = (study / "sheet").read_text()
    words = ["view", open_maps, study / "evaluation", "--slides", ward.slides, "--sheet", sheet, "--mpp", 2]
    answer = run(*words, "--out", tmp_path / "viewer", "--anonymise")
    assert len(answer["slides"]) == 7 and not leaks(tmp_path / "viewer", WHOLE)
    assert "slide-" in Path(answer["page"]).read_text(encoding="utf-8")
    predict_slides([ward.sheet], ward.head, tmp_path / "maps", anonymise=True)
    run("view", tmp_path / "maps", "--slides", ward.slides, "--mpp", 2, "--out", tmp_path / "second")
    assert not leaks(tmp_path / "second"), "slides of pseudonyms are found by their content"


@pytest.mark.parametrize("target", ["head.zip", "shared"])
def test_a_pushed_head_names_nobody(study: Path, tmp_path: Path, target: str) -> None:
    folder = study / "head of Jane Doe"
    run("head", "push", folder, tmp_path / "open.zip")
    assert leaks(tmp_path / "open.zip", WHOLE)
    run("head", "push", folder, tmp_path / target, "--anonymise")
    assert not leaks(tmp_path / target, WHOLE)
    back = pull_head(tmp_path / target, tmp_path / "back", accept=lambda _: True)
    own = load_head(folder)
    assert back.card["files"] == own.card["files"] and back.card["digest"] != own.card["digest"]
    assert back.card["training"]["n_donors"] == 2 == len(back.card["training"]["donors"])
    assert back.card_markdown()
    key = tmp_path / f"{target}.key.csv"
    assert Pseudonyms.open(key).original(back.card["training"]["donors"][0]) == "DOE^JANE_MRN-8833421"
    first = (tmp_path / target).read_bytes() if target.endswith("zip") else None
    run("head", "push", folder, tmp_path / "again.zip", "--anonymise", "--pseudonym-key", key)
    assert first is None or (tmp_path / "again.zip").read_bytes() == first


def test_the_python_function_keeps_no_name(ward: Ward, tmp_path: Path) -> None:
    head: Head = load_head(ward.head)
    options: dict[str, Any] = {"encoders": [Colours()], "regions": ward.regions, "anonymise": True}
    found = hm.predict(ward.slides / f"{STEM}.tif", head, **options)
    hm.write_composition(tmp_path / "map", found)
    assert not leaks(tmp_path / "map")
    keyed = [
        manifest_of(hm.predict(ward.slides / f"{STEM}.tif", head, pseudonym_key=tmp_path / "k.csv", **options))
        for _ in range(2)
    ]
    assert keyed[0] == keyed[1] and keyed[0]["name"] != manifest_of(found)["name"]


def test_without_it_no_way_to_a_file_is_written_that_nobody_needs(study: Path, open_maps: Path) -> None:
    assert not leaks(study / "labels of Jane Doe", ["zzoperator77"])
    assert not leaks(study / "features", ["zzoperator77"]) and not leaks(study / "evaluation", ["zzoperator77"])
    for path in open_maps.glob("*/status.json"):
        status = json.loads(path.read_text())
        assert {"source", "folder"}.isdisjoint(status)
        assert status["state"] == "failed" or "zzoperator77" not in path.read_text()
