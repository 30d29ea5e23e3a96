"""Encoders that torch runs: timm, the layouts of published checkpoints, and other zoos."""
