"""The commands as a user types them: their files, their words, their exit codes."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.cli.session import session

from .command_line import histomix
from .conftest import Job

RUN = CliRunner()


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    """Words, files and exit codes are the same whatever the number of spots."""
    return small_job


def test_the_whole_job_by_commands(job: Job, tmp_path: Path) -> None:
    root = tmp_path
    label = ["label", job.sheet, "--method", "poisson", "--reference", job.reference, "--out", root / "labels"]
    code, out, _ = histomix(*label, "--json")
    assert code == 0 and json.loads(out)["unit"] == "proportion"
    labels = pd.read_csv(root / "labels" / "P1S1.csv", index_col=0)
    assert labels.index.name == "spot" and labels.sum(axis=1).sub(1).abs().max() < 1e-6

    # What is embedded already is kept; in a copy, as the manifest says so and others read it.
    shutil.copytree(job.features, root / "features")
    code, out, _ = histomix("embed", job.sheet, "--out", root / "features", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["ok"] and facts["dim"] > 100

    evaluate = ["evaluate", job.sheet, "--features", job.features, "--labels", root / "labels", "--heads", "ridge"]
    code, out, _ = histomix(*evaluate, "--out", root / "evaluation")
    assert code == 0 and "donor folds" in out and "ridge" in out
    metrics = pd.read_csv(root / "evaluation" / "metrics.csv")
    contract = ["head", "protocol", "fold", "donor", "section", "cell_type", "metric", "value"]
    assert list(metrics.columns[:8]) == contract
    assert set(metrics["head"]) == {"labels", "mean", "ridge", "nuclei", "section mean (oracle)"}
    assert set(metrics.loc[metrics["head"] == "labels", "metric"]) == {"ceiling"}
    assert (root / "evaluation" / "predictions" / "ridge" / "P2S1.csv").is_file()

    train = ["train", job.sheet, "--features", job.features, "--labels", root / "labels", "--head", "mlp"]
    code, out, _ = histomix(*train, "--out", root / "head", "--json")
    card = json.loads(out)["card"]
    assert code == 0 and card == json.loads((root / "head" / "card.json").read_text())
    assert list((root / "head").glob("*.safetensors"))

    predict = ["predict", job.image, "--head", root / "head", "--mpp", "0.5", "--at", job.spots]
    code, out, _ = histomix(*predict, "--out", root / "maps", "--json")
    assert code == 0 and json.loads(out)["slides"][0]["state"] == "done"
    table = pd.read_csv(root / "maps" / job.image.stem / "composition.csv")
    assert list(table.columns[:3]) == ["spot", "x_px", "y_px"]
    assert {"novelty", "read_ok", *card["cell_types"]} <= set(table.columns)

    code, out, _ = histomix("report", root / "evaluation", job.features, root / "maps", "--out", root / "report")
    assert code == 0 and str(root / "report" / "index.html") in out


def test_the_same_seed_gives_the_same_head(job: Job, tmp_path: Path) -> None:
    train = ["train", job.sheet, "--features", job.features, "--labels", job.labels, "--head", "mlp", "--threads", "1"]
    digests = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        code, out, _ = histomix(*train, "--seed", seed, "--out", tmp_path / name, "--json")
        assert code == 0
        digests.append(json.loads(out)["card"]["files"]["weights.safetensors"])
    assert digests[0] == digests[1] != digests[2]


def test_refused_input_exits_with_2_and_one_message(job: Job, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    pd.read_csv(job.sheet).rename(columns={"donor": "doner"}).to_csv(sheet, index=False)
    code, out, err = histomix("embed", sheet, "--out", tmp_path / "features")
    assert code == 2 and out == ""
    assert err.startswith("error: ") and "doner" in err and "Traceback" not in err
    assert not (tmp_path / "features").exists()

    code, out, err = histomix("label", job.sheet, "--out", tmp_path / "labels", "--json")
    assert code == 2 and "reference" in json.loads(out)["error"]["what"]

    code, _, err = histomix("embed", job.sheet, "--encoder", "univ", "--out", tmp_path / "features")
    assert code == 2 and "uni" in err
    assert histomix("nonsense")[0] == 2
    assert histomix("label")[0] == 2


def test_one_failed_slide_exits_with_1_and_the_rest_is_done(job: Job, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.tif", tmp_path / "good.tif"
    bad.write_bytes(job.image.read_bytes()[:20_000])
    shutil.copy(job.image, good)
    code, out, err = histomix("predict", bad, good, "--head", job.head, "--mpp", 0.5, "--out", tmp_path / "maps")
    assert code == 1
    assert "failed: " in err and "bad.tif" in err
    assert "good.tif" in out and (tmp_path / "maps" / "good" / "composition.csv").is_file()


def test_a_truncated_slide_is_told_in_one_line(job: Job, tmp_path: Path) -> None:
    """From a process of its own: libraries that tell of the damage by their logs would do so on its stderr."""
    slide = tmp_path / "cut.tif"
    # The table of the pyramid stands at the end of these files.
    slide.write_bytes(job.image.read_bytes()[:40_000])
    program = [sys.executable, "-c", "from histomix.cli import main; main()", "predict", slide]
    found = subprocess.run(
        [*program, "--head", job.head, "--out", tmp_path / "maps", "--quiet"], capture_output=True, text=True
    )
    assert found.returncode == 1 and found.stdout == ""
    assert found.stderr.count("\n") == 1 and "cut.tif" in found.stderr and "truncated" in found.stderr


HOSTILE = "\x1b]0;pwned\x07\x1b[2Ja\u202eb.png"


@pytest.mark.skipif(sys.platform == "win32", reason="no file can have such a name there")
def test_a_name_orders_the_terminal_nothing(job: Job, tmp_path: Path) -> None:
    """Names of slides come from strangers, and are shown when all goes well, in remarks and in errors."""
    (tmp_path / HOSTILE).write_bytes(job.image.read_bytes())
    (tmp_path / f"broken {HOSTILE}").write_bytes(b"no picture")
    more = ("--head", job.head, "--out", tmp_path / "out")
    for words in (("predict", tmp_path, "--mpp", 0.5, *more), ("predict", tmp_path / f"x{HOSTILE}", *more)):
        code, said, told = histomix(*words)
        assert code and "pwned" in told and not {"\x1b", "\x07", "\u202e"} & {*said, *told}
    assert "pwned" in RUN.invoke(app, ["inspect", str(tmp_path / HOSTILE)]).output


def test_a_name_with_brackets_is_shown_beside_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    with session(False, False) as run:
        run.progress("slide [/b] [red]1.svs", 1, 2)
    assert "slide [/b] [red]1.svs" in terminal.getvalue()


def test_encoders_and_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = histomix("encoders", "--json")
    names = {card["name"]: card for card in json.loads(out)["encoders"]}
    assert code == 0 and {"builtin", "uni", "uni2-h", "virchow2", "h-optimus-0", "prov-gigapath"} <= set(names)
    assert names["builtin"]["loadable_offline"]
    code, out, _ = histomix("doctor", "--encoder", "builtin")
    assert code == 0 and "ready" in out
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    code, out, _ = histomix("doctor", "--encoder", "uni")
    assert code == 1 and "->" in out
    assert histomix("doctor")[0] == 0


def test_help_and_version_from_a_fresh_process() -> None:
    program = [sys.executable, "-c", "from histomix.cli import main; main()"]
    found = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True)
    for verb in ("demo", "doctor", "encoders", "label", "embed", "evaluate", "train", "predict", "report"):
        assert verb in found.stdout
    version = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("histomix ")


@pytest.mark.once
def test_a_hub_encoder_from_a_local_file_beside_the_built_in_one(
    small_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real architecture, random weights in the hub's format: embed, join with the built-in features, predict."""
    monkeypatch.setattr("histomix.embedding.other_scales.SAMPLE", 2)  # a large network, and not what is asked here
    import timm
    import torch
    from safetensors.torch import save_file

    from histomix.encoders import card

    name = "lunit-s16"
    torch.manual_seed(0)
    model = timm.create_model(card(name).architecture, num_classes=0, **card(name).arguments)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    embed = ["embed", small_job.sheet, "--encoder", name, "--weights", tmp_path, "--out", tmp_path / "features"]
    code, _, err = histomix(*embed, "--runtime", "torch")
    assert code == 0, err
    both = ["--features", small_job.features, "--features", tmp_path / "features", "--labels", small_job.labels]
    code, out, err = histomix("train", small_job.sheet, *both, "--head", "ridge", "--out", tmp_path / "head", "--json")
    assert code == 0, err
    stamped = json.loads(out)["card"]
    assert [encoder["name"] for encoder in stamped["encoders"]] == ["builtin", name]
    assert "Lunit" in stamped["encoder_licences"][1]["licence"]
    predict = [
        "predict",
        small_job.image,
        "--head",
        tmp_path / "head",
        "--at",
        small_job.spots,
        "--out",
        tmp_path / "maps",
    ]
    code, _, err = histomix(*predict, "--weights", tmp_path / "model.safetensors")
    assert code == 0, err
    assert len(pd.read_csv(tmp_path / "maps" / small_job.image.stem / "composition.csv")) == len(
        pd.read_csv(small_job.labels / "P1S1.csv")
    )
    code, _, err = histomix(*predict, "--weights", tmp_path, "--weights", tmp_path)
    assert code == 2 and "2 weights were given, and 1" in err


def test_the_package_runs_as_a_program() -> None:
    said = subprocess.run([sys.executable, "-m", "histomix", "predict"], capture_output=True, text=True, check=False)
    assert said.returncode == 2 and "Usage: histomix predict" in said.stderr
