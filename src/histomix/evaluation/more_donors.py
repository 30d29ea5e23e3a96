"""What more donors in training do: to other sections of donors that are in it, and to donors that are not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.metrics import Array, pearson_by_section
from ..common.resampling import mean_and_interval, resample_weights
from ..errors import InputError
from ..heads import TrainingSet
from .fit_folds import Fits, fit_and_predict
from .folds import Fold

#: Donors with two sections or more that it takes; of more than the most, some are drawn.
MIN_DONORS, MOST_DONORS = 3, 6
#: Times that another section of each donor is held out, at most.
N_ROUNDS = 2
MEANS = (
    "mean Pearson correlation of a section, over cell types; one section of each donor is held out, and heads are "
    "trained on the other sections of one donor, of two, of all but one and of all; paired differences are those of "
    "the same held-out section; intervals draw donors, then sections"
)


@dataclass(frozen=True)
class _Round:
    """Rows of each donor to train on, and rows of one section of each that are held out."""

    train: dict[str, NDArray[np.intp]]
    test: NDArray[np.intp]


def check_more_donors(training: TrainingSet) -> list[str]:
    """Donors that have two sections or more.

    Raises
    ------
    InputError
        They are fewer than three.
    """
    donors = [
        str(name) for name in np.unique(training.donor) if len(np.unique(training.section[training.donor == name])) > 1
    ]
    if len(donors) < MIN_DONORS:
        raise InputError(
            f"what more donors do is told from at least {MIN_DONORS} donors with two sections or more; there are "
            f"{len(donors)}",
            hint="Leave --more-donors out",
        )
    return donors


def more_donors(
    training: TrainingSet,
    estimators: Mapping[str, Any],
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
    n_rounds: int = N_ROUNDS,
) -> dict[str, Any]:
    """Score heads trained on one donor, two, all but one and all, on held-out sections of these and of other donors.

    Parameters
    ----------
    training
        Spots of three donors or more with two sections or more each; other donors have no part.
    estimators
        Unfitted heads by name.
    seed
        Of which donors and sections are drawn, and of the bootstrap.
    step
        Called after each fit.
    n_rounds
        Times that another section of each donor is held out, at most.

    Returns
    -------
    dict
        ``means`` (the rule), ``n_donors``, ``n_sections`` (held out), ``n_fits``, ``seconds`` and ``heads``: of each
        head the curves ``same_donors`` (held-out sections of donors in training) and ``other_donors`` (of donors that
        are not), lists of ``n_donors`` in training with ``mean``, ``low``, ``high``; and the paired differences
        ``second_donor`` (what a second donor adds on held-out sections of the first) and ``last_donor`` (what the last
        donor adds on those of the others).

    Raises
    ------
    InputError
        Fewer than three donors have two sections.
    HeadError
        A head cannot be fitted.
    """
    start = time.perf_counter()
    donors, rounds, sets = _plan(training, seed, n_rounds)
    heads = {}
    for name, estimator in estimators.items():
        correlations: dict[tuple[frozenset[str], str], float] = {}
        for number, one in enumerate(rounds):
            for members in sets:
                rows = np.sort(np.concatenate([one.train[donor] for donor in members]))
                fold = Fold(f"round {number + 1}, {len(members)} donors", rows, one.test)
                seen = training.seen_from(rows)
                values = fit_and_predict(name, estimator, seen, fold, Fits(cost={name: _no_cost()}))
                correlations |= {
                    (members, section): score
                    for section, score in _by_section(training, one.test, values).items()
                    if np.isfinite(score)
                }
                step()
        heads[name] = _figures(correlations, training, seed)
    return {
        "means": MEANS,
        "n_donors": len(donors),
        "n_sections": sum(len(np.unique(training.section[one.test])) for one in rounds),
        "n_fits": len(rounds) * len(sets) * len(estimators),
        "seconds": round(time.perf_counter() - start, 1),
        "heads": heads,
    }


def n_fits(training: TrainingSet, seed: int = 0, n_rounds: int = N_ROUNDS) -> int:
    """How many fits of each head `more_donors` will make."""
    _, rounds, sets = _plan(training, seed, n_rounds)
    return len(rounds) * len(sets)


def _plan(training: TrainingSet, seed: int, n_rounds: int) -> tuple[list[str], list[_Round], list[frozenset[str]]]:
    """Donors, what is held out of them, and the sets of them that heads are trained on."""
    rng = np.random.default_rng(seed)
    donors = rng.permutation(check_more_donors(training)).tolist()[:MOST_DONORS]
    order = {donor: rng.permutation(np.unique(training.section[training.donor == donor])) for donor in donors}
    rounds = []
    for number in range(min(n_rounds, *(len(sections) for sections in order.values()))):
        held = {donor: str(sections[number]) for donor, sections in order.items()}
        train = {
            donor: np.flatnonzero((training.donor == donor) & (training.section != held[donor])) for donor in donors
        }
        rounds.append(_Round(train, np.flatnonzero(np.isin(training.section, list(held.values())))))
    # Each donor, each with the next one, all but each, and all; each set once.
    everyone = frozenset(donors)
    sets = [frozenset([donor]) for donor in donors]
    sets += [frozenset(pair) for pair in zip(donors, [*donors[1:], donors[0]], strict=True)]
    sets += [everyone - {donor} for donor in donors]
    return donors, rounds, list(dict.fromkeys([*sets, everyone]))


def _by_section(training: TrainingSet, rows: NDArray[np.intp], values: Array) -> dict[str, float]:
    """Mean over types of the Pearson correlation of each section."""
    section = training.section[rows]
    table = pearson_by_section(np.asarray(training.Y[rows], dtype=np.float64), values, section)
    means = [row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in table]
    return dict(zip(np.unique(section).tolist(), means, strict=True))


def _figures(
    correlations: Mapping[tuple[frozenset[str], str], float], training: TrainingSet, seed: int
) -> dict[str, Any]:
    owner = dict(zip(training.section.tolist(), training.donor.tolist(), strict=True))
    sections = sorted({section for _, section in correlations}, key=lambda name: (owner[name], name))
    group = np.unique([owner[name] for name in sections], return_inverse=True)[1]
    weights = resample_weights(group, seed)
    sizes = sorted({len(members) for members, _ in correlations})

    def scores(size: int, known: bool) -> Array:
        """Of each section, mean over the sets of this many donors that have its donor, or have not."""
        parts = [
            [
                score
                for (members, at), score in correlations.items()
                if at == section and len(members) == size and (owner[section] in members) == known
            ]
            for section in sections
        ]
        return np.array([np.mean(part) if part else np.nan for part in parts])

    def entry(values: Array) -> dict[str, float | None]:
        return mean_and_interval(values, weights, group)

    def curve(known: bool) -> list[dict[str, Any]]:
        values = {size: scores(size, known) for size in sizes}
        return [{"n_donors": size, **entry(one)} for size, one in values.items() if np.isfinite(one).any()]

    return {
        "same_donors": curve(known=True),
        "other_donors": curve(known=False),
        "second_donor": entry(scores(2, True) - scores(1, True)),
        "last_donor": entry(scores(sizes[-1], True) - scores(sizes[-2], True)),
    }


def _no_cost() -> dict[str, float]:
    return {"fit_seconds": 0.0, "predict_seconds": 0.0}


def more_donors_words(facts: Mapping[str, Any] | None) -> list[str]:
    """Lines on what more donors do."""
    if not facts:
        return []
    lines = [
        f"more donors, mean Pearson of {facts['n_sections']} held-out sections of {facts['n_donors']} donors "
        f"({facts['n_fits']} fits, {facts['seconds']:.0f} s):"
    ]
    for head, one in facts["heads"].items():
        curves = "; ".join(
            f"{words} " + ", ".join("{mean:.3f} with {n_donors}".format(**point) for point in one[name])
            for name, words in (("same_donors", "donors in training"), ("other_donors", "other donors"))
        )
        adds = ", ".join(
            f"the {words} donor adds {interval_text(one[name])}"
            for name, words in (("second_donor", "second"), ("last_donor", "last"))
        )
        lines.append(f"  {head}: {curves}; to sections of those before it {adds}")
    return lines


def interval_text(entry: Mapping[str, float | None]) -> str:
    """A difference with its interval."""
    mean, low, high = (entry.get(name) for name in ("mean", "low", "high"))
    if mean is None:
        return "-"
    return f"{mean:+.3f}" + ("" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})")
