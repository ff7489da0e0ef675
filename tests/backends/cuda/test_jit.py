from __future__ import annotations

import threading

import pytest
import torch

from dgref.backends.cuda import driver, jit, library, quantizers
from dgref.errors import InputError, UnsupportedError


@pytest.fixture
def transpose():
    """A kernel of one struct: (source, target, rows, columns, padded rows), here 64 x 64."""
    from dgref.backends.cuda import scale_layouts

    kernel = jit.compile_kernel(scale_layouts.SOURCE, "transpose_floats", {"side": 64})
    source, target = torch.randn(64, 64, device="cuda"), torch.zeros(64, 64, device="cuda")
    problem = scale_layouts.Geometry(64, 64, 64).packed(source, target)
    return kernel, problem, source, target


def test_equal_calls_return_the_same_kernel(kernel_folder, cache_folder):
    first = jit.compile_kernel("tiny/fill.cu", "fill", {"factor": 3, "type": "float"})
    assert jit.compile_kernel("tiny/fill.cu", "fill", {"factor": 3, "type": "float"}) is first
    assert jit.compile_kernel("tiny/fill.cu", "fill", {"factor": 4, "type": "float"}) is not first


def test_another_architecture_gets_a_sentence(monkeypatch):
    monkeypatch.setattr(driver, "device_architecture", lambda device: "sm_120")
    with pytest.raises(UnsupportedError) as caught:
        driver.require_architecture("fp8_gemm", "sm_90a", 0)
    assert str(caught.value).startswith("kernel fp8_gemm: got device 0, sm_120, such as RTX PRO 6000, need sm_90a: use")


@pytest.mark.gpu
def test_a_launch_reaches_the_stream_that_is_current(transpose):
    kernel, problem, source, target = transpose
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        kernel.launch((1,), (256,), (problem,))
        torch.cuda.current_stream().synchronize()
    assert torch.equal(target, source.t())


@pytest.mark.gpu
def test_a_thread_that_never_used_the_gpu_can_launch(transpose):
    kernel, problem, source, target = transpose
    thread = threading.Thread(target=kernel.launch, args=((1,), (256,), (problem,)))
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert torch.equal(target, source.t())


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"programmatic": True}, {"cluster": (1, 1, 1)}, {"shared_bytes": 100_000}])
def test_launch_attributes_are_accepted(transpose, options):
    kernel, problem, source, target = transpose
    kernel.launch((1,), (256,), (problem,), **options)
    torch.cuda.synchronize()
    assert torch.equal(target, source.t())


@pytest.mark.gpu
def test_a_prepared_launch_repeats_itself(transpose):
    kernel, problem, source, target = transpose
    plan = kernel.prepare((1,), (256,), (problem,))
    for _ in range(2):
        target.zero_()
        plan.again()
        torch.cuda.synchronize()
        assert torch.equal(target, source.t())


@pytest.mark.gpu
def test_wrong_arguments_are_errors_and_nothing_runs(transpose):
    kernel, problem, _, _ = transpose
    with pytest.raises(InputError, match="got 2 arguments, need 1 arguments"):
        kernel.launch((1,), (256,), (problem, 3))
    with pytest.raises(InputError, match=r"argument 0: got 1\.5, need a struct of 64 bytes"):
        kernel.launch((1,), (256,), (1.5,))


@pytest.mark.gpu
def test_a_cuda_graph_replays_a_kernel_on_new_data():
    x = torch.randn(128, 512, device="cuda")
    quantizers.quantize(x, "mxfp8")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = quantizers.quantize(x, "mxfp8")
    x.copy_(torch.randn_like(x))
    graph.replay()
    fresh = quantizers.quantize(x, "mxfp8")
    assert torch.equal(captured.data.view(torch.uint8), fresh.data.view(torch.uint8))
    assert torch.equal(captured.scale, fresh.scale)


@pytest.mark.gpu
def test_torch_compile_traces_through_an_operation():
    def double(x):
        data, scale = torch.ops.dgref.quantize(x * 2, "deepseek_fp8")
        return data.float(), scale + 1

    assert library.quantize is not None
    x = torch.randn(64, 512, device="cuda")
    for compiled, eager in zip(torch.compile(double, fullgraph=True, backend="aot_eager")(x), double(x), strict=True):
        assert torch.equal(compiled, eager)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_every_device_gets_its_own_module():
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        x = torch.randn(64, 512, device=device)
        assert quantizers.quantize(x, "deepseek_fp8").data.device == x.device
