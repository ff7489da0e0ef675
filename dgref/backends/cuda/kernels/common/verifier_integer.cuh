// Model T(F, FP32 toward zero) in plain integers, for BF16, FP16, TF32 and FP8 at up to F = 25.
//
// An element is one word: exponent << 16 | sign << 13 | significand. The sum of two words holds the exponent of their
// product in its upper half and the product's sign in bit 13, because two significands add up to less than 2^13.
#pragma once

namespace verifier {

constexpr int kZeroWord = -(4096 << 16);      // far below every exponent, and its significand is 0
constexpr int kInfinity = 8192, kNan = 12288;  // exponents of Inf and NaN: even times zero they stay above
constexpr int kLeastSpecial = 2048;           // what no finite product reaches
constexpr int kSignBit = 1 << 13;
constexpr int kFloor = -133;                  // the alignment exponent never goes below

__device__ __forceinline__ int packed(bool negative, int exponent, int significand) {
    return significand == 0 ? kZeroWord : exponent * 65536 + (negative ? kSignBit : 0) + significand;
}

// IEEE-like fields: kExponentBits with bias, kFraction bits; the last exponent is Inf and NaN.
template <int kExponentBits, int kFraction>
__device__ __forceinline__ int ieee_word(unsigned bits) {
    constexpr int kLast = (1 << kExponentBits) - 1, kTheBias = kLast >> 1;
    bool negative = bits >> (kExponentBits + kFraction) & 1;
    int field = bits >> kFraction & kLast, fraction = bits & ((1 << kFraction) - 1);
    if (field == kLast) return packed(negative, fraction ? kNan : kInfinity, 1 << kFraction);
    return packed(negative, max(field, 1) - kTheBias, fraction | (field ? 1 << kFraction : 0));
}

struct Bfloat16 {
    using Element = unsigned short;
    static constexpr int kFraction = 7;
    static __device__ __forceinline__ int word(Element bits) { return ieee_word<8, 7>(bits); }
};

struct Float16 {
    using Element = unsigned short;
    static constexpr int kFraction = 10;
    static __device__ __forceinline__ int word(Element bits) { return ieee_word<5, 10>(bits); }
};

struct Tfloat32 {
    using Element = unsigned;
    static constexpr int kFraction = 10;
    static __device__ __forceinline__ int word(Element bits) { return ieee_word<8, 10>(bits >> 13); }
};

struct Float8E5m2 {
    using Element = unsigned char;
    static constexpr int kFraction = 2;
    static __device__ __forceinline__ int word(Element bits) { return ieee_word<5, 2>(bits); }
};

struct Float8E4m3 {
    using Element = unsigned char;
    static constexpr int kFraction = 3;
    static __device__ __forceinline__ int word(Element code) {
        int field = code >> 3 & 15, fraction = code & 7;
        if ((code & 0x7f) == 0x7f) return packed(code >> 7, kNan, 8);
        return packed(code >> 7, max(field, 1) - 7, fraction | (field ? 8 : 0));
    }
};

// kF fraction bits, kK products an instruction; the accumulator and the result are FP32, rounded toward zero.
template <typename Format, int kF, int kK>
struct Integer {
    using Element = typename Format::Element;
    static constexpr int kShift = kF - 2 * Format::kFraction;  // a product's fraction bits brought to F
    static constexpr int kMask = 0xfff;
    static constexpr int kBlocks = 1;  // the 64-bit sums need the registers
    static_assert(kShift >= 0 && kF <= 25, "a term is below 2^27 units, eight of them below 2^30");

    struct Tile {
        alignas(16) int word[64][36];

        __device__ __forceinline__ void store(int row, int k, const Element (&element)[8], bool) {
            int words[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) words[i] = Format::word(element[i]);
            *reinterpret_cast<int4*>(&word[row][k]) = make_int4(words[0], words[1], words[2], words[3]);
            *reinterpret_cast<int4*>(&word[row][k + 4]) = make_int4(words[4], words[5], words[6], words[7]);
        }
    };

    static __device__ __forceinline__ void accumulate(float (&chain)[4][4], const Tile& a, const Tile& b, int m, int n) {
#pragma unroll 1
        for (int k = 0; k < 32; k += kK) instruction(chain, a, b, m, n, k);
    }

    static __device__ __forceinline__ void instruction(float (&chain)[4][4], const Tile& a, const Tile& b, int m, int n,
                                                       int k0) {
        int largest[4][4];
        find_largest(largest, a, b, m, n, k0);
        long long sum[4][4];
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            int exponent = max(largest[i / 4][i % 4] >> 16, accumulator_exponent(chain[i / 4][i % 4]));
            exponent = max(exponent, kFloor);
            largest[i / 4][i % 4] = exponent;
            sum[i / 4][i % 4] = accumulator_term(chain[i / 4][i % 4], exponent);
        }
        constexpr int kStep = kK < 8 ? kK : 8;
#pragma unroll 1
        for (int k = k0; k < k0 + kK; k += kStep) add_products<kStep>(sum, largest, a, b, m, n, k);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                chain[i][j] = largest[i][j] < kLeastSpecial
                                  ? rounded(sum[i][j], largest[i][j])
                                  : special(chain[i][j], a.word[m + 16 * i] + k0, b.word[n + 16 * j] + k0);
    }

