"""What DeepGEMM keeps as process-wide settings, and the arithmetic that calls on CPU tensors run under."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from dgref.annotations import explained
from dgref.backends.cuda.launch import WHOLE_CARD, Resources
from dgref.errors import InputError, UnsupportedError, expected, flag, unknown_name, whole_number, whole_numbers
from dgref.reference.arithmetic import Arithmetic, resolve

# What a product of each kind is on each architecture; `fine` has scales for fewer than 128 elements of K, `folded` has
# packed FP4 with UE8M0 scales of that kind, as words, beside FP32 scales per 128.
_BLACKWELL = {
    "fp8": "deep_gemm.sm100.fp8_1d1d",
    "fine": "deep_gemm.sm100.fp8_fp4",
    "folded": "deep_gemm.sm100.fp8_fp4",
    "bf16": "deep_gemm.sm100.bf16",
    "hc_prenorm": "deep_gemm.sm100.hc_prenorm",
    "mqa_logits": "deep_gemm.sm100.mqa_logits",
    "mqa_logits_fp4": "deep_gemm.sm100.mqa_logits_fp4",
    "mqa_logits_bf16": "deep_gemm.sm100.mqa_logits_bf16",
}
_HOPPER = {
    "fp8": "deep_gemm.sm90.fp8_1d2d",
    "fine": "dgref.sm90.fp8_fp4",  # DeepGEMM has no such kernel for Hopper
    "folded": "dgref.sm90.fp8_mxfp4",
    "bf16": "deep_gemm.sm90.bf16",
    "bare_fp8": "cublaslt.fp8_promote128",  # without scales DeepGEMM calls cuBLASLt, and not its fast accumulation
    "hc_prenorm": "deep_gemm.sm90.hc_prenorm",
    "mqa_logits": "deep_gemm.sm90.mqa_logits",
}
ARITHMETIC_OF = {"sm90": _HOPPER, "sm100": _BLACKWELL}
MOST_SMS = 1 << 16  # far above any GPU: a schedule has a row for each
MOST_ALIGNMENT = 1 << 30  # kernels count rows in 32 bits
_CPU_SMS = 132  # what an H200 has: schedules made on the CPU are then the ones it would run


@dataclass
class Settings:
    """The settings of this process; `architecture` and `arithmetic` are about CPU tensors only."""

    architecture: str = "sm90"
    arithmetic: str | Arithmetic | None = None  # None: what DeepGEMM's own kernel of the architecture computes
    alignment: int = 128
    tc_util: int = 0
    resources: Resources = WHOLE_CARD
    ignore_compile_dims: bool = False
    block_multiples: tuple[int, int] = (1, 1)

    def arithmetic_of(self, kind: str) -> str | Arithmetic:
        """Return the arithmetic of a kind of product on CPU tensors."""
        if self.arithmetic is not None:
            return self.arithmetic
        found = ARITHMETIC_OF[self.architecture].get(kind)
        if found is None:
            known = " or ".join(name for name, kinds in ARITHMETIC_OF.items() if kind in kinds)
            need = f"{known}: dgref.deep_gemm.configure('{known}'), or an arithmetic of your own"
            raise UnsupportedError(expected(kind, self.architecture, need))
        return found


SETTINGS = Settings()


def configure(architecture: str | None = None, arithmetic: str | Arithmetic | None = None) -> None:
    """Choose what calls on CPU tensors imitate: DeepGEMM on `sm90` or `sm100`, or any arithmetic, `exact` included.

    The architecture also decides which scale layouts the transforms produce. Without arguments, back to the defaults.
    """
    if architecture not in (None, *ARITHMETIC_OF):
        raise unknown_name("architecture", architecture, ARITHMETIC_OF)
    resolve_name(arithmetic)
    SETTINGS.architecture = architecture or "sm90"
    SETTINGS.arithmetic = arithmetic


def resolve_name(arithmetic: str | Arithmetic | None) -> None:
    """Raise unless this names an arithmetic, is one, or is `exact` or None."""
    if arithmetic not in (None, "exact"):
        resolve(arithmetic)


def is_blackwell(tensor: Any) -> bool:
    """Say whether a tensor's calls follow DeepGEMM's rules for Blackwell: by its GPU, or by `configure`."""
    return (device_architecture() if tensor.is_cuda else SETTINGS.architecture).startswith("sm10")


@cache
def device_architecture() -> str:
    """Return the architecture of the GPU here."""
    from dgref import machine

    found = machine.architecture()
    return found.name if found else "unknown"


@explained
def set_num_sms(new_num_sms: int) -> None:
    """Set how many multiprocessors a GEMM may take, and schedules of logits should count on; 0 for all.

    A product whose K is split to fill the GPU may then be split otherwise; nothing else changes its bits.
    """
    number = whole_number("new_num_sms", new_num_sms, 0, _multiprocessors())
    SETTINGS.resources = SETTINGS.resources._replace(multiprocessors=number)


def get_num_sms() -> int:
    """Return the number of multiprocessors set, or all of the GPU's; without a GPU, those of an H200."""
    return SETTINGS.resources.multiprocessors or _multiprocessors()


