"""Layouts: where each scale (or row of payload) lies in memory, both ways, as data."""

from dgref.formats.layouts.base import Layout
from dgref.formats.layouts.pattern import Pattern
from dgref.formats.layouts.ragged import Grouped, PrefixSum
from dgref.formats.layouts.table import LAYOUTS
from dgref.formats.layouts.tiled import Composed, Tiled

__all__ = ["LAYOUTS", "Composed", "Grouped", "Layout", "Pattern", "PrefixSum", "Tiled"]
