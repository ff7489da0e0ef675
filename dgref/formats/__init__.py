"""What bits mean: element formats, codecs, packing, scaling, recipes, quantizers and layouts."""

from dgref.formats.conventions import CONVENTIONS, Convention
from dgref.formats.element import FORMATS, Format
from dgref.formats.layouts import LAYOUTS, Layout
from dgref.formats.native import as_codes, as_native, format_of, native_dtype
from dgref.formats.packing import PACKINGS, Packing, pack, unpack
from dgref.formats.quantize import dequantize, quantize
from dgref.formats.recipes import RECIPES, Recipe
from dgref.formats.scaling import FULL, Scaling
from dgref.formats.tensor import ScaledTensor

__all__ = [
    "CONVENTIONS",
    "FORMATS",
    "FULL",
    "LAYOUTS",
    "PACKINGS",
    "RECIPES",
    "Convention",
    "Format",
    "Layout",
    "Packing",
    "Recipe",
    "ScaledTensor",
    "Scaling",
    "as_codes",
    "as_native",
    "dequantize",
    "format_of",
    "native_dtype",
    "pack",
    "quantize",
    "unpack",
]
