"""Weights that are right and wrong, here and on the hub, and the device that an encoder runs on."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from histomix.encoders import availability, card, cards, load_encoder
from histomix.encoders.torch.architectures import create_model
from histomix.encoders.torch.timm import TimmEncoder
from histomix.encoders.torch.weights import read_weights
from histomix.errors import EncoderError

from .encoder_files import normalised, random_weights, reduced, relative, smooth_tiles

HUB = [one for one in cards() if one.source == "timm"]


def test_class_and_mean_pooling_leaves_registers_out(tmp_path: Path) -> None:
    one = reduced(card("virchow2"), 2, narrow=True)
    state = random_weights(one, tmp_path / "model.safetensors")
    tiles = smooth_tiles(2, one.size_px)
    model: Any = create_model(one)
    model.load_state_dict(state, assign=True)
    found = TimmEncoder(one, tmp_path / "model.safetensors", device="cpu").embed(tiles)
    with torch.inference_mode():
        tokens = model.eval().forward_features(normalised(one, tiles)).numpy()
    assert relative(found[:, 96:], tokens[:, 5:].mean(1)) < 1e-5
    assert relative(found[:, 96:], tokens[:, 1:].mean(1)) > 1e-3


# --- weights that are not right


@pytest.fixture(scope="module")
def lunit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lunit") / "model.safetensors"
    random_weights(card("lunit-s16"), path)
    return path


def test_torch_checkpoints_are_read_like_safetensors(lunit: Path, tmp_path: Path) -> None:
    state = read_weights(lunit)
    for number, saved in enumerate([state, {"state_dict": state}, {"model": state}]):
        torch.save(saved, tmp_path / f"{number}.pth")
    # The format is known by content: the same tensors under a checkpoint's name.
    (tmp_path / "renamed.bin").write_bytes(lunit.read_bytes())
    for path in tmp_path.iterdir():
        found = read_weights(path)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_checkpoints_of_training_load_by_their_teacher(tmp_path: Path) -> None:
    """DINOv2's own: teacher and student, wrapped, with blocks in chunks and the heads of training."""
    one = reduced(card("gpfm"), 2, narrow=True)
    state = random_weights(one, tmp_path / "model.safetensors")
    tiles = smooth_tiles(1, one.size_px)
    expected = TimmEncoder(one, tmp_path / "model.safetensors", device="cpu").embed(tiles)
    chunked = {key.replace("blocks.", "blocks.0.", 1): value for key, value in state.items()}
    teacher = {f"backbone.{key}": value for key, value in chunked.items()} | {"dino_head.mlp.0.weight": torch.ones(2)}
    student = {key: value + 1 for key, value in teacher.items()}
    both = {f"student.{key}": value for key, value in student.items()}
    both |= {f"teacher.{key}": value for key, value in teacher.items()}
    for number, saved in enumerate(
        [
            {"student": student, "teacher": teacher, "epoch": 1},
            {"model": {"teacher": teacher, "student": student}},
            {"state_dict": both, "iteration": 7},
            both,
            {"model": {f"module.{key}": value for key, value in teacher.items()}},
        ]
    ):
        torch.save(saved, tmp_path / f"{number}.pth")
        found = TimmEncoder(one, tmp_path / f"{number}.pth", device="cpu").embed(tiles)
        np.testing.assert_array_equal(found, expected)


def test_weights_in_several_files_are_read_by_their_index(lunit: Path, tmp_path: Path) -> None:
    state = read_weights(lunit)
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"

    def write(**changes: str) -> None:
        weight_map = {key: file for file, keys in parts.items() for key in keys} | changes
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))

    write()
    tiles = smooth_tiles(1, 224)
    whole = load_encoder("lunit-s16", lunit)
    for path in (tmp_path, index):
        found = load_encoder("lunit-s16", path)
        np.testing.assert_array_equal(found.embed(tiles), whole.embed(tiles))
    digest = found.digest
    save_file({key: state[key] + 1 for key in parts[file]}, tmp_path / file)
    assert load_encoder("lunit-s16", tmp_path).digest != digest
    for changes, says in (
        ({"more": "../elsewhere.safetensors"}, "names weights elsewhere"),
        ({"more": "model-00003-of-00003.safetensors"}, "the file model-00003-of-00003.safetensors of these weights"),
        ({"more": file}, r"1 tensors are in none of its files \(such as more\)"),
    ):
        write(**changes)
        with pytest.raises(EncoderError, match=says):
            load_encoder("lunit-s16", tmp_path)
    index.write_text("[" * 9)
    with pytest.raises(EncoderError, match="cannot be read as JSON"):
        load_encoder("lunit-s16", tmp_path)


def test_a_classifier_in_the_weights_is_left_out(lunit: Path, tmp_path: Path) -> None:
    state = {key: value.half() for key, value in read_weights(lunit).items()}
    save_file({**state, "head.weight": torch.ones(2, 384)}, tmp_path / "model.safetensors")
    found = load_encoder("lunit-s16", tmp_path).embed(smooth_tiles(1, 224))
    assert relative(found, load_encoder("lunit-s16", lunit).embed(smooth_tiles(1, 224))) < 0.01


