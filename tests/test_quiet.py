"""Nothing goes out and nothing is left behind: every verb is watched, by what Python is asked for and by the kernel."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import typer

import histomix as hm
from histomix.cli.app import app
from histomix.cli.export import Format
from histomix.datasets import catalogue

from .conftest import Job
from .extras import extra_module, needs_extra
from .fake_hub import Hub, fake_hub
from .foreign_features import Tiles, trident
from .watching import Scratch, Seen, strace, watch

Words = Sequence[object]


def verbs(program: typer.Typer, before: str = "") -> set[str]:
    """Every verb of the program, and of its groups (``head push``)."""
    found = set()
    for one in program.registered_commands:
        found.add(f"{before}{one.name or one.callback.__name__}")  # type: ignore[union-attr]
    for group in program.registered_groups:
        inner = group.typer_instance
        found |= verbs(inner, f"{before}{group.name or inner.info.name} ")
    return found


def _write_foreign(job: Job, folder: Path) -> None:
    """Our features of the phantom, as TRIDENT would have them."""
    for name, table in hm.read_features(job.features).items():
        centres, keys = table.obsm["spatial"], np.asarray(table.obs_names, object)
        trident(folder / f"{name}.h5", Tiles(name, np.asarray(table.X), centres, 224.0, keys))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server of a folder on the loopback: the address that the user names."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with fake_hub() as running:
        yield running


def plan_of(job: Job, out: Path, address: str, hub: str) -> dict[str, list[Words]]:
    """Every verb on the phantom, each writing to its folder of ``out``."""
    cells = job.sheet.parent / "truth" / f"{job.image.stem}.cells.csv.gz"
    image, maps, evaluation = job.image, out / "predict" / job.image.stem, out / "evaluate"
    table = ["--features", job.features, "--labels", job.labels]
    repository = "hf://us/head"
    foreign = job.features.parent / "foreign"
    taken = ["--endpoint", hub, "--accept-licence"]
    return {
        "init": [["init", job.sheet.parent, "--out", out / "init.csv"]],
        # What it does beyond a plan, `demo` does too.
        "run": [["run", job.sheet, "--reference", job.reference, "--dry-run", "--out", out / "run"]],
        "inspect": [["inspect", job.sheet], ["inspect", image]],
        "label": [
            ["label", job.sheet, "--reference", job.reference, "--out", out / "label"],
            ["label", job.sheet, "--method", "nnls", "--reference", job.reference, "--out", out / "label-nnls"],
        ],
        "embed": [["embed", job.sheet, "--out", out / "embed"]],
        "import-features": [
            ["import-features", foreign, "--sheet", job.sheet, "--encoder", "builtin", "--out", out / "import"],
        ],
        "train": [["train", job.sheet, *table, "--head", "ridge", "--out", out / "train"]],
        "evaluate": [["evaluate", job.sheet, *table, "--heads", "ridge", "--out", evaluation]],
        "predict": [
            ["predict", image, "--head", job.head, "--out", out / "predict"],
            ["predict", f"{address}/slide.tif", "--head", job.head, "--out", out / "predict-remote"],
        ],
        "score": [["score", maps, "--cells", cells, "--out", out / "score"]],
        "cohort": [["cohort", out / "predict", "--out", out / "cohort"]],
        "report": [["report", evaluation, job.labels, job.features, job.head, maps, "--out", out / "report"]],
        "view": [["view", out / "predict", evaluation, "--sheet", job.sheet, "--slides", image, "--out", out / "view"]],
        "export": [
            ["export", out / "predict", "--to", form.value, "--out", out / f"export-{form.value}"] for form in Format
        ],
        "benchmark": [
            [
                "benchmark",
                job.sheet,
                "--heads",
                "mean",
                "--labels",
                job.labels,
                "--no-nuclei",
                "--out",
                out / "benchmark",
            ]
        ],
        "plan": [["plan", job.sheet, *table, "--out", out / "plan"]],
        # What it does beyond the list, `fetch`, `label`, `embed` and `evaluate` do too.
        "reproduce": [["reproduce", "--list"]],
        "head list": [["head", "list"]],
        "head push": [
            ["head", "push", job.head, out / "head.zip"],
            ["head", "push", job.head, repository, "--endpoint", hub, "--yes"],
        ],
        "head show": [["head", "show", out / "head.zip"]],
        "head pull": [
            ["head", "pull", out / "head.zip", "--out", out / "pulled", "--accept-licence"],
            ["head", "pull", repository, "--out", out / "pulled-hub", *taken],
        ],
        "encoders": [["encoders"]],
        "doctor": [["doctor"]],
        "fetch": [["fetch", "hest:TENX95", "--mirror", address], ["fetch", "hest:TENX95", "--mirror", address]],
        "demo": [["demo", "--cohort", "phantom", "--out", out / "demo"]],
    }


@dataclass(frozen=True)
class Watched:
    """What each verb did, with the folders it did it in."""

    seen: dict[str, list[Seen]]
    said: str
    scratch: Scratch
    out: Path
    before: dict[Path, float]


def stamps(folder: Path) -> dict[Path, float]:
    """When each file of a folder was written."""
    return {path: path.stat().st_mtime for path in folder.rglob("*")}


def serve_hest(folder: Path) -> None:
    """The sample of HEST-1k that `fetch` is asked for: it need not be one that can be read."""
    base = folder / "huggingface.co" / "datasets" / "MahmoodLab" / "hest" / "resolve" / "main"
    for part in catalogue.Hest("TENX95").parts:
        path = base / part.format("TENX95")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"patient": "P1"}))


@pytest.fixture(scope="module")
def watched(small_job: Job, server: tuple[str, Path], hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """All verbs, one after the other."""
    root = tmp_path_factory.mktemp("watched")
    address, served = server
    serve_hest(served)
    shutil.copy(small_job.image, served / "slide.tif")
    scratch, out = Scratch.made(root / "scratch"), root / "out"
    out.mkdir()
    plan = plan_of(small_job, out, address, hub.endpoint)
    _write_foreign(small_job, small_job.features.parent / "foreign")
    before = stamps(small_job.sheet.parent.parent)
    found = iter(watch(scratch, [words for commands in plan.values() for words in commands]))
    seen = {verb: [next(found) for _ in commands] for verb, commands in plan.items()}
    return Watched(seen, (scratch.root / "said.txt").read_text(), scratch, out, before)


OUTSIDE = """
import ctypes, os, socket
from pathlib import Path
(Path.home() / "by-python").write_text("x")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.connect(("192.0.2.1", 9))
c = ctypes.CDLL(None)
os.close(c.open(os.fsencode(Path.home() / "native"), os.O_WRONLY | os.O_CREAT, 0o600))
raw = (2).to_bytes(2, "little") + (9).to_bytes(2, "big") + bytes([192, 0, 2, 2]) + bytes(8)
c.connect(c.socket(2, 2, 0), raw, 16)
"""


def test_the_watchers_see_python_and_native_code(tmp_path: Path) -> None:
    """Datagram sockets, which send nothing by being connected."""
    scratch = Scratch.made(tmp_path / "scratch")
    (seen,) = watch(scratch, script=OUTSIDE)
    assert {path.name for path in scratch.files()} == {"by-python", "native"}
    assert scratch.home / "by-python" in seen.outside(scratch.tmp) and "192.0.2.1" in seen.beyond_loopback()
    if strace():
        assert scratch.home / "native" in seen.outside(scratch.tmp) and "192.0.2.2" in seen.beyond_loopback()


VERBS = sorted(verbs(app))
#: Verbs of which some command needs a library of an extra; without it that one ends with an error, as quietly.
IN_EXTRAS = {"export": "spatialdata", "fetch": "aiohttp", "predict": "aiohttp"}


def absent(verb: str) -> bool:
    """Whether a library that the verb is run with is not installed."""
    return verb in IN_EXTRAS and importlib.util.find_spec(IN_EXTRAS[verb]) is None


def test_every_verb_is_watched() -> None:
    plan = plan_of(Job(*[Path("/x")] * 7), Path("/out"), "", "")
    assert set(plan) == set(VERBS), "a new verb must be run in plan_of, so that it is watched"


@pytest.mark.once
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_calls_nobody_that_was_not_named(watched: Watched, verb: str) -> None:
    for seen in watched.seen[verb]:
        # Two donors are too few to plan by.
        assert seen.code in {0, 2 if verb in {"fetch", "plan"} else 0, 1 if absent(verb) else 0}, watched.said
        assert not seen.beyond_loopback()


@pytest.mark.once
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_writes_to_its_out_and_to_the_cache(watched: Watched, verb: str) -> None:
    scratch = watched.scratch
    for seen in watched.seen[verb]:
        # What is written to the folder of temporary files is gone in the end (below).
        stray = seen.outside(watched.out, scratch.cache, scratch.tmp) - {scratch.cache.parent}
        assert not stray


@pytest.mark.once
def test_nothing_is_left_but_the_results_and_the_cache(watched: Watched, small_job: Job) -> None:
    scratch = watched.scratch
    left = {path for path in scratch.files() if not path.is_relative_to(scratch.cache)}
    assert left == {scratch.cache.parent}
    assert stamps(small_job.sheet.parent.parent) == watched.before, "the inputs were written to"
    assert (scratch.cache.stat().st_mode & 0o777) == 0o700
    fetched = set() if absent("predict") else {"slides"}
    assert {path.name for path in scratch.cache.iterdir()} == {
        *("libraries", "nuclei", "hest-TENX95", "slide-digests"),
        *fetched,
    }


# --- other ways in


IN_PYTHON = """
import multiprocessing
import numpy as np
import histomix as hm
from histomix.prediction.cluster.local import local_cluster

