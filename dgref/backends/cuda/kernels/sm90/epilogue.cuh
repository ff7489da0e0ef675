// From accumulators to D: partial sums of the splits, C, one rounding, whole 32-column rows.
#pragma once
#include "sm90/mainloop.cuh"

namespace dgref {

enum class Output { BF16, F32 };

// Where D and C lie, and which columns of the product are moved aside for the middle of each head.
struct Destination {
  void* d;
  const void* c;
  i64 row_stride, group_stride;  // in elements, the same for C
  int left, middle, right;       // columns per head: the product has left + right, D has left + middle + right

  __device__ __forceinline__ int column(int n) const { return middle == 0 ? n : n + (n + right) / (left + right) * middle; }
};

// Partial sums of a tile that several blocks share, and how many of them have arrived.
struct Reduction {
  float4* partials;
  u32* arrivals;
};

// Sums the splits in ascending order. Every warpgroup but the last to arrive returns false and stores nothing.
template <class P>
__device__ bool reduce_splits(float (&total)[P::SLABS][P::ACCUMULATORS], const Tile& tile, int splits,
                              const Reduction& reduction, u32 group, u32 thread, u32* shared_count) {
  constexpr int CHUNKS = P::SLABS * P::ACCUMULATORS / 4;
  float4* const first = reduction.partials + (i64(tile.slot) * splits * P::MATH_GROUPS + group) * CHUNKS * 128 + thread;
  const i64 between = i64(P::MATH_GROUPS) * CHUNKS * 128;
  const int top = group * P::SLABS * 64 + thread / 32 * 16 + thread % 32 / 4;  // this thread's first row in the tile
  const bool wanted = top < tile.rows;  // an accumulator quad also covers row + 8: the upper row decides
  float* const flat = &total[0][0];
  float4* const mine = first + tile.split * between;
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i) {
    const float4 value = {flat[4 * i], flat[4 * i + 1], flat[4 * i + 2], flat[4 * i + 3]};
    if (wanted) __stcg(mine + i * 128, value);
  }
  __threadfence();
  ptx::named_barrier(1 + group, 128);
  if (thread == 0) {
    u32* const arrivals = reduction.arrivals + tile.slot * P::MATH_GROUPS + group;
    const u32 before = atomicAdd(arrivals, 1u);
    if (before + 1 == u32(splits)) *arrivals = 0;  // ready for the next launch
    __threadfence();
    shared_count[group] = before;
  }
  ptx::named_barrier(1 + group, 128);
  if (shared_count[group] + 1 != u32(splits)) return false;
  __threadfence();
  // Eight loads in flight for each thread: more would not fit beside the accumulators.
#pragma unroll
  for (int run = 0; run < CHUNKS; run += 8) {
    for (int split = 0; split < splits; ++split) {
#pragma unroll
      for (int i = run; i < run + 8 && i < CHUNKS; ++i) {
        float4 value = {0.0f, 0.0f, 0.0f, 0.0f};
        if (wanted) value = __ldcg(first + split * between + i * 128);
        const float parts[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) flat[4 * i + j] = split == 0 ? parts[j] : __fadd_rn(flat[4 * i + j], parts[j]);
      }
    }
  }
  return true;
}

template <Output OUTPUT>
__device__ __forceinline__ float load_c(const void* c, i64 index) {
  if constexpr (OUTPUT == Output::F32) return static_cast<const float*>(c)[index];
  return __uint_as_float(u32(static_cast<const u16*>(c)[index]) << 16);
}

template <Output OUTPUT>
__device__ __forceinline__ void store_d(void* d, i64 index, float value) {
  if constexpr (OUTPUT == Output::F32) {
    static_cast<float*>(d)[index] = value;
  } else {
    static_cast<u16*>(d)[index] = u16(ptx::pack_bfloat16(value, 0.0f));
  }
}

template <Output OUTPUT>
__device__ __forceinline__ float4 load_c4(const void* c, i64 index) {
  if constexpr (OUTPUT == Output::F32) return *reinterpret_cast<const float4*>(static_cast<const float*>(c) + index);
  const uint2 raw = *reinterpret_cast<const uint2*>(static_cast<const u16*>(c) + index);
  return {__uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xFFFF0000u), __uint_as_float(raw.y << 16),
          __uint_as_float(raw.y & 0xFFFF0000u)};
}

