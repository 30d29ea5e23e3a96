"""Hist2Cell: its size, its neighbourhoods, and that a prediction does not depend on the batch it is made in."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from histomix.errors import HeadError, MissingExtraError
from histomix.heads import Positions, make_estimator
from histomix.heads.models.hist2cell_network import Hist2CellTiles, SpotGraph

from .extras import needs_extra
from .test_looking import tissue

with_graphs = needs_extra("baselines", "torch_geometric")


@pytest.fixture(scope="module")
def fitted() -> tuple[Any, ...]:
    X, Y, section, positions = tissue(n_sections=2, side=6)
    train = section == "s0"
    head: Any = make_estimator("hist2cell", epochs=25, learning_rate=5e-4)
    return head.fit(X[train], Y[train], positions=positions[train]), X, Y, section, positions


@with_graphs
def test_the_network_is_as_large_as_the_published_one() -> None:
    size = sum(parameter.numel() for parameter in Hist2CellTiles(80).parameters())
    assert size == pytest.approx(14_232_064, rel=0.001)


def test_the_graph_joins_neighbours_of_one_section() -> None:
    _, _, section, positions = tissue(n_sections=2, side=5)
    graph = SpotGraph.of(positions, 200.0)
    dense = graph.adjacency.toarray()
    distance = np.linalg.norm(positions.xy_um[:, None] - positions.xy_um, axis=-1)
    same = section[:, None] == section
    np.testing.assert_array_equal(dense, (distance == 200) & same)
    steps = np.abs(positions.xy_um[:, None] - positions.xy_um).sum(axis=-1) / 200
    np.testing.assert_array_equal(graph.within_two.toarray() > 0, (steps <= 2) & same)
    around = graph.around(np.array([12, 0]))
    assert (around.nodes[0] >= 0).sum() == 13 and (around.nodes[1] >= 0).sum() == 6
    assert around.nodes[[0, 1], around.middle].tolist() == [12, 0]
    pairs = around.nodes.ravel()[around.edges]
    assert dense[pairs[0], pairs[1]].all() and (pairs >= 0).all()


@with_graphs
def test_predictions_do_not_depend_on_the_batch(fitted: tuple[Any, ...]) -> None:
    head, X, _, section, positions = fitted
    there, rows = positions[section == "s1"], X[section == "s1"]
    expected = head.predict(rows, there)
    assert expected.std(axis=0).min() > 1e-3
    for size in (1, 5, 36):
        head.set_params(predict_batch=size)
        np.testing.assert_allclose(head.predict(rows, there), expected, atol=1e-5)
    # A spot and all that is within two steps of it, alone: the same prediction.
    graph = SpotGraph.of(there, 200.0)
    part = graph.within_two.indices[graph.within_two.indptr[14] : graph.within_two.indptr[15]]
    # A slide that ends at the second step has the same edges inside it.
    alone = head.predict(rows[part], there[part])
    np.testing.assert_allclose(alone[np.searchsorted(part, 14)], expected[14], atol=1e-5)
    # Another section beside it changes nothing.
    np.testing.assert_allclose(head.predict(X, positions)[section == "s1"], expected, atol=1e-5)


@with_graphs
def test_it_learns_and_is_restored(fitted: tuple[Any, ...]) -> None:
    head, X, Y, section, positions = fitted
    predicted = head.predict(X[section == "s0"], positions[section == "s0"])
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-6)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, Y[section == "s0"].T, strict=True)]
    assert np.mean(r) > 0.5
    restored = make_estimator("hist2cell").restore(*head.fitted())
    np.testing.assert_allclose(restored.predict(X, positions), head.predict(X, positions), atol=1e-6)
    arrays, numbers = head.fitted()
    with pytest.raises(HeadError, match=r"graph.att_ has shape"):
        make_estimator("hist2cell").restore({**arrays, "graph.att_": arrays["graph.att_"][0]}, numbers)
    with pytest.raises(HeadError, match="no places were given"):
        head.predict(X)


@with_graphs
def test_end_to_end_on_tiles() -> None:
    import torch

    X, Y, section, positions = tissue(n_sections=1, side=4)
    rng = np.random.default_rng(0)
    shade = (255 * Y[:, :1, None, None] / Y.max()).astype(np.uint8)
    pixels = np.broadcast_to(shade.transpose(0, 2, 3, 1), (16, 32, 32, 1)).repeat(3, axis=3)
    asked: list[int] = []

    def tiles(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return pixels[rows]

    there = Positions(section, positions.xy_um, tiles)
    head: Any = make_estimator("hist2cell-tiles", epochs=2, batch_size=4)
    state = torch.get_rng_state()
    head.fit(X, Y, positions=there)
    assert torch.equal(state, torch.get_rng_state())
    assert sum(asked) > 2 * 16 * 2  # every centre with its neighbours, in every epoch
    expected = head.predict(X, there)
    head.set_params(predict_batch=3)
    np.testing.assert_allclose(head.predict(X, there), expected, atol=1e-4)
    restored = make_estimator("hist2cell-tiles").restore(*head.fitted())
    np.testing.assert_allclose(restored.predict(X, there), expected, atol=1e-4)
    with pytest.raises(HeadError, match="no tiles were given"):
        head.predict(X, positions)
    with pytest.raises(HeadError, match="tiles must be uint8"):
        head.predict(X, Positions(section, positions.xy_um, lambda rows: rng.random((len(rows), 8, 8, 3))))


def test_without_torch_geometric_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y, section, positions = tissue(n_sections=1, side=4)
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    with pytest.raises(MissingExtraError, match=r"histomix\[baselines\]"):
        make_estimator("hist2cell").fit(X, Y, section, positions=positions)
