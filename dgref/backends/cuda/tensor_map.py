"""Tensor maps: what the copy engine (TMA) is told about a tensor in global memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dgref.backends.cuda.binding import Address
from dgref.backends.cuda.driver import bindings, checked
from dgref.errors import InputError, ShapeError, UnsupportedError, expected

DTYPES = {
    "uint8": "CU_TENSOR_MAP_DATA_TYPE_UINT8",
    "uint16": "CU_TENSOR_MAP_DATA_TYPE_UINT16",
    "uint32": "CU_TENSOR_MAP_DATA_TYPE_UINT32",
    "int32": "CU_TENSOR_MAP_DATA_TYPE_INT32",
    "uint64": "CU_TENSOR_MAP_DATA_TYPE_UINT64",
    "float16": "CU_TENSOR_MAP_DATA_TYPE_FLOAT16",
    "float32": "CU_TENSOR_MAP_DATA_TYPE_FLOAT32",
    "bfloat16": "CU_TENSOR_MAP_DATA_TYPE_BFLOAT16",
    "tfloat32": "CU_TENSOR_MAP_DATA_TYPE_TFLOAT32",
}
SWIZZLES = {0: "NONE", 32: "32B", 64: "64B", 128: "128B"}
L2_PROMOTIONS = {0: "NONE", 64: "L2_64B", 128: "L2_128B", 256: "L2_256B"}
FILLS = {"zeros": "CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE", "nan": "CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA"}


@dataclass(frozen=True)
class TensorMap:
    """A 128-byte descriptor, passed to a kernel by value (`const __grid_constant__ TensorMap`)."""

    data: bytes
    address: Address | None = None  # of the operand that it describes, where a plan is to replace it

    @property
    def addresses(self) -> tuple[tuple[int, Address], ...]:
        """Return which bytes are the operand's address: the first eight, and no other bit depends on it."""
        if self.address is None:
            return ()
        first = int.from_bytes(self.data[:8], "little")
        if first != self.address.now:
            raise UnsupportedError(expected("tensor map", f"{first:#x} in front", f"its address, {self.address}"))
        return ((0, self.address),)

    @classmethod
    def tiled(
        cls,
        tensor: Any,
        dtype: str,
        shape: Sequence[int],
        strides_bytes: Sequence[int],
        box: Sequence[int],
        swizzle: int = 0,
        l2_promotion: int = 256,
        fill: str = "zeros",
    ) -> TensorMap:
        """Describe a tensor for tiled copies, innermost dimension first.

        `tensor` is a torch tensor or an address; `strides_bytes` leaves out the innermost dimension, which is dense.
        `swizzle` is 0, 32, 64 or 128 bytes. Equal maps are encoded once.
        """
        pointer = tensor if isinstance(tensor, int | Address) else tensor.data_ptr()
        address = pointer if isinstance(pointer, Address) else None
        number = address.now if address else pointer
        given = (dtype, tuple(shape), tuple(strides_bytes), tuple(box), swizzle, l2_promotion, fill)
        return cls(_encoded(number, *given), address)


@lru_cache(maxsize=4096)
def _encoded(pointer, dtype, shape, strides, box, swizzle, l2_promotion, fill) -> bytes:
    _check(pointer, dtype, shape, strides, box, swizzle, l2_promotion, fill)
    driver, context = bindings(), f"shape {shape}, strides {strides} bytes, box {box}, {dtype}, swizzle {swizzle}"
    unsigned32, unsigned64 = driver.cuuint32_t, driver.cuuint64_t
    encoded = driver.cuTensorMapEncodeTiled(
        getattr(driver.CUtensorMapDataType, DTYPES[dtype]),
        len(shape),
        pointer,
        [unsigned64(extent) for extent in shape],
        [unsigned64(stride) for stride in strides],
        [unsigned32(extent) for extent in box],
        [unsigned32(1)] * len(shape),
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{SWIZZLES[swizzle]}"),
        getattr(driver.CUtensorMapL2promotion, f"CU_TENSOR_MAP_L2_PROMOTION_{L2_PROMOTIONS[l2_promotion]}"),
        getattr(driver.CUtensorMapFloatOOBfill, FILLS[fill]),
    )
    words = checked(encoded, f"cuTensorMapEncodeTiled [{context}]").opaque
    return b"".join(int(word).to_bytes(8, "little") for word in words)


def _check(pointer, dtype, shape, strides, box, swizzle, l2_promotion, fill) -> None:
    """Name the rule that a descriptor breaks; the driver would only say `invalid value`."""
    for name, value, table in (
        ("dtype", dtype, DTYPES),
        ("swizzle", swizzle, SWIZZLES),
        ("l2_promotion", l2_promotion, L2_PROMOTIONS),
        ("fill", fill, FILLS),
    ):
        if value not in table:
            raise InputError(expected(f"tensor map {name}", repr(value), "one of " + ", ".join(map(str, table))))
    if not (1 <= len(shape) <= 5 and len(strides) == len(shape) - 1 and len(box) == len(shape)):
        need = "1 to 5 dimensions, a box of as many, and one stride fewer"
        raise ShapeError(expected("tensor map", f"shape {shape}, strides {strides}, box {box}", need))
    if pointer % 16:
        raise InputError(expected("tensor map address", hex(pointer), "a multiple of 16 bytes"))
    for stride in strides:
        if stride % 16:
            raise ShapeError(expected("tensor map stride", f"{stride} bytes", "a multiple of 16 bytes"))
    for extent in box:
        if not 1 <= extent <= 256:
            raise ShapeError(expected("tensor map box", box, "1 to 256 elements in each dimension"))
