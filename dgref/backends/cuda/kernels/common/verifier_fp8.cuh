// FP8 at F = 13, the fixed-point sum carried by subnormal floats.
//
// Scaled so that one unit of the truncated sum is 2^-149, a product that is rounded toward zero becomes an integer number
// of units with a sign: an FP32 subnormal is a sign and a 23-bit integer, and adding subnormals is exact integer addition.
// A term is below 2^15 units and 33 of them below 2^21, so nothing is ever lost: three FP32 operations a product.
#pragma once

namespace verifier {

// The largest exponent of 32 products comes from pairs of 16-bit sums; a zero never takes part in it.
constexpr int kZeroExponent = -512;
constexpr int kFractionBits = 13;
constexpr int kBias = 72;  // B carries 2^-72: scales, products and the accumulator all stay normal FP32 numbers

__device__ __forceinline__ unsigned add_max_s16x2(unsigned a, unsigned b, unsigned c) {
    return __viaddmax_s16x2(a, b, c);
}

__device__ __forceinline__ float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }

struct E4m3 {
    static __device__ __forceinline__ float value(unsigned code) {
        float magnitude = __fmul_rn(__int_as_float((code & 0x7f) << 20), power_of_two(120));  // subnormals included
        magnitude = (code & 0x7f) == 0x7f ? __int_as_float(0x7fffffff) : magnitude;
        return code & 0x80 ? -magnitude : magnitude;
    }
    static __device__ __forceinline__ int exponent(unsigned code) {
        return (code & 0x7f) == 0 ? kZeroExponent : max((int)(code >> 3 & 15), 1) - 7;
    }
};

struct E5m2 {
    static __device__ __forceinline__ float value(unsigned code) {
        float magnitude = __fmul_rn(__int_as_float((code & 0x7f) << 21), power_of_two(112));
        if ((code & 0x7c) == 0x7c) magnitude = __int_as_float(code & 3 ? 0x7fffffff : 0x7f800000);
        return code & 0x80 ? -magnitude : magnitude;
    }
    static __device__ __forceinline__ int exponent(unsigned code) {
        return (code & 0x7f) == 0 ? kZeroExponent : max((int)(code >> 2 & 31), 1) - 15;
    }
};

template <typename FormatA, typename FormatB = FormatA>
struct Fp8 {
    using Element = unsigned char;
    static constexpr int kBlocks = 2;  // on one multiprocessor: 128 registers a thread

    // Rows are padded by 16 bytes: eight rows read 16 bytes each without a bank conflict.
    struct Tile {
        alignas(16) float value[64][36];
        alignas(16) unsigned exponents[64][20];

        __device__ __forceinline__ void store(int row, int k, const Element (&code)[8], bool is_b) {
            if (is_b)
                fill<FormatB>(row, k, code, power_of_two(-kBias));
            else
                fill<FormatA>(row, k, code, 1.0f);
        }

        template <typename Format>
        __device__ __forceinline__ void fill(int row, int k, const Element (&code)[8], float factor) {
            float values[8];
            unsigned pairs[4];
#pragma unroll
            for (int i = 0; i < 8; ++i) values[i] = __fmul_rn(Format::value(code[i]), factor);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                pairs[i] = (Format::exponent(code[2 * i]) & 0xffff) | Format::exponent(code[2 * i + 1]) << 16;
            *reinterpret_cast<float4*>(&value[row][k]) = make_float4(values[0], values[1], values[2], values[3]);
            *reinterpret_cast<float4*>(&value[row][k + 4]) = make_float4(values[4], values[5], values[6], values[7]);
            *reinterpret_cast<uint4*>(&exponents[row][k / 2]) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    };

    static __device__ __forceinline__ int exponent_of(float value) { return (__float_as_int(value) >> 23 & 255) - 127; }

    // One instruction of K = 32 for each of 4 x 4 outputs: chain = T(A B^T + chain).
    static __device__ __forceinline__ void accumulate(float (&chain)[4][4], const Tile& a, const Tile& b, int m, int n) {
        int largest[4][4];
        find_largest(largest, a, b, m, n);
        float scale[4][4], sum[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                // 60 is above any finite accumulator: an infinite or NaN one needs a scale, too
                largest[i][j] = min(max(largest[i][j], max(exponent_of(chain[i][j]), -64)), 60);
                scale[i][j] = power_of_two(kBias + kFractionBits - 149 - largest[i][j]);
                sum[i][j] = __fmul_rz(__fmul_rn(chain[i][j], power_of_two(-kBias)), scale[i][j]);
            }
        add_products(sum, scale, a, b, m, n);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) chain[i][j] = rounded(sum[i][j], largest[i][j]);
    }

    static __device__ __forceinline__ void find_largest(int (&largest)[4][4], const Tile& a, const Tile& b, int m, int n) {
        unsigned pairs[4][4];
#pragma unroll
        for (int i = 0; i < 16; ++i) pairs[i / 4][i % 4] = 0x80008000u;
#pragma unroll
        for (int word = 0; word < 16; word += 4) {
            uint4 left[4], right[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                left[i] = *reinterpret_cast<const uint4*>(&a.exponents[m + 16 * i][word]);
                right[i] = *reinterpret_cast<const uint4*>(&b.exponents[n + 16 * i][word]);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    unsigned& pair = pairs[i][j];
                    pair = add_max_s16x2(left[i].x, right[j].x, pair);
                    pair = add_max_s16x2(left[i].y, right[j].y, pair);
                    pair = add_max_s16x2(left[i].z, right[j].z, pair);
                    pair = add_max_s16x2(left[i].w, right[j].w, pair);
                }
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            int pair = pairs[i / 4][i % 4];
            largest[i / 4][i % 4] = max(pair >> 16, static_cast<int>(static_cast<short>(pair)));
        }
    }

    static __device__ __forceinline__ float term(float x, float y, float scale) {
        return __fmul_rz(__fmul_rn(x, y), scale);  // the first product is exact, the second truncates to units
    }

    static __device__ __forceinline__ void add_products(float (&sum)[4][4], const float (&scale)[4][4], const Tile& a,
                                                        const Tile& b, int m, int n) {
#pragma unroll 2
        for (int k = 0; k < 32; k += 4) {
            float4 left[4], right[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                left[i] = *reinterpret_cast<const float4*>(&a.value[m + 16 * i][k]);
                right[i] = *reinterpret_cast<const float4*>(&b.value[n + 16 * i][k]);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    float& s = sum[i][j];
                    s = __fadd_rn(s, term(left[i].x, right[j].x, scale[i][j]));
                    s = __fadd_rn(s, term(left[i].y, right[j].y, scale[i][j]));
                    s = __fadd_rn(s, term(left[i].z, right[j].z, scale[i][j]));
                    s = __fadd_rn(s, term(left[i].w, right[j].w, scale[i][j]));
                }
        }
    }

    // Back from units of 2^-149 to units of 2^(largest - 13), then toward zero to 13 fraction bits.
    static __device__ __forceinline__ float rounded(float units, int largest) {
        float value = __fmul_rn(__fmul_rn(units, power_of_two(100)), power_of_two(49 - kFractionBits + largest));
        return __int_as_float(__float_as_int(value) & ~0x3ff);
    }
};

}  // namespace verifier
