"""Slides at addresses."""
