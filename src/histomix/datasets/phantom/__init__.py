"""Synthetic tissue in which every cell is known."""
