"""Encoders, heads and cohorts on the same folds: runs, ranking, paired tests and the page."""
