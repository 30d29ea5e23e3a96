"""Scores of predictions, their means and intervals, and what bounds them."""
