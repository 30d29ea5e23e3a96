"""Figures by their public functions: what they draw, where they save it, and what they refuse."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

import histomix as hm
from histomix.abundance import Abundance
from histomix.common.words import RESEARCH_USE
from histomix.errors import InputError
from histomix.evaluation import Evaluation
from histomix.maps import CompositionMap
from histomix.pl.tables import confusion_table

from .conftest import Job
from .rich_summary import HOSTILE, enriched

matplotlib.use("agg")


@pytest.fixture(scope="module")
def evaluation(job: Job) -> Evaluation:
    """An evaluation whose cell types have hostile names."""
    cohort, features = hm.read_cohort(job.sheet), hm.read_features(job.features)
    labels = {}
    for name, table in hm.read_labels(job.labels).items():
        types = [*HOSTILE, *table.cell_types][: len(table.cell_types)]
        labels[name] = Abundance(table.values.set_axis(types, axis=1), table.unit)
    found = hm.evaluate(cohort, features, labels, heads=("ridge",), spatial=False)
    return dataclasses.replace(found, summary=enriched(found.summary, "ridge"))


@pytest.fixture(scope="module")
def composition(job: Job) -> ad.AnnData:
    return hm.predict(job.image, job.head)


@pytest.fixture(autouse=True)
def _closed() -> object:
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_a_map_shows_every_tile_in_the_colour_of_its_value(composition: ad.AnnData) -> None:
    name = str(composition.var_names[1])
    axes = hm.pl.composition(composition, color=name, vmin=0, vmax=1, cmap="magma")
    (marks,) = axes.collections
    values = np.asarray(composition.X)[:, 1]
    np.testing.assert_allclose(marks.get_facecolor(), matplotlib.colormaps["magma"](values.clip(0, 1)), atol=1e-6)
    corners = np.array([path.get_extents().get_points().mean(axis=0) for path in marks.get_paths()])
    scale = corners[0] / composition.obsm["spatial"][0]
    np.testing.assert_allclose(corners, composition.obsm["spatial"] * scale, rtol=1e-6)
    assert axes.get_title() == name


def test_the_slide_shows_through_tiles_of_less_than_full_opacity(composition: ad.AnnData) -> None:
    name = str(composition.var_names[1])
    full, half = (hm.pl.composition(composition, color=name, alpha=alpha).collections[0] for alpha in (1.0, 0.4))
    np.testing.assert_allclose(half.get_facecolor()[:, 3], 0.4 * full.get_facecolor()[:, 3])
    np.testing.assert_allclose(half.get_facecolor()[:, :3], full.get_facecolor()[:, :3])
    marks = hm.pl.dominant(composition, alpha=0.4).collections[0]
    assert marks.get_facecolor()[:, 3].max() == pytest.approx(0.4)
    with pytest.raises(InputError, match="opacity"):
        hm.pl.composition(composition, color=name, alpha=0)


def test_several_maps_and_a_column_of_the_tiles(composition: ad.AnnData) -> None:
    every = hm.pl.composition(composition, list(composition.var_names), ncols=3)
    assert len(every) == composition.n_vars
    first, second = hm.pl.composition(composition, color=[str(composition.var_names[0]), "novelty"], title=["a", "b"])
    assert (first.get_title(), second.get_title()) == ("a", "b")
    with pytest.raises(InputError, match="neither a cell type"):
        hm.pl.composition(composition, color="nothing")
    with pytest.raises(InputError, match="no layer 'middle'"):
        hm.pl.composition(composition, color=str(composition.var_names[0]), layer="middle")
    with pytest.raises(InputError, match="2 panels to draw, and 1 axes"):
        hm.pl.composition(composition, color=list(composition.var_names[:2]), ax=Figure().subplots())


def _varied(composition: ad.AnnData) -> ad.AnnData:
    """The map with type 1 rising from left to right beyond its interval, type 0 within it; the right is hatched."""
    varied = composition.copy()
    varied.var["good_for"] = "not known"
    x = varied.obsm["spatial"][:, 0]
    values = np.full(varied.shape, 0.05, np.float32)
    values[:, 1] = np.interp(x, [x.min(), x.max()], [0.1, 0.9])
    values[:, 0] = 0.5 + 0.02 * np.sign(x - np.median(x))
    varied.X = values
    varied.layers["lower"], varied.layers["upper"] = values - 0.03, values + 0.03
    varied.obs["in_scope"] = x < np.quantile(x, 0.8)
    return varied


def test_the_first_picture_is_of_what_varies_beyond_its_interval(composition: ad.AnnData) -> None:
    varied = _varied(composition)
    picture = np.full((50, 60, 3), 200, np.uint8)
    panels = hm.pl.composition(varied, img=picture)
    first = str(varied.var_names[1])
    assert [axes.get_title() for axes in panels[:2]] == ["H&E", first] and "differs nowhere" in panels[2].get_xlabel()
    used = varied.obs["in_scope"].to_numpy()
    rising = np.asarray(varied.X)[:, 1]
    mean = rising[used].mean()
    pale = np.abs(rising - mean) <= 0.03
    marks = next(one for one in panels[1].collections if isinstance(one, PolyCollection))
    faces = marks.get_facecolor()
    assert (faces[pale & used, 3] < 0.5).all() and (faces[~pale & used, 3] == 1).all()
    # Red is more than the mean, blue less, on one scale for all panels.
    more, less = used & (rising > mean + 0.2), used & (rising < mean - 0.2)
    assert (faces[more, 0] > faces[more, 2]).all() and (faces[less, 0] < faces[less, 2]).all()
    (words,) = [text.get_text() for text in panels[0].get_figure().texts]
    assert RESEARCH_USE in " ".join(words.split()) and "Hatched" in words


def test_tiles_out_of_scope_are_hatched_and_only_those(composition: ad.AnnData) -> None:
    varied = _varied(composition)
    name = str(varied.var_names[1])
    axes = hm.pl.composition(varied, name)
    outside = ~varied.obs["in_scope"].to_numpy()
    hatching = [one for one in axes.collections if isinstance(one, LineCollection)]
    assert hatching
    cut, _ = hatching[0].get_clip_path().get_transformed_path_and_affine()
    canvas_px = 256 / max(CompositionMap(varied).slide[side] for side in ("width_px", "height_px"))
    for place, hidden in zip(varied.obsm["spatial"] * canvas_px, outside, strict=True):
        assert cut.contains_point(place) == hidden
    assert (axes.collections[0].get_facecolor()[outside, 3] < 0.5).all()
    varied.obs["in_scope"] = True
    assert not [one for one in hm.pl.composition(varied, name).collections if isinstance(one, LineCollection)]
    assert hm.pl.dominant(_varied(composition)).collections[1:], "the most abundant type is hatched as well"


def test_bars_of_a_map_are_of_the_tiles_in_scope(composition: ad.AnnData) -> None:
    varied = _varied(composition)
    axes = hm.pl.proportions(varied)
    lengths = [bar.get_width() for bar in axes.patches]
    expected = np.asarray(varied.X)[varied.obs["in_scope"].to_numpy()].mean(axis=0)
    np.testing.assert_allclose(lengths, expected / expected.sum(), rtol=1e-4)
    varied.obs["in_scope"] = np.arange(varied.n_obs) == 0
    (label,) = hm.pl.proportions({"far": varied}).get_yticklabels()
    assert label.get_text() == f"far: {100 / varied.n_obs:.0f} % in scope"


def test_bounds_are_drawn_from_their_layer(composition: ad.AnnData) -> None:
    bounded = composition.copy()
    bounded.layers["upper"] = np.ones_like(np.asarray(bounded.X))
    axes = hm.pl.composition(bounded, color=str(bounded.var_names[0]), layer="upper", vmin=0, vmax=1)
    assert len(np.unique(axes.collections[0].get_facecolor(), axis=0)) == 1


def test_the_most_abundant_type_has_its_own_colour(composition: ad.AnnData) -> None:
    first = str(composition.var_names[0])
    axes = hm.pl.dominant(composition, palette={first: "#010203"})
    greatest = np.asarray(composition.X).argmax(axis=1) == 0
    drawn = np.all(np.isclose(axes.collections[0].get_facecolor()[:, :3], np.array([1, 2, 3]) / 255), axis=1)
    np.testing.assert_array_equal(drawn, greatest)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(map(str, composition.var_names))


def test_axes_of_the_caller_are_used_and_given_back(composition: ad.AnnData, evaluation: Evaluation) -> None:
    import matplotlib.pyplot as plt

    axes = Figure().subplots()
    assert hm.pl.dominant(composition, ax=axes) is axes
    assert hm.pl.scores(evaluation, ax=Figure().subplots()) is not None
    assert not plt.get_fignums(), "no figure of pyplot was made"


@pytest.mark.parametrize(
    "name", ["calibration", "colocalisation", "confusion", "detectability", "inflation", "proportions", "scores"]
)
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_charts_are_saved_with_hostile_names(evaluation: Evaluation, name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}{suffix}"
    axes = getattr(hm.pl, name)(evaluation, save=path)
    assert axes is not None
    if suffix == ".svg":
        root = ElementTree.parse(path).getroot()
        assert not [node for node in root.iter() if node.tag.endswith("script")]
    else:
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_a_name_is_shown_as_it_is_written(evaluation: Evaluation) -> None:
    labels = [one.get_text() for one in hm.pl.scores(evaluation).get_yticklabels()]
    assert r"\$\frac{" in labels, "a dollar is no mathematics"
    assert not any("\u202e" in one for one in labels)
    bars = hm.pl.proportions(evaluation)
    shown = [text.get_text().strip() for text in bars.get_legend().get_texts()]
    assert len(shown) == len(evaluation.summary["cell_types"]), "no name is hidden by its first mark"


def test_scores_are_those_of_the_summary(evaluation: Evaluation) -> None:
    axes = hm.pl.scores(evaluation, color="ridge")
    entries = evaluation.summary["scores"]["label"]["ridge"]["pearson"]["types"]
    expected = sorted(one["mean"] for one in entries.values() if one["mean"] is not None)
    drawn = next(one for one in axes.collections if one.get_label() == "ridge")
    np.testing.assert_allclose(sorted(drawn.get_offsets()[:, 0]), expected)
    with pytest.raises(InputError, match="no head 'none'"):
        hm.pl.scores(evaluation, color="none")
    with pytest.raises(InputError, match="no target 'truth'"):
        hm.pl.scores(evaluation, target="truth")


def test_confusion_agrees_with_scikit_learn(evaluation: Evaluation) -> None:
    types = list(evaluation.summary["cell_types"])
    observed = pd.concat(evaluation.labels.values())
    predicted = pd.concat([evaluation.predictions["ridge"][name] for name in evaluation.labels])
    expected = confusion_matrix(
        observed.to_numpy().argmax(axis=1), predicted.to_numpy().argmax(axis=1), labels=range(len(types))
    )
    found = confusion_table(evaluation, "ridge").reindex(index=types, columns=types, fill_value=0)
    np.testing.assert_array_equal(found, expected)
    groups = dict.fromkeys(types[:3], "first") | dict.fromkeys(types[3:], "rest")
    pair = confusion_table(evaluation, "ridge", groups=groups)
    first = [
        (table.to_numpy()[:, :3].sum(axis=1) < table.to_numpy()[:, 3:].sum(axis=1)) for table in (observed, predicted)
    ]
    np.testing.assert_array_equal(
        pair.reindex(index=["first", "rest"], columns=["first", "rest"], fill_value=0),
        confusion_matrix(*first, labels=[False, True]),
    )


def test_label_beside_prediction(evaluation: Evaluation) -> None:
    section, name = evaluation.summary["sections"][0], evaluation.summary["cell_types"][0]
    axes = hm.pl.compare(evaluation, section, name)
    drawn = axes.collections[0].get_offsets()
    np.testing.assert_allclose(drawn[:, 0], evaluation.labels[section][name])
    np.testing.assert_allclose(drawn[:, 1], evaluation.predictions["ridge"][section][name])
    with pytest.raises(InputError, match="no section 'none'"):
        hm.pl.compare(evaluation, "none", name)


def test_what_was_not_evaluated_is_refused(evaluation: Evaluation) -> None:
    bare = dataclasses.replace(
        evaluation,
        summary={
            name: value
            for name, value in evaluation.summary.items()
            if name not in ("calibration", "spatial", "inflation", "detectability")
        },
    )
    for draw in (hm.pl.calibration, hm.pl.colocalisation, hm.pl.inflation, hm.pl.detectability):
        with pytest.raises(InputError):
            draw(bare)


def test_a_training_curve(job: Job) -> None:
    axes = hm.pl.training([3.0, 2.0, 1.5, 1.7])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [3.0, 2.0, 1.5, 1.7])
    assert any("epoch 3" in text.get_text() for text in axes.texts)
    with pytest.raises(InputError, match="no training curve"):
        hm.pl.training(hm.load_head(job.head))


def test_an_unknown_format_is_refused_before_anything_is_written(composition: ad.AnnData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no format of pictures"):
        hm.pl.dominant(composition, save=tmp_path / "map.docx")
    assert not list(tmp_path.iterdir())