def test_digest_follows_the_weights(lunit: Path, tmp_path: Path) -> None:
    state = read_weights(lunit)
    state["norm.bias"] += 1
    save_file(state, tmp_path / "other.safetensors")
    digests = {load_encoder("lunit-s16", path).digest for path in (lunit, tmp_path / "other.safetensors")}
    assert len(digests) == 2
    assert load_encoder("lunit-s16", lunit, views=4).digest not in digests


def test_digest_follows_what_the_card_says_of_an_embedding(tmp_path: Path) -> None:
    one, path = reduced(card("lunit-s16"), 1, narrow=True), tmp_path / "model.safetensors"
    random_weights(one, path)
    changes: list[dict[str, Any]] = [
        {},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"pooling": "mean"},
        {"mpp": 1.0},
        {"layers": (0,)},
        {"arguments": {**one.arguments, "drop_rate": 0.1}},
    ]
    changes.append({"title": "another", "licence": "MIT"})  # what is said for people only leaves it alone
    digests = [TimmEncoder(dataclasses.replace(one, **change), path, device="cpu").digest for change in changes]
    assert len(set(digests)) == len(changes) - 1 and digests[-1] == digests[0]


def test_whatever_bytes_a_checkpoint_holds_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    rng = np.random.default_rng(0)
    # Orders of the machine that reads pickles, which it obeys until one of them cannot be done.
    texts = [
        rng.choice(np.frombuffer(b"(.012}])aeubtRc:\x80\x02X\x8aq r\n", np.uint8), 24).tobytes() for _ in range(300)
    ]
    for data in [*texts, *(bytes([one]) * 40 for one in range(256)), b"a:\n a:\n  a:\n"]:
        path.write_bytes(data)
        with pytest.raises(EncoderError, match=r"cannot be read|holds no table"):
            read_weights(path)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("truncated", "truncated, damaged"),
        ("truncated header", "truncated, damaged"),
        ("random", "truncated, damaged"),
        ("torch truncated", "truncated, damaged"),
        ("empty file", "truncated, damaged"),
        ("code", "objects other than tensors"),
        ("no tensors", "no table of tensors"),
        ("lfs", "Git LFS pointer"),
        ("absent", "no such weights file"),
        ("empty folder", "holds no weights file"),
        ("two files", "several weights files"),
    ],
)
def test_faulty_weights_are_named(fault: str, says: str, lunit: Path, tmp_path: Path) -> None:
    whole = lunit.read_bytes()
    path = tmp_path / "model.safetensors"
    match fault:
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "truncated header":
            path.write_bytes(whole[:100])
        case "random":
            path = tmp_path / "weights.bin"
            path.write_bytes(zlib.compress(b"not weights") * 100)
        case "torch truncated":
            path = tmp_path / "weights.pth"
            torch.save({"a": torch.zeros(100_000)}, path)
            path.write_bytes(path.read_bytes()[:200_000])
        case "empty file":
            path = tmp_path / "weights.pth"
            path.touch()
        case "code":
            path = tmp_path / "weights.pth"
            torch.save({"a": tmp_path}, path)
        case "no tensors":
            path = tmp_path / "weights.pth"
            torch.save({"epoch": 3}, path)
        case "lfs":
            path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case "empty folder":
            path = tmp_path
            (path / "README.md").touch()
        case "two files":
            path = tmp_path
            (path / "a.safetensors").touch()
            (path / "b.safetensors").touch()
    with pytest.raises(EncoderError, match=says) as caught:
        load_encoder("lunit-s16", path)
    assert caught.value.hint and str(path) in str(caught.value)


def test_weights_of_another_architecture_are_counted(lunit: Path) -> None:
    with pytest.raises(
        EncoderError,
        match=r"do not belong to dinov2-s .*missing \(such as blocks",
    ):
        load_encoder("dinov2-s", lunit)
    with pytest.raises(EncoderError, match=r"2 of another shape \(such as patch_embed.proj.weight, pos_embed\)"):
        load_encoder("lunit-s8", lunit)
    with pytest.raises(EncoderError, match=r"missing .*unexpected"):
        load_encoder("resnet50-imagenet", lunit)


# --- the hub


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_weights_in_the_hub_cache_load_without_network(
    lunit: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = availability("lunit-s16")
    assert not before.loadable and "hf download 1aurent/vit_small_patch16_224.lunit_dino" in before.hint
    repository = hub_cache / "models--1aurent--vit_small_patch16_224.lunit_dino"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("a" * 40) / "model.safetensors").symlink_to(lunit)
    assert availability("lunit-s16").loadable
    tiles = smooth_tiles(1, 224)
    np.testing.assert_array_equal(load_encoder("lunit-s16").embed(tiles), load_encoder("lunit-s16", lunit).embed(tiles))


