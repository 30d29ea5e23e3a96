"""The regressors."""
