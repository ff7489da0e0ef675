// Packed weights as the 64-row operand of wgmma, from registers: each thread widens the codes that its own lane feeds.
// Rows of the product are then columns of D, and the accumulators hold D transposed.
#pragma once
#include "sm90/promote.cuh"
#include "sm90/store.cuh"
#include "sm90/words.cuh"

namespace dgref {

// wgmma with its 64 rows of A in registers; b is the lower word of B's descriptor.
template <int N>
struct WgmmaRows;

// A0 to A3, B, S and H number the operands that follow the N/2 accumulators.
#define DEFINE_WGMMA_ROWS(N, A0, A1, A2, A3, B, S, H)                                                                   \
  template <>                                                                                                         \
  struct WgmmaRows<N> {                                                                                               \
    static __device__ __forceinline__ void issue(float (&d)[N / 2], const u32 (&a)[4], u32 b, int keep) {             \
      asm volatile("{ .reg .pred p; .reg .b64 b; setp.ne.b32 p, %" #S ", 0; mov.b64 b, {%" #B ", %" #H "};"           \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" REGISTERS_##N "}, "                   \
                   "{%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, b, p, 1, 1; }"                                          \
                   : OUTPUTS_##N                                                                                      \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(keep), "r"(DESCRIPTOR_UPPER));           \
    }                                                                                                                 \
  };

DEFINE_WGMMA_ROWS(16, 8, 9, 10, 11, 12, 13, 14)
DEFINE_WGMMA_ROWS(32, 16, 17, 18, 19, 20, 21, 22)
DEFINE_WGMMA_ROWS(64, 32, 33, 34, 35, 36, 37, 38)
DEFINE_WGMMA_ROWS(128, 64, 65, 66, 67, 68, 69, 70)

#undef DEFINE_WGMMA_ROWS

// Where one thread's codes of a slab lie: rows lane/4 and 8 below it of its warp's 16; of every 32 of K the elements
// 4q to 4q+3 and 16+4q to 16+4q+3, q = lane%4 (PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk32").
template <bool KEPT>
struct CodePlaces {
  u32 kept[KEPT ? 8 : 1];  // of each 32 of K in a stage, or of the first

  __device__ __forceinline__ CodePlaces(u32 first_row, u32 lane) {
    const u32 row = first_row + lane / 4, first = row * 128 + row % 8 * 16 + lane % 4 * 2;
#pragma unroll
    for (int step = 0; step < (KEPT ? 8 : 1); ++step) kept[step] = ptx::kept(first ^ step * 16);
  }

  // The copy engine's swizzle.
  __device__ __forceinline__ u32 computed(int step) const { return kept[0] ^ step * 16; }
  __device__ __forceinline__ u32 of(int step) const { return KEPT ? kept[step] : computed(step); }
};

// One thread's codes of 32 of K, four to a word.
__device__ __forceinline__ void load_codes(u32 (&codes)[4], u32 place) {
#pragma unroll
  for (int i = 0; i < 4; ++i) codes[i] = ptx::load_shared_2_bytes(place + i % 2 * 1024 + i / 2 * 8);
}

// wgmma reads these registers until it is waited for, which the compiler does not know: called after the wait, this
// keeps it from giving them to other values before.
__device__ __forceinline__ void keep(u32 (&words)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(words[i])::"memory");
}

// One thread's weights of one slab and 128 of K, as wgmma reads them.
template <class P>
struct Fragments {
  using Places = CodePlaces<P::SCALING != Scaling::VECTOR_32>;  // whose many sums leave no registers
  u32 words[4][4];
  Folded folded[2];  // the thread's two rows

  // `row` is the first of the warp's 16.
  __device__ __forceinline__ void load(const Ring<P>& ring, u32 stage, int part, u32 row, u32 lane, const Places& places,
                                       const Widening& widen) {
    const u32 packed = ring.b(stage);
    u32 codes[4][4];
#pragma unroll
    for (int step = 0; step < 4; ++step) load_codes(codes[step], packed + places.of(part * 4 + step));
    if constexpr (P::FOLDS) {
      const u32 own = ring.scale_b(stage) + (part * P::BLOCK_N + row + lane / 4) * 4;
      folded[0] = {ptx::load_shared_word(own)}, folded[1] = {ptx::load_shared_word(own + 32)};
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool moves = P::FOLDS && step > 0;
        const Octaves::Tables tables = moves ? folded[half].tables(step) : Octaves::Tables{widen.magnitudes, Widening::HIGH};
#pragma unroll
        for (int i = half; i < 4; i += 2) words[step][i] = widen.look_up(codes[step][i], tables.low, tables.high);
      }
    }
  }

