"""The README of a shared head, written from its card: what the hub calls a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ...common.words import RESEARCH_USE
from .markdown import markdown_table, plain
from .text import card_markdown, encoder_terms

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


def head_readme(card: Mapping[str, Any]) -> str:
    """Markdown with YAML front matter; donors and sections are counted, not named."""
    files = [[name, str(digest)] for name, digest in (card.get("files") or {}).items()]
    parts = [
        f"---\n{yaml.safe_dump(_front(card), sort_keys=False, allow_unicode=True)}---",
        card_markdown(card, names=False).rstrip("\n"),
        "## Terms\n\nA head inherits the terms of the encoder that it was trained on. The encoder's weights are not "
        f"part of it. {RESEARCH_USE}",
        "## Use\n\n```sh\nhistomix head pull hf://OWNER/NAME@COMMIT --out head\nhistomix predict slide.svs --head head "
        "--out maps\n```",
        "## Files\n\nOnly JSON and safetensors: nothing in them is run.\n\n"
        + markdown_table(["file", "sha256"], files),
        f"*Written by histomix {plain(card.get('histomix', ''))} from card.json.*",
    ]
    return "\n\n".join(parts) + "\n"


def _front(card: Mapping[str, Any]) -> dict[str, Any]:
    names = list(dict.fromkeys(terms.licence for terms in encoder_terms(card)))
    known = _HUB_LICENCES.get(names[0].casefold()) if len(names) == 1 else None
    front: dict[str, Any] = {"license": known or "other"}
    if known is None:
        slug = re.sub(r"[^a-z0-9.]+", "-", " ".join(names).casefold()).strip("-")
        front["license_name"] = slug[:80] or "see-encoders"
    return {**front, "library_name": "histomix", "tags": _TAGS}
