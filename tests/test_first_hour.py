"""What stops people in the first hour: each was met, and each is told and mended in words."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.cli.examples import EXAMPLES
from histomix.cli.panels import PANELS
from histomix.cli.session import in_options, session
from histomix.errors import InputError
from histomix.prediction import passed_over

from .command_line import histomix
from .conftest import Job
from .test_cli_options import VERBS

pytestmark = pytest.mark.once

RUN = CliRunner()


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    return small_job


@pytest.fixture(scope="module")
def slides(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide at two depths under one name, a broken one, pictures beside them and a kind that is not read."""
    folder = tmp_path_factory.mktemp("slides") / "slides"
    (folder / "more").mkdir(parents=True)
    other = next(path for path in job.image.parent.iterdir() if path != job.image)
    shutil.copy(job.image, folder / "one.tif")
    shutil.copy(other, folder / "more" / "one.tif")
    (folder / "cut.tif").write_bytes(job.image.read_bytes()[:20_000])
    Image.new("RGB", (64, 48), "white").save(folder / "label.jpg")
    (folder / "scan.vsi").write_bytes(b"II*\0")
    (folder / "gone.tif").symlink_to(folder / "nowhere.tif")
    return folder


@pytest.fixture(scope="module")
def maps(job: Job, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """Maps of them, what was said, and the same for a program."""
    out = tmp_path_factory.mktemp("maps") / "maps"
    words = ["predict", slides, "--head", job.head, "--out", out]
    code, said, _ = histomix(*words)
    assert code == 1
    return out, said, json.loads(histomix(*words, "--json")[1])


def test_predict_says_what_became_of_every_file_of_a_folder(
    slides: Path, maps: tuple[Path, str, dict[str, Any]]
) -> None:
    _, said, told = maps
    assert "found 3, done 2, failed 1, passed over 3" in said
    assert "passed over: label.jpg (a JPEG or PNG beside other slides" in said and "scan.vsi (a kind of image" in said
    assert (told["found"], told["failed"]) == (3, 1)
    assert "gone.tif (a link to a file that is not there)" in said
    assert {Path(one["path"]).name for one in told["passed_over"]} == {"label.jpg", "gone.tif", "scan.vsi"}
    assert [path.name for path, _ in passed_over([slides])] == ["label.jpg", "gone.tif", "scan.vsi"]


def test_the_viewer_finds_slides_at_any_depth_and_tells_two_of_one_name_apart(
    slides: Path, maps: tuple[Path, str, dict[str, Any]], tmp_path: Path
) -> None:
    viewer = hm.write_viewer(maps[0], tmp_path / "viewer", slides=slides, mpp=2, progress=False)
    assert sorted(viewer.slides) == ["more__one", "one"]


def test_slides_that_failed_stand_in_the_report(maps: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> None:
    page = hm.write_report(maps[0], tmp_path / "report", progress=False).read_text(encoding="utf-8")
    assert "Not predicted: 1 slide<" in page and "<strong>cut</strong>: " in page and "could not be predicted" in page
    page = hm.write_report(maps[0], tmp_path / "private", anonymise=True, progress=False).read_text(encoding="utf-8")
    assert "Not predicted: 1 slide<" in page and "<strong>cut</strong>" not in page and "cut.tif" not in page


def test_a_report_is_titled_by_what_it_is_of(job: Job, maps: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> None:
    assert histomix("report", maps[0], job.head, "--out", tmp_path / "report")[0] == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    (tissue,) = hm.load_head(job.head).card["tissue"]
    assert f"<title>Cell types of {tissue}, read from H&amp;E: 3 slides</title>" in page


def test_a_scale_for_slides_without_one_does_not_go_before_a_slide_s_own(job: Job, tmp_path: Path) -> None:
    flat = tmp_path / "slides" / "flat.png"
    flat.parent.mkdir()
    with hm.open_slide(job.image) as slide:
        assert slide.mpp_of_file == 0.5
        Image.fromarray(slide.thumbnail(0.5)).save(flat)
    words = ["predict", job.image, flat, "--head", job.head, "--mpp", 0.69, "--out", tmp_path / "maps"]
    code, said, told = histomix(*words)
    assert code == 1 and "flat.png" in said and (tmp_path / "maps" / "flat" / "composition.csv").is_file()
    assert "says that it has 0.5 um per px, and 0.69 was given" in told and "--force-mpp" in told
    assert "is taken" not in told, "no warning that a refused scale would be used"
    code, said, _ = histomix(*words, "--force-mpp")
    assert code == 0 and "found 2, done 2" in said
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"slide,mpp\n{job.image},0.69\n", encoding="utf-8")  # named for this slide
    assert histomix("predict", sheet, "--head", job.head, "--out", tmp_path / "named")[0] == 0
    near = ["predict", job.image, "--head", job.head, "--mpp", 0.505, "--out", tmp_path / "near"]
    assert histomix(*near)[0] == 0


def test_a_head_in_an_archive_is_taken_first(job: Job, tmp_path: Path) -> None:
    assert histomix("head", "push", job.head, tmp_path / "head.zip")[0] == 0
    code, _, told = histomix("predict", job.image, "--head", tmp_path / "head.zip", "--out", tmp_path / "maps")
    assert code == 2 and f"histomix head pull {tmp_path / 'head.zip'} --out HEAD" in told and "train" not in told
    code, said, _ = histomix("head", "show", tmp_path / "head.zip")
    assert code == 0 and "8 cell types, in proportion: " in said and "T cells" in said
    assert re.search(r"tile: builtin, \d+ px at [0-9.]+ um per px", said)
    assert "trained on 2 donors, 2 sections, " in said
    assert "score: mean Pearson " in said


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("hf://lab/head", "histomix head pull hf://lab/head --out HEAD"),
        ("https://lab.org/head.zip", "histomix head pull https://lab.org/head.zip --out HEAD"),
        ("{head}/card.json", "is a file of a head, and a head is a folder. Give its folder: {head}."),
        ("{head}/weights.safetensors", "Give its folder: {head}."),
    ],
)
def test_what_is_no_folder_of_a_head_is_told(given: str, told: str, job: Job, tmp_path: Path) -> None:
    head = given.format(head=job.head)
    code, _, said = histomix("predict", job.image, "--head", head, "--out", tmp_path / "maps")
    assert code == 2 and told.format(head=job.head) in " ".join(said.split())


