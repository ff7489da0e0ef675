// E2M1 codes to E4M3 bytes, exactly.
#pragma once
#include "sm90/ptx.cuh"

namespace dgref {

// Four codes, the low nibble first, to four bytes in the same order. `prmt` looks each nibble up in eight bytes: the
// magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 as E4M3 with the sign set, and 0x40 for the sign itself, of which a nibble with
// its upper bit set replicates the sign bit and gives 0. In the difference no byte borrows from its neighbour.
struct Widening {
  static constexpr u32 LOW = 0xBCB8B080u, HIGH = 0xCCC8C4C0u, SIGNS = 0x40404040u;
  u32 magnitudes = LOW, signs = SIGNS;

  // Through shared memory: the compiler would load values that it knows anew for every use.
  static __device__ __forceinline__ void publish(u32 tables) {
    ptx::store_shared(tables, LOW);
    ptx::store_shared(tables + 4, SIGNS);
  }
  static __device__ __forceinline__ Widening published(u32 tables) {
    return {ptx::load_shared_word(tables), ptx::load_shared_word(tables + 4)};
  }

  // Bits of `codes` above the sixteenth are ignored.
  __device__ __forceinline__ u32 operator()(u32 codes) const {
    u32 negative, positive, bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(negative) : "r"(magnitudes), "r"(HIGH), "r"(codes & 0x7777u));
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(positive) : "r"(signs), "r"(SIGNS), "r"(codes));
    asm("mad.lo.u32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(positive), "r"(0xFFFFFFFEu), "r"(negative));
    return bytes;
  }
};

}  // namespace dgref
