"""Every layout as a row. Names say the geometry; vendor names are aliases."""

from __future__ import annotations

from dgref.formats.layouts.base import Layout
from dgref.formats.layouts.elements import ANY, FLOAT32, UE8M0_WORDS, Elements
from dgref.formats.layouts.pattern import Pattern
from dgref.formats.layouts.ragged import Grouped, PrefixSum
from dgref.formats.layouts.tiled import Composed, Tiled
from dgref.registry import Registry

_DEEP_GEMM = "DeepGEMM csrc/jit_kernels/impls/smxx_layout.hpp"
_CUBLAS = "cuBLAS documentation, block scaling factors layout"
_FLASHINFER = "FlashInfer shuffle_matrix_a"


def _tiled(
    name: str,
    pattern: str,
    description: str,
    source: str,
    *,
    aliases: tuple[str, ...] = (),
    elements: Elements = ANY,
    pads: bool = True,
    alignment: int = 16,
    **fixed: int,
) -> Tiled:
    rule = Pattern(pattern, tuple(fixed.items()), pads)
    return Tiled(
        name=name,
        description=description,
        source=source,
        aliases=aliases,
        alignment=alignment,
        elements=elements,
        pattern=rule,
        copies=bool(rule.repeated),
    )


_LINEAR = _tiled(
    "linear",
    "M S -> M S",
    "row by row: the scales of one row lie together",
    "checkpoints; OCP MX leaves the layout open",
    aliases=("k_major", "row_major"),
    alignment=1,
)
_MN_MAJOR = _tiled(
    "mn_major",
    "M S -> S M",
    "column by column: the scales of one K block lie together",
    f"{_CUBLAS} (VEC128_32F); torch ScalingType.BlockWise1x128 with strides (1, M)",
    aliases=("cublaslt_vec128", "torch_blockwise_1x128", "column_major"),
)
_MN_MAJOR_TMA = _tiled(
    "mn_major_tma",
    "(M a) S -> S (M a)",
    "float32, column by column, each column padded to 16 bytes so that TMA can step over it",
    f"{_DEEP_GEMM}, get_mn_major_tma_aligned_tensor",
    aliases=("deep_gemm_sm90", "mn_major_tma_aligned"),
    elements=FLOAT32,
    a=4,
)
_PACKED = _tiled(
    "packed_ue8m0",
    "(M a) (P c) -> P (M a) c",
    "four consecutive UE8M0 bytes of a row in one little-endian int32; words column by column, padded to 16 bytes",
    f"{_DEEP_GEMM}, get_mn_major_tma_aligned_packed_ue8m0_tensor",
    aliases=("deep_gemm_sm100", "mn_major_tma_packed_ue8m0"),
    elements=UE8M0_WORDS,
    a=4,
    c=4,
)
_PACKED_ROWS = _tiled(
    "packed_ue8m0_rows",
    "(P c) M -> P M c",
    "four consecutive rows of UE8M0 bytes in one row of little-endian int32: the grid is [K blocks, MN]",
    f"{_DEEP_GEMM}, pack_fp32_into_ue8m0",
    elements=UE8M0_WORDS,
    c=4,
)
_BROADCAST = _tiled(
    "broadcast_rows_128",
    "M S -> (M r) S",
    "every row 128 times: a 128x128 weight scale where the kernel wants one scale a row",
    "DeepGEMM csrc/apis/layout.hpp, index_select by floor(row / 128)",
    alignment=1,
    r=128,
)
_UTCCP = _tiled(
    "utccp_4x32",
    "(T a b) S -> (T b a) S",
    "rows of every 128 as 32 x 4 instead of 4 x 32: what tcgen05.cp 4x32 broadcasts to tensor memory",
    "DeepGEMM mega/__init__.py; PTX tcgen05.cp .32x128b.warpx4",
    aliases=("mega_moe_scale_rows",),
    a=4,
    b=32,
)
_INTERLEAVE_8 = _tiled(
    "gate_up_interleave_8",
    "(h T r) S -> (T h r) S",
    "all gate rows, then all up rows, become 8 rows of gate, 8 rows of up, and so on",
    "DeepGEMM mega/__init__.py",
    aliases=("mega_moe_gate_up",),
    pads=False,
    h=2,
    r=8,
)
_INTERLEAVE_1 = _tiled(
    "gate_up_interleave_1",
    "(h T) S -> (T h) S",
    "all gate rows, then all up rows, become one row of gate, one row of up, and so on",
    "gpt-oss checkpoints; FlashInfer reorder_rows_for_gated_act_gemm",
    aliases=("gate_up_interleave_rows",),
    pads=False,
    h=2,
)
_SWIZZLE_128X4 = _tiled(
    "swizzle_128x4",
    "(T a b) (U c) -> (T U b a c)",
    "tiles of 128 rows x 4 scales in 512 bytes: row r of a tile at 16 (r % 32) + 4 (r // 32)",
    f"{_CUBLAS}, 1D block scaling; CUTLASS Sm1xxBlockScaledBasicChunk; torch SwizzleType.SWIZZLE_32_4_4",
    aliases=("cublaslt_vec16", "cublaslt_vec32", "swizzle_32_4_4", "torch_blocked", "cutlass_sm100_sf", "128x4"),
    a=4,
    b=32,
    c=4,
)
_SWIZZLE_8X4 = _tiled(
    "swizzle_8x4",
    "(T r) (U c) -> (T U r c)",
    "tiles of 8 rows x 4 scales in 32 bytes, rows in order",
    "TensorRT-LLM QuantizationSFLayout::SWIZZLED_8x4; FlashInfer SfLayout.layout_8x4",
    aliases=("trtllm_8x4", "8x4"),
    r=8,
    c=4,
)
_SHUFFLE_16 = _tiled(
    "shuffle_rows_16",
    "(T q r) S -> (T r q) S",
    "rows of every 16: row 2q + r goes to 8r + q",
    f"{_FLASHINFER}, epilogue tiles of 64 columns and less",
    aliases=("shuffle_matrix_a_16",),
    pads=False,
    q=8,
    r=2,
)
_SHUFFLE_32 = _tiled(
    "shuffle_rows_32",
    "(T q r) S -> (T r q) S",
    "rows of every 32: row 4q + r goes to 8r + q",
    f"{_FLASHINFER}, epilogue tiles of 128 columns",
    aliases=("shuffle_matrix_a", "shuffle_matrix_a_32"),
    pads=False,
    q=8,
    r=4,
)
_BLOCK_128X128 = _tiled(
    "linear_padded_4",
    "N (K a) -> N (K a)",
    "row by row, each row of K blocks padded to a multiple of 4",
    f"{_CUBLAS} (BLK128x128_32F); torch ScalingType.BlockWise128x128 (pads K blocks to 4, passes the transpose)",
    aliases=("cublaslt_blk128x128", "torch_blockwise_128x128"),
    elements=FLOAT32,
    a=4,
)


