"""Every kernel under kernels/common compiles for Hopper with no GPU, and spills nothing."""

from __future__ import annotations

import pytest

from dgref.backends.cuda import jit, quantizers, scale_layouts, verifier
from dgref.formats.recipes import RECIPES
from dgref.reference.arithmetic import ARITHMETICS

DTYPES = (("bfloat16", True, True), ("bfloat16", True, False), ("float32", False, False))
SUPPORTED = [row for name, row in RECIPES.items() if quantizers.unsupported(name) is None]
QUANTISED = {
    str(arguments): arguments for row in SUPPORTED for arguments in (quantizers.constants(row, *d) for d in DTYPES)
}
MODELS = sorted({verifier._MODELS[row.core] for row in ARITHMETICS.values() if row.core in verifier._MODELS})
FP8 = verifier._MODELS["sm90.wgmma.float8_e4m3fn"]
VERIFIED = [*((model, "kNever", False) for model in MODELS), (FP8, "kFused", False), (FP8, "kMultiplied", True)]
LAYOUT_KERNELS = [
    ("pack_words", ("layouts::Exponents", False, True)),
    ("pack_words", ("layouts::Exponents", True, False)),
    ("pack_words", ("layouts::Codes", False, False)),
    ("pack_rows", ("layouts::Exponents", 4)),
    ("pack_rows", ("layouts::Exponents", 1)),
    ("pack_rows", ("layouts::Codes", 4)),
    ("swizzle_128x4", (True,)),
    ("swizzle_128x4", (False,)),
    ("unswizzle_128x4", (True,)),
    ("unswizzle_128x4", (False,)),
    ("transpose_floats", (64,)),
    ("utccp_rows", ("uint4",)),
    ("utccp_rows", ("unsigned char",)),
    ("utccp_words", ("uint4",)),
]


def compiles_clean(source, entry, constants) -> None:
    compiled = jit.compile_only(source, entry, constants)
    assert compiled.registers > 0
    assert compiled.spill_bytes == 0, compiled.log
    assert compiled.stack_bytes == 0, compiled.log


@pytest.mark.parametrize(("model", "promotion", "split"), VERIFIED)
def test_the_verifier_compiles_without_spills(model, promotion, split):
    constants = {"model": model, "promotion": f"verifier::{promotion}", "split": split, "output": "unsigned short"}
    compiles_clean(verifier.SOURCE, "verify", constants)


@pytest.mark.parametrize("kernel", QUANTISED)
def test_every_quantiser_compiles_without_spills(kernel):
    compiles_clean(quantizers.SOURCE, *QUANTISED[kernel])


@pytest.mark.parametrize(("entry", "arguments"), LAYOUT_KERNELS)
def test_every_layout_kernel_compiles_without_spills(entry, arguments):
    compiles_clean(scale_layouts.SOURCE, entry, {str(index): value for index, value in enumerate(arguments)})
