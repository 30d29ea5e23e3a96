"""Bytes from elsewhere: stores that fsspec reads, fetched with resume, ETag and digest."""
