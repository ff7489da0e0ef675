"""The fast engine against the readable model: equal bits for every row, every operand code, every special value."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.formats.element import FORMATS
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import Arithmetic
from dgref.reference.contraction import contract
from dgref.reference.engine import fma
from dgref.reference.tensor_core import TENSOR_CORES, TensorCore

_DISTINCT = {
    (c.step, c.fraction_bits, c.output, c.c, c.floor, c.group, c.scale_block, c.format): name
    for name, c in TENSOR_CORES.items()
}
DISTINCT = sorted(_DISTINCT.values())


def random_codes(core: TensorCore, rng: np.random.Generator, shape: tuple[int, int], special: float) -> np.ndarray:
    """Codes spread over every exponent in some rows, near one another in the rest; NaN and Inf at a given rate."""
    row = FORMATS[core.format]
    near = row.encode(rng.standard_normal(shape).astype(np.float32))
    wide = rng.integers(0, 1 << row.bits, shape).astype(row.code_dtype) << row.code_dtype.type(row.storage_shift)
    finite = np.isfinite(row.decode(wide))
    chosen = np.where(finite & (rng.random((shape[0], 1)) < 0.6), wide, near)
    return np.where(~finite & (rng.random(shape) < special), wide, chosen).astype(row.code_dtype)


def random_operand(core: TensorCore, rng: np.random.Generator, shape: tuple[int, int], special: float) -> ScaledTensor:
    codes = random_codes(core, rng, shape, special)
    if not core.scale_block:
        return ScaledTensor(codes, core.format)
    name = core.scale_formats[0]
    grid = (shape[0], -(-shape[1] // core.scale_block))
    low, high = (90, 160) if name == "float8_e8m0fnu" else (0, 0x7F)
    scale = np.where(rng.random(grid) < special / 4, FORMATS[name].nan_code, rng.integers(low, high, grid))
    return ScaledTensor(codes, core.format, scale.astype(np.uint8), Scaling((1, core.scale_block), name))


@pytest.mark.parametrize("special", [0.0, 0.3], ids=["finite", "special"])
@pytest.mark.parametrize("name", DISTINCT)
def test_equals_the_readable_model(name, special):
    core, rng = TENSOR_CORES[name], np.random.default_rng(3)
    k = 2 * core.k + core.k // 2 + 1
    a, b = random_operand(core, rng, (9, k), special), random_operand(core, rng, (13, k), special)
    arithmetic = Arithmetic("test", name, scales="core" if core.scale_block else "none")
    fast, readable = (contract(a, b, arithmetic, engine=engine) for engine in ("fast", "readable"))
    np.testing.assert_array_equal(fast.view(np.uint32), readable.view(np.uint32))


@pytest.mark.parametrize("name", DISTINCT)
def test_equals_the_readable_model_from_any_seed(name):
    core, rng = TENSOR_CORES[name], np.random.default_rng(5)
    a, b = random_operand(core, rng, (9, core.k), 0.0), random_operand(core, rng, (13, core.k), 0.0)
    words = rng.integers(0, 1 << 32, (9, 13), dtype=np.uint32)
    words[0], words[1] = words[0] & 0x807FFFFF, 0
    arithmetic = Arithmetic("test", name, scales="core" if core.scale_block else "none", c="core")
    fast, readable = (contract(a, b, arithmetic, words.view(np.float32), engine=e) for e in ("fast", "readable"))
    np.testing.assert_array_equal(fast.view(np.uint32), readable.view(np.uint32))


def test_the_two_engines_agree_on_every_pair_of_e4m3_codes():
    codes = np.arange(256, dtype=np.uint8)[:, None]
    tensor = ScaledTensor(codes, "float8_e4m3fn")
    arithmetic = Arithmetic("test", "sm90.wgmma.float8_e4m3fn")
    fast, readable = (contract(tensor, tensor, arithmetic, engine=engine) for engine in ("fast", "readable"))
    np.testing.assert_array_equal(fast.view(np.uint32), readable.view(np.uint32))
    values = FORMATS["float8_e4m3fn"].decode(codes[:, 0])
    np.testing.assert_array_equal(fast, np.outer(values, values))


def test_fma_rounds_once():
    a = np.float32(1 + 2.0**-12)
    c = np.float32(-(1 + 2.0**-11))
    assert fma(a, a, c) == np.float32(2.0**-24)
    assert a * a + c == 0.0
