"""``run``: the whole road for one's own data, planned, resumable, and with the words at its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.errors import InputError
from histomix.road import STEPS

from .conftest import Job
from .kills.killing import differences

RUN = CliRunner()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, few_pictures: None) -> list[tuple[str, ...]]:
    """Folds of mean and ridge without nuclei and space, and a ridge head: the road is what is tested."""
    from histomix.evaluation import evaluate
    from histomix.heads import train

    done: list[tuple[str, ...]] = []

    def evaluated(*given: Any, **more: Any) -> Any:
        done.append(("evaluation", more["folds"]))
        return evaluate(*given, **more, heads=["ridge"], nuclei=False, spatial=False)

    def trained(*given: Any, **more: Any) -> Any:
        done.append(("head",))
        return train(*given, **more, head="ridge")

    monkeypatch.setattr("histomix.evaluation.evaluate", evaluated)
    monkeypatch.setattr("histomix.heads.train", trained)
    return done


def subset(job: Job, folder: Path, sections: int, donor: str | None = None) -> Path:
    """A sheet of the first sections of the job, all of one donor where that is given."""
    table = pd.read_csv(job.sheet, dtype=str).head(sections)
    for column in ("spots", "image"):
        table[column] = [str((job.sheet.parent / value).resolve()) for value in table[column]]
    if donor is not None:
        table["donor"] = donor
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "sheet.csv", index=False)
    return folder / "sheet.csv"


@pytest.mark.once
def test_the_whole_road_and_again(small_job: Job, tmp_path: Path, quick: list[tuple[str, ...]]) -> None:
    words = ["run", str(small_job.sheet), "--reference", str(small_job.reference), "--out", str(tmp_path / "run")]
    result = RUN.invoke(app, words)
    assert result.exit_code == 0, result.output
    assert {*STEPS} <= {path.name for path in (tmp_path / "run").iterdir()}
    text = result.stdout
    assert text.startswith("plan for 2 sections of 2 donors") and text.index("  7 report") < text.index("\nlabels: ")
    assert "no --slides: the maps are of the slides in the sheet" in text and "with two donors" in text
    tail = text[text.index("How good: ") :]
    assert tail.startswith("How good: On donors that it had never seen, predictions correlate ")
    assert "Against what: No prediction can correlate better than" in tail and "Look at: " in tail
    assert f"Open: {tmp_path / 'run' / 'report' / 'index.html'} (report)" in tail
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "<title>Cell types of phantom, read from H&amp;E" in page and "On donors that it had never seen" in page
    assert 'href="../viewer/index.html"' in page
    assert quick == [("evaluation", "donor"), ("head",)]

    again = RUN.invoke(app, [*words, "--json"])
    told = json.loads(again.stdout)
    assert again.exit_code == 0 and quick == [("evaluation", "donor"), ("head",)], "nothing is fitted again"
    assert told["summary"]["how_good"] in tail and [step["name"] for step in told["plan"]["steps"]] == list(STEPS)

    (tmp_path / "run" / "head" / "card.json").write_text("{}", encoding="utf-8")  # somebody edited it
    assert RUN.invoke(app, words).exit_code == 0 and quick[2:] == [("head",)]
    weights = tmp_path / "run" / "head" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    labels = tmp_path / "run" / "evaluation" / "labels" / "P1S1.csv"
    labels.write_text(labels.read_text().replace("1", "2"))
    assert RUN.invoke(app, words).exit_code == 0 and quick[3:] == [("evaluation", "donor"), ("head",)]


def test_slides_that_fail_are_named_and_the_rest_is_done(
    small_job: Job, tmp_path: Path, quick: list[tuple[str, ...]]
) -> None:
    (tmp_path / "slides").mkdir()
    shutil.copy(small_job.image, tmp_path / "slides" / "whole.tif")
    (tmp_path / "slides" / "cut.tif").write_bytes(small_job.image.read_bytes()[:20_000])
    words = ["run", str(small_job.sheet), "--reference", str(small_job.reference), "--slides", str(tmp_path / "slides")]
    result = RUN.invoke(app, [*words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 1 and "failed: " in result.stderr and "cut.tif" in result.stderr
    assert "cut.tif will fail" in result.stdout and "1 slide failed: cut.tif" in result.stdout
    assert (tmp_path / "run" / "maps" / "whole" / "composition.csv").is_file()
    assert (tmp_path / "run" / "viewer" / "index.html").is_file()


@pytest.mark.parametrize(
    ("sections", "folds", "said"),
    [(2, "section", "all sections are of one donor (one)"), (1, "random", "there is one section")],
)
def test_with_one_donor_the_plan_says_what_is_possible(
    sections: int,
    folds: str,
    said: str,
    small_job: Job,
    tmp_path: Path,
    quick: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = (tmp_path / "report", tmp_path / "viewer")  # another test looks at them
    monkeypatch.setattr("histomix.road.walk._write_pages", lambda *_: pages)
    plans: list[str] = []
    sheet = subset(small_job, tmp_path, sections, "one")
    done = hm.run(sheet, tmp_path / "run", reference=small_job.reference, say=plans.append, progress=False)
    assert said in plans[0] and quick[0] == ("evaluation", folds)
    assert done.summary is not None
    assert ("No donor was unseen" if folds == "section" else "Nothing is known of another") in done.summary["how_good"]


def test_labels_of_the_sheet_are_taken_and_a_reference_goes_before_them(small_job: Job, tmp_path: Path) -> None:
    sheet = subset(small_job, tmp_path, 2)
    with pytest.raises(InputError, match="2 of 2 sections have no labels") as caught:
        hm.run(sheet, tmp_path / "run")
    assert "--reference" in str(caught.value) and not (tmp_path / "run").exists()
    table = pd.read_csv(sheet, dtype=str)
    table["labels"] = [str(small_job.labels / f"{name}.csv") for name in table["section"]]
    table["label_unit"] = "proportion"
    table.to_csv(sheet, index=False)
    own = hm.run(sheet, tmp_path / "run", dry_run=True).plan
    assert "as the sheet names them" in own.steps[0].what
    other = hm.run(sheet, tmp_path / "run", reference=small_job.reference, dry_run=True).plan
    assert "by poisson with reference.csv" in other.steps[0].what
    assert any("labels in the sheet (2 sections) are not used" in note for note in other.notes)


def test_slides_without_a_scale_are_told_before_the_work(small_job: Job, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "slides").mkdir()
    Image.new("RGB", (600, 600), "white").save(tmp_path / "slides" / "a.jpg")
    words = ["run", str(small_job.sheet), "--reference", str(small_job.reference), "--slides", str(tmp_path / "slides")]
    result = RUN.invoke(app, [*words, "--out", str(tmp_path / "run"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "1 slide without um per px will fail" in result.stdout and "a.jpg" in result.stdout
    assert "--mpp" in result.stdout and not (tmp_path / "run" / "labels").exists()
    assert (
        "will fail" not in RUN.invoke(app, [*words, "--out", str(tmp_path / "run"), "--dry-run", "--mpp", "1"]).stdout
    )


def test_all_sections_that_cannot_be_used_are_named_at_once(small_job: Job, tmp_path: Path) -> None:
    sheet = subset(small_job, tmp_path, 2)
    table = pd.read_csv(sheet, dtype=str)
    bad = tmp_path / "bad.tif"
    bad.write_bytes(small_job.image.read_bytes()[:20_000])
    table["image"] = [str(bad), ""]
    table.to_csv(sheet, index=False)
    result = RUN.invoke(
        app, ["run", str(sheet), "--reference", str(small_job.reference), "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 2 and "2 of its sections cannot be used" in result.stderr
    assert "P1S1: " in result.stderr and "P2S1: " in result.stderr and "has no image" in result.stderr


_PROGRAM = "import sys; from histomix.cli import main; sys.argv[0] = 'histomix'; main()"


def _start(words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _PROGRAM, *words]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_killed_in_every_step_the_same_command_ends_in_the_same_bytes(tmp_path: Path) -> None:
    sheet = hm.make_phantom(tmp_path / "phantom", seed=4, donors=2, size_um=(500, 500), progress=False)
    words = ["run", str(sheet), "--reference", str(sheet.parent / "reference.csv")]
    whole = _start([*words, "--out", str(tmp_path / "alone" / "run")])
    said, _ = whole.communicate()
    assert whole.returncode == 0, said
    out = tmp_path / "killed" / "run"
    record = out / "run.json"
    for step in STEPS:
        process = _start([*words, "--out", str(out)])
        begun = time.monotonic()
        # As soon as the step before is finished, and a little into the step.
        while process.poll() is None and time.monotonic() - begun < 300:
            finished = json.loads(record.read_bytes())["steps"] if record.is_file() else {}
            if STEPS.index(step) == 0 or STEPS[STEPS.index(step) - 1] in finished:
                time.sleep(0.3)
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    again = _start([*words, "--out", str(out)])
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert differences(tmp_path / "alone" / "run", out) == []


def test_a_slide_without_cells_to_be_seen_is_no_part_of_the_plan(small_job: Job, tmp_path: Path) -> None:
    """Of a scan at 30 um per px no tile is planned: the plan says that it will fail, and why."""
    slides, reference = tmp_path / "slides", small_job.reference
    slides.mkdir()
    Image.new("RGB", (900, 900), "white").save(slides / "far.png")
    plan = hm.run(small_job.sheet, tmp_path / "run", reference=reference, slides=[slides], mpp=30, dry_run=True).plan
    assert plan.notes[-1] == "far.png will fail: it has 30 um per px, 30 times coarser than what the encoder reads"
    (maps,) = [step for step in plan.steps if step.name == "maps"]
    assert maps.what.startswith("0 slides") and maps.mb == 0
