from __future__ import annotations

import numpy as np
import pytest
import torch

from dgref.backends.cuda import verifier
from dgref.errors import FormatError, UnsupportedError
from dgref.formats.element import FORMATS
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic
from dgref.reference.gemm import gemm
from tests.conftest import VECTORS, needs_vectors

E4M3, E5M2 = "float8_e4m3fn", "float8_e5m2"
BLOCKS = ARITHMETICS["deep_gemm.sm90.fp8_1d2d"]
FAST = ARITHMETICS["cublaslt.fp8_fast"]


def test_the_host_packs_what_the_kernel_reads():
    assert verifier._PROBLEM.size == 144  # static_assert in verifier.cu


@pytest.mark.parametrize(
    ("arithmetic", "reason"),
    [
        (Arithmetic("x", "sm80.mma.bfloat16"), "no model of sm80.mma.bfloat16"),
        (FAST.but(reduction="tree"), "reduction 'tree'"),
        (FAST.but(c="core"), "c 'core'"),
        (BLOCKS.but(scales="each"), "scales 'each'"),
        (FAST.but(boundaries=(100,)), "ends at K = 100"),
        (BLOCKS.but(interval=48), "ends at K = 48"),
    ],
)
def test_what_the_verifier_cannot_compute_it_says(arithmetic, reason):
    assert reason in verifier.unsupported(arithmetic, 512)
    tensor = torch.zeros(8, 512, dtype=torch.bfloat16)
    with pytest.raises((UnsupportedError, FormatError)):
        verifier.verify_gemm(tensor, tensor, arithmetic)


def codes(format: str, shape: tuple[int, int], seed: int, finite: bool) -> np.ndarray:
    """Return codes of every kind; a few NaN and Inf where not only finite ones are wanted."""
    generator, row = np.random.default_rng(seed), FORMATS[format]
    values = generator.integers(0, 1 << row.storage_bits, shape).astype(row.code_dtype)
    special = ~np.isfinite(row.decode(values)) & (finite | (generator.random(shape) > 0.01))
    zero = generator.random(shape) < 0.05
    return np.where(special | zero, values & row.code_dtype.type(row.sign_mask), values)


def on_gpu(values: np.ndarray, format: str) -> torch.Tensor:
    dtype = {"tfloat32": torch.float32}.get(format) or getattr(torch, format)
    signed = torch.from_numpy(values.view(values.dtype.str.replace("u", "i")).copy())
    return signed.view(dtype).cuda()


def bits(array: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.cpu().view(torch.int16 if array.element_size() == 2 else torch.int32).numpy()
    return array.view(f"u{array.dtype.itemsize}")


def grid(rows: int, chains: int, seed: int) -> np.ndarray:
    return np.exp2(np.random.default_rng(seed).uniform(-8, 2, (rows, chains))).astype(np.float32)


def compare(format, arithmetic, m, n, k, out="float32", scales=None, c=None, finite=True) -> None:
    """Hold the GPU's bits equal to the CPU engine's."""
    a, b = codes(format, (m, k), 1, finite), codes(format, (n, k), 2, finite)
    chains = -(-k // (arithmetic.interval or k))
    scale_a, scale_b = (
        grid(-(-rows // block), chains, block) for rows, block in zip((m, n), scales or (1, 1), strict=True)
    )
    left, right = (
        ScaledTensor(x, format, scale, Scaling((block, arithmetic.interval))) if scales else ScaledTensor(x, format)
        for x, scale, block in ((a, scale_a, (scales or [1])[0]), (b, scale_b, (scales or [1])[-1]))
    )
    with np.errstate(all="ignore"):
        expected = gemm(left, right, c, arithmetic=arithmetic, out=out)
    given = {"scale_a": torch.from_numpy(scale_a).cuda(), "scale_b": torch.from_numpy(scale_b).cuda()} if scales else {}
    addend = None if c is None else torch.from_numpy(c).cuda()
    actual = verifier.verify_gemm(on_gpu(a, format), on_gpu(b, format), arithmetic, c=addend, out=out, **given)
    np.testing.assert_array_equal(bits(actual), bits(expected))


@pytest.mark.gpu
@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize(
    ("core", "k"),
    [
        (f"sm90.wgmma.{E4M3}", 1000),
        (f"sm90.wgmma.{E5M2}", 1000),
        ("sm90.wgmma.bfloat16", 528),
        ("sm90.wgmma.float16", 528),
        ("sm90.wgmma.tfloat32", 264),
        (f"sm100.tcgen05.{E4M3}", 320),
    ],
)
def test_one_chain_equals_the_cpu_engine_in_every_bit(core, k, finite):
    if not finite and core.endswith("tfloat32"):
        finite = True  # random float32 bits already reach Inf in the sums
    compare(core.rpartition(".")[2], Arithmetic("one chain", core), 65, 70, k, finite=finite)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("arithmetic", "scales"),
    [
        (BLOCKS, (1, 128)),
        (BLOCKS, (1, 1)),
        (BLOCKS.but(interval=32), (1, 1)),
        (BLOCKS.but(promotion="add"), (1, 1)),
        (BLOCKS.but(boundaries=(256, 384)), (1, 128)),
        (ARITHMETICS["cublaslt.fp8_promote128"], None),
        (FAST.but(boundaries=(128, 320)), None),
    ],
)
@pytest.mark.parametrize("out", ["float32", "bfloat16"])
def test_promotions_and_splits_equal_the_cpu_engine_in_every_bit(arithmetic, scales, out):
    compare(E4M3, arithmetic, 130, 200, 512, out=out, scales=scales)


@pytest.mark.gpu
def test_c_is_added_last():
    c = np.random.default_rng(3).standard_normal((100, 72)).astype(np.float32)
    compare(E4M3, BLOCKS, 100, 72, 552, scales=(1, 1), c=c)


@pytest.mark.gpu
@needs_vectors
def test_a_recorded_kernel_is_reproduced_in_every_bit():
    recorded = np.load(VECTORS / "h200/deep_gemm_fp8_1d2d.npz")
    scales = {"scale_a": torch.from_numpy(recorded["sfa"]).cuda(), "scale_b": torch.from_numpy(recorded["sfb"]).cuda()}
    operands = on_gpu(recorded["a"], E4M3), on_gpu(recorded["b"], E4M3)
    actual = verifier.verify_gemm(*operands, "deep_gemm.sm90.fp8_1d2d", out="bfloat16", **scales)
    np.testing.assert_array_equal(bits(actual), recorded["d"])


@pytest.mark.gpu
@needs_vectors
def test_a_recorded_tf32_kernel_that_rounds_b_is_reproduced_in_every_bit():
    recorded = np.load(VECTORS / "h200/deep_gemm_tf32_hc_prenorm.npz")
    a, b = on_gpu(recorded["a"], "bfloat16"), on_gpu(recorded["b"], "tfloat32")
    product = ARITHMETICS["deep_gemm.sm90.hc_prenorm"].but(
        lanes=None
    )  # the lanes are about the sums of squares beside it
    actual = verifier.verify_gemm(a, b, product)
    np.testing.assert_array_equal(bits(actual), recorded["d"])