encode = "__import__('histomix').load_encoder(threads=1).dim"
assert hm.load_encoder(threads=1).embed(np.zeros((1, 112, 112, 3), np.uint8)).shape == (1, eval(encode))
with multiprocessing.get_context("spawn").Pool(1) as pool:
    assert pool.apply(eval, (encode,)) == eval(encode)
with local_cluster(1, dashboard=None) as client:
    assert client.submit(eval, encode).result() == eval(encode)
"""


def test_a_python_program_and_its_workers_are_as_quiet(tmp_path: Path) -> None:
    """Whatever the environment says: a promise of silence must not lean on it."""
    extra_module("cluster", "distributed")
    scratch = Scratch.made(tmp_path / "scratch")
    (seen,) = watch(scratch, script=IN_PYTHON, ORT_DISABLE_TELEMETRY="0", HF_HUB_DISABLE_TELEMETRY="0")
    assert not seen.beyond_loopback()
    assert not seen.outside(scratch.tmp)
    assert scratch.files() == set()


IN_OPENVINO = """
import numpy as np
import histomix as hm
from histomix.encoders.runtimes import optimise

encoder = optimise(hm.load_encoder(threads=1), "openvino", 1)
assert encoder.embed(np.zeros((1, 112, 112, 3), np.uint8)).shape == (1, encoder.dim) and "OpenVINO" in encoder.runtime
"""


@needs_extra("openvino", "openvino")
def test_openvino_is_as_quiet(tmp_path: Path) -> None:
    """Its import would write the id of a client, and look an address up."""
    found = importlib.util.find_spec("openvino")
    assert found is not None and found.origin is not None
    scratch = Scratch.made(tmp_path / "scratch")
    place = f"import sys; sys.path.append({str(Path(found.origin).parents[1])!r})"
    (seen,) = watch(scratch, script=place + IN_OPENVINO)
    assert seen.code == 0
    assert not seen.beyond_loopback()
    assert not seen.outside(scratch.cache, scratch.tmp) - {scratch.cache.parent}
    assert {path for path in scratch.files() if not path.is_relative_to(scratch.cache)} <= {scratch.cache.parent}


def test_workers_of_a_prediction_are_as_quiet(job: Job, tmp_path: Path) -> None:
    extra_module("cluster", "distributed")
    scratch, out = Scratch.made(tmp_path / "scratch"), tmp_path / "out"
    (seen,) = watch(scratch, [["predict", job.image, "--head", job.head, "--workers", 1, "--out", out]])
    assert seen.code == 0 and (out / job.image.stem / "composition.csv").is_file()
    assert not seen.beyond_loopback()
    assert not seen.outside(out, scratch.cache, scratch.tmp) - {scratch.cache.parent}
    assert {path for path in scratch.files() if not path.is_relative_to(scratch.cache)} == {scratch.cache.parent}


def test_nobody_asks_the_cloud_for_credentials(job: Job, server: tuple[str, Path], tmp_path: Path) -> None:
    """A bucket without credentials: the store that was named is all that may be asked."""
    extra_module("remote", "s3fs")
    scratch = Scratch.made(tmp_path / "scratch")
    store = {"AWS_ENDPOINT_URL": server[0], "AWS_DEFAULT_REGION": "x"}
    words = ["predict", "s3://bucket/a.svs", "--head", job.head, "--out", tmp_path / "out"]
    (seen,) = watch(scratch, [words], **store)
    assert seen.code == 1 and "credentials" in (scratch.root / "said.txt").read_text()
    assert not seen.beyond_loopback()


IN_TORCH = """
from histomix.common.quiet import settle_libraries
settle_libraries()  # as the command line does
import numpy as np
import histomix as hm
from histomix.encoders.runtimes import optimise