def test_another_commit_in_the_hub_cache_is_said(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    one = card("uni2-h")
    assert one.revision is not None and one.hub_id is not None
    snapshot = hub_cache / f"models--{one.hub_id.replace('/', '--')}" / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    assert availability("uni2-h").reason == "its weights are not on this machine"
    (snapshot / one.files[0]).write_bytes(b"weights")
    says = f"the hub's cache holds the commit bbbbbbbbbbbb, and the card is of {one.revision[:12]}"
    assert says in availability("uni2-h").reason
    with pytest.raises(EncoderError, match=says):
        load_encoder("uni2-h")


def test_offline_mode_is_respected(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _forbidden)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _forbidden)
    with pytest.raises(EncoderError, match="HF_HUB_OFFLINE forbids"):
        load_encoder("uni")


def _forbidden(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked")


def _answer(status: int, code: str | None = None) -> Any:
    """A question to the hub that is answered by its own error handling, given such a response."""
    from huggingface_hub import errors

    kinds = {
        "GatedRepo": errors.GatedRepoError,
        "EntryNotFound": errors.RemoteEntryNotFoundError,
        None: errors.HfHubHTTPError,
    }

    def ask(*_: object, **__: object) -> None:
        error = kinds[code].__new__(kinds[code])
        error.args = (f"{status} from the hub",)
        raise error

    return ask


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            _answer(403, "GatedRepo"),
            "has not granted access.*Accept the licence at https://huggingface.co/paige-ai/Virchow2.*hf auth login",
        ),
        (_answer(500), "the hub refused"),
        (_answer(404, "EntryNotFound"), "holds none of model.safetensors, pytorch_model.bin"),
    ],
)
def test_what_the_hub_says_is_passed_on(
    answer: Any, says: str, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", answer)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _forbidden)
    with pytest.raises(EncoderError, match=says):
        load_encoder("virchow2")


def test_no_network_fails_at_once(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    start = time.perf_counter()
    with pytest.raises(EncoderError, match=r"cannot be reached.*Accept the licence at .*MahmoodLab/UNI,"):
        load_encoder("uni")
    assert time.perf_counter() - start < 8


def test_availability_never_asks_the_network(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "create_connection", _forbidden)
    monkeypatch.setattr(socket.socket, "connect", _forbidden)
    states = {one.name: availability(one.name) for one in cards()}
    assert states["builtin"].loadable
    assert not any(states[one.name].loadable for one in HUB)
    assert all(states[one.name].hint for one in HUB)
    assert "hf auth login" in states["uni"].hint and "hf auth login" not in states["resnet50-imagenet"].hint
    assert "--revision c23bc01" in states["lunit-s8"].hint


def test_weights_that_no_hub_has_say_where_they_are(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _forbidden)
    with pytest.raises(EncoderError, match=r"no hub has them.*ctranspath.pth as https://github.com/.*--weights"):
        load_encoder("ctranspath")
    assert "ctranspath.pth" in availability("ctranspath").hint


def test_a_download_names_the_one_file_where_the_repository_has_others(hub_cache: Path) -> None:
    hint = availability("conch-v1.5").hint
    assert "hf download MahmoodLab/TITAN conch_v1_5_pytorch_model.bin --revision b2fb4f4" in hint


def test_a_folder_is_searched_for_the_published_name(tmp_path: Path) -> None:
    for name in ("other.pth", "another.pth"):
        (tmp_path / name).touch()
    torch.save({"a": torch.zeros(1)}, tmp_path / "GPFM.pth")
    with pytest.raises(EncoderError, match=r"do not belong to gpfm .*1 unexpected \(such as a\)") as caught:
        load_encoder("gpfm", tmp_path)
    assert caught.value.where == str(tmp_path / "GPFM.pth")


# --- the device


def test_device_is_checked_and_leaves_the_digest_alone(lunit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    first, second = load_encoder("lunit-s16", lunit, device="auto"), load_encoder("lunit-s16", lunit, device="cpu")
    assert first.digest == second.digest
    assert first.model.cls_token.device.type == "cpu"  # type: ignore[attr-defined]
    with pytest.raises(EncoderError, match="no device 'cuda' here"):
        load_encoder("lunit-s16", lunit, device="cuda")
    with pytest.raises(EncoderError, match="Choose one of auto, cpu, cuda"):
        load_encoder("lunit-s16", lunit, device="tpu")


def test_threads_are_of_the_embedding_alone(lunit: Path) -> None:
    before = torch.get_num_threads()
    load_encoder("lunit-s16", lunit, threads=before + 1).embed(smooth_tiles(1, 224))
    assert torch.get_num_threads() == before


def test_an_architecture_that_timm_does_not_know_says_what_to_upgrade() -> None:
    import dataclasses

    with pytest.raises(EncoderError, match=r"does not know the architecture vit_new .*pip install -U timm"):
        create_model(dataclasses.replace(card("uni"), architecture="vit_new"))
