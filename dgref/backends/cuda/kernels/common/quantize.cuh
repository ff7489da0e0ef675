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

static_assert(sizeof(Problem) == 80, "the host packs these fields");

// A scale as stored, and what an element is multiplied with or divided by.
struct Float32Scale {
    using Stored = float;
    static __device__ __forceinline__ float round(float wanted, Stored& stored) { return stored = wanted; }
};

struct E4m3Scale {
    using Stored = unsigned char;
    static __device__ __forceinline__ float round(float wanted, Stored& stored) {
        return E4m3::decode(stored = E4m3::pair(wanted, 0.0f));
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

// What a block's elements are divided by, in two numbers that lanes can hand to one another.
struct Factor {
    float divisor, reciprocal;
};

// Payload arithmetics: the names are those of dgref.formats.payloads. A scale of zero gives zeros.
struct MultiplyReciprocal {
    static __device__ __forceinline__ Factor prepare(float scale, float, float) {
        return {scale, scale == 0.0f ? 0.0f : __frcp_rn(scale)};
    }
    template <typename Input>
    static __device__ __forceinline__ float apply(float x, Factor f) {
        return __fmul_rn(x, f.reciprocal);
    }
    template <typename Input>
    static __device__ __forceinline__ void apply(float (&x)[8], Factor f) {
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = apply<Input>(x[i], f);
    }
};

// x / d rounded to nearest even. With r = RN(1 / d), two corrections by the exact remainder give the correctly rounded
// quotient (Markstein, IA-64 and Elementary Functions, theorem 8.4) while nothing over- or underflows on the way; for a
// bfloat16 x one is enough (tests/backends/cuda/test_quantizers.py tries them all). Where it might, or a NaN or Inf is
// about, `reciprocal` is 0 and the division is a plain one. It is -1 for a scale of zero.
struct Divide {
    static __device__ __forceinline__ Factor prepare(float scale, float, float amax) { return by(scale, scale, amax); }
    static __device__ __forceinline__ Factor by(float divisor, float scale, float amax) {
        const float reciprocal = __frcp_rn(divisor);
        const bool ordinary = divisor > 0x1p-60f && divisor < 0x1p60f && __fmul_rn(amax, reciprocal) < 0x1p60f;
        return {divisor, scale == 0.0f ? -1.0f : ordinary ? reciprocal : 0.0f};
    }
    template <typename Input>
    static __device__ __forceinline__ float corrected(float x, Factor f) {
        float quotient = __fmul_rn(x, f.reciprocal);
#pragma unroll
        for (int i = 0; i < Input::kCorrections; ++i)
            quotient = __fmaf_rn(__fmaf_rn(-quotient, f.divisor, x), f.reciprocal, quotient);
        return quotient;
    }
    template <typename Input>
    static __device__ __forceinline__ float apply(float x, Factor f) {
        if (f.reciprocal > 0.0f) return corrected<Input>(x, f);
        return f.reciprocal < 0.0f ? copysignf(0.0f, x) : __fdiv_rn(x, f.divisor);
    }
    template <typename Input>
    static __device__ __forceinline__ void apply(float (&x)[8], Factor f) {
        if (f.reciprocal > 0.0f) {
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] = corrected<Input>(x[i], f);
        } else {
#pragma unroll 1
            for (int i = 0; i < 8; ++i) {
                x[0] = apply<Input>(x[0], f);  // rotated, so that the array stays in registers
                const float done = x[0];
#pragma unroll
                for (int j = 0; j < 7; ++j) x[j] = x[j + 1];
                x[7] = done;
            }
        }
    }
};

struct DivideByScaleTimesGlobal : Divide {
    static __device__ __forceinline__ Factor prepare(float scale, float global, float amax) {
        return by(__fmul_rn(scale, global), scale, amax);
    }
};

// The whole step from a block's amax to what divides its elements; `stored` is what goes to memory.
template <typename Format, typename Rule, typename Scale, typename Payload>
__device__ __forceinline__ Factor factor_of(float amax, float floor, float global, typename Scale::Stored& stored) {
    amax = amax < floor ? floor : amax;
    return Payload::prepare(Scale::round(Rule::template find<Format>(amax, global), stored), global, amax);
}

// Eight consecutive elements of a row: in one or two wide loads, or one by one at a ragged end.
template <typename Input>
struct Chunk {
    using Storage = typename Input::Storage;
    typename Input::Raw raw;

    template <bool kVector>
    __device__ __forceinline__ void load(const Problem& p, int row, int column) {
        const Storage* source = static_cast<const Storage*>(p.x) + row * p.x_stride + column;
        if constexpr (kVector) {
#pragma unroll
            for (int i = 0; i < sizeof(raw) / 16; ++i)
                reinterpret_cast<uint4*>(&raw)[i] = __ldg(reinterpret_cast<const uint4*>(source) + i);
        } else {
#pragma unroll
            for (int i = 0; i < 8; ++i)
                if (column + i < p.columns) Input::put(raw, i, source[i]);
        }
    }

    __device__ __forceinline__ void widen(float (&x)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = Input::get(raw, i);
    }

    __device__ __forceinline__ float amax() const {
        typename Input::Peaks peaks;
        Input::raise(peaks, raw);
        return Input::all(peaks);
    }
};

// The codes of one run of eight elements, or of two that share a store.
template <typename Format, int kRuns>
struct alignas(Format::kBits * kRuns) Codes {
    typename Format::Word run[kRuns];
};

// A run divided and encoded. E2M1 of bfloat16 under a power of two stays in bfloat16: the product is exact (or so small
// that it rounds to zero either way), and nothing has to be widened or rounded to odd.
template <typename Format, typename Scale, typename Payload, typename Input>
__device__ __forceinline__ typename Format::Word encoded(const Chunk<Input>& x, Factor f) {
    if constexpr (is_same<Format, E2m1> && is_same<Scale, E8m0Scale> && is_same<Input, Bfloat16>) {
        const unsigned bits = __float_as_uint(f.reciprocal), factors = __byte_perm(bits, bits, 0x3232);
        unsigned pair[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(pair[i]) : "r"(x.raw.word[i]), "r"(factors));
        return Format::encode(pair);
    } else {
        float values[8];
        x.widen(values);
        Payload::template apply<Input>(values, f);
        return Format::encode(values);
    }
}

template <typename Format, bool kVector, int kRuns>
__device__ __forceinline__ void store(const Codes<Format, kRuns>& codes, const Problem& p, int row, int column) {
    constexpr int kPerByte = 8 / Format::kBits;
    unsigned char* target = static_cast<unsigned char*>(p.codes) + row * p.code_stride + column / kPerByte;
    if constexpr (kVector) {
        *reinterpret_cast<Codes<Format, kRuns>*>(target) = codes;
    } else {
        const unsigned char* bytes = reinterpret_cast<const unsigned char*>(&codes);
#pragma unroll
        for (int i = 0; i < sizeof(codes); ++i)
            if (column + i * kPerByte < p.columns) target[i] = bytes[i];
    }
}

}  // namespace quantize
