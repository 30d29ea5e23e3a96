"""Many slides on many processes."""
