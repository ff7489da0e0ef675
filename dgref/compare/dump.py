"""A dump from someone's debugger as a case: arrays by name in one file, and what they mean in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgref.buffers import tensor_of
from dgref.compare.dumped_scales import fits, scale_buffer
from dgref.errors import FileError, FormatError, InputError, expected, unknown_name
from dgref.formats import FORMATS, LAYOUTS, RECIPES, format_of
from dgref.formats.native import bits_of, to_numpy
from dgref.ops import OPS, Op, Operand
from dgref.suite import MAJORS, Case, InputChoice, OperandChoice

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")


@dataclass(frozen=True)
class Dump:
    """A case, its logical inputs, and the outputs that were dumped."""

    case: Case
    inputs: Mapping[str, Any]
    outputs: Mapping[str, np.ndarray]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors, npz or pt file by name."""
    if path.suffix not in SUFFIXES:
        raise FileError(expected(str(path), f"suffix {path.suffix!r}", " or ".join(SUFFIXES)))
    if not path.is_file():
        raise FileError(expected(str(path), "no such file", "a dump of arrays by name"))
    try:
        arrays = _load(path)
    except Exception as error:  # each reader raises its own kinds
        raise FileError(
            expected(str(path), f"unreadable ({error})", f"a whole {path.suffix} file of arrays")
        ) from error
    return {name: _bits(_numbers(to_numpy(array, name), name)) for name, array in arrays.items()}


def _load(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".npz":
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return {name: array for name, array in loaded.items() if isinstance(array, torch.Tensor)}


def _numbers(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind in "bcOSUmM" or array.dtype.names:
        raise FormatError(expected(name, array.dtype, "floats or integers"))
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))  # its bits are looked at


def _bits(array: np.ndarray) -> np.ndarray:
    """Return arrays whose dtype NumPy lost on the way as unsigned integers."""
    return bits_of(array) if array.dtype.type is np.void else array


def choice_of(text: str, name: str) -> OperandChoice:
    """Return what "RECIPE[:LAYOUT[:MAJOR]]" says of an operand; unknown names suggest the nearest."""
    parts = text.split(":")
    if len(parts) > 3:
        raise InputError(expected(name, text, "RECIPE[:LAYOUT[:MAJOR]]"))
    recipe, layout, major = (*parts, "", "")[:3]
    if major and major not in MAJORS:
        raise unknown_name(f"{name} major", major, MAJORS)
    return OperandChoice(RECIPES[recipe].name, LAYOUTS[layout].name if layout else None, major or "k")


def as_case(
    arrays: Mapping[str, np.ndarray],
    op: str = "gemm",
    choices: Mapping[str, OperandChoice] | None = None,
    params: Mapping[str, Any] | None = None,
    shape: Mapping[str, int] | None = None,
    out: str | None = None,
    id: str = "dump",
) -> Dump:
    """Return the case of a dump: operands by the op's names (`a`, `a.scale`, `a.global_scale`), outputs by theirs.

    Extents follow from the payloads' shapes; `shape` gives those that do not. `out` is the output's format where its
    dtype does not say it.
    """
    row = OPS[op]
    _known(row, arrays)
    chosen = {n: (choices or {}).get(n) or _plain(n, arrays[n]) for n in _tensors(row, arrays)}
    extents = {**_extents(row, arrays, chosen, row.check_params(params or {}, id)), **(shape or {})}
    name = next((o.name for o in row.outputs if o.name in arrays), None)
    if name is None:
        raise InputError(expected("dump", f"arrays {', '.join(arrays)}", f"an output: {', '.join(_outputs(row))}"))
    out = FORMATS[out].name if out else _out_of(arrays[name], name) if row.out_formats else None
    case = Case(id, "a dump", row.name, extents, chosen, dict(params or {}), out, InputChoice())
    row.validate(case)
    problem = row.problem(case)
    inputs = {o.name: _input(o, arrays, problem, chosen) for o in row.present(problem)}
    outputs = {o.name: _native(arrays[o.name], o.format(problem)) for o in row.outputs if o.name in arrays}
    return Dump(case, inputs, outputs)


