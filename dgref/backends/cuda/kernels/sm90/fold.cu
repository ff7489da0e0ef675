// Widens packed weights into a workspace with their scales folded into the bytes, a block of 128 x 128 at a time, so that
// the FP8 kernel meets one scale for each block; and says for each group whether all of its scales allowed it.
#include "sm90/copy.cuh"
#include "sm90/widen.cuh"

namespace dgref {

__device__ __forceinline__ bool is_moderate(float scale) {
  const u32 bits = __float_as_uint(scale);
  return bits << 1 == 0 || Exponents::moderate(bits >> 23 & 0xFF);
}

// 256 threads widen 128 rows and 256 of K, two blocks, of [groups * n] rows of packed codes. `scales` are lines of a word
// for each row, [groups * words of K]; `of_blocks` is written, [groups, blocks of N, blocks of K]. `counts` says how many
// rows of A each group has, or is null where that is m; they become those of `folded` or of `others`. `progress` counts
// each group's blocks that are done, and whether one did not fold: zero before and after.
template <int GRANULE>
__global__ void __launch_bounds__(256) fold(const u8* from, u8* to, const u32* scales, float* of_blocks,
                                            const __grid_constant__ Scales scale_a, const int* counts, int* folded,
                                            int* others, u32* progress, i64 from_stride, i64 to_stride, i64 scale_stride,
                                            int m, int n, int k) {
  static_assert(GRANULE == 32 || GRANULE == 128, "a word holds the scales of one block of K, or of four");
  constexpr int ROWS = 128, PASSES = 8, PER_PASS = ROWS / PASSES, SHARE = GRANULE / 32;  // blocks of K to a word
  __shared__ u32 moved[2][ROWS], extremes[2][2][4];
  const int thread = int(threadIdx.x), group = int(blockIdx.z), first_row = int(blockIdx.y) * ROWS;
  const int blocks = (k + 127) / 128, first_block = int(blockIdx.x) * 2;

  const int at = first_block * 128 + thread % 16 * 16, row_in_pass = thread / 16;
  uint2 codes[PASSES];  // loaded together, before anything waits: one latency for all
#pragma unroll
  for (int pass = 0; pass < PASSES; ++pass) {
    const int row = first_row + pass * PER_PASS + row_in_pass;
    const i64 line = i64(group) * n + row;
    if (row < n && at < k) codes[pass] = __ldg(reinterpret_cast<const uint2*>(from + line * from_stride + at / 2));
  }

  const int part = thread / ROWS, row = first_row + thread % ROWS, block = first_block + part;
  const bool given = row < n && block < blocks;
  const i64 word_line = i64(group) * ((blocks + SHARE - 1) / SHARE) + block / SHARE;
  const u32 word = given ? __ldg(scales + word_line * scale_stride + row) : 0;
  const Exponents found = SHARE == 1 ? Exponents(word, k - block * 128) : Exponents::alike(word, block % SHARE);
  bool folds = !given || (found.fold() && Exponents::moderate(found.first()));
  u32 least = 255, most = 0;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const u32 exponent = __byte_perm(found.word, 0, 0x4440 + step);
    if (given) least = min(least, exponent), most = max(most, exponent);
  }
  const int rows_of_a = counts ? max(0, min(__ldg(counts + group), m)) : m;
  // Every block of threads looks at some of A's scales as well.
  const u32 threads = gridDim.x * gridDim.y * 256, own = (blockIdx.y * gridDim.x + blockIdx.x) * 256 + thread;
#pragma unroll 1
  for (u32 i = own; i < u32(rows_of_a) * blocks; i += threads) {
    const u32 of_block = i / rows_of_a, of_row = i - of_block * rows_of_a;
    const i64 place = i64(group) * scale_a.group + i64(of_block) * scale_a.block + i64(of_row) * scale_a.row;
    folds &= is_moderate(__ldg(scale_a.first + place));
  }
  least = __reduce_min_sync(0xFFFFFFFF, least), most = __reduce_max_sync(0xFFFFFFFF, most);
  if (thread % 32 == 0) extremes[part][0][thread / 32 % 4] = least, extremes[part][1][thread / 32 % 4] = most;
  const bool rows_fold = __syncthreads_and(folds);
#pragma unroll
  for (int warp = 0; warp < 4; ++warp) least = min(least, extremes[part][0][warp]), most = max(most, extremes[part][1][warp]);
  const bool block_folds = rows_fold && (least > most || most - least <= Octaves::MOST);
  // The largest is moved up by 6 octaves, as far as E4M3 goes.
  moved[part][thread % ROWS] = block_folds ? found.word - (most - Octaves::MOST) * 0x01010101u : Octaves::NONE;
  if (thread % ROWS == 0 && block < blocks) {
    of_blocks[(i64(group) * gridDim.y + blockIdx.y) * blocks + block] = __uint_as_float((most - 6) << 23);
  }
  const bool all_fold = __syncthreads_and(block_folds);

  const Widening widen;
#pragma unroll
  for (int pass = 0; pass < PASSES; ++pass) {
    const int row = first_row + pass * PER_PASS + row_in_pass;
    const Octaves octaves{moved[thread % 16 / 8][pass * PER_PASS + row_in_pass]};
    const Octaves::Tables tables = octaves.tables(thread % 8 / 2);
    const uint2 pair = codes[pass];
    const uint4 bytes = {widen.look_up(pair.x, tables.low, tables.high), widen.look_up(pair.x >> 16, tables.low, tables.high),
                         widen.look_up(pair.y, tables.low, tables.high), widen.look_up(pair.y >> 16, tables.low, tables.high)};
    const i64 line = i64(group) * n + row;
    if (row < n && at < k) *reinterpret_cast<uint4*>(to + line * to_stride + at) = bytes;
  }

  if (thread != 0) return;
  progress += group * 2;
  if (!all_fold) atomicOr(progress + 1, 1u);
  __threadfence();
  if (atomicAdd(progress, 1u) + 1 != gridDim.x * gridDim.y) return;
  __threadfence();
  progress[0] = 0;
  const bool every = atomicExch(progress + 1, 0u) == 0;
  folded[group] = every ? rows_of_a : 0;
  others[group] = every ? 0 : rows_of_a;
}

}  // namespace dgref
