"""What may happen to a file: to its bytes, its text, its JSON, its HDF5."""
