// Everything about a launch that is fixed at compile time, and the shared memory that follows from it.
#pragma once
#include "sm90/scheduler.cuh"
#include "sm90/wgmma.cuh"

namespace dgref {

// Of B: none at all, per 128 x 128, per 1 x 128, per 1 x 32; the last two also as UE8M0, four to a word. Scales of A are
// per 1 x 128.
enum class Scaling { NONE, BLOCK, VECTOR, VECTOR_32, POWERS, POWERS_32 };
// B has A's format; or it holds packed 4-bit codes, and is then the operand of 64 rows: see weights.cuh.
enum class Weights { AS_A, E2M1 };
enum class Major { K, MN };

__host__ __device__ constexpr int min_of(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int largest_divisor(int value, int limit) {
  return value % limit == 0 ? limit : largest_divisor(value, limit - 1);
}

template <Element ELEMENT_, Scaling SCALING_, Schedule SCHEDULE_, int BLOCK_M_, int BLOCK_N_, int STAGES_, int MATH_GROUPS_,
          int CLUSTER_M_, int CLUSTER_N_, int CLUSTER_K_, int LOAD_M_, Major MAJOR_A_, Major MAJOR_B_, Weights WEIGHTS_, int OUTPUT_BYTES_>
struct Plan {
  static constexpr Element ELEMENT = ELEMENT_;
  static constexpr Scaling SCALING = SCALING_;
  static constexpr Schedule SCHEDULE = SCHEDULE_;
  static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, STAGES = STAGES_, MATH_GROUPS = MATH_GROUPS_;
  static constexpr int CLUSTER_M = CLUSTER_M_, CLUSTER_N = CLUSTER_N_, CLUSTER = CLUSTER_M * CLUSTER_N;
  static constexpr int CLUSTER_K = CLUSTER_K_;  // splits of K that are added up within a cluster
  static constexpr int LOAD_M = LOAD_M_;  // rows of A that are copied; the rows above it hold leftovers and are not stored
  static constexpr Major MAJOR_A = MAJOR_A_, MAJOR_B = MAJOR_B_;
  static constexpr bool PACKED = WEIGHTS_ == Weights::E2M1;
  // Registers of a thread by role: together what a thread of each warpgroup has at the start.
  static constexpr bool MOVES_REGISTERS = MATH_GROUPS > 1;
  static constexpr bool ROWS_VARY = SCHEDULE == Schedule::MASKED || SCHEDULE == Schedule::PREFIX_SUM;
  static constexpr bool SCALED = SCALING != Scaling::NONE;
  // 128 bytes of B: one swizzle atom. Of A that may be several, PARTS, one behind the other.
  static constexpr int BLOCK_K = PACKED ? 256 : (ELEMENT == Element::E4M3 ? 128 : 64);
  static constexpr int PARTS = PACKED ? 2 : 1;
  static constexpr int STEPS = 4;                                      // wgmma per block of K
  static constexpr int ROWS = PACKED ? BLOCK_N : BLOCK_M;              // of a tile, along the 64 rows of wgmma
  static constexpr int SLABS = ROWS / (64 * MATH_GROUPS);              // 64-row slabs of one warpgroup
  static constexpr int ACCUMULATORS = (PACKED ? BLOCK_M : BLOCK_N) / 2;
  // Sums and scales of columns take nearly all registers: the copying warp lives in uniform ones, and no others copy.
  static constexpr bool WIDE = SCALING == Scaling::VECTOR && !PACKED && BLOCK_M > 128;
  static constexpr int COPY_REGISTERS = WIDE ? 24 : (is_k_grouped(SCHEDULE) ? 72 : 56);
  static constexpr int WARPGROUPS = MATH_GROUPS + 1, REGISTERS = 512 / WARPGROUPS / 8 * 8 * WARPGROUPS;
  static constexpr int MATH_REGISTERS = (REGISTERS - COPY_REGISTERS) / MATH_GROUPS / 8 * 8;

  // Each element selects its scale of B's columns: two blocks of K laid out one after the other would spill.
  static constexpr bool SELECTS = SCALING == Scaling::BLOCK && 128 % BLOCK_N != 0 && BLOCK_N != 192;
  // Whole rounds of the ring are laid out stage by stage.
  static constexpr bool ROUNDS = !SELECTS && SCALING != Scaling::VECTOR_32 && STAGES <= 10;
  // Blocks of K that a warpgroup with nobody to work while it promotes, or whose loop is not unrolled, issues at once.
  static constexpr bool IN_TURNS = SCALING == Scaling::BLOCK && (MATH_GROUPS == 1 || (SELECTS && BLOCK_M == 128 && BLOCK_N < 128));
  static constexpr int TOGETHER = !IN_TURNS ? 1 : (BLOCK_N <= 64 ? 4 : 2);

  static constexpr int A_BYTES = PARTS * LOAD_M * 128, B_BYTES = BLOCK_N * 128;
  static constexpr int SCALE_A_BYTES = SCALED ? (PARTS * LOAD_M * 4 + 127) / 128 * 128 : 0;
  static constexpr bool POWERS = SCALING == Scaling::POWERS || SCALING == Scaling::POWERS_32;
  // Of a column, in a stage: numbers or words of four.
  static constexpr int SCALES_B = SCALING == Scaling::VECTOR_32                                     ? 4 * PARTS
                                  : SCALING == Scaling::VECTOR || SCALING == Scaling::POWERS_32 ? PARTS
                                  : SCALING == Scaling::POWERS                                      ? 1
                                                                                                    : 0;
  static constexpr int SCALE_B_K = SCALING == Scaling::VECTOR_32 ? 32 : (SCALING == Scaling::POWERS ? 512 : 128);  // of one
  static constexpr bool FOLDS = SCALING == Scaling::POWERS_32;  // into the codes, where those of a row allow it
  static constexpr int SCALE_B_COPIED = SCALES_B * BLOCK_N * 4;
  static constexpr int SCALE_B_BYTES = SCALING == Scaling::BLOCK ? 16 : (FOLDS ? 2 : 1) * SCALE_B_COPIED;  // twice: words.cuh
  static constexpr bool ONE_BLOCK = 128 % BLOCK_N == 0;  // a tile never meets two 128-column blocks of scales
  // Arrivals that fill a stage beside those of warps that copy scales: the bulk copies', the block scales'.
  static constexpr int FILLS = 1 + (SCALING == Scaling::BLOCK ? 1 : 0);
  static constexpr int SCALE_A_COPIED = SCALED ? PARTS * LOAD_M * 4 : 0;
  // C passes through the stages after the last block of K: 128 bytes of each row at a time, where a block of A would lie.
  static constexpr int C_COLUMNS = 128 / OUTPUT_BYTES_, C_BLOCKS = ceil_div(BLOCK_N, C_COLUMNS);
  // A slab is stored in boxes of its 64 rows, whole lines of 128 bytes where the columns divide into them.
  static constexpr int STORE_LINE = BLOCK_N * OUTPUT_BYTES_ % 128 == 0 ? 128 : 64, STORE_BYTES = 64 * STORE_LINE;
  static constexpr int STORE_COLUMNS = STORE_LINE / OUTPUT_BYTES_, STORES = BLOCK_N / STORE_COLUMNS;  // of one slab
  static constexpr int STAGING_BUFFERS = min_of(SLABS * STORES, 32768 / STORE_BYTES);                 // of one warpgroup
  // Of packed weights each warp stages 16 rows of 16 columns: see store_transposed.
  static constexpr int STAGING_BYTES = PACKED ? 5120 : STAGING_BUFFERS * STORE_BYTES;
  static constexpr int STORES_TOGETHER = largest_divisor(STORES, STAGING_BUFFERS);
  static constexpr int STAGING_OFFSET = 0;  // whole kilobytes, as the swizzles ask
  // What a warp sends to the block of its cluster that adds its rows up; and how many warps may have something to send.
  static constexpr int SENT_BYTES = ACCUMULATORS * 128;
  static constexpr int SENDERS = PACKED ? 4 * MATH_GROUPS : min_of(4 * MATH_GROUPS, ceil_div(LOAD_M, 16));
  static constexpr int EXCHANGE_BYTES = (CLUSTER_K - 1) * ceil_div(SENDERS, CLUSTER_K) * SENT_BYTES;
  static constexpr int EXCHANGE_OFFSET = STAGING_OFFSET + MATH_GROUPS * STAGING_BYTES;
  static constexpr int A_OFFSET = EXCHANGE_OFFSET + EXCHANGE_BYTES;
  static constexpr int B_OFFSET = A_OFFSET + STAGES * A_BYTES;
  static constexpr int SCALE_A_OFFSET = B_OFFSET + STAGES * B_BYTES;
  static constexpr int SCALE_B_OFFSET = SCALE_A_OFFSET + STAGES * SCALE_A_BYTES;
  static constexpr int BARRIER_OFFSET = SCALE_B_OFFSET + STAGES * SCALE_B_BYTES;
  // Of a stage: full, empty; where scales are words, prepared; where they fold, for each slab and part whether all rows do.
  static constexpr int FOLDS_OFFSET = BARRIER_OFFSET + STAGES * (POWERS ? 24 : 16);
  static constexpr int FOLDS_BYTES = FOLDS ? PARTS * MATH_GROUPS * 4 : 0;
  static constexpr int COUNTS_OFFSET = FOLDS_OFFSET + STAGES * FOLDS_BYTES;
  static constexpr int EXCHANGED_OFFSET = COUNTS_OFFSET;             // the barrier of the exchange: nothing is counted then
  static constexpr int TILES_OFFSET = COUNTS_OFFSET + 16;
  static constexpr int SHARED_BYTES = TILES_OFFSET + 128;

  static_assert(ROWS % (64 * MATH_GROUPS) == 0, "a warpgroup multiplies whole slabs of 64 rows");
  static_assert(LOAD_M == BLOCK_M || !PACKED, "columns of wgmma are as many as asked for");
  static_assert(LOAD_M == BLOCK_M || (BLOCK_M == 64 && MAJOR_A == Major::K && CLUSTER_N == 1), "only one slab may be short");
  static_assert(BLOCK_N % 32 == 0, "bulk stores take 32 columns of BF16");
  static_assert(LOAD_M % 8 == 0, "a swizzle atom is eight rows");
  static_assert(PACKED || A_BYTES >= 8192 || STAGES * B_BYTES + A_BYTES >= 8192, "a slab stays in bounds");
  static_assert(!is_k_grouped(SCHEDULE) || MAJOR_A == MAJOR_B, "groups of K lie the same way in both operands");
  static_assert(PACKED || !POWERS, "scales that are powers of two fold into codes that leave room for them");
  static_assert(!PACKED || (CLUSTER == 1 && ELEMENT == Element::E4M3 && SCALES_B > 0), "packed weights have vector scales");
  static_assert(CLUSTER <= 2, "multicast between two blocks");
  static_assert(STAGES >= TOGETHER, "what is issued together is in shared memory together");
  static_assert(CLUSTER_K == 1 || (CLUSTER == 1 && SLABS == 1), "a cluster shares operands or splits K");
  static_assert(EXCHANGE_BYTES % 1024 == 0, "operands begin at whole kilobytes");
  static_assert(MAJOR_A == Major::K || (ELEMENT == Element::BF16 && BLOCK_M % 64 == 0), "8-bit operands are K-major");
  static_assert(MAJOR_B == Major::K || (ELEMENT == Element::BF16 && BLOCK_N % 64 == 0), "8-bit operands are K-major");
  static_assert(CLUSTER_N == 1 || MAJOR_A == Major::K || BLOCK_M % 128 == 0, "half of A is whole boxes");
  static_assert(CLUSTER_M == 1 || MAJOR_B == Major::K || BLOCK_N % 128 == 0, "half of B is whole boxes");
  static_assert(CLUSTER_M == 1 || MAJOR_B == Major::MN || BLOCK_N % 16 == 0, "half of B is whole swizzle atoms");
};

}  // namespace dgref
