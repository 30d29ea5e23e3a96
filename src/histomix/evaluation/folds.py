"""Which spots train and which test: by donor or site (honest), by section (optimistic) or at random (leaky)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

#: What each protocol measures, in words that go into every file that carries its scores.
PROTOCOLS = {
    "donor": "held-out donors",
    "site": "held-out sites: every donor of a site is held out with it",
    "section": "optimistic: other sections of the same donor are in training",
    "random": "leaky: neighbouring spots of the same section are in training; a diagnostic only",
    "transfer": "trained on one cohort, tested on another",
}
#: What scores of a map against cells or regions call their protocol; there are no folds of it.
ORTHOGONAL = "orthogonal"
#: Protocols from the most honest to the least.
HONESTY = ("transfer", "site", "donor", "section", "random")
#: Protocols under which a donor stands in training and in test by design.
OPTIMISTIC = ("section", "random")
#: Folds of the random protocol when no number is given.
RANDOM_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """One split into training and test rows.

    Attributes
    ----------
    name
        The held-out donor or section, or ``"fold 1"`` ... where a fold holds out more than one.
    train, test
        Row numbers, ascending; no row stands in both.
    """

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]


def make_folds(
    section: ArrayLike,
    donor: ArrayLike,
    protocol: str = "donor",
    n: int | None = None,
    seed: int = 0,
    site: ArrayLike | None = None,
) -> list[Fold]:
    """Split rows (spots) into folds; every row is in the test set of exactly one.

    Parameters
    ----------
    section, donor
        Section and donor of each row, shape (n_spots,).
    protocol
        A key of `PROTOCOLS` other than ``"transfer"``, which is a split of two cohorts.
    n
        How many folds. Default: one per donor, site or section; 5 for ``"random"``. Fewer folds than donors (sites,
        sections) put several, whole, into one fold.
    seed
        Seed of the shuffle (used by ``"random"``, and where folds hold several donors, sites or sections).
    site
        Site (hospital, laboratory, scanner) of each row; needed for ``"site"``.

    Raises
    ------
    InputError
        The protocol is unknown, a donor, section or site is nameless, or there are too few of them for two folds.
    """
    check_protocol(protocol)
    if protocol == "transfer":
        raise InputError("folds called 'transfer' need a second cohort", hint="Give the cohort to test on as well")
    sections, donors = np.asarray(section, dtype=str), np.asarray(donor, dtype=str)
    for what, names in (("section", sections), ("donor", donors)):
        if (np.char.strip(names) == "").any():
            raise InputError(f"some spots have no {what}", hint=f"Give every row of the cohort sheet its {what}")
    rng = np.random.default_rng(seed)
    if protocol == "random":
        n = RANDOM_FOLDS if n is None else n
        _check_count(n, len(sections), "spots", "Use fewer folds")
        # Dealt out section by section like cards, so that every fold has its share of every section.
        shuffled = rng.permutation(len(sections))
        dealt = shuffled[np.argsort(sections[shuffled], kind="stable")]
        fold_of = np.empty(len(sections), dtype=np.intp)
        fold_of[dealt] = np.arange(len(dealt)) % n
        return _folds(fold_of, [f"fold {number + 1}" for number in range(n)])
    named = {"donor": donors, "section": sections}
    if protocol == "site":
        named["site"] = _sites(sections, site)
    groups, codes = np.unique(named[protocol], return_inverse=True)
    hint = {
        "donor": "Add donors, or use --folds section, which is optimistic",
        "site": "Add sections of another site, or use --folds donor",
        "section": "Add sections",
    }[protocol]
    n = len(groups) if n is None else n
    _check_count(n, len(groups), f"{protocol}{'' if len(groups) == 1 else 's'}", hint)
    if n == len(groups):
        return _folds(codes, [str(name) for name in groups])
    return _folds(_spread(np.bincount(codes), n, rng)[codes], [f"fold {number + 1}" for number in range(n)])


def check_protocol(name: str) -> None:
    """Refuse a protocol that there is not (InputError)."""
    if name not in PROTOCOLS:
        raise InputError(f"there are no folds called {name!r}", hint=f"Choose from {', '.join(PROTOCOLS)}")


def _sites(sections: NDArray[np.str_], site: ArrayLike | None) -> NDArray[np.str_]:
    sites = np.full(len(sections), "") if site is None else np.asarray(site, dtype=str)
    nameless = np.unique(sections[np.char.strip(sites) == ""]).tolist()
    if nameless:
        raise InputError(
            f"{len(nameless)} sections have no site ({', '.join(nameless[:3])})",
            hint="Fill in the column site of the cohort sheet",
        )
    return sites


def _check_count(n: int, available: int, what: str, hint: str) -> None:
    if available < 2 or not 2 <= n <= available:
        raise InputError(
            f"{available} {what} cannot make {max(n, 2)} folds" if n >= 2 or available < 2 else f"{n} is too few folds",
            hint=hint if available < 2 else f"Use from 2 to {available} folds",
        )


def _spread(sizes: NDArray[np.intp], n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Put groups into ``n`` folds of about equal size: the largest first, each into the smallest fold so far."""
    fold_of, filled = np.empty(len(sizes), dtype=np.intp), np.zeros(n)
    order = rng.permutation(len(sizes))
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[group] = np.argmin(filled)
        filled[fold_of[group]] += sizes[group]
    return fold_of


def _folds(fold_of: NDArray[np.intp], names: list[str]) -> list[Fold]:
    return [
        Fold(name, np.flatnonzero(fold_of != number), np.flatnonzero(fold_of == number))
        for number, name in enumerate(names)
    ]
