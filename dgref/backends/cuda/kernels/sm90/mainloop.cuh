// The pipeline between the copying warp and the multiplying warpgroups, and the arithmetic of one block of K.
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

// Everything that is fixed at compile time, and the shared memory that follows from it.
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
  static constexpr int SCALE_B_BYTES = SCALING == Scaling::BLOCK ? 16 : SCALES_B * BLOCK_N * 4;
  static constexpr bool ONE_BLOCK = 128 % BLOCK_N == 0;  // a tile never meets two 128-column blocks of scales
  static constexpr bool FOLDS = SCALING == Scaling::POWERS_32;  // into the codes, where those of a row allow it
  // Arrivals that fill a stage beside those of warps that copy scales: the bulk copies', the block scales'.
  static constexpr int FILLS = 1 + (SCALING == Scaling::BLOCK ? 1 : 0);
  static constexpr int SCALE_A_COPIED = SCALED ? PARTS * LOAD_M * 4 : 0, SCALE_B_COPIED = SCALES_B * BLOCK_N * 4;
  // C passes through the stages after the last block of K: 128 bytes of each row at a time, where a block of A would lie.
  static constexpr int C_COLUMNS = 128 / OUTPUT_BYTES_, C_BLOCKS = ceil_div(BLOCK_N, C_COLUMNS);
  // A slab is stored in boxes of its 64 rows, whole lines of 128 bytes where the columns divide into them.
  static constexpr int STORE_LINE = BLOCK_N * OUTPUT_BYTES_ % 128 == 0 ? 128 : 64, STORE_BYTES = 64 * STORE_LINE;
  static constexpr int STORE_COLUMNS = STORE_LINE / OUTPUT_BYTES_, STORES = BLOCK_N / STORE_COLUMNS;  // of one slab
  static constexpr int STAGING_BUFFERS = min_of(SLABS * STORES, 32768 / STORE_BYTES);                 // of one warpgroup
  static constexpr int STAGING_BYTES = PACKED ? 8192 : STAGING_BUFFERS * STORE_BYTES;
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
  static constexpr int COUNTS_OFFSET = BARRIER_OFFSET + STAGES * 16;
  static constexpr int TABLES_OFFSET = COUNTS_OFFSET + 8;            // of widening
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
    }
    if (P::CLUSTER_K > 1 && warp == WARPS - 1) {
      const u32 owned = (P::SENDERS + P::CLUSTER_K - 1 - rank) / P::CLUSTER_K;
      ptx::barrier_init(exchanged(), max(1u, (P::CLUSTER_K - 1) * owned));
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
  // of the barrier's address that is zero, which the compiler does not know.
  __device__ __forceinline__ void release(u32 stage, u32 lane, u32 loaded = 0) const {
    const u32 barrier = empty(stage) + (loaded & ptx::zero());
    __syncwarp();
    if constexpr (P::CLUSTER == 1) {
      if (lane == 0) ptx::barrier_arrive(barrier);
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

// Copies one operand's block of K. SHARE blocks of a cluster each fetch a part and send it to all, or, where they do not
// multiply by the same rows, each fetches all of it.
template <Major MAJOR, int ROWS, int SHARE>
__device__ __forceinline__ void copy_operand(u32 target, const TensorMap* map, u32 barrier, int row, int k, u32 rank,
                                             u64 policy, bool shared = true) {
  constexpr int PART_ROWS = MAJOR == Major::K ? ROWS / SHARE : 64, PARTS = ROWS / SHARE / PART_ROWS;
  const auto inner = [&](int offset) { return MAJOR == Major::K ? k : row + offset; };
  const auto outer = [&](int offset) { return MAJOR == Major::K ? row + offset : k; };
  if (SHARE > 1 && shared) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const int offset = (int(rank) * PARTS + part) * PART_ROWS;
      ptx::load_tile_multicast(target + offset * 128, map, barrier, inner(offset), outer(offset), (1 << SHARE) - 1, policy);
    }
  } else {
#pragma unroll
    for (int offset = 0; offset < ROWS; offset += PART_ROWS) {
      ptx::load_tile(target + offset * 128, map, barrier, inner(offset), outer(offset), policy);
    }
  }
}

// Scales that no tensor map can read, by pointer and by strides of elements; null where there are none such.
struct Scales {
  const float* first;
  int row, block, group;  // a row is one of the operand, or 128 of them
};

// Where the copying warps read.
struct Sources {
  const TensorMap *a, *b, *map_scale_a, *map_scale_b;
  const TensorMap* group_maps;  // of A and B of each group, where the groups of K lie in matrices of their own; or null
  Scales scale_a, scale_b;
};

// The block scales that one tile meets: a tile is at most one step wider than a block, so there are two at most.
template <class P>
struct BlockScales {
  const float* next;
  i64 stride_k, second;

  __device__ BlockScales(const Scales& from, const Problem& problem, const Tile& tile) : stride_k(from.block) {
    next = from.first + i64(tile.group) * from.group + i64(tile.column / 128) * from.row + tile.block_begin * stride_k;
    second = tile.column / 128 + 1 < ceil_div(problem.n, 128) ? from.row : 0;
  }

  __device__ __forceinline__ void copy(u32 target, u32 barrier) {
    ptx::copy_4_bytes(target, next);
    if constexpr (!P::ONE_BLOCK) ptx::copy_4_bytes(target + 4, next + second);
    ptx::barrier_arrive_after_copies(barrier);
    next += stride_k;
  }
};

// The copying warp's share of one tile.
template <class P>
__device__ __forceinline__ void copy_tile(const Ring<P>& ring, Cursor<P::STAGES>& cursor, const Sources& from,
                                          const PlacedTile& tile, const Problem& problem, u32 rank) {
  BlockScales<P> scales(from.scale_b, problem, tile);
  const bool mapped_a = P::SCALED && from.scale_a.first == nullptr, mapped_b = P::SCALES_B > 0 && (P::POWERS || from.scale_b.first == nullptr);
  const u32 bytes = P::A_BYTES + P::B_BYTES + (mapped_a ? P::SCALE_A_COPIED : 0) + (mapped_b ? P::SCALE_B_COPIED : 0);
  const TensorMap *map_a = from.a, *map_b = from.b;
  int first_k = P::MAJOR_A == Major::K ? tile.k_origin : 0;
  if constexpr (is_k_grouped(P::SCHEDULE) && P::MAJOR_A == Major::K) {
    if (from.group_maps != nullptr) {
      map_a = from.group_maps + 2 * tile.group, map_b = map_a + 1, first_k = 0;
      ptx::acquire_map(map_a);
      ptx::acquire_map(map_b);
    }
  }
  const int group_k = is_k_grouped(P::SCHEDULE) ? tile.k_origin : tile.group * problem.k;
  const u64 policy_b = tile.only_row ? ptx::EVICT_FIRST : ptx::EVICT_NORMAL;
  const int a_row = P::MAJOR_A == Major::K ? tile.a_row : tile.row;
  const int b_row = P::MAJOR_B == Major::K ? tile.b_row : tile.column;
#pragma unroll 1  // the copying warp keeps few registers
  for (int block = tile.block_begin; block < tile.block_end; ++block, cursor.advance()) {
    const u32 stage = cursor.stage, full = ring.full(stage);
    ptx::barrier_wait(ring.empty(stage), cursor.phase ^ 1);
    ptx::barrier_expect(full, bytes);
    const int k = block * P::BLOCK_K;
    const int a_k = k + (P::MAJOR_A == Major::K ? first_k : group_k);
    const int b_k = k + (P::MAJOR_B == Major::K ? first_k : group_k);
#pragma unroll
    for (int part = 0; part < P::PARTS; ++part) {
      copy_operand<P::MAJOR_A, P::LOAD_M, P::CLUSTER_N>(ring.a(stage) + part * P::LOAD_M * 128, map_a, full, a_row,
                                                        a_k + part * 128, rank, ptx::EVICT_NORMAL);
    }
    copy_operand<P::MAJOR_B, P::BLOCK_N, P::CLUSTER_M>(ring.b(stage), map_b, full, b_row, P::PACKED ? b_k / 2 : b_k, rank,
                                                       policy_b, tile.b_shared);
    if (mapped_a) {
      const int row = tile.scale_a_row + block * P::PARTS;
      ptx::load_tile(ring.scale_a(stage), from.map_scale_a, full, tile.scale_a_column, row, ptx::EVICT_NORMAL);
    }
    if constexpr (P::SCALING == Scaling::BLOCK) scales.copy(ring.scale_b(stage), full);
    if (mapped_b) {
      constexpr int PER_128 = P::SCALE_B_K < SCALE_K ? SCALE_K / P::SCALE_B_K : 1;
      const int first = P::SCALING == Scaling::POWERS ? tile.group * ceil_div(problem.k, P::SCALE_B_K) : tile.scale_b_row * PER_128;
      const int row = first + block * P::BLOCK_K / P::SCALE_B_K;
      ptx::load_tile(ring.scale_b(stage), from.map_scale_b, full, tile.column, row, ptx::EVICT_NORMAL);
    }
  }
}

// A whole warp's share of one tile: an operand's scales that no bulk copy can read, wherever they lie. What lies beyond the
// operand or its K is zero.
template <class P, bool OF_A>
__device__ __forceinline__ void copy_scales(const Ring<P>& ring, Cursor<P::STAGES>& cursor, const Scales& from,
                                            const PlacedTile& tile, const Problem& problem, u32 lane) {
  constexpr int ROWS = OF_A ? P::LOAD_M : P::BLOCK_N, LINES = OF_A ? P::PARTS : P::SCALES_B;  // of a stage
  const int first_row = OF_A ? tile.scale_a_column : tile.column, rows = OF_A ? tile.valid : problem.n - tile.column;
  const int first_line = is_k_grouped(P::SCHEDULE) ? tile.scale_a_row * (LINES / P::PARTS) : 0;
  const int lines = ceil_div(tile.k_size, P::BLOCK_K / LINES);
  const float* next = from.first + i64(tile.group) * from.group + i64(first_row + int(lane)) * from.row +
                      i64(first_line + tile.block_begin * LINES) * from.block;
#pragma unroll 1
  for (int block = tile.block_begin; block < tile.block_end; ++block, cursor.advance()) {
    const u32 stage = cursor.stage, target = (OF_A ? ring.scale_a(stage) : ring.scale_b(stage)) + lane * 4;
    ptx::barrier_wait(ring.empty(stage), cursor.phase ^ 1);
#pragma unroll 1  // the copying warps keep few registers
    for (int line = 0; line < LINES; ++line, next += from.block) {
#pragma unroll
      for (int row = 0; row < ROWS; row += 32) {
        if (ROWS % 32 != 0 && int(lane) >= ROWS) continue;
        const bool wanted = row + int(lane) < rows && block * LINES + line < lines;
        ptx::copy_4_bytes_or_zeros(target + (line * ROWS + row) * 4, next + i64(row) * from.row, wanted);
      }
    }
    ptx::barrier_arrive_after_copies(ring.full(stage));
  }
}

// Lets C pass by, with the arrivals of a warp that copies scales.
template <class P>
__device__ __forceinline__ void pass_c(const Ring<P>& ring, Cursor<P::STAGES>& cursor) {
#pragma unroll 1
  for (int block = 0; block < P::C_BLOCKS; ++block, cursor.advance()) {
    ptx::barrier_wait(ring.empty(cursor.stage), cursor.phase ^ 1);
    ptx::barrier_arrive(ring.full(cursor.stage));
  }
}

// Sends a tile's C down the ring, as the multiplying warpgroups will take it.
template <class P>
__device__ __forceinline__ void copy_c(const Ring<P>& ring, Cursor<P::STAGES>& cursor, const TensorMap& map, const Tile& tile,
                                       const Problem& problem) {
  const int row = tile.group * problem.m + tile.row;
#pragma unroll 1
  for (int block = 0; block < P::C_BLOCKS; ++block, cursor.advance()) {
    const u32 full = ring.full(cursor.stage);
    ptx::barrier_wait(ring.empty(cursor.stage), cursor.phase ^ 1);
    ptx::barrier_expect(full, P::LOAD_M * 128);
    if constexpr (P::FILLS > 1) ptx::barrier_arrive(full);
    ptx::load_tile(ring.a(cursor.stage), &map, full, tile.column + block * P::C_COLUMNS, row, ptx::EVICT_NORMAL);
  }
}

// Issues the wgmma of one 64-row slab over one block of K; a and b are the lower words of the descriptors.
template <class P>
__device__ __forceinline__ void multiply_slab(float (&sum)[P::ACCUMULATORS], u32 a, u32 b, bool keep) {
  using Instruction = Wgmma<P::ELEMENT, P::BLOCK_N, int(P::MAJOR_A), int(P::MAJOR_B)>;
  constexpr u32 A_STEP = (P::MAJOR_A == Major::K ? 32 : 2048) / 16, B_STEP = (P::MAJOR_B == Major::K ? 32 : 2048) / 16;
#pragma unroll
  for (int step = 0; step < P::STEPS; ++step) {
    Instruction::issue(sum, a + step * A_STEP, b + step * B_STEP, keep || step > 0);
  }
  wgmma_commit();
}

template <int COUNT>
__device__ __forceinline__ void pin_all(float (&values)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) pin(values[i]);
}

