// From accumulators to D: partial sums of the splits, C, one rounding, whole 32-column rows.
#pragma once
#include "sm90/mainloop.cuh"

namespace dgref {

enum class Output { BF16, F32 };

// Where D and C lie, and which columns of the product are moved aside for the middle of each head.
struct Destination {
  const TensorMap* map;  // of D in boxes of 16 rows by `STORE_LINE` bytes
  void* d;
  const void* c;
  i64 row_stride, group_stride;  // in elements, the same for C
  int left, middle, right;       // columns per head: the product has left + right, D has left + middle + right
  bool bulk_stores;              // the map may be used: D is aligned and has no head middles

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
  // An accumulator quad also covers row + 8: the upper row decides. Where weights are rows, D's rows are columns here.
  const auto wanted = [&](int chunk) { return (P::PACKED ? chunk % (P::ACCUMULATORS / 4) * 8 : top) < tile.rows; };
  float* const flat = &total[0][0];
  float4* const mine = first + tile.split * between;
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i) {
    // Swapped in pairs, so that the totals get registers of the other parity than the sums that are added to them:
    // an FMA that finds both in one bank of the register file takes longer (2.5% of a large product).
    const float4 value = {flat[4 * i + 1], flat[4 * i], flat[4 * i + 3], flat[4 * i + 2]};
    if (wanted(i)) __stcg(mine + i * 128, value);
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
  if (__shfl_sync(0xFFFFFFFF, shared_count[group], 0) + 1 != u32(splits)) return false;
  __threadfence();
  // Eight loads in flight for each thread: more would not fit beside the accumulators.
#pragma unroll
  for (int run = 0; run < CHUNKS; run += 8) {
    for (int split = 0; split < splits; ++split) {
#pragma unroll
      for (int i = run; i < run + 8 && i < CHUNKS; ++i) {
        float4 value = {0.0f, 0.0f, 0.0f, 0.0f};
        if (wanted(i)) value = __ldcg(first + split * between + i * 128);
        const float parts[4] = {value.y, value.x, value.w, value.z};
#pragma unroll
        for (int j = 0; j < 4; ++j) flat[4 * i + j] = split == 0 ? parts[j] : __fadd_rn(flat[4 * i + j], parts[j]);
      }
    }
  }
  return true;
}

// As above within a cluster, whose blocks share the work: each adds up the rows of some warps, in its own shared memory.
// A warp whose rows are another block's sends its sums there and returns false.
template <class P>
__device__ bool reduce_cluster(float (&total)[P::SLABS][P::ACCUMULATORS], const Ring<P>& ring, const Tile& tile, u32 warp,
                               u32 lane) {
  constexpr int CHUNKS = P::ACCUMULATORS / 4;
  if (warp >= P::SENDERS) return false;
  const u32 owner = warp % P::CLUSTER_K, own = tile.split;
  const int wanted = P::PACKED ? min(ceil_div(tile.rows, 8), CHUNKS) : (int(warp) * 16 < tile.rows ? CHUNKS : 0);
  if (own != owner) {
    ptx::cluster_wait();  // until the owner has made its barrier
    const u32 exchanged = ptx::address_in_block(ring.exchanged(), owner);
    const u32 place = ptx::address_in_block(ring.exchange(own, warp), owner) + lane * 16;
    if (lane == 0) ptx::barrier_expect_cluster(exchanged, wanted * 512);
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) {
      const float* const v = &total[0][4 * i];
      if (i < wanted) ptx::store_cluster_4(place + i * 512, v[0], v[1], v[2], v[3], exchanged);
    }
    return false;
  }
  ptx::barrier_wait(ring.exchanged(), 0);
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i) {
    if (i >= wanted) break;
    float4 sum;
#pragma unroll
    for (u32 split = 0; split < P::CLUSTER_K; ++split) {
      const float* const v = &total[0][4 * i];
      float4 part = {v[0], v[1], v[2], v[3]};
      if (split != own) part = ptx::load_shared_4(ring.exchange(split, warp) + i * 512 + lane * 16);
      if (split == 0) sum = part;
      else sum = {__fadd_rn(sum.x, part.x), __fadd_rn(sum.y, part.y), __fadd_rn(sum.z, part.z), __fadd_rn(sum.w, part.w)};
    }
    total[0][4 * i] = sum.x, total[0][4 * i + 1] = sum.y, total[0][4 * i + 2] = sum.z, total[0][4 * i + 3] = sum.w;
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

// D has been summed: one fp32 add of C where asked, then the one rounding to the output format.
template <Output OUTPUT, bool ACCUMULATE>
__device__ __forceinline__ void store_element(const Destination& to, i64 index, float value) {
  store_d<OUTPUT>(to.d, index, ACCUMULATE ? __fadd_rn(load_c<OUTPUT>(to.c, index), value) : value);
}

// Eight columns of one row of D, of which the first `wanted` are stored; in one piece where the copy engine could, too.
template <Output OUTPUT, bool ACCUMULATE>
__device__ __forceinline__ void store_eight(const Destination& to, i64 row_start, int column, int wanted,
                                            const float (&values)[8]) {
  if (ACCUMULATE || !to.bulk_stores || wanted < 8) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < wanted) store_element<OUTPUT, ACCUMULATE>(to, row_start + to.column(column + i), values[i]);
    }
  } else if constexpr (OUTPUT == Output::F32) {
    float4* const place = reinterpret_cast<float4*>(static_cast<float*>(to.d) + row_start + column);
    place[0] = {values[0], values[1], values[2], values[3]};
    place[1] = {values[4], values[5], values[6], values[7]};
  } else {
    uint4* const place = reinterpret_cast<uint4*>(static_cast<u16*>(to.d) + row_start + column);
    *place = {ptx::pack_bfloat16(values[0], values[1]), ptx::pack_bfloat16(values[2], values[3]),
              ptx::pack_bfloat16(values[4], values[5]), ptx::pack_bfloat16(values[6], values[7])};
  }
}

