"""Files that are written whole, by one process at a time, and what unfinished work leaves for the next."""
