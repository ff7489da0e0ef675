// Conversions that the layout and quantiser kernels share. Each is one rounding, and says which.
#pragma once

namespace numbers {

template <typename A, typename B>
constexpr bool is_same = false;
template <typename A>
constexpr bool is_same<A, A> = true;

__device__ __forceinline__ float from_bits(unsigned bits) { return __uint_as_float(bits); }

// NaN wins, as in NumPy's max.
__device__ __forceinline__ float larger(float x, float y) {
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}

template <int kLanes>
__device__ __forceinline__ float reduce_larger(float x) {
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) x = larger(x, __shfl_xor_sync(~0u, x, mask));
    return x;
}

// What a tensor holds: eight elements as they lie in memory (in words, which registers hold without unpacking), their
// values, and the largest magnitudes seen by column.
struct Float32 {
    using Storage = float;
    static constexpr int kCorrections = 2;  // of a quotient, until it is correctly rounded
    struct alignas(16) Raw {
        float word[8] = {};
    };
    struct Peaks {
        float value[8] = {};
    };
    static __device__ __forceinline__ void put(Raw& raw, int i, Storage x) { raw.word[i] = x; }
    static __device__ __forceinline__ float get(const Raw& raw, int i) { return raw.word[i]; }
    static __device__ __forceinline__ void raise(Peaks& peaks, const Raw& raw) {
#pragma unroll
        for (int i = 0; i < 8; ++i) peaks.value[i] = larger(peaks.value[i], fabsf(raw.word[i]));
    }
    static __device__ __forceinline__ float column(const Peaks& peaks, int i) { return peaks.value[i]; }
    static __device__ __forceinline__ float all(const Peaks& peaks) {
        const float(&v)[8] = peaks.value;
        return larger(larger(larger(v[0], v[1]), larger(v[2], v[3])), larger(larger(v[4], v[5]), larger(v[6], v[7])));
    }
};

// Magnitudes of bfloat16 compare as integers, two at a time; a NaN is above everything.
struct Bfloat16 {
    using Storage = unsigned short;
    static constexpr int kCorrections = 1;
    struct alignas(16) Raw {
        unsigned word[4] = {};
    };
    struct Peaks {
        unsigned pair[4] = {};
    };
    static __device__ __forceinline__ void put(Raw& raw, int i, Storage x) { raw.word[i / 2] |= x << 16 * (i % 2); }
    static __device__ __forceinline__ float half(unsigned word, int i) {
        return from_bits(i % 2 ? word & 0xffff0000u : word << 16);
    }
    static __device__ __forceinline__ float get(const Raw& raw, int i) { return half(raw.word[i / 2], i); }
    static __device__ __forceinline__ unsigned larger_pair(unsigned x, unsigned y) {
        unsigned result;
        asm("max.u16x2 %0, %1, %2;" : "=r"(result) : "r"(x), "r"(y));
        return result;
    }
    static __device__ __forceinline__ void raise(Peaks& peaks, const Raw& raw) {
#pragma unroll
        for (int i = 0; i < 4; ++i) peaks.pair[i] = larger_pair(peaks.pair[i], raw.word[i] & 0x7fff7fffu);
    }
    static __device__ __forceinline__ float column(const Peaks& peaks, int i) {
        return half(peaks.pair[i / 2], i);
    }
    static __device__ __forceinline__ float all(const Peaks& peaks) {
        const unsigned four = larger_pair(larger_pair(peaks.pair[0], peaks.pair[1]), larger_pair(peaks.pair[2], peaks.pair[3]));
        return from_bits(larger_pair(four, four >> 16) << 16);
    }
};

// Payload formats: eight floats to codes, nearest even, saturating; NaN becomes 0x7f (E4M3, E5M2) or +6 (E2M1).
struct E4m3 {
    using Word = uint2;  // eight codes
    static constexpr int kBits = 8, kMaxExponent = 8;
    static __device__ __forceinline__ float max() { return 448.0f; }
    static __device__ __forceinline__ unsigned pair(float low, float high) {
        unsigned short codes;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
        return codes;
    }
    static __device__ __forceinline__ uint2 encode(const float (&x)[8]) {
        return make_uint2(pair(x[0], x[1]) | pair(x[2], x[3]) << 16, pair(x[4], x[5]) | pair(x[6], x[7]) << 16);
    }
    // The value of a code without sign.
    static __device__ __forceinline__ float decode(unsigned code) {
        return code == 0x7f ? from_bits(0x7fffffff) : __fmul_rn(from_bits(code << 20), 0x1p120f);
    }
};

