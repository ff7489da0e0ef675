// What a scaling is made of: how an amax becomes a scale, how the scale is stored, how an element is divided by it.
#pragma once
#include "common/numbers.cuh"

namespace quantize {

using namespace numbers;

struct Problem {
    const void* x;        // [rows, columns], float32 or bfloat16
    void* codes;          // [rows, columns], E2M1 two a byte
    void* scales;         // element (row block, column block) at row * scale_row + column * scale_column
    const float* global;  // one float, or null
    long long x_stride, code_stride;  // elements, bytes
    long long scale_row, scale_column;
    int rows, columns;
    float floor;          // an amax below this is raised to it
};

// A scale as stored, and what an element is multiplied with or divided by.
struct Float32Scale {
    using Stored = float;
    static __device__ __forceinline__ float round(float wanted, Stored& stored) { return stored = wanted; }
};

struct E4m3Scale {
    using Stored = unsigned char;
    static __device__ __forceinline__ float round(float wanted, Stored& stored) {
        return E4m3::decode(stored = E4m3::encode(wanted));
    }
};

struct E8m0Scale {
    using Stored = unsigned char;
    static __device__ __forceinline__ float round(unsigned code, Stored& stored) { return e8m0_value(stored = code); }
};

// Rules: the names are those of dgref.formats.rules.
struct AmaxOverMax {
    template <typename Format>
    static __device__ __forceinline__ float find(float amax, float) {
        return __fdiv_rn(amax, Format::max());
    }
};

struct CeilQuotient {
    template <typename Format>
    static __device__ __forceinline__ unsigned find(float amax, float) {
        return e8m0_at_least(__fdiv_rn(amax, Format::max()));
    }
};

struct FloorAmax {
    template <typename Format>
    static __device__ __forceinline__ unsigned find(float amax, float) {
        if (amax != amax) return 255;
        int exponent = __float_as_uint(amax) >> 23;  // 255 for Inf, which counts as 2^128
        return ::max(exponent - Format::kMaxExponent, 0);
    }
};

struct CeilAmax {
    template <typename Format>
    static __device__ __forceinline__ unsigned find(float amax, float) {
        if (amax != amax) return 255;
        int exponent = (__float_as_uint(amax) + 0x7fffffu) >> 23;
        return ::max(exponent - Format::kMaxExponent, 0);
    }
};

struct AmaxOverMaxTimesGlobal {
    template <typename Format>
    static __device__ __forceinline__ float find(float amax, float global) {
        return __fdiv_rn(amax, __fmul_rn(Format::max(), global));
    }
};

// Payload arithmetics: the names are those of dgref.formats.payloads. A scale of zero gives zeros.
struct MultiplyReciprocal {
    float factor;
    __device__ __forceinline__ MultiplyReciprocal(float scale, float) : factor(scale == 0.0f ? 0.0f : __frcp_rn(scale)) {}
    __device__ __forceinline__ float operator()(float x) const { return __fmul_rn(x, factor); }
};

struct Divide {
    Divisor divisor;
    bool zero;
    __device__ __forceinline__ Divide(float scale, float) : divisor(scale), zero(scale == 0.0f) {}
    __device__ __forceinline__ float operator()(float x) const {
        return zero ? copysignf(0.0f, x) : divisor.divide(x);
    }
};

// Dividing by a power of two is multiplying by its reciprocal, which FP32 has for every E8M0 code.
struct DividePowerOfTwo {
    float factor;
    __device__ __forceinline__ DividePowerOfTwo(float scale, float) : factor(__frcp_rn(scale)) {}
    __device__ __forceinline__ float operator()(float x) const { return __fmul_rn(x, factor); }
};

struct DivideByScaleTimesGlobal {
    Divisor divisor;
    bool zero;
    __device__ __forceinline__ DivideByScaleTimesGlobal(float scale, float global)
        : divisor(__fmul_rn(scale, global)), zero(scale == 0.0f) {}
    __device__ __forceinline__ float operator()(float x) const {
        return zero ? copysignf(0.0f, x) : divisor.divide(x);
    }
};

// The whole step from a block's amax to what divides its elements; `stored` is what goes to memory.
template <typename Format, typename Rule, typename Scale, typename Payload>
__device__ __forceinline__ Payload divide_by_scale_of(float amax, float floor, float global, typename Scale::Stored& stored) {
    amax = amax < floor ? floor : amax;
    return Payload(Scale::round(Rule::template find<Format>(amax, global), stored), global);
}

// Eight consecutive elements of a row: in one or two wide loads, or one by one at a ragged end.
template <typename Input, bool kVector>
__device__ __forceinline__ void load(float (&x)[8], const Problem& p, int row, int column) {
    using Storage = typename Input::Storage;
    const Storage* source = static_cast<const Storage*>(p.x) + row * p.x_stride + column;
    alignas(16) Storage raw[8];
    if constexpr (kVector) {
#pragma unroll
        for (int i = 0; i < sizeof(raw) / 16; ++i)
            reinterpret_cast<uint4*>(raw)[i] = __ldg(reinterpret_cast<const uint4*>(source) + i);
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) raw[i] = column + i < p.columns ? source[i] : Input::zero();
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = Input::widen(raw[i]);
}

template <typename Format, bool kVector>
__device__ __forceinline__ void store(const float (&x)[8], const Problem& p, int row, int column) {
    auto word = Format::encode(x);
    unsigned char* target = static_cast<unsigned char*>(p.codes) + row * p.code_stride + column * Format::kBits / 8;
    if constexpr (kVector) {
        *reinterpret_cast<decltype(word)*>(target) = word;
    } else {
        const unsigned char* bytes = reinterpret_cast<const unsigned char*>(&word);
#pragma unroll
        for (int i = 0; i < Format::kBits; ++i)
            if (column + i * 8 / Format::kBits < p.columns) target[i] = bytes[i];
    }
}

}  // namespace quantize
