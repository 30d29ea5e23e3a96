"""What `histomix cohort` measures, from its definitions."""

from __future__ import annotations

from histomix.cohort.measures import DEFINITIONS


def measure_table() -> str:
    """One row a measure."""
    rows = [f"| `{name}` | {unit} | {what} |" for name, (unit, what) in DEFINITIONS.items()]
    return "\n".join(["| measure | unit | what it is |", "|---|---|---|", *rows])
