"""Encoders that users bring: registered by a call or an entry point, files with a card, models of lazyslide-models."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.encoders import Registered, availability, card, cards, load_encoder, register_encoder
from histomix.encoders import user as user_module
from histomix.encoders.onnx.files import model_digests
from histomix.errors import EncoderError, MissingEncoderError, MissingExtraError

from .encoder_files import normalised, relative, smooth_tiles
from .extras import extra_module

FACTS = {
    "name": "ours",
    "size_px": 32,
    "mpp": 0.5,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.1, 0.2, 0.3],
    "dim": 3,
    "licence": "our own",
}


class Means(torch.nn.Module):
    """The mean of every channel; with ``rows``, of only so many tiles."""

    def __init__(self, rows: int = 1000) -> None:
        super().__init__()
        self.rows = rows
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[: self.rows].mean(dim=(2, 3)) * self.weight


def _torchscript(path: Path, model: torch.nn.Module | None = None) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model or Means()).save(path)


def _onnx(path: Path, batch: str | int = "n", weights: tuple[float, ...] = (1.0, 2.0, 3.0)) -> None:
    onnx = extra_module("onnx", "onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["flat", "weight"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", number, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("embedding", number, [batch, len(weights)])],
        [helper.make_tensor("weight", number, [len(weights)], weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def _card(folder: Path, suffix: str = ".yaml", **changes: Any) -> Path:
    path = folder / f"card{suffix}"
    facts = {key: value for key, value in {**FACTS, **changes}.items() if value is not None}
    path.write_text(json.dumps(facts) if suffix == ".json" else yaml.safe_dump(facts))
    return path


# --- files with a card


@pytest.mark.parametrize(("model", "suffix"), [("net.pt", ".yaml"), ("net.onnx", ".json"), ("sub/net.ts", ".yml")])
def test_a_file_with_a_card_is_an_encoder(model: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / model).parent.mkdir(exist_ok=True)
    (_onnx if model.endswith(".onnx") else _torchscript)(tmp_path / model)
    path = _card(tmp_path, suffix, model=model, commercial_use=True)
    assert availability(str(path)).loadable
    encoder = load_encoder(str(path), device="cpu", trust_code=True)
    tiles = smooth_tiles(5, 32)
    found = encoder.embed(tiles)
    expected = Means()(normalised(encoder.card, tiles)).detach().numpy()
    assert found.dtype == np.float32 and relative(found, expected) < 1e-5
    assert encoder.embed(tiles[:0]).shape == (0, 3)
    assert encoder.card.name == "ours" and encoder.card.commercial_use and encoder.card.source == "file"
    assert (encoder.tile_spec().size_px, encoder.tile_spec().mpp) == (32, 0.5)
    turned = load_encoder(str(path), views=4, device="cpu", trust_code=True)
    np.testing.assert_allclose(turned.embed(tiles), found, rtol=1e-4, atol=1e-5)  # channel means do not turn
    assert turned.digest != encoder.digest


def test_the_digest_follows_the_model_and_the_card(tmp_path: Path) -> None:
    _onnx(tmp_path / "a.onnx")
    _onnx(tmp_path / "b.onnx", weights=(3.0, 2.0, 1.0))
    changes: list[dict[str, Any]] = [
        {},
        {"model": "b.onnx"},
        {"mpp": 0.25},
        {"mean": [0.1, 0.2, 0.4]},
        {"std": [0.1, 0.2, 0.4]},
    ]
    digests = {load_encoder(str(_card(tmp_path, **{"model": "a.onnx", **one}))).digest for one in changes}
    assert len(digests) == len(changes)
    assert load_encoder(str(_card(tmp_path, model="a.onnx", title="another"))).digest in digests


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mpp": None, "dim": None}, "mpp is missing; dim is missing"),
        ({"colour": "red"}, "colour is not known"),
        ({"dim": "three"}, "dim cannot be 'three'"),
        ({"dim": True}, "dim cannot be True"),
        ({"mpp": -0.5}, "mpp cannot be -0.5"),
        ({"mpp": 1e300}, r"mpp cannot be 1e\+300"),
        ({"mean": [0.5, 0.5]}, r"mean cannot be \[0.5, 0.5\]"),
        ({"std": [0.5, 0.5, 0]}, "std cannot be"),
        ({"views": 3}, "views cannot be 3"),
        ({"model": "net.pkl"}, "neither ONNX .* nor TorchScript"),
        ({"model": "absent.onnx"}, "no such model file"),
    ],
)
def test_a_faulty_card_is_refused_with_all_its_faults(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=says) as caught:
        card(str(_card(tmp_path, **{"model": "net.onnx", **changes})))
    assert caught.value.hint


def test_a_card_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for text, says in (("name: [", "cannot be read"), ("- a", "no table"), (None, "no such card file")):
        path = tmp_path / "card.yaml"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises(EncoderError, match=says):
            load_encoder(str(path))


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_a_faulty_model_is_refused_when_it_loads(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    where = str(_card(tmp_path, model=path.name))
    path.write_bytes(b"no model")
    with pytest.raises(EncoderError, match="cannot be used") as caught:
        load_encoder(where, device="cpu", trust_code=True)
    assert caught.value.where == str(path) and "ONNXRuntimeError" not in str(caught.value)
    # One tile at a time, or a dimension that the card does not name.
    if suffix == ".onnx":
        _onnx(path, batch=1)
        with pytest.raises(EncoderError, match="cannot be used"):
            load_encoder(where)
        _onnx(path)
    else:
        _torchscript(path, Means(rows=1))
        with pytest.raises(EncoderError, match=r"gave \(1, 3\) for 2 tiles, not \(2, 3\)"):
            load_encoder(where, device="cpu", trust_code=True)
        _torchscript(path)
    with pytest.raises(EncoderError, match=r"gave \(2, 3\) for 2 tiles, not \(2, 4\)"):
        load_encoder(str(_card(tmp_path, model=path.name, dim=4)), device="cpu", trust_code=True)


def test_a_card_file_takes_no_other_weights_and_onnx_no_gpu(tmp_path: Path) -> None:
    _onnx(tmp_path / "net.onnx")
    where = str(_card(tmp_path, model="net.onnx"))
    with pytest.raises(EncoderError, match="names its own model"):
        load_encoder(where, weights=tmp_path / "net.onnx")
    with pytest.raises(EncoderError, match="runs on the CPU"):
        load_encoder(where, device="cuda")


class Writer(torch.nn.Module):
    """Writes to a file of the user when it embeds."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.save(images, self.path)
        return images.mean(dim=(2, 3))