@pytest.mark.parametrize("cells", [150, 360])
def test_a_few_single_cells_without_types_are_no_cell_types(cells: int, job: Job, tmp_path: Path) -> None:
    genes = pd.read_csv(job.reference, index_col=0).index
    counts = np.random.default_rng(0).poisson(1.0, (cells, len(genes))).astype(np.float32)
    adata = AnnData(counts, obs=pd.DataFrame(index=[f"cell_{n}" for n in range(cells)]), var=pd.DataFrame(index=genes))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    code, _, told = histomix("label", job.sheet, "--reference", tmp_path / "cells.h5ad", "--out", tmp_path / "labels")
    assert code == 2 and f"has {cells} rows and no column 'cell_type'" in told and "(in Python" not in told


@pytest.mark.parametrize("turned", [True, False])
def test_counts_given_as_a_reference_are_told(turned: bool, job: Job, tmp_path: Path) -> None:
    counts = hm.read_cohort(job.sheet).section("P1S1").adata.to_df() + 1
    (counts.T if turned else counts).to_csv(tmp_path / "counts.csv")
    with pytest.raises(
        InputError, match=f"has spots of the section in its {'columns' if turned else 'rows'}"
    ) as caught:
        hm.label(job.sheet, reference=tmp_path / "counts.csv", progress=False)
    assert "it looks like counts" in str(caught.value)


