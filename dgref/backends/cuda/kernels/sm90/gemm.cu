// D = A * B^T (+ C) on SM90: one copying warp, one or two multiplying warpgroups, persistent blocks.
// Arithmetic, FP8: per 128 of K four wgmma from zero, then total = fma(scale_a * scale_b, sum, total); BF16: one chain.
// Splits of K are added in ascending order, then C, then one rounding to nearest even.
#include "sm90/store.cuh"
#include "sm90/tiles.cuh"
#include "sm90/weights.cuh"

namespace dgref {

// Reads no block of a tile that has no valid row for this warpgroup, and lets the copies go on.
template <class P>
__device__ __forceinline__ void skip_blocks(const Ring<P>& ring, Cursor<P::STAGES>& cursor, int blocks, u32 lane) {
#pragma unroll 1
  for (int block = 0; block < blocks; ++block, cursor.advance()) {
    ptx::barrier_wait(ring.full(cursor.stage), cursor.phase);
    ring.release(cursor.stage, lane);
  }
}

// Scales per 32 of K: each wgmma is a chain of its own, promoted by its own scales.
template <class P>
__device__ __forceinline__ u32 promote_each_step(float (&total)[P::ACCUMULATORS], float (&sum)[P::ACCUMULATORS], u32 a,
                                                 u32 b, const float (&scale_a)[2], u32 scale_b) {
  u32 loaded = 0;
#pragma unroll
  for (int step = 0; step < P::STEPS; ++step) {
    ColumnScales<P> scales;
    scales.load(scale_b + step * P::BLOCK_N * 4);
    pin_all(sum);
    wgmma_fence();
    Wgmma<P::ELEMENT, P::BLOCK_N, 0, 0>::issue(sum, a + step * 2, b + step * 2, false);
    wgmma_commit();
    pin_all(sum);
    wgmma_wait<0>();
    scales.pin_all();
    loaded = scales.touched() | touched(scale_a);
    promote_vector<P>(total, sum, scale_a, scales);
  }
  return loaded;  // of the last step: the others were needed before it
}

// FP8: the tensor core keeps 13 fraction bits, so every 128 of K is promoted to FP32. Slabs from LIVE on have no valid row.
template <class P, int BOUNDARY, int LIVE>
struct ScaledBlocks {
  const Ring<P>& ring;
  const u32 lane;
  const int boundary, first_row;
  const OperandDescriptors<P> descriptors;

  __device__ __forceinline__ ScaledBlocks(const Ring<P>& ring, const Tile& tile, u32 group, u32 thread)
      : ring(ring),
        lane(thread % 32),
        boundary(BOUNDARY > 0 ? BOUNDARY : 128 - tile.column % 128),
        first_row(group * P::SLABS * 64 + thread / 32 * 16 + lane / 4),
        descriptors(ring, group) {}

