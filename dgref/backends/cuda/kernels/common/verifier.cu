// The verifier: D = A B^T in the arithmetic of a tensor core, bit for bit, on CUDA cores alone.
//
// A tensor-core instruction adds a row of exact products and its accumulator: every term is truncated toward zero to F
// fraction bits below the largest exponent among them, the sum is exact, and the result is rounded toward zero
// (docs/numerics.md, "model T"). This kernel walks K in stages of 32 elements, evaluates that model for a 64 x 64 tile,
// and promotes, splits and rounds the way the caller declares.
#include "common/verifier_fp8.cuh"
#include "common/verifier_integer.cuh"

namespace verifier {

// How a finished chain enters the FP32 total: never (one chain), fma(sa * sb, chain, total), total + (sa * sb) * chain
// with two roundings, or total + chain.
enum Promotion { kNever, kFused, kMultiplied, kAdded };

struct Problem {
    const void* a;           // [m, k], K contiguous
    const void* b;           // [n, k], K contiguous
    const float* scale_a;    // element (row >> shift, chain) at row * row_stride + chain * chain_stride
    const float* scale_b;
    const float* addend;     // [m, n] or null: added in FP32 last
    void* d;                 // [m, n]
    long long stride_a, stride_b, stride_d;  // elements
    long long scale_a_row, scale_a_chain, scale_b_row, scale_b_chain;
    int m, n, k;
    int scale_a_shift, scale_b_shift;  // log2 of the rows that share a scale
    const int* split_ends;             // the stage after each K split, in ascending order
    int chain_stages;                  // stages between promotions
    float alpha;                       // multiplies the result in FP32 where it is not 1
};

static_assert(sizeof(Problem) == 144, "the host packs these fields");

constexpr int kTile = 64, kThreads = 256, kSide = 4, kLanes = 16;

__device__ __forceinline__ unsigned short bfloat16_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// One thread's share of a stage: eight elements of one row.
template <typename Element>
struct Fetch {
    Element element[8];

    __device__ __forceinline__ void load(const void* base, long long stride, int row, int rows, int k, int extent) {
        if (row < rows && k < extent) {
            const Element* source = static_cast<const Element*>(base) + row * stride + k;
            constexpr int kWords = sizeof(element) / 8;
#pragma unroll
            for (int i = 0; i < kWords; ++i)
                reinterpret_cast<uint2*>(element)[i] = reinterpret_cast<const uint2*>(source)[i];
        } else {
#pragma unroll
            for (int i = 0; i < 8; ++i) element[i] = 0;
        }
    }
};

struct Sums {
    float value[kSide][kSide];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < kSide * kSide; ++i) value[i / kSide][i % kSide] = 0.0f;
    }

    __device__ __forceinline__ void add(const Sums& other) {
#pragma unroll
        for (int i = 0; i < kSide * kSide; ++i)
            value[i / kSide][i % kSide] = __fadd_rn(value[i / kSide][i % kSide], other.value[i / kSide][i % kSide]);
    }
};

// The product of the two scales is rounded first.
template <int kPromotion>
__device__ __forceinline__ void promote_scaled(Sums& final, const Sums& chain, const Problem& p, int m0, int n0, int index) {
    float scale_b[kSide];
#pragma unroll
    for (int j = 0; j < kSide; ++j) {
        int n = min(n0 + kLanes * j, p.n - 1);
        scale_b[j] = p.scale_b[(n >> p.scale_b_shift) * p.scale_b_row + index * p.scale_b_chain];
    }
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
        int m = min(m0 + kLanes * i, p.m - 1);
        float scale_a = p.scale_a[(m >> p.scale_a_shift) * p.scale_a_row + index * p.scale_a_chain];
#pragma unroll
        for (int j = 0; j < kSide; ++j) {
            float scale = __fmul_rn(scale_a, scale_b[j]), &sum = final.value[i][j];
            sum = kPromotion == kFused ? __fmaf_rn(scale, chain.value[i][j], sum)
                                       : __fadd_rn(sum, __fmul_rn(scale, chain.value[i][j]));
        }
    }
}

template <typename Output>
__device__ __forceinline__ void write(const Sums& sums, const Problem& p, int m0, int n0) {
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
#pragma unroll
        for (int j = 0; j < kSide; ++j) {
            int m = m0 + kLanes * i, n = n0 + kLanes * j;
            if (m >= p.m || n >= p.n) continue;
            float value = sums.value[i][j];
            if (p.alpha != 1.0f) value = __fmul_rn(p.alpha, value);
            if (p.addend) value = __fadd_rn(p.addend[m * p.stride_d + n], value);
            if (value != value) value = __int_as_float(0x7fffffff);
            if constexpr (sizeof(Output) == 2)
                static_cast<unsigned short*>(p.d)[m * p.stride_d + n] = bfloat16_bits(value);
            else
                static_cast<float*>(p.d)[m * p.stride_d + n] = value;
        }
    }
}

}  // namespace verifier

template <typename Model, int kPromotion, bool kSplit, typename Output>
__global__ void __launch_bounds__(verifier::kThreads, kSplit ? 1 : Model::kBlocks)  // splits keep a third set of sums
    verify(const __grid_constant__ verifier::Problem p) {
    using namespace verifier;
    __shared__ typename Model::Tile tiles[2];
    const int row = threadIdx.x / 4, chunk = threadIdx.x % 4 * 8;
    const int lane_m = threadIdx.x / kLanes, lane_n = threadIdx.x % kLanes;
    const int tile_m = blockIdx.y * kTile, tile_n = blockIdx.x * kTile;
    const int stages = (p.k + 31) / 32;

    Fetch<typename Model::Element> a, b;
    Sums chain, final, total;
    chain.clear(), final.clear(), total.clear();
    a.load(p.a, p.stride_a, tile_m + row, p.m, chunk, p.k);
    b.load(p.b, p.stride_b, tile_n + row, p.n, chunk, p.k);
    int in_chain = 0, split = 0, index = 0;
    for (int stage = 0; stage < stages; ++stage) {
        __syncthreads();
        tiles[0].store(row, chunk, a.element, false);
        tiles[1].store(row, chunk, b.element, true);
        __syncthreads();
        const int next = (stage + 1) * 32 + chunk;
        a.load(p.a, p.stride_a, tile_m + row, p.m, next, p.k);
        b.load(p.b, p.stride_b, tile_n + row, p.n, next, p.k);
        Model::accumulate(chain.value, tiles[0], tiles[1], lane_m, lane_n);
        const bool last = stage + 1 == stages, split_ends = kSplit && stage + 1 == p.split_ends[split];
        if (kPromotion != kNever && (++in_chain == p.chain_stages || last || split_ends)) {
            if constexpr (kPromotion != kAdded)
                promote_scaled<kPromotion>(final, chain, p, tile_m + lane_m, tile_n + lane_n, index);
            else
                final.add(chain);
            chain.clear();
            in_chain = 0, ++index;
        }
        if (split_ends) {
            Sums& partial = kPromotion == kNever ? chain : final;
            if (split++ == 0)
                total = partial;
            else
                total.add(partial);
            partial.clear();
        }
    }
    write<Output>(kSplit ? total : kPromotion == kNever ? chain : final, p, tile_m + lane_m, tile_n + lane_n);
}
