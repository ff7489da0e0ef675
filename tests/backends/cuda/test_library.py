from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dgref.backends.cuda import library, quantizers, scale_layouts
from dgref.formats.layouts import LAYOUTS


@pytest.fixture
def fake_mode():
    with FakeTensorMode() as mode:
        yield mode


@pytest.mark.parametrize(
    ("recipe", "payload", "dtype", "scale"),
    [
        ("deepseek_fp8", (100, 256), torch.float8_e4m3fn, (100, 2)),
        ("deepseek_fp8_weight", (100, 256), torch.float8_e4m3fn, (1, 2)),
        ("mxfp4", (100, 128), torch.uint8, (100, 8)),
        ("nvfp4", (100, 128), torch.uint8, (100, 16)),
    ],
)
def test_torch_compile_learns_the_shapes_of_a_quantised_tensor(fake_mode, recipe, payload, dtype, scale):
    data, grid = torch.ops.dgref.quantize(torch.empty(100, 256, device="cuda"), recipe)
    assert (tuple(data.shape), data.dtype, tuple(grid.shape)) == (payload, dtype, scale)


def test_scales_for_tma_are_a_view_with_padded_columns(fake_mode):
    _, grid = torch.ops.dgref.quantize(torch.empty(101, 256, device="cuda"), "deepseek_fp8", None, "mn_major_tma")
    assert (tuple(grid.shape), grid.stride()) == ((101, 2), (1, 104))


@pytest.mark.parametrize("layout", ["mn_major_tma", "packed_ue8m0", "swizzle_128x4", "utccp_4x32"])
def test_torch_compile_learns_the_shape_of_a_packed_buffer(fake_mode, layout):
    dtype = torch.uint8 if layout == "swizzle_128x4" else torch.float32
    buffer = torch.ops.dgref.pack_scales(torch.empty(130, 7, dtype=dtype, device="cuda"), layout)
    assert tuple(buffer.shape) == LAYOUTS[layout].buffer_shape((130, 7))


def test_every_registered_operation_is_the_function_that_it_names():
    assert library.quantize.__module__ == "dgref.backends.cuda.library"
    assert set(scale_layouts.PACKERS) <= set(LAYOUTS)
    assert quantizers.unsupported("deepseek_fp8") is None


@pytest.mark.parametrize("name", ["fp8_gemm", "bf16_gemm", "gemm_grouped_contiguous", "gemm_grouped_masked"])
def test_a_product_declares_that_it_writes_d_and_nothing_else(name):
    schema = getattr(torch.ops.dgref, name).default._schema
    written = [argument.name for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write]
    assert written == ["d"]
    assert list(schema.returns) == []


def test_tracing_a_product_leaves_d_alone(fake_mode):
    a, b = (torch.empty(64, 128, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    assert torch.ops.dgref.bf16_gemm(a, b, torch.empty(64, 64, device="cuda")) is None


@pytest.mark.gpu
def test_torch_compile_traces_through_a_product():
    def product(a, b):
        d = torch.empty(a.shape[0], b.shape[0], dtype=torch.bfloat16, device=a.device)
        torch.ops.dgref.bf16_gemm(a * 2, b, d)
        return d + 1

    a, b = (torch.randn(256, 512, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(a, b), product(a, b))