encoder = optimise(hm.load_encoder("lunit-s16", weights={weights!r}, threads=1), threads=1)
assert encoder.embed(np.zeros((1, 224, 224, 3), np.uint8)).shape == (1, 384)
"""


def test_an_encoder_in_torch_is_as_quiet(tmp_path: Path) -> None:
    """Its weights are read, its graph is exported, and runtimes race."""
    import timm
    import torch
    from safetensors.torch import save_file

    from histomix.encoders import card

    weights = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    model = timm.create_model(card("lunit-s16").architecture, num_classes=0, **card("lunit-s16").arguments)
    save_file(model.state_dict(), weights)
    scratch = Scratch.made(tmp_path / "scratch")
    (seen,) = watch(scratch, script=IN_TORCH.format(weights=str(weights)))
    exported = list((scratch.cache / "onnx").glob("*.onnx")) if (scratch.cache / "onnx").is_dir() else []
    assert seen.code == 0 and bool(exported) == (importlib.util.find_spec("onnx") is not None)
    assert not seen.beyond_loopback()
    assert not seen.outside(scratch.cache, scratch.tmp) - {scratch.cache.parent}
    assert {path for path in scratch.files() if not path.is_relative_to(scratch.cache)} == {scratch.cache.parent}


# --- what the command line sets for libraries


def settled(home: Path, **given: str) -> dict[str, str]:
    """The environment that the command line leaves to libraries."""
    code = "import json, os; from histomix.common.quiet import settle_libraries as settle; settle();"
    code += "print(json.dumps(dict(os.environ)))"
    least = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SYSTEMROOT") if name in os.environ}
    environment = {**least, "HOME": str(home), **given}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


def test_the_users_own_settings_and_weights_stay(tmp_path: Path) -> None:
    ours = tmp_path / ".cache" / "histomix" / "libraries"
    found = settled(tmp_path)
    assert found["MPLCONFIGDIR"] == str(ours / "matplotlib") and found["HF_HOME"] == str(ours / "huggingface")
    assert found["HF_TOKEN_PATH"] == str(tmp_path / ".cache" / "huggingface" / "token")
    assert "HF_HUB_CACHE" not in found and "MATPLOTLIBRC" not in found
    assert found["AWS_EC2_METADATA_DISABLED"] == "true"

    (tmp_path / ".cache" / "huggingface" / "hub").mkdir(parents=True)
    (tmp_path / ".cache" / "torch" / "hub").mkdir(parents=True)
    style = tmp_path / ".config" / "matplotlib" / "matplotlibrc"
    style.parent.mkdir(parents=True)
    style.touch()
    found = settled(tmp_path, HF_HOME="/theirs", AWS_EC2_METADATA_DISABLED="false", NUMBA_CACHE_DIR="/numba")
    assert (found["HF_HOME"], found["NUMBA_CACHE_DIR"]) == ("/theirs", "/numba")
    assert "HF_TOKEN_PATH" not in found and "HF_HUB_CACHE" not in found
    assert found["AWS_EC2_METADATA_DISABLED"] == "false"
    assert found["MATPLOTLIBRC"] == str(style)
    found = settled(tmp_path, HISTOMIX_CACHE="~/mine")
    assert found["HF_HUB_CACHE"] == str(tmp_path / ".cache" / "huggingface" / "hub")
    assert found["TORCH_HOME"] == str(tmp_path / ".cache" / "torch")
    assert found["NUMBA_CACHE_DIR"] == str(tmp_path / "mine" / "libraries" / "numba")


def test_the_current_folder_sets_nothing_that_runs(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 7\n")
    (tmp_path / "multiprocessing.py").write_text("raise SystemExit(9)\n")
    child = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import multiprocessing']))"
    for script in (
        "import matplotlib; assert matplotlib.rcParams['text.usetex'] is False",
        child,
    ):
        words = f"from histomix.common.quiet import settle_libraries; settle_libraries(); {script}"
        (tmp_path / "home").mkdir(exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "src"), "PYTHONSAFEPATH": ""}
        environment["HOME"] = str(tmp_path / "home")
        (tmp_path / "script").mkdir(exist_ok=True)
        (tmp_path / "script" / "run.py").write_text(words)
        command = [sys.executable, str(tmp_path / "script" / "run.py")]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_cache_that_cannot_be_used_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    found = settled(tmp_path, HISTOMIX_CACHE=str(tmp_path / "cache"), TMPDIR=str(tmp_path / "tmp"))
    assert Path(found["MPLCONFIGDIR"]).is_relative_to(tmp_path / "tmp")
    assert not list((tmp_path / "cache").iterdir()) and not list((tmp_path / "tmp").iterdir())


def test_openvino_comes_without_what_sends(tmp_path: Path) -> None:
    """Its telemetry has no switch: the module must not load, and openvino then goes on without it."""
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('it was loaded')")
    (tmp_path / "openvino.py").write_text(
        "try:\n    import openvino_telemetry\n    silent = False\nexcept ImportError:\n    silent = True\n"
    )
    code = "from histomix.common.quiet import import_openvino; assert import_openvino().silent"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True)
