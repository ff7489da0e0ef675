// wgmma: 64 x N x 32 bytes of K per instruction, both operands in shared memory, accumulators in registers.
// A run of N/2 registers cannot be spelled by a C++ template inside inline assembly, so macros spell it.
#pragma once
#include "sm90/ptx.cuh"

namespace dgref {

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Ties a register to its place in program order, so that no use of it moves across a wait.
__device__ __forceinline__ void pin(float& value) { asm volatile("" : "+f"(value)::"memory"); }

// The matrix descriptor of PTX ISA "asynchronous warpgroup level matrix shared memory layout", 128-byte swizzle.
// K-major: eight rows of 128 bytes repeat every 1024 bytes. MN-major: 64 elements repeat every 8192 bytes.
// Only the lower word depends on the address (in units of 16 bytes); the upper word is a constant.
constexpr u32 DESCRIPTOR_UPPER = (1u << 30) | (1024 >> 4);
// In a cluster, bits 24 and up of a shared-memory address hold the block's rank: they must not reach the next field.
__device__ __forceinline__ u32 descriptor_lower(u32 address) {
  return (u32(8192 >> 4) << 16) | ((address & 0x3FFFF) >> 4);
}

enum class Element { E4M3, BF16 };

// issue(): d = a * b, or d += a * b where `keep` is set. TRANSPOSE_* = 1 reads a 16-bit operand that is MN-major.
template <Element ELEMENT, int N, int TRANSPOSE_A, int TRANSPOSE_B>
struct Wgmma;

#define REGISTERS_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define REGISTERS_32 REGISTERS_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define REGISTERS_48 REGISTERS_32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define REGISTERS_64 REGISTERS_48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_80 REGISTERS_64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define REGISTERS_96 REGISTERS_80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define REGISTERS_112 REGISTERS_96 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define REGISTERS_128 REGISTERS_112 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_144 REGISTERS_128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define REGISTERS_160 REGISTERS_144 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define REGISTERS_176 REGISTERS_160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define REGISTERS_192 REGISTERS_176 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_208 REGISTERS_192 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define REGISTERS_224 REGISTERS_208 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define REGISTERS_240 REGISTERS_224 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define REGISTERS_256 REGISTERS_240 ", %120, %121, %122, %123, %124, %125, %126, %127"

#define OUTPUTS_AT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define OUTPUTS_16 OUTPUTS_AT(0)
#define OUTPUTS_32 OUTPUTS_16, OUTPUTS_AT(8)
#define OUTPUTS_48 OUTPUTS_32, OUTPUTS_AT(16)
#define OUTPUTS_64 OUTPUTS_48, OUTPUTS_AT(24)
#define OUTPUTS_80 OUTPUTS_64, OUTPUTS_AT(32)
#define OUTPUTS_96 OUTPUTS_80, OUTPUTS_AT(40)
#define OUTPUTS_112 OUTPUTS_96, OUTPUTS_AT(48)
#define OUTPUTS_128 OUTPUTS_112, OUTPUTS_AT(56)
#define OUTPUTS_144 OUTPUTS_128, OUTPUTS_AT(64)
#define OUTPUTS_160 OUTPUTS_144, OUTPUTS_AT(72)
#define OUTPUTS_176 OUTPUTS_160, OUTPUTS_AT(80)
#define OUTPUTS_192 OUTPUTS_176, OUTPUTS_AT(88)
#define OUTPUTS_208 OUTPUTS_192, OUTPUTS_AT(96)
#define OUTPUTS_224 OUTPUTS_208, OUTPUTS_AT(104)
#define OUTPUTS_240 OUTPUTS_224, OUTPUTS_AT(112)
#define OUTPUTS_256 OUTPUTS_240, OUTPUTS_AT(120)

// A, B, S, H, X, Y number the operands that follow the N/2 registers.
#define DEFINE_WGMMA(N, A, B, S, H, X, Y)                                                                             \
  template <int TRANSPOSE_A, int TRANSPOSE_B>                                                                         \
  struct Wgmma<Element::E4M3, N, TRANSPOSE_A, TRANSPOSE_B> {                                                          \
    static_assert(TRANSPOSE_A == 0 && TRANSPOSE_B == 0, "8-bit operands are K-major");                                \
    static __device__ __forceinline__ void issue(float (&d)[N / 2], u32 a, u32 b, int keep) {                         \
      asm volatile("{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, %" #S ", 0; mov.b64 a, {%" #A ", %" #H "};"        \
                   "mov.b64 b, {%" #B ", %" #H "}; wgmma.mma_async.sync.aligned.m64n" #N                              \
                   "k32.f32.e4m3.e4m3 {" REGISTERS_##N "}, a, b, p, 1, 1; }"                                          \
                   : OUTPUTS_##N                                                                                      \
                   : "r"(a), "r"(b), "r"(keep), "r"(DESCRIPTOR_UPPER));                                               \
    }                                                                                                                 \
  };                                                                                                                  \
  template <int TRANSPOSE_A, int TRANSPOSE_B>                                                                         \
  struct Wgmma<Element::BF16, N, TRANSPOSE_A, TRANSPOSE_B> {                                                          \
    static __device__ __forceinline__ void issue(float (&d)[N / 2], u32 a, u32 b, int keep) {                         \
      asm volatile("{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, %" #S ", 0; mov.b64 a, {%" #A ", %" #H "};"        \
                   "mov.b64 b, {%" #B ", %" #H "}; wgmma.mma_async.sync.aligned.m64n" #N                              \
                   "k16.f32.bf16.bf16 {" REGISTERS_##N "}, a, b, p, 1, 1, %" #X ", %" #Y "; }"                        \
                   : OUTPUTS_##N                                                                                      \
                   : "r"(a), "r"(b), "r"(keep), "r"(DESCRIPTOR_UPPER), "n"(TRANSPOSE_A), "n"(TRANSPOSE_B));           \
    }                                                                                                                 \
  };

DEFINE_WGMMA(16, 8, 9, 10, 11, 12, 13)
DEFINE_WGMMA(32, 16, 17, 18, 19, 20, 21)
DEFINE_WGMMA(48, 24, 25, 26, 27, 28, 29)
DEFINE_WGMMA(64, 32, 33, 34, 35, 36, 37)
DEFINE_WGMMA(80, 40, 41, 42, 43, 44, 45)
DEFINE_WGMMA(96, 48, 49, 50, 51, 52, 53)
DEFINE_WGMMA(112, 56, 57, 58, 59, 60, 61)
DEFINE_WGMMA(128, 64, 65, 66, 67, 68, 69)
DEFINE_WGMMA(144, 72, 73, 74, 75, 76, 77)
DEFINE_WGMMA(160, 80, 81, 82, 83, 84, 85)
DEFINE_WGMMA(176, 88, 89, 90, 91, 92, 93)
DEFINE_WGMMA(192, 96, 97, 98, 99, 100, 101)
DEFINE_WGMMA(208, 104, 105, 106, 107, 108, 109)
DEFINE_WGMMA(224, 112, 113, 114, 115, 116, 117)
DEFINE_WGMMA(240, 120, 121, 122, 123, 124, 125)
DEFINE_WGMMA(256, 128, 129, 130, 131, 132, 133)

#undef DEFINE_WGMMA

}  // namespace dgref