@cache
def _multiprocessors() -> int:
    from dgref import machine

    found = machine.gpu()
    return found["multiprocessors"] if found else _CPU_SMS


@explained
def set_tc_util(new_tc_util: int) -> None:
    """Set the share of tensor-core time to aim at, in percent; results never depend on it."""
    SETTINGS.tc_util = whole_number("new_tc_util", new_tc_util, 0, 100)


def get_tc_util() -> int:
    """Return the share of tensor-core time to aim at, in percent."""
    return SETTINGS.tc_util or 100


@explained
def set_pdl(new_enable_pdl: bool) -> None:
    """Set whether a product is made ready while the kernel before it still runs; results never depend on it."""
    SETTINGS.resources = SETTINGS.resources._replace(programmatic=_switch("new_enable_pdl", new_enable_pdl))


def get_pdl() -> bool:
    """Return whether launches may overlap the one before."""
    return SETTINGS.resources.programmatic


@explained
def set_ignore_compile_dims(new_value: bool) -> None:
    """Set whether `compiled_dims` is ignored; dgref's kernels are never compiled for one shape, so it always is."""
    SETTINGS.ignore_compile_dims = _switch("new_value", new_value)


def _switch(name: str, value: Any) -> bool:
    """Return True or False, also said as 1 or 0, as from an environment variable."""
    return bool(value) if type(value) is int and value in (0, 1) else flag(name, value)


@explained
def set_block_size_multiple_of(new_value: int | tuple[int, int]) -> None:
    """Set what block sizes must be multiples of, along M and N; results never depend on it."""
    multiples = whole_numbers("new_value", (new_value, new_value) if isinstance(new_value, int) else new_value, 1)
    if len(multiples) != 2:
        raise InputError(expected("new_value", new_value, "a number, or one for M and one for N"))
    SETTINGS.block_multiples = multiples


@explained
def set_mk_alignment_for_contiguous_layout(new_value: int) -> None:
    """Set the multiple at which groups of rows or of K start."""
    SETTINGS.alignment = whole_number("new_value", new_value, 1, MOST_ALIGNMENT)


def get_mk_alignment_for_contiguous_layout() -> int:
    """Return the multiple at which groups of rows or of K start."""
    return SETTINGS.alignment


@explained
def get_theoretical_mk_alignment_for_contiguous_layout(expected_m: int | None = None) -> int:
    """Return the alignment that wastes least: 128, or on Blackwell the tile that covers `expected_m` rows."""
    from dgref.reference import contiguous_alignment

    architecture = device_architecture() if device_architecture() != "unknown" else SETTINGS.architecture
    return contiguous_alignment(architecture, expected_m)