// The products scale_a * scale_b, each rounded, of a thread's two rows with the one or two blocks of columns it meets.
template <class P>
struct BlockProducts {
  float low[2], high[2];

  __device__ __forceinline__ BlockProducts(const float (&scale_a)[2], const float (&scale_b)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      low[half] = __fmul_rn(scale_a[half], scale_b[0]);
      high[half] = P::ONE_BLOCK ? low[half] : __fmul_rn(scale_a[half], scale_b[1]);
    }
  }
};

// total = fma(scale_a * scale_b, sum of this block of K, total), element by element.
template <class P>
__device__ __forceinline__ void promote_block(float (&total)[P::ACCUMULATORS], const float (&sum)[P::ACCUMULATORS],
                                              const BlockProducts<P>& scale, int boundary) {
#pragma unroll
  for (int i = 0; i < P::ACCUMULATORS; ++i) {
    const int half = (i / 2) % 2;
    const bool first = P::ONE_BLOCK || i / 4 * 8 < boundary;
    total[i] = __fmaf_rn(first ? scale.low[half] : scale.high[half], sum[i], total[i]);
  }
}

// A word that takes a bit of each load, so that whoever needs it waits for all of them.
template <int COUNT>
__device__ __forceinline__ u32 touched(const float (&loaded)[COUNT]) {
  u32 all = 0;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) all |= __float_as_uint(loaded[i]);
  return all;
}

