// D = A * B^T (+ C) on SM90: one copying warp, one to four multiplying warpgroups, persistent blocks.
// Arithmetic, FP8: per 128 of K four wgmma from zero, then total = fma(scale_a * scale_b, sum, total); BF16: one chain.
// Splits of K are added in ascending order, then C, then one rounding to nearest even.
#include "sm90/accumulate.cuh"
#include "sm90/copy.cuh"
#include "sm90/store.cuh"
#include "sm90/tiles.cuh"
#include "sm90/weights.cuh"

namespace dgref {

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

template <class P>
__device__ __forceinline__ void prepare_all_scales(const Ring<P>& ring, const Problem& problem, u32 rank, int warp) {
  Scheduler<P::SCHEDULE, P::BLOCK_M, P::BLOCK_N, P::BLOCK_K, P::CLUSTER_M, P::CLUSTER_N, P::CLUSTER_K> scheduler(problem, rank);
  Cursor<P::STAGES> cursor;
  PlacedTile tile{};
  while (scheduler.next(tile)) prepare_scales<P>(ring, cursor, tile, warp, threadIdx.x % 32);
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
        store_transposed<P, OUTPUT, ADDEND != Addend::NONE>(total[slab], tile, problem, to, left, staging + warp * (P::STAGING_BYTES / 4), lane);
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
  static_assert(!P::POWERS || ADDEND != Addend::IN_RING, "those who prepare words know of no C in the ring");
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
    if constexpr (P::POWERS) {
      if (index >= 4 - PREPARING_WARPS) prepare_all_scales<P>(ring, problem, rank, int(index) - (4 - PREPARING_WARPS));
    } else if constexpr (P::SCALES_B > 0 && !P::WIDE) {
      if (index == 2 && warp_b) copy_all_scales<P, false, ADDEND>(ring, scale_b, problem, rank);
    }
  } else {
    if constexpr (P::MOVES_REGISTERS) ptx::registers_claim<P::MATH_REGISTERS>();
    const Destination to{&map_d, d, c, row_stride, group_stride, left, middle, right, bulk_stores != 0};
    multiply_all<P, OUTPUT, ADDEND>(ring, shared, problem, to, {partials, arrivals}, index);
  }
}

}  // namespace dgref
