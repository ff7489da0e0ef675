// From sums to D: C, one rounding, whole slabs through the copy engine, and whatever is not whole.
#pragma once
#include "sm90/epilogue.cuh"

namespace dgref {

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

// What the tensor map's swizzle does to the places of 16 bytes in a row of a buffer.
template <class P>
__device__ __forceinline__ u32 swizzle_of_row(u32 row) {
  return row / (128 / P::STORE_LINE) & (P::STORE_LINE / 16 - 1);
}

// Columns that lie together in one bulk store, rounded, into its buffer; the swizzle is the tensor map's.
template <class P, Output OUTPUT>
__device__ __forceinline__ void stage_columns(const float* v, u32 buffer, u32 lane) {
  constexpr int LINE = P::STORE_LINE;
  if constexpr (OUTPUT == Output::F32) {
    const u32 row = lane / 4, swizzle = swizzle_of_row<P>(row);
#pragma unroll
    for (int part = 0; part < P::STORE_COLUMNS / 8; ++part, v += 4) {
      const u32 target = buffer + row * LINE + ((part * 2 + lane % 4 / 2) ^ swizzle) * 16 + lane % 2 * 8;
      ptx::store_shared_2(target, v[0], v[1]);
      ptx::store_shared_2(target + 8 * LINE, v[2], v[3]);
    }
  } else {
    // Lanes 8j to 8j + 7 name the rows of the instruction's matrix j: rows 0-7, 8-15 of one part, then of the next.
    const u32 row = lane % 16, next = lane / 16, swizzle = swizzle_of_row<P>(row);
#pragma unroll
    for (int part = 0; part < P::STORE_COLUMNS / 8; part += 2, v += 8) {
      ptx::store_matrices(buffer + row * LINE + ((part + next) ^ swizzle) * 16, ptx::pack_bfloat16(v[0], v[1]),
                          ptx::pack_bfloat16(v[2], v[3]), ptx::pack_bfloat16(v[4], v[5]), ptx::pack_bfloat16(v[6], v[7]));
    }
  }
}

// Any columns, any alignment: one warp's wanted rows, 16 columns at a time through its part of the staging buffers, then
// element by element. Rows from `valid` on are zero.
template <class P, Output OUTPUT, bool ACCUMULATE>
__device__ __forceinline__ void store_elements(const float (&total)[P::ACCUMULATORS], const Problem& problem,
                                               const Destination& to, i64 first, int left, int rows, int valid, u32 staging,
                                               u32 lane) {
  const u32 target = staging + lane / 4 * 64 + lane % 4 * 8;
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
      const int row = element / 16, n = left + i * 2 + element % 16;
      if (n >= problem.n) continue;
      const float value = row < valid ? ptx::load_shared(staging + element * 4) : 0.0f;
      store_element<OUTPUT, ACCUMULATE>(to, first + row * to.row_stride + to.column(n), value);
    }
  }
}

