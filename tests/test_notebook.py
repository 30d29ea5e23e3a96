"""Objects in a notebook: a card with the facts, in which hostile names stay text."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

import histomix as hm
from histomix.maps import CompositionMap
from histomix.notebook import card_html

from .conftest import Job
from .rich_summary import HOSTILE


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.depth, self.tags, self.words = 0, set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += 1
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name != "style"]

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _read(text: str) -> str:
    reader = _Tags()
    reader.feed(text)
    assert reader.depth == 0 and reader.tags <= {"div", "table", "tr", "th", "td"}
    return " ".join(reader.words)


def test_a_card_escapes_every_text() -> None:
    rows = [[name, 0.5, -1.0] for name in HOSTILE]
    words = _read(card_html(HOSTILE[0], HOSTILE[4], [(HOSTILE[4], HOSTILE[0]), ("empty", [])], [HOSTILE[4]] * 3, rows))
    assert all(name in words for name in HOSTILE) and "−1.000" in words and "empty" not in words
    assert "and 6 more" in _read(card_html("t", "l", [], ["a"], [[i] for i in range(30)]))


def test_the_objects_show_themselves(job: Job) -> None:
    cohort = hm.read_cohort(job.sheet)
    words = _read(cohort._repr_html_())
    assert "2 sections of 2 donors" in words and all(name in words for name in cohort.names)
    head = hm.load_head(job.head)
    words = _read(head._repr_html_())
    assert (
        "ridge" in words and "builtin: Apache-2.0" in words and all(name in words for name in head.card["cell_types"])
    )
    every, features = hm.read_labels(job.labels), hm.read_features(job.features)
    words = _read(every._repr_html_())  # type: ignore[attr-defined]
    assert "Labels" in words and "of 2 sections, 8 cell types" in words and "proportion" in words
    assert type(hm.label(cohort, reference=job.reference)) is type(every) and isinstance(every, dict)
    words = _read(features._repr_html_())  # type: ignore[attr-defined]
    assert "Features" in words and "builtin" in words and f"{features[cohort.names[0]].n_vars:,} features" in words
    labels = every[cohort.names[0]]
    words = _read(labels._repr_html_())
    assert f"{labels.values.iloc[:, 0].mean():.3f}" in words


def test_an_evaluation_shows_its_scores(job: Job) -> None:
    found = hm.evaluate(
        hm.read_cohort(job.sheet),
        hm.read_features(job.features),
        hm.read_labels(job.labels),
        heads=("ridge",),
        spatial=False,
    )
    words = _read(found._repr_html_())
    assert "held-out donors" in words and f"{found.table().loc['ridge', 'pearson']:.3f}" in words


def test_a_map_is_described(job: Job) -> None:
    composition = hm.predict(job.image, job.head)
    values = np.array(composition.X)
    values[2] = np.nan
    composition.X = values
    found = CompositionMap(composition).describe()
    read = np.delete(values, 2, axis=0)
    means = dict(zip(composition.var_names, read.mean(axis=0), strict=True))
    assert found.facts["readable"] == composition.n_obs - 1
    for name, row in found.table.iterrows():
        assert row["mean"] == pytest.approx(means[name], rel=1e-5)
    most = read.argmax(axis=1) == 0
    assert found.table.loc[composition.var_names[0], "most_abundant_in"] == pytest.approx(most.mean())
    assert found.table["most_abundant_in"].sum() == pytest.approx(1)
    assert "Composition" in _read(found._repr_html_())
