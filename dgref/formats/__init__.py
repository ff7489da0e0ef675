"""What bits mean: element formats, codecs, packing, scaling, recipes, quantizers and layouts."""

from dgref.formats.element import FORMATS, Format
from dgref.formats.layouts import LAYOUTS, Layout
from dgref.formats.native import as_codes, as_native, format_of, native_dtype

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "Format",
    "Layout",
    "as_codes",
    "as_native",
    "format_of",
    "native_dtype",
]