  __device__ __forceinline__ void keep() {
#pragma unroll
    for (int step = 0; step < 4; ++step) ::dgref::keep(words[step]);
  }
};

// The scales that one thread's accumulators meet in 128 of K: two of every eight columns, and two rows.
template <class P>
struct WeightScales {
  static constexpr int CHAINS = P::SCALING == Scaling::VECTOR_32 ? 4 : 1;
  float2 columns[P::ACCUMULATORS / 4];
  float rows[CHAINS][2];

  __device__ __forceinline__ void load_rows(const Ring<P>& ring, u32 stage, int part, u32 row, u32 lane) {
    constexpr int LINES = P::SCALES_B / P::PARTS;  // none of its own where a word spans the stage
    const u32 scale_b = ring.scale_b(stage) + (part * LINES * P::BLOCK_N + row + lane / 4) * 4;
#pragma unroll
    for (int i = 0; i < CHAINS; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const u32 place = scale_b + i * P::BLOCK_N * 4 + half * 32;
        if constexpr (P::SCALING == Scaling::POWERS) {
          rows[i][half] = __uint_as_float(ptx::load_shared_2_bytes(place + part * 2) << 16);
        } else {
          rows[i][half] = ptx::load_shared(place);
        }
      }
    }
  }

  __device__ __forceinline__ u32 touched() const {
    u32 all = ::dgref::touched(columns);
#pragma unroll
    for (int i = 0; i < CHAINS; ++i) all |= ::dgref::touched(rows[i]);
    return all;
  }

  __device__ __forceinline__ void load_columns(const Ring<P>& ring, u32 stage, int part, u32 lane) {
    const u32 scale_a = ring.scale_a(stage) + part * P::LOAD_M * 4 + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < P::ACCUMULATORS / 4; ++i) columns[i] = ptx::load_shared_2(scale_a + i * 32);
  }
};

// total = fma(scale_a * scale_b, chain, total) for two columns and those of a thread's two rows that are wanted.
__device__ __forceinline__ void promote_four(float* total, const float* sum, const float2& columns, const float (&rows)[2],
                                             bool first, bool second) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float promoted = __fmaf_rn(__fmul_rn(i % 2 ? columns.y : columns.x, rows[i / 2]), sum[i], total[i]);
    total[i] = (i / 2 ? second : first) ? promoted : total[i];
  }
}

template <class P>
__device__ __forceinline__ void promote_weights(float (&total)[P::ACCUMULATORS], const float (&sum)[P::ACCUMULATORS],
                                                const WeightScales<P>& scales, int chain, bool first, bool second) {
#pragma unroll
  for (int i = 0; i < P::ACCUMULATORS; i += 4) {
    promote_four(&total[i], &sum[i], scales.columns[i / 4], scales.rows[chain], first, second);
  }
}

template <int CHAINS, int COUNT>
__device__ __forceinline__ void pin_chains(float (&sums)[CHAINS][COUNT]) {
#pragma unroll
  for (int chain = 0; chain < CHAINS; ++chain) pin_all(sums[chain]);
}

// One warpgroup's way through the stages of a tile.
template <class P>
struct WeightSlab {
  static constexpr int CHAINS = WeightScales<P>::CHAINS, STEPS = 4 / CHAINS;
  static constexpr int TOGETHER = CHAINS * P::ACCUMULATORS <= 64 ? CHAINS : 64 / P::ACCUMULATORS;  // as registers allow
  static constexpr bool EARLY = P::BLOCK_M <= 64;  // registers suffice to prepare while wgmma runs
  const Ring<P>& ring;
  const u32 lane, row, tokens;
  const typename Fragments<P>::Places places;
  const Widening widen;

  __device__ __forceinline__ WeightSlab(const Ring<P>& ring, u32 group, u32 thread)
      : ring(ring),
        lane(thread % 32),
        row(group * 64 + thread / 32 * 16),
        tokens(__shfl_sync(0xFFFFFFFF, descriptor_lower(ring.a(0)), 0)),
        places(row, lane),
        widen(lane & ptx::zero()) {}  // looks like each lane's own, or it would move to uniform registers and back for each use

