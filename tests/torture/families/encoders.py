"""Encoders of one's own: cards and ONNX files, and the sections that are embedded with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from .. import commands
from ..case import EITHER, ERROR, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes
from ..materials import Materials
from .tiff import data_damages

_FACTS: dict[str, Any] = {
    "name": "ours", "model": "net.onnx", "size_px": 32, "mpp": 0.5, "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3],
    "dim": 3, "licence": "our own",
}  # fmt: skip


def _network(path: Path, dim: int = 3, says: int | None = None) -> None:
    """The mean of every channel, as a network of ``dim`` numbers that says it has others."""
    import onnx

    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", number, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("embedding", number, ["n", says or dim])],
        [helper.make_tensor("weight", number, [3, dim], np.eye(3, dim) * [[1.0], [2.0], [3.0]])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _make(room: Path, materials: Materials) -> None:
    import yaml

    shutil.copytree(materials.folder / "phantom", room / "phantom")
    lines = (room / "phantom" / "sheet.csv").read_text().splitlines()
    (room / "phantom" / "sheet.csv").write_text("\n".join(lines[:2]) + "\n")
    _network(room / "net.onnx")
    (room / "card.yaml").write_text(yaml.safe_dump(_FACTS))


def _result(_room: Path) -> pd.DataFrame:
    table = ad.read_h5ad("out/P1S1.h5ad")
    return pd.DataFrame(np.asarray(table.X, float), index=table.obs_names.astype(str))


def _role(name: str, file: str) -> Role:
    argv = ["embed", "phantom/sheet.csv", "--encoder", "card.yaml", "--out", "out", "--json"]
    return Role(name, file, _make, lambda _room, _m: argv, _result, names=("net.onnx", "ours"))


def _card(**changes: Any) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        import yaml

        facts = {key: value for key, value in {**_FACTS, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(facts), encoding="utf-8")

    return apply


def cases() -> Iterator[Case]:
    """Cases of encoders, and of the image of a section."""
    wrong: list[tuple[str, Any]] = [
        *(("size_px", value) for value in (0, -3, 1e9, "32", 32.5, True)),
        *(("mpp", value) for value in (0, -1, float("nan"), float("inf"), "half", 1e300)),
        *(("mean", value) for value in ([], [1, 2], "text", [float("nan")] * 3, 3)),
        *(("std", value) for value in ([0, 0, 0], [-1, 1, 1], [[1], [1], [1]])),
        *(("dim", value) for value in (0, 4, 10**9, "three", True)),
        *(("model", value) for value in ("absent.onnx", "net.pkl", "../net.onnx", "/etc/passwd", 7, "")),
        *(("name", value) for value in ("", 3, "a/b", "x" * 1000)),
        ("colour", "red"),
    ]
    cards = [(f"{key}={str(value)[:12].replace('/', ':')}", _card(**{key: value}), ERROR) for key, value in wrong]
    taken = ("name", "model=..:net", "size_px=32", "std=[[")  # may be, as they are
    cards = [(name, damage, UNTOLD if name.startswith(taken) else expect) for name, damage, expect in cards]
    lacking = [(f"no-{key}", _card(**{key: None}), ERROR) for key in ("model", "size_px", "mpp", "dim", "mean")]
    yield from cases_of(_role("encoder-card", "card.yaml"), [*cards, *lacking, *of_bytes.BROKEN[:3], *of_bytes.LOST])
    networks: list[tuple[str, Damage, str]] = [
        ("other-width", lambda path, _rng: _network(path, dim=5), ERROR),
        ("says-other-width", lambda path, _rng: _network(path, says=5), EITHER),
        ("external-weights", lambda path, _rng: _external(path), ERROR),
    ]
    blind = [(name, damage, UNTOLD) for name, damage, _ in [*of_bytes.BROKEN, *of_bytes.flipped(10)]]
    yield from cases_of(_role("encoder-network", "net.onnx"), [*networks, *blind, *of_bytes.LOST])
    image = _role("embed-image", "phantom/images/P1S1.tif")
    yield from cases_of(
        image, [*of_bytes.BROKEN, *of_bytes.flipped(6, UNTOLD), *of_bytes.LOST, *data_damages("jpeg")[:2]]
    )


def _external(path: Path) -> None:
    """Weights that are said to lie in another file of this computer."""
    import onnx

    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../../../etc/hostname"), ("offset", "0"), ("length", "12")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)


__all__ = ["EITHER", "cases", "commands"]