    static __device__ __forceinline__ void find_largest(int (&largest)[4][4], const Tile& a, const Tile& b, int m, int n,
                                                        int k0) {
#pragma unroll
        for (int i = 0; i < 16; ++i) largest[i / 4][i % 4] = -0x7fffffff - 1;
#pragma unroll 2
        for (int k = k0; k < k0 + kK; k += 4) {
            int4 left[4], right[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                left[i] = *reinterpret_cast<const int4*>(&a.word[m + 16 * i][k]);
                right[i] = *reinterpret_cast<const int4*>(&b.word[n + 16 * i][k]);
            }
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                int4 x = left[i / 4], y = right[i % 4];
                int& best = largest[i / 4][i % 4];
                best = __viaddmax_s32(x.x, y.x, best);
                best = __viaddmax_s32(x.y, y.y, best);
                best = __viaddmax_s32(x.z, y.z, best);
                best = __viaddmax_s32(x.w, y.w, best);
            }
        }
    }

    template <int kStep>
    static __device__ __forceinline__ void add_products(long long (&sum)[4][4], const int (&largest)[4][4], const Tile& a,
                                                        const Tile& b, int m, int n, int k0) {
        int narrow[4][4] = {};
#pragma unroll
        for (int k = k0; k < k0 + kStep; k += 4) {
            int4 left[4], right[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                left[i] = *reinterpret_cast<const int4*>(&a.word[m + 16 * i][k]);
                right[i] = *reinterpret_cast<const int4*>(&b.word[n + 16 * i][k]);
            }
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                int4 x = left[i / 4], y = right[i % 4];
                int exponent = largest[i / 4][i % 4];
                narrow[i / 4][i % 4] += term(x.x, y.x, exponent) + term(x.y, y.y, exponent) +
                                        term(x.z, y.z, exponent) + term(x.w, y.w, exponent);
            }
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) sum[i / 4][i % 4] += narrow[i / 4][i % 4];
    }

    // One product in units of 2^(largest - F), truncated toward zero.
    static __device__ __forceinline__ int term(int x, int y, int largest) {
        int both = x + y;
        unsigned product = static_cast<unsigned>((x & kMask) << kShift) * static_cast<unsigned>(y & kMask);
        int magnitude = __funnelshift_rc(product, 0u, largest - (both >> 16));  // a shift of 32 or more gives 0
        int sign = static_cast<int>(static_cast<unsigned>(both) << 18) >> 31;
        return (magnitude ^ sign) - sign;
    }

    static __device__ __forceinline__ int accumulator_exponent(float c) {
        int field = __float_as_int(c) >> 23 & 255;
        if (field == 255) return kInfinity;
        return c == 0.0f ? -1024 : max(field, 1) - 127;
    }

    static __device__ __forceinline__ long long accumulator_term(float c, int largest) {
        int bits = __float_as_int(c);
        unsigned significand = (bits & 0x7fffff) | ((bits & 0x7f800000) ? 0x800000 : 0);
        constexpr int kUp = kF > 23 ? kF - 23 : 0, kDown = kF < 23 ? 23 - kF : 0;
        int shift = min(largest - accumulator_exponent(c) + kDown, 32);
        int magnitude = __funnelshift_rc(significand << kUp, 0u, shift);
        return bits < 0 ? -magnitude : magnitude;
    }

    static __device__ __forceinline__ float rounded(long long sum, int largest) {
        int exponent = largest - kF, half = exponent >> 1;
        float part = __fmul_rn(__ll2float_rz(sum), two_to(half));  // exact: at least 2^-79, at most 2^(33 + 115)
        // Growing is exact but for overflow, which must give Inf; shrinking may underflow, which truncates.
        return exponent > 0 ? __fmul_rn(part, two_to(exponent - half)) : __fmul_rz(part, two_to(exponent - half));
    }

    static __device__ __forceinline__ float two_to(int exponent) {
        if (exponent >= -126) return __int_as_float((exponent + 127) << 23);
        return exponent < -149 ? 0.0f : __int_as_float(1 << (exponent + 149));
    }

    // Some operand is Inf or NaN: only which of the three results it is remains to be found.
    static __device__ __noinline__ float special(float c, const int* a, const int* b) {
        float sum = isfinite_(c) ? 0.0f : c;
        for (int k = 0; k < kK; ++k) {
            float x = class_of(a[k]), y = class_of(b[k]), product = x * y;
            if (!isfinite_(product)) sum += product;
        }
        return sum != sum ? __int_as_float(0x7fffffff) : sum;
    }

    static __device__ __forceinline__ bool isfinite_(float value) {
        return (__float_as_int(value) & 0x7f800000) != 0x7f800000;
    }

    // 0, +-1, +-Inf or NaN, as a word's kind.
    static __device__ __forceinline__ float class_of(int word) {
        int exponent = word >> 16;
        float magnitude = word == kZeroWord ? 0.0f : exponent < kLeastSpecial ? 1.0f : __int_as_float(0x7f800000);
        if (exponent > kNan - kLeastSpecial) magnitude = __int_as_float(0x7fffffff);
        return word & kSignBit ? -magnitude : magnitude;
    }
};

}  // namespace verifier
