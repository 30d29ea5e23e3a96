"""One slide and many: kept, continued, locked, and what is said when something is wrong."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.errors import FeatureError, HeadError, InputError, SlideError
from histomix.heads import Head
from histomix.prediction import Model, Settings, SlideJob, SlideResult, SlideRun, predict_slides, slide_jobs
from histomix.prediction import maps as maps_module
from histomix.prediction import plan as plan_module
from histomix.prediction import slides as batch
from histomix.prediction.chunks import features_key
from histomix.prediction.job import BATCH_SIZE
from histomix.prediction.plan import TILE, Plan
from histomix.progress import progress_bars
from histomix.provenance import digest_file
from histomix.slides import open_slide

from .conftest import manifest_of
from .slide_files import block_mean, write_pyramid
from .slide_heads import Colours, colour_head, tissue_pixels, tissue_slide

OUTPUTS = ("composition.h5ad", "composition.csv", "tiles.geojson", "preview.jpg", "tissue.png", "not_read.png")


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands and stretches so small that a small slide has many."""
    monkeypatch.setattr(plan_module, "CHUNK_TILES", 60)
    monkeypatch.setattr(maps_module, "BLOCK", 100)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tissue_slide(tmp_path_factory.mktemp("slides") / "A.tif")


@pytest.fixture(scope="module")
def head() -> Head:
    return colour_head([Colours()])


