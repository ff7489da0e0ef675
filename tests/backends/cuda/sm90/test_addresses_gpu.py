"""Calls on a GPU whose tensors lie elsewhere each time, from one thread and from two."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.gpu
CALLS = 200


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def operands(torch, seed):
    """Return a, b with block scales, b with vector scales, and c; scales lie as a quantiser leaves them."""
    m, n, k = 48, 256, 7168
    torch.manual_seed(seed)
    a, b = (torch.randn(rows, k, device="cuda").to(torch.float8_e4m3fn) for rows in (m, n))
    scales = (torch.rand(rows, k // 128, device="cuda") + 0.5 for rows in (m, n // 128, n))
    return a, b, *scales, torch.randn(m, n, device="cuda")


def products(torch, a, b, a_scale, b_blocks, b_scale, c):
    """Return an FP8 product split over K, one with both scales moved that adds c, and a BF16 one."""
    from dgref.backends.cuda.sm90.gemm import bf16_gemm, fp8_gemm

    found = [torch.empty_like(c) for _ in range(3)]
    fp8_gemm(a, a_scale, b, b_blocks, found[0])
    fp8_gemm(a, a_scale, b, b_scale, found[1], c, b_block=(1, 128))
    bf16_gemm(c.bfloat16(), c.bfloat16(), found[2][:, :48])
    return torch.stack([found[0], found[1], *found[2][None, :, :48].repeat(1, 1, 6)[..., :256]])


@pytest.mark.parametrize("alone", [True, False])
def test_fresh_tensors_at_every_call_change_no_bit(torch, alone):
    given = [operands(torch, seed) for seed in range(2)]
    wanted = [products(torch, *tensors) for tensors in given]
    torch.cuda.synchronize()
    differing = [0, 0]

    def run(place):
        with torch.cuda.stream(torch.cuda.Stream()):
            kept = []  # so that no address comes back too soon
            for _ in range(CALLS):
                tensors = [tensor.clone() for tensor in given[place]]
                kept = [*kept[-7:], tensors]
                differing[place] += (products(torch, *tensors) != wanted[place]).any()
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
        if alone:
            thread.join()
    for thread in threads:
        thread.join()
    assert [int(count) for count in differing] == [0, 0]


def test_a_thread_that_has_not_touched_the_gpu_may_call(torch):
    from dgref.backends.cuda.sm90.gemm import bf16_gemm

    a, b = (torch.randn(64, 256, device="cuda").bfloat16() for _ in range(2))
    want, found = (torch.empty(64, 64, device="cuda") for _ in range(2))
    bf16_gemm(a, b, want)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(bf16_gemm, a, b, found).result()
    assert torch.equal(found, want)


def test_a_captured_graph_keeps_the_addresses_that_it_was_captured_with(torch):
    from dgref.backends.cuda.sm90.gemm import bf16_gemm

    first, other = ([torch.randn(64, 256, device="cuda").bfloat16() for _ in range(2)] for _ in range(2))
    d, elsewhere = (torch.empty(64, 64, device="cuda") for _ in range(2))
    bf16_gemm(*first, d)
    want, graph = d.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        bf16_gemm(*first, d)
    bf16_gemm(*other, elsewhere)
    d.zero_()
    graph.replay()
    assert torch.equal(d, want)


def test_graphs_of_one_stream_are_replayed_in_any_order(torch):
    from dgref.backends.cuda.sm90.configuration import configure
    from dgref.backends.cuda.sm90.gemm import bf16_gemm
    from dgref.backends.cuda.sm90.shape import Shape, Tile

    shape = Shape(64, 64, 2048, element="BF16", scaling="NONE", output="F32")
    split = configure(shape, Tile(64, 64, 1), 4, 132)
    a, b = (torch.randn(64, 2048, device="cuda").bfloat16() for _ in range(2))
    want, found = (torch.empty(64, 64, device="cuda") for _ in range(2))
    bf16_gemm(a, b, want, forced=split)
    stream, graphs = torch.cuda.Stream(), []
    for _ in range(2):  # nothing has been launched on this stream outside a capture
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], stream=stream):
            bf16_gemm(a, b, found, forced=split)
    for graph in (graphs[1], graphs[0], graphs[1]):
        found.fill_(float("nan"))
        graph.replay()
        assert torch.equal(found, want)


def test_a_map_at_another_address_differs_in_its_first_eight_bytes_alone(torch):
    from dgref.backends.cuda.binding import Address
    from dgref.backends.cuda.tensor_map import TensorMap

    torch.zeros(1, device="cuda")
    for dtype, shape, strides, box, swizzle in [
        ("uint8", (7168, 300), (7168,), (128, 64), 128),
        ("bfloat16", (1000, 4096), (2048,), (64, 64), 128),
        ("float32", (300, 56), (1200,), (128, 1), 0),
    ]:
        made = [
            TensorMap.tiled(Address(0, at), dtype, shape, strides, box, swizzle)
            for at in (0x10, 0x555555555550, 0x2AAAAAAAAAA0, 0x7FFFFFFFFFF0)
        ]
        assert len({tensor_map.data[8:] for tensor_map in made}) == 1
        assert all(tensor_map.addresses == ((0, tensor_map.address),) for tensor_map in made)
