"""Option types that click lacks."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import click


class Finite(click.FloatRange):
    """A float in a range; NaN and infinity, which every range of click's lets through, are refused."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, param, context)
        if not isfinite(number):
            self.fail(f"got {value}, need a finite number", param, context)
        return number


class Output(click.Path):
    """Where a command writes, as a Path; an empty text, which would be the folder one is in, is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if not str(value):
            self.fail("got an empty path, need the name of what to write", param, context)
        return super().convert(value, param, context)
