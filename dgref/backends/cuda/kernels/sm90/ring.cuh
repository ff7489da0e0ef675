// The ring of stages between the copying warps and the multiplying warpgroups.
#pragma once
#include "sm90/plan.cuh"

namespace dgref {

constexpr int PREPARING_WARPS = 2;  // of the copying warpgroup, where scales are words: see words.cuh

// A position in the ring of stages.
template <int STAGES>
struct Cursor {
  u32 stage = 0, phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) {
      stage = 0;
      phase ^= 1;
    }
  }
};

template <class P>
struct Ring {
  u32 base;  // shared-memory address of the dynamic allocation

  __device__ u32 full(u32 stage) const { return base + P::BARRIER_OFFSET + stage * 8; }
  __device__ u32 empty(u32 stage) const { return base + P::BARRIER_OFFSET + (P::STAGES + stage) * 8; }
  __device__ u32 prepared(u32 stage) const { return base + P::BARRIER_OFFSET + (2 * P::STAGES + stage) * 8; }
  // What whoever multiplies waits for.
  __device__ u32 ready(u32 stage) const { return P::POWERS ? prepared(stage) : full(stage); }
  __device__ u32 all_fold(u32 stage, int part, int slab) const {
    return base + P::FOLDS_OFFSET + stage * P::FOLDS_BYTES + (part * P::MATH_GROUPS + slab) * 4;
  }
  __device__ u32 a(u32 stage) const { return base + P::A_OFFSET + stage * P::A_BYTES; }
  __device__ u32 b(u32 stage) const { return base + P::B_OFFSET + stage * P::B_BYTES; }
  __device__ u32 scale_a(u32 stage) const { return base + P::SCALE_A_OFFSET + stage * P::SCALE_A_BYTES; }
  __device__ u32 scale_b(u32 stage) const { return base + P::SCALE_B_OFFSET + stage * P::SCALE_B_BYTES; }

  // By one thread of each warp: one after another, two barriers for a stage cost 100 clocks.
  __device__ void initialise(u32 warp, u32 rank, int fills) const {
    constexpr int WARPS = 4 + 4 * P::MATH_GROUPS;
#pragma unroll
    for (int first = 0; first < P::STAGES; first += WARPS) {
      const u32 stage = first + warp;
      if (stage >= P::STAGES) break;
      ptx::barrier_init(full(stage), fills);
      // one arrival of each warp that reads
      ptx::barrier_init(empty(stage), 4 * P::MATH_GROUPS * P::CLUSTER);
      if constexpr (P::POWERS) ptx::barrier_init(prepared(stage), PREPARING_WARPS * 32);
    }
    if (P::CLUSTER_K > 1 && warp == WARPS - 1) {
      const u32 owned = (P::SENDERS + P::CLUSTER_K - 1 - rank) / P::CLUSTER_K;
      ptx::barrier_init(exchanged(), max(1u, owned));
    }
    ptx::barrier_init_fence();
  }

  // In a cluster that splits K, the rows of a warp are added up by block `warp % CLUSTER_K`: where the sums of a split
  // lie in that one's memory, and the barrier there that counts them.
  __device__ u32 exchange(u32 split, u32 warp) const {
    const u32 owner = warp % P::CLUSTER_K, sender = split - (split > owner ? 1 : 0);
    return base + P::EXCHANGE_OFFSET + (warp / P::CLUSTER_K * (P::CLUSTER_K - 1) + sender) * P::SENT_BYTES;
  }
  __device__ u32 exchanged() const { return base + P::EXCHANGED_OFFSET; }

  // Tells every block that writes into this stage that the calling warp has read it. An arrival does not wait for loads
  // from shared memory that are on their way, though it releases them: `loaded` takes a bit of each, and becomes a part
  // of the barrier's address that is zero, which the compiler does not know. The last lane arrives: of a word that all lanes
  // read, racecheck remembers the last as its reader, and knows of no order between lanes.
  __device__ __forceinline__ void release(u32 stage, u32 lane, u32 loaded = 0) const {
    const u32 barrier = empty(stage) + (loaded & ptx::zero());
    __syncwarp();
    if constexpr (P::CLUSTER == 1) {
      if (lane == 31) ptx::barrier_arrive(barrier);
    } else {
      if (lane < P::CLUSTER) ptx::barrier_arrive_cluster(ptx::address_in_block(barrier, lane));
    }
  }
};

// The lower descriptor words of a stage's operands, as one warpgroup sees them.
// The shuffles tell the compiler that a warp agrees on them: they then live in uniform registers.
template <class P>
struct OperandDescriptors {
  u32 first_a, first_b;

  __device__ OperandDescriptors(const Ring<P>& ring, u32 group)
      : first_a(__shfl_sync(0xFFFFFFFF, descriptor_lower(ring.a(0)) + group * P::SLABS * (8192 / 16), 0)),
        first_b(__shfl_sync(0xFFFFFFFF, descriptor_lower(ring.b(0)), 0)) {}

  __device__ __forceinline__ u32 a(u32 stage, int slab) const {
    return first_a + stage * (P::A_BYTES / 16) + slab * (8192 / 16);
  }
  __device__ __forceinline__ u32 b(u32 stage) const { return first_b + stage * (P::B_BYTES / 16); }
};

}  // namespace dgref
