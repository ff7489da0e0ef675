"""Scales give the same bits wherever they lie: read through a map, 4 bytes at a time, or moved first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dgref.backends.cuda.sm90 import gemm, grouped, launch, rearrange
from dgref.backends.cuda.sm90.configuration import configure, tiles_of
from dgref.backends.cuda.sm90.shape import Shape, Tile
from tests.backends.cuda.sm90.test_gemm_gpu import mn_major

pytestmark = pytest.mark.gpu
BLOCK, VECTOR, VECTOR_32 = (128, 128), (1, 128), (1, 32)
NAMES = {BLOCK: "BLOCK", VECTOR: "VECTOR", VECTOR_32: "VECTOR_32"}
GROUPS, COUNTS = 4, (100, 0, 128, 37)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


class Given:
    """The operands of a product in groups, drawn on the GPU."""

    def __init__(self, torch: Any, m: int, n: int, k: int, block: tuple[int, int], packed: bool, groups: int = 1):
        torch.manual_seed(0)
        self.torch, self.options = torch, {"b_block": block, "packed": packed}
        a, b = (1, m) if groups == 1 else (groups, m), (groups, n)
        self.a = self.codes(*a, k)
        self.b = self.draw(*b, k // 2) if packed else self.codes(*b, k)
        self.a_scale = torch.rand(*a, -(-k // 128), device="cuda") + 0.5
        self.b_scale = torch.rand(groups, -(-n // block[0]), -(-k // block[1]), device="cuda") + 0.5

    def draw(self, *shape: int) -> Any:
        return self.torch.randint(0, 256, shape, device="cuda", dtype=self.torch.uint8)

    def codes(self, *shape: int) -> Any:
        return self.torch.randn(shape, device="cuda").to(self.torch.float8_e4m3fn)

    def output(self, *shape: int, dtype: str = "bfloat16") -> Any:
        return self.torch.full(shape, 7.0, dtype=getattr(self.torch, dtype), device="cuda")

    def layout(self, numbers: Any) -> Any:
        return self.torch.tensor(numbers, dtype=self.torch.int32, device="cuda")


def dense(torch: Any, m: int, n: int, k: int, block=BLOCK, packed=False, forced=None) -> tuple[Callable, Any, Any]:
    given = Given(torch, m, n, k, block, packed)

    def call(a_scale: Any, b_scale: Any) -> Any:
        d = given.output(m, n, dtype="float32")
        gemm.fp8_gemm(given.a[0], a_scale, given.b[0], b_scale, d, forced=forced, **given.options)
        return d

    return call, given.a_scale[0], given.b_scale[0]


def masked(torch: Any, block=BLOCK, packed=False) -> tuple[Callable, Any, Any]:
    given = Given(torch, 130, 264, 640, block, packed, GROUPS)

    def call(a_scale: Any, b_scale: Any) -> Any:
        d, counts = given.output(GROUPS, 130, 264), given.layout(COUNTS)
        grouped.gemm_grouped_masked(given.a, given.b, d, counts, 64, a_scale, b_scale, **given.options)
        return d

    return call, given.a_scale, given.b_scale


def contiguous(torch: Any, prefix_sum: bool, block=BLOCK, packed=False) -> tuple[Callable, Any, Any]:
    given = Given(torch, 128, 264, 640, block, packed, GROUPS)
    labels = [group if row < count else -1 for group, count in enumerate(COUNTS) for row in range(128)]
    ends = [128 * group + count for group, count in enumerate(COUNTS)]

    def call(a_scale: Any, b_scale: Any) -> Any:
        d, layout = given.output(GROUPS * 128, 264), given.layout(ends if prefix_sum else labels)
        options = {"prefix_sum": prefix_sum, "zero_padding": True, **given.options}
        grouped.gemm_grouped_contiguous(given.a.view(-1, 640), given.b, d, layout, a_scale, b_scale, **options)
        return d

    return call, given.a_scale.view(-1, 5), given.b_scale


def groups_of_k(torch: Any, flat: bool) -> tuple[Callable, Any, Any]:
    sizes, m, n = [256, 0, 640, 128], 192, 272
    given = Given(torch, m, n, sum(sizes), VECTOR, False)
    a, b = given.a[0], given.b[0]

    def call(a_scale: Any, b_scale: Any) -> Any:
        d, layout = given.output(GROUPS, m, n, dtype="float32"), given.layout(sizes)
        operands = (a.flatten(), b.flatten()) if flat else (a.view(-1, m), b.view(-1, n))
        grouped.gemm_grouped_k(*operands, d, layout, None, a_scale, b_scale, sizes=sizes)
        return d

    return call, given.a_scale[0], given.b_scale[0]


CASES: dict[str, Callable[[Any], tuple[Callable, Any, Any]]] = {
    "dense": lambda torch: dense(torch, 200, 264, 1152),
    "dense, ends inside": lambda torch: dense(torch, 7, 136, 400),
    "dense, split": lambda torch: dense(torch, 33, 200, 7168),
    "vector": lambda torch: dense(torch, 300, 520, 1152, VECTOR),
    "vector, ends inside": lambda torch: dense(torch, 7, 136, 400, VECTOR),
    "per 32": lambda torch: dense(torch, 200, 264, 1152, VECTOR_32),
    "per 32, ends inside": lambda torch: dense(torch, 7, 136, 400, VECTOR_32),
    "packed": lambda torch: dense(torch, 100, 264, 384, VECTOR, True),
    "packed, per 32": lambda torch: dense(torch, 7, 136, 416, VECTOR_32, True),
    "packed, widened": lambda torch: dense(torch, 2000, 2064, 640, VECTOR, True),
    "masked": masked,
    "masked, vector": lambda torch: masked(torch, VECTOR),
    "masked, packed per 32": lambda torch: masked(torch, VECTOR_32, True),
    "labels": lambda torch: contiguous(torch, False),
    "labels, packed": lambda torch: contiguous(torch, False, VECTOR, True),
    "ends": lambda torch: contiguous(torch, True),
    "ends, per 32": lambda torch: contiguous(torch, True, VECTOR_32),
    "groups of k": lambda torch: groups_of_k(torch, False),
    "flat groups of k": lambda torch: groups_of_k(torch, True),
}


def places(torch: Any, scales: Any) -> Iterator[Any]:
    """Yield the same scales elsewhere; what lies between them is poison."""
    yield scales.contiguous()
    *groups, rows, each = scales.shape
    wide = torch.full((*groups, rows, 2 * each + 1), float("nan"), device="cuda")
    wide[..., 1::2] = scales
    yield wide[..., 1::2]
    tall = torch.full((*groups, each, rows + 1), float("nan"), device="cuda")
    tall[..., 1:] = scales.transpose(-1, -2)
    yield tall.transpose(-1, -2)[..., 1:, :]


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_scales_that_lie_anyhow_give_the_bits_of_those_that_a_map_reads(torch, name, move, monkeypatch):
    call, a_scale, b_scale = CASES[name](torch)
    by_rows = b_scale.shape[-2] >= 136  # not of 128 x 128
    want = call(mn_major(torch, a_scale), mn_major(torch, b_scale) if by_rows else b_scale)
    assert (want != 7.0).any()
    monkeypatch.setattr(rearrange, "moves_scales", lambda *given: move)
    monkeypatch.setattr(launch._kept, "plans", {})
    for left, right in zip(places(torch, a_scale), places(torch, b_scale), strict=True):
        assert torch.equal(call(left, right), want)


@pytest.mark.parametrize("rows", [7, 200])
@pytest.mark.parametrize("block", [BLOCK, VECTOR])
def test_every_kind_of_tile_reads_scales_that_lie_anyhow(torch, block, rows, monkeypatch):
    monkeypatch.setattr(rearrange, "moves_scales", lambda *given: False)
    shape, plain, want = Shape(rows, 264, 1152, scaling=NAMES[block], output="F32"), Tile(64, 64, 1), {}
    for tile in (plain, *(tile for tile in tiles_of(shape) if tile.block_n in (64, 128))):
        for splits in (1, 2, 4) if tile == plain else (tile.cluster_k,):
            call, *scales = dense(torch, rows, 264, 1152, block, forced=configure(shape, tile, splits, 132))
            d = call(*scales)
            assert torch.equal(d, want.setdefault(splits, d)), tile
