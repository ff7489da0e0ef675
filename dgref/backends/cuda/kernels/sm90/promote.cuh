// The arithmetic of one block of K: its wgmma, and the promotion of their sums to FP32.
#pragma once
#include "sm90/ring.cuh"

namespace dgref {

// Issues the wgmma of one 64-row slab over one block of K; a and b are the lower words of the descriptors.
template <class P>
__device__ __forceinline__ void multiply_slab(float (&sum)[P::ACCUMULATORS], u32 a, u32 b, bool keep) {
  using Instruction = Wgmma<P::ELEMENT, P::BLOCK_N, int(P::MAJOR_A), int(P::MAJOR_B)>;
  constexpr u32 A_STEP = (P::MAJOR_A == Major::K ? 32 : 2048) / 16, B_STEP = (P::MAJOR_B == Major::K ? 32 : 2048) / 16;
#pragma unroll
  for (int step = 0; step < P::STEPS; ++step) {
    Instruction::issue(sum, a + step * A_STEP, b + step * B_STEP, keep || step > 0);
  }
  wgmma_commit();
}

template <int COUNT>
__device__ __forceinline__ void pin_all(float (&values)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) pin(values[i]);
}

// The products scale_a * scale_b, each rounded, of a thread's two rows with the one or two blocks of columns it meets.
template <class P>
struct BlockProducts {
  float low[2], high[2];

  __device__ __forceinline__ BlockProducts(const float (&scale_a)[2], const float (&scale_b)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      low[half] = __fmul_rn(scale_a[half], scale_b[0]);
      high[half] = P::ONE_BLOCK ? low[half] : __fmul_rn(scale_a[half], scale_b[1]);
    }
  }
};

// total = fma(scale_a * scale_b, sum of this block of K, total), element by element.
template <class P>
__device__ __forceinline__ void promote_block(float (&total)[P::ACCUMULATORS], const float (&sum)[P::ACCUMULATORS],
                                              const BlockProducts<P>& scale, int boundary) {
#pragma unroll
  for (int i = 0; i < P::ACCUMULATORS; ++i) {
    const int half = (i / 2) % 2;
    const bool first = P::ONE_BLOCK || i / 4 * 8 < boundary;
    total[i] = __fmaf_rn(first ? scale.low[half] : scale.high[half], sum[i], total[i]);
  }
}

// A word that takes a bit of each load, so that whoever needs it waits for all of them.
template <int COUNT>
__device__ __forceinline__ u32 touched(const float (&loaded)[COUNT]) {
  u32 all = 0;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) all |= __float_as_uint(loaded[i]);
  return all;
}

template <int COUNT>
__device__ __forceinline__ u32 touched(const float2 (&loaded)[COUNT]) {
  u32 all = 0;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) all |= __float_as_uint(loaded[i].x);
  return all;
}

// The row of the first of a thread's scales of A. Of fewer rows than the slab's that are copied, warps that have none of
// their own read the first ones: what they make of them is not stored.
template <class P>
__device__ __forceinline__ int first_scale_row(u32 group, u32 thread) {
  const int of_warp = thread / 32 * 16;
  return group * P::SLABS * 64 + (P::LOAD_M < 64 ? of_warp % P::LOAD_M : of_warp) + thread % 32 / 4;
}

// A thread's share of the scales of B's columns: two of every eight.
template <class P>
struct ColumnScales {
  float2 pairs[P::ACCUMULATORS / 4];

  __device__ __forceinline__ void load(u32 scale_b) {
#pragma unroll
    for (int i = 0; i < P::ACCUMULATORS / 4; ++i) pairs[i] = ptx::load_shared_2(scale_b + i * 32);
  }

  __device__ __forceinline__ void pin_all() {
#pragma unroll
    for (int i = 0; i < P::ACCUMULATORS / 4; ++i) pin(pairs[i].x), pin(pairs[i].y);
  }

  __device__ __forceinline__ u32 touched() const { return ::dgref::touched(pairs); }
};

template <class P>
__device__ __forceinline__ void promote_vector(float (&total)[P::ACCUMULATORS], const float (&sum)[P::ACCUMULATORS],
                                               const float (&scale_a)[2], const ColumnScales<P>& scale_b) {
#pragma unroll
  for (int i = 0; i < P::ACCUMULATORS; i += 4) {
    const float2 scale = scale_b.pairs[i / 4];
    total[i] = __fmaf_rn(__fmul_rn(scale_a[0], scale.x), sum[i], total[i]);
    total[i + 1] = __fmaf_rn(__fmul_rn(scale_a[0], scale.y), sum[i + 1], total[i + 1]);
    total[i + 2] = __fmaf_rn(__fmul_rn(scale_a[1], scale.x), sum[i + 2], total[i + 2]);
    total[i + 3] = __fmaf_rn(__fmul_rn(scale_a[1], scale.y), sum[i + 3], total[i + 3]);
  }
}

}  // namespace dgref
