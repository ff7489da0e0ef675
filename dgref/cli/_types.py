"""Option types that click lacks."""

from __future__ import annotations

from math import isfinite
from typing import Any

import click


class Finite(click.FloatRange):
    """A float in a range; NaN and infinity, which every range of click's lets through, are refused."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, param, context)
        if not isfinite(number):
            self.fail(f"got {value}, need a finite number", param, context)
        return number
