// How the multiplying warps learn what to multiply.
#pragma once
#include "sm90/ring.cuh"

namespace dgref {

// Tiles on their way from the copying warp, which finds them ahead of time, to the multiplying warps.
template <class P>
struct TileRing {
  static constexpr int SLOTS = 2, WORDS = sizeof(Tile) / 4;
  static_assert(SLOTS * (16 + sizeof(Tile)) <= P::SHARED_BYTES - P::TILES_OFFSET, "tiles and their barriers fit");
  struct Words {
    u32 word[WORDS];
  };

  u32 base;  // shared-memory address of the dynamic allocation
  Cursor<SLOTS> cursor;

  __device__ u32 full(u32 slot) const { return base + P::TILES_OFFSET + slot * 8; }
  __device__ u32 empty(u32 slot) const { return full(SLOTS + slot); }
  __device__ u32 words(u32 slot) const { return full(2 * SLOTS) + slot * sizeof(Tile); }

  // By one thread of each warp; the first warps have stages to see to.
  __device__ void initialise(u32 warp) const {
    const u32 slot = 4 * P::MATH_GROUPS + 3 - warp;
    if (slot >= SLOTS) return;
    ptx::barrier_init(full(slot), 1);
    ptx::barrier_init(empty(slot), 4 * P::MATH_GROUPS * 32);
  }

  // For the one thread that copies.
  __device__ void send(const Tile& tile) {
    const Words sent = __builtin_bit_cast(Words, tile);
    ptx::barrier_wait(empty(cursor.stage), cursor.phase ^ 1);
#pragma unroll
    for (int i = 0; i < WORDS; ++i) ptx::store_shared(words(cursor.stage) + i * 4, sent.word[i]);
    ptx::barrier_arrive(full(cursor.stage));
    cursor.advance();
  }

  // For a whole warp. The shuffles tell the compiler that it agrees on the tile.
  __device__ __forceinline__ Tile receive(u32 lane) {
    ptx::barrier_wait(full(cursor.stage), cursor.phase);
    const u32 mine = ptx::load_shared_word(words(cursor.stage) + min(lane, u32(WORDS - 1)) * 4);
    Words received;
#pragma unroll
    for (int i = 0; i < WORDS; ++i) received.word[i] = __shfl_sync(0xFFFFFFFF, mine, i);
    // Once the words are here, which a shuffle waits for: see Ring::release.
    ptx::barrier_arrive(empty(cursor.stage) + (received.word[0] & ptx::zero()));
    cursor.advance();
    return __builtin_bit_cast(Tile, received);
  }
};

}  // namespace dgref