// Any rows, any columns, any alignment: 16 columns at a time through the staging buffer, then element by element.
template <class P, Output OUTPUT, bool ACCUMULATE>
__device__ __forceinline__ void store_slab_by_element(const float (&total)[P::ACCUMULATORS], const Tile& tile,
                                                      const Problem& problem, const Destination& to, i64 group_start, int top,
                                                      u32 staging, u32 lane) {
  constexpr bool PADDED = P::SCHEDULE == Schedule::LABELLED || P::SCHEDULE == Schedule::PREFIX_SUM;
  const u32 target = staging + lane / 4 * 64 + lane % 4 * 8;
  const int rows = min(16, tile.rows - top);
  if (ptx::elect()) ptx::store_wait_read<0>();  // of another slab
#pragma unroll
  for (int i = 0; i < P::ACCUMULATORS; i += 8) {
    __syncwarp();
#pragma unroll
    for (int part = 0; part < 8; part += 4) {
      ptx::store_shared_2(target + part * 8, total[i + part], total[i + part + 1]);
      ptx::store_shared_2(target + part * 8 + 512, total[i + part + 2], total[i + part + 3]);
    }
    __syncwarp();
#pragma unroll 1
    for (int element = lane; element < rows * 16; element += 32) {
      const int row = top + element / 16, n = tile.column + i * 2 + element % 16;
      if (n >= problem.n) continue;
      float value = ptx::load_shared(staging + element * 4);
      if constexpr (PADDED) {
        bool padding = row >= tile.valid;
        if constexpr (P::SCHEDULE == Schedule::LABELLED) padding |= __ldg(problem.layout + tile.row + row) < 0;
        if (padding && !problem.zero_padding) continue;
        if (padding) value = 0.0f;
      }
      store_element<OUTPUT, ACCUMULATE>(to, group_start + i64(tile.row + row) * to.row_stride + to.column(n), value);
    }
  }
}

// Adds C to a slab that lies inside D entirely: the loads of 16 columns are in flight together.
template <class P, Output OUTPUT>
__device__ __forceinline__ void add_c(float (&total)[P::ACCUMULATORS], const Destination& to, i64 first, u32 lane) {
#pragma unroll
  for (int i = 0; i < P::ACCUMULATORS; i += 2) {
    const i64 index = first + i64(lane / 4 + i / 2 % 2 * 8) * to.row_stride + i / 4 * 8 + lane % 4 * 2;
    if constexpr (OUTPUT == Output::F32) {
      const float2 c = *reinterpret_cast<const float2*>(static_cast<const float*>(to.c) + index);
      total[i] = __fadd_rn(c.x, total[i]), total[i + 1] = __fadd_rn(c.y, total[i + 1]);
    } else {
      const u32 c = *reinterpret_cast<const u32*>(static_cast<const u16*>(to.c) + index);
      total[i] = __fadd_rn(__uint_as_float(c << 16), total[i]);
      total[i + 1] = __fadd_rn(__uint_as_float(c & 0xFFFF0000u), total[i + 1]);
    }
  }
}

// Columns that lie together in one bulk store, rounded, into its buffer; the swizzle is the tensor map's.
template <class P, Output OUTPUT>
__device__ __forceinline__ void stage_columns(const float* v, u32 buffer, u32 lane) {
  constexpr int LINE = P::STORE_LINE, CHUNK_MASK = LINE / 16 - 1, ROWS_PER_STEP = 128 / LINE;
  if constexpr (OUTPUT == Output::F32) {
    const u32 row = lane / 4, swizzle = row / ROWS_PER_STEP & CHUNK_MASK;
#pragma unroll
    for (int part = 0; part < P::STORE_COLUMNS / 8; ++part, v += 4) {
      const u32 target = buffer + row * LINE + ((part * 2 + lane % 4 / 2) ^ swizzle) * 16 + lane % 2 * 8;
      ptx::store_shared_2(target, v[0], v[1]);
      ptx::store_shared_2(target + 8 * LINE, v[2], v[3]);
    }
  } else {
    // Lanes 8j to 8j + 7 name the rows of the instruction's matrix j: rows 0-7, 8-15 of one part, then of the next.
    const u32 row = lane % 16, next = lane / 16, swizzle = row / ROWS_PER_STEP & CHUNK_MASK;
#pragma unroll
    for (int part = 0; part < P::STORE_COLUMNS / 8; part += 2, v += 8) {
      ptx::store_matrices(buffer + row * LINE + ((part + next) ^ swizzle) * 16, ptx::pack_bfloat16(v[0], v[1]),
                          ptx::pack_bfloat16(v[2], v[3]), ptx::pack_bfloat16(v[4], v[5]), ptx::pack_bfloat16(v[6], v[7]));
    }
  }
}