// One line of each of a warp's wanted rows from a staging buffer to D, 16 bytes at a time. Rows from `valid` on are zero.
template <class P, Output OUTPUT>
__device__ __forceinline__ void store_pieces(const Problem& problem, const Destination& to, i64 first, int left, int rows,
                                             int valid, u32 buffer, u32 lane) {
  constexpr int WIDTH = OUTPUT == Output::F32 ? 4 : 2, PIECES = P::STORE_LINE / 16;
  const int piece = lane % PIECES, wanted = (problem.n - left) * WIDTH - piece * 16;  // bytes
  __syncwarp();
#pragma unroll
  for (int block = 0; block < 16; block += 32 / PIECES) {
    const int row = block + int(lane) / PIECES;
    if (row >= rows) continue;
    float4 whole = ptx::load_shared_4(buffer + row * P::STORE_LINE + (piece ^ swizzle_of_row<P>(row)) * 16);
    if (row >= valid) whole = {};
    u8* const place = static_cast<u8*>(to.d) + (first + row * to.row_stride + left) * WIDTH + piece * 16;
    if (wanted >= 16) {
      *reinterpret_cast<float4*>(place) = whole;
    } else {
      const float words[4] = {whole.x, whole.y, whole.z, whole.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (i * 2 < wanted) reinterpret_cast<u16*>(place)[i] = u16(__float_as_uint(words[i / 2]) >> i % 2 * 16);
      }
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

// Puts one warp's rows of one run of a slab's stores into staging buffers.
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

// Says whether a slab is stored in bulk: all of its rows are wanted, or the map cuts the others off, and this block has them.
template <class P, bool ACCUMULATE>
__device__ __forceinline__ bool is_whole(const Tile& tile, const Problem& problem, const Destination& to, int top) {
  const bool inside = top + 64 <= tile.valid, cut_off = P::SCHEDULE == Schedule::DENSE && problem.groups == 1;
  const bool add_whole = inside && tile.column + P::BLOCK_N <= problem.n;
  return P::CLUSTER_K == 1 && to.bulk_stores && (ACCUMULATE ? add_whole : inside || cut_off);
}

// Stores a warpgroup's rows of a tile: its warps put theirs into staging buffers, and the first one sends whole slabs to
// the copy engine, which stores them while work goes on.
template <class P, Output OUTPUT, bool ACCUMULATE>
struct TileStore {
  static constexpr int TOGETHER = P::STORES_TOGETHER, RUNS = P::STORES / TOGETHER;  // of a slab
  static constexpr int IN_FLIGHT = P::STAGING_BUFFERS / TOGETHER;
  static constexpr bool AT_ONCE = P::SLABS * RUNS <= IN_FLIGHT;  // the buffers hold all of the tile
  static constexpr bool SHARED_ROWS = P::SCHEDULE == Schedule::LABELLED || P::SCHEDULE == Schedule::PREFIX_SUM;

  const Tile& tile;
  const Problem& problem;
  const Destination& to;
  u32 staging, group, warp, lane;

  // Rows of the tile: the slab's first, the warp's first, and how many of the warp's 16 are written.
  __device__ __forceinline__ int top(int slab) const { return (group * P::SLABS + slab) * 64; }
  __device__ __forceinline__ int row(int slab) const { return top(slab) + int(warp) * 16; }
  __device__ __forceinline__ int rows(int slab) const {
    return min(16, (problem.zero_padding ? tile.rows : tile.valid) - row(slab));
  }
  // The place of the warp's first row in D.
  __device__ __forceinline__ i64 first(int slab) const {
    return (SHARED_ROWS ? 0 : i64(tile.group) * to.group_stride) + i64(tile.row + row(slab)) * to.row_stride;
  }
  // Counted over the tile, so that the buffers go round.
  __device__ __forceinline__ u32 buffer(int turn) const { return staging + turn % IN_FLIGHT * TOGETHER * P::STORE_BYTES; }
  __device__ __forceinline__ u32 of_warp(int turn) const { return buffer(turn) + warp * 16 * P::STORE_LINE; }

  // Until all but the latest PENDING runs have been read. For all warps of the group: within a cluster that adds up splits
  // some have no rows, and those that have store them by themselves.
  template <int PENDING>
  __device__ __forceinline__ void await_buffers() const {
    if (warp == 0 && ptx::elect()) ptx::store_wait_read<PENDING>();
    ptx::named_barrier(1 + group, 128);
  }

  __device__ __forceinline__ void send(int slab, int run) const {
    const int row = (SHARED_ROWS ? 0 : tile.group * problem.m) + tile.row + top(slab);
    if (warp == 0 && ptx::elect()) send_run<P>(to, tile.column, row, run, buffer(slab * RUNS + run));
    __syncwarp();
  }

  __device__ __forceinline__ void publish() const {
    ptx::async_proxy_fence();
    ptx::named_barrier(1 + group, 128);
  }

  __device__ __forceinline__ void stage(const float (&total)[P::ACCUMULATORS], int slab, bool whole) const {
#pragma unroll
    for (int run = 0; run < RUNS; ++run) {
      const int turn = slab * RUNS + run;
      if (whole && turn >= IN_FLIGHT) await_buffers<IN_FLIGHT - 1>();
      stage_run<P, OUTPUT>(total, run, of_warp(turn), lane);
      if (!whole) {
#pragma unroll 1
        for (int i = 0; i < TOGETHER; ++i) {
          const int left = tile.column + (run * TOGETHER + i) * P::STORE_COLUMNS;
          store_pieces<P, OUTPUT>(problem, to, first(slab), left, rows(slab), tile.valid - row(slab),
                                  of_warp(turn) + i * P::STORE_BYTES, lane);
        }
        __syncwarp();
      } else if constexpr (!AT_ONCE) {
        publish(), send(slab, run);
      }
    }
  }

  __device__ __forceinline__ void operator()(float (&total)[P::SLABS][P::ACCUMULATORS]) const {
    await_buffers<0>();
    bool whole[P::SLABS] = {};
#pragma unroll
    for (int slab = 0; slab < P::SLABS; ++slab) {
      const bool any = top(slab) < tile.rows;
      whole[slab] = any && is_whole<P, ACCUMULATE>(tile, problem, to, top(slab));
      if (!AT_ONCE && slab > 0 && !whole[slab]) await_buffers<0>();
      if (any && (ACCUMULATE ? whole[slab] : to.bulk_stores)) {
        if constexpr (ACCUMULATE) add_c<P, OUTPUT>(total[slab], to, first(slab) + tile.column, lane);
        stage(total[slab], slab, whole[slab]);
      } else if (any) {
        store_elements<P, OUTPUT, ACCUMULATE>(total[slab], problem, to, first(slab), tile.column, rows(slab),
                                              tile.valid - row(slab), buffer(slab * RUNS) + warp * 1024, lane);
      }
    }
    if constexpr (AT_ONCE) {
      publish();
#pragma unroll
      for (int slab = 0; slab < P::SLABS; ++slab) {
        if (!whole[slab]) continue;
#pragma unroll
        for (int run = 0; run < RUNS; ++run) send(slab, run);
      }
    }
  }
};

}  // namespace dgref