  __device__ __forceinline__ void wait(const Cursor<P::STAGES>& cursor) const {
    ptx::barrier_wait(ring.ready(cursor.stage), cursor.phase);
  }

  __device__ __forceinline__ void load(Fragments<P>& weights, u32 stage, int part) const {
    weights.load(ring, stage, part, row, lane, places, widen);
  }

  // Rows whose scales do not fold: of each 32 of K a chain of its own, promoted by its own scale. `fold` says of a thread's
  // two rows whether they do.
  __device__ __forceinline__ void multiply_apart(float (&total)[P::ACCUMULATORS], float (&sum)[P::ACCUMULATORS],
                                                 u32 stage, int part, u32 place, int left, bool (&fold)[2]) const {
    const u32 scale_a = ring.scale_a(stage) + part * P::LOAD_M * 4 + lane % 4 * 8;
    const u32 own = ring.scale_b(stage) + (part * P::BLOCK_N + row + lane / 4) * 4 + P::SCALE_B_COPIED;
    const Exponents first(ptx::load_shared_word(own)), second(ptx::load_shared_word(own + 32));
    fold[0] = first.fold(), fold[1] = second.fold();
#pragma unroll 1  // rare: what counts is that there is little of it
    for (int step = 0; step < 4 && step * 32 < left; ++step) {
      u32 words[4];
      load_codes(words, ring.b(stage) + places.computed(part * 4 + step));
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = widen(words[i]);
      pin_all(sum);
      wgmma_fence();
      WgmmaRows<P::BLOCK_M>::issue(sum, words, place + step * 2, false);
      wgmma_commit();
      pin_all(sum);
      wgmma_wait<0>();
      pin_all(sum);
      keep(words);
      const float rows[2] = {first.scale(step), second.scale(step)};
#pragma unroll
      for (int i = 0; i < P::ACCUMULATORS; i += 4) {
        const float2 columns = ptx::load_shared_2(scale_a + i * 8);  // anew each time: registers are scarce
        promote_four(&total[i], &sum[i], columns, rows, !fold[0], !fold[1]);
      }
    }
  }

  // Per 128 of K one chain of four wgmma, or per 32 of K a chain of each. `prepare` runs beside the last of them. `left` is
  // what there is of K from here on: beyond its end are no chains, whose zeros a scale that is infinite would turn into NaN.
  template <class Prepare>
  __device__ __forceinline__ void multiply(float (&total)[P::ACCUMULATORS], Fragments<P>& weights, u32 stage, int part,
                                           int left, Prepare prepare) const {
    if (CHAINS > 1 && left < SCALE_K) {
      multiply_chains<true>(total, weights, stage, part, left, prepare);
    } else {
      multiply_chains<false>(total, weights, stage, part, left, prepare);
    }
  }

  // Conditions, only where K may END, keep the compiler from mixing one chain's promotion with the next.
  template <bool END, class Prepare>
  __device__ __forceinline__ void multiply_chains(float (&total)[P::ACCUMULATORS], Fragments<P>& weights, u32 stage, int part,
                                           int left, Prepare prepare) const {
    float sum[TOGETHER][P::ACCUMULATORS];
    WeightScales<P> scales;
    if constexpr (P::FOLDS) {
      scales.rows[0][0] = weights.folded[0].scale(), scales.rows[0][1] = weights.folded[1].scale();
    } else {
      scales.load_rows(ring, stage, part, row, lane);
    }
    if constexpr (EARLY) scales.load_columns(ring, stage, part, lane);
    const u32 place = tokens + stage * (P::A_BYTES / 16) + part * (P::LOAD_M * 128 / 16);
    bool all_fold = true, fold[2] = {true, true};
    if constexpr (P::FOLDS) all_fold = __all_sync(0xFFFFFFFF, ptx::load_shared_word(ring.all_fold(stage, part, row / 64)));
    if (!all_fold) multiply_apart(total, sum[0], stage, part, place, left, fold);
#pragma unroll
    for (int chain = 0; chain < CHAINS; chain += TOGETHER) {
      pin_chains(sum);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < TOGETHER * STEPS; ++i) {
        const int step = chain * STEPS + i;
        WgmmaRows<P::BLOCK_M>::issue(sum[i / STEPS], weights.words[step], place + step * 2, i % STEPS > 0);
      }
      wgmma_commit();
      if (EARLY && chain + TOGETHER == CHAINS) prepare();
      pin_chains(sum);
      wgmma_wait<0>();
      pin_chains(sum);
      weights.keep();
      if (!EARLY && chain == 0) scales.load_columns(ring, stage, part, lane);
      if (part + 1 == P::PARTS && chain + TOGETHER == CHAINS) ring.release(stage, lane, scales.touched());
      if (all_fold) {
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
          if (!END || (chain + i) * 32 < left) promote_weights<P>(total, sum[i], scales, chain + i, true, true);
        }
      } else {
        promote_weights<P>(total, sum[0], scales, 0, fold[0], fold[1]);
      }
    }
    if constexpr (!EARLY) prepare();
  }
};

