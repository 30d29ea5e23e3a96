"""Whether the spots lie on the tissue, and what would mend it."""
