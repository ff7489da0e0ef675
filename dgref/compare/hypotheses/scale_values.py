"""Scales whose value went wrong while their place was right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.hypotheses.base import (
    Misreading,
    Scene,
    State,
    hypothesis,
    is_float_format,
    is_power_format,
    on,
    scale_floats,
    with_floats,
)
from dgref.formats import FORMATS, ScaledTensor

_OFFSETS = (1, -1, 2, -2, 3, -3, 4, -4, 6, -6, 7, -7, 8, -8)


def power_below(values: np.ndarray) -> np.ndarray:
    """Return the power of two at or below each positive value: its float32 bits without the mantissa."""
    return (values.view(np.uint32) & np.uint32(0xFF800000)).view(np.float32)


def power_above(values: np.ndarray) -> np.ndarray:
    """Return the power of two at or above each positive value."""
    below = power_below(values)
    return np.where(below == values, below, below * 2).astype(np.float32)


def _whole(values: np.ndarray) -> bool:
    return bool((power_below(values) == values).all())


def _of_fractions(scene: Scene) -> Iterator[tuple[str, ScaledTensor]]:
    """Yield operands that have float32 scales with mantissas."""
    return ((n, t) for n, t in scene.state.scaled() if is_float_format(t) and not _whole(scale_floats(t)))


@hypothesis(1, likelihood=0.8)
def scale_truncated(scene: Scene) -> Iterator[Misreading]:
    """Float32 scales cut down to powers of two by dropping their mantissas."""
    for name, _ in _of_fractions(scene):
        yield Misreading(
            f"the mantissas of {name}'s float32 scales were dropped, which makes them UE8M0 rounded down",
            on(name, lambda t: with_floats(t, power_below(scale_floats(t)))),
            name,
            f"quantise {name} with UE8M0 scales (recipe ..._ue8m0) before handing it to a kernel that takes UE8M0",
        )


@hypothesis(2, likelihood=0.7)
def scale_rounded_without_requantising(scene: Scene) -> Iterator[Misreading]:
    """Float32 scales rounded to powers of two while the payload stayed as it was."""
    ways = (("up", power_above), ("to nearest", lambda v: np.exp2(np.round(np.log2(v))).astype(np.float32)))
    for name, _ in _of_fractions(scene):
        for word, way in ways:
            yield Misreading(
                f"{name}'s float32 scales were rounded {word} to powers of two without requantising the payload",
                on(name, lambda t, way=way: with_floats(t, way(scale_floats(t)))),
                name,
                f"dequantise {name} and quantise it again with a UE8M0 recipe; rounding scales alone changes values",
            )


@hypothesis(3, likelihood=0.55)
def packer_mantissa_unmasked(scene: Scene) -> Iterator[Misreading]:
    """Four float32 scales packed into a word of UE8M0 bytes without masking their mantissas."""
    for name, tensor in _of_fractions(scene):
        if tensor.scale.shape[-1] > 1:
            yield Misreading(
                f"the packer left the mantissas of {name}'s scales in, so that they spill into the neighbouring bytes",
                on(name, _packed_unmasked),
                name,
                "mask each exponent (bits >> 23 & 0xFF) before shifting it into the word, or make scales powers of two",
            )


def _packed_unmasked(tensor: ScaledTensor) -> ScaledTensor:
    """Do what (x0 >> 23) | (x1 >> 15) | (x2 >> 7) | (x3 << 1) does, then read the bytes as exponents."""
    bits = np.ascontiguousarray(scale_floats(tensor)).view(np.uint32)
    width = bits.shape[-1]
    four = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -width % 4)]).reshape(*bits.shape[:-1], -1, 4)
    words = four[..., 0] >> 23 | four[..., 1] >> 15 | four[..., 2] >> 7 | four[..., 3] << 1
    codes = np.ascontiguousarray(words).view(np.uint8).reshape(*bits.shape[:-1], -1)[..., :width]
    return with_floats(tensor, FORMATS["float8_e8m0fnu"].decode(codes))


@hypothesis(4, likelihood=0.85)
def scale_exponent_offset(scene: Scene) -> Iterator[Misreading]:
    """Every scale off by the same power of two: a wrong bias, or a factor applied twice or not at all."""
    offsets = _OFFSETS if scene.observed is None else _measured_offsets(scene)
    for name, _ in scene.state.scaled():
        for n in offsets:
            yield Misreading(
                f"every scale of {name} was taken as 2^{n} of what it is",
                on(name, lambda t, n=n: _shifted(t, n)),
                name,
                f"look for an exponent bias, or a constant factor of 2^{n}, in how {name}'s scales are stored, or read",
                "taking it so",
                likelihood=None if abs(n) <= max(_OFFSETS) else 0.4,
            )


def _shifted(tensor: ScaledTensor, n: int) -> ScaledTensor:
    if tensor.global_scale is not None:  # the E4M3 scales have no room; the global factor moves instead
        sign = -1 if tensor.scaling.global_scale == "divide" else 1
        return replace(tensor, global_scale=np.ldexp(np.asarray(tensor.global_scale, np.float32), sign * n))
    return with_floats(tensor, np.ldexp(scale_floats(tensor), n))


def _measured_offsets(scene: Scene) -> tuple[int, ...]:
    """Return the power of two between observed and correct outputs; all where outputs do not show it."""
    if scene.correct is None or scene.state.case.op == "mega_moe":  # which is not linear in its scales
        return _OFFSETS
    name = next(iter(scene.correct))
    observed, correct = (np.asarray(side[name], np.float64).ravel() for side in (scene.observed, scene.correct))
    usable = np.isfinite(observed) & np.isfinite(correct) & (np.sign(observed) * np.sign(correct) > 0)
    if not usable.any():
        return ()
    n = round(float(np.median(np.log2(observed[usable] / correct[usable]))))
    return (n,) if n else ()


@hypothesis(7, likelihood=0.78)
def scale_inverted(scene: Scene) -> Iterator[Misreading]:
    """The inverse of blocks' scales multiplied by, as `weight_scale_inv` may be taken to ask for."""
    names = [name for name, tensor in scene.state.scaled() if not (np.abs(scale_floats(tensor)) == 1).all()]
    for chosen in (*([name] for name in names), names if len(names) > 1 else []):
        if chosen:
            words = " and ".join(chosen)
            yield Misreading(
                f"the scales of {words} were inverted: 1/s was multiplied by",
                lambda s, chosen=chosen: _inverted(s, chosen),
                "+".join(chosen),
                f"multiply by {words}'s scales as they are: `weight_scale_inv` is a factor already, whatever its name",
                "inverting them",
            )