def test_counts_with_silent_genes_look_like_counts_too(job: Job, tmp_path: Path) -> None:
    counts = hm.read_cohort(job.sheet).section("P1S1").adata.to_df()
    counts.iloc[:, 0] = 0
    counts.to_csv(tmp_path / "counts.csv")
    with pytest.raises(InputError, match=r"has keys of spots in its rows .* it looks like counts"):
        hm.label(job.sheet, reference=tmp_path / "counts.csv", progress=False)


def test_cells_that_pass_for_cell_types_are_told(job: Job, tmp_path: Path) -> None:
    genes = pd.read_csv(job.reference, index_col=0).index
    counts = np.random.default_rng(0).poisson(1.0, (300, len(genes))).astype(np.float32)
    names = pd.Index([f"cell_{n}" for n in range(300)])
    pd.DataFrame(counts.T, genes, names).to_csv(tmp_path / "cells.csv")
    with pytest.raises(InputError, match=r"300 columns of whole numbers .* looks like single cells"):
        hm.label(job.sheet, reference=tmp_path / "cells.csv", progress=False)
    each = AnnData(counts, obs=pd.DataFrame({"cell_type": names}, index=names), var=pd.DataFrame(index=genes))
    each.write_h5ad(tmp_path / "each.h5ad")
    with pytest.raises(InputError, match=r"300 cell types for 300 cells .* look like names of cells"):
        hm.label(job.sheet, reference=tmp_path / "each.h5ad", progress=False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("label", "{sheet}", "--reference", "{labels}"), "is a folder, not a file"),
        (("predict", "{image}", "--head", "{labels}"), "is a folder of labels by histomix, and no head"),
        (("predict", "{image}", "--head", "{features}"), "is a folder of features by histomix, and no head"),
        (("report", "{sheet}"), "is a file, and results are in folders"),
        (("view", "{sheet}"), "is a file, and results are in folders"),
    ],
)
def test_what_is_of_another_kind_says_what_it_is(words: tuple[str, ...], told: str, job: Job, tmp_path: Path) -> None:
    places = {"sheet": job.sheet, "labels": job.labels, "features": job.features, "image": job.image}
    code, _, said = histomix(*(word.format(**places) for word in words), "--out", tmp_path / "out")
    assert code == 2 and told in " ".join(said.split())


def test_a_head_in_an_archive_is_inspected(job: Job, tmp_path: Path) -> None:
    assert histomix("head", "push", job.head, tmp_path / "head.zip")[0] == 0
    code, said, _ = histomix("inspect", tmp_path / "head.zip")
    assert code == 0 and f"histomix head pull {tmp_path / 'head.zip'}" in " ".join(said.split())


@pytest.mark.parametrize(("goes_on", "words"), [(True, "goes on where it stopped"), (False, "begins anew")])
def test_an_interrupted_command_promises_what_it_keeps(
    goes_on: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BaseException) as caught, session(False, False, goes_on=goes_on):
        raise KeyboardInterrupt
    assert getattr(caught.value, "exit_code", None) == 130 and words in capsys.readouterr().err


def test_verbs_that_go_on_are_those_that_keep_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from .test_cli_options import needed

    found = set()
    for words, verb in VERBS.items():

        @contextmanager
        def watched(*_: Any, words: tuple[str, ...] = words, **more: Any) -> Iterator[None]:
            found.update({words[0]} if more.get("goes_on") else set())
            raise SystemExit(0)
            yield

        module = importlib.import_module(f"histomix.cli.{words[0].replace('-', '_')}")
        monkeypatch.setattr(module, "session", watched)
        RUN.invoke(app, [*words, *needed(verb)])
    kept = {"demo", "run", "label", "embed", "evaluate", "train", "predict", "benchmark", "fetch", "reproduce"}
    assert kept <= found and not found & {"report", "view", "export", "inspect", "init", "doctor", "head", "score"}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Give reference=FILE, or use", "Give --reference FILE, or use"),
        ('unit="cells per spot" and cells_per_spot=N', '--unit "cells per spot" and --cells-per-spot N'),
        ("with --cell-type-key (in Python cell_type_key)", "with --cell-type-key"),
        ("as in spots.h5ad#library=V1", "as in spots.h5ad#library=V1"),
        ("selected = 1, x=3, p=0.05", "selected = 1, x=3, p=0.05"),
    ],
)
def test_messages_name_options_on_the_command_line(said: str, shown: str) -> None:
    assert in_options(said) == shown


