// The multiplying warpgroups' way over the blocks of K of one tile.
#pragma once
#include "sm90/promote.cuh"

namespace dgref {

// Reads no block of a tile that has no valid row for this warpgroup, and lets the copies go on.
template <class P>
__device__ __forceinline__ void skip_blocks(const Ring<P>& ring, Cursor<P::STAGES>& cursor, int blocks, u32 lane) {
#pragma unroll 1
  for (int block = 0; block < blocks; ++block, cursor.advance()) {
    ptx::barrier_wait(ring.ready(cursor.stage), cursor.phase);
    ring.release(cursor.stage, lane);
  }
}

// Scales per 32 of K: each wgmma is a chain of its own, promoted by its own scales. Beyond the end of K, of which `left`
// elements are left here, are no chains, whose zeros a scale that is infinite would turn into NaN.
template <class P>
__device__ __forceinline__ u32 promote_each_step(float (&total)[P::ACCUMULATORS], float (&sum)[P::ACCUMULATORS], u32 a,
                                                 u32 b, const float (&scale_a)[2], u32 scale_b, int left) {
  u32 loaded = 0;
#pragma unroll
  for (int step = 0; step < P::STEPS; ++step) {
    if (step * 32 >= left) break;
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
        first_row(first_scale_row<P>(group, thread)),
        descriptors(ring, group) {}

  __device__ __forceinline__ void accumulate(float (&total)[P::SLABS][P::ACCUMULATORS], u32 stage, u32 phase,
                                             int left = SCALE_K) const {
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
                                                shared_b + lane % 4 * 8, left);
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
      blocks.accumulate(total, cursor.stage, cursor.phase, tile.k_size - block * P::BLOCK_K);
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
  const u32 lane = thread % 32, row = first_scale_row<P>(group, thread);
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

}  // namespace dgref