template <Output OUTPUT>
__device__ __forceinline__ void store_d4(void* d, i64 index, float4 v) {
  if constexpr (OUTPUT == Output::F32) {
    ptx::store_16_bytes(static_cast<float*>(d) + index, v);
  } else {
    ptx::store_8_bytes(static_cast<u16*>(d) + index, ptx::pack_bfloat16(v.x, v.y), ptx::pack_bfloat16(v.z, v.w));
  }
}

// D has been summed: one fp32 add of C where asked, then the one rounding to the output format.
template <Output OUTPUT, bool ACCUMULATE>
__device__ __forceinline__ void finish4(const Destination& to, i64 index, float4 v, bool whole, int count) {
  if (whole) {
    if constexpr (ACCUMULATE) {
      const float4 c = load_c4<OUTPUT>(to.c, index);
      v = {__fadd_rn(c.x, v.x), __fadd_rn(c.y, v.y), __fadd_rn(c.z, v.z), __fadd_rn(c.w, v.w)};
    }
    store_d4<OUTPUT>(to.d, index, v);
    return;
  }
  const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i >= count) continue;
    const float value = ACCUMULATE ? __fadd_rn(load_c<OUTPUT>(to.c, index + i), values[i]) : values[i];
    store_d<OUTPUT>(to.d, index + i, value);
  }
}

// One warp stores its 16 rows of a slab through its own staging rows, 32 columns at a time: eight lanes to a row.
template <class P, Output OUTPUT, bool ACCUMULATE>
__device__ __forceinline__ void store_slab(const float (&total)[P::ACCUMULATORS], const Tile& tile, const Problem& problem,
                                           const Destination& to, int top, float* staging, u32 lane) {
  if (top >= tile.rows) return;
  const bool aligned = to.row_stride % 4 == 0 && to.group_stride % 4 == 0;
  const i64 group_start = P::SCHEDULE == Schedule::LABELLED || P::SCHEDULE == Schedule::PREFIX_SUM
                              ? 0
                              : i64(tile.group) * to.group_stride;
  const int quad_row = lane / 4, quad_column = lane % 4 * 2, copy_row = lane / 8, copy_column = lane % 8 * 4;
#pragma unroll
  for (int chunk = 0; chunk < P::BLOCK_N; chunk += 32) {
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int i = (chunk + part * 8) / 2;
      if (i >= P::ACCUMULATORS) continue;
      float* const row = staging + quad_row * P::STAGING_ROW + part * 8 + quad_column;
      *reinterpret_cast<float2*>(row) = {total[i], total[i + 1]};
      *reinterpret_cast<float2*>(row + 8 * P::STAGING_ROW) = {total[i + 2], total[i + 3]};
    }
    __syncwarp();
    const int n = tile.column + chunk + copy_column, left = problem.n - n;
    if (left > 0 && chunk + copy_column < P::BLOCK_N) {
#pragma unroll
      for (int pass = 0; pass < 4; ++pass) {
        const int row = pass * 4 + copy_row;
        if (top + row >= tile.rows) continue;
        float4 value = *reinterpret_cast<const float4*>(staging + row * P::STAGING_ROW + copy_column);
        bool written = true, padding = top + row >= tile.valid;
        if constexpr (P::SCHEDULE == Schedule::LABELLED) padding |= __ldg(problem.layout + tile.row + top + row) < 0;
        if (P::SCHEDULE == Schedule::LABELLED || P::SCHEDULE == Schedule::PREFIX_SUM) {
          if (padding) value = {0.0f, 0.0f, 0.0f, 0.0f};
          written = !padding || problem.zero_padding;
        }
        const i64 index = group_start + i64(tile.row + top + row) * to.row_stride + to.column(n);
        if (written) finish4<OUTPUT, ACCUMULATE>(to, index, value, aligned && left >= 4, min(left, 4));
      }
    }
    __syncwarp();
  }
}

}  // namespace dgref
