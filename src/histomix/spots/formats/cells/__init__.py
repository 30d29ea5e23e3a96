"""Tables of single cells, gathered to spots."""
