// Conversions that the layout and quantiser kernels share. Each is one rounding, and says which.
#pragma once

namespace numbers {

__device__ __forceinline__ float from_bits(unsigned bits) { return __uint_as_float(bits); }

// Reading eight elements: as raw words, then as floats.
struct Float32 {
    using Storage = float;
    static __device__ __forceinline__ float widen(Storage x) { return x; }
    static __device__ __forceinline__ Storage zero() { return 0.0f; }
};

struct Bfloat16 {
    using Storage = unsigned short;
    static __device__ __forceinline__ float widen(Storage x) { return from_bits(static_cast<unsigned>(x) << 16); }
    static __device__ __forceinline__ Storage zero() { return 0; }
};

// NaN wins, as in NumPy's max.
__device__ __forceinline__ float larger_magnitude(float amax, float x) {
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(amax), "f"(fabsf(x)));
    return result;
}

template <int kLanes>
__device__ __forceinline__ float reduce_magnitude(float amax) {
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) amax = larger_magnitude(amax, __shfl_xor_sync(~0u, amax, mask));
    return amax;
}

// x / d rounded to nearest even. With r = RN(1 / d), two corrections by the exact remainder give the correctly rounded
// quotient (Markstein, IA-64 and Elementary Functions, theorem 8.4) while nothing over- or underflows on the way.
struct Divisor {
    float value, reciprocal;
    bool ordinary;

    __device__ __forceinline__ explicit Divisor(float d) : value(d), reciprocal(__frcp_rn(d)) {
        unsigned exponent = __float_as_uint(d) >> 23 & 255;
        ordinary = exponent > 127 - 60 && exponent < 127 + 60;
    }

    __device__ __forceinline__ float divide(float x) const {
        float quotient = __fmul_rn(x, reciprocal);
        if (!ordinary || !(fabsf(quotient) < 0x1p60f)) return __fdiv_rn(x, value);
        quotient = __fmaf_rn(__fmaf_rn(-quotient, value, x), reciprocal, quotient);
        return __fmaf_rn(__fmaf_rn(-quotient, value, x), reciprocal, quotient);
    }
};

// Payload formats: eight floats to codes, nearest even, saturating; NaN becomes 0x7f (E4M3, E5M2) or +6 (E2M1).
struct E4m3 {
    static constexpr int kBits = 8, kMaxExponent = 8;
    static __device__ __forceinline__ float max() { return 448.0f; }
    static __device__ __forceinline__ uint2 encode(const float (&x)[8]) {
        unsigned short pair[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair[i]) : "f"(x[2 * i + 1]), "f"(x[2 * i]));
        return make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
    }
    static __device__ __forceinline__ unsigned encode(float x) {
        unsigned short pair;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
        return pair;
    }
    // The value of a code without sign.
    static __device__ __forceinline__ float decode(unsigned code) {
        if (code == 0x7f) return from_bits(0x7fffffff);
        return __fmul_rn(from_bits(code << 20), 0x1p120f);
    }
};

struct E5m2 {
    static constexpr int kBits = 8, kMaxExponent = 15;
    static __device__ __forceinline__ float max() { return 57344.0f; }
    static __device__ __forceinline__ uint2 encode(const float (&x)[8]) {
        unsigned short pair[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair[i]) : "f"(x[2 * i + 1]), "f"(x[2 * i]));
        return make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
    }
};

// Hopper has no conversion to E2M1. Adding 2^22 * 2^e rounds a number of binade e (0 for all below 2) to half units of
// 2^e; exponent and low bits of the sum then hold the code: code = n + 2 e for n half units.
struct E2m1 {
    static constexpr int kBits = 4, kMaxExponent = 2;
    static __device__ __forceinline__ float max() { return 6.0f; }
    static __device__ __forceinline__ unsigned encode(float x) {
        float magnitude = fminf(fabsf(x), 6.0f);  // fminf drops a NaN
        unsigned binade = ::max(__float_as_uint(magnitude) & 0x7f800000u, 0x3f800000u);
        unsigned sum = __float_as_uint(__fadd_rn(magnitude, from_bits(binade + (22u << 23))));
        unsigned code = (sum + (sum >> 22) - 2 * 149) & 7;
        return code | (__float_as_uint(x) >> 28 & 8);
    }
    static __device__ __forceinline__ unsigned encode(const float (&x)[8]) {
        unsigned word = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) word |= encode(x[i]) << 4 * i;
        return word;
    }
};

// E8M0: byte e means 2^(e - 127); 255 is NaN.
__device__ __forceinline__ float e8m0_value(unsigned code) {
    if (code == 255) return from_bits(0x7fffffff);
    return from_bits(code ? code << 23 : 0x00400000u);
}

__device__ __forceinline__ unsigned e8m0_at_least(float x) {
    unsigned bits = __float_as_uint(x) & 0x7fffffff;
    if (bits > 0x7f800000u) return 255;
    return bits <= 0x00400000u ? 0 : ::min((bits + 0x7fffffu) >> 23, 254u);
}

}  // namespace numbers