  __device__ __forceinline__ void accumulate(float (&total)[P::SLABS][P::ACCUMULATORS], u32 stage, u32 phase) const {
    float sum[P::ACCUMULATORS];
    ptx::barrier_wait(ring.full(stage), phase);
    const u32 shared_a = ring.scale_a(stage) + first_row * 4, shared_b = ring.scale_b(stage);
    float scale_b[2] = {};
    ColumnScales<P> columns;
    if constexpr (P::SCALING == Scaling::VECTOR) columns.load(shared_b + lane % 4 * 8);
    if constexpr (P::SCALING == Scaling::BLOCK) {
      scale_b[0] = ptx::load_shared(shared_b);
      if constexpr (!P::ONE_BLOCK) scale_b[1] = ptx::load_shared(shared_b + 4);
    }
#pragma unroll
    for (int slab = 0; slab < LIVE; ++slab) {
      // Read before the wgmma are issued: they keep shared memory so busy that a load among them waits long.
      float scale_a[2] = {ptx::load_shared(shared_a + slab * 256), ptx::load_shared(shared_a + slab * 256 + 32)};
      if constexpr (P::SCALING == Scaling::VECTOR_32) {
        const u32 loaded = promote_each_step<P>(total[slab], sum, descriptors.a(stage, slab), descriptors.b(stage), scale_a,
                                                shared_b + lane % 4 * 8);
        if (slab + 1 == LIVE) ring.release(stage, lane, loaded);
        continue;
      }
      pin_all(sum);
      wgmma_fence();
      multiply_slab<P>(sum, descriptors.a(stage, slab), descriptors.b(stage), false);
      pin_all(sum);
      wgmma_wait<0>();
      // The products of scales come after the multiplies: before, they would wait for the loads and hold the wgmma up.
      pin(scale_a[0]), pin(scale_a[1]), pin(scale_b[0]), pin(scale_b[1]);
      if constexpr (P::SCALING == Scaling::VECTOR) columns.pin_all();
      if (slab + 1 == LIVE) {
        const u32 loaded = P::SCALING == Scaling::BLOCK ? touched(scale_b) : columns.touched();
        ring.release(stage, lane, loaded | touched(scale_a));
      }
      if constexpr (P::SCALING == Scaling::BLOCK) {
        promote_block<P>(total[slab], sum, BlockProducts<P>(scale_a, scale_b), boundary);
      } else {
        promote_vector<P>(total[slab], sum, scale_a, columns);
      }
    }
  }
};

// In a round that begins with the first stage no address depends on the cursor.
template <class P, int BOUNDARY, int LIVE = P::SLABS>
__device__ __forceinline__ void accumulate_scaled(float (&total)[P::SLABS][P::ACCUMULATORS], const Ring<P>& ring,
                                                  Cursor<P::STAGES>& cursor, const Tile& tile, u32 group, u32 thread) {
  const ScaledBlocks<P, BOUNDARY, LIVE> blocks(ring, tile, group, thread);
  if constexpr (P::ROUNDS) {
    int first = cursor.stage, end = first + tile.block_end - tile.block_begin;
#pragma unroll 1
    for (; end > 0; end -= P::STAGES, first = 0) {
      if (!P::WIDE && first == 0 && end >= P::STAGES) {  // two layouts would take more registers than wide tiles leave
#pragma unroll
        for (int stage = 0; stage < P::STAGES; ++stage) blocks.accumulate(total, stage, cursor.phase);
      } else {
#pragma unroll
        for (int stage = 0; stage < P::STAGES; ++stage) {
          if (stage >= first && stage < end) blocks.accumulate(total, stage, cursor.phase);
        }
      }
      if (end >= P::STAGES) cursor.phase ^= 1;
    }
    cursor.stage = end == 0 ? 0 : end + P::STAGES;
  } else {
#pragma unroll 1
    for (int block = tile.block_begin; block < tile.block_end; ++block, cursor.advance()) {
      blocks.accumulate(total, cursor.stage, cursor.phase);
    }
  }
}

// One block of K under way: its sums, the scales that wait for them, and the stage that is given back with them.
template <class P>
struct BlockUnderWay {
  float sum[P::ACCUMULATORS], scale_a[2], scale_b[2];
  u32 stage;

  __device__ __forceinline__ void issue(const Ring<P>& ring, Cursor<P::STAGES>& cursor, const OperandDescriptors<P>& of,
                                        u32 row) {
    stage = cursor.stage;
    ptx::barrier_wait(ring.full(stage), cursor.phase);
    cursor.advance();
    const u32 shared_a = ring.scale_a(stage) + row * 4, shared_b = ring.scale_b(stage);
    scale_a[0] = ptx::load_shared(shared_a), scale_a[1] = ptx::load_shared(shared_a + 32);
    scale_b[0] = ptx::load_shared(shared_b), scale_b[1] = P::ONE_BLOCK ? 0.0f : ptx::load_shared(shared_b + 4);
    pin_all(sum);
    wgmma_fence();
    multiply_slab<P>(sum, of.a(stage, 0), of.b(stage), false);
    pin_all(sum);
  }

