"""GPU architectures: one row of capabilities each, and nothing that depends on a library."""

from __future__ import annotations

from dataclasses import dataclass

from dgref.registry import Registry


@dataclass(frozen=True)
class Architecture:
    """What a compute capability can do, as far as a low-precision kernel cares."""

    name: str
    capability: tuple[int, int]
    family: str
    products: tuple[str, ...]
    shared_memory_bytes: int  # the largest dynamic allocation of one block
    instructions: frozenset[str]
    target: str  # what NVRTC is asked for: the architecture-specific target where one exists

    @property
    def narrow_fp8(self) -> bool:
        """Whether FP8 tensor cores add in 13 fraction bits (measured on Ada and Hopper)."""
        return self.family in ("Ada", "Hopper")


def _row(name: str, family: str, products: str, shared_kib: int, instructions: str, target: str = "") -> Architecture:
    digits = name.removeprefix("sm")
    return Architecture(
        name=name,
        capability=(int(digits[:-1]), int(digits[-1])),
        family=family,
        products=tuple(products.split(", ")),
        shared_memory_bytes=shared_kib * 1024,
        instructions=frozenset(instructions.split()),
        target=target or f"sm_{digits}",
    )


# Shared memory per block: CUDA C++ Programming Guide, table of technical specifications per compute capability.
ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    [
        _row("sm70", "Volta", "V100", 96, "mma.f16"),
        _row("sm75", "Turing", "T4, RTX 2080", 64, "mma.f16"),
        _row("sm80", "Ampere", "A100, A30", 163, "mma.f16 mma.bf16 mma.tf32 cp.async"),
        _row("sm86", "Ampere", "A2, A10, RTX 3090", 99, "mma.f16 mma.bf16 mma.tf32 cp.async"),
        _row("sm89", "Ada", "L4, L40S, RTX 4090", 99, "mma.f16 mma.bf16 mma.tf32 mma.fp8 cp.async"),
        _row(
            "sm90",
            "Hopper",
            "H100, H200, H800, GH200",
            227,
            "mma.f16 mma.bf16 mma.tf32 mma.fp8 cp.async tma wgmma cluster setmaxnreg",
            "sm_90a",
        ),
        _row(
            "sm100",
            "Blackwell",
            "B100, B200, GB200",
            227,
            "mma.f16 mma.bf16 mma.tf32 mma.fp8 cp.async tma tcgen05 cluster setmaxnreg cvt.fp4",
            "sm_100a",
        ),
        _row(
            "sm103",
            "Blackwell Ultra",
            "B300, GB300",
            227,
            "mma.f16 mma.bf16 mma.tf32 mma.fp8 cp.async tma tcgen05 cluster setmaxnreg cvt.fp4",
            "sm_103a",
        ),
        _row(
            "sm120",
            "Blackwell RTX",
            "RTX PRO 6000, RTX 5090",
            99,
            "mma.f16 mma.bf16 mma.tf32 mma.fp8 mma.block_scale cp.async tma setmaxnreg cvt.fp4",
            "sm_120a",
        ),
        _row(
            "sm121",
            "Blackwell GB10",
            "DGX Spark",
            99,
            "mma.f16 mma.bf16 mma.tf32 mma.fp8 mma.block_scale cp.async tma setmaxnreg cvt.fp4",
            "sm_121a",
        ),
    ],
)


def architecture_of(major: int, minor: int) -> Architecture | None:
    """Return the row of a compute capability, or None where dgref has no row for it."""
    return next((row for row in ARCHITECTURES.values() if row.capability == (major, minor)), None)