// Puts one run of a slab's stores into staging buffers.
template <class P, Output OUTPUT>
__device__ __forceinline__ void stage_run(const float (&total)[P::ACCUMULATORS], int run, u32 buffer, u32 lane) {
#pragma unroll
  for (int i = 0; i < P::STORES_TOGETHER; ++i) {
    const float* const v = total + (run * P::STORES_TOGETHER + i) * P::STORE_COLUMNS / 2;
    stage_columns<P, OUTPUT>(v, buffer + i * P::STORE_BYTES, lane);
  }
}

// Hands one run over to the copy engine; for one thread.
template <class P>
__device__ __forceinline__ void send_run(const Destination& to, int column, int row, int run, u32 buffer) {
#pragma unroll
  for (int i = 0; i < P::STORES_TOGETHER; ++i) {
    ptx::store_tile(to.map, buffer + i * P::STORE_BYTES, column + (run * P::STORES_TOGETHER + i) * P::STORE_COLUMNS, row);
  }
  ptx::store_commit();
}

// One warp's 16 rows go through its staging buffers, from which the copy engine stores them while work goes on.
template <class P, Output OUTPUT>
__device__ __forceinline__ void store_slab_in_bulk(const float (&total)[P::ACCUMULATORS], const Destination& to, int column,
                                                   int row, int slab, u32 staging, u32 lane) {
  constexpr int TOGETHER = P::STORES_TOGETHER, RUNS = P::STORES / TOGETHER, IN_FLIGHT = P::STAGING_BUFFERS / TOGETHER;
#pragma unroll
  for (int run = 0; run < RUNS; ++run) {
    const int turn = slab * RUNS + run;  // counted over the tile, so that the buffers go round
    const u32 buffer = staging + turn % IN_FLIGHT * TOGETHER * P::STORE_BYTES;
    if (turn >= IN_FLIGHT) {
      if (ptx::elect()) ptx::store_wait_read<IN_FLIGHT - 1>();
      __syncwarp();
    }
    stage_run<P, OUTPUT>(total, run, buffer, lane);
    ptx::async_proxy_fence();
    __syncwarp();
    if (ptx::elect()) send_run<P>(to, column, row, run, buffer);
  }
}

// Says whether a warp's 16 rows of a slab are stored in bulk: all of them are wanted, or the map cuts the others off.
template <class P, bool ACCUMULATE>
__device__ __forceinline__ bool is_whole(const Tile& tile, const Problem& problem, const Destination& to, int top, u32 lane) {
  const bool inside = top + 16 <= tile.valid, cut_off = P::SCHEDULE == Schedule::DENSE && problem.groups == 1;
  const bool add_whole = inside && tile.column + P::BLOCK_N <= problem.n;
  bool whole = to.bulk_stores && (ACCUMULATE ? add_whole : inside || cut_off);
  if constexpr (P::SCHEDULE == Schedule::LABELLED) {
    whole = whole && __all_sync(0xFFFFFFFF, __ldg(problem.layout + tile.row + min(top + int(lane) % 16, tile.rows - 1)) >= 0);
  }
  return whole;
}

// Stores one warp's rows of a tile, 16 of each slab.
template <class P, Output OUTPUT, bool ACCUMULATE>
__device__ __forceinline__ void store_tile(float (&total)[P::SLABS][P::ACCUMULATORS], const Tile& tile, const Problem& problem,
                                           const Destination& to, u32 group, u32 warp, u32 staging, u32 lane) {
  constexpr bool SHARED_ROWS = P::SCHEDULE == Schedule::LABELLED || P::SCHEDULE == Schedule::PREFIX_SUM;
  const i64 group_start = SHARED_ROWS ? 0 : i64(tile.group) * to.group_stride;
  const int first_row = SHARED_ROWS ? 0 : tile.group * problem.m;
  if (ptx::elect()) ptx::store_wait_read<0>();
  __syncwarp();
#pragma unroll
  for (int slab = 0; slab < P::SLABS; ++slab) {
    const int top = (group * P::SLABS + slab) * 64 + warp * 16, row = tile.row + top;
    if (top >= tile.rows) break;
    if (is_whole<P, ACCUMULATE>(tile, problem, to, top, lane)) {
      if constexpr (ACCUMULATE) add_c<P, OUTPUT>(total[slab], to, group_start + i64(row) * to.row_stride + tile.column, lane);
      store_slab_in_bulk<P, OUTPUT>(total[slab], to, tile.column, first_row + row, slab, staging, lane);
    } else {
      store_slab_by_element<P, OUTPUT, ACCUMULATE>(total[slab], tile, problem, to, group_start, top, staging, lane);
    }
  }
}

}  // namespace dgref