// A stage's two halves take turns: while one is multiplied, the codes of the other, or of the next stage, are widened.
template <class P>
__device__ __forceinline__ void accumulate_weights(float (&total)[P::SLABS][P::ACCUMULATORS], const Ring<P>& ring,
                                                   Cursor<P::STAGES>& cursor, const Tile& tile, u32 group, u32 thread) {
  static_assert(P::SLABS == 1 && P::PARTS == 2, "a warpgroup holds one slab of weights, a stage two blocks of scales");
  if (tile.block_begin == tile.block_end) return;
  const WeightSlab<P> slab(ring, group, thread);
  Fragments<P> first, second;
  slab.wait(cursor);
  slab.load(first, cursor.stage, 0);
#pragma unroll 1
  for (int block = tile.block_begin; block < tile.block_end; ++block) {
    const u32 stage = cursor.stage;
    cursor.advance();
    const int left = tile.k_size - block * P::BLOCK_K;
    slab.multiply(total[0], first, stage, 0, left, [&] { slab.load(second, stage, 1); });
    // Beyond the end of K a stage may hold the scales of another group.
    if (left <= SCALE_K) {
      ring.release(stage, thread % 32, touched(total[0]));
      break;
    }
    slab.multiply(total[0], second, stage, 1, left - SCALE_K, [&] {
      if (block + 1 == tile.block_end) return;
      slab.wait(cursor);
      slab.load(first, cursor.stage, 0);
    });
  }
}

// Stores one warp's 16 columns of D, `left` the first of them: 16 rows at a time through the staging buffer, from which
// each lane takes half a row, in one piece where D is aligned and all of it is wanted.
template <class P, Output OUTPUT, bool ACCUMULATE>
__device__ __forceinline__ void store_transposed(const float (&total)[P::ACCUMULATORS], const Tile& tile,
                                                 const Problem& problem, const Destination& to, int left, u32 staging,
                                                 u32 lane) {
  constexpr bool SHARED_ROWS = P::SCHEDULE == Schedule::LABELLED || P::SCHEDULE == Schedule::PREFIX_SUM;
  constexpr u32 PITCH = 80;  // bytes from row to row: 16 floats and a gap that spreads the writes over the banks
  const i64 group_start = SHARED_ROWS ? 0 : i64(tile.group) * to.group_stride;
  const int column = left + int(lane) % 2 * 8, wanted = min(8, problem.n - column);
#pragma unroll
  for (int chunk = 0; chunk < P::BLOCK_M / 16; ++chunk) {
    if (chunk * 16 >= tile.rows) return;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const u32 row = i / 4 * 8 + lane % 4 * 2 + i % 2, place = lane / 4 + i / 2 % 2 * 8;
      ptx::store_shared(staging + row * PITCH + place * 4, __float_as_uint(total[chunk * 8 + i]));
    }
    __syncwarp();
    const int row = chunk * 16 + int(lane) / 2;
    const bool zero = row >= tile.valid;
    if (row >= tile.rows || wanted <= 0 || (zero && !problem.zero_padding)) continue;
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const float2 pair = ptx::load_shared_2(staging + lane / 2 * PITCH + lane % 2 * 32 + i * 4);
      values[i] = zero ? 0.0f : pair.x, values[i + 1] = zero ? 0.0f : pair.y;
    }
    store_eight<OUTPUT, ACCUMULATE>(to, group_start + i64(tile.row + row) * to.row_stride, column, wanted, values);
  }
}

}  // namespace dgref
