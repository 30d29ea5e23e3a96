"""Published studies as files of facts: cohorts, reference, encoders, heads, folds, and the figures they published."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, UnknownNameError

FACTS = Path(__file__).with_name("facts")
#: Metrics of a table, in their order, and what they are called there.
COLUMNS = {
    "pearson_pooled": "Pearson, pooled over a fold",
    "pearson": "Pearson, per section",
    "pearson_within": "Pearson, within sections",
    "mae": "L1 (mean absolute error)",
}


@dataclass(frozen=True)
class StudyCohort:
    """A cohort of a study.

    Attributes
    ----------
    name
        Of its folder and in tables.
    fetch
        Name of the public cohort, see `histomix.fetch_cohort`.
    donors, sections
        As many as the study had; None where that is not at hand.
    """

    name: str
    fetch: str
    donors: int | None = None
    sections: int | None = None


@dataclass(frozen=True)
class Published:
    """One figure of a publication.

    Attributes
    ----------
    row
        A head of ours, or the name of one that only the publication has.
    metric
        One of `COLUMNS`.
    value
        None where the publication has one that is not at hand.
    source
        Who published it, and on what.
    cohort, encoder
        Where a study has several; empty for any.
    """

    row: str
    metric: str
    value: float | None
    source: str
    cohort: str = ""
    encoder: str = ""


@dataclass(frozen=True)
class Study:
    """A published study: facts, and no code. The fields are those of the files in ``facts/``."""

    name: str
    title: str
    source: str
    about: str
    cohorts: tuple[StudyCohort, ...]
    reference: dict[str, str]
    labels: dict[str, str]
    encoders: tuple[str, ...]
    heads: tuple[str, ...]
    folds: str
    seed: int
    licence: str
    published: tuple[Published, ...] = ()
    costs: tuple[dict[str, str], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For a program: what a list shows."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "cohorts": [{"name": one.name, "donors": one.donors, "sections": one.sections} for one in self.cohorts],
            "labels": self.labels["method"],
            "reference": self.reference["name"],
            "encoders": list(self.encoders),
            "heads": list(self.heads),
            "folds": self.folds,
            "licence": self.licence,
            "published": len([one for one in self.published if one.value is not None]),
            "not_at_hand": len([one for one in self.published if one.value is None]),
        }


def list_studies() -> list[Study]:
    """All studies, by name.

    Examples
    --------
    >>> [study.name for study in hm.list_studies()]
    ['hist2cell-lung', 'sun2025-ablation', 'sun2025-her2st', 'sun2025-stnet', 'sun2025-transfer']
    """
    return [read_study(path.stem) for path in sorted(FACTS.glob("*.yaml"))]


def read_study(name: str) -> Study:
    """The study of a name.

    Raises
    ------
    InputError
        There is none of that name.
    """
    names = sorted(path.stem for path in FACTS.glob("*.yaml"))
    if name not in names:
        raise UnknownNameError(f"there is no study called {name!r}", hint=f"Choose one of {', '.join(names)}")
    facts = yaml.safe_load((FACTS / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        return Study(
            name=name,
            cohorts=tuple(StudyCohort(**one) for one in facts.pop("cohorts")),
            published=tuple(Published(**one) for one in facts.pop("published")),
            encoders=tuple(facts.pop("encoders")),
            heads=tuple(facts.pop("heads")),
            costs=tuple(facts.pop("costs")),
            **facts,
        )
    except (TypeError, KeyError) as error:
        raise InputError(f"is no file of facts ({error})", where=FACTS / f"{name}.yaml") from error
