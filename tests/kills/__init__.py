"""Kills at random moments: the same command afterwards ends in the same bytes. ``python -m tests.kills`` does fifty."""