@pytest.fixture(scope="module")
def head_folder(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "head"
    head.save(folder)
    return folder


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Colours:
    """What `predict_slides` gets for the head's encoder."""
    found = Colours()
    monkeypatch.setattr(batch, "load_head_encoders", lambda *_: [found])
    return found


def run_of(job: SlideJob, head: Head, encoder: Colours | None = None, **settings: Any) -> SlideRun:
    return SlideRun(job, Settings.of(head.card["digest"], **settings), Model(head, [encoder or Colours()]))


def predict(slide: Path, head: Head, folder: Path, encoder: Colours | None = None, **settings: Any) -> SlideResult:
    return run_of(SlideJob(str(slide), folder), head, encoder, **settings).run()


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def test_a_slide_gives_its_files_and_a_status_that_says_of_what(slide: Path, head: Head, tmp_path: Path) -> None:
    result = predict(slide, head, tmp_path / "A")
    assert result.error is None and result.tiles > 200
    assert sorted(path.name for path in (tmp_path / "A").iterdir()) == sorted((*OUTPUTS, "status.json"))
    found = status(tmp_path / "A")
    assert found["state"] == "done" and found["tiles"] == result.tiles and found["owner"] is None
    assert found["digests"]["head"] == head.card["digest"] and found["digests"]["slide"].startswith("sha256:")
    assert found["started"] <= found["finished"] and found["versions"]["histomix"]
    table = pd.read_csv(tmp_path / "A" / "composition.csv")
    composition = ad.read_h5ad(tmp_path / "A" / "composition.h5ad")
    np.testing.assert_allclose(table[list(composition.var_names)], composition.X, rtol=1e-5)
    assert len(json.loads((tmp_path / "A" / "tiles.geojson").read_text())["features"]) == result.tiles


class Killing(Colours):
    """Ends its process, as the kernel does when memory runs out, after some tiles."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        if self.tiles >= self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(tiles)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_run_that_was_killed_goes_on_and_ends_in_the_same_bytes(slide: Path, head: Head, tmp_path: Path) -> None:
    whole = predict(slide, head, tmp_path / "whole" / "A")
    interrupted = tmp_path / "interrupted" / "A"
    process = multiprocessing.get_context("fork").Process(
        target=predict, args=(slide, head, interrupted, Killing(after=200))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert status(interrupted)["state"] == "running" and status(interrupted)["owner"]["pid"] == process.pid
    assert not (interrupted / "composition.csv").exists()
    encoder = Colours()
    result = predict(slide, head, interrupted, encoder)
    assert result.error is None and encoder.tiles <= whole.tiles - 100  # the finished bands were not embedded again
    assert outputs(interrupted) == outputs(tmp_path / "whole" / "A")
    assert not list(interrupted.rglob(".partial-*")) and not (interrupted / ".work").exists()


def test_what_a_killed_process_left_half_written_is_removed(slide: Path, head: Head, tmp_path: Path) -> None:
    run = run_of(SlideJob(str(slide), tmp_path / "A"), head)
    job = run.job
    run.embed(run.plan()[0])
    stored = {path for path in job.work.rglob("*") if path.is_file()}
    bands = next(path.parent for path in stored if path.parent.parent == job.work)
    (bands / "1.parts" / "0").mkdir(parents=True)
    for place in (job.folder, job.work, bands, bands / "1.parts" / "0"):
        (place / ".partial-x").mkdir()
        (place / ".partial-x" / "0.npy").write_bytes(b"half")
    run.remove_leftovers()
    assert {path for path in job.work.rglob("*") if path.is_file()} == stored
    assert not list(job.folder.rglob(".partial-*"))


def test_the_order_in_which_bands_are_embedded_changes_no_byte(slide: Path, head: Head, tmp_path: Path) -> None:
    predict(slide, head, tmp_path / "once" / "A")
    job = SlideJob(str(slide), tmp_path / "apart" / "A")
    chunks = run_of(job, head).plan()
    assert len(chunks) > 3
    for chunk in reversed(chunks):
        assert run_of(job, head).embed(chunk)  # as other processes would: none knows what the others hold
    assert not run_of(job, head).embed(chunks[0])
    run_of(job, head).finish()
    assert outputs(job.folder) == outputs(tmp_path / "once" / "A")


def test_only_what_is_stale_is_done_again(
    slide: Path, head: Head, head_folder: Path, encoder: Colours, tmp_path: Path
) -> None:
    copy, out = tmp_path / "A.tif", tmp_path / "out"
    copy.write_bytes(slide.read_bytes())

    def again(**settings: Any) -> bool:
        return predict_slides([copy], head_folder, out, **settings)[0].kept

    assert not again() and again()
    os.utime(copy, (1, 1))
    assert again()
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1  # one bit, in a file of the same size and time
    copy.write_bytes(data)
    os.utime(copy, (1, 1))
    assert not again() and again()
    assert not again(stride_um=24.0)
    assert not again() and again()
    # The scale that was given counts, though it is no fact of the file.
    assert not again(mpp=0.4, force_mpp=True) and again(mpp=0.4, force_mpp=True)
    assert not again() and again()
    with (out / "A" / "composition.csv").open("a") as table:
        table.write("1,2\n")
    assert not again() and again()
    other = tmp_path / "other"
    colour_head([Colours()], seed=1).save(other)
    assert not predict_slides([copy], other, out)[0].kept
    assert predict_slides([copy], other, out)[0].kept


def test_a_done_map_survives_while_its_slide_is_away(
    slide: Path, head_folder: Path, encoder: Colours, tmp_path: Path
) -> None:
    copy, out = tmp_path / "A.tif", tmp_path / "out"
    copy.write_bytes(slide.read_bytes())
    predict_slides([copy], head_folder, out)
    before = outputs(out / "A")
    copy.rename(tmp_path / "away")
    found = predict_slides([copy], head_folder, out)[0]
    assert found.error is not None and "A.tif" in str(found.error)
    assert outputs(out / "A") == before
    (tmp_path / "away").rename(copy)
    assert predict_slides([copy], head_folder, out)[0].kept


def test_kept_features_serve_the_next_head_without_an_encoder(slide: Path, head: Head, tmp_path: Path) -> None:
    second = colour_head([Colours()], seed=1)
    first = predict(slide, head, tmp_path / "one" / "A", keep_features=True)
    assert (tmp_path / "one" / "A" / "features" / "features.npy").is_file()
    plain = predict(slide, second, tmp_path / "plain" / "A")
    assert plain.tiles == first.tiles
    idle = Colours()
    assert predict(slide, second, tmp_path / "one" / "A", idle).error is None
    assert predict(slide, second, tmp_path / "two" / "A", idle, reuse=tmp_path / "one").error is None
    assert idle.tiles == 0
    for folder in ("one", "two"):
        assert outputs(tmp_path / folder / "A") == outputs(tmp_path / "plain" / "A")
    assert predict(slide, second, tmp_path / "two" / "A", idle, reuse=tmp_path / "one", stride_um=64.0).error is None
    assert idle.tiles > 0  # other tiles are no features of these
    with (tmp_path / "one" / "A" / "features" / "features.npy").open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"damage")
    careful = Colours()
    assert predict(slide, head, tmp_path / "one" / "A", careful).error is None
    assert careful.tiles == first.tiles


@pytest.mark.parametrize("other", [Colours("other"), Colours(size_px=8, mpp=4.0)], ids=["digest", "tile"])
def test_kept_features_do_not_serve_a_head_on_another_encoder(
    slide: Path, head: Head, tmp_path: Path, other: Colours
) -> None:
    """The tiles lie at the same places and give as many numbers."""
    first = predict(slide, head, tmp_path / "A", keep_features=True)
    second = colour_head([other], seed=1)
    assert predict(slide, second, tmp_path / "A", other, keep_features=True).error is None
    assert other.tiles == first.tiles
    assert predict(slide, second, tmp_path / "fresh" / "A", other).error is None
    assert outputs(tmp_path / "A") == outputs(tmp_path / "fresh" / "A")


def test_the_key_of_kept_features_follows_the_tiles_and_each_encoder(head: Head) -> None:
    tiles = np.zeros(3, TILE)
    tiles["x_px"], tiles["y_px"] = [10, 20, 30], [5, 5, 5]
    facts = {"slide": {"digest": "sha256:slide", "mpp": 0.5, "file": "A.tif"}}
    plan = Plan(tiles, None, facts, np.zeros((1, 1), np.uint8))
    moved, elsewhere = tiles.copy(), tiles.copy()
    moved["x_px"][1] += 1
    elsewhere["place"] = [2, 1, 0]

    def key(tiles: np.ndarray = tiles, keys: np.ndarray | None = None, slide: Any = None, **encoder: Any) -> str:
        facts = {**plan.facts, "slide": {**plan.facts["slide"], **(slide or {})}}
        (entry,) = head.card["encoders"]
        return features_key(
            Plan(tiles, keys, facts, plan.areas), Head({**head.card, "encoders": [{**entry, **encoder}]}, None, None)
        )

    others = [
        key(moved),
        key(keys=np.array(["a", "b", "c"])),
        key(slide={"digest": "sha256:other"}),
        key(slide={"mpp": 0.25}),
        *(key(**{name: "other"}) for name in ("digest", "dim", "views", "size_px", "mpp", "precision")),
    ]
    assert len({key(), *others}) == len(others) + 1
    # What names things, or says in which order they are written, changes no value.
    assert {key(elsewhere), key(slide={"file": "B.tif"}), key(name="other", licence="MIT")} == {key()}


def test_the_identity_of_settings_follows_all_that_decides_a_map() -> None:
    base: dict[str, Any] = {"head": "sha256:head"}
    changes: list[dict[str, Any]] = [
        {"head": "sha256:other"},
        {"stride_um": 16.0},
        {"at_digest": "sha256:at"},
        {"regions_digest": "sha256:regions"},
        {"min_tissue": 0.4},
        {"gzip": True},
    ]
    found = {Settings(**(base | change)).identity for change in [{}, *changes]}
    assert len(found) == len(changes) + 1
    # Where files lie, what is kept besides, and how many tiles go at once do not.
    idle: list[dict[str, Any]] = [{"at": "a.csv"}, {"regions": "r.geojson"}, {"keep_features": True}]
    for change in [*idle, {"reuse": "out"}, {"batch_size": 7}]:
        assert Settings(**(base | change)).identity == Settings(**base).identity


def test_settings_carry_the_identity_of_the_files_that_they_name(tmp_path: Path) -> None:
    for name in ("spots.csv", "regions.geojson"):
        (tmp_path / name).write_text(name)
    spots, regions = tmp_path / "spots.csv", tmp_path / "regions.geojson"
    whole = Settings.of("sha256:head", at=spots, regions=regions, reuse=tmp_path, batch_size=7, gzip=True)
    assert (whole.head, whole.at, whole.regions, whole.reuse) == ("sha256:head", *map(str, (spots, regions, tmp_path)))
    assert (whole.at_digest, whole.regions_digest) == (digest_file(spots), digest_file(regions))
    files = {*OUTPUTS, "tiles.geojson.gz"}
    assert whole.batch_size == 7 and "tiles.geojson.gz" in whole.files_of(files)
    assert not whole.files_of(OUTPUTS) and "composition.csv" in whole.files_of(files)
    none = Settings.of("sha256:head")
    given = (none.at, none.at_digest, none.regions, none.regions_digest, none.reuse)
    assert given == (None,) * 5 and none.batch_size == BATCH_SIZE
    assert set(none.files_of(OUTPUTS)) == set(OUTPUTS) and not none.files_of(["composition.h5ad"])
    packed = {*OUTPUTS, "tiles.geojson.gz"} - {"tiles.geojson"}
    assert set(none.files_of(packed)) == packed, "a large one is packed of itself"
    assert (none.min_tissue, none.keep_features, none.gzip) == (0.5, False, False)
    # What regions are called in their file may name a patient: it stands in no log.
    assert "Smith" not in repr(Settings.of("sha256:head", region_names=(("Smith, J.", "region-1"),)))


@pytest.mark.parametrize("name", ["histomix.prediction.job.FORMAT", "histomix.prediction.chunks.DTYPE"])
def test_the_identity_of_what_is_kept_follows_its_layout(
    name: str, slide: Path, head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(SlideJob(str(slide), tmp_path / "A"), head)
    run.plan()
    plan = run.planned()
    assert plan is not None

    def identities() -> tuple[str, str]:
        return Settings.of("sha256:head").identity, features_key(plan, head)

    before = identities()
    monkeypatch.setattr(name, "of another version")
    assert identities() != before


def test_a_slide_replaced_while_it_is_read_is_refused_and_then_predicted_anew(
    slide: Path, head: Head, tmp_path: Path
) -> None:
    copy, other = tmp_path / "A.tif", tissue_slide(tmp_path / "other.tif", seed=5)
    copy.write_bytes(slide.read_bytes())

    class Replacing(Colours):
        def embed(self, tiles: np.ndarray) -> np.ndarray:
            if self.tiles == 0:
                os.replace(other, copy)  # noqa: PTH105
            return super().embed(tiles)

    found = predict(copy, head, tmp_path / "out" / "A", Replacing())
    assert isinstance(found.error, SlideError) and "replaced or changed while it was being read" in str(found.error)
    assert status(tmp_path / "out" / "A")["state"] == "failed"
    assert not (tmp_path / "out" / "A" / "composition.csv").exists()
    assert predict(copy, head, tmp_path / "out" / "A").error is None
    predict(copy, head, tmp_path / "fresh" / "A")
    assert outputs(tmp_path / "out" / "A") == outputs(tmp_path / "fresh" / "A")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
@pytest.mark.parametrize("name", ["features.npy", "values.npy", "composition.h5ad"])
def test_a_full_disk_is_named_and_the_same_command_goes_on(
    slide: Path, head: Head, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(slide, head, tmp_path / "whole" / "A")
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        if name == "composition.h5ad":
            from histomix.common.storage.h5ad import GrowingH5ad

            def no_room(*_: object) -> None:
                raise full

            patch.setattr(GrowingH5ad, "append", no_room)
        else:
            real = os.posix_fallocate

            def limited(descriptor: int, offset: int, size: int) -> None:
                if Path(f"/proc/self/fd/{descriptor}").readlink().name == name:
                    raise full
                real(descriptor, offset, size)

            patch.setattr(os, "posix_fallocate", limited)
        found = predict(slide, head, tmp_path / "out" / "A")
    assert "the disk is full" in str(found.error) and "it goes on where it stopped" in str(found.error)
    assert not any((tmp_path / "out" / "A" / output).exists() for output in OUTPUTS[:3])
    encoder = Colours()
    assert predict(slide, head, tmp_path / "out" / "A", encoder).error is None
    assert encoder.tiles == 0
    assert outputs(tmp_path / "out" / "A") == outputs(tmp_path / "whole" / "A")


LIMITED = """
import resource, sys
from pathlib import Path
from tests.test_slide_runs import predict
from tests.slide_heads import Colours, colour_head
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, resource.RLIM_INFINITY))
found = predict(Path(sys.argv[1]), colour_head([Colours()]), Path(sys.argv[2]))
print(found.error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_file_size_limit_fails_the_slide_with_its_reason(slide: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(slide), str(tmp_path / "A")]
    root = Path(__file__).parent.parent
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert "the disk is full" in found.stdout, found.stderr
    assert status(tmp_path / "A")["state"] == "failed" and "the disk is full" in status(tmp_path / "A")["reason"]


def test_two_runs_on_one_folder(slide: Path, head_folder: Path, encoder: Colours, tmp_path: Path) -> None:
    out = tmp_path / "out"
    entered, leave = threading.Event(), threading.Event()
    plain = encoder.embed

    def held(tiles: np.ndarray) -> np.ndarray:
        entered.set()
        leave.wait(60)
        return plain(tiles)

    encoder.embed = held  # type: ignore[method-assign]
    first = threading.Thread(target=predict_slides, args=([slide], head_folder, out))
    first.start()
    assert entered.wait(60)
    with pytest.raises(FeatureError, match=f"process {os.getpid()} on .* is writing maps to this folder"):
        predict_slides([slide], head_folder, out)
    results: list[SlideResult] = []
    second = threading.Thread(target=lambda: results.extend(predict_slides([slide], head_folder, out, wait=True)))
    second.start()
    leave.set()
    first.join(120)
    second.join(120)
    assert results[0].kept  # it waited, and found the work done


def test_slides_whose_folders_are_one_on_some_systems_are_told(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"a1.svs would both be written to .*do not tell case apart"):
        slide_jobs([tmp_path / "x" / "A1.svs", tmp_path / "y" / "a1.svs"], tmp_path / "out")
    for name in ("x/A1.svs", "y/a1.svs", "y/b.svs"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    names = [job.name for job in slide_jobs([tmp_path / "in"], tmp_path / "out")]
    assert names == ["x__A1", "y__a1", "b"]
    windows, sheet = r"..\in\y\b.svs", tmp_path / "sheets" / "s.csv"
    sheet.parent.mkdir()
    sheet.write_text(f"slide\n{windows}\n", encoding="utf-8")
    (one,) = slide_jobs([sheet], tmp_path / "out")
    assert Path(one.slide).samefile(tmp_path / "in" / "y" / "b.svs")


def test_one_bad_slide_in_the_middle_does_not_stop_the_others(
    slide: Path, head_folder: Path, encoder: Colours, tmp_path: Path
) -> None:
    data = slide.read_bytes()
    for name, content in (("a", data), ("b", data[: len(data) // 2]), ("c", data)):
        (tmp_path / f"{name}.tif").write_bytes(content)
    results = predict_slides([tmp_path / f"{name}.tif" for name in "abc"], head_folder, tmp_path / "out")
    assert [result.error is None for result in results] == [True, False, True]
    found = status(tmp_path / "out" / "b")
    assert found["state"] == "failed" and "b.tif" in found["reason"] and found["finished"]


def test_slides_wait_as_queued_and_the_running_one_names_its_process(
    slide: Path, head_folder: Path, encoder: Colours, tmp_path: Path
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(slide.read_bytes())
    seen: list[dict[str, Any]] = []

    def watch(task: str, done: int, total: int) -> None:
        if not seen and done and task.startswith("predict "):
            seen.extend(status(tmp_path / "out" / name) for name in "ab")

    predict_slides([tmp_path / "a.tif", tmp_path / "b.tif"], head_folder, tmp_path / "out", progress=watch)
    assert [found["state"] for found in seen] == ["running", "queued"]
    assert seen[0]["owner"] == {"pid": os.getpid(), "host": socket.gethostname()}


def test_an_interrupted_slide_says_so(slide: Path, head: Head, tmp_path: Path) -> None:
    class Interrupted(Colours):
        def embed(self, tiles: np.ndarray) -> np.ndarray:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(slide, head, tmp_path / "A", Interrupted())
    assert status(tmp_path / "A")["state"] == "queued" and "interrupted" in status(tmp_path / "A")["reason"]


def test_a_slide_too_coarse_for_the_head_is_refused_before_it_is_read(slide: Path, head: Head, tmp_path: Path) -> None:
    job = SlideJob(str(slide), tmp_path / "A", mpp=40.0)
    found = run_of(job, head).run()
    assert isinstance(found.error, HeadError) and "20.0 times coarser" in str(found.error)
    wide = predict(slide, head, tmp_path / "B", Colours(mpp=4.0))
    assert isinstance(wide.error, FeatureError) and "mpp 4.0, not 2.0" in str(wide.error)


def test_a_slide_smaller_than_a_tile_says_so(head: Head, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "small.tif", tissue_pixels()[500:520, 400:420], 0.5, factors=())
    found = predict(path, head, tmp_path / "A")
    assert "tile of 32 um is 64 px wide, and the slide has 20 x 20 px" in str(found.error)


def test_a_slide_without_tissue_leaves_the_picture_that_shows_it(head: Head, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "blank.tif", np.full((900, 900, 3), 244, np.uint8))
    found = predict(path, head, tmp_path / "A")
    assert "no tissue was found" in str(found.error)
    assert (tmp_path / "A" / "tissue.png").is_file()


def test_level_0_of_a_tenth_of_a_um(head: Head, tmp_path: Path) -> None:
    fine = tissue_pixels()[400:800, 200:700].repeat(5, axis=0).repeat(5, axis=1)
    coarse = np.rint(block_mean(fine, 5)).astype(np.uint8)
    maps = []
    for name, pixels, mpp in (("fine", fine, 0.1), ("coarse", coarse, 0.5)):
        path = write_pyramid(tmp_path / f"{name}.tif", pixels, mpp, factors=())
        assert predict(path, head, tmp_path / name).error is None
        maps.append(ad.read_h5ad(tmp_path / name / "composition.h5ad"))
    np.testing.assert_allclose(maps[0].obsm["spatial"] / 5, maps[1].obsm["spatial"])
    np.testing.assert_allclose(maps[0].X, maps[1].X, atol=0.01)


def test_folders_and_sheets_of_slides(slide: Path, head_folder: Path, encoder: Colours, tmp_path: Path) -> None:
    root = tmp_path / "slides"
    for name in ("a.tif", "deep/b.svs", "deep/er/a.tif", ".hidden/c.tif", "m.mrxs", "m/Data0001.dat", "m/x.tif"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "d").mkdir()
    for name in ("1.dcm", "2.dcm"):
        (root / "d" / name).write_bytes(b"x")
    (root / "deep" / "b.jpg").write_bytes(b"a picture of the slide beside it")
    (root / "deep" / "round").symlink_to(root, target_is_directory=True)
    found = {str(Path(job.slide).relative_to(root)): job.name for job in slide_jobs([root], tmp_path / "out")}
    assert found == {"a.tif": "a", "m.mrxs": "m", "d": "d", "deep/b.svs": "b", "deep/er/a.tif": "deep__er__a"}
    with pytest.raises(InputError, match="holds no slide"):
        slide_jobs([head_folder], tmp_path)

    sheet = tmp_path / "sheet.csv"
    relative = os.path.relpath(slide, tmp_path)
    sheet.write_text(f"slide,mpp,patient,name\n{relative},0.5,P1,first\ns3://bucket/x.svs?v=1,,P2,\n")
    first, second = slide_jobs([sheet], tmp_path / "out", mpp=0.25)
    assert (first.name, first.mpp, first.facts) == ("first", 0.5, (("patient", "P1"),))
    assert (second.name, second.mpp, second.slide) == ("x", 0.25, "s3://bucket/x.svs?v=1")
    sheet.write_text(f"slide,patient\n{relative},P1\n")
    assert predict_slides([sheet], head_folder, tmp_path / "out")[0].error is None
    assert status(tmp_path / "out" / "A")["facts"] == {"patient": "P1"}
    manifest = manifest_of(ad.read_h5ad(tmp_path / "out" / "A" / "composition.h5ad"))
    assert manifest["facts"] == {"patient": "P1"}
    for text, what in (("image\nx\n", "no column 'slide'"), ("slide,mpp\nx,fine\n", "row 2: the mpp 'fine'")):
        sheet.write_text(text)
        with pytest.raises(InputError, match=what):
            slide_jobs([sheet], tmp_path)


def test_the_scale_of_the_user_goes_before_that_of_the_file(
    slide: Path, head_folder: Path, encoder: Colours, tmp_path: Path
) -> None:
    own = predict_slides([slide], head_folder, tmp_path / "own")[0]
    given = predict_slides([slide], head_folder, tmp_path / "given", mpp=0.25)[0]
    assert given.tiles < own.tiles / 3
    unknown = tissue_slide(tmp_path / "unknown.tif", mpp=None)
    found = predict_slides([unknown], head_folder, tmp_path / "out")[0]
    assert "does not say its scale" in str(found.error) and "--mpp" in str(found.error)
    with open_slide(slide) as opened:
        assert opened.mpp == pytest.approx(0.5)


def test_the_command_with_its_options(slide: Path, head_folder: Path, encoder: Colours, tmp_path: Path) -> None:
    ring = [[200, 300], [600, 300], [600, 900], [200, 900], [200, 300]]
    region = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"name": "r"}}
    (tmp_path / "regions.geojson").write_text(json.dumps(region))
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "A.tif").write_bytes(slide.read_bytes())
    (tmp_path / "slides" / "bad.svs").write_bytes(b"no slide")
    words = ["predict", tmp_path / "slides", "--head", head_folder, "--out", tmp_path / "out", "--keep-features"]
    words += ["--regions", tmp_path / "regions.geojson", "--gzip", "--stride-um", 16, "--json"]
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == 1 and "bad.svs" in found.stderr
    facts = json.loads(found.stdout)
    assert [one["state"] for one in facts["slides"]] == ["done", "failed"] and not facts["ok"]
    names = {path.name for path in (tmp_path / "out" / "A").iterdir()}
    assert names == {*OUTPUTS, "status.json", "features", "tiles.geojson.gz"} - {"tiles.geojson"}
    assert ad.read_h5ad(tmp_path / "out" / "A" / "composition.h5ad").layers["super_resolved"].shape[0] > 100
    refused = CliRunner().invoke(app, [str(word) for word in [*words, "--regions", tmp_path / "none.geojson"]])
    assert refused.exit_code == 2 and "none.geojson" in refused.stderr


def test_an_unforeseen_error_on_one_slide_does_not_cost_the_next(
    slide: Path, head_folder: Path, encoder: Colours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(slide.read_bytes())
    whole = SlideRun.finish

    def fail(run: SlideRun) -> SlideResult:
        if run.job.name == "a":
            surprise, other = KeyError("surprise"), OSError("other")
            surprise.__cause__, other.__cause__ = other, surprise  # a circle, as libraries that keep errors tie
            raise surprise
        return whole(run)

    monkeypatch.setattr(SlideRun, "finish", fail)
    first, second = predict_slides([tmp_path / "a.tif", tmp_path / "b.tif"], head_folder, tmp_path / "out")
    assert "KeyError('surprise')" in str(first.error) and second.error is None
    assert "surprise" in status(tmp_path / "out" / "a")["traceback"]


def test_an_encoder_that_cannot_be_loaded_stops_the_run_once(
    slide: Path, head_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HeadError, match="none that histomix knows by name"):
        predict_slides([slide], head_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_look_at_maps_that_are_there_is_told_of_where_they_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(batch.Status, "is_done", lambda self: self.job != "new")
    with progress_bars(lambda *step: told.append(step)):
        assert batch._not_done(["old"], None) == [] == told  # type: ignore[list-item, arg-type]
        assert batch._not_done(["old", "new"], None) == ["new"]  # type: ignore[list-item, arg-type]
    assert told == [("look at maps that are there (slides)", done, 2) for done in range(3)]