struct E5m2 {
    using Word = uint2;
    static constexpr int kBits = 8, kMaxExponent = 15;
    static __device__ __forceinline__ float max() { return 57344.0f; }
    static __device__ __forceinline__ unsigned pair(float low, float high) {
        unsigned short codes;
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
        return codes;
    }
    static __device__ __forceinline__ uint2 encode(const float (&x)[8]) {
        return make_uint2(pair(x[0], x[1]) | pair(x[2], x[3]) << 16, pair(x[4], x[5]) | pair(x[6], x[7]) << 16);
    }
};

// Hopper has no conversion to E2M1, so two numbers at a time are rounded by an addition in bfloat16.
//
// First each float is rounded to odd in bfloat16 (the last bit keeps whether anything was cut off), which no later
// rounding to three bits can tell from the float. Then 2^6 * 2^e + e * 2^e is added to a magnitude of binade e (0 for all
// below 2): one unit of the sum is half of 2^e, so the sum rounds to E2M1's grid, and its low bits are the code n + 2 e.
struct E2m1 {
    using Word = unsigned;
    static constexpr int kBits = 4, kMaxExponent = 2;
    static __device__ __forceinline__ float max() { return 6.0f; }

    static __device__ __forceinline__ unsigned to_odd(float low, float high) {
        const unsigned cut = __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x5410);
        const unsigned kept = __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
        unsigned sticky;
        asm("min.u16x2 %0, %1, %2;" : "=r"(sticky) : "r"(cut), "r"(0x00010001u));
        return kept | sticky;
    }

    // The codes without sign are bits 0 to 2 of both halves.
    static __device__ __forceinline__ unsigned round_pair(unsigned pair) {
        unsigned magnitude, binade, sum;
        asm("min.bf16x2 %0, %1, %2;" : "=r"(magnitude) : "r"(pair & 0x7fff7fffu), "r"(0x40c040c0u));  // drops a NaN
        asm("max.u16x2 %0, %1, %2;" : "=r"(binade) : "r"(magnitude & 0x7f807f80u), "r"(0x3f803f80u));
        const unsigned grid = binade + (binade >> 6) + 0x02020202u;  // exponent + 6, and 2 e = (binade >> 6) - 254
        asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(sum) : "r"(magnitude), "r"(grid));
        return sum;
    }

    static __device__ __forceinline__ unsigned encode(const float (&x)[8]) {
        unsigned pair[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) pair[i] = to_odd(x[2 * i], x[2 * i + 1]);
        return encode(pair);
    }

    static __device__ __forceinline__ unsigned encode(const unsigned (&pair)[4]) {
        unsigned sum[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] = round_pair(pair[i]);
        const unsigned even_codes = gather(sum, 0x6420, 0x6420), odd_codes = gather(sum, 0x6420, 0x7531);
        const unsigned even_signs = gather(pair, 0x7531, 0x6420), odd_signs = gather(pair, 0x7531, 0x7531);
        return (even_codes & 0x07070707u) | (odd_codes & 0x07070707u) << 4 | (even_signs >> 4 & 0x08080808u) |
               (odd_signs & 0x80808080u);
    }

    // One byte of each half of four words, then every second of those eight.
    static __device__ __forceinline__ unsigned gather(const unsigned (&word)[4], unsigned half, unsigned second) {
        return __byte_perm(__byte_perm(word[0], word[1], half), __byte_perm(word[2], word[3], half), second);
    }
};

// E8M0: byte e means 2^(e - 127); 255 is NaN.
__device__ __forceinline__ float e8m0_value(unsigned code) {
    if (code == 255) return from_bits(0x7fffffff);
    return from_bits(code ? code << 23 : 0x00400000u);
}

__device__ __forceinline__ unsigned e8m0_at_least(float x) {
    const unsigned bits = __float_as_uint(x) & 0x7fffffff;
    if (bits > 0x7f800000u) return 255;
    return bits <= 0x00400000u ? 0 : ::min((bits + 0x7fffffu) >> 23, 254u);
}

}  // namespace numbers
