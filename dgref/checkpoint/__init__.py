"""Checkpoints: what convention a file follows, what is wrong with it, who can take it, and lossless conversion."""

from dgref.checkpoint.conventions import CONVENTIONS, Convention
from dgref.checkpoint.conversion import Conversion, convert
from dgref.checkpoint.facts import FACTS
from dgref.checkpoint.findings import Finding
from dgref.checkpoint.header import Entry, Header, read_header
from dgref.checkpoint.inspection import Inspection, inspect
from dgref.checkpoint.rendering import render

__all__ = [
    "CONVENTIONS",
    "FACTS",
    "Convention",
    "Conversion",
    "Entry",
    "Finding",
    "Header",
    "Inspection",
    "convert",
    "inspect",
    "read_header",
    "render",
]
