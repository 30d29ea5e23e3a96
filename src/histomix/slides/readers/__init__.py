"""Files that hold slides."""
