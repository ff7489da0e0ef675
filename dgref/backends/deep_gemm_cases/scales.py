"""Layout transforms of scales as DeepGEMM's calls; results are buffers, padding included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dgref.backends.base import FunctionKernel, Kernel
from dgref.backends.deep_gemm_cases.call import Call, Operation, under_alignment
from dgref.formats.native import as_native
from dgref.ops import OPS
from dgref.suite import Case


def _scales(call: Call) -> Any:
    return call.place(as_native(call.inputs["scales"].data, "float32"))


def _buffer(view: Any) -> Any:
    """Return the memory behind a view [..., mn, s]: [..., s, mn rounded up to 4], padding zero."""
    columns_first = view.transpose(-1, -2)
    rows = view.shape[-2]
    buffer = columns_first.new_zeros(*columns_first.shape[:-1], -(-rows // 4) * 4)
    buffer[..., :rows] = columns_first
    return buffer


def _prepared(run: Callable[[], Any]) -> Kernel:
    return FunctionKernel(lambda: {"buffer": run()})


def _mn_major(call: Call) -> Kernel:
    scales = _scales(call)
    return _prepared(lambda: _buffer(call.library.get_mn_major_tma_aligned_tensor(scales)))


def _packed(call: Call) -> Kernel:
    scales = _scales(call)
    ends = call.index("ends") if "ends" in call.inputs else None
    run = under_alignment(call, lambda: call.library.get_mn_major_tma_aligned_packed_ue8m0_tensor(scales, ends))
    return _prepared(lambda: _buffer(run()))


def _k_grouped_refuses(case: Case, here: str) -> str | None:
    return "DeepGEMM packs K groups of a multiple of 4 rows" if case.shape["m"] % 4 else None


def _k_grouped(call: Call) -> Kernel:
    scales, layout, psum = _scales(call), call.index("grouped_layout"), call.param("psum")
    sizes = None if psum else [int(size) for size in call.inputs["grouped_layout"]]
    options = (layout, sizes, call.param("block"), call.param("alignment"), psum)
    pack = call.library.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor
    rows = OPS[call.case.op].problem(call.case)["words"]
    return _prepared(lambda: pack(scales, *options)[:rows])  # without sizes there is room for any groups


def _required_refuses(case: Case, here: str) -> str | None:
    problem = OPS[case.op].problem(case)
    if problem["architecture"] != here:
        return f"this is DeepGEMM for {here}: it does not make layouts for {problem['architecture']}"
    if here == "sm100" and problem["keep_float32"] and problem["block"] not in ("1x128", "128x128"):
        return "DeepGEMM keeps float32 for blocks of 1x128 and 128x128"
    return None


def _required(call: Call) -> Kernel:
    scales, shape = _scales(call), call.case.shape
    block = tuple(int(side) for side in call.param("block").split("x"))
    keep = call.param("keep_float32")
    stays = call.backend.architecture_name == "sm90" or keep

    def run() -> dict[str, Any]:
        transform = call.library.transform_sf_into_required_layout
        made = transform(scales, shape["m"], shape["k"], block, num_groups=shape["g"], disable_ue8m0_cast=keep)
        if stays:
            return {"buffer": made if block[0] == 128 else _buffer(made)}
        return {"words": _buffer(made)}

    return FunctionKernel(run)


def _never(case: Case, here: str) -> None:
    return None


OPERATIONS = {
    "scales_mn_major": Operation(_never, lambda case: "exact", _mn_major),
    "scales_packed": Operation(_never, lambda case: "exact", _packed),
    "scales_packed_k_grouped": Operation(_k_grouped_refuses, lambda case: "exact", _k_grouped),
    "scales_required": Operation(_required_refuses, lambda case: "exact", _required),
}
