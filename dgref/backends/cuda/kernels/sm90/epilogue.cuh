// Between accumulators and stores: where D lies, and the partial sums of the splits.
#pragma once
#include "sm90/ring.cuh"

namespace dgref {

enum class Output { BF16, F32 };
// C is read by those who add it; or it comes down the ring behind a tile's blocks of K.
enum class Addend { NONE, BY_POINTER, IN_RING };

// Where D and C lie, and which columns of the product are moved aside for the middle of each head.
struct Destination {
  const TensorMap* map;  // of D in boxes of 64 rows by `STORE_LINE` bytes
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
  ptx::cluster_wait();  // until every block has made its barrier; for all warps, or racecheck would never go on
  if (warp >= P::SENDERS) return false;
  const u32 owner = warp % P::CLUSTER_K, own = tile.split;
  const int wanted = P::PACKED ? min(ceil_div(tile.rows, 8), CHUNKS) : (int(warp) * 16 < tile.rows ? CHUNKS : 0);
  if (own != owner) {
    const u32 exchanged = ptx::address_in_block(ring.exchanged(), owner);
    const u32 place = ptx::address_in_block(ring.exchange(own, warp), owner) + lane * 16;
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) {
      const float* const v = &total[0][4 * i];
      if (i < wanted) ptx::store_cluster_4(place + i * 512, v[0], v[1], v[2], v[3], exchanged);
    }
    return false;
  }
  if (lane == 0) ptx::barrier_expect(ring.exchanged(), (P::CLUSTER_K - 1) * wanted * 512);  // some may have landed before
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

// Adds the C that follows a tile's blocks of K down the ring; nothing is asked of the rows and columns beyond D.
template <class P, Output OUTPUT>
__device__ __forceinline__ void add_c_blocks(float (&total)[P::SLABS][P::ACCUMULATORS], const Ring<P>& ring,
                                             Cursor<P::STAGES>& cursor, u32 group, u32 thread) {
  const u32 own = ptx::kept(thread), lane = own % 32, first_row = group * P::SLABS * 64 + own / 32 * 16 + lane / 4;
#pragma unroll
  for (int block = 0; block < P::C_BLOCKS; ++block, cursor.advance()) {
    ptx::barrier_wait(ring.full(cursor.stage), cursor.phase);
    u32 loaded = 0;
#pragma unroll
    for (int slab = 0; slab < P::SLABS; ++slab) {
      const u32 line = ring.a(cursor.stage) + (first_row + slab * 64) * 128;
#pragma unroll
      for (int i = block * P::C_COLUMNS / 2; i < min_of((block + 1) * P::C_COLUMNS / 2, P::ACCUMULATORS); i += 2) {
        const int part = i / 4 - block * P::C_COLUMNS / 8, below = i / 2 % 2 * 8 * 128;
        float2 c;
        if constexpr (OUTPUT == Output::F32) {
          c = ptx::load_shared_2(line + below + ((part * 2 + lane % 4 / 2) ^ lane / 4) * 16 + lane % 2 * 8);
        } else {
          const u32 pair = ptx::load_shared_word(line + below + (part ^ lane / 4) * 16 + lane % 4 * 4);
          c = {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)};
        }
        loaded |= __float_as_uint(c.x);
        total[slab][i] = __fadd_rn(c.x, total[slab][i]), total[slab][i + 1] = __fadd_rn(c.y, total[slab][i + 1]);
      }
    }
    ring.release(cursor.stage, lane, loaded);
  }
}

}  // namespace dgref
