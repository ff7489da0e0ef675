// What the copying warps put into a stage: blocks of A and B, their scales, C.
#pragma once
#include "sm90/ring.cuh"

namespace dgref {

// Copies one operand's block of K. SHARE blocks of a cluster each fetch a part and send it to all, or, where they do not
// multiply by the same rows, each fetches all of it.
template <Major MAJOR, int ROWS, int SHARE>
__device__ __forceinline__ void copy_operand(u32 target, const TensorMap* map, u32 barrier, int row, int k, u32 rank,
                                             u64 policy, bool shared = true) {
  constexpr int PART_ROWS = MAJOR == Major::K ? ROWS / SHARE : 64, PARTS = ROWS / SHARE / PART_ROWS;
  const auto inner = [&](int offset) { return MAJOR == Major::K ? k : row + offset; };
  const auto outer = [&](int offset) { return MAJOR == Major::K ? row + offset : k; };
  if (SHARE > 1 && shared) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const int offset = (int(rank) * PARTS + part) * PART_ROWS;
      ptx::load_tile_multicast(target + offset * 128, map, barrier, inner(offset), outer(offset), (1 << SHARE) - 1, policy);
    }
  } else {
#pragma unroll
    for (int offset = 0; offset < ROWS; offset += PART_ROWS) {
      ptx::load_tile(target + offset * 128, map, barrier, inner(offset), outer(offset), policy);
    }
  }
}

// Scales that no tensor map can read, by pointer and by strides of elements; null where there are none such.
struct Scales {
  const float* first;
  int row, block, group;  // a row is one of the operand, or 128 of them
};

// Where the copying warps read.
struct Sources {
  const TensorMap *a, *b, *map_scale_a, *map_scale_b;
  const TensorMap* group_maps;  // of A and B of each group, where the groups of K lie in matrices of their own; or null
  Scales scale_a, scale_b;
};

// The block scales that one tile meets: a tile is at most one step wider than a block, so there are two at most.
template <class P>
struct BlockScales {
  const float* next;
  i64 stride_k, second;

  __device__ BlockScales(const Scales& from, const Problem& problem, const Tile& tile) : stride_k(from.block) {
    next = from.first + i64(tile.group) * from.group + i64(tile.column / 128) * from.row + tile.block_begin * stride_k;
    second = tile.column / 128 + 1 < ceil_div(problem.n, 128) ? from.row : 0;
  }

  __device__ __forceinline__ void copy(u32 target, u32 barrier) {
    ptx::copy_4_bytes(target, next);
    if constexpr (!P::ONE_BLOCK) ptx::copy_4_bytes(target + 4, next + second);
    ptx::barrier_arrive_after_copies(barrier);
    next += stride_k;
  }
};

// The copying warp's share of one tile.
template <class P>
__device__ __forceinline__ void copy_tile(const Ring<P>& ring, Cursor<P::STAGES>& cursor, const Sources& from,
                                          const PlacedTile& tile, const Problem& problem, u32 rank) {
  BlockScales<P> scales(from.scale_b, problem, tile);
  const bool mapped_a = P::SCALED && from.scale_a.first == nullptr, mapped_b = P::SCALES_B > 0 && (P::POWERS || from.scale_b.first == nullptr);
  const u32 bytes = P::A_BYTES + P::B_BYTES + (mapped_a ? P::SCALE_A_COPIED : 0) + (mapped_b ? P::SCALE_B_COPIED : 0);
  const TensorMap *map_a = from.a, *map_b = from.b;
  int first_k = P::MAJOR_A == Major::K ? tile.k_origin : 0;
  if constexpr (is_k_grouped(P::SCHEDULE) && P::MAJOR_A == Major::K) {
    if (from.group_maps != nullptr) {
      map_a = from.group_maps + 2 * tile.group, map_b = map_a + 1, first_k = 0;
      ptx::acquire_map(map_a);
      ptx::acquire_map(map_b);
    }
  }
  const int group_k = is_k_grouped(P::SCHEDULE) ? tile.k_origin : tile.group * problem.k;
  const u64 policy_b = tile.only_row ? ptx::EVICT_FIRST : ptx::EVICT_NORMAL;
  const int a_row = P::MAJOR_A == Major::K ? tile.a_row : tile.row;
  const int b_row = P::MAJOR_B == Major::K ? tile.b_row : tile.column;
#pragma unroll 1  // the copying warp keeps few registers
  for (int block = tile.block_begin; block < tile.block_end; ++block, cursor.advance()) {
    const u32 stage = cursor.stage, full = ring.full(stage);
    ptx::barrier_wait(ring.empty(stage), cursor.phase ^ 1);
    ptx::barrier_expect(full, bytes);
    const int k = block * P::BLOCK_K;
    const int a_k = k + (P::MAJOR_A == Major::K ? first_k : group_k);
    const int b_k = k + (P::MAJOR_B == Major::K ? first_k : group_k);
#pragma unroll
    for (int part = 0; part < P::PARTS; ++part) {
      copy_operand<P::MAJOR_A, P::LOAD_M, P::CLUSTER_N>(ring.a(stage) + part * P::LOAD_M * 128, map_a, full, a_row,
                                                        a_k + part * 128, rank, ptx::EVICT_NORMAL);
    }
    copy_operand<P::MAJOR_B, P::BLOCK_N, P::CLUSTER_M>(ring.b(stage), map_b, full, b_row, P::PACKED ? b_k / 2 : b_k, rank,
                                                       policy_b, tile.b_shared);
    if (mapped_a) {
      const int row = tile.scale_a_row + block * P::PARTS;
      ptx::load_tile(ring.scale_a(stage), from.map_scale_a, full, tile.scale_a_column, row, ptx::EVICT_NORMAL);
    }
    if constexpr (P::SCALING == Scaling::BLOCK) scales.copy(ring.scale_b(stage), full);
    if (mapped_b) {
      constexpr int PER_128 = P::SCALE_B_K < SCALE_K ? SCALE_K / P::SCALE_B_K : 1;
      const int first = P::SCALING == Scaling::POWERS ? tile.group * ceil_div(problem.k, P::SCALE_B_K) : tile.scale_b_row * PER_128;
      const int row = first + block * P::BLOCK_K / P::SCALE_B_K;
      ptx::load_tile(ring.scale_b(stage), from.map_scale_b, full, tile.column, row, ptx::EVICT_NORMAL);
    }
  }
}

