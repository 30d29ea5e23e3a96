"""Answers: each tile's name, only as fine as it can be trusted."""
