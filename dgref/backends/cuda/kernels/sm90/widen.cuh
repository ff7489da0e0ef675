// E2M1 weights: warpgroups of their own widen each packed block to E4M3, exactly, before it is multiplied.
#pragma once
#include "sm90/mainloop.cuh"

namespace dgref {

// Eight E2M1 codes to eight E4M3 bytes in the same order, the low nibble first. Magnitudes are looked up by `prmt`:
// 0, 0.5, 1, 1.5, 2, 3, 4, 6 are exact in E4M3, and so is -0.
__device__ __forceinline__ uint2 widen(u32 codes) {
  const u32 magnitudes = codes & 0x77777777u, signs = (codes >> 3) & 0x11111111u;
  uint2 bytes;
  bytes.x = __byte_perm(0x3C383000u, 0x4C484440u, magnitudes) | __byte_perm(0x8000u, 0, signs);
  bytes.y = __byte_perm(0x3C383000u, 0x4C484440u, magnitudes >> 16) | __byte_perm(0x8000u, 0, signs >> 16);
  return bytes;
}

// One warp's share of a block: 16 elements to a lane, eight lanes to a row of 128, into the 128-byte swizzle.
// A lane's rows differ by multiples of 16, so its place in the swizzle never changes.
template <class P>
__device__ __forceinline__ void widen_block(u32 packed, u32 target, u32 worker, u32 lane) {
  constexpr int PASS = 4 * P::WIDENERS, PASSES = P::BLOCK_N / PASS;
  static_assert(PASS % 8 == 0 && P::BLOCK_N % PASS == 0, "passes are whole and keep the swizzle");
  const u32 row = worker * 4 + lane / 8, column = lane % 8;
  const u32 source = packed + row * 64 + column * 8, place = target + row * 128 + (column ^ (row % 8)) * 16;
  uint2 codes[PASSES];  // loaded together: one latency for all
#pragma unroll
  for (int pass = 0; pass < PASSES; ++pass) codes[pass] = ptx::load_shared_8_bytes(source + pass * PASS * 64);
#pragma unroll
  for (int pass = 0; pass < PASSES; ++pass) {
    const uint2 low = widen(codes[pass].x), high = widen(codes[pass].y);
    ptx::store_shared_16_bytes(place + pass * PASS * 128, low.x, low.y, high.x, high.y);
  }
}

template <class P>
__device__ __forceinline__ void widen_all(const Ring<P>& ring, const Problem& problem, u32 rank, u32 worker, u32 lane) {
  Scheduler<P::SCHEDULE, P::BLOCK_M, P::BLOCK_N, P::BLOCK_K, P::CLUSTER_M, P::CLUSTER_N> scheduler(problem, rank);
  Cursor<P::STAGES> cursor;
  Tile tile;
  while (scheduler.next(tile)) {
#pragma unroll 1
    for (int block = tile.block_begin; block < tile.block_end; ++block, cursor.advance()) {
      // The stage is empty: nothing is copied to its packed half before.
      ptx::barrier_wait(ring.packed_full(cursor.stage), cursor.phase);
      widen_block<P>(ring.packed(cursor.stage), ring.b(cursor.stage), worker, lane);
      ptx::async_proxy_fence();  // wgmma reads what ordinary stores wrote
      __syncwarp();
      if (lane == 0) ptx::barrier_arrive(ring.full(cursor.stage));
    }
  }
}

}  // namespace dgref
