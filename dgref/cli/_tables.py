"""Rows on a terminal, or as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click


def print_rows(rows: list[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows as a table that fits, or as JSON."""
    if as_json:
        click.echo(json.dumps(rows, indent=1, default=str))
        return
    from dgref.report.terminal import console
    from dgref.tables import Fitted

    console().print(Fitted(rows))
