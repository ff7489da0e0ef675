// Words of UE8M0 scales, four to a word, rewritten in their stage by two warps for all that multiply.
#pragma once
#include "sm90/ring.cuh"
#include "sm90/widen.cuh"

namespace dgref {

// POWERS: the scales of a stage's two blocks of K as bfloat16, which has every power of two; the first in the lower half.
__device__ __forceinline__ u32 two_scales(u32 word, int first) {
  const Exponents exponents(word);
  return __byte_perm(__float_as_uint(exponents.scale(first)), __float_as_uint(exponents.scale(first + 1)), 0x7632);
}

// POWERS_32: how each row folds; and, behind the words of both parts, what came, unless that is near enough in all rows.
template <class P>
__device__ __forceinline__ void prepare_to_fold(const Ring<P>& ring, u32 stage, int slab, int part, int left, u32 lane) {
  const u32 place = ring.scale_b(stage) + (part * P::BLOCK_N + slab * 64 + int(lane) * 2) * 4;
  const float2 two = ptx::load_shared_2(place);
  const Exponents one(__float_as_uint(two.x), left), other(__float_as_uint(two.y), left);
  bool folds[2] = {true, true};
  u32 all_fold = __all_sync(0xFFFFFFFF, Exponents::near(one, other));
  if (!all_fold) {
    folds[0] = one.fold(), folds[1] = other.fold();
    all_fold = __all_sync(0xFFFFFFFF, folds[0] && folds[1]);
    ptx::store_shared_2(place + P::SCALE_B_COPIED, __uint_as_float(one.word), __uint_as_float(other.word));
  }
  ptx::store_shared_2(place, __uint_as_float(one.folded(folds[0]).word), __uint_as_float(other.folded(folds[1]).word));
  if (lane == 0) ptx::store_shared(ring.all_fold(stage, part, slab), all_fold);
}

template <class P>
__device__ __forceinline__ void prepare_two_scales(const Ring<P>& ring, u32 stage, int slab, int block, u32 lane) {
  const u32 place = ring.scale_b(stage) + (slab * 64 + int(lane) * 2) * 4;
  const float2 two = ptx::load_shared_2(place);
  const int first = block * P::PARTS % 4;
  ptx::store_shared_2(place, __uint_as_float(two_scales(__float_as_uint(two.x), first)),
                      __uint_as_float(two_scales(__float_as_uint(two.y), first)));
}

// One warp's share of one tile.
template <class P>
__device__ __forceinline__ void prepare_scales(const Ring<P>& ring, Cursor<P::STAGES>& cursor, const Tile& tile, int warp,
                                               u32 lane) {
  constexpr int PARTS = P::FOLDS ? P::PARTS : 1, SHARES = P::MATH_GROUPS * PARTS;
#pragma unroll 1
  for (int block = tile.block_begin; block < tile.block_end; ++block, cursor.advance()) {
    const u32 stage = cursor.stage;
    ptx::barrier_wait(ring.full(stage), cursor.phase);
#pragma unroll
    for (int first = 0; first < SHARES; first += PREPARING_WARPS) {
      const int share = first + warp, slab = share / PARTS, part = share % PARTS;
      if (share >= SHARES) break;
      if constexpr (P::FOLDS) {
        prepare_to_fold<P>(ring, stage, slab, part, tile.k_size - block * P::BLOCK_K - part * SCALE_K, lane);
      } else {
        prepare_two_scales<P>(ring, stage, slab, block, lane);
      }
    }
    ptx::async_proxy_fence();  // the copy engine overwrites these words next
    ptx::barrier_arrive(ring.prepared(stage));
  }
}

}  // namespace dgref
