"""Whether a head may be handed on, by the licence of what it was trained on."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..heads import Head

#: What a licence says where others may not have, or may not sell, what is made of the data.
_FORBIDDEN = (
    (re.compile(r"\bnc\b|non[- ]?commercial|not for commercial", re.IGNORECASE), "allows no commercial use"),
    (re.compile(r"\bnd\b|no[- ]?deriv", re.IGNORECASE), "allows nothing made from the data to be handed on"),
    (re.compile(r"\bno redistribution\b|not be redistributed|all rights reserved", re.IGNORECASE), "forbids it"),
)
_OPEN = re.compile(
    r"\bcc[- ]?by\b|\bcc0\b|public domain|\bmit\b|\bbsd\b|apache|\bodc\b|\bpddl\b|open data", re.IGNORECASE
)


def sharing_fault(licence: str) -> str | None:
    """Why a head trained on data of a licence may not be handed on, as a clause; None where it may.

    Examples
    --------
    >>> sharing_fault("CC BY 4.0")
    >>> sharing_fault("CC BY-NC-SA 4.0")
    'its licence (CC BY-NC-SA 4.0) allows no commercial use'
    >>> sharing_fault("not stated")
    'its licence (not stated) does not say that it may be shared'
    """
    words = " ".join(licence.replace("_", " ").split()) or "none"
    for pattern, why in _FORBIDDEN:
        if pattern.search(words):
            return f"its licence ({words}) {why}"
    return None if _OPEN.search(words) else f"its licence ({words}) does not say that it may be shared"


def with_licences(head: Head, *, data: str, labels: str, name: str | None = None) -> Head:
    """A head whose card also says under which licences its training data and labels stand.

    Parameters
    ----------
    head
        A trained head.
    data, labels
        Licences of the sections and of what their labels were made with.
    name
        Another name for the head.
    """
    from ..heads.head import Head, seal

    card: dict[str, Any] = {key: value for key, value in head.card.items() if key not in ("digest", "files")}
    card["licences"] = {"data": data, "labels": labels}
    card["name"] = name or card["name"]
    parts = head.estimator, head.novelty_model, head.intervals, head.stain_damping, head.scale_model
    return Head(seal(json.loads(json.dumps(card)), *parts), *parts)
