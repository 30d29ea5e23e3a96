"""Features in less than float32: how far they move a head, and what stands in where they cannot be had."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.embedding import feature_manifest, read_features
from histomix.embedding.precision import KEY, SAMPLE, embed_precision_shifts, precision_shifts
from histomix.embedding.samples import sample_facts
from histomix.embedding.target import EncoderSource
from histomix.encoders import load_encoder
from histomix.encoders.onnx import openvino
from histomix.encoders.runtimes import PRECISIONS, optimise, precision_digest
from histomix.errors import FeatureError, HeadError, MissingExtraError
from histomix.heads.cards.precision import TOLERATED
from histomix.prediction import load_head_encoders
from histomix.prediction.chunks import check_encoders
from histomix.slides import open_slide

from .conftest import Job
from .extras import needs_extra


def rounded(features: Any, size: float) -> Any:
    """The features as if they were of bfloat16, and float32 were away by ``size`` of their standard deviation."""
    rng, digest = np.random.default_rng(0), precision_digest(load_encoder(threads=1), "bfloat16")
    for one in features.values():
        rows = np.arange(0, one.n_obs, 2)
        spread = np.asarray(one.X, np.float32).std(axis=0)
        shifts = (size * spread * rng.normal(size=(len(rows), one.n_vars))).astype(np.float32)
        manifest = feature_manifest(one)
        manifest["encoder"] |= {"precision": "bfloat16", "digest": digest}
        one.uns[KEY] = shifts
        one.uns["manifest"] = json.dumps({**manifest, KEY: sample_facts(shifts, at=rows.tolist())})
    return features


def test_a_head_tells_how_far_its_predictions_move_or_is_refused(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def trained(size: float) -> Any:
        return hm.train(job.sheet, rounded(read_features(job.features), size), job.labels, head="ridge", level=None)

    head = trained(1e-3)
    facts = head.card["precision"]
    assert facts["precision"] == "bfloat16" and 0 < facts["sd"] <= facts["tolerated"] == TOLERATED["bfloat16"]
    assert "Its features are computed in bfloat16" in hm.heads.card_markdown(head.card)
    smaller = trained(1e-4).card["precision"]
    assert 9 < facts["sd"] / smaller["sd"] < 11
    with pytest.raises(HeadError, match=r"predictions move by .*% .* in bfloat16 instead of float32, more than the 1%"):
        trained(1.0)

    # Where bfloat16 cannot be had, float32 passes for it, and says so; not for a head that does not tell how far.
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    with caplog.at_level(logging.WARNING, logger="histomix"):
        encoders = load_head_encoders(head, threads=1)
    assert "computes in float32 instead of bfloat16, which moves this head's predictions by" in caplog.text
    check_encoders(head, encoders)
    assert "in place of bfloat16" in encoders[0].runtime  # type: ignore[attr-defined]
    del head.card["precision"]
    with pytest.raises(MissingExtraError, match="openvino"):
        load_head_encoders(head, threads=1)


def test_features_in_less_than_float32_must_tell_how_far(job: Job) -> None:
    features = rounded(read_features(job.features), 1e-3)
    for one in features.values():
        one.uns["manifest"] = json.dumps({k: v for k, v in feature_manifest(one).items() if k != KEY})
    with pytest.raises(HeadError, match=r"do not tell how far predictions move.*--runtime"):
        hm.train(job.sheet, features, job.labels, head="ridge", level=None)


class Rounded:
    """The built-in encoder with coarser features."""

    precision = "bfloat16"

    def __init__(self) -> None:
        self.float32 = load_encoder(threads=1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.float32, name)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        return np.asarray(np.round(self.float32.embed(tiles), 1))


def test_a_sample_is_embedded_in_float32_too(job: Job) -> None:
    coarse: Any = Rounded()
    with open_slide(job.image) as slide:
        side = np.linspace(0.2, 0.8, 5)
        x, y = (axis.ravel() for axis in np.meshgrid(side * slide.width_px, side * slide.height_px))
        tiles = pd.DataFrame({"x_px": x, "y_px": y, "tissue": np.where(np.arange(25) < 3, 0.0, 1.0)})
        exact, found = embed_precision_shifts(slide, tiles, [coarse.float32, coarse])
    assert exact is None and found is not None
    rows, shifts = found
    assert len(rows) == SAMPLE and rows.min() >= 3 and shifts.shape == (SAMPLE, coarse.dim)
    assert 0.01 < np.abs(shifts).max() <= 0.0501
    table = next(iter(rounded(read_features(job.features), 1e-3).values()))
    assert precision_shifts(table, feature_manifest(table)) is not None
    manifest = feature_manifest(table)
    manifest[KEY]["at"][0] = table.n_obs
    with pytest.raises(FeatureError, match="of tiles that are not there"):
        precision_shifts(table, manifest)
    table.uns[KEY][0] += 1
    with pytest.raises(FeatureError, match="digest"):
        precision_shifts(table, feature_manifest(table))


def test_the_precision_of_a_folder_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(encoder: Any, *args: Any, precision: str | None = None, **options: Any) -> Any:
        asked.append(precision)
        return encoder

    monkeypatch.setattr("histomix.encoders.runtimes.optimise", spy)
    for precision in (None, *PRECISIONS):
        source = EncoderSource("builtin", None, 1)
        source.recognise({} if precision is None else {"encoder": {"precision": precision}})
        source.load()
    assert asked == [None, *PRECISIONS]


@needs_extra("openvino", "openvino")
def test_bfloat16_from_tiles_to_a_map(job: Job, tmp_path: Path) -> None:
    if "BF16" not in openvino.processor():
        pytest.skip("this CPU does not compute in bfloat16")
    features = hm.embed(job.sheet, out=tmp_path / "features", runtime="bf16", progress=False)
    table = next(iter(features.values()))
    manifest = feature_manifest(table)
    assert manifest["encoder"]["precision"] == "bfloat16" and "OpenVINO" in manifest["runtime"]
    kept = precision_shifts(table, manifest)
    assert kept is not None and len(kept[1]) and kept[1].any()
    assert manifest["encoder"]["digest"] == optimise(load_encoder(threads=1), "bf16").digest
    with pytest.raises(FeatureError, match="precision bfloat16, not float32"):
        hm.embed(job.sheet, out=tmp_path / "features", runtime="torch", progress=False)
