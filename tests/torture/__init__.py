"""Damaged, hostile and odd inputs, each run through the command line in a process of its own: ``make torture``.

A `Role` is an input that histomix reads (a slide, a table, a head, a map, ...) with the cheapest command that reads it.
A `Case` is a role, what is done to its file, and what must happen. The families are modules: each yields its cases.
"""