  // Once its wgmma have been waited for.
  __device__ __forceinline__ void finish(float (&total)[P::ACCUMULATORS], const Ring<P>& ring, int boundary, u32 lane) {
    pin_all(sum);
    pin(scale_a[0]), pin(scale_a[1]), pin(scale_b[0]), pin(scale_b[1]);
    ring.release(stage, lane, touched(scale_a) | touched(scale_b));
    promote_block<P>(total, sum, BlockProducts<P>(scale_a, scale_b), boundary);
  }
};

// Waits for blocks in the order of their issue, and finishes each while those behind it are multiplied.
template <class P, int NEXT = 0>
__device__ __forceinline__ void finish_in_turn(BlockUnderWay<P> (&blocks)[P::TOGETHER], float (&total)[P::ACCUMULATORS],
                                               const Ring<P>& ring, int boundary, u32 lane) {
  wgmma_wait<P::TOGETHER - 1 - NEXT>();
  blocks[NEXT].finish(total, ring, boundary, lane);
  if constexpr (NEXT + 1 < P::TOGETHER) finish_in_turn<P, NEXT + 1>(blocks, total, ring, boundary, lane);
}

// A lone warpgroup issues several blocks of K before it promotes the first. None may be under way from one round of the
// loop to the next: the compiler would have every wgmma waited for at once.
template <class P>
__device__ __forceinline__ void accumulate_in_turns(float (&total)[P::ACCUMULATORS], const Ring<P>& ring,
                                                    Cursor<P::STAGES>& cursor, const Tile& tile, u32 group, u32 thread) {
  const OperandDescriptors<P> descriptors(ring, group);
  const u32 lane = thread % 32, row = group * 64 + thread / 32 * 16 + lane / 4;
  const int boundary = 128 - tile.column % 128;
  int left = tile.block_end - tile.block_begin;
#pragma unroll 1
  for (; left >= P::TOGETHER; left -= P::TOGETHER) {
    BlockUnderWay<P> blocks[P::TOGETHER];
#pragma unroll
    for (int i = 0; i < P::TOGETHER; ++i) blocks[i].issue(ring, cursor, descriptors, row);
    finish_in_turn<P>(blocks, total, ring, boundary, lane);
  }
#pragma unroll 1
  for (; left > 0; --left) {
    BlockUnderWay<P> block;
    block.issue(ring, cursor, descriptors, row);
    wgmma_wait<0>();
    block.finish(total, ring, boundary, lane);
  }
}

// BF16: one chain over all of K; a stage is released one block later, when its wgmma are known to be done.
template <class P>
__device__ __forceinline__ void accumulate_chain(float (&total)[P::SLABS][P::ACCUMULATORS], const Ring<P>& ring,
                                                 Cursor<P::STAGES>& cursor, const Tile& tile, u32 group, u32 thread) {
  const u32 lane = thread % 32;
  const OperandDescriptors<P> descriptors(ring, group);
  u32 previous = 0;
#pragma unroll 1
  for (int block = tile.block_begin; block < tile.block_end; ++block, cursor.advance()) {
    const u32 stage = cursor.stage;
    ptx::barrier_wait(ring.full(stage), cursor.phase);
#pragma unroll
    for (int slab = 0; slab < P::SLABS; ++slab) pin_all(total[slab]);
    wgmma_fence();
#pragma unroll
    for (int slab = 0; slab < P::SLABS; ++slab) {
      multiply_slab<P>(total[slab], descriptors.a(stage, slab), descriptors.b(stage), block > tile.block_begin);
    }
#pragma unroll
    for (int slab = 0; slab < P::SLABS; ++slab) pin_all(total[slab]);
    wgmma_wait<P::SLABS>();
    if (block > tile.block_begin) ring.release(previous, lane);
    previous = stage;
  }
  wgmma_wait<0>();
#pragma unroll
  for (int slab = 0; slab < P::SLABS; ++slab) pin_all(total[slab]);
  if (tile.block_begin < tile.block_end) ring.release(previous, lane);
}

template <class P, Addend ADDEND>
__device__ __forceinline__ void copy_all(const Ring<P>& ring, const Sources& from, const TensorMap& map_c,
                                         const Problem& problem, u32 rank) {
  Scheduler<P::SCHEDULE, P::BLOCK_M, P::BLOCK_N, P::BLOCK_K, P::CLUSTER_M, P::CLUSTER_N, P::CLUSTER_K> scheduler(problem, rank);
  TileRing<P> tiles{ring.base};
  Cursor<P::STAGES> cursor;
  PlacedTile tile{};
  while (scheduler.next(tile)) {
    tiles.send(tile);
    copy_tile<P>(ring, cursor, from, tile, problem, rank);
    if constexpr (ADDEND == Addend::IN_RING) copy_c<P>(ring, cursor, map_c, tile, problem);
  }
  tile.group = -1;
  tiles.send(tile);
  if constexpr (P::CLUSTER > 1) {
    // This block's barriers must outlive the arrivals of its peer.
    for (int i = 0; i < P::STAGES; ++i, cursor.advance()) ptx::barrier_wait(ring.empty(cursor.stage), cursor.phase ^ 1);
  }
  ptx::allow_next_grid();
}

template <class P, bool OF_A, Addend ADDEND>
__device__ __forceinline__ void copy_all_scales(const Ring<P>& ring, const Scales& from, const Problem& problem, u32 rank) {
  Scheduler<P::SCHEDULE, P::BLOCK_M, P::BLOCK_N, P::BLOCK_K, P::CLUSTER_M, P::CLUSTER_N, P::CLUSTER_K> scheduler(problem, rank);
  Cursor<P::STAGES> cursor;
  PlacedTile tile{};
  while (scheduler.next(tile)) {
    copy_scales<P, OF_A>(ring, cursor, from, tile, problem, threadIdx.x % 32);
    if constexpr (ADDEND == Addend::IN_RING) pass_c<P>(ring, cursor);
  }
}

template <class P, Output OUTPUT, Addend ADDEND>
__device__ __forceinline__ void multiply_all(const Ring<P>& ring, unsigned char* shared, const Problem& problem,
                                             const Destination& to, const Reduction& reduction, u32 index) {
  TileRing<P> tiles{ring.base};
  Cursor<P::STAGES> cursor;
  const u32 group = index / 4 - 1, warp = index % 4, thread = threadIdx.x % 128, lane = thread % 32;
  const u32 staging = ring.base + P::STAGING_OFFSET + group * P::STAGING_BYTES;
  u32* const counts = reinterpret_cast<u32*>(shared + P::COUNTS_OFFSET);
  while (true) {
    Tile tile = tiles.receive(lane);
    if (tile.group < 0) break;
    __syncwarp();
    float total[P::SLABS][P::ACCUMULATORS];
#pragma unroll
    for (int slab = 0; slab < P::SLABS; ++slab) {
#pragma unroll
      for (int i = 0; i < P::ACCUMULATORS; ++i) total[slab][i] = 0.0f;
    }
    if (P::PACKED ? tile.valid <= 0 : int(group) * P::SLABS * 64 >= tile.valid) {
      skip_blocks<P>(ring, cursor, tile.block_end - tile.block_begin, lane);
    } else if constexpr (P::PACKED) {
      accumulate_weights<P>(total, ring, cursor, tile, group, thread);
    } else if constexpr (P::SCALED) {
      // The first column of the tile that the second block of scales covers: known at compile time where that is cheap.
      if constexpr (P::TOGETHER > 1) {
        accumulate_in_turns<P>(total[0], ring, cursor, tile, group, thread);
      } else if (P::SLABS == 2 && P::ROWS_VARY && int(group) * 128 + 64 >= tile.valid) {
        accumulate_scaled<P, 0, 1>(total, ring, cursor, tile, group, thread);
      } else if constexpr (P::BLOCK_N != 192 || P::SCALING != Scaling::BLOCK) {
        accumulate_scaled<P, 0>(total, ring, cursor, tile, group, thread);
      } else if (tile.column % 128 == 0) {
        accumulate_scaled<P, 128>(total, ring, cursor, tile, group, thread);
      } else {
        accumulate_scaled<P, 64>(total, ring, cursor, tile, group, thread);
      }
    } else {
      accumulate_chain<P>(total, ring, cursor, tile, group, thread);
    }
    if constexpr (ADDEND == Addend::IN_RING) add_c_blocks<P, OUTPUT>(total, ring, cursor, group, thread);
    // No branch around the stores: the compiler would take the warp to be split and drop its uniform registers.
    if constexpr (P::CLUSTER_K > 1) {
      if (!reduce_cluster<P>(total, ring, tile, group * 4 + warp, lane)) tile.rows = 0;
    } else {
      if (problem.splits > 1 && !reduce_splits<P>(total, tile, problem.splits, reduction, group, thread, counts)) tile.rows = 0;
    }
    if constexpr (P::PACKED) {
#pragma unroll
      for (int slab = 0; slab < P::SLABS; ++slab) {
        const int left = tile.column + int(group * P::SLABS + slab) * 64 + int(warp) * 16;
        store_transposed<P, OUTPUT, ADDEND != Addend::NONE>(total[slab], tile, problem, to, left, staging + warp * 2048, lane);
      }
    } else {
      // The lane is hidden, so that no address made of it is kept over the tiles, where registers are short.
      TileStore<P, OUTPUT, ADDEND == Addend::BY_POINTER>{tile, problem, to, staging, group, warp, ptx::kept(lane)}(total);
    }
    __syncwarp();
  }
  if (ptx::elect()) ptx::store_wait_read<0>();  // shared memory must outlive the stores that read it
}

template <Element ELEMENT, Scaling SCALING, Schedule SCHEDULE, int BLOCK_M, int BLOCK_N, int STAGES, int MATH_GROUPS,
          int CLUSTER_M, int CLUSTER_N, int CLUSTER_K, int LOAD_M, Major MAJOR_A, Major MAJOR_B, Weights WEIGHTS, Output OUTPUT,
          Addend ADDEND>
__global__ void __launch_bounds__(128 + 128 * MATH_GROUPS, 1)
    gemm(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
         const __grid_constant__ TensorMap map_scale_a, const __grid_constant__ TensorMap map_scale_b,
         const __grid_constant__ TensorMap map_d, const __grid_constant__ TensorMap map_c,
         const TensorMap* group_maps, const __grid_constant__ Scales scale_a, const __grid_constant__ Scales scale_b, void* d,
         const void* c, i64 row_stride, i64 group_stride,
         const int* layout, float4* partials, u32* arrivals, int m, int n, int k, int groups, int splits, int band,
         int alignment, int zero_padding, int left, int middle, int right, int bulk_stores) {
  using P = Plan<ELEMENT, SCALING, SCHEDULE, BLOCK_M, BLOCK_N, STAGES, MATH_GROUPS, CLUSTER_M, CLUSTER_N, CLUSTER_K, LOAD_M,
                 MAJOR_A, MAJOR_B, WEIGHTS, OUTPUT == Output::F32 ? 4 : 2>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const Ring<P> ring{ptx::kept(ptx::shared_address(shared))};
  const Problem problem{m, n, k, groups, splits, band, alignment, zero_padding, layout};
  const u32 rank = P::CLUSTER * P::CLUSTER_K > 1 ? ptx::cluster_rank() : 0;
  // The shuffle tells the compiler that a warp agrees on its role: addresses and descriptors then live in uniform registers.
  const u32 index = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0), role = index / 4;
  const bool warp_a = P::SCALED && !P::WIDE && scale_a.first != nullptr;
  const bool warp_b = P::SCALES_B > 0 && !P::WIDE && !P::POWERS && scale_b.first != nullptr;
  if (threadIdx.x == 0) {
    ptx::prefetch_map(&map_a);
    ptx::prefetch_map(&map_b);
    if (P::SCALED && !warp_a) ptx::prefetch_map(&map_scale_a);
    if (P::SCALES_B > 0 && !warp_b) ptx::prefetch_map(&map_scale_b);
    if (bulk_stores) ptx::prefetch_map(&map_d);
    if constexpr (ADDEND == Addend::IN_RING) ptx::prefetch_map(&map_c);
    if constexpr (P::PACKED) Widening::publish(ring.base + P::TABLES_OFFSET);
  }
  if (ptx::elect()) {
    TileRing<P>{ring.base}.initialise(index);
    ring.initialise(index, rank, P::FILLS + 32 * warp_a + 32 * warp_b);
  }
  __syncthreads();
  if constexpr (P::CLUSTER * P::CLUSTER_K > 1) ptx::cluster_arrive();
  if constexpr (P::CLUSTER > 1) ptx::cluster_wait();
  ptx::wait_for_previous_grid();
  if (role == 0) {
    if constexpr (P::MOVES_REGISTERS) ptx::registers_release<P::COPY_REGISTERS>();
    if (index == 0 && ptx::elect()) {
      const Sources from{&map_a, &map_b, &map_scale_a, &map_scale_b, group_maps, scale_a, scale_b};
      copy_all<P, ADDEND>(ring, from, map_c, problem, rank);
    }
    if constexpr (P::SCALED && !P::WIDE) {
      if (index == 1 && warp_a) copy_all_scales<P, true, ADDEND>(ring, scale_a, problem, rank);
    }
    if constexpr (P::SCALES_B > 0 && !P::WIDE) {
      if (index == 2 && warp_b) copy_all_scales<P, false, ADDEND>(ring, scale_b, problem, rank);
    }
  } else {
    if constexpr (P::MOVES_REGISTERS) ptx::registers_claim<P::MATH_REGISTERS>();
    const Destination to{&map_d, d, c, row_stride, group_stride, left, middle, right, bulk_stores != 0};
    multiply_all<P, OUTPUT, ADDEND>(ring, shared, problem, to, {partials, arrivals}, index);
  }
}

}  // namespace dgref
