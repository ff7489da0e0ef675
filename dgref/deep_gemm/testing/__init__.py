"""DeepGEMM's helpers for tests: similarity, timing, filters."""

# ruff: noqa: F403 - as DeepGEMM exports them: everything that the modules list

from dgref.deep_gemm.testing import numeric, utils
from dgref.deep_gemm.testing.bench import *
from dgref.deep_gemm.testing.bench import __all__ as _bench_names
from dgref.deep_gemm.testing.numeric import *
from dgref.deep_gemm.testing.numeric import __all__ as _numeric_names
from dgref.deep_gemm.testing.utils import *
from dgref.deep_gemm.testing.utils import __all__ as _utils_names

__all__ = [*_bench_names, *_numeric_names, *_utils_names, "numeric", "utils"]
