"""The README of a shared head, written from its card: what the hub calls a model card."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..pages.facts import fact_rows
from .trust import encoder_licences

_TAGS = ["histomix", "pathology", "histology", "spatial-transcriptomics", "cell-type-composition"]
#: Licences by the names that the hub knows (https://huggingface.co/docs/hub/repositories-licenses).
_HUB_LICENCES = {
    "mit": "mit",
    "apache-2.0": "apache-2.0",
    "bsd-3-clause": "bsd-3-clause",
    "gpl-3.0": "gpl-3.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0": "cc-by-nc-nd-4.0",
}
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
_FACTS = ("head", "tissue", "calibration", "scores", "versions")
_TRAINING = ("n_spots", "n_sections", "n_donors", "cell_types_without_labels")


def head_readme(card: Mapping[str, Any]) -> str:
    """Markdown with YAML front matter; every text of the card is escaped, and donors are counted, not named."""
    licences = encoder_licences(card)
    parts = [
        f"---\n{yaml.safe_dump(_front(card), sort_keys=False, allow_unicode=True)}---",
        f"# {_text(card.get('name', 'head'))}",
        "A head of histomix: it reads the composition of an H&E tile in cell types "
        f"({_text(card.get('unit', ''))}) from the features of {_text(' + '.join(name for name, _, _ in licences))}.",
        f"**Intended use.** {_text(card.get('intended_use', ''))}",
        f"**Limits.** {_text(card.get('limits', ''))} Research use only; no diagnosis.",
        "## Cell types\n\n" + "\n".join(f"- {_text(name)}" for name in card.get("cell_types", [])),
        "## Encoders and their licences\n\n"
        "A head inherits the terms of the encoder that it was trained on. The encoder's weights are not part of it.\n\n"
        + _table(
            ["encoder", "licence", "commercial use"],
            [[name, licence, {True: "yes", False: "no", None: "not declared"}[use]] for name, licence, use in licences],
        ),
        "## Training\n\n"
        + _table(["fact", "value"], [*fact_rows(card, _FACTS), *fact_rows(card.get("training", {}), _TRAINING)]),
        "## Use\n\n```sh\nhistomix head pull hf://OWNER/NAME@COMMIT --out head\nhistomix predict slide.svs --head head "
        "--out maps\n```",
        "## Files\n\nOnly JSON and safetensors: nothing in them is run. Digest of the card: "
        f"`{_code(card.get('digest', ''))}`\n\n"
        + _table(["file", "sha256"], [[name, str(digest)] for name, digest in (card.get("files") or {}).items()]),
        f"*Written by histomix {_text(card.get('histomix', ''))} from card.json.*",
    ]
    return "\n\n".join(parts) + "\n"


def _front(card: Mapping[str, Any]) -> dict[str, Any]:
    names = list(dict.fromkeys(licence for _, licence, _ in encoder_licences(card)))
    known = _HUB_LICENCES.get(names[0].casefold()) if len(names) == 1 else None
    front: dict[str, Any] = {"license": known or "other"}
    if known is None:
        slug = re.sub(r"[^a-z0-9.]+", "-", " ".join(names).casefold()).strip("-")
        front["license_name"] = slug[:80] or "see-encoders"
    return {**front, "library_name": "histomix", "tags": _TAGS}


def _table(columns: list[str], rows: list[Any]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows)])


def _text(value: Any) -> str:
    """A card's text in Markdown: on one line, and no mark of it means anything."""
    plain = " ".join("".join(mark if mark.isprintable() else " " for mark in str(value)).split())
    return html.escape(_MARKS.sub(r"\\\1", plain), quote=False)


def _code(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9:._-]", "", str(value))
