"""Numbers and nouns in sentences, and the words that stand on everything a clinician may see."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: On every page, picture and export of a prediction.
RESEARCH_USE = "Research use only: an estimate, no diagnosis."
#: What predictions of a cell type are good for, as cards, maps and tables say it.
BETWEEN, WITHIN, NEITHER, NOT_KNOWN = "between slides", "within a slide only", "neither", "not known"
#: What the answer of a tile says where it names no cell type and no group.
NOT_TOLD, OUT_OF_SCOPE, NOT_READ = "not told", "out of scope", "not read"
#: All of these, which no group may be called.
NO_ANSWERS = (NOT_TOLD, OUT_OF_SCOPE, NOT_READ)
#: The tissue of the phantom's sections, and what is said of heads of it: real slides may well be in their scope.
MADE_TISSUE = "phantom breast"
MADE_LIMIT = "The head was trained on the phantom, which is no tissue: what it says of a real slide means nothing."
# As libraries pass on the errors of those below them: "Couldn't deserialize thrift: TProtocolException: Invalid data".
_NAME_OF_AN_ERROR = re.compile(r"\b\w*[a-z](Error|Exception): ")
_FEW = ("no", "one", "two", "three", "four")


def counted(number: int, noun: str) -> str:
    """``counted(1200, "spot")`` is ``"1,200 spots"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def few(number: int) -> str:
    """A number as a word where it is small: ``few(2)`` is ``"two"``, ``few(12)`` is ``"12"``."""
    return _FEW[number] if 0 <= number < len(_FEW) else f"{number:,}"


def reason(error: BaseException) -> str:
    """Why something failed, for a person: the words of an error of Python's or a library's, without its name."""
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing" if error.args else "something is missing"
    if isinstance(error, TypeError | AttributeError | IndexError):
        return "a value in it is of another kind than it must be"
    lines = _NAME_OF_AN_ERROR.sub("", str(error)).strip().splitlines()
    return lines[0].rstrip(".") if lines else "without a reason"


def sentence(words: str) -> str:
    """The same words with a capital first and a full stop last; nothing of nothing."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}." if words else ""


def few_trained_on(n_donors: object, n_sections: object) -> str:
    """What a head of one or two training donors was trained on: "sections of one patient"; "" of more, or of no counts.

    Parameters
    ----------
    n_donors, n_sections
        That the head was trained on, as its card says it.
    """
    if not all(
        isinstance(count, int) and not isinstance(count, bool) and count > 0 for count in (n_donors, n_sections)
    ):
        return ""
    if n_donors == 1:
        return "one section" if n_sections == 1 else "sections of one patient"
    if n_donors == 2:
        return "one section of each of two patients" if n_sections == 2 else "sections of two patients"
    return ""


def training_limit(n_donors: object, n_sections: object) -> str:
    """What a head of so few training donors cannot tell, in a sentence; as `few_trained_on`."""
    few_ones = few_trained_on(n_donors, n_sections)
    if not few_ones:
        return ""
    if n_donors == 1:
        others = "any other" if n_sections == 1 else "those of another patient"
        return (
            f"The head was trained on {few_ones}: how right it is on {others}, and whether its scope holds there, is "
            "not known."
        )
    text = f"The head was trained on {few_ones}: how right it is on a third patient is known from one pair alone."
    if n_sections == 2:
        # Measured on the phantom (docs/trust.md): all that is known of scope is how far one donor lies from the other.
        text += " Tiles of another tissue may well be in scope: make sure that a slide is of this tissue."
    return text


def seen_slide(training: object) -> str:
    """What to say of the map of a slide that its head was trained on, in a sentence; "" of another, or if not known."""
    if not (isinstance(training, Mapping) and training.get("this_slide") is True):
        return ""
    return (
        "The head was trained on this very slide: its map agrees with the truth better than that of a slide which the "
        "head has not seen, and tests nothing."
    )


def head_limits(head: Mapping[str, Any]) -> list[str]:
    """Sentences to be said of every map of a head: that its tissue is made, that its training donors are few.

    Parameters
    ----------
    head
        Its card, or what a map says of it: ``tissue`` and ``training``.
    """
    tissue, training = head.get("tissue"), head.get("training")
    counts = training if isinstance(training, Mapping) else {}
    made = MADE_LIMIT if isinstance(tissue, list) and MADE_TISSUE in tissue else ""
    return [one for one in (made, training_limit(counts.get("n_donors"), counts.get("n_sections"))) if one]


def whole_percent(share: float) -> str:
    """A share in per cent that never says more than it is: ``whole_percent(0.499)`` is ``"49 %"``."""
    if 0 < share < 0.01:
        return "less than 1 %"
    return f"{int(100 * share + 1e-9)} %"
