"""Measurements of dgref itself, one module a subject: each has `rows()` and prints them when run."""
