"""DeepGEMM's helpers around its kernels: casts, alignments, layouts."""

# ruff: noqa: F403 - as DeepGEMM exports them: everything that the modules list

from dgref.deep_gemm.utils import layout, math
from dgref.deep_gemm.utils.dist import init_dist, uneven_all_gather
from dgref.deep_gemm.utils.layout import *
from dgref.deep_gemm.utils.layout import __all__ as _layout_names
from dgref.deep_gemm.utils.math import *
from dgref.deep_gemm.utils.math import __all__ as _math_names

__all__ = [*_layout_names, *_math_names, "init_dist", "layout", "math", "uneven_all_gather"]