def test_one_is_one(job: Job, tmp_path: Path) -> None:
    table = pd.read_csv(job.sheet, dtype=str).head(1)
    for column in ("spots", "image"):
        table[column] = [str((job.sheet.parent / value).resolve()) for value in table[column]]
    table.to_csv(tmp_path / "sheet.csv", index=False)
    words = ["label", tmp_path / "sheet.csv", "--reference", job.reference, "--out", tmp_path / "labels"]
    _, said, _ = histomix(*words)
    assert " of 1 section labelled" in said and "1 sections" not in said


def test_embed_names_its_encoder(job: Job, tmp_path: Path) -> None:
    shutil.copytree(job.features, tmp_path / "features")
    _, said, _ = histomix("embed", job.sheet, "--out", tmp_path / "features")
    assert "features each (builtin)" in said


def test_a_thumbnail_asked_for_in_px_says_what_it_takes(job: Job) -> None:
    with hm.open_slide(job.image) as slide:
        with pytest.raises(InputError, match="um per px, not px"):
            slide.thumbnail(1000)
        assert max(slide.thumbnail(8).shape) > 10


def test_licences_are_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    from histomix.encoders import cards

    _, said, _ = histomix("encoders")
    for one in cards():
        assert one.licence in said, one.name


def test_a_benchmark_that_cannot_be_folded_embeds_nothing(job: Job, tmp_path: Path) -> None:
    table = pd.read_csv(job.sheet, dtype=str).assign(donor="one")
    for column in ("spots", "image"):
        table[column] = [str((job.sheet.parent / value).resolve()) for value in table[column]]
    table.to_csv(tmp_path / "sheet.csv", index=False)
    words = ["benchmark", tmp_path / "sheet.csv", "--labels", job.labels, "--out", tmp_path / "bench"]
    code, _, told = histomix(*words, "--heads", "ridge")
    assert code == 2 and "1 donor cannot make 2 folds" in told and not (tmp_path / "bench" / "features").exists()


def test_progress_for_programs_is_lines_of_json_on_stderr(job: Job, tmp_path: Path) -> None:
    words = ["label", job.sheet, "--reference", job.reference, "--out", tmp_path / "labels", "--json"]
    code, said, told = histomix(*words, "--progress", "json")
    events = [json.loads(line) for line in told.splitlines()]
    assert code == 0 and json.loads(said)["ok"] and {"progress"} <= {one["event"] for one in events}
    steps = [(one["done"], one["total"]) for one in events if one.get("task") == "label"]
    assert steps[0][1] == 2 and steps[-1] == (2, 2) and steps == sorted(steps)
    code, said, told = histomix("label", tmp_path / "none.csv", "--out", tmp_path / "l", "--progress", "json")
    (event,) = map(json.loads, told.splitlines())
    assert code == 2 and event["event"] == "error" and "there is no such file" in event["text"]
    assert histomix(*words)[2] == "" or "{" not in histomix(*words)[2], "the next command is not asked for them"


def test_every_verb_has_its_panel_and_an_example() -> None:
    shown = [verb for verbs in PANELS.values() for verb in verbs]
    assert {words[0] for words in VERBS} <= set(shown) and len(set(shown)) == len(shown)
    assert {" ".join(words) for words in VERBS} <= set(EXAMPLES)
    said = histomix("--help")[1]
    assert all(panel in said for panel in PANELS) and "Your own data: histomix init" in said


@pytest.mark.skipif(sys.platform == "win32", reason="the shell is asked for its completion")
def test_the_shell_completes_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "histomix pre")
    monkeypatch.setenv("_HISTOMIX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "histomix pre")
    monkeypatch.setenv("COMP_CWORD", "1")
    result = RUN.invoke(app, [], prog_name="histomix")
    assert "predict" in result.output