def _outputs(row: Op) -> list[str]:
    return [operand.name for operand in row.outputs]


def _known(row: Op, arrays: Mapping[str, Any]) -> None:
    operands = [operand.name for operand in row.inputs]
    known = [*operands, *_outputs(row), *(f"{n}.{part}" for n in operands for part in ("scale", "global_scale"))]
    for name in arrays:
        if name not in known:
            raise unknown_name(f"array of a {row.name} dump", name, known)


def _tensors(row: Op, arrays: Mapping[str, Any]) -> list[str]:
    return [o.name for o in row.inputs if o.kind != "index" and o.name in arrays]


def _plain(name: str, array: np.ndarray) -> OperandChoice:
    if array.dtype.kind in "iu":
        raise InputError(expected(name, f"{array.dtype} and no recipe", f"--recipe {name}=RECIPE: bits need a meaning"))
    return OperandChoice(format_of(array, name).name)


def _logical(name: str, arrays: Mapping[str, np.ndarray], choice: OperandChoice) -> tuple[int, ...]:
    """Return the shape in elements: narrow codes share bytes, unless each byte holds one and no scales say so."""
    shape, bits = arrays[name].shape, FORMATS[RECIPES[choice.recipe].format].bits
    if bits >= 8 or not shape:
        return _in_order(shape, choice)
    packed = _in_order((*shape[:-1], shape[-1] * 8 // bits), choice)
    scales = arrays.get(f"{name}.scale")
    if scales is None or fits(scales, packed, choice) or bits_of(arrays[name]).max(initial=0) >> bits:
        return packed  # too small a buffer of scales must not decide what the payload is
    return _in_order(shape, choice)


def _in_order(stored: tuple[int, ...], choice: OperandChoice) -> tuple[int, ...]:
    return stored if choice.major == "k" else (*stored[:-2], stored[-1], stored[-2])


def _extents(
    row: Op, arrays: Mapping[str, Any], chosen: Mapping[str, OperandChoice], params: Mapping[str, Any]
) -> dict[str, int]:
    """Return the extents of the op's own axes that the payloads' shapes tell."""
    shapes = {name: _logical(name, arrays, choice) for name, choice in chosen.items()}
    shapes |= {o.name: arrays[o.name].shape for o in row.inputs if o.kind == "index" and o.name in arrays}
    extents = row.extents_of({name: np.broadcast_to(0, shape) for name, shape in shapes.items()}, params)
    return {axis: extent for axis, extent in extents.items() if axis in row.axes.split()}


def _out_of(array: np.ndarray, name: str) -> str:
    if array.dtype.kind in "iu":
        raise InputError(expected(name, f"{array.dtype}", "a float dtype, or --out to say what its bits are"))
    return format_of(array, name).name


def _input(operand: Operand, arrays: Mapping[str, np.ndarray], problem: Any, chosen: Mapping[str, Any]) -> Any:
    if operand.kind == "index":
        if operand.name not in arrays:
            raise InputError(expected("dump", f"no array {operand.name!r}", operand.meaning or "an index operand"))
        return arrays[operand.name]
    choice = chosen.get(operand.name)
    if choice is None:
        raise InputError(expected("dump", f"no array {operand.name!r}", f"an operand of {operand.axes_of(problem)}"))
    shape, scales = operand.shape(problem), f"{operand.name}.scale"
    if scales in arrays:
        arrays = {**arrays, scales: scale_buffer(scales, arrays[scales], shape, choice)}
    return tensor_of(operand.name, arrays, shape, choice)


def _native(array: np.ndarray, format: str) -> np.ndarray:
    native = FORMATS[format].native_dtype if format in FORMATS else None
    if native is None or array.dtype.kind not in "iu" or array.dtype.itemsize != native.itemsize:
        return array
    return np.ascontiguousarray(array).reshape(array.shape).view(native)