def _composed(name: str, description: str, *stages: Tiled, aliases: tuple[str, ...] = ()) -> Composed:
    return Composed(
        name=name,
        description=description,
        source="; ".join(dict.fromkeys(stage.source for stage in stages)),
        aliases=aliases,
        alignment=max(stage.alignment for stage in stages),
        elements=stages[-1].elements,
        copies=any(stage.copies for stage in stages),
        stages=stages,
    )


_ROWS: list[Layout] = [
    _LINEAR,
    _MN_MAJOR,
    _MN_MAJOR_TMA,
    _BLOCK_128X128,
    _PACKED,
    _PACKED_ROWS,
    _BROADCAST,
    _UTCCP,
    _INTERLEAVE_8,
    _INTERLEAVE_1,
    _SWIZZLE_128X4,
    _SWIZZLE_8X4,
    _SHUFFLE_16,
    _SHUFFLE_32,
    Grouped(
        name="packed_ue8m0_k_grouped",
        description="K blocks by MN, in groups of `extents` rows: every group starts a new row of words",
        source=f"{_DEEP_GEMM}, get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor",
        aliases=("deep_gemm_k_grouped",),
        elements=UE8M0_WORDS,
        inner=_PACKED_ROWS,
    ),
    PrefixSum(
        name="packed_ue8m0_psum",
        description="packed_ue8m0 whose rows outside the groups given by `ends` are padding: their words are zero",
        source=f"{_DEEP_GEMM}, psum_layout",
        aliases=("deep_gemm_psum",),
        elements=UE8M0_WORDS,
        inner=_PACKED,
    ),
    _composed("packed_ue8m0_broadcast_128", "a 128x128 weight scale as packed words", _BROADCAST, _PACKED),
    _composed("utccp_4x32_packed_ue8m0", "rows for UTCCP, packed", _UTCCP, _PACKED, aliases=("mega_moe_l2_scale",)),
    _composed(
        "gate_up_interleave_8_utccp_4x32_packed_ue8m0",
        "gate and up by 8 rows, rows for UTCCP, then packed words",
        _INTERLEAVE_8,
        _UTCCP,
        _PACKED,
        aliases=("mega_moe_l1_scale",),
    ),
    _composed("shuffle_rows_16_swizzle_128x4", "shuffled rows, then 128x4 tiles", _SHUFFLE_16, _SWIZZLE_128X4),
    _composed(
        "shuffle_rows_32_swizzle_128x4",
        "shuffled rows, then 128x4 tiles",
        _SHUFFLE_32,
        _SWIZZLE_128X4,
        aliases=("shuffle_matrix_sf_a",),
    ),
    _composed(
        "gate_up_interleave_1_swizzle_128x4", "gate and up by row, then 128x4 tiles", _INTERLEAVE_1, _SWIZZLE_128X4
    ),
]

LAYOUTS: Registry[Layout] = Registry("layout", listed="layouts")
for _row in _ROWS:
    LAYOUTS.add(_row, *_row.aliases)