template <int COUNT>
__device__ __forceinline__ u32 touched(const float2 (&loaded)[COUNT]) {
  u32 all = 0;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) all |= __float_as_uint(loaded[i].x);
  return all;
}

// A thread's share of the scales of B's columns: two of every eight.
template <class P>
struct ColumnScales {
  float2 pairs[P::ACCUMULATORS / 4];

  __device__ __forceinline__ void load(u32 scale_b) {
#pragma unroll
    for (int i = 0; i < P::ACCUMULATORS / 4; ++i) pairs[i] = ptx::load_shared_2(scale_b + i * 32);
  }

  __device__ __forceinline__ void pin_all() {
#pragma unroll
    for (int i = 0; i < P::ACCUMULATORS / 4; ++i) pin(pairs[i].x), pin(pairs[i].y);
  }

  __device__ __forceinline__ u32 touched() const { return ::dgref::touched(pairs); }
};

template <class P>
__device__ __forceinline__ void promote_vector(float (&total)[P::ACCUMULATORS], const float (&sum)[P::ACCUMULATORS],
                                               const float (&scale_a)[2], const ColumnScales<P>& scale_b) {
#pragma unroll
  for (int i = 0; i < P::ACCUMULATORS; i += 4) {
    const float2 scale = scale_b.pairs[i / 4];
    total[i] = __fmaf_rn(__fmul_rn(scale_a[0], scale.x), sum[i], total[i]);
    total[i + 1] = __fmaf_rn(__fmul_rn(scale_a[0], scale.y), sum[i + 1], total[i + 1]);
    total[i + 2] = __fmaf_rn(__fmul_rn(scale_a[1], scale.x), sum[i + 2], total[i + 2]);
    total[i + 3] = __fmaf_rn(__fmul_rn(scale_a[1], scale.y), sum[i + 3], total[i + 3]);
  }
}

}  // namespace dgref
