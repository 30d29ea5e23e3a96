"""The encoders, from their cards."""

from __future__ import annotations

from histomix import cards

_USE = {True: "yes", False: "no", None: "not known"}


def encoder_table() -> str:
    """One row a card: what it sees and gives, and under which licence."""
    lines = ["| name | tile | features | weights | licence | commercial use |", "|---|---|---|---|---|---|"]
    for card in cards():
        tile = f"{card.size_px} px at {card.mpp:g} µm/px"
        if card.source == "builtin":
            weights = "in the package"
        elif card.hub_id:
            weights = f"[{card.hub_id}](https://huggingface.co/{card.hub_id})" + (", gated" if card.gated else "")
        else:
            weights = f"[published]({card.website})" if card.website else card.source
        licence = f"{card.licence}" + (f" ([paper]({card.paper}))" if card.paper else "")
        use = _USE[card.commercial_use]
        lines.append(f"| `{card.name}`: {card.title} | {tile} | {card.dim:,} | {weights} | {licence} | {use} |")
    return "\n".join(lines)