def test_a_program_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    _torchscript(tmp_path / "net.pt", Writer(str(precious)))
    where = str(_card(tmp_path, model="net.pt"))
    with pytest.raises(EncoderError, match=r"TorchScript program.*--trust-code"):
        load_encoder(where, device="cpu")
    assert precious.read_text() == "mine" and "--trust-code" in availability(where).reason
    load_encoder(where, device="cpu", trust_code=True)
    assert precious.read_bytes() != b"mine", "this is what the refusal is for"


def test_embed_and_predict_refuse_a_program_before_any_work(job: Any, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    _torchscript(tmp_path / "net.pt", Writer(str(precious)))
    card_file = _card(tmp_path, model="net.pt")
    command = ["embed", str(job.sheet), "--encoder", str(card_file), "--out", str(tmp_path / "features")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "--trust-code" in refused.output and precious.read_text() == "mine"
    trusted = CliRunner().invoke(app, [*command, "--trust-code"])
    assert trusted.exit_code == 0, trusted.output
    head, precious_again = tmp_path / "head", "mine again"
    commands = ["train", str(job.sheet), "--features", str(tmp_path / "features"), "--labels", str(job.labels)]
    assert CliRunner().invoke(app, [*commands, "--head", "ridge", "--out", str(head)]).exit_code == 0
    precious.write_text(precious_again)
    command = ["predict", str(job.image), "--mpp", "0.5", "--head", str(head), "--weights", str(card_file), "--at"]
    command += [str(job.spots), "--out", str(tmp_path / "maps")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "--trust-code" in refused.output and precious.read_text() == precious_again
    assert CliRunner().invoke(app, [*command, "--trust-code"]).exit_code == 0


def _with_weights_outside(path: Path, weights: tuple[float, ...] = (1.0, 2.0, 3.0), at: str = "net.weights") -> None:
    onnx = extra_module("onnx", "onnx")
    _onnx(path, weights=weights)
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(weights, dtype=np.float32), "weight"))
    onnx.external_data_helper.convert_model_to_external_data(model, location="net.weights", size_threshold=0)
    onnx.save(model, path)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = at
    path.write_bytes(model.SerializeToString())


def test_weights_beside_a_graph_belong_to_its_digest(tmp_path: Path) -> None:
    _with_weights_outside(tmp_path / "net.onnx")
    where = str(_card(tmp_path, model="net.onnx"))
    first, tiles = load_encoder(where), smooth_tiles(3, 32)
    before = first.embed(tiles)
    (tmp_path / "net.weights").write_bytes(np.array([3.0, 2.0, 1.0], dtype="<f4").tobytes())
    second = load_encoder(where)
    assert relative(second.embed(tiles), before) > 0.1, "the other weights are read"
    assert second.digest != first.digest
    (tmp_path / "net.weights").unlink()
    with pytest.raises(MissingEncoderError, match=r"net\.weights are not there"):
        load_encoder(where)


@pytest.mark.parametrize("at", ["../net.weights", "/tmp/net.weights", "%2e%2e/net.weights", "a/../../net.weights"])
def test_weights_outside_of_the_folder_are_refused(at: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    _with_weights_outside(tmp_path / "model" / "net.onnx", at=at)
    with pytest.raises(EncoderError, match="outside of its folder"):
        model_digests(tmp_path / "model" / "net.onnx")


def test_an_address_in_memory_is_no_file_of_weights(tmp_path: Path) -> None:
    marker = "*/_ORT_MEM_ADDR_/*"
    _with_weights_outside(tmp_path / "net.onnx", at=marker)
    if os.name == "posix":  # a file of that name would be digested, and releases of ONNX Runtime read the memory
        (tmp_path / marker).parent.mkdir(parents=True)
        (tmp_path / marker).write_bytes(bytes(12))
    with pytest.raises(EncoderError, match="memory of the program"):
        model_digests(tmp_path / "net.onnx")


def test_every_tensor_of_a_graph_is_found(tmp_path: Path) -> None:
    onnx = extra_module("onnx", "onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT

    def outside(name: str) -> Any:
        tensor = onnx.numpy_helper.from_array(np.zeros(1, dtype=np.float32), name)
        onnx.external_data_helper.set_external_data(tensor, location=f"{name}.bin")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        return tensor

    def graph(name: str, *nodes: Any) -> Any:
        output = helper.make_tensor_value_info("y", number, [1])
        return helper.make_graph(list(nodes), name, [], [output], [outside(name)])

    constant = helper.make_node("Constant", [], ["c"], value=outside("constant"))
    sparse = onnx.SparseTensorProto(values=outside("values"), indices=outside("indices"), dims=[1])
    inner = helper.make_node("If", ["b"], ["y"], then_branch=graph("then", constant), else_branch=graph("else"))
    whole = graph("main", inner, helper.make_node("Constant", [], ["s"], sparse_value=sparse))
    whole.sparse_initializer.append(onnx.SparseTensorProto(values=outside("rare"), indices=outside("places"), dims=[1]))
    several = helper.make_node("Many", [], ["m"], domain="ours")
    several.attribute.append(helper.make_attribute("tensors", [outside("first"), outside("second")]))
    several.attribute.append(helper.make_attribute("graphs", [graph("nested")]))
    body = helper.make_node("Constant", [], ["y"], value=outside("f"))
    function = helper.make_function("ours", "F", [], ["y"], [body], [])
    model = helper.make_model(whole, functions=[function])
    model.graph.node.append(several)
    training = model.training_info.add()
    training.initialization.CopyFrom(graph("start"))
    branches, lists = ["constant", "values", "indices", "then", "else", "main"], ["first", "second", "nested"]
    names = [*branches, *lists, "rare", "places", "f", "start"]
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    for name in names:
        (tmp_path / f"{name}.bin").write_bytes(b"1234")
    assert set(model_digests(path)) == {"net.onnx", *(f"{name}.bin" for name in names)}
    whole_bytes = path.read_bytes()
    for length in range(0, len(whole_bytes) - 1, 7):
        path.write_bytes(whole_bytes[:length])
        with contextlib.suppress(EncoderError):  # cut between two messages, it is a graph again
            model_digests(path)


# --- encoders of other code


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(user_module, "_registered", {})
    user_module._entry_points.cache_clear()
    yield
    user_module._entry_points.cache_clear()


def _entry(name: str) -> Registered:
    one = dataclasses.replace(card("builtin"), name=name, source="python")
    return Registered(one, lambda **options: SimpleNamespace(card=one, options=options))


@pytest.mark.usefixtures("registry")
def test_a_registered_encoder_is_listed_and_loaded_with_what_was_asked() -> None:
    entry = _entry("their-net")
    register_encoder(entry.card, entry.load)
    assert cards()[-1] is entry.card and card("Their_Net") is entry.card
    assert availability("their-net").loadable
    loaded: Any = load_encoder("their-net", weights="w.pt", threads=2, views=4, device="cpu")
    assert loaded.options == {"weights": "w.pt", "threads": 2, "views": 4, "device": "cpu"}
    with pytest.raises(EncoderError, match="belongs to an encoder of histomix"):
        register_encoder(dataclasses.replace(entry.card, name="uni"), entry.load)
    with pytest.raises(EncoderError, match="lower case"):
        register_encoder(dataclasses.replace(entry.card, name="Their_Net"), entry.load)


@pytest.mark.usefixtures("registry")
def test_entry_points_are_found_and_a_broken_one_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ImportError("no module named theirs")

    points = [
        SimpleNamespace(name="a", value="theirs:ENTRY", load=lambda: _entry("one")),
        SimpleNamespace(name="b", value="theirs:entries", load=lambda: lambda: [_entry("two"), _entry("uni")]),
        SimpleNamespace(name="c", value="theirs:broken", load=broken),
        SimpleNamespace(name="d", value="theirs:wrong", load=lambda: "a string"),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points if group == user_module.GROUP else [])
    with caplog.at_level(logging.WARNING):
        names = [one.name for one in cards()]
    assert names[-2:] == ["one", "two"] and names.count("uni") == 1
    assert card("uni").source == "timm"
    assert "theirs:broken cannot be loaded: no module named theirs" in caplog.text
    assert "theirs:wrong gives no histomix.encoders.Registered" in caplog.text


# --- lazyslide-models


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    extra_module("zoo", "lazyslide_models")
    from lazyslide_models import MODEL_REGISTRY
    from lazyslide_models.base import ImageModel, ModelTask

    class Small(ImageModel):
        task, license, is_gated, commercial = ModelTask.vision, "MIT", False, True
        description = hf_url = github_url = paper_url = param_size = input_constraint = None
        encode_dim = 3

        def __init__(self, model_path: Any = None, token: Any = None) -> None:
            torch.manual_seed(0)
            self.model = Means() if model_path is None else torch.nn.Identity()

        def encode_image(self, image: Any) -> Any:
            return self.model(image)

    class Raw(Small):
        encode_dim = 3

        def __init__(self, token: Any = None) -> None:
            self.model = Means()

        def get_transform(self) -> Any:
            return None

        def encode_image(self, image: Any) -> Any:
            return self.model(torch.stack([one.float() / 255 for one in image]))

    class Remote(Small):
        def __init__(self, model_path: Any = None, token: Any = None) -> None:
            super().__init__()
            self.options = "trust_remote_code=True"

    found: dict[str, Any] = {"small": Small, "raw": Raw, "remote": Remote}
    for key, model in found.items():
        monkeypatch.setitem(MODEL_REGISTRY._data, key, model)
    return found


def test_a_model_of_lazyslide_is_an_encoder(zoo: dict[str, Any]) -> None:
    encoder = load_encoder("zoo:small", device="cpu")
    tiles = smooth_tiles(3, 224)
    wrapper = zoo["small"]()
    transform = wrapper.get_transform()
    expected = wrapper.encode_image(torch.stack([transform(tile) for tile in tiles])).detach().numpy()
    assert relative(encoder.embed(tiles), expected) < 1e-5
    assert (encoder.card.name, encoder.card.licence, encoder.dim) == ("zoo:small", "MIT", 3)
    assert {"mpp", "revision"} <= set(encoder.card.unconfirmed)
    assert load_encoder("zoo:small", device="cpu").digest == encoder.digest
    assert load_encoder("zoo:small", views=4, device="cpu").digest != encoder.digest
    raw = load_encoder("zoo:raw", device="cpu").embed(tiles)
    means = tiles.reshape(3, -1, 3).mean(1) / 255 * [1, 2, 3]
    assert relative(raw, means) < 1e-5


@pytest.mark.parametrize("name", ["remote", "hibou-b", "conch_v1.5", "open-midnight"])
def test_code_from_the_hub_is_never_run_unasked(name: str, zoo: dict[str, Any]) -> None:
    with pytest.raises(EncoderError, match=r"runs code that it downloads.*trust_code=True"):
        load_encoder(f"zoo:{name}")
    assert "--trust-code" in availability(f"zoo:{name}").hint
    assert load_encoder("zoo:remote", trust_code=True, device="cpu").dim == 3


def test_a_model_of_lazyslide_that_ignores_weights_refuses_them(zoo: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    for name in ("raw", "phikon"):
        with pytest.raises(EncoderError, match="takes no local weights"):
            load_encoder(f"zoo:{name}", weights=tmp_path / "w.pt")
    with pytest.raises(EncoderError, match="no such weights file"):
        load_encoder("zoo:small", weights=tmp_path / "absent.pt")


def test_names_of_lazyslide_are_checked(zoo: dict[str, Any]) -> None:
    with pytest.raises(EncoderError, match="no model 'nothing'"):
        card("zoo:nothing")
    with pytest.raises(EncoderError, match="no tile encoder"):
        card("zoo:gigapath-slide-encoder")


def test_a_missing_lazyslide_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "lazyslide_models" else real(name))
    with pytest.raises(MissingExtraError, match=r'pip install "histomix\[zoo\]"'):
        load_encoder("zoo:phikon")
    state = availability("zoo:phikon")
    assert not state.loadable and "histomix[zoo]" in state.hint


def test_lazyslide_offline_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra_module("zoo", "lazyslide_models")
    from huggingface_hub import constants

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", forbidden)
    with pytest.raises(EncoderError, match=r"HF_HUB_OFFLINE forbids.*hf auth login"):
        load_encoder("zoo:virchow2")