// A whole warp's share of one tile: an operand's scales that no bulk copy can read, wherever they lie. What lies beyond the
// operand or its K is zero.
template <class P, bool OF_A>
__device__ __forceinline__ void copy_scales(const Ring<P>& ring, Cursor<P::STAGES>& cursor, const Scales& from,
                                            const PlacedTile& tile, const Problem& problem, u32 lane) {
  constexpr int ROWS = OF_A ? P::LOAD_M : P::BLOCK_N, LINES = OF_A ? P::PARTS : P::SCALES_B;  // of a stage
  const int first_row = OF_A ? tile.scale_a_column : tile.column, rows = OF_A ? tile.valid : problem.n - tile.column;
  const int first_line = is_k_grouped(P::SCHEDULE) ? tile.scale_a_row * (LINES / P::PARTS) : 0;
  const int lines = ceil_div(tile.k_size, P::BLOCK_K / LINES);
  const float* next = from.first + i64(tile.group) * from.group + i64(first_row + int(lane)) * from.row +
                      i64(first_line + tile.block_begin * LINES) * from.block;
#pragma unroll 1
  for (int block = tile.block_begin; block < tile.block_end; ++block, cursor.advance()) {
    const u32 stage = cursor.stage, target = (OF_A ? ring.scale_a(stage) : ring.scale_b(stage)) + lane * 4;
    ptx::barrier_wait(ring.empty(stage), cursor.phase ^ 1);
#pragma unroll 1  // the copying warps keep few registers
    for (int line = 0; line < LINES; ++line, next += from.block) {
#pragma unroll
      for (int row = 0; row < ROWS; row += 32) {
        if (ROWS % 32 != 0 && int(lane) >= ROWS) continue;
        const bool wanted = row + int(lane) < rows && block * LINES + line < lines;
        ptx::copy_4_bytes_or_zeros(target + (line * ROWS + row) * 4, next + i64(row) * from.row, wanted);
      }
    }
    ptx::barrier_arrive_after_copies(ring.full(stage));
  }
}

// Lets C pass by, with the arrivals of a warp that copies scales.
template <class P>
__device__ __forceinline__ void pass_c(const Ring<P>& ring, Cursor<P::STAGES>& cursor) {
#pragma unroll 1
  for (int block = 0; block < P::C_BLOCKS; ++block, cursor.advance()) {
    ptx::barrier_wait(ring.empty(cursor.stage), cursor.phase ^ 1);
    ptx::barrier_arrive(ring.full(cursor.stage));
  }
}

// Sends a tile's C down the ring, as the multiplying warpgroups will take it.
template <class P>
__device__ __forceinline__ void copy_c(const Ring<P>& ring, Cursor<P::STAGES>& cursor, const TensorMap& map, const Tile& tile,
                                       const Problem& problem) {
  const int row = tile.group * problem.m + tile.row;
#pragma unroll 1
  for (int block = 0; block < P::C_BLOCKS; ++block, cursor.advance()) {
    const u32 full = ring.full(cursor.stage);
    ptx::barrier_wait(ring.empty(cursor.stage), cursor.phase ^ 1);
    ptx::barrier_expect(full, P::LOAD_M * 128);
    if constexpr (P::FILLS > 1) ptx::barrier_arrive(full);
    ptx::load_tile(ring.a(cursor.stage), &map, full, tile.column + block * P::C_COLUMNS, row, ptx::EVICT_NORMAL);
  }
}

}  // namespace dgref