def _inverted(state: State, names: list[str]) -> State:
    for name in names:
        with np.errstate(divide="ignore"):
            state = state.put(name, with_floats(state.inputs[name], 1 / scale_floats(state.inputs[name])))
    return state


@hypothesis(5, likelihood=0.45)
def scale_extreme_byte(scene: Scene) -> Iterator[Misreading]:
    """UE8M0 byte 0 or 255 decoded as a plain shift does: as 0.0 and as infinity."""
    for name, tensor in scene.state.scaled():
        codes = np.asarray(tensor.scale)
        if is_power_format(tensor) and ((codes == 0) | (codes == 255)).any():
            for byte, value, word in ((0, 0.0, "0.0 instead of 2^-127"), (255, np.inf, "infinity instead of NaN")):
                if (codes == byte).any():
                    yield Misreading(
                        f"byte {byte} among {name}'s UE8M0 scales was decoded as {word}",
                        on(name, lambda t, b=byte, v=value: _redecoded(t, b, v)),
                        name,
                        "decode bytes 0 and 255 by themselves: (byte << 23) is wrong for both",
                        "decoding it so",
                    )


def _redecoded(tensor: ScaledTensor, byte: int, value: float) -> ScaledTensor:
    floats = np.where(np.asarray(tensor.scale) == byte, np.float32(value), scale_floats(tensor))
    return replace(tensor, scale=floats, scaling=replace(tensor.scaling, scale_format="float32"))


@hypothesis(6, likelihood=0.5)
def numeric_cast_of_bits(scene: Scene) -> Iterator[Misreading]:
    """Bits converted as if they were numbers where they should have been viewed."""
    for name, tensor in scene.state.scaled():
        if is_power_format(tensor):
            yield Misreading(
                f"{name}'s UE8M0 scales were cast to uint8 numerically, so that 2^-3 became byte 0",
                on(name, lambda t: t.with_scale(np.clip(scale_floats(t), 0, 255).astype(np.uint8))),
                name,
                f"view the scales as bytes (scale.view(torch.uint8)), never .to(torch.uint8) [{name}]",
            )
            yield Misreading(
                f"the bytes of {name}'s UE8M0 scales were cast to float32, so that byte 127 became 127.0",
                on(name, lambda t: with_floats(t, np.asarray(t.scale).view(np.uint8))),
                name,
                f"decode the bytes as exponents, never with .to(float32) [{name}]",
            )
    for name, tensor in scene.state.matrices():
        if tensor.format.startswith("float8"):
            yield Misreading(
                f"the bytes of {name} were cast to {tensor.format} as numbers, so that byte 56 became 56.0",
                on(name, lambda t: replace(t, data=FORMATS[t.format].encode(np.asarray(t.data, np.float32)))),
                name,
                f"view the bytes ({name}.view(torch.{tensor.format})), never .to()",
            )
