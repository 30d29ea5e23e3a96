"""How far predictions can be trusted: intervals, levels of slides, novelty, and the scale of a slide."""
