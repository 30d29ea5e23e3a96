"""``histomix view``: which slides it finds, what it refuses, and what it writes."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.errors import InputError
from histomix.viewer import viewer_slides
from histomix.viewer.sources import _predicted_at

from .conftest import Job

RUN = CliRunner()


@pytest.fixture(scope="module")
def made(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of one slide, and an evaluation of its section and another."""
    folder = tmp_path_factory.mktemp("made")
    facts = ["--features", job.features, "--labels", job.labels, "--heads", "ridge"]
    assert _run("evaluate", job.sheet, *facts, "--out", folder / "evaluation")[0] == 0
    assert _run("predict", job.image, "--mpp", 0.5, "--head", job.head, "--out", folder / "map")[0] == 0
    return folder


def _run(*words: object) -> tuple[int, str, str]:
    result = RUN.invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def _facts(page: Path) -> dict[str, Any]:
    found = re.search(r'id="facts">(.*)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1])


def _script(folder: Path, name: str) -> Any:
    text = (folder / f"{name}.js").read_text()
    return json.loads(text[text.index(",") + 1 : -1])


def test_maps_and_sections_become_one_folder(job: Job, made: Path, tmp_path: Path) -> None:
    words = ["view", made / "map", made / "evaluation", "--sheet", job.sheet, "--out", tmp_path / "viewer"]
    code, out, _ = _run(*words, "--title", "Ours", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["slides"] == [job.image.stem, "P1S1", "P2S1"]
    page = Path(facts["page"])
    shown = _facts(page)
    assert [slide["kind"] for slide in shown["slides"]] == ["Maps", *["Sections with labels"] * 2]
    assert shown["title"] == "Ours" and "Head ridge" in shown["slides"][1]["head"]
    # What stands in the folder is what was predicted and what was labelled.
    predicted = pd.read_csv(made / "evaluation" / "predictions" / "ridge" / "P2S1.csv", index_col=0).iloc[:, 2:]
    labels = pd.read_csv(job.labels / "P2S1.csv", index_col=0).reindex(predicted.index)
    third = page.parent / "data" / "s2"
    assert _script(third, "ids") == predicted.index.tolist()
    layer = _script(third, "type0")
    for part, table in (("value", predicted), ("label", labels[predicted.columns])):
        codes = np.frombuffer(base64.b64decode(layer[part]), "<u2")
        values = table.iloc[:, 0].to_numpy()
        np.testing.assert_allclose(
            codes / 65534 * layer["max"], np.clip(values, 0, None), atol=2 * layer["max"] / 65534
        )
    # Once more over the same folder: a viewer replaces a viewer.
    assert _run(*words, "--quiet")[0] == 0 and _facts(page)["title"] != "Ours"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{made}/nowhere"], "there is no such folder"),
        (["{made}/map"], "was not found. Name its file, or the folder it is in, with --slides"),
        (["{made}/evaluation"], "Name the cohort sheet"),
        (["{made}/map", "--slides", "{made}/nowhere"], "there is no such slide or folder"),
        (["{head}"], "neither a composition map nor an evaluation"),
        (["{made}/evaluation", "--sheet", "{sheet}", "--head", "none"], "no head 'none'"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_a_way_out(
    words: list[str], message: str, job: Job, made: Path, tmp_path: Path
) -> None:
    given = [word.format(made=made, head=job.head, sheet=job.sheet) for word in words]
    code, _, err = _run("view", *given, "--out", tmp_path / "viewer")
    assert code == 2 and message in " ".join(err.split())
    assert not (tmp_path / "viewer").exists()


def test_slides_beside_a_dicom_file_are_found(job: Job, made: Path, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    shutil.copy(job.image, tmp_path / "slides" / job.image.name)
    (tmp_path / "slides" / "other.dcm").write_bytes(b"another slide")
    with viewer_slides([made / "map"], slides=tmp_path / "slides") as (view,):
        assert view.slide.path == tmp_path / "slides" / job.image.name


def test_a_damaged_map_and_another_slide_are_refused(job: Job, made: Path, tmp_path: Path) -> None:
    name = job.image.stem
    shutil.copytree(made / "map", tmp_path / "map")
    (tmp_path / "map" / name / "composition.h5ad").write_bytes(b"not HDF5")
    with pytest.raises(InputError, match="damaged"), viewer_slides([tmp_path / "map"], [job.image]):
        pass
    other = tmp_path / job.image.name
    other.write_bytes(job.image.read_bytes() + b"more")
    with pytest.raises(InputError, match="fingerprint differs"), viewer_slides([made / "map"], [other]):
        pass


def test_slides_are_found_where_they_were_predicted(job: Job, tmp_path: Path) -> None:
    """Two of one name, in folders of their own; and a file of DICOM beside them makes the folder no slide."""
    slides = tmp_path / "slides"
    for folder in (slides, slides / "second"):
        folder.mkdir()
        shutil.copy(job.image, folder / job.image.name)
    (slides / "one.dcm").write_bytes(b"\0" * 128 + b"DICM")
    code, _, err = _run("predict", slides, "--mpp", 0.5, "--head", job.head, "--out", tmp_path / "maps")
    assert code == 1 and "one.dcm" in err
    told = json.loads((tmp_path / "maps" / job.image.stem / "status.json").read_text(encoding="utf-8"))
    assert told["path"] == f"../../slides/{job.image.name}", "from its own folder, whoever looks"
    stem = job.image.stem
    # Without a word of where they are, and with it.
    for words in (["maps"], ["maps", "--slides", slides]):
        place, *more = words
        code, out, err = _run("view", tmp_path / place, *more, "--out", tmp_path / "viewer", "--json")
        assert code == 0, err
        assert json.loads(out)["slides"] == [stem, f"second__{stem}"]
    # The word of a map that came from elsewhere leads to no file beyond the folder above its own.
    one = tmp_path / "maps" / stem
    assert _predicted_at(one) == slides / job.image.name
    for path in ("../../../x/secret.svs", str(job.image)):
        beyond = tmp_path.parent / "x" / "secret.svs"
        beyond.parent.mkdir(exist_ok=True)
        beyond.write_bytes(b"x")
        (one / "status.json").write_text(json.dumps({**told, "path": path}), encoding="utf-8")
        assert (one / path).resolve().exists() and _predicted_at(one) is None
