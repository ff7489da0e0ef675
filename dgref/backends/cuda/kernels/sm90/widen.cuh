// E2M1 codes to E4M3 bytes, exactly.
#pragma once
#include "sm90/ptx.cuh"

namespace dgref {

// Four codes, the low nibble first, to four bytes in the same order. `prmt` looks each nibble up in eight bytes: the
// magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 as E4M3 with the sign set, and 0x40 for the sign itself, of which a nibble with
// its upper bit set replicates the sign bit and gives 0. In the difference no byte borrows from its neighbour.
struct Widening {
  static constexpr u32 LOW = 0xBCB8B080u, HIGH = 0xCCC8C4C0u, SIGNS = 0x40404040u;
  u32 magnitudes, signs;

  // `nothing` is zero, which the compiler does not know: it would load values that it knows anew for every use.
  __device__ __forceinline__ Widening(u32 nothing = 0) : magnitudes(LOW + nothing), signs(SIGNS + nothing) {}

  // Bits of `codes` above the sixteenth are ignored.
  __device__ __forceinline__ u32 operator()(u32 codes) const { return look_up(codes, magnitudes, HIGH); }

  __device__ __forceinline__ u32 look_up(u32 codes, u32 low, u32 high) const {
    u32 negative, positive, bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(negative) : "r"(low), "r"(high), "r"(codes & 0x7777u));
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(positive) : "r"(signs), "r"(SIGNS), "r"(codes));
    asm("mad.lo.u32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(positive), "r"(0xFFFFFFFEu), "r"(negative));
    return bytes;
  }
};

// By how many octaves each 32 of K is moved, a byte each, of a row and 128 of K: 0 to 11, the fifth being none. A code
// times 2^-5 to 2^6 is a normal number of E4M3.
struct Octaves {
  static constexpr u32 NONE = 0x05050505u, MOST = 11;
  static constexpr u32 LOW = Widening::LOW - 0x28282800u, HIGH = Widening::HIGH - 0x28282828u;  // moved by the least
  u32 moved;

  // Four codes of the 32 of K that `step` numbers.
  struct Tables {
    u32 low, high;
  };
  __device__ __forceinline__ Tables tables(int step) const {
    const u32 octaves = __byte_perm(moved, 0, 0x4440 + step);
    return {LOW + octaves * 0x08080800u, HIGH + octaves * 0x08080808u};
  }
};

// A row and 128 of K that fold: the octaves of the last three of four blocks of 32, and above them the exponent of the
// first, which is left as the scale of all.
struct Folded {
  u32 word;

  __device__ __forceinline__ Octaves::Tables tables(int step) const { return Octaves{word}.tables(step - 1); }
  __device__ __forceinline__ float scale() const {  // never NaN; 2^-127 is no normal number
    return __uint_as_float(max(word >> 1 & 0x7F800000u, 0x00400000u));
  }
};

// The UE8M0 exponents of a row and 128 of K, a byte each. Where the last three lie within 5 octaves below and 6 above the
// first, the codes can take the differences, and the first is left as the scale of all.
struct Exponents {
  u32 word;

  Exponents() = default;

  // Beyond the end of K, of which `left` elements are left here, there are no scales: the first stands for them.
  __device__ __forceinline__ Exponents(u32 word, int left = 128) : word(word) {
    if (left >= 128) return;
    const u32 kept = (1u << (max(left, 0) + 31) / 32 * 8) - 1;
    this->word = (word & kept) | (all_first() & ~kept);
  }

  // Of 128 of K that have one exponent, byte `index` of a word.
  static __device__ __forceinline__ Exponents alike(u32 word, int index) {
    return Exponents(__byte_perm(word, 0, index * 0x1111));
  }

  __device__ __forceinline__ u32 first() const { return word & 0xFF; }
  __device__ __forceinline__ u32 all_first() const { return __byte_perm(word, 0, 0); }

  __device__ __forceinline__ bool fold() const {
    const u32 undefined = ((word & 0x7F7F7F7Fu) + 0x01010101u) & word;  // 255 means NaN
    return ((too_far(word & 0xFF00FFu) | too_far(word >> 8 & 0xFF00FFu)) & 0x80008000u | undefined & 0x80808080u) == 0;
  }
  // Of two exponents, the sign bit of those out of reach: a difference that is too large shows in its half, as nothing was
  // borrowed from below the first of them.
  __device__ __forceinline__ u32 too_far(u32 two) const {
    const u32 moved = two + 0x00050005u - first() * 0x00010001u;
    return ((moved & 0x7FFF7FFFu) + (0x7FFFu - Octaves::MOST) * 0x00010001u) | moved;
  }
  __device__ __forceinline__ Folded folded(bool folds) const {
    return {__byte_perm(folds ? word + Octaves::NONE - all_first() : Octaves::NONE, word, 0x4321)};
  }

  // Whether the rest of two rows lies within 4 octaves below and 3 above the first: a sign that both fold, found in a few
  // instructions. The first, less 4, is below 248, so that no byte borrows from the next or carries into it.
  static __device__ __forceinline__ bool near(const Exponents& one, const Exponents& other) {
    const u32 first = one.all_first() - 0x04040404u, second = other.all_first() - 0x04040404u;
    return ((one.word - first | other.word - second) & 0xF8F8F8F8u) == 0 && max(first, second) < 0xF8F8F8F8u;
  }

  // So near to 1 that products with scales of A that are near to 1 are normal numbers, from here to any scale of a block.
  static __device__ __forceinline__ bool moderate(u32 exponent) { return exponent - 77 <= 100; }

  __device__ __forceinline__ float scale(int step) const {
    const u32 exponent = __byte_perm(word, 0, 0x4440 + step), bits = max(exponent << 23, 0x00400000u);  // 2^-127 is none
    return __uint_as_float(exponent == 255 ? 0x7FFFFFFFu : bits);
  }
};

}  // namespace dgref
